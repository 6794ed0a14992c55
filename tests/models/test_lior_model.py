"""The lior network: parameter counts, causality, incremental state."""

from __future__ import annotations

import pytest
import torch

from holonomy.models.lior.config import LiorConfig, ModelConfig
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
