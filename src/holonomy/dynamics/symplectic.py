"""Drift-kick-drift: a symplectic, time-reversible step of order 2 for H = |p|^2 / 2 + V(q).

qh = q + (h/2) p, p' = p - h V_q(qh), q' = qh + (h/2) p' (Hairer, Lubich & Wanner 2006, section VI.3). With p turned
round the same step leads back. In fixed point it leads back exactly: increments are rounded to integers by an odd
function, so they are the same with the opposite sign.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import HolonomyError

Force = Callable[[Tensor], Tensor]
"""-V_q(q); must give equal bits for equal inputs where exact reversal is wanted."""

FRACTION_BITS = 20
"""Binary digits after the point: range +-2048, resolution 1e-6."""
LIMIT = 2**30
"""Largest magnitude of a stored number, half of what int32 holds, so that one step cannot wrap around."""


class FixedPointOverflow(HolonomyError):
    """A number left the range of the fixed-point state; it is never clipped, since that could not be undone."""


def step(
    q: Float[Tensor, ...], p: Float[Tensor, ...], force: Force, h: float
) -> tuple[Float[Tensor, ...], Float[Tensor, ...]]:
    """One step of length h; its inverse is the same step after p -> -p."""
    half = q + (h / 2) * p
    p = p + h * force(half)
    return half + (h / 2) * p, p


def evolve(
    q: Float[Tensor, ...], p: Float[Tensor, ...], force: Force, h: float, num_steps: int
) -> tuple[Float[Tensor, ...], Float[Tensor, ...]]:
    """`num_steps` steps of length h."""
    for _ in range(num_steps):
        q, p = step(q, p, force, h)
    return q, p


def to_fixed(x: Float[Tensor, ...]) -> Int[Tensor, ...]:
    """Nearest fixed-point numbers, int32.

    Raises:
        FixedPointOverflow: a value is out of range or not a number.
    """
    scaled = (x.double() * 2**FRACTION_BITS).round()
    _check_range(scaled, "state")
    return scaled.to(torch.int32)


def from_fixed(x: Int[Tensor, ...], dtype: torch.dtype) -> Float[Tensor, ...]:
    """The numbers that fixed-point numbers stand for."""
    return x.to(dtype) / 2**FRACTION_BITS


def fixed_step(
    q: Int[Tensor, ...], p: Int[Tensor, ...], force: Force, h: float, dtype: torch.dtype
) -> tuple[Int[Tensor, ...], Int[Tensor, ...]]:
    """One step on fixed-point states; exactly inverted by itself after p -> -p.

    Args:
        q, p: int32 states.
        force: acts on floating-point positions.
        h: length of the step.
        dtype: of the floating-point numbers in between; part of what must be equal on the way back.

    Raises:
        FixedPointOverflow: a state or increment leaves the range.
    """
    q = fixed_drift(q, p, h / 2, dtype)
    p = fixed_kick(p, h * force(from_fixed(q, dtype)))
    return fixed_drift(q, p, h / 2, dtype), p


def fixed_drift(q: Int[Tensor, ...], p: Int[Tensor, ...], h: float, dtype: torch.dtype) -> Int[Tensor, ...]:
    """q + h p, rounded by an odd function: undone by the same call with -p.

    Raises:
        FixedPointOverflow: a position leaves the range.
    """
    return _add(q, h * from_fixed(p, dtype), "position")


def fixed_kick(p: Int[Tensor, ...], impulse: Float[Tensor, ...]) -> Int[Tensor, ...]:
    """p + impulse, rounded by an odd function.

    Raises:
        FixedPointOverflow: a momentum leaves the range.
    """
    return _add(p, impulse, "momentum")


def _add(x: Tensor, increment: Tensor, name: str) -> Tensor:
    # Rounding half to even is odd: round(-a) = -round(a).
    moved = x.double() + (increment * 2**FRACTION_BITS).round().double()
    _check_range(moved, name)
    return moved.to(torch.int32)


def _check_range(x: Tensor, name: str) -> None:
    worst = float(x.abs().max()) if x.numel() else 0.0
    if not worst <= LIMIT:
        raise FixedPointOverflow(
            f"`{name}` reaches {worst / 2**FRACTION_BITS:.4g}, fixed point holds +-{LIMIT / 2**FRACTION_BITS:.0f}; "
            "use a shorter step, scale the state down, or keep it in floating point"
        )
