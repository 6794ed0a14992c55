"""The wrapped normal: its density integrates to one, and its samples follow it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.geometry import lorentz
from holonomy.geometry.euclidean import Euclidean
from holonomy.geometry.lorentz import Lorentz
from holonomy.geometry.manifold import Manifold
from holonomy.geometry.poincare import Poincare
from holonomy.geometry.product import Product
from holonomy.geometry.sphere import Sphere
from holonomy.geometry.wrapped import WrappedNormal

K = -0.7
SCALE = torch.tensor([0.5, 0.3], dtype=torch.float64)


def polar_grid(reach: float) -> tuple[Tensor, Tensor, Tensor]:
    """Directions and radii around the origin, and the Euclidean area r dr dtheta / r of each cell."""
    r = (torch.arange(800, dtype=torch.float64) + 0.5) * (reach / 800)
    angle = torch.arange(200, dtype=torch.float64) * (2 * math.pi / 200)
    directions = torch.stack([angle.cos(), angle.sin()], -1)
    return r[:, None, None] * directions, r[:, None].expand(800, 200), torch.tensor(reach / 800 * 2 * math.pi / 200)


@pytest.mark.parametrize("manifold", [Poincare(K), Lorentz(K), Sphere(-K), Euclidean()], ids=repr)
def test_density_integrates_to_one(manifold: Manifold) -> None:
    """In polar coordinates around the origin, while the mean is elsewhere."""
    origin = manifold.origin(2, dtype=torch.float64)
    mean = manifold.exp(origin, manifold.from_frame(torch.tensor([0.4, -0.3], dtype=torch.float64)))
    reach = math.pi / math.sqrt(-K) if isinstance(manifold, Sphere) else 7.0
    a, r, cell = polar_grid(reach)
    v = manifold.from_frame(a)
    x = manifold.exp(origin.expand_as(v), v)
    root = math.sqrt(-K)
    area = {Sphere: (root * r).sin() / root, Euclidean: r}.get(type(manifold), (root * r).sinh() / root)
    total = (WrappedNormal(manifold, mean, SCALE).log_prob(x).exp() * area * cell).sum()
    assert abs(float(total) - 1) < 2e-3


def test_models_of_hyperbolic_space_agree() -> None:
    k = torch.tensor(K, dtype=torch.float64)
    ball, sheet = Poincare(K), Lorentz(K)
    mean = torch.tensor([0.3, 0.2], dtype=torch.float64)
    x = torch.tensor([[0.1, -0.4], [0.7, 0.5]], dtype=torch.float64)
    a = WrappedNormal(ball, mean, SCALE).log_prob(x)
    b = WrappedNormal(sheet, lorentz.from_ball(mean, k), SCALE).log_prob(lorentz.from_ball(x, k))
    assert (a - b).abs().max() < 1e-12


def test_entropy_of_samples_is_that_of_the_density() -> None:
    """Mean of the log density over samples against the integral of p log p."""
    manifold = Poincare(K)
    law = WrappedNormal(manifold, torch.zeros(2, dtype=torch.float64), SCALE)
    samples = law.sample(40_000, generator=torch.Generator().manual_seed(0))
    a, r, cell = polar_grid(7.0)
    v = manifold.from_frame(a)
    log_p = law.log_prob(manifold.exp(torch.zeros_like(v), v))
    area = (math.sqrt(-K) * r).sinh() / math.sqrt(-K)
    expected = float((log_p.exp() * log_p * area * cell).sum())
    found = law.log_prob(samples)
    assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / 200 + 1e-3


def test_products_add_and_gradients_flow() -> None:
    manifold = Product([(Poincare(K), 2), (Euclidean(), 1)])
    mean = torch.tensor([0.1, 0.2, -1.0], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.5, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    law = WrappedNormal(manifold, mean, scale)
    x = law.sample(7, generator=torch.Generator().manual_seed(1))
    parts = WrappedNormal(Poincare(K), mean[:2], scale[:2]).log_prob(x[:, :2])
    parts = parts + torch.distributions.Normal(mean[2], scale[2]).log_prob(x[:, 2])
    assert (law.log_prob(x) - parts).abs().max() < 1e-12
    law.log_prob(x).sum().backward()
    assert mean.grad is not None
    assert scale.grad is not None
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(scale.grad).all()


def test_scales_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="scale"):
        WrappedNormal(Poincare(), torch.zeros(2), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("manifold", [Poincare(K), Lorentz(K), Sphere(-K), Euclidean()], ids=repr)
def test_random_points_lie_on_the_manifold(manifold: Manifold, dtype: torch.dtype) -> None:
    x = manifold.random(500, dim=3, std=0.4, generator=torch.Generator().manual_seed(0), dtype=dtype)
    manifold.check_point(x)
    r = manifold.dist(manifold.origin(3, dtype=dtype).expand_as(x), x)
    assert abs(float(r.square().mean()) / (3 * 0.4**2) - 1) < 0.1
