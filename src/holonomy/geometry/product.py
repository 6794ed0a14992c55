"""Products of manifolds: coordinates side by side, squared distances added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.numerics import safe_sqrt
from holonomy.geometry.manifold import Manifold


class Product(Manifold):
    """A product of manifolds.

    Args:
        factors: pairs of a manifold and the number of coordinates of its points.

    Raises:
        ConfigError: there is no factor.
    """

    def __init__(self, factors: Iterable[tuple[Manifold, int]]) -> None:
        pairs = list(factors)
        if not pairs:
            raise ConfigError("`factors` is empty; a product wants at least one (manifold, coordinates)")
        self.manifolds = [m for m, _ in pairs]
        self.widths = [w for _, w in pairs]

    def __repr__(self) -> str:
        return f"Product({', '.join(f'{m!r}^{w}' for m, w in zip(self.manifolds, self.widths, strict=True))})"

    def split(self, x: Tensor) -> Sequence[Tensor]:
        """Coordinates of each factor.

        Raises:
            ConfigError: the number of coordinates is another one.
        """
        if x.shape[-1] != sum(self.widths):
            raise ConfigError(f"`x` has {x.shape[-1]} coordinates, {self!r} wants {sum(self.widths)}")
        return x.split(self.widths, -1)

    def _each(self, method: Callable[..., Tensor], *arguments: Tensor) -> list[Tensor]:
        parts = zip(*map(self.split, arguments), strict=True)
        return [method(m, *part) for m, part in zip(self.manifolds, parts, strict=True)]

    def project(self, x: Tensor) -> Tensor:
        """Projects each part."""
        return torch.cat(self._each(lambda m, a: m.project(a), x), -1)

    def project_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Projects each part."""
        return torch.cat(self._each(lambda m, a, b: m.project_tangent(a, b), x, v), -1)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Sum over the parts."""
        return torch.stack(self._each(lambda m, a, b, c: m.inner(a, b, c), x, u, v)).sum(0)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Root of the sum of squared distances."""
        return safe_sqrt(torch.stack(self._each(lambda m, a, b: m.dist(a, b), x, y)).square().sum(0))

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """Part by part."""
        return torch.cat(self._each(lambda m, a, b: m.exp(a, b), x, v), -1)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Part by part."""
        return torch.cat(self._each(lambda m, a, b: m.log(a, b), x, y), -1)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Part by part."""
        return torch.cat(self._each(lambda m, a, b, c: m.transport(a, b, c), x, y, v), -1)

    def gradient(self, x: Tensor, slope: Tensor) -> Tensor:
        """Part by part."""
        return torch.cat(self._each(lambda m, a, b: m.gradient(a, b), x, slope), -1)

    @property
    def dims(self) -> list[int]:
        """Dimension of each factor."""
        extra = [m.origin(1, dtype=torch.float64).shape[0] - 1 for m in self.manifolds]
        return [w - e for w, e in zip(self.widths, extra, strict=True)]

    def from_frame(self, a: Tensor) -> Tensor:
        """Part by part."""
        parts = zip(self.manifolds, a.split(self.dims, -1), strict=True)
        return torch.cat([m.from_frame(part) for m, part in parts], -1)

    def to_frame(self, v: Tensor) -> Tensor:
        """Part by part."""
        return torch.cat(self._each(lambda m, a: m.to_frame(a), v), -1)

    def log_volume(self, a: Tensor) -> Tensor:
        """Sum over the parts."""
        parts = zip(self.manifolds, a.split(self.dims, -1), strict=True)
        return torch.stack([m.log_volume(part) for m, part in parts]).sum(0)

    def origin(self, dim: int, *, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        """Origins side by side; `dim` must be the sum of the factors' dimensions.

        Raises:
            ConfigError: it is not.
        """
        if dim != sum(self.dims):
            raise ConfigError(f"`dim` is {dim}; the factors of {self!r} have {sum(self.dims)} dimensions")
        parts = zip(self.manifolds, self.dims, strict=True)
        return torch.cat([m.origin(n, dtype=dtype, device=device) for m, n in parts])

    def fault(self, x: Tensor) -> str | None:
        """The first fault of a part."""
        for manifold, part in zip(self.manifolds, self.split(x), strict=True):
            fault = manifold.fault(part)
            if fault is not None:
                return f"{manifold!r}: {fault}"
        return None
