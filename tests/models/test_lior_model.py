"""The lior network: parameter counts, causality, incremental state."""

from __future__ import annotations

import pytest
import torch

from holonomy.data.tokens import WindowSampler
from holonomy.learn.carry import state_tensors
from holonomy.models.lior.config import DataConfig, LiorConfig, ModelConfig
from holonomy.models.lior.learner import build_learner
from holonomy.models.lior.model import build_network, count_parameters

PRESETS = {"hybrid": 775_688, "causal_field": 810_240, "field_transformer": 672_032}


@pytest.mark.parametrize(("architecture", "expected"), PRESETS.items())
def test_parameter_counts(architecture: str, expected: int) -> None:
    config = LiorConfig(model=ModelConfig(architecture=architecture))  # type: ignore[arg-type]
    assert count_parameters(build_network(config, vocab_size=65)) == expected


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
