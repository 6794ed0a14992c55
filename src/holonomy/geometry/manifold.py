"""What a manifold offers, and what follows from that for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.numerics import log_sinhc, safe_sqrt, square_norm

KARCHER_STEPS = 200
KARCHER_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}
KARCHER_FLOOR = {torch.float32: 1e-4, torch.float64: 1e-10}
"""Length of a step that rounding may leave between points that are far apart."""


class Manifold(ABC):
    """A Riemannian manifold whose points and tangents are vectors on the last axis."""

    @abstractmethod
    def project(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """The nearest point of the manifold, up to rounding; points of it stay where they are."""

    @abstractmethod
    def project_tangent(self, x: Float[Tensor, "... d"], v: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """The part of v that is tangent at x."""

    @abstractmethod
    def inner(
        self, x: Float[Tensor, "... d"], u: Float[Tensor, "... d"], v: Float[Tensor, "... d"]
    ) -> Float[Tensor, ...]:
        """g_x(u, v)."""

    @abstractmethod
    def dist(self, x: Float[Tensor, "... d"], y: Float[Tensor, "... d"]) -> Float[Tensor, ...]:
        """Geodesic distance."""

    @abstractmethod
    def exp(self, x: Float[Tensor, "... d"], v: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """End of the geodesic that leaves x with velocity v, at time 1."""

    @abstractmethod
    def log(self, x: Float[Tensor, "... d"], y: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Velocity at x of the shortest geodesic that reaches y at time 1."""

    @abstractmethod
    def transport(
        self, x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], v: Float[Tensor, "... d"]
    ) -> Float[Tensor, "... d"]:
        """Parallel transport of v from x to y along the shortest geodesic."""

    @abstractmethod
    def origin(self, dim: int, *, dtype: torch.dtype, device: torch.device | None = None) -> Float[Tensor, " d"]:
        """The distinguished point of the manifold of dimension `dim`."""

    @abstractmethod
    def gradient(self, x: Float[Tensor, "... d"], slope: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Riemannian gradient at x from the derivatives by the coordinates."""

    @abstractmethod
    def from_frame(self, a: Float[Tensor, "... n"]) -> Float[Tensor, "... d"]:
        """The tangent at the origin with coordinates a in an orthonormal frame."""

    @abstractmethod
    def to_frame(self, v: Float[Tensor, "... d"]) -> Float[Tensor, "... n"]:
        """Inverse of `from_frame`."""

    @abstractmethod
    def log_volume(self, a: Float[Tensor, "... n"]) -> Float[Tensor, ...]:
        """Log of how much exp at any point stretches volume at the tangent with frame coordinates a."""

    @abstractmethod
    def fault(self, x: Float[Tensor, "... d"]) -> str | None:
        """What is wrong with a point, or None."""

    def norm(self, x: Float[Tensor, "... d"], v: Float[Tensor, "... d"]) -> Float[Tensor, ...]:
        """Length of a tangent."""
        return safe_sqrt(self.inner(x, v, v).clamp_min(0))

    def check_point(self, x: Float[Tensor, "... d"], *, explain: bool = False) -> str | None:
        """Refuses what is not a point; reads the values, so not for hot paths.

        Args:
            x: the points.
            explain: return what is wrong instead of raising it.

        Returns:
            None for points; otherwise, with `explain`, how far off the worst is and what to do.

        Raises:
            ConfigError: the same, without `explain`.
        """
        fault = self.fault(x)
        if fault is None:
            return None
        words = f"`x` is not on {self!r}: {fault}; use `project`, or start from `origin` with `exp`"
        if explain:
            return words
        raise ConfigError(words)

    def _origin_for(self, x: Tensor) -> Tensor:
        return self.origin(self.to_frame(x).shape[-1], dtype=x.dtype, device=x.device).expand_as(x)

    def dist0(self, x: Float[Tensor, "... d"]) -> Float[Tensor, ...]:
        """Distance from the origin."""
        return self.dist(self._origin_for(x), x)

    def exp0(self, v: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Exponential map at the origin."""
        return self.exp(self._origin_for(v), v)

    def log0(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Logarithm at the origin."""
        return self.log(self._origin_for(x), x)

    def random(
        self,
        *shape: int,
        dim: int,
        std: float,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float64,
    ) -> Float[Tensor, "... d"]:
        """Points exp(origin, v) with v normal of standard deviation `std` in an orthonormal frame."""
        a = torch.randn(*shape, dim, generator=generator, dtype=torch.float64).to(dtype) * std
        v = self.from_frame(a)
        return self.project(self.exp0(v))

    def geodesic(
        self, x: Float[Tensor, "... d"], y: Float[Tensor, "... d"], t: Float[Tensor, ...] | float
    ) -> Float[Tensor, "... d"]:
        """Point at time t of the shortest geodesic from x (t = 0) to y (t = 1)."""
        time = t[..., None] if isinstance(t, Tensor) else t
        return self.exp(x, time * self.log(x, y))

    def midpoint(
        self, points: Float[Tensor, "n ... d"], weights: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, "... d"]:
        """Weighted Karcher mean over the first axis: where the weighted sum of logarithms vanishes.

        Fixed-point iteration of Pennec (2006, equation 17), with steps halved where they overshoot, as whole ones do
        between points of a hyperbolic space that are far apart; not differentiable through the iteration.

        Raises:
            ConfigError: the iteration does not settle, as it may on a sphere for points that are far apart.
        """
        count = points.shape[0]
        weights = torch.full((count,), 1 / count, dtype=points.dtype) if weights is None else weights / weights.sum()
        share = weights.to(points).view(-1, *[1] * (points.dim() - 1))

        def pull(mean: Tensor) -> tuple[Tensor, Tensor]:
            step = (share * self.log(mean.expand_as(points), points)).sum(0)
            return step, self.norm(mean, step)

        with torch.no_grad():
            mean = points[int(weights.argmax())].clone()
            step, length = pull(mean)
            rate = torch.ones_like(length)
            for _ in range(KARCHER_STEPS):
                if float(length.max()) <= KARCHER_TOLERANCE[points.dtype]:
                    return mean
                further = self.project(self.exp(mean, rate[..., None] * step))
                next_step, next_length = pull(further)
                nearer = next_length < length
                rate = torch.where(nearer, (1.2 * rate).clamp_max(1.0), rate / 2)
                mean = torch.where(nearer[..., None], further, mean)
                step = torch.where(nearer[..., None], next_step, step)
                length = torch.where(nearer, next_length, length)
        if float(length.max()) <= KARCHER_FLOOR[points.dtype]:
            return mean
        raise ConfigError(
            f"`points` have no mean that {KARCHER_STEPS} steps find: the last step still had length "
            f"{float(length.max()):.1e}; bring the points closer together"
        )


class ConstantCurvature(Manifold):
    """Binds one curvature to the pure functions of a module, which take it as their last argument.

    The curvature is a tensor and receives gradients if it wants them.

    Args:
        k: curvature.

    Raises:
        ConfigError: k is not one number of the sign that the space wants.
    """

    sign: ClassVar[int]
    """Sign of the curvature, -1 or 1."""
    functions: ClassVar[dict[str, Callable[..., Tensor]]]
    """`dist`, `exp`, `log` and `transport` of the space."""

    def __init__(self, k: Tensor | float) -> None:
        self.k = torch.as_tensor(k, dtype=None if isinstance(k, Tensor) else torch.float64)
        if self.k.numel() != 1 or not self.sign * self.k.item() > 0:
            side = "below" if self.sign < 0 else "above"
            raise ConfigError(f"`k` is {k}; {type(self).__name__} wants one curvature {side} zero")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k.item():g})"

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Geodesic distance, by the `dist` of the module."""
        check_same(x=x, y=y)
        return self.functions["dist"](x, y, self.k.to(x))

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """Exponential map, by the `exp` of the module."""
        check_same(x=x, v=v)
        return self.functions["exp"](x, v, self.k.to(x))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm, by the `log` of the module."""
        check_same(x=x, y=y)
        return self.functions["log"](x, y, self.k.to(x))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport, by the `transport` of the module."""
        check_same(x=x, y=y, v=v)
        return self.functions["transport"](x, y, v, self.k.to(x))


def hyperbolic_log_volume(a: Float[Tensor, "... n"], k: Tensor) -> Float[Tensor, ...]:
    """(n - 1) log(sinh(sqrt c |a|) / (sqrt c |a|)): how exp stretches volume where curvature is k < 0."""
    return (a.shape[-1] - 1) * log_sinhc(-k * square_norm(a)).squeeze(-1)


def check_real(**tensors: Tensor) -> None:
    """Refuses integers, whose results would be cut to integers again.

    Raises:
        ConfigError: names the tensor.
    """
    for name, x in tensors.items():
        if not x.is_floating_point():
            raise ConfigError(f"`{name}` has dtype {x.dtype}; wanted real numbers: convert it by `.float()`")


def check_same(**tensors: Tensor) -> None:
    """Refuses integers, and tensors of mixed dtypes, devices or last dimensions.

    Raises:
        ConfigError: names the two that differ.
    """
    check_real(**tensors)
    (first, a), *rest = tensors.items()
    for name, b in rest:
        for what in ("dtype", "device"):
            if getattr(a, what) != getattr(b, what):
                raise ConfigError(
                    f"`{name}` has {what} {getattr(b, what)} and `{first}` has {getattr(a, what)}; convert one of them"
                )
        if a.shape[-1] != b.shape[-1]:
            raise ConfigError(
                f"`{name}` has {b.shape[-1]} coordinates and `{first}` has {a.shape[-1]}; they must live in one space"
            )
