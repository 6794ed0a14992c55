"""Curvature of spaces that are known, and of random metrics by two independent formulas."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.geometry import curvature
from holonomy.geometry.metric import MetricBase

# torch's own forward-mode rules are still scripted; the warning comes with the first derivative of a process.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_scale(x: Tensor) -> Tensor:
    """f of the stereographic sphere e^(2f) I."""
    return (2 / (1 + x.square().sum())).log()


def sphere(x: Tensor) -> Tensor:
    return torch.eye(x.shape[-1], dtype=x.dtype) * torch.exp(2 * log_scale(x))


def ball(x: Tensor) -> Tensor:
    return torch.eye(x.shape[-1], dtype=x.dtype) * (2 / (1 - x.square().sum())) ** 2


def wavy(x: Tensor) -> Tensor:
    """A smooth metric without any symmetry."""
    n = x.shape[-1]
    mix = torch.sin(1.7 * torch.arange(n**3, dtype=x.dtype)).reshape(n, n, n)
    a = torch.eye(n, dtype=x.dtype) + 0.3 * torch.sin(torch.einsum("abc,c->ab", mix, x))
    return a @ a.T + 0.5 * torch.eye(n, dtype=x.dtype)


@pytest.mark.parametrize("n", range(2, 9))
def test_unit_spheres(n: int) -> None:
    x = 0.5 * random(3, n)
    g = torch.stack([sphere(point) for point in x])
    assert (curvature.ricci(sphere, x) - (n - 1) * g).abs().max() < 1e-11
    scalar = curvature.scalar_curvature(sphere, x)
    assert (scalar - n * (n - 1)).abs().max() < 1e-10
    assert (curvature.collapse_scalar(scalar, n, eps=0.0) - math.sqrt((n - 1) / n)).abs().max() < 1e-12
    base = MetricBase(torch.eye(n, dtype=torch.float64))
    assert (curvature.conformal_curvature(log_scale, base, x) - n * (n - 1)).abs().max() < 1e-10


@pytest.mark.parametrize("n", [2, 3, 4])
def test_full_tensor_of_the_sphere(n: int) -> None:
    x = 0.5 * random(n)
    g = sphere(x)
    wanted = torch.einsum("ac,bd->abcd", g, g) - torch.einsum("ad,bc->abcd", g, g)
    full = curvature.riemann(sphere, x)
    assert (full - wanted).abs().max() < 1e-11
    assert (curvature.riemann_by_differences(sphere, x) - wanted).abs().max() < 1e-3
    collapsed = curvature.collapse_riemann(MetricBase(g), full, eps=0.0)
    assert abs(float(collapsed) - math.sqrt((n - 1) / n)) < 1e-11


def test_hyperbolic_and_flat_space() -> None:
    x = 0.2 * random(4, 3)
    assert (curvature.scalar_curvature(ball, x) + 6).abs().max() < 1e-10
    warp = 0.3 * random(3, 3, seed=2)

    def flat(y: Tensor) -> Tensor:
        """The Euclidean metric in bent coordinates z = y + 0.2 sin(W y)."""
        jacobian = torch.eye(3, dtype=y.dtype) + 0.2 * torch.cos(warp @ y)[:, None] * warp
        return jacobian.T @ jacobian

    assert curvature.christoffel(flat, x).abs().max() > 1e-3
    assert curvature.ricci(flat, x).abs().max() < 1e-13
    full = curvature.riemann(flat, x)
    assert full.abs().max() < 1e-13
    base = MetricBase(torch.eye(3, dtype=torch.float64))
    assert (curvature.collapse_riemann(base, full) - 1e-4).abs().max() < 1e-9


@pytest.mark.parametrize("n", [2, 3, 5])
def test_two_formulas_agree_on_a_metric_without_symmetry(n: int) -> None:
    x = random(2, n, seed=1)
    full, ricci = curvature.riemann(wavy, x), curvature.ricci(wavy, x)
    assert ricci.abs().max() > 0.05
    for point, tensor, traced in zip(x, full, ricci, strict=True):
        inverse = torch.linalg.inv(wavy(point))
        assert (torch.einsum("abcd,ac->bd", tensor, inverse) - traced).abs().max() < 1e-11
        scalar = torch.einsum("bd,bd->", traced, inverse)
        assert abs(float(curvature.scalar_curvature(wavy, point) - scalar)) < 1e-11
        assert abs(float(MetricBase(wavy(point)).contract(tensor)) * n**2 - float(scalar)) < 1e-11
        differences = curvature.riemann_by_differences(wavy, point)
        assert (differences - tensor).abs().max() < 1e-3 * tensor.abs().max()
    assert (full + full.transpose(-4, -3)).abs().max() < 1e-12
    assert (full + full.permute(0, 1, 3, 4, 2) + full.permute(0, 1, 4, 2, 3)).abs().max() < 1e-12
    operator = curvature.bivector_operator(full)
    assert operator.shape[-1] == n * (n - 1) // 2
    assert (operator - operator.mT).abs().max() < 1e-12
    assert (operator[..., 0, 0] - full[:, 0, 1, 0, 1]).abs().max() == 0


def test_differences_are_of_second_order() -> None:
    x = random(3, seed=1)
    exact = curvature.riemann(wavy, x)
    errors = [
        float((curvature.riemann_by_differences(wavy, x, step=step) - exact).abs().max())
        for step in (0.02, 0.01, 0.005)
    ]
    assert all(3.8 < a / b < 4.2 for a, b in itertools.pairwise(errors))


@given(st.integers(2, 6), st.integers(0, 1000), st.floats(0.3, 3))
def test_gaussian_field_in_closed_form(n: int, seed: int, width: float) -> None:
    a = random(n, n, seed=seed)
    base = MetricBase(a @ a.T / n + torch.eye(n, dtype=torch.float64))
    field = curvature.GaussianConformal(base, 0.3 * random(4, seed=seed), random(4, n, seed=seed + 1), width)
    x = random(2, n, seed=seed + 2)
    found = field.scalar_curvature(x)
    by_derivatives = curvature.conformal_curvature(field.exponent, base, x)
    scale = 1 + found.abs().max()
    assert (found - by_derivatives).abs().max() < 1e-10 * scale
    by_ricci = curvature.scalar_curvature(lambda y: torch.exp(2 * field.exponent(y)) * base.g0, x)
    assert (found - by_ricci).abs().max() < 1e-9 * scale
    assert (field.collapse(x) - (by_ricci.abs() / n**2 + 1e-8).sqrt()).abs().max() < 1e-6 * scale


def test_gaussian_field_in_single_precision_and_its_gradient() -> None:
    base = MetricBase(torch.eye(4, dtype=torch.float64))
    height, centre, x = 0.3 * random(4), random(4, 4, seed=1), random(50, 4, seed=2)
    exact = curvature.GaussianConformal(base, height, centre, 1.0).scalar_curvature(x)
    single = curvature.GaussianConformal(MetricBase.identity(4), height.float(), centre.float(), 1.0).scalar_curvature(
        x.float()
    )
    assert (single - exact).abs().max() < 3e-6 * (1 + exact.abs().max())

    def collapse(height: Tensor, x: Tensor) -> Tensor:
        return curvature.GaussianConformal(base, height, centre, 1.0).collapse(x)

    assert torch.autograd.gradcheck(collapse, (height.requires_grad_(), x[:3].requires_grad_()))


def largest_allocation(run: Callable[[], object]) -> int:
    """Float64 numbers in the largest piece of memory that any one operation asks for."""
    run()
    with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profile:
        run()
    assert profile.function_events is not None
    return max(event.self_cpu_memory_usage for event in profile.function_events) // 8


def test_ricci_forms_no_tensor_of_rank_four() -> None:
    n = 8
    x = 0.3 * random(n)
    assert largest_allocation(lambda: curvature.scalar_curvature(sphere, x)) <= 2 * n**3
    assert largest_allocation(lambda: curvature.riemann(sphere, x)) >= n**4


def test_refusals() -> None:
    base = MetricBase.identity(3)
    with pytest.raises(ConfigError, match=r"`centre` has shape \(2, 4\); wanted \(2, 3\)"):
        curvature.GaussianConformal(base, torch.ones(2), torch.ones(2, 4), 1.0)
    with pytest.raises(ConfigError, match="`width` is 0"):
        curvature.GaussianConformal(base, torch.ones(2), torch.ones(2, 3), 0.0)
