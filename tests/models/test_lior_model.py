"""The lior network: parameter counts, causality, incremental state."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from holonomy.data.tokens import WindowSampler
from holonomy.learn.carry import state_tensors
from holonomy.models.lior.config import DataConfig, GeometryConfig, LiorConfig, ModelConfig
from holonomy.models.lior.learner import build_learner
from holonomy.models.lior.model import build_network, count_parameters
from holonomy.nn.kernel import KernelBank

PRESETS = {"hybrid": 775_688, "causal_field": 810_240, "field_transformer": 672_032}


@pytest.mark.parametrize(("architecture", "expected"), PRESETS.items())
def test_parameter_counts(architecture: str, expected: int) -> None:
    config = LiorConfig(model=ModelConfig(architecture=architecture))  # type: ignore[arg-type]
    assert count_parameters(build_network(config, vocab_size=65)) == expected


def test_parameters_of_a_field_transformer_with_filters() -> None:
    config = LiorConfig(model=ModelConfig(architecture="field_transformer", retrieval_fir=3))
    assert count_parameters(build_network(config, vocab_size=65)) == 675_104


def test_patterns() -> None:
    assert ModelConfig().letters == "omrmomom"
    assert ModelConfig(architecture="causal_field").letters == "omomomom"
    assert ModelConfig(architecture="field_transformer", blocks=2).letters == "rmrm"
    assert ModelConfig(pattern="ro").letters == "ro"
    with pytest.raises(ValueError, match="does not divide"):
        ModelConfig(d=10)
    assert ModelConfig(d=10, architecture="causal_field").d == 10


@pytest.mark.parametrize("architecture", PRESETS)
def test_logits_never_see_the_future(architecture: str) -> None:
    config = LiorConfig(model=ModelConfig(architecture=architecture, d=32, n_osc=32, hidden=32))  # type: ignore[arg-type]
    net = build_network(config, vocab_size=20)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(20, (2, 128), generator=generator)
    with torch.no_grad():
        whole = net.free(ids, None)
        for cut in (1, 2, 31, 32, 64, 100, 127):
            scrambled = ids.clone()
            scrambled[:, cut:] = torch.randint(20, (2, 128 - cut), generator=generator)
            other = net.free(scrambled, None)
            assert torch.equal(whole[..., :cut], other[..., :cut])
            assert not torch.equal(whole[..., cut:], other[..., cut:])


@dataclass
class Counting:
    """Sequences that count on from a random start."""

    inputs: Tensor
    targets: Tensor
    count: int
    fresh: bool = True

    @classmethod
    def drawn(cls, seed: int) -> Counting:
        start = torch.randint(9, (8, 1), generator=torch.Generator().manual_seed(seed))
        ids = (start + torch.arange(41)) % 9
        return cls(ids[:, :-1], ids[:, 1:], 320)


@pytest.mark.parametrize("pattern", ["qm", "cm", "pm", "hm"])
def test_optional_blocks_learn(pattern: str) -> None:
    config = LiorConfig(model=ModelConfig(pattern=pattern, d=16, n_osc=16, hidden=16, heads=2))
    learner = build_learner(config, vocab_size=9)
    losses = [float(learner.train_step(Counting.drawn(step), progress=0.3).loss) for step in range(80)]
    assert losses[-1] < 0.3 * losses[0]


def test_the_memory_of_octonions_begins_against_the_present() -> None:
    net = build_network(LiorConfig(model=ModelConfig(pattern="c")), vocab_size=9)
    bank = next(m for m in net.modules() if isinstance(m, KernelBank))
    plain = KernelBank(256, generator=torch.Generator())
    for name in ("relaxation", "power", "wave"):
        assert torch.equal(getattr(bank, name), -getattr(plain, name))


@pytest.mark.parametrize("pattern", ["pm", "rp"])
def test_a_probe_measures_by_the_chart(pattern: str) -> None:
    shape = ModelConfig(pattern=pattern, d=16, heads=2)
    ids, found = torch.arange(120)[None] * 7 % 20, []
    for chart in ({}, {"chart": "per_head"}, {"chart": "per_head", "metric_mode": "block_rot"}):
        net = build_network(LiorConfig(model=shape, geometry=GeometryConfig(**chart)), vocab_size=20)  # type: ignore[arg-type]
        with torch.no_grad():
            found.append(net.free(ids, None))
    assert not torch.allclose(found[0], found[1], atol=1e-4)
    assert not torch.allclose(found[1], found[2], atol=1e-4)


@pytest.mark.parametrize(
    ("model", "more", "words"),
    [
        ({"pattern": "q", "d": 20}, {}, "d = 20 must be a multiple of 8 for block q"),
        ({"pattern": "c", "n_osc": 20}, {}, "n_osc = 20 must be a multiple of 8 for block c"),
        ({"pattern": "p", "heads": 3}, {}, "does not divide"),
        ({"pattern": "h", "n_osc": 24}, {}, "n_osc = 24 must be a power of two for .* block h"),
        ({"rope": True}, {}, "rope turns the spinors of score = geometric"),
        ({"pattern": "om", "retrieval_fir": 3}, {}, "retrieval_fir filters block r"),
        ({"pattern": "op"}, {"geometry": GeometryConfig(chart="shared")}, "folded or per_head"),
        ({"pattern": "op"}, {"geometry": GeometryConfig(stress=True)}, "of block r"),
        ({"pattern": "oq"}, {"geometry": GeometryConfig(chart="per_head")}, "none of"),
        ({"pattern": "ocp"}, {"data": DataConfig(carried=2)}, "data.carried cannot learn block c and block p"),
    ],
)
def test_options_that_blocks_do_not_have(model: dict[str, object], more: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LiorConfig(model=ModelConfig(**model), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", PRESETS)
def test_a_trained_network_remembers_and_never_foresees(architecture: str) -> None:
    """The text is lines of one number each: only what was read before says which."""
    config = LiorConfig(
        model=ModelConfig(architecture=architecture, d=32, n_osc=32, hidden=32),  # type: ignore[arg-type]
        data=DataConfig(seq_len=32),
    )
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(8, (400, 1), generator=generator).repeat(1, 16)
    text[:, -1] = 8
    sampler = WindowSampler(text.flatten(), seq_len=32, batch=8, seed=0)
    learner = build_learner(config, vocab_size=9)
    for _ in range(60):
        learner.train_step(sampler.next(), progress=0.3)
    net, ids = learner.net, text[:4].view(1, -1)
    with torch.no_grad():
        whole = net.free(ids, None)
        for cut in (1, 5, 15, 16, 33, 48, 63):
            scrambled = ids.clone()
            scrambled[:, cut:] = torch.randint(9, (1, 64 - cut), generator=generator)
            assert torch.equal(whole[..., :cut], net.free(scrambled, None)[..., :cut])
        other = ids.clone()
        other[0, 55] = (ids[0, 55] + 1) % 8
        moved = (net.free(other, None) - whole).abs().amax((0, 1))
    assert not moved[:55].any()
    assert moved[60] > 1e-3


@pytest.mark.parametrize(("architecture", "window"), [("causal_field", None), ("hybrid", 48)])
def test_the_state_has_one_size_however_long_the_text(architecture: str, window: int | None) -> None:
    model = ModelConfig(architecture=architecture, d=32, n_osc=32, hidden=32, window=window)  # type: ignore[arg-type]
    net = build_network(LiorConfig(model=model), vocab_size=20).requires_grad_(False)

    def size(length: int) -> int:
        _, state = net.advance(torch.zeros(1, length, dtype=torch.int64), net.start(1))
        return sum(t.nbytes for t in state_tensors(state).values())

    assert size(64) == size(4096) < 200_000


def test_the_past_matters() -> None:
    net = build_network(LiorConfig(), vocab_size=20)
    ids = torch.randint(20, (1, 64), generator=torch.Generator().manual_seed(0))
    shuffled = ids.clone()
    shuffled[:, :60] = ids[:, torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    with torch.no_grad():
        a, b = net.free(ids, None)[..., -1], net.free(shuffled, None)[..., -1]
    assert (a - b).norm() / a.norm() > 1e-2


def test_seed_decides_the_weights() -> None:
    config = LiorConfig()
    again = build_network(config, vocab_size=20).state_dict()
    for name, tensor in build_network(config, vocab_size=20).state_dict().items():
        assert torch.equal(tensor, again[name])
    other = config.model_copy(update={"train": config.train.model_copy(update={"seed": 2})})
    assert not torch.equal(
        build_network(other, vocab_size=20).state_dict()["layers.0.weight"], again["layers.0.weight"]
    )
