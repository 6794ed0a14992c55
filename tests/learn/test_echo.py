"""Echo learning as a whole: parity of the default model, no autograd anywhere, twin runs."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from holonomy.core.errors import CheckpointError
from holonomy.core.flat import FlatParams
from holonomy.core.layer import decayed_names
from holonomy.core.nograd import graph_faults, no_autograd
from holonomy.learn.autograd import AutogradLearner
from holonomy.learn.echo import EchoLearner, echo_statistics
from holonomy.models.lior.config import LiorConfig, ModelConfig
from holonomy.models.lior.learner import build_learner, flat_adamw
from holonomy.models.lior.model import build_network
from holonomy.nn.heads import SoftmaxCrossEntropy

VOCABULARY = 65
SMALL = LiorConfig(model=ModelConfig(d=16, n_osc=16, hidden=16, heads=2))


@dataclass
class Batch:
    inputs: Tensor
    targets: Tensor

    @property
    def count(self) -> int:
        return self.targets.numel()


def batch(size: int, length: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (size, length + 1), generator=generator)
    return Batch(ids[:, :-1].clone(), ids[:, 1:].clone())


def counting(size: int, length: int, seed: int) -> Batch:
    """Text that can be learned: every row counts on from a random start."""
    start = torch.randint(VOCABULARY, (size, 1), generator=torch.Generator().manual_seed(seed))
    ids = (start + torch.arange(length + 1)) % VOCABULARY
    return Batch(ids[:, :-1].clone(), ids[:, 1:].clone())


def autograd_twin(config: LiorConfig) -> AutogradLearner:
    optim = config.train.optim
    return AutogradLearner(
        build_network(config, vocab_size=VOCABULARY),
        SoftmaxCrossEntropy(),
        betas=optim.betas,
        eps=optim.eps,
        decay=optim.decay,
        clip=optim.clip,
        schedule=lambda progress: optim.lr,
    )


@pytest.mark.parametrize("length", [1, 7, 128])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_default_model_parity(size: int, length: int, dtype: torch.dtype) -> None:
    data = batch(size, length)
    data.targets[0, 0] = -100 if size * length > 1 else data.targets[0, 0]
    check_parity(LiorConfig(), data, dtype)


@pytest.mark.parametrize("pattern", ["hm", "rh"])
def test_parity_with_hamiltonian_blocks(pattern: str, dtype: torch.dtype) -> None:
    shape = ModelConfig(pattern=pattern, d=16, n_osc=16, hidden=16, heads=2)
    check_parity(LiorConfig(model=shape), batch(2, 20), dtype)


def check_parity(config: LiorConfig, data: Batch, dtype: torch.dtype) -> None:
    """Statistics of the echo against the gradient by autograd in float64, every parameter."""
    net, loss = build_network(config, vocab_size=VOCABULARY).to(dtype), SoftmaxCrossEntropy()
    reference = copy.deepcopy(net).double()
    loss.free(reference(data.inputs), data.targets, None).backward()
    flat = FlatParams(net, decayed_names(net))
    acc = flat.statistics()
    with no_autograd():
        echo_statistics(net, loss, data, acc)
    found = flat.named_views(acc.buffer)
    worst = 0.0
    for name, param in reference.named_parameters():
        assert param.grad is not None
        size_of = float(param.grad.norm())
        if size_of == 0:
            assert not found[name].any(), name
        else:
            worst = max(worst, float((found[name].double() - param.grad).norm()) / size_of)
    assert worst <= {torch.float32: 5e-5, torch.float64: 1e-12}[dtype]


class GraphWatch(TorchDispatchMode):
    """Counts tensors that carry an autograd graph among everything that torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.graphs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, list | tuple) else [result]
        self.operations += 1
        self.graphs += sum(isinstance(t, Tensor) and (t.requires_grad or t.grad_fn is not None) for t in outputs)
        return result


