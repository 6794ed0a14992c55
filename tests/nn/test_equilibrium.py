"""Units that settle: their rest, and their statistics against autograd through a relaxation to convergence."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from holonomy.core.flat import FlatParams
from holonomy.core.tape import Tape
from holonomy.models.lior.config import LiorConfig, ModelConfig
from holonomy.models.lior.cost import parameter_count
from holonomy.models.lior.learner import build_learner
from holonomy.models.lior.model import build_network, count_parameters
from holonomy.nn.equilibrium import EquilibriumUnit

UNITS, LONG = 12, 200


def units(nudge: float = 0.05, steps: int = LONG) -> EquilibriumUnit:
    generator = torch.Generator().manual_seed(1)
    return EquilibriumUnit(UNITS, free_steps=steps, nudged_steps=steps, nudge=nudge, generator=generator).double()


def drawn(seed: int) -> Tensor:
    return torch.randn(UNITS, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def statistics(layer: EquilibriumUnit, u: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    acc, tape = FlatParams(layer, frozenset()).statistics(), Tape()
    with torch.no_grad():
        layer.free(u, tape)
        below = layer.echo(tape, g, acc)
    return acc[layer.couplings].clone(), below


def errors(nudge: float) -> tuple[float, float]:
    """Relative errors of the statistic and of the nudge below."""
    layer, g = units(nudge), drawn(3)
    u = drawn(2).requires_grad_()
    layer(u).backward(g)
    wanted = layer.couplings.grad
    assert wanted is not None and u.grad is not None
    stat, below = statistics(layer, u.detach(), g)
    return float((stat - wanted).norm() / wanted.norm()), float((below - u.grad).norm() / u.grad.norm())


def test_at_rest_the_energy_has_no_slope() -> None:
    layer, u = units(), drawn(2)[:, 0, 0]

    def energy(s: Tensor) -> Tensor:
        entropy = s * torch.atanh(s) + torch.log1p(-s.square()) / 2
        return entropy.sum() - s @ layer.matrix() @ s / 2 - s @ u

    with torch.no_grad():
        s = layer.free(u[:, None], None)[:, 0]
    slope = jacobian(energy, s)
    assert isinstance(slope, Tensor) and slope.abs().max() < 1e-12


def test_the_contrast_of_both_signs_is_the_gradient_up_to_the_square_of_the_nudge() -> None:
    assert max(errors(0.05)) <= 2e-3
    pairs = zip(errors(0.05), errors(0.2), strict=True)
    assert all(abs(math.log(far / near) / math.log(4) - 2) < 0.15 for near, far in pairs)


def test_the_default_relaxation_comes_close() -> None:
    rough = EquilibriumUnit(UNITS, generator=torch.Generator().manual_seed(1)).double()
    u, g = drawn(2), drawn(3)
    for a, b in zip(statistics(rough, u, g), statistics(units(1e-3), u, g), strict=True):
        assert (a - b).norm() < 0.02 * b.norm()


def test_nudges_drive_the_statistics_at_any_scale(dtype: torch.dtype) -> None:
    layer = units(steps=30).to(dtype)
    u, g = drawn(2).to(dtype), drawn(3).to(dtype)
    stat, below = statistics(layer, u, g)
    for scale in (1e-8, 1e6):
        other, under = statistics(layer, u, g * scale)
        assert torch.allclose(other / scale, stat, rtol=1e-4, atol=1e-6)
        assert torch.allclose(under / scale, below, rtol=1e-4, atol=1e-6)
    assert not any(part.any() for part in statistics(layer, u, torch.zeros_like(g)))


def test_projection_keeps_one_rest() -> None:
    layer = units()
    layer.couplings.data.mul_(40)
    layer.project()
    assert 0.5 < float(torch.linalg.matrix_norm(layer.matrix().detach(), 2)) <= 0.9
    once = layer.couplings.detach().clone()
    layer.project()
    assert (layer.couplings - once).abs().max() < 1e-12
    with torch.no_grad():
        far = layer._relaxed(torch.full((UNITS, 1), 0.99, dtype=torch.float64), drawn(2)[:, 0, :1], 2000)
        assert (far - layer._relaxed(-far, drawn(2)[:, 0, :1], 2000)).abs().max() < 1e-9


@pytest.mark.parametrize("pattern", ["oe", "omre"])
def test_a_model_with_settling_units_learns(pattern: str) -> None:
    config = LiorConfig(model=ModelConfig(pattern=pattern, d=16, n_osc=16, hidden=16, heads=2))
    assert count_parameters(build_network(config, vocab_size=9)) == parameter_count(config, vocab_size=9)
    learner, losses = build_learner(config, vocab_size=9), []
    for step in range(60):
        start = torch.randint(9, (8, 1), generator=torch.Generator().manual_seed(step))
        ids = (start + torch.arange(17)) % 9
        batch = type("Batch", (), {"inputs": ids[:, :-1], "targets": ids[:, 1:], "count": 128, "fresh": True})()
        losses.append(float(learner.train_step(batch, progress=0.3).loss))
    assert losses[-1] < 0.3 * losses[0]
