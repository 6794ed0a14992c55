"""States carried from update to update: against autograd on the same windows, whole sequences, and broken-off runs."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import CheckpointError
from holonomy.core.flat import FlatParams
from holonomy.core.nograd import no_autograd
from holonomy.learn.carry import continued_statistics, restored_states, state_tensors
from holonomy.learn.echo import EchoLearner
from holonomy.models.lior.config import DataConfig, GeometryConfig, LiorConfig, ModelConfig
from holonomy.models.lior.learner import build_learner
from holonomy.models.lior.model import build_network
from holonomy.nn.heads import SoftmaxCrossEntropy

VOCABULARY, LENGTH, SIZE = 11, 24, 4
CONFIG = LiorConfig(
    model=ModelConfig(d=16, n_osc=16, hidden=16, heads=2, chunk=8),
    data=DataConfig(seq_len=LENGTH, batch=SIZE, carried=8),
)
KINDS: dict[str, LiorConfig] = {
    "hybrid": CONFIG,
    "stress": CONFIG.model_copy(update={"geometry": GeometryConfig(stress=True)}),
    "shared chart": CONFIG.model_copy(update={"geometry": GeometryConfig(chart="shared", n=4)}),
    "selective": CONFIG.model_copy(
        update={"model": CONFIG.model.model_copy(update={"bank": "selective", "chunk": 32})}
    ),
    "short window": CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"window": 10})}),
}


@dataclass
class Batch:
    inputs: Tensor
    targets: Tensor
    fresh: bool

    @property
    def count(self) -> int:
        return self.targets.numel()


def windows(count: int, seed: int = 0) -> list[Batch]:
    ids = torch.randint(VOCABULARY, (SIZE, count * LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    starts = range(0, count * LENGTH, LENGTH)
    return [Batch(ids[:, s : s + LENGTH], ids[:, s + 1 : s + LENGTH + 1], s == 0) for s in starts]


def learner(config: LiorConfig = CONFIG, rate: float | None = None) -> EchoLearner:
    found = build_learner(config, vocab_size=VOCABULARY)
    if rate is not None:
        found.schedule = lambda progress: rate
    found.setup(windows(1)[0])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_equal_those_of_autograd_cut_at_the_same_places(kind: str) -> None:
    net = build_network(KINDS[kind], vocab_size=VOCABULARY).double()
    reference, loss = copy.deepcopy(net), SoftmaxCrossEntropy()
    flat = FlatParams(net, frozenset())
    acc, before, state = flat.statistics(), reference.start(SIZE), net.start(SIZE)
    for number, batch in enumerate(windows(3)):
        logits, after = reference.resume(batch.inputs, before, None)
        value = loss.free(logits, batch.targets, None)
        reference.zero_grad()
        value.backward()
        before = restored_states(after, {k: v.detach() for k, v in state_tensors(after).items()})
        acc.zero_()
        with no_autograd():
            mine, state = continued_statistics(net, loss, batch.inputs, batch.targets, state, acc)
        assert abs(float(mine - value.detach())) <= 1e-13
        wanted = dict(reference.named_parameters())
        for name, found in flat.named_views(acc.buffer).items():
            param = wanted[name]
            assert param.grad is not None, name
            assert (found - param.grad).norm() <= 1e-12 * param.grad.norm(), (number, name)


@pytest.mark.parametrize("kind", KINDS)
def test_windows_see_what_the_whole_sequence_sees(kind: str) -> None:
    """Without updates, the losses of consecutive windows are those of their tokens in the whole."""
    one, parts = learner(KINDS[kind], rate=0.0), windows(3)
    losses = [float(one.train_step(batch, progress=0.5).loss) for batch in parts]
    ids, targets = (torch.cat([getattr(b, name) for b in parts], 1) for name in ("inputs", "targets"))
    net = build_network(KINDS[kind], vocab_size=VOCABULARY)
    with torch.no_grad():
        chances = net.free(ids, None).log_softmax(0).gather(0, targets[None])[0]
    whole = [-float(part.mean()) for part in chances.split(LENGTH, 1)]
    assert max(abs(a - b) for a, b in zip(losses, whole, strict=True)) < 1e-5
    rest = learner(KINDS[kind], rate=0.0)
    alone = float(rest.train_step(replace(parts[2], fresh=True), progress=0.5).loss)
    assert abs(alone - whole[2]) > 1e-4


@pytest.mark.parametrize("kind", ["hybrid", "stress"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_broken_off_stream_continues_bit_for_bit(kind: str, parts: int) -> None:
    train = CONFIG.train.model_copy(update={"accumulate": parts})
    config = KINDS[kind].model_copy(update={"train": train})
    whole, half, rest, text = learner(config), learner(config), learner(config), windows(5)
    for batch in text:
        whole.train_step(batch, progress=0.5)
    for batch in text[:3]:
        half.train_step(batch, progress=0.5)
    state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in half.state().items()}
    rest.load_state(state)
    forgetful = learner(config)
    forgetful.load_state({k: v for k, v in state.items() if not k.startswith("carried.")})
    for batch in text[3:]:
        rest.train_step(batch, progress=0.5)
        forgetful.train_step(batch, progress=0.5)
    assert torch.equal(whole.flat.buffer, rest.flat.buffer)
    assert not torch.equal(whole.flat.buffer, forgetful.flat.buffer)
    rest.load_state(learner(config).state())
    assert not rest._states


def test_states_that_do_not_fit_are_refused() -> None:
    one = learner()
    one.train_step(windows(1)[0], progress=0.5)
    state = one.state()
    before = one.flat.buffer.clone()
    with pytest.raises(CheckpointError, match=r"`carried.0` as nothing, wanted torch.float32"):
        one.load_state({k: v for k, v in state.items() if k != "carried.0"})
    with pytest.raises(CheckpointError, match=r"`carried.99` as torch.float32 \(1,\), wanted nothing"):
        one.load_state({**state, "carried.99": torch.zeros(1)})
    plain = build_learner(LiorConfig(model=CONFIG.model), vocab_size=VOCABULARY)
    with pytest.raises(CheckpointError, match="`carried.0` is unknown"):
        plain.load_state(state)
    assert torch.equal(before, one.flat.buffer)


def test_a_damaged_window_is_forgotten() -> None:
    one, (first, second, third) = learner(), windows(3)
    one.train_step(first, progress=0.5)
    weights = one.net.layers[0].weight
    kept = float(weights[0, 0])
    weights[0, 0] = float("nan")
    second.inputs[0, 0] = 0
    assert not torch.isfinite(one.train_step(second, progress=0.5).loss)
    weights[0, 0] = kept
    assert torch.isfinite(one.train_step(third, progress=0.5).loss)


@pytest.mark.parametrize(
    ("model", "echo", "words"),
    [
        ({"bank": "kernel"}, {}, "data.carried cannot learn model.bank = kernel"),
        ({"bank": "coupled"}, {}, "data.carried cannot learn model.bank = coupled"),
        ({}, {"memory": "segment"}, "data.carried goes with train.echo.memory = full"),
    ],
)
def test_illegal_mixtures(model: dict[str, object], echo: dict[str, object], words: str) -> None:
    body = {"model": model, "data": {"carried": 2}, "train": {"echo": echo}}
    with pytest.raises(ValueError, match=words):
        LiorConfig.model_validate(body)