def test_a_step_builds_no_graph_and_leaves_autograd_usable() -> None:
    def user_gradient() -> float:
        x = torch.tensor(3.0, requires_grad=True)
        (x * x).backward()
        assert x.grad is not None
        return float(x.grad)

    learner = build_learner(SMALL, vocab_size=VOCABULARY)
    before = (
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_rng_state(),
    )
    assert user_gradient() == 6.0
    with GraphWatch() as watch:
        metrics = learner.train_step(batch(2, 40), progress=0.5)
    assert user_gradient() == 6.0
    assert watch.operations > 100 and watch.graphs == 0
    assert metrics.loss.grad_fn is None
    assert graph_faults(learner.net.named_parameters()) == []
    assert all(not p.requires_grad for p in learner.net.parameters())
    after = (
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_rng_state(),
    )
    assert before[:3] == after[:3] and torch.equal(before[3], after[3])
    net = learner.release()
    assert all(p.requires_grad for p in net.parameters())
    net(batch(1, 5).inputs).sum().backward()
    assert len(graph_faults(net.named_parameters())) > 10


def test_grad_mode_is_restored_after_an_exception() -> None:
    learner = build_learner(SMALL, vocab_size=VOCABULARY)
    spoiled = batch(1, 5)
    spoiled.inputs[0, 0] = VOCABULARY + 3
    with pytest.raises(RuntimeError, match="bounds"):
        learner.train_step(spoiled, progress=0.5)
    assert torch.is_grad_enabled()


def test_echo_and_autograd_stay_together() -> None:
    echo = EchoLearner(
        build_network(SMALL, vocab_size=VOCABULARY),
        SoftmaxCrossEntropy(),
        optimiser=lambda params, num_decayed: flat_adamw(SMALL.train.optim, params, num_decayed),
        schedule=lambda progress: 4e-3,
    )
    twin = autograd_twin(SMALL)
    for step in range(30):
        data = counting(4, 20, seed=step)
        a = float(echo.train_step(data, progress=0.5).loss)
        b = float(twin.train_step(data, progress=0.5).loss)
    assert abs(a - b) <= 1e-4
    assert a < 3.5


def test_rounded_products_bend_the_statistics_a_little_and_evaluation_not_at_all() -> None:
    train = SMALL.train.model_copy(update={"precision": "bfloat16"})
    data, found = batch(4, 60), []
    for config in (SMALL, SMALL.model_copy(update={"train": train})):
        net = build_network(config, vocab_size=VOCABULARY)
        flat = FlatParams(net, decayed_names(net))
        acc = flat.statistics()
        with no_autograd():
            echo_statistics(net, SoftmaxCrossEntropy(), data, acc)
            found.append((flat.named_views(acc.buffer), net.free(data.inputs, None)))
    (exact, plain), (rounded, evaluated) = found
    assert torch.equal(plain, evaluated)
    for name, wanted in exact.items():
        assert rounded[name].dtype == torch.float32
        assert (rounded[name] - wanted).norm() / wanted.norm() < 0.05, name
        assert torch.cosine_similarity(rounded[name].flatten(), wanted.flatten(), 0) > 0.998, name
    assert any(not torch.equal(rounded[name], exact[name]) for name in exact)


def test_training_repeats_bit_for_bit() -> None:
    def trained() -> Tensor:
        learner = build_learner(SMALL, vocab_size=VOCABULARY)
        for step in range(5):
            learner.train_step(batch(2, 40, seed=step), progress=0.2 * step)
        return learner.flat.buffer

    assert torch.equal(trained(), trained())


def test_state_continues_bit_for_bit() -> None:
    whole, half = (build_learner(SMALL, vocab_size=VOCABULARY) for _ in range(2))
    for step in range(4):
        whole.train_step(batch(2, 40, seed=step), progress=0.5)
    for step in range(2):
        half.train_step(batch(2, 40, seed=step), progress=0.5)
    state = {k: v.clone() for k, v in half.state().items() if isinstance(v, Tensor)}
    rest = build_learner(SMALL, vocab_size=VOCABULARY)
    rest.load_state(state)
    for step in range(2, 4):
        rest.train_step(batch(2, 40, seed=step), progress=0.5)
    assert torch.equal(whole.flat.buffer, rest.flat.buffer)


