"""Flat space."""

from __future__ import annotations

import torch
from torch import Tensor

from holonomy.core.numerics import safe_norm
from holonomy.geometry.manifold import Manifold, check_same


class Euclidean(Manifold):
    """Flat space: the measure that curved ones are compared with."""

    def __repr__(self) -> str:
        return "Euclidean()"

    def project(self, x: Tensor) -> Tensor:
        """Every vector is a point."""
        return x

    def project_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Every vector is tangent."""
        return v

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """u.v."""
        check_same(x=x, u=u, v=v)
        return (u * v).sum(-1)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """|x - y|."""
        check_same(x=x, y=y)
        return safe_norm(x - y).squeeze(-1)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """x + v."""
        check_same(x=x, v=v)
        return x + v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """y - x."""
        check_same(x=x, y=y)
        return y - x

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """v, carried to where y is."""
        check_same(x=x, y=y, v=v)
        return v.expand_as(y) if v.dim() < y.dim() else v

    def origin(self, dim: int, *, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        """Zero."""
        return torch.zeros(dim, dtype=dtype, device=device)

    def gradient(self, x: Tensor, slope: Tensor) -> Tensor:
        """The slope."""
        return slope

    def from_frame(self, a: Tensor) -> Tensor:
        """a."""
        return a

    def to_frame(self, v: Tensor) -> Tensor:
        """v."""
        return v

    def log_volume(self, a: Tensor) -> Tensor:
        """Zero: nothing is stretched."""
        return torch.zeros_like(a[..., 0])

    def fault(self, x: Tensor) -> str | None:
        """Points must be finite."""
        return None if bool(torch.isfinite(x).all()) else "a coordinate is not finite"
