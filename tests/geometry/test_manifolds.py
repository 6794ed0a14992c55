"""One axiom suite for all manifolds, gradients at the edges, and means."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.geometry import lorentz, normal, poincare
from holonomy.geometry.euclidean import Euclidean
from holonomy.geometry.lorentz import Lorentz
from holonomy.geometry.manifold import Manifold
from holonomy.geometry.poincare import Poincare
from holonomy.geometry.product import Product
from holonomy.geometry.spd import SPD
from holonomy.geometry.sphere import Sphere
from holonomy.testing import assert_equivariant, assert_isometry, assert_manifold_axioms

DIM = 3
MANIFOLDS: dict[str, Callable[[float], Manifold]] = {
    "euclidean": lambda k: Euclidean(),
    "poincare": Poincare,
    "lorentz": Lorentz,
    "sphere": lambda k: Sphere(-k),
    "spd": lambda k: SPD(),
    "product": lambda k: Product([(Poincare(k), 2), (Lorentz(k), 3), (Sphere(-k), 3), (Euclidean(), 2)]),
}


def size(name: str, k: float) -> float:
    """Length of the space by which points are spread: matrices have a curvature of their own."""
    return 1.0 if name == "spd" else (-k) ** -0.5


TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-11}


def origin(manifold: Manifold, dtype: torch.dtype) -> Tensor:
    return manifold.origin(2 + 2 + 2 + 2 if isinstance(manifold, Product) else DIM, dtype=dtype)


def points(manifold: Manifold, count: int, radius: float, dtype: torch.dtype, seed: int) -> list[Tensor]:
    """Three arrays of points within `radius` of the origin, and two of tangents of length about `radius`."""
    generator = torch.Generator().manual_seed(seed)
    start = origin(manifold, torch.float64).expand(count, -1)
    arrays = []
    for _ in range(5):
        v = manifold.project_tangent(start, torch.randn(start.shape, generator=generator, dtype=torch.float64))
        scaled = v / manifold.norm(start, v)[:, None] * radius * torch.rand(count, 1, generator=generator).double()
        arrays.append(scaled)
    made = [manifold.exp(start, a).to(dtype) for a in arrays[:3]]
    made = [manifold.project(x) for x in made]
    tangents = [manifold.transport(start.to(dtype), made[0], a.to(dtype)) for a in arrays[3:]]
    return made + tangents


@pytest.mark.parametrize("name", MANIFOLDS)
@pytest.mark.parametrize("k", [-1e-3, -0.7, -1.0, -10.0])
def test_axioms(name: str, k: float, dtype: torch.dtype) -> None:
    manifold = MANIFOLDS[name](k)
    x, y, z, u, v = points(manifold, 200, 1.4 * size(name, k), dtype, seed=1)
    # Relative to the size of the space: coordinates grow like 1 / sqrt(-k).
    assert_manifold_axioms(manifold, x, y, z, u, v, tolerance=TOLERANCE[dtype] * max(1.0, size(name, k)))


@given(st.sampled_from(sorted(MANIFOLDS)), st.floats(-10, -1e-3), st.integers(0, 10**6), st.floats(1e-6, 1.4))
def test_axioms_for_any_curvature_and_size(name: str, k: float, seed: int, radius: float) -> None:
    manifold = MANIFOLDS[name](k)
    made = points(manifold, 4, radius * size(name, k), torch.float64, seed)
    assert_manifold_axioms(manifold, *made, tolerance=1e-10 * max(1.0, size(name, k)))


@pytest.mark.parametrize("name", MANIFOLDS)
def test_the_metric_measures_small_steps(name: str) -> None:
    manifold = MANIFOLDS[name](-0.7)
    x, _, _, u, _ = points(manifold, 50, 1.0, torch.float64, seed=2)
    step = 1e-6
    found = manifold.dist(x, manifold.exp(x, step * u)) / step
    assert (found - manifold.norm(x, u)).abs().max() < 1e-8


def test_distance_from_the_origin_is_the_length_of_the_tangent(dtype: torch.dtype) -> None:
    for name, make in MANIFOLDS.items():
        manifold = make(-0.7)
        x, *_ = points(manifold, 50, 1.5, dtype, seed=3)
        start = origin(manifold, dtype).expand_as(x)
        v = manifold.log(start, x)
        assert (manifold.norm(start, v) - manifold.dist(start, x)).abs().max() <= TOLERANCE[dtype], name
        assert (manifold.dist0(x) - manifold.dist(start, x)).abs().max() <= TOLERANCE[dtype], name
        assert (manifold.log0(x) - v).abs().max() <= TOLERANCE[dtype], name
        assert (manifold.exp0(v) - x).abs().max() <= 4 * TOLERANCE[dtype], name
    x, *_ = points(Poincare(-0.7), 50, 1.5, dtype, seed=3)
    k = torch.tensor(-0.7, dtype=dtype)
    assert (poincare.dist0(x, k) - poincare.dist(torch.zeros_like(x), x, k)).abs().max() <= TOLERANCE[dtype]
    assert (poincare.log0(x, k) - poincare.log(torch.zeros_like(x), x, k)).abs().max() <= TOLERANCE[dtype]
    assert (poincare.exp0(poincare.log0(x, k), k) - x).abs().max() <= TOLERANCE[dtype]


def test_models_of_hyperbolic_space_are_isometric(dtype: torch.dtype) -> None:
    k = torch.tensor(-0.7, dtype=dtype)
    ball, sheet = Poincare(-0.7), Lorentz(-0.7)
    x, y, *_ = points(ball, 100, 2.0, dtype, seed=4)
    assert_isometry(lambda a: lorentz.from_ball(a, k), ball, sheet, x, y, tolerance=TOLERANCE[dtype])
    up = lorentz.from_ball(x, k), lorentz.from_ball(y, k)
    assert_isometry(lambda a: lorentz.to_ball(a, k), sheet, ball, *up, tolerance=TOLERANCE[dtype])
    flat = normal.from_ball(x, k), normal.from_ball(y, k)
    for a, b in zip(flat, (x, y), strict=True):
        assert (lorentz.to_ball(lorentz.from_normal(a, k), k) - b).abs().max() <= TOLERANCE[dtype]
        assert (normal.to_ball(lorentz.to_normal(lorentz.from_ball(b, k), k), k) - b).abs().max() <= TOLERANCE[dtype]
        assert (a.norm(dim=-1) - poincare.dist0(b, k)).abs().max() <= TOLERANCE[dtype]
    assert (normal.dist(*flat, k) - ball.dist(x, y)).abs().max() <= TOLERANCE[dtype]


def test_rotations_commute_with_exp(dtype: torch.dtype) -> None:
    ball = Poincare(-1.0)
    x, _, _, u, _ = points(ball, 20, 1.0, dtype, seed=5)
    q, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    q = q.to(dtype)
    assert_equivariant(lambda v: ball.exp(x, v), lambda v: v @ q, lambda y: y, u * 0, tolerance=1e-7)
    assert_equivariant(lambda a: ball.exp(a, 0.3 * a), lambda a: a @ q, lambda y: y @ q, x, tolerance=TOLERANCE[dtype])


def test_gyration_is_the_defect_of_associativity() -> None:
    k = torch.tensor(-0.7, dtype=torch.float64)
    x, y, z, *_ = points(Poincare(-0.7), 50, 1.0, torch.float64, seed=6)
    add = lambda a, b: poincare.mobius_add(a, b, k)  # noqa: E731
    expected = add(-add(x, y), add(x, add(y, z)))
    assert (poincare.gyration(x, y, z, k) - expected).abs().max() < 1e-13


SIZES = (0.0, 1e-30, 1e-15, 1e-7, 0.5)


@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_finite_at_zero_and_nearby(size: float, dtype: torch.dtype) -> None:
    for name, make in MANIFOLDS.items():
        manifold = make(-0.7)
        start = origin(manifold, dtype)
        v = manifold.project_tangent(start, torch.ones_like(start) * size).requires_grad_()
        y = manifold.exp(start, v)
        total = manifold.dist(start, y) + manifold.log(start, y).sum() + manifold.inner(start, v, v)
        total.backward()
        assert v.grad is not None
        assert torch.isfinite(v.grad).all(), name


def test_gradients_are_finite_at_the_boundary(dtype: torch.dtype) -> None:
    k = torch.tensor(-1.0, dtype=dtype, requires_grad=True)
    x = poincare.project(torch.tensor([[3.0, 4.0], [1e30, 0.0], [0.6, 0.8]], dtype=dtype), k.detach())
    assert (x.norm(dim=-1) < 1).all()
    x.requires_grad_()
    y = torch.tensor([0.1, -0.2], dtype=dtype).expand_as(x)
    (poincare.dist(x, y, k) + poincare.log(x, y, k).sum(-1)).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert k.grad is not None
    assert torch.isfinite(k.grad)


@pytest.mark.parametrize("module", [poincare, lorentz])
def test_gradcheck_with_curvature(module) -> None:
    manifold = Poincare(-0.7) if module is poincare else Lorentz(-0.7)
    x, y, _, u, _ = (a.requires_grad_() for a in points(manifold, 3, 1.0, torch.float64, seed=7))
    k = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    for function, arguments in (
        (module.dist, (x, y, k)),
        (module.exp, (x, u, k)),
        (module.log, (x, y, k)),
        (lambda a, b, c, d: module.transport(a, b, c, d), (x, y, u, k)),
    ):
        assert torch.autograd.gradcheck(function, arguments, atol=1e-6)


def test_curvature_can_be_learned() -> None:
    k = torch.nn.Parameter(torch.tensor(-0.3))
    x, y = torch.tensor([0.2, 0.1]), torch.tensor([-0.3, 0.4])
    target = Poincare(-1.0).dist(x, y)
    optimiser = torch.optim.Adam([k], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        (Poincare(k).dist(x, y) - target).square().backward()
        optimiser.step()
    assert abs(float(k.detach()) + 1) < 1e-2


@pytest.mark.parametrize("name", MANIFOLDS)
def test_mean_minimises_the_sum_of_squared_distances(name: str) -> None:
    manifold = MANIFOLDS[name](-0.7)
    x, *_ = points(manifold, 6, 1.0, torch.float64, seed=8)
    weights = torch.arange(1.0, 7.0, dtype=torch.float64)
    mean = manifold.midpoint(x, weights)
    manifold.check_point(mean)

    def spread(at: Tensor) -> float:
        return float((weights * manifold.dist(at.expand_as(x), x).square()).sum())

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        v = manifold.project_tangent(mean, torch.randn(mean.shape, generator=generator, dtype=torch.float64))
        assert spread(manifold.exp(mean, 1e-3 * v)) > spread(mean)
    middle = manifold.midpoint(x[:2])
    assert abs(float(manifold.dist(middle, x[0]) - manifold.dist(middle, x[1]))) < 1e-10


@pytest.mark.parametrize("name", ["poincare", "lorentz"])
@pytest.mark.parametrize("radius", [3.0, 6.0, 9.0])
@pytest.mark.parametrize("k", [-0.1, -1.0, -10.0])
def test_means_of_points_that_are_far_apart(name: str, k: float, radius: float) -> None:
    manifold, generator = MANIFOLDS[name](k), torch.Generator().manual_seed(2)
    x, *_ = points(manifold, 12, radius * size(name, k), torch.float64, seed=1)
    mean = manifold.midpoint(x)
    directions = manifold.project_tangent(mean, torch.randn(20, *mean.shape, generator=generator).double())
    directions = 1e-3 * directions / manifold.norm(mean, directions)[:, None]

    def spread(v: Tensor) -> Tensor:
        ends = manifold.exp(mean.expand_as(v), v)
        return manifold.dist(ends[:, None].expand(-1, len(x), -1), x.expand(len(v), -1, -1)).square().sum(-1)

    least = spread(torch.zeros_like(directions))
    slopes = (spread(directions) - spread(-directions)) / 2e-3
    assert (slopes.abs() <= 1e-6 * least).all()
    assert (spread(directions) > least).all()


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: Poincare(0.0), "below zero"),
        (lambda: Lorentz(1.0), "below zero"),
        (lambda: Sphere(-1.0), "above zero"),
        (lambda: Product([]), "empty"),
        (lambda: Poincare(-4.0).check_point(torch.tensor([0.6, 0.0])), r"reaches 1\.2.*project"),
        (lambda: Sphere().check_point(torch.tensor([1.0, 0.1])), "off by"),
        (lambda: Lorentz().check_point(torch.tensor([1.0, 0.5])), "off by"),
        (lambda: Lorentz().check_point(-Lorentz().origin(2, dtype=torch.float32)), "not positive"),
        (lambda: SPD().check_point(torch.tensor([1.0, 1.0, 2.0])), "eigenvalue is -0.4"),
        (lambda: SPD().check_point(torch.tensor([1.0, math.inf, 0.0])), "not finite"),
        (lambda: SPD().dist(torch.ones(4), torch.ones(4)), "4 coordinates"),
        (lambda: Euclidean().check_point(torch.tensor([math.nan])), "not finite"),
        (lambda: Poincare().dist(torch.zeros(2), torch.zeros(3)), "3 coordinates"),
        (lambda: Poincare().dist(torch.zeros(2), torch.zeros(2).double()), "dtype"),
        (lambda: Product([(Poincare(), 2)]).dist(torch.zeros(3), torch.zeros(3)), "wants 2"),
        (lambda: Sphere().dist(*torch.eye(2, dtype=torch.int64)), "`x` has dtype torch.int64.*float"),
        (lambda: Lorentz().dist0(torch.zeros(3, dtype=torch.int64)), "`x` has dtype torch.int64"),
    ],
)
def test_wrong_input_is_explained(act: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        act()


def test_what_is_wrong_with_a_point_can_be_asked() -> None:
    assert Poincare().check_point(torch.tensor([0.6, 0.0]), explain=True) is None
    words = Poincare(-4.0).check_point(torch.tensor([0.6, 0.0]), explain=True)
    assert words is not None
    assert "reaches 1.2" in words and "`project`" in words


def test_the_axiom_suite_catches_a_broken_manifold() -> None:
    class Twisted(Poincare):
        def dist(self, x: Tensor, y: Tensor) -> Tensor:
            return super().dist(x, y) * (1 + 1e-6)

    class Careless(Poincare):
        def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
            return v

    made = points(Poincare(-1.0), 10, 1.0, torch.float64, seed=9)
    for broken, words in ((Twisted(-1.0), "log"), (Careless(-1.0), "transport")):
        with pytest.raises(AssertionError, match=words):
            assert_manifold_axioms(broken, *made, tolerance=1e-9)
