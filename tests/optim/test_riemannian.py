"""Riemannian optimisers: on the manifold, down to the Karcher mean, and not the same as Adam."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.geometry import lorentz, normal
from holonomy.geometry.euclidean import Euclidean
from holonomy.geometry.lorentz import Lorentz
from holonomy.geometry.manifold import Manifold
from holonomy.geometry.poincare import Poincare
from holonomy.geometry.sphere import Sphere
from holonomy.optim.riemannian import NormalAdam, RiemannianAdam, RiemannianSGD

MANIFOLDS = [Poincare(-0.7), Lorentz(-0.7), Sphere(0.7), Euclidean()]


def cloud(manifold: Manifold) -> Tensor:
    return manifold.random(12, dim=3, std=0.5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
@pytest.mark.parametrize("kind", [RiemannianSGD, RiemannianAdam])
def test_descends_to_the_karcher_mean(manifold: Manifold, kind: type) -> None:
    points = cloud(manifold)
    start = manifold.random(dim=3, std=1.0, generator=torch.Generator().manual_seed(1))
    x = torch.nn.Parameter(start.clone())
    extra = {"momentum": 0.5} if kind is RiemannianSGD else {}
    optimiser = kind([x], manifold, lr=0.05, **extra)
    for step in range(600):
        if step == 300:
            optimiser.param_groups[0]["lr"] = 0.002
        optimiser.zero_grad()
        manifold.dist(x.expand_as(points), points).square().mean().backward()
        optimiser.step()
        manifold.check_point(x.detach())
    assert float(manifold.dist(x.detach(), manifold.midpoint(points))) < 1e-3


def test_flat_space_with_one_coordinate_is_plain_adam() -> None:
    x, y = (torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64)) for _ in range(2))
    mine = RiemannianAdam([x], Euclidean(), lr=0.1)
    plain = torch.optim.Adam([y], lr=0.1)
    for _ in range(50):
        for p, optimiser in ((x, mine), (y, plain)):
            optimiser.zero_grad()
            (p**4 - p).sum().backward()
            optimiser.step()
    assert abs(float(x.detach() - y.detach())) < 1e-12


def test_where_it_differs_from_adam() -> None:
    """Pulled outward, plain Adam leaves the ball; the Riemannian one never does."""
    ball = Poincare(-1.0)
    target = torch.tensor([0.999999, 0.0], dtype=torch.float64)
    inside, loose = (torch.nn.Parameter(torch.tensor([0.9, 0.1], dtype=torch.float64)) for _ in range(2))
    mine = RiemannianAdam([inside], ball, lr=0.3)
    plain = torch.optim.Adam([loose], lr=0.3)
    left = False
    for _ in range(40):
        for p, optimiser in ((inside, mine), (loose, plain)):
            optimiser.zero_grad()
            (p - target).square().sum().backward()
            optimiser.step()
        left = left or float(loose.detach().norm()) >= 1
        ball.check_point(inside.detach())
    assert left


def test_a_rotation_of_the_problem_rotates_the_path() -> None:
    """Equivariance under isometries, which coordinate-wise Adam does not have."""
    ball = Poincare(-1.0)
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    points = cloud(ball)

    def path(rotation: Tensor, kind: str) -> Tensor:
        x = torch.nn.Parameter(torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64) @ rotation)
        optimiser = RiemannianAdam([x], ball, lr=0.05) if kind == "riemannian" else torch.optim.Adam([x], lr=0.05)
        for _ in range(20):
            optimiser.zero_grad()
            ball.dist(x.expand_as(points), points @ rotation).sum().backward()
            optimiser.step()
        return x.detach()

    identity = torch.eye(3, dtype=torch.float64)
    assert (path(identity, "riemannian") @ q - path(q, "riemannian")).abs().max() < 1e-10
    assert (path(identity, "plain") @ q - path(q, "plain")).abs().max() > 1e-3


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="not on"):
        RiemannianSGD([torch.nn.Parameter(torch.tensor([2.0, 0.0]))], Poincare(), lr=0.1)
    with pytest.raises(ConfigError, match="lr"):
        RiemannianAdam([torch.nn.Parameter(torch.zeros(2))], Poincare(), lr=0.0)


def test_normal_coordinates_step_as_far_and_where_steepest() -> None:
    """Adam's first step has length lr along the gradient: here the end of the geodesic, up to lr^2."""
    k = torch.tensor(-0.7, dtype=torch.float64)
    sheet = Lorentz(k)
    start = torch.randn(20, 3, generator=torch.Generator().manual_seed(3)).double() * 2
    target = lorentz.from_normal(torch.tensor([0.3, -1.0, 0.2], dtype=torch.float64), k)
    off = []
    for lr in (1e-2, 1e-3):
        v = torch.nn.Parameter(start.clone())
        optimiser = NormalAdam([v], k, lr=lr, max_radius=20.0, eps=0.0)
        x = lorentz.from_normal(v, k)
        sheet.dist(x, target.expand_as(x)).sum().backward()
        optimiser.step()
        x = x.detach()
        towards = sheet.log(x, target.expand_as(x))
        wanted = sheet.exp(x, lr * towards / sheet.norm(x, towards)[:, None])
        off.append(float(sheet.dist(lorentz.from_normal(v.detach(), k), wanted).max()))
    assert off[0] < 2e-4
    assert off[1] < off[0] / 50


def test_normal_coordinates_work_far_out() -> None:
    """At radius 22 a ball's own coordinates keep 7 digits and its transport none: points still meet."""
    k = torch.tensor(-1.0, dtype=torch.float64)
    start = 22 * torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 1e-8]], dtype=torch.float64), dim=1)
    v = torch.nn.Parameter(start.clone())
    optimiser = NormalAdam([v], k, lr=0.05, max_radius=23.0)
    begin = float(normal.dist(v[0], v[1], k).detach())
    for _ in range(200):
        optimiser.zero_grad()
        (normal.dist(v[0], v[1], k) - 0.5).square().backward()
        optimiser.step()
    assert begin > 5
    assert float(normal.dist(v[0], v[1], k).detach()) == pytest.approx(0.5, abs=0.05)
    optimiser = NormalAdam([v], k, lr=2.0, max_radius=23.0)
    for _ in range(5):
        optimiser.zero_grad()
        (-v.norm(dim=1)).sum().backward()
        optimiser.step()
    assert v.detach().norm(dim=1).tolist() == pytest.approx([23.0, 23.0])
    with pytest.raises(ConfigError, match="lr"):
        NormalAdam([v], k, lr=0.0, max_radius=23.0)
