"""The only clamps and series of the package: functions that stay accurate, with finite gradients, at their edges.

Functions named `...c` are f(sqrt(s)) / sqrt(s) as functions of the square s: smooth at s = 0, so that neither value
nor gradient needs the norm of a vector that may vanish.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

GOLDEN = (5**0.5 - 1) / 2
"""1 / phi, the smaller part of the golden section."""
SERIES_BELOW = {torch.float32: 1e-2, torch.float64: 1e-4}
"""Squares below which a series of four terms is exact to rounding: s^4 / 9 < eps / 2."""


def widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in float64: for float32 inputs whose exact values decide the result to the last digit."""
    return tuple(t.double() for t in tensors)


def square_norm(x: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
    """Sum of squares over the last axis, which is kept."""
    return x.square().sum(-1, keepdim=True)


def safe_norm(x: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
    """Euclidean norm over the last axis, which is kept; its gradient at zero is zero."""
    return safe_sqrt(square_norm(x))


def safe_sqrt(s: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Square root whose gradient at zero is zero instead of infinite."""
    positive = s > 0
    return torch.where(positive, torch.where(positive, s, 1).sqrt(), 0)


def by_square(
    function: Callable[[Tensor], Tensor], series: tuple[float, float, float, float], s: Float[Tensor, ...]
) -> Float[Tensor, ...]:
    """function(sqrt(s)) / sqrt(s), near zero by the coefficients of its series in s."""
    small = s < SERIES_BELOW[s.dtype]
    root = torch.where(small, 1, s).sqrt()
    a, b, c, d = series
    near = torch.where(small, s, 0)
    return torch.where(small, a + near * (b + near * (c + near * d)), function(root) / root)


def tanhc(s: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """tanh(sqrt(s)) / sqrt(s)."""
    return by_square(torch.tanh, (1.0, -1 / 3, 2 / 15, -17 / 315), s)


def artanhc(s: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """artanh(sqrt(s)) / sqrt(s), for s < 1."""
    return by_square(torch.atanh, (1.0, 1 / 3, 1 / 5, 1 / 7), s)


def sinhc(s: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """sinh(sqrt(s)) / sqrt(s)."""
    return by_square(torch.sinh, (1.0, 1 / 6, 1 / 120, 1 / 5040), s)


def asinhc(s: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """asinh(sqrt(s)) / sqrt(s)."""
    return by_square(torch.asinh, (1.0, -1 / 6, 3 / 40, -15 / 336), s)


def sinc(s: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """sin(sqrt(s)) / sqrt(s)."""
    return by_square(torch.sin, (1.0, -1 / 6, 1 / 120, -1 / 5040), s)


def asinc(s: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """asin(sqrt(s)) / sqrt(s), for s < 1."""
    return by_square(torch.asin, (1.0, 1 / 6, 3 / 40, 15 / 336), s)


def log_sinhc(s: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """log(sinh(sqrt(s)) / sqrt(s)), without overflow for large s."""
    root = torch.where(s > 1, s, 1).sqrt()
    far = root + torch.log1p(-torch.exp(-2 * root)) - (2 * root).log()
    return torch.where(s > 1, far, sinhc(s.clamp_max(1)).log())
