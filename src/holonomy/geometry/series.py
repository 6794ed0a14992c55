"""Polynomials for the radial factors near the origin, where most points of a model stand: no root, no division."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class NearSeries(NamedTuple):
    """A radial factor f as a function of the square u = c |x|^2."""

    edge: float
    """Largest square that it is good for."""
    rise: Any
    """Compiled f(u) - 1 of a vector."""
    bend: Any
    """Compiled 2 f'(u) of a vector."""


def near_series(function: Callable[[Any], Any], edge: float, terms: int) -> NearSeries:
    """(f - 1) / u interpolated at Chebyshev nodes of 0 to `edge`: within a few times the best polynomial of its degree.

    Args:
        function: z f(z^2) as a function of arrays, with f(0) = 1.
        edge: end of the interval.
        terms: number of coefficients.
    """
    import numpy as np

    from holonomy.geometry.vectors import horner

    def rise_over(u: Any) -> Any:
        z = np.sqrt(u)
        return (function(z) / z - 1) / u

    fitted = np.polynomial.Chebyshev.interpolate(rise_over, terms - 1, domain=[0, edge])
    over = fitted.convert(kind=np.polynomial.Polynomial)
    rise = over * np.polynomial.Polynomial([0.0, 1.0])
    return NearSeries(edge, horner(rise.coef), horner(np.multiply(rise.deriv().coef, 2)))
