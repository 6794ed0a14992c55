"""The hyperboloid of curvature k < 0: -x_0^2 + |x_s|^2 = 1 / k, x_0 > 0, with the Minkowski product.

Sources: Nickel & Kiela (2018) for exp, log and the product; Ratcliffe (2006, chapter 3). Our convention: the time
coordinate comes first, and everything goes through the squared chord q = <x - y, x - y>, from which
d = (2 / sqrt c) asinh(sqrt(c q) / 2): unlike arcosh of the product it keeps its digits for near pairs, and unlike
ball coordinates for far ones. The spatial part is the truth; x_0 follows from it.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.numerics import asinhc, safe_norm, safe_sqrt, sinhc, square_norm, tanhc, widened
from holonomy.geometry.manifold import ConstantCurvature, check_real, check_same, hyperbolic_log_volume
from holonomy.geometry.poincare import gap
from holonomy.geometry.rows import by_rows
from holonomy.geometry.sheet import sheet_dist_kernel


def lift(xs: Float[Tensor, "... n"], k: Tensor) -> Float[Tensor, "... n1"]:
    """The point with spatial part xs."""
    return torch.cat([(square_norm(xs) - 1 / k).sqrt(), xs], -1)


def minkowski(u: Float[Tensor, "... d"], v: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
    """-u_0 v_0 + u_s . v_s."""
    return (u * v)[..., 1:].sum(-1, keepdim=True) - (u * v)[..., :1]


def chord(xs: Float[Tensor, "... n"], ys: Float[Tensor, "... n"], k: Tensor) -> Float[Tensor, "... 1"]:
    """Squared chord <x - y, x - y> of the points with spatial parts xs and ys, accurate near and far.

    With D = xs - ys, s = xs + ys, t = x_0 + y_0, D = D' + p s / |s| and D' orthogonal to s:
    q = (|D'|^2 t^2 + 4 p^2 / c) / ((t - p)(t + p)), where t - p and t + p are sums of positive terms. Nothing nearly
    equal is subtracted. Only pairs on opposite sides, where the direction of s means nothing, take
    |D|^2 - (p |s| / t)^2, which is then the safe one.
    """
    difference, s = xs - ys, xs + ys
    length = safe_norm(s)
    direction = s / length.clamp_min(torch.finfo(xs.dtype).tiny)
    (x0, x_plus, x_minus), (y0, y_plus, y_minus) = (_light_cone(a, direction, k) for a in (xs, ys))
    t = x0 + y0
    p = (difference * direction).sum(-1, keepdim=True)
    across = square_norm(difference - p * direction)
    beside = (across * t.square() - 4 * p.square() / k) / ((x_minus + y_plus) * (x_plus + y_minus))
    opposite = square_norm(difference) - (p * length / t).square()
    return torch.where(4 * length.square() < t.square(), opposite, beside).clamp_min(0)


def _light_cone(xs: Tensor, direction: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x_0, x_0 + a and x_0 - a for a = xs . direction; the small one from the product of both."""
    a = (xs * direction).sum(-1, keepdim=True)
    x0 = (square_norm(xs) - 1 / k).sqrt()
    big = x0 + a.abs()
    small = (square_norm(xs - a * direction) - 1 / k) / big
    return x0, torch.where(a >= 0, big, small), torch.where(a >= 0, small, big)


def dist(x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, ...]:
    """(2 / sqrt c) asinh(sqrt(c q) / 2), in float64 inside."""
    return by_rows(sheet_dist_kernel, plain_sheet_dist, k, x, y)


def plain_sheet_dist(x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, ...]:
    """`dist` by tensor operations, for any device, shape and derivative."""
    xs, ys, wide = widened(x[..., 1:], y[..., 1:], k)
    q = chord(xs, ys, wide)
    return (safe_sqrt(q) * asinhc(-wide * q / 4)).squeeze(-1).to(x.dtype)


def exp(x: Float[Tensor, "... d"], v: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """cosh(sqrt c |v|) x + sinh(sqrt c |v|) v / (sqrt c |v|), put back on the hyperboloid."""
    s = -k * minkowski(v, v).clamp_min(0)
    # cosh a = 1 + 2 sinh(a / 2)^2, so that a small step is not lost beside x.
    moved = x + (s / 2) * sinhc(s / 4).square() * x + sinhc(s) * v
    return lift(moved[..., 1:], k)


def log(x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """The tangent u = y - x + (k q / 2) x at x, scaled to the distance."""
    q = chord(x[..., 1:], y[..., 1:], k)
    h = -k * q / 4
    return (y - x + (k * q / 2) * x) * (asinhc(h) / (1 + h).sqrt())


def transport(
    x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], v: Float[Tensor, "... d"], k: Tensor
) -> Float[Tensor, "... d"]:
    """v + <y, v> / (2 / c + q / 2) (x + y)."""
    return v + minkowski(y, v) / (chord(x[..., 1:], y[..., 1:], k) / 2 - 2 / k) * (x + y)


def to_ball(x: Float[Tensor, "... n1"], k: Tensor) -> Float[Tensor, "... n"]:
    """Stereographic projection x_s / (1 + sqrt(c) x_0)."""
    return x[..., 1:] / (1 + (-k).sqrt() * x[..., :1])


def from_ball(x: Float[Tensor, "... n"], k: Tensor) -> Float[Tensor, "... n1"]:
    """Inverse of `to_ball`."""
    return lift(2 * x / gap(x, k), k)


def from_normal(v: Float[Tensor, "... n"], k: Tensor) -> Float[Tensor, "... n1"]:
    """The point at distance |v| from the origin in direction v."""
    return lift(v * sinhc(-k * square_norm(v)), k)


def to_normal(x: Float[Tensor, "... n1"], k: Tensor) -> Float[Tensor, "... n"]:
    """Inverse of `from_normal`."""
    return x[..., 1:] * asinhc(-k * square_norm(x[..., 1:]))


def ball_to_normal_scale(s: Float[Tensor, "... 1"], k: Tensor) -> Float[Tensor, "... 1"]:
    """Factor from normal coordinates of squared length s to the ball: tanh(sqrt c r / 2) / (sqrt c r)."""
    return tanhc(-k * s / 4) / 2


class Lorentz(ConstantCurvature):
    """The hyperboloid with its curvature bound; the curvature receives gradients if it is a tensor that wants them.

    Args:
        k: curvature, below zero.

    Raises:
        ConfigError: k is not below zero.
    """

    sign = -1
    functions: ClassVar = {"dist": dist, "exp": exp, "log": log, "transport": transport}

    def __init__(self, k: Tensor | float = -1.0) -> None:
        super().__init__(k)

    def project(self, x: Tensor) -> Tensor:
        """Keeps the spatial part."""
        return lift(x[..., 1:], self.k.to(x))

    def project_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """v + c <x, v> x."""
        return v - self.k.to(x) * minkowski(x, v) * x

    def dist0(self, x: Tensor) -> Tensor:
        """Distance from the origin, asinh(sqrt c |x_s|) / sqrt c, in float64 inside."""
        check_real(x=x)
        xs, wide = widened(x[..., 1:], self.k)
        s = square_norm(xs)
        return (safe_sqrt(s) * asinhc(-wide * s)).squeeze(-1).to(x.dtype)

    def exp0(self, v: Tensor) -> Tensor:
        """The point at distance |v|; unlike `exp`, with all digits near the origin."""
        return from_normal(v[..., 1:], self.k.to(v))

    def log0(self, x: Tensor) -> Tensor:
        """The tangent with the direction of x_s and its distance; its time part is 0 exactly."""
        return self.from_frame(to_normal(x, self.k.to(x)))

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The Minkowski product."""
        check_same(x=x, u=u, v=v)
        return minkowski(u, v).squeeze(-1)

    def origin(self, dim: int, *, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        """(1 / sqrt c, 0, ..., 0) with `dim` spatial coordinates."""
        return lift(torch.zeros(dim, dtype=dtype, device=device), self.k.to(dtype=dtype, device=device))

    def gradient(self, x: Tensor, slope: Tensor) -> Tensor:
        """The slope with its time part turned round, made tangent."""
        turned = torch.cat([-slope[..., :1], slope[..., 1:]], -1)
        return self.project_tangent(x, turned)

    def from_frame(self, a: Tensor) -> Tensor:
        """(0, a)."""
        return torch.nn.functional.pad(a, (1, 0))

    def to_frame(self, v: Tensor) -> Tensor:
        """The spatial part."""
        return v[..., 1:]

    def log_volume(self, a: Tensor) -> Tensor:
        """As in every space of this curvature."""
        return hyperbolic_log_volume(a, self.k.to(a))

    def fault(self, x: Tensor) -> str | None:
        """Points must satisfy the equation up to rounding, on the upper sheet."""
        off = (self.k.to(x) * minkowski(x, x) - 1).abs() / (1 - self.k.to(x) * x[..., :1].square())
        worst = float(off.max())
        if not worst <= 16 * torch.finfo(x.dtype).eps:
            return f"c <x, x> + 1 is off by {worst:.1e} of its terms"
        return None if bool((x[..., 0] > 0).all()) else "the time coordinate is not positive"
