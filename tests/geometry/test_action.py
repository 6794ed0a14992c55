"""The action of paths whose length is known, and its derivatives by autograd and differences."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from holonomy.geometry import action


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spd(n: int) -> Tensor:
    a = random(n, n, seed=9)
    return a @ a.T + torch.eye(n, dtype=torch.float64)


def test_straight_line_has_its_length(dtype: torch.dtype) -> None:
    g = spd(3).to(dtype)
    end = 1e2 * random(3, seed=1).to(dtype)
    x = torch.linspace(0, 1, 33, dtype=dtype)[:, None] * end
    wanted = 1.7 * math.sqrt(float(end.double() @ g.double() @ end.double()))
    found = float(action.path_action(x, torch.full((32,), 1.7, dtype=dtype), g))
    assert abs(found / wanted - 1) < 1e-6
    gradient = action.path_action_gradient(x, torch.full((32,), 1.7, dtype=dtype), g)
    assert gradient[1:-1].abs().max() < (1e-3 if dtype is torch.float32 else 1e-10)
    assert gradient[-1].abs().max() > 0.1


def test_pieces_add_up() -> None:
    x, r, g = random(2, 20, 3), random(2, 19, seed=1).exp(), spd(3)
    parts = action.path_action(x[:, :8], r[:, :7], g) + action.path_action(x[:, 7:], r[:, 7:], g)
    assert (action.path_action(x, r, g) - parts).abs().max() < 1e-12


def test_timing_does_not_matter() -> None:
    """A quarter of a circle walked evenly and unevenly has one length."""
    even = torch.linspace(0, 1, 2001, dtype=torch.float64)
    for clock in (even, even**2, torch.sin(even * math.pi / 2)):
        angle = clock * math.pi / 2
        path = 1e3 * torch.stack((angle.cos(), angle.sin()), -1)
        found = action.path_action(path, torch.ones(2000).double(), torch.eye(2).double())
        assert abs(float(found) / (1e3 * math.pi / 2) - 1) < 1e-4


def test_gradient_and_statistic_are_derivatives() -> None:
    x, r, g = random(2, 6, 3), random(2, 5, seed=1).exp(), spd(3)
    leaf, metric = x.clone().requires_grad_(), g.clone().requires_grad_()
    action.path_action(leaf, r, metric).sum().backward()
    gradient, statistic = action.path_action_gradient(x, r, g), action.path_action_statistic(x, r, g)
    assert leaf.grad is not None and metric.grad is not None
    assert (gradient - leaf.grad).abs().max() < 1e-12
    assert (statistic - metric.grad).abs().max() < 1e-12
    step = 1e-5
    move = random(2, 6, 3, seed=2)
    slope = (action.path_action(x + step * move, r, g) - action.path_action(x - step * move, r, g)).sum() / (2 * step)
    assert abs(float(slope - (gradient * move).sum())) < 1e-8


def test_a_path_at_rest_has_a_finite_gradient(dtype: torch.dtype) -> None:
    x, r, g = torch.zeros(4, 2, dtype=dtype), torch.ones(3, dtype=dtype), torch.eye(2, dtype=dtype)
    assert float(action.path_action_gradient(x, r, g).abs().max()) == 0
    assert math.isclose(float(action.path_action(x, r, g)), 3 * math.sqrt(action.ACTION_EPS[dtype]), rel_tol=1e-6)


def test_state_follows_its_formula() -> None:
    state = action.LiorState(low=0.2, high=0.8, threshold=0.5, dtau=0.25)
    assert state.alpha == 0.2
    total = 0.0
    for step, (resistance, square) in enumerate(((1.5, 4.0), (0.5, -9.0), (2.0, 1e-3)), start=1):
        state = state.advance(resistance, square)
        total += resistance * math.sqrt(abs(square) + 1e-8) * 0.25
        assert math.isclose(state.integral, total, rel_tol=1e-12)
        wanted = 0.2 + 0.6 / (1 + math.exp(-(math.log(total / step) - 0.5)))
        assert math.isclose(state.alpha, wanted, rel_tol=1e-12)
