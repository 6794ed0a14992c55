"""Compiled operations on pairs of points of the Poincare ball, with hand-written derivatives: see `rows`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from holonomy.geometry.compiled import BLOCK, compiled, elementary, row_sums
from holonomy.geometry.rows import Kernel, each_access


@lru_cache(maxsize=32)
def pair_slope(access: Any, *, cancels: bool = False) -> Callable[..., float]:
    """The way back of a distance, from the weights P, A and B that `kept` holds: g (P (x - y) + A x) and its mirror.

    Args:
        access: to the points.
        cancels: whether P (x - y) and A x nearly cancel, so that float32 would lose digits.
    """
    import numpy as np

    from holonomy.geometry.vectors import ANY, EIGHTS, first, none, total

    own, put, begin, columns = access.wide if cancels else access.own, access.put, access.begin, access.columns
    write, take = EIGHTS.put, ANY.wide

    @compiled
    def slope(x, y, g, kept, gx, gy, start, stop, c):
        # In the type of the points, if that will do: the last loop stays in it.
        by_c, weights = none(), np.empty((3, BLOCK), kept.dtype)
        for row in range(start, stop, BLOCK):
            count = min(BLOCK, stop - row)
            for i in range(0, count, 8):
                slopes = take(g, 0, row + i)
                write(weights, 0, i, slopes * take(kept, 0, row + i))
                write(weights, 1, i, slopes * take(kept, 1, row + i))
                write(weights, 2, i, slopes * take(kept, 2, row + i))
                if kept.shape[0] > 3:
                    by_c = by_c + first(slopes * take(kept, 3, row + i), count - i)
            for i in range(count):
                pull, of_x, of_y = weights[0, i], weights[1, i], weights[2, i]
                if begin:
                    gx[row + i, 0] = gy[row + i, 0] = 0.0
                for j in range(begin, columns(x), 8):
                    a, b = own(x, row + i, j), own(y, row + i, j)
                    away = (a - b) * pull
                    put(gx, row + i, j, away + a * of_x)
                    put(gy, row + i, j, b * of_y - away)
        return total(by_c)

    return slope


def _dist(access: Any) -> Kernel:
    """Distances of pairs; NaN where a point is outside the ball."""
    import numpy as np

    from holonomy.geometry.vectors import ANY, EIGHTS, roots, where_above

    log1p_ratio, apart = elementary().log1p_ratio, row_sums(access).apart
    read, keep = EIGHTS.wide, ANY.put

    @compiled
    def forward(x, y, out, kept, start, stop, c):
        root, over_c, sums = math.sqrt(c), 1 / c, np.empty((3, BLOCK))
        for row in range(start, stop, BLOCK):
            count = min(BLOCK, stop - row)
            apart(row, count, (x, y), sums)
            for i in range(0, count, 8):
                xx, yy, dd = read(sums, 0, i), read(sums, 1, i), read(sums, 2, i)
                gap_x, gap_y, z = 1 - xx * c, 1 - yy * c, dd * c
                # Two points outside would have a gap above zero.
                gap = where_above(0.0, gap_x, -1.0, gap_x * gap_y)
                s = roots(z * (z + gap))
                # 2 asinh sqrt(z / gap) = log1p of this, which keeps the digits of small z.
                d = log1p_ratio(2 * (z + s), gap) * (1 / root)
                keep(out, 0, row + i, d)
                if kept.shape[0]:
                    # By dd it is sqrt c / s, zero where points meet. Both quotients by one division.
                    share = where_above(s, 0.0, 1 / (s * gap), 0.0)
                    pull, over_gap = gap * share * root, s * share
                    bend = 2 * pull * z * over_gap
                    keep(kept, 0, row + i, 2 * pull)
                    keep(kept, 1, row + i, bend * gap_y)
                    keep(kept, 2, row + i, bend * gap_x)
                    if kept.shape[0] > 3:
                        inward = pull * dd * ((xx * gap_y + yy * gap_x) * over_gap + over_c)
                        keep(kept, 3, row + i, inward - d * (over_c / 2))

    return Kernel(forward, pair_slope(access), reduces=True, keeps=3)


dist_kernel = each_access(_dist)


def _mobius(access: Any) -> Kernel:
    """Moebius addition: (A x + B y) / D with A = 1 + 2 c xy + c yy, B = 1 - c xx, D = 1 + 2 c xy + c^2 xx yy."""
    import numpy as np

    from holonomy.geometry.vectors import EIGHTS, first, none, total

    together, drawn = row_sums(access)[-2:]
    wide, own, put, columns = access.wide, access.own, access.put, access.columns
    read, write = EIGHTS.wide, EIGHTS.put

    @compiled
    def forward(x, y, out, kept, start, stop, c):
        sums = np.empty((3, BLOCK))
        for row in range(start, stop, BLOCK):
            count = min(BLOCK, stop - row)
            together(row, count, (x, y), sums)
            for i in range(0, count, 8):
                xx, yy, cross = read(sums, 0, i), read(sums, 1, i), read(sums, 2, i) * (2 * c) + 1
                share = 1 / (cross + xx * yy * (c * c))
                write(sums, 0, i, share * (cross + yy * c))
                write(sums, 1, i, share * (1 - xx * c))
            for i in range(count):
                of_x, of_y = sums[0, i], sums[1, i]
                for j in range(0, columns(x), 8):
                    put(out, row + i, j, wide(x, row + i, j) * of_x + wide(y, row + i, j) * of_y)

    @compiled
    def slope(x, y, g, kept, gx, gy, start, stop, c):
        by_c, sums, weights = none(), np.empty((5, BLOCK)), np.empty((5, BLOCK), x.dtype)
        for row in range(start, stop, BLOCK):
            count = min(BLOCK, stop - row)
            drawn(row, count, (x, y, g), sums)
            for i in range(0, count, 8):
                xx, yy, xy = read(sums, 0, i), read(sums, 1, i), read(sums, 2, i)
                p, q = read(sums, 3, i), read(sums, 4, i)
                cross = xy * (2 * c) + 1
                share = 1 / (cross + xx * yy * (c * c))
                of_x, of_y = share * (cross + yy * c), share * (1 - xx * c)
                # How much the numerator's weights and the denominator gain along g.
                r, p, q = share * (of_x * p + of_y * q), share * p, share * q
                write(weights, 0, i, of_x)
                write(weights, 1, i, of_y)
                write(weights, 2, i, (p - r) * (2 * c))
                write(weights, 3, i, (q + r * yy * c) * (-2 * c))
                write(weights, 4, i, (p - r * xx * c) * (2 * c))
                by_c = by_c + first(p * (2 * xy + yy) - q * xx - 2 * r * (xy + xx * yy * c), count - i)
            for i in range(count):
                of_x, of_y, cross_here = weights[0, i], weights[1, i], weights[2, i]
                x_alone, y_alone = weights[3, i], weights[4, i]
                for j in range(0, columns(x), 8):
                    a, b, h = own(x, row + i, j), own(y, row + i, j), own(g, row + i, j)
                    put(gx, row + i, j, h * of_x + b * cross_here + a * x_alone)
                    put(gy, row + i, j, h * of_y + a * cross_here + b * y_alone)
        return total(by_c)

    return Kernel(forward, slope, reduces=False, keeps=0)


mobius_kernel = each_access(_mobius)
