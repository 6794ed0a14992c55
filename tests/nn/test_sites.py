"""A field beside the network: what drives it, when it moves, and that it comes back."""

from __future__ import annotations

import pytest
import torch

from holonomy.core.tape import Tape
from holonomy.data.tokens import WindowSampler
from holonomy.models.lior.config import DataConfig, FieldConfig, LiorConfig, ModelConfig
from holonomy.models.lior.learner import build_learner
from holonomy.nn.sites import ADDRESS_TEMPERATURE, FieldOptions, FieldProbe, FieldSites


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_source_is_that_of_a_plain_loop() -> None:
    sites = FieldSites(6, FieldOptions(size=(2, 2), dim=3, eta=0.7), generator=generator())
    x = torch.randn(6, 2, 5, generator=generator(1))
    sites.observe(x)
    assert sites._source is not None
    project = torch.complex(sites.re_project, sites.im_project)
    address = torch.complex(sites.re_address, sites.im_address)
    expected = torch.zeros(4, 3, 3, dtype=torch.complex64)
    for column in x.flatten(1).T:
        z = project @ column.to(project)
        z = z / (z.abs().square().sum() ** 0.5)
        overlap = torch.stack([(a.conj() * z).sum().abs() ** 2 for a in address])
        for s, chance in enumerate((overlap / ADDRESS_TEMPERATURE).softmax(0)):
            expected[s] += chance * torch.outer(z, z.conj())
    assert torch.allclose(sites._source, expected, atol=1e-5)


@pytest.mark.parametrize("dynamics", ["dissipative", "symplectic", "unitary"])
def test_the_field_moves_after_updates_only(dynamics: str) -> None:
    sites = FieldSites(6, FieldOptions(size=(2, 3), dim=2, dynamics=dynamics, dt=0.1), generator=generator())
    probe, x = FieldProbe(sites), torch.randn(6, 1, 4, generator=generator(1))
    start = sites.features().clone()
    assert start.shape == (8, 6)
    assert torch.equal(probe.free(x, None), x)
    probe.project()
    assert torch.equal(sites.features(), start), "it moved without anything to move it"
    assert torch.equal(probe.free(x, Tape()), x)
    assert torch.equal(sites.features(), start), "it moved inside the window"
    probe.project()
    assert not torch.equal(sites.features(), start)
    moved = sites.features().clone()
    probe.project()
    assert torch.equal(sites.features(), moved)


def learner(dynamics: str = "dissipative", **field: object):
    config = LiorConfig(
        model=ModelConfig(d=16, n_osc=8, hidden=16, heads=2, blocks=2),
        data=DataConfig(seq_len=16),
        field=FieldConfig(enabled=True, size=(2, 2), dim=3, dynamics=dynamics, collapse_every=3, **field),  # type: ignore[arg-type]
    )
    return build_learner(config, vocab_size=9)


def batches() -> WindowSampler:
    return WindowSampler(torch.randint(9, (500,), generator=generator()), seq_len=16, batch=4, seed=1)


@pytest.mark.parametrize("dynamics", ["dissipative", "symplectic", "unitary"])
def test_a_restored_learner_goes_on_bit_by_bit(dynamics: str) -> None:
    extra = {"adaptive": True} if dynamics == "dissipative" else {}
    whole, source = learner(dynamics, **extra), batches()
    states = []
    for step in range(8):
        if step == 4:
            states = [(k, v.clone() if isinstance(v, torch.Tensor) else v) for k, v in whole.state().items()]
        whole.train_step(source.next(), progress=step / 8)
    other, source = learner(dynamics, **extra), batches()
    for _ in range(4):
        source.next()
    other.load_state(dict(states))
    for step in range(4, 8):
        other.train_step(source.next(), progress=step / 8)
    theirs = other.state()
    for name, value in whole.state().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, theirs[name]), name  # type: ignore[arg-type]
    assert any(name.startswith("buffer.") and name.endswith("state_t") for name in theirs)


def test_the_network_reads_the_field() -> None:
    found = learner()
    ids = torch.randint(9, (2, 16), generator=generator(3))
    with torch.no_grad():
        before = found.net.free(ids, None)
        found.train_step(batches().next(), progress=0.0)
        weights = {k: v.clone() for k, v in found.net.named_parameters()}
        after = found.net.free(ids, None)
        field = next(m for m in found.net.modules() if isinstance(m, FieldSites))
        field.get_buffer("state_t").add_(1.0)
        shifted = found.net.free(ids, None)
    assert not torch.equal(before, after)
    assert not torch.allclose(after, shifted, atol=1e-6)
    assert all(torch.equal(weights[k], v) for k, v in found.net.named_parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (2, 2)}, "enabled"),
        ({"enabled": True, "size": (0, 2)}, "1 to 4096 sites"),
        ({"enabled": True, "dynamics": "symplectic", "evidence": 0.5}, "dissipative only"),
        ({"enabled": True, "dynamics": "unitary", "eta": 0.5}, "no part"),
        ({"enabled": True, "adaptive": True, "memory": 0.0}, "memory above 0"),
    ],
)
def test_illegal_fields(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FieldConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other", [{"model": ModelConfig(architecture="causal_field")}, {"model": ModelConfig(score="geometric")}]
)
def test_fields_that_nothing_reads(other: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="reads the field"):
        LiorConfig(field=FieldConfig(enabled=True), **other)  # type: ignore[arg-type]
