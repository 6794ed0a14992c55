"""The reversible step: order, energy, the symplectic form, and exact return in fixed point."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from holonomy.dynamics import symplectic
from holonomy.dynamics.symplectic import FixedPointOverflow
from holonomy.testing import assert_convergence_order, assert_symplectic


def pendulum(q: Tensor) -> Tensor:
    return -q.sin()


def energy(q: Tensor, p: Tensor) -> Tensor:
    return p.square() / 2 - q.cos()


def test_order_two() -> None:
    q, p = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    exact, _ = symplectic.evolve(q, p, pendulum, 1 / 4096, 4096)

    def error(h: float) -> float:
        return abs(float(symplectic.evolve(q, p, pendulum, h, round(1 / h))[0] - exact))

    assert_convergence_order(error, [1 / 8, 1 / 16, 1 / 32, 1 / 64], order=2.0, tolerance=0.02)


def test_harmonic_motion_in_closed_form() -> None:
    h, steps = 0.05, 500
    q, p = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    found, _ = symplectic.evolve(q, p, lambda x: -x, h, steps)
    # The step is a rotation by theta with 2 sin(theta / 2) = h.
    assert math.isclose(float(found), math.cos(steps * 2 * math.asin(h / 2)), abs_tol=1e-12)


def test_energy_oscillates_without_drift() -> None:
    q, p = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    values = []
    for _ in range(10_000):
        q, p = symplectic.step(q, p, pendulum, 0.008)
        values.append(float(energy(q, p)))
    series = torch.tensor(values, dtype=torch.float64)
    assert float(series.max() - series.min()) <= 1e-5
    time = torch.arange(10_000, dtype=torch.float64) - 4999.5
    assert abs(float((time * (series - series.mean())).sum() / time.square().sum())) < 1e-9


def test_the_form_is_kept_and_the_check_can_fail() -> None:
    state = torch.tensor([0.4, -0.2, 0.3, 0.9], dtype=torch.float64)

    def one(s: Tensor) -> Tensor:
        return torch.cat(symplectic.step(s[:2], s[2:], pendulum, 0.3))

    def euler(s: Tensor) -> Tensor:
        return torch.cat([s[:2] + 0.3 * s[2:], s[2:] + 0.3 * pendulum(s[:2])])

    assert_symplectic(one, state, tolerance=1e-13)
    with pytest.raises(AssertionError, match="symplectic form"):
        assert_symplectic(euler, state, tolerance=1e-3)


def test_turning_round_leads_back() -> None:
    q, p = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there = symplectic.evolve(q, p, pendulum, 0.1, 4096)
    back = symplectic.evolve(there[0], -there[1], pendulum, 0.1, 4096)
    assert (back[0] - q).abs().max() < 1e-6


@pytest.mark.parametrize("num_steps", [64, 512, 4096])
def test_fixed_point_leads_back_exactly(num_steps: int, dtype: torch.dtype) -> None:
    def chaotic(q: Tensor) -> Tensor:
        return -3 * (2 * q).sin() - 2 * q + 0.5 * (q.roll(1) + q.roll(-1))

    q, p = (symplectic.to_fixed(a) for a in torch.randn(2, 40, generator=torch.Generator().manual_seed(0)))
    a, b = q, p
    for _ in range(num_steps):
        a, b = symplectic.fixed_step(a, b, chaotic, 0.3, dtype)
    assert not torch.equal(a, q)
    b = -b
    for _ in range(num_steps):
        a, b = symplectic.fixed_step(a, b, chaotic, 0.3, dtype)
    assert torch.equal(a, q)
    assert torch.equal(-b, p)


def test_fixed_point_follows_floating_point() -> None:
    q, p = torch.randn(2, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = symplectic.to_fixed(q), symplectic.to_fixed(p)
    for _ in range(100):
        q, p = symplectic.step(q, p, pendulum, 0.05)
        a, b = symplectic.fixed_step(a, b, pendulum, 0.05, torch.float64)
    assert (symplectic.from_fixed(a, torch.float64) - q).abs().max() < 1e-4


def test_overflow_is_never_clipped() -> None:
    with pytest.raises(FixedPointOverflow, match="state"):
        symplectic.to_fixed(torch.tensor([1.0, 5000.0]))
    with pytest.raises(FixedPointOverflow, match="state"):
        symplectic.to_fixed(torch.tensor([math.nan]))
    q, p = symplectic.to_fixed(torch.tensor([1000.0])), symplectic.to_fixed(torch.tensor([1000.0]))
    with pytest.raises(FixedPointOverflow, match=r"position.*1024"):
        symplectic.fixed_step(q, p, lambda x: x, 0.1, torch.float64)
