"""The compiled kernels against their plain twins, first and second derivatives included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holonomy.geometry import poincare, rows

COUNT = 5000
TOLERANCE = {torch.float32: 3e-7, torch.float64: 1e-14}


def points(seed: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(COUNT, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    radius = torch.linspace(0, 1 - 1e-4, COUNT, dtype=torch.float64)[:, None]
    return (x / x.norm(dim=-1, keepdim=True) * radius).to(dtype)


def pair(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Far pairs, near pairs, equal pairs."""
    x, y = points(1, dtype), points(2, dtype).flip(0)
    y[1000:2000] = x[1000:2000] * (1 - 1e-5)
    y[2000:2100] = x[2000:2100]
    return x, y


def curvature(dtype: torch.dtype) -> Tensor:
    return torch.tensor(-0.7, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("kind", ["pair", "origin"])
def test_values_and_derivatives_equal_the_plain_twin(kind: str, dtype: torch.dtype) -> None:
    found = []
    for compiled in (True, False):
        inputs = [a.clone().requires_grad_() for a in (pair(dtype) if kind == "pair" else [points(1, dtype)])]
        k = curvature(dtype)
        if compiled:
            assert rows.suits(k, *inputs)
            d = poincare.dist(*inputs, k) if kind == "pair" else poincare.dist0(*inputs, k)
        else:
            d = poincare.plain_dist(*inputs, k) if kind == "pair" else poincare.plain_dist0(*inputs, k)
        weight = torch.linspace(-1, 1, COUNT, dtype=dtype)
        (d * weight).sum().backward()
        found.append([d.detach(), *(a.grad for a in inputs), k.grad])
    for mine, plain in zip(*found, strict=True):
        assert mine is not None
        assert plain is not None
        assert torch.isfinite(mine).all()
        # Where points meet or leave the origin the plain twin rounds on its own; compare beside the largest slopes.
        scale = plain.abs().clamp_min(1e-3 * float(plain.abs().max()))
        assert float(((mine - plain).abs() / scale).max()) <= 200 * TOLERANCE[dtype]
    assert float(((found[0][0] - found[1][0]).abs() / found[1][0].clamp_min(1e-6)).max()) <= TOLERANCE[dtype]  # type: ignore[operator, union-attr]


def test_second_derivatives_go_through_the_twin() -> None:
    x, y = (points(s, torch.float64).requires_grad_() for s in (1, 2))
    k = curvature(torch.float64)
    found = []
    for distance in (poincare.dist, poincare.plain_dist):
        (slope,) = torch.autograd.grad(distance(x, y, k)[1:].sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), (x, k)))
    for mine, plain in zip(*found, strict=True):
        assert torch.allclose(mine, plain, rtol=1e-9)


def test_only_what_suits_is_taken() -> None:
    k, x = curvature(torch.float32), points(1, torch.float32)
    assert rows.suits(k, x, x)
    assert rows.suits(k, x.view(50, 100, 5))
    assert not rows.suits(k, x[:100])
    assert not rows.suits(k, x, x[:1])
    assert not rows.suits(k, x.half())
    assert not rows.suits(torch.full((5000, 1), -1.0), x)
    wide = torch.stack([x, x], 1)[:, 0]
    assert torch.equal(poincare.dist0(wide, k), poincare.dist0(x, k))
    assert poincare.dist(x.view(50, 100, 5), x.view(50, 100, 5).flip(0), k).shape == (50, 100)
