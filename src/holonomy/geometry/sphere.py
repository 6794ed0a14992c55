"""The sphere of curvature k > 0: |x|^2 = 1 / k, with the metric of the space around it.

Distances go through 2 atan2(|x - y|, |x + y|) (Kahan 2006), accurate for near and for nearly opposite points.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.numerics import safe_norm, sinc, square_norm
from holonomy.geometry.manifold import ConstantCurvature, check_same


def dist(x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, ...]:
    """(2 / sqrt k) atan2(|x - y|, |x + y|)."""
    return (2 / k.sqrt() * torch.atan2(safe_norm(x - y), safe_norm(x + y))).squeeze(-1)


def exp(x: Float[Tensor, "... d"], v: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """cos(sqrt k |v|) x + sin(sqrt k |v|) v / (sqrt k |v|)."""
    s = k * square_norm(v)
    # cos a = 1 - 2 sin(a / 2)^2, so that a small step is not lost beside x.
    return x - (s / 2) * sinc(s / 4).square() * x + sinc(s) * v


def log(x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """The tangent y - x + (k q / 2) x at x, q = |x - y|^2, scaled to the distance; undefined for opposite points."""
    q = square_norm(x - y)
    angle = k.sqrt() * dist(x, y, k).unsqueeze(-1)
    return (y - x + (k * q / 2) * x) / sinc(angle.square())


def transport(
    x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], v: Float[Tensor, "... d"], k: Tensor
) -> Float[Tensor, "... d"]:
    """v - <y, v> / (1/k + <x, y>) (x + y); undefined for opposite points."""
    along = (y * v).sum(-1, keepdim=True) / (1 / k + (x * y).sum(-1, keepdim=True))
    return v - along * (x + y)


class Sphere(ConstantCurvature):
    """The sphere with its curvature bound.

    Args:
        k: curvature, above zero; the radius is 1 / sqrt(k).

    Raises:
        ConfigError: k is not above zero.
    """

    sign = 1
    functions: ClassVar = {"dist": dist, "exp": exp, "log": log, "transport": transport}

    def __init__(self, k: Tensor | float = 1.0) -> None:
        super().__init__(k)

    def project(self, x: Tensor) -> Tensor:
        """Scales to the radius."""
        return x / (self.k.to(x).sqrt() * safe_norm(x)).clamp_min(torch.finfo(x.dtype).tiny)

    def project_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """v - k <x, v> x."""
        return v - self.k.to(x) * (x * v).sum(-1, keepdim=True) * x

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The product of the space around."""
        check_same(x=x, u=u, v=v)
        return (u * v).sum(-1)

    def origin(self, dim: int, *, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        """(1 / sqrt k, 0, ..., 0), with `dim` + 1 coordinates."""
        pole = torch.zeros(dim + 1, dtype=dtype, device=device)
        pole[0] = self.k.item() ** -0.5
        return pole

    def gradient(self, x: Tensor, slope: Tensor) -> Tensor:
        """The tangent part of the slope."""
        return self.project_tangent(x, slope)

    def from_frame(self, a: Tensor) -> Tensor:
        """(0, a)."""
        return torch.nn.functional.pad(a, (1, 0))

    def to_frame(self, v: Tensor) -> Tensor:
        """All coordinates but the first."""
        return v[..., 1:]

    def log_volume(self, a: Tensor) -> Tensor:
        """(n - 1) log(sin(sqrt k |a|) / (sqrt k |a|)), for |a| below half the circumference."""
        return (a.shape[-1] - 1) * sinc(self.k.to(a) * square_norm(a)).log().squeeze(-1)

    def fault(self, x: Tensor) -> str | None:
        """Points must have the right length up to rounding."""
        worst = float((self.k.to(x) * square_norm(x) - 1).abs().max())
        return None if worst <= 16 * torch.finfo(x.dtype).eps else f"k |x|^2 - 1 is off by {worst:.1e}"
