"""Compiled maps and distances from the origin of the Poincare ball, with hand-written derivatives.

See `rows` for how kernels are run. Blocks of float32 points near the origin take the polynomials of `series`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from holonomy.geometry.compiled import BLOCK, compiled, elementary, row_sums
from holonomy.geometry.rows import Kernel, each_access
from holonomy.geometry.series import NearSeries, near_series

EDGE = {t: 1 - 4 * torch.finfo(t).eps for t in (torch.float32, torch.float64)}
"""Largest sqrt(c) |x| of points that are kept in the ball: rounding of the coordinates cannot lift it to 1."""
TINY = 1e-150
"""Stands for a norm of zero, so that quotients of small numbers stay what they tend to."""
SERIES_BELOW = 1e-3
"""Squares below which the derivative of a radial factor is its series."""
NARROW = 128
"""Widest rows whose squares are summed in float32 for a factor that hardly depends on the sum."""


@lru_cache(maxsize=1)
def _artanh_series() -> NearSeries:
    import numpy as np

    return near_series(np.arctanh, 0.5, 14)


@lru_cache(maxsize=1)
def _tanh_series() -> NearSeries:
    import numpy as np

    return near_series(np.tanh, 1.0, 11)


def _dist0(access: Any) -> Kernel:
    """Distances from the origin."""
    import numpy as np

    from holonomy.geometry.vectors import ANY, EIGHTS, extent, first, none, roots, total, where_above

    log1p_ratio, squares, (edge, rise, _) = elementary().log1p_ratio, row_sums(access).squares, _artanh_series()
    own, put, columns = access.own, access.put, access.columns
    read, write, take, keep = EIGHTS.wide, EIGHTS.put, ANY.wide, ANY.put

    @compiled
    def forward(x, out, kept, start, stop, c):
        root, over_c, sums = math.sqrt(c), 1 / c, np.empty((1, BLOCK))
        for row in range(start, stop, BLOCK):
            count = min(BLOCK, stop - row)
            squares(row, count, (x,), sums)
            furthest = none()
            for i in range(0, count, 8):
                xx = read(sums, 0, i)
                furthest = where_above(xx, furthest, xx, furthest)
            near = x.itemsize == 4 and extent(furthest) * c < edge
            for i in range(0, count, 8):
                xx = read(sums, 0, i)
                u = xx * c
                r = roots(u)
                # 2 artanh r.
                d = ((r + r * rise(u)) * 2 if near else log1p_ratio(2 * r, 1 - r)) * (1 / root)
                keep(out, 0, row + i, d)
                if kept.shape[0]:
                    # By |x| the distance is 2 / gap.
                    slope = where_above(r, 0.0, (2 * root) / (r * ((1 - r) * (1 + r))), 0.0)
                    keep(kept, 0, row + i, slope)
                    if kept.shape[0] > 1:
                        keep(kept, 1, row + i, (slope * xx - d) * (over_c / 2))

    @compiled
    def slope(x, g, kept, gx, start, stop, c):
        by_c, weights = none(), np.empty((1, BLOCK), x.dtype)
        for row in range(start, stop, BLOCK):
            count = min(BLOCK, stop - row)
            for i in range(0, count, 8):
                slopes = take(g, 0, row + i)
                write(weights, 0, i, slopes * take(kept, 0, row + i))
                if kept.shape[0] > 1:
                    by_c = by_c + first(slopes * take(kept, 1, row + i), count - i)
            for i in range(count):
                along = weights[0, i]
                for j in range(0, columns(x), 8):
                    put(gx, row + i, j, own(x, row + i, j) * along)
        return total(by_c)

    return Kernel(forward, slope, reduces=True, keeps=1)


dist0_kernel = each_access(_dist0)


def _near_block(series: NearSeries, access: Any) -> Callable[..., bool]:
    """A block of float32 points by the series of their factor."""
    from holonomy.geometry.vectors import ANY, EIGHTS, extent, none, where_above

    edge, rise, near_bend = series
    own_squares = row_sums(access).own_squares
    own, put, columns = access.own, access.put, access.columns
    read, write, keep = EIGHTS.wide, EIGHTS.put, ANY.put

    @compiled
    def near(x, out, kept, sums, row, count, c):
        """A block near the origin; False, and nothing written, if it is not."""
        own_squares(row, count, (x,), sums)
        furthest = none()
        for i in range(0, count, 8):
            xx = read(sums, 0, i)
            furthest = where_above(xx, furthest, xx, furthest)
        if not extent(furthest) * c < edge:
            return False
        for i in range(0, count, 8):
            u = read(sums, 0, i) * c
            over = rise(u)
            write(sums, 0, i, over)
            if kept.shape[0]:
                keep(kept, 0, row + i, over + 1)
                keep(kept, 1, row + i, near_bend(u))
        for i in range(count):
            over_here = sums[0, i]
            for j in range(0, columns(x), 8):
                # x + x (f - 1): the factor's own rounding does not show.
                a = own(x, row + i, j)
                put(out, row + i, j, a * over_here + a)
        return True

    return near


def _radial(
    factor: Callable[..., Any], bend: Callable[..., Any], series: NearSeries, access: Any, *, inside: bool
) -> Kernel:
    """x times a factor of sqrt(c) |x|.

    `factor(z)` gives the factors of z; `bend(u, f)` is twice the derivative of the factor by u = z^2. Results that
    belong `inside` the ball stay short of its boundary by what rounding may add, as by `poincare.project`.
    """
    import numpy as np

    from holonomy.geometry.vectors import ANY, EIGHTS, first, none, roots, total, where_above

    factor, bend = (compiled(f, exact=True, inlined=True) for f in (factor, bend))
    near = _near_block(series, access)
    squares, _, along = row_sums(access)[:3]
    wide, own, put, columns = access.wide, access.own, access.put, access.columns
    read, write, take, keep = EIGHTS.wide, EIGHTS.put, ANY.wide, ANY.put
    singles, doubles = EDGE[torch.float32], EDGE[torch.float64]

    @compiled
    def forward(x, out, kept, start, stop, c):
        sums, edge = np.empty((1, BLOCK)), singles if x.itemsize == 4 else doubles
        for row in range(start, stop, BLOCK):
            count = min(BLOCK, stop - row)
            if x.itemsize == 4 and columns(x) <= NARROW and near(x, out, kept, sums, row, count, c):
                continue
            squares(row, count, (x,), sums)
            for i in range(0, count, 8):
                u = read(sums, 0, i) * c
                z = roots(u)
                z = where_above(TINY, z, TINY, z)
                f = factor(z)
                if inside:
                    f = where_above(f * z, edge, edge / z, f)
                write(sums, 0, i, f)
                if kept.shape[0]:
                    keep(kept, 0, row + i, f)
                    keep(kept, 1, row + i, bend(u, f))
            for i in range(count):
                by = sums[0, i]
                for j in range(0, columns(x), 8):
                    put(out, row + i, j, wide(x, row + i, j) * by)

    @compiled
    def slope(x, g, kept, gx, start, stop, c):
        by_c, sums, weights = none(), np.empty((2, BLOCK)), np.empty((2, BLOCK), x.dtype)
        for row in range(start, stop, BLOCK):
            count = min(BLOCK, stop - row)
            along(row, count, (x, g), sums)
            for i in range(0, count, 8):
                by_u = read(sums, 1, i) * take(kept, 1, row + i)
                by_c = by_c + first(by_u * read(sums, 0, i), count - i)
                write(weights, 0, i, take(kept, 0, row + i))
                write(weights, 1, i, by_u * c)
            for i in range(count):
                of_g, of_x = weights[0, i], weights[1, i]
                for j in range(0, columns(x), 8):
                    put(gx, row + i, j, own(g, row + i, j) * of_g + own(x, row + i, j) * of_x)
        return total(by_c) / 2

    return Kernel(forward, slope, reduces=False, keeps=2)


def _exp0(access: Any) -> Kernel:
    """The exponential map at the origin."""
    from holonomy.geometry.vectors import where_above

    expm1 = elementary().expm1

    def factor(z):
        e = expm1(where_above(z, 20.0, 40.0, 2 * z))
        return e / ((e + 2) * z)

    def bend(u, f):
        near = 2 * (u * (u * (u * (u * (-1382 / 31185) + 248 / 2835) - 17 / 105) + 4 / 15) - 1 / 3)
        return where_above(SERIES_BELOW, u, near, (1 - u * f * f - f) / u)

    return _radial(factor, bend, _tanh_series(), access, inside=True)


exp0_kernel = each_access(_exp0)


def _log0(access: Any) -> Kernel:
    """The logarithm at the origin."""
    from holonomy.geometry.vectors import where_above

    log1p_ratio = elementary().log1p_ratio

    def factor(z):
        return log1p_ratio(2 * z, 1 - z) / (2 * z)

    def bend(u, f):
        near = 2 * (u * (u * (u * (u * (u * (6 / 13) + 5 / 11) + 4 / 9) + 3 / 7) + 2 / 5) + 1 / 3)
        return where_above(SERIES_BELOW, u, near, (1 / (1 - u) - f) / u)

    return _radial(factor, bend, _artanh_series(), access, inside=False)


log0_kernel = each_access(_log0)
