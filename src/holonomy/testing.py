"""Checks that users' own manifolds and integrators can be held to; each raises AssertionError with the figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from holonomy.geometry.manifold import Manifold


def assert_close(name: str, found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """|found - wanted| <= tolerance (1 + |wanted|), elementwise.

    Raises:
        AssertionError: names the quantity and the worst deviation.
    """
    off = ((found - wanted).abs() / (1 + wanted.abs())).max()
    if not float(off) <= tolerance:
        raise AssertionError(f"{name}: off by {float(off):.2e}, at most {tolerance:.0e} was wanted")


def assert_manifold_axioms(
    manifold: Manifold, x: Tensor, y: Tensor, z: Tensor, u: Tensor, v: Tensor, *, tolerance: float
) -> None:
    """Holds a manifold to what every one must satisfy.

    Args:
        manifold: the manifold.
        x, y, z: points, [n, d], pairwise nearer than the injectivity radius.
        u, v: vectors, [n, d]; their tangent parts at x are used.
        tolerance: for relative deviations; use more for float32 than for float64.

    Raises:
        AssertionError: names the axiom that fails and by how much.
    """
    u, v = manifold.project_tangent(x, u), manifold.project_tangent(x, v)
    for point in (x, y, z, manifold.exp(x, u)):
        manifold.check_point(point)
    _check_distance(manifold, x, y, z, tolerance)
    _check_exponential(manifold, x, y, u, tolerance)
    _check_transport(manifold, x, y, u, v, tolerance)


def _check_distance(manifold: Manifold, x: Tensor, y: Tensor, z: Tensor, tolerance: float) -> None:
    xy, yz, xz = manifold.dist(x, y), manifold.dist(y, z), manifold.dist(x, z)
    assert_close("dist(x, y) = dist(y, x)", manifold.dist(y, x), xy, tolerance)
    assert_close("dist(x, x) = 0", manifold.dist(x, x), torch.zeros_like(xy), tolerance)
    assert_close("triangle inequality", torch.relu(xz - xy - yz), torch.zeros_like(xy), tolerance)
    assert_close("projecting twice is projecting once", manifold.project(manifold.project(x)), x, tolerance)
    for t in (0.25, 0.5, 1.0):
        along = manifold.dist(x, manifold.geodesic(x, y, t))
        assert_close(f"geodesic has constant speed, t = {t}", along, t * xy, tolerance)


def _check_exponential(manifold: Manifold, x: Tensor, y: Tensor, u: Tensor, tolerance: float) -> None:
    log = manifold.log(x, y)
    assert_close("log is tangent", manifold.project_tangent(x, log), log, tolerance)
    assert_close("|log(x, y)| = dist(x, y)", manifold.norm(x, log), manifold.dist(x, y), tolerance)
    assert_close("exp(x, log(x, y)) = y", manifold.exp(x, log), y, tolerance)
    assert_close("log(x, exp(x, u)) = u", manifold.log(x, manifold.exp(x, u)), u, tolerance)
    assert_close("exp(x, 0) = x", manifold.exp(x, torch.zeros_like(u)), x, tolerance)


def _check_transport(manifold: Manifold, x: Tensor, y: Tensor, u: Tensor, v: Tensor, tolerance: float) -> None:
    moved_u, moved_v = manifold.transport(x, y, u), manifold.transport(x, y, v)
    assert_close("transport is tangent", manifold.project_tangent(y, moved_u), moved_u, tolerance)
    kept = manifold.inner(y, moved_u, moved_v)
    assert_close("transport keeps inner products", kept, manifold.inner(x, u, v), tolerance)
    assert_close("transport there and back", manifold.transport(y, x, moved_u), u, tolerance)
    arrived = manifold.transport(x, y, manifold.log(x, y))
    assert_close("a geodesic transports its own velocity", arrived, -manifold.log(y, x), tolerance)


def assert_isometry(
    function: Callable[[Tensor], Tensor],
    source: Manifold,
    target: Manifold,
    x: Tensor,
    y: Tensor,
    *,
    tolerance: float,
) -> None:
    """dist(f(x), f(y)) = dist(x, y).

    Raises:
        AssertionError: by how much it fails.
    """
    assert_close("isometry", target.dist(function(x), function(y)), source.dist(x, y), tolerance)


def assert_equivariant(
    function: Callable[[Tensor], Tensor],
    before: Callable[[Tensor], Tensor],
    after: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    tolerance: float,
) -> None:
    """f(before(x)) = after(f(x)).

    Raises:
        AssertionError: by how much it fails.
    """
    assert_close("equivariance", function(before(x)), after(function(x)), tolerance)


def assert_symplectic(step: Callable[[Tensor], Tensor], state: Tensor, *, tolerance: float) -> None:
    """J^T W J = W for the Jacobian J of one step on (q, p), [2 n], and W = [[0, I], [-I, 0]].

    Raises:
        AssertionError: by how much it fails.
    """
    half = state.shape[0] // 2
    jacobian = torch.autograd.functional.jacobian(step, state)
    assert isinstance(jacobian, Tensor)
    identity = torch.eye(half, dtype=state.dtype)
    form = torch.zeros(2 * half, 2 * half, dtype=state.dtype)
    form[:half, half:], form[half:, :half] = identity, -identity
    assert_close("symplectic form", jacobian.T @ form @ jacobian, form, tolerance)


def assert_convergence_order(
    error: Callable[[float], float], sizes: Sequence[float], *, order: float, tolerance: float
) -> None:
    """The log-log slope of error against step size is the order.

    Raises:
        AssertionError: gives the slope.
    """
    xs, ys = [math.log(s) for s in sizes], [math.log(error(s)) for s in sizes]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(xs, ys, strict=True)) / sum((a - mean_x) ** 2 for a in xs)
    if abs(slope - order) > tolerance:
        raise AssertionError(f"the error falls with order {slope:.3f}, {order} was wanted")
