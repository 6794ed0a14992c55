"""The Poincare ball of curvature k < 0: |x| < 1 / sqrt(c), metric lambda(x)^2 |v|^2, lambda = 2 / (1 - c |x|^2).

Sources: Ungar (2008) for the gyrovector operations; Ganea, Becigneul & Hofmann (2018), equations 1 to 5. Our
convention: distances in the metric above, so d(0, x) = (2 / sqrt c) artanh(sqrt c |x|).

Float32 coordinates of the ball cannot tell radii apart beyond about 8: for points far out use `normal` or `lorentz`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.numerics import artanhc, asinhc, safe_norm, safe_sqrt, square_norm, tanhc, widened
from holonomy.geometry.compiled import FROM_ROWS, plain_only
from holonomy.geometry.gyro import dist_kernel, mobius_kernel
from holonomy.geometry.manifold import ConstantCurvature, check_same, hyperbolic_log_volume
from holonomy.geometry.pairwise import pairwise
from holonomy.geometry.radial import EDGE, dist0_kernel, exp0_kernel, log0_kernel
from holonomy.geometry.rows import by_rows


def gap(x: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... 1"]:
    """1 - c |x|^2, by (1 - r)(1 + r) with r = sqrt(c) |x|, which keeps its digits near the boundary."""
    r = (-k).sqrt() * safe_norm(x)
    return (1 - r) * (1 + r)


def project(x: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """Pulls points outside the ball back to just inside its boundary."""
    edge = EDGE[x.dtype] / (-k).sqrt()
    norm = safe_norm(x)
    return torch.where(norm > edge, x * (edge / norm.clamp_min(torch.finfo(x.dtype).tiny)), x)


def mobius_add(x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """x (+) y (Ganea et al., equation 1)."""
    return by_rows(mobius_kernel, plain_mobius_add, k, x, y)


def plain_mobius_add(x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """`mobius_add` by tensor operations, for any device, shape and derivative."""
    xy = 2 * (x * y).sum(-1, keepdim=True)
    xx, yy = square_norm(x), square_norm(y)
    return ((1 - k * (xy + yy)) * x + (1 + k * xx) * y) / (1 - k * xy + k * k * xx * yy)


def dist(x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, ...]:
    """(2 / sqrt c) asinh(sqrt c |x - y| / sqrt((1 - c |x|^2)(1 - c |y|^2))), in float64 inside.

    NaN where a point is outside the ball, infinite on its boundary; `Poincare.check_point` says which is wrong.
    """
    return by_rows(dist_kernel, plain_dist, k, x, y)


def dist0(x: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, ...]:
    """Distance from the origin, in float64 inside."""
    return by_rows(dist0_kernel, plain_dist0, k, x)


def plain_dist(x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, ...]:
    """`dist` by tensor operations, for any device, shape and derivative."""
    a, b, wide = widened(x, y, k)
    gap_a, gap_b = gap(a, wide), gap(b, wide)
    # Two points outside would have a product above zero.
    s = torch.where(torch.minimum(gap_a, gap_b) < 0, torch.nan, square_norm(a - b) / (gap_a * gap_b))
    return (2 * safe_sqrt(s) * asinhc(-wide * s)).squeeze(-1).to(x.dtype)


def pairwise_dist(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], k: Tensor) -> Float[Tensor, "n m"]:
    """`dist` between all points of two sets; on the CPU without an array of n x m x d."""
    check_same(x=x, y=y)
    suited = (
        not plain_only() and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and k.numel() == 1
    )
    many = x.shape[0] * y.shape[0] >= FROM_ROWS
    return pairwise(plain_pairwise_dist, k, x, y) if suited and many else plain_pairwise_dist(x, y, k)


def plain_pairwise_dist(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], k: Tensor) -> Float[Tensor, "n m"]:
    """`pairwise_dist` by tensor operations, for any device and derivative."""
    return plain_dist(x[:, None], y[None], k)


def plain_dist0(x: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, ...]:
    """`dist0` by tensor operations, for any device, shape and derivative."""
    a, wide = widened(x, k)
    s = square_norm(a)
    return (2 * safe_sqrt(s) * artanhc(-wide * s)).squeeze(-1).to(x.dtype)


def exp0(v: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """Exponential map at the origin; |v|_g = 2 |v| there. What rounding would put on the boundary stays just inside."""
    return by_rows(exp0_kernel, plain_exp0, k, v)


def plain_exp0(v: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """`exp0` by tensor operations, for any device, shape and derivative."""
    return project(v * tanhc(-k * square_norm(v)), k)


def log0(x: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """Logarithm at the origin."""
    return by_rows(log0_kernel, plain_log0, k, x)


def plain_log0(x: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """`log0` by tensor operations, for any device, shape and derivative."""
    return x * artanhc(-k * square_norm(x))


def exp(x: Float[Tensor, "... d"], v: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """Exponential map (Ganea et al., equation 3); what rounding would put on the boundary stays just inside."""
    return project(mobius_add(x, exp0(v / gap(x, k), k), k), k)


def log(x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """Logarithm (Ganea et al., equation 3)."""
    w = mobius_add(-x, y, k)
    return gap(x, k) * w * artanhc(-k * square_norm(w))


def gyration(
    x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], v: Float[Tensor, "... d"], k: Tensor
) -> Float[Tensor, "... d"]:
    """gyr[x, y] v in closed form (Ungar 2008, equation 1.27), linear in v."""
    xy, xv, yv = ((a * b).sum(-1, keepdim=True) for a, b in ((x, y), (x, v), (y, v)))
    xx, yy = square_norm(x), square_norm(y)
    a = -k * k * xv * yy - k * yv + 2 * k * k * xy * yv
    b = -k * k * yv * xx + k * xv
    return v + 2 * (a * x + b * y) / (1 - 2 * k * xy + k * k * xx * yy)


def transport(
    x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], v: Float[Tensor, "... d"], k: Tensor
) -> Float[Tensor, "... d"]:
    """Parallel transport lambda(x) / lambda(y) gyr[y, -x] v (Ungar 2008)."""
    return gyration(y, -x, v, k) * (gap(y, k) / gap(x, k))


class Poincare(ConstantCurvature):
    """The Poincare ball with its curvature bound; the curvature receives gradients if it is a tensor that wants them.

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
        """Pulls points outside the ball back inside."""
        return project(x, self.k.to(x))

    def dist0(self, x: Tensor) -> Tensor:
        """Distance from the centre."""
        return dist0(x, self.k.to(x))

    def exp0(self, v: Tensor) -> Tensor:
        """Exponential map at the centre."""
        return exp0(v, self.k.to(v))

    def log0(self, x: Tensor) -> Tensor:
        """Logarithm at the centre."""
        return log0(x, self.k.to(x))

    def project_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Every vector is tangent."""
        return v

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """lambda(x)^2 u.v."""
        check_same(x=x, u=u, v=v)
        return ((2 / gap(x, self.k.to(x))).square() * u * v).sum(-1)

    def origin(self, dim: int, *, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        """The centre."""
        return torch.zeros(dim, dtype=dtype, device=device)

    def gradient(self, x: Tensor, slope: Tensor) -> Tensor:
        """slope / lambda(x)^2."""
        return slope * (gap(x, self.k.to(x)) / 2).square()

    def from_frame(self, a: Tensor) -> Tensor:
        """a / 2, since |v|_g = 2 |v| at the origin."""
        return a / 2

    def to_frame(self, v: Tensor) -> Tensor:
        """2 v."""
        return 2 * v

    def log_volume(self, a: Tensor) -> Tensor:
        """As in every space of this curvature."""
        return hyperbolic_log_volume(a, self.k.to(a))

    def fault(self, x: Tensor) -> str | None:
        """Points must be finite and strictly inside."""
        reach = float(((-self.k.to(x)).sqrt() * safe_norm(x)).max())
        return None if reach < 1 else f"sqrt(c) |x| reaches {reach:.9g}, wanted less than 1"