def test_the_twin_continues_bit_for_bit_too() -> None:
    whole, half, rest = (autograd_twin(SMALL) for _ in range(3))
    for step in range(4):
        whole.train_step(batch(2, 20, seed=step), progress=0.5)
    for step in range(2):
        half.train_step(batch(2, 20, seed=step), progress=0.5)
    rest.load_state(half.state())
    for step in range(2, 4):
        rest.train_step(batch(2, 20, seed=step), progress=0.5)
    for mine, theirs in zip(whole.net.parameters(), rest.net.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for odd in ({"stranger": torch.zeros(1)}, {"model.layers.0.weight": torch.zeros(1)}):
        with pytest.raises(CheckpointError):
            rest.load_state(odd)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    learner = build_learner(SMALL, vocab_size=VOCABULARY)
    before = learner.flat.buffer.clone()
    state = {k: torch.zeros_like(v) for k, v in learner.state().items() if isinstance(v, Tensor)}
    state["model.stranger"] = torch.zeros(1)
    del state["optimiser.first"]
    state["optimiser.second"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"stranger. is unknown.*first. is missing.*second.*\(3,\)"):
        learner.load_state(state)
    assert torch.equal(before, learner.flat.buffer)


def test_nonfinite_loss_changes_nothing() -> None:
    learner = build_learner(SMALL, vocab_size=VOCABULARY)
    learner.train_step(batch(2, 20), progress=0.5)
    weights = learner.net.layers[0].weight
    kept = float(weights[0, 0])
    weights[0, 0] = float("nan")
    data = batch(2, 20)
    data.inputs[0, 0] = 0
    before = learner.flat.buffer.clone()
    metrics = learner.train_step(data, progress=0.5)
    assert not torch.isfinite(metrics.loss)
    assert torch.equal(before.nan_to_num(), learner.flat.buffer.nan_to_num())
    weights[0, 0] = kept
    learner.train_step(data, progress=0.5)
    assert torch.isfinite(learner.flat.buffer).all()
    assert int(learner.optimiser.skipped) == 1


def test_a_batch_in_parts_gives_the_statistics_of_the_whole() -> None:
    whole, parts = build_learner(SMALL, vocab_size=VOCABULARY), build_learner(SMALL, vocab_size=VOCABULARY)
    parts.accumulate = 4
    data = batch(8, 12)
    with no_autograd():
        losses = [learner._statistics(data) for learner in (whole, parts)]
    assert torch.allclose(losses[0], losses[1], rtol=1e-6)
    assert (whole.stats.buffer - parts.stats.buffer).abs().max() <= 1e-6 * whole.stats.buffer.abs().max()


def test_averaged_weights_are_the_mean_first_and_a_decaying_one_later() -> None:
    optim = SMALL.train.optim.model_copy(update={"ema": 0.8})
    config = SMALL.model_copy(update={"train": SMALL.train.model_copy(update={"optim": optim})})
    learner = build_learner(config, vocab_size=VOCABULARY)
    assert learner.average is not None
    expected = learner.flat.buffer.double()
    for step in range(1, 12):
        learner.train_step(batch(2, 8, seed=step), progress=0.1)
        share = max(1 / (step + 1), 0.2)
        expected = expected + share * (learner.flat.buffer.double() - expected)
    assert (learner.average - expected).abs().max() < 1e-6
    trained = learner.flat.buffer.clone()
    found = learner.eval_step(batch(2, 8)).loss
    assert torch.equal(learner.flat.buffer, trained)
    learner.flat.buffer.copy_(learner.average)
    learner.average = None
    assert torch.equal(learner.eval_step(batch(2, 8)).loss, found)


def test_the_scale_of_the_rate_is_kept_and_acts() -> None:
    for build in (lambda: build_learner(SMALL, vocab_size=VOCABULARY), lambda: autograd_twin(SMALL)):
        learner, twin = build(), build()
        learner.scale_rate(0.5)
        twin.load_state(learner.state())
        rates = [one.train_step(batch(2, 8), progress=0.5).extra["train/lr"] for one in (learner, twin, build())]
        assert rates[0] == rates[1] == 0.5 * float(rates[2])
        with pytest.raises(CheckpointError, match="`rate_scale` = 'x'"):
            twin.load_state({**learner.state(), "rate_scale": "x"})


def test_a_broken_batch_changes_no_weight_of_either_learner() -> None:
    class Broken(SoftmaxCrossEntropy):
        def free(self, logits, targets, tape):
            return super().free(logits * float("nan"), targets, tape)

    for learner in (build_learner(SMALL, vocab_size=VOCABULARY), autograd_twin(SMALL)):
        before = {k: v.clone() for k, v in learner.state().items() if k.startswith("model.") and isinstance(v, Tensor)}
        learner.loss = Broken()
        learner.train_step(batch(2, 8), progress=0.5)
        after = learner.state()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
