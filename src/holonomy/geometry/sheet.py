"""Compiled distance on the hyperboloid, with hand-written derivatives: see `rows` for how kernels are run.

`holonomy.geometry.lorentz.chord` says what is computed; here its numerator and denominator go into the logarithm
undivided. The way back needs no chord: with delta = sqrt(c) d the derivative of d by q = <x - y, x - y> is
sqrt(c) / (2 sinh delta), and x_0 - y_0 is (x - y).(x + y) / (x_0 + y_0) without loss.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from holonomy.geometry.compiled import BLOCK, block_sums, compiled, elementary
from holonomy.geometry.rows import Kernel

PLAIN_BELOW = 1e6
"""Sum of c |x|^2 over a block of float32 points below which the chord is |D|^2 - (x_0 - y_0)^2 as it stands: that is
at least 4 |D|^2 / (c (x_0 + y_0)^2), so no more than a factor of 1e6 of float64's rounding shows, 2e-10."""


@lru_cache(maxsize=1)
def _sums() -> tuple[Any, Any, Any]:
    """Sums over the spatial columns, with D = x - y and s = x + y.

    |x|^2, |y|^2, D.s, |s|^2, x.s, y.s and |D|^2; squares of D, x and y less their multiples of s; |x|^2, |y|^2, D.s and
    |D|^2.
    """
    from holonomy.geometry.vectors import ANY, none

    wide = ANY.wide

    def chords(row, x, y):
        xx, yy, ds, ss, xs, ys, dd = none(), none(), none(), none(), none(), none(), none()
        for j in range(1, x.shape[1], 8):
            a, b = wide(x, row, j), wide(y, row, j)
            away, s = a - b, a + b
            xx = xx + a * a
            yy = yy + b * b
            ds = ds + away * s
            ss = ss + s * s
            xs = xs + a * s
            ys = ys + b * s
            dd = dd + away * away
        return xx, yy, ds, ss, xs, ys, dd

    def across(row, x, y, shares, start):
        p, q, r = none(), none(), none()
        of_d, of_x, of_y = shares[0, row - start], shares[1, row - start], shares[2, row - start]
        for j in range(1, x.shape[1], 8):
            a, b = wide(x, row, j), wide(y, row, j)
            s = a + b
            d, a, b = a - b - s * of_d, a - s * of_x, b - s * of_y
            p = p + d * d
            q = q + a * a
            r = r + b * b
        return p, q, r

    def lengths(row, x, y):
        xx, yy, ds, dd = none(), none(), none(), none()
        for j in range(1, x.shape[1], 8):
            a, b = wide(x, row, j), wide(y, row, j)
            xx = xx + a * a
            yy = yy + b * b
            away = a - b
            ds = ds + away * (a + b)
            dd = dd + away * away
        return xx, yy, ds, dd

    one, two, three = (block_sums(compiled(f, exact=True, inlined=True)) for f in (chords, across, lengths))
    return one, two, three


def _quotient() -> Any:
    """Numerator and denominator of the squared chord from the sums."""
    from holonomy.geometry.vectors import roots, where_above

    def quotient(xx, yy, ds, ss, xs, ys, dd, across, x_across, y_across, over_c):
        shorter = 1 / roots(where_above(ss, 1e-300, ss, 1e-300))
        p, a, b = ds * shorter, xs * shorter, ys * shorter
        x0, y0 = roots(xx + over_c), roots(yy + over_c)
        x_big, y_big = x0 + where_above(a, 0.0, a, 0 - a), y0 + where_above(b, 0.0, b, 0 - b)
        x_small, y_small = (x_across + over_c) / x_big, (y_across + over_c) / y_big
        x_plus, x_minus = where_above(a, 0.0, x_big, x_small), where_above(a, 0.0, x_small, x_big)
        y_plus, y_minus = where_above(b, 0.0, y_big, y_small), where_above(b, 0.0, y_small, y_big)
        t, apart = x0 + y0, ds / (x0 + y0)
        opposite, tt = dd - apart * apart, t * t
        above = where_above(tt, 4 * ss, opposite, across * tt + 4 * p * p * over_c)
        below = where_above(tt, 4 * ss, 1.0, (x_minus + y_plus) * (x_plus + y_minus))
        return where_above(above, 0.0, above, 0 * above), below

    return compiled(quotient, exact=True, inlined=True)


def _forward() -> Any:
    import numpy as np

    from holonomy.geometry.vectors import EIGHTS, keep, none, roots, total, where_above

    (chords, across, lengths), quotient, log1p_ratio = _sums(), _quotient(), elementary().log1p_ratio
    read, write = EIGHTS.wide, EIGHTS.put

    @compiled
    def forward(x, y, out, kept, c):
        root, over_c, sums, rest = 1 / math.sqrt(c), 1 / c, np.empty((7, BLOCK)), np.empty((3, BLOCK))
        for start in range(0, x.shape[0], BLOCK):
            count = min(BLOCK, x.shape[0] - start)
            lengths(start, count, (x, y), sums)
            furthest = none()
            for i in range(0, count, 8):
                furthest = furthest + read(sums, 0, i) + read(sums, 1, i)
            if x.itemsize == 4 and c * total(furthest) < PLAIN_BELOW:
                for i in range(0, count, 8):
                    t = roots(read(sums, 0, i) + over_c) + roots(read(sums, 1, i) + over_c)
                    apart = read(sums, 2, i) / t
                    q = read(sums, 3, i) - apart * apart
                    h = where_above(q, 0.0, q, 0 * q) * (c / 4)
                    d = log1p_ratio(2 * (h + roots(h * (h + 1))), none() + 1) * root
                    keep(out, start + i, d)
                    keep(kept, start + i, d)
                continue
            chords(start, count, (x, y), sums)
            shares = np.empty((3, BLOCK))
            for i in range(0, count, 8):
                ss = read(sums, 3, i)
                over = where_above(ss, 0.0, 1 / ss, 0.0)
                write(shares, 0, i, read(sums, 2, i) * over)
                write(shares, 1, i, read(sums, 4, i) * over)
                write(shares, 2, i, read(sums, 5, i) * over)
            across(start, count, (x, y, shares, start), rest)
            for i in range(0, count, 8):
                above, below = quotient(
                    read(sums, 0, i),
                    read(sums, 1, i),
                    read(sums, 2, i),
                    read(sums, 3, i),
                    read(sums, 4, i),
                    read(sums, 5, i),
                    read(sums, 6, i),
                    read(rest, 0, i),
                    read(rest, 1, i),
                    read(rest, 2, i),
                    over_c,
                )
                h = above * (c / 4)
                d = log1p_ratio(2 * (h + roots(h * (h + below))), below) * root
                keep(out, start + i, d)
                keep(kept, start + i, d)

    return forward


def _slope() -> Any:
    import numpy as np

    from holonomy.geometry.vectors import ANY, EIGHTS, first, none, roots, take, total, where_above

    lengths, expm1 = _sums()[2], elementary().expm1
    read, write, wide, put = EIGHTS.wide, EIGHTS.put, ANY.wide, ANY.put

    @compiled
    def slope(x, y, g, kept, gx, gy, c):
        root, over_c, by_c = math.sqrt(c), 1 / c, none()
        sums, weights = np.empty((4, BLOCK)), np.empty((3, BLOCK))
        for start in range(0, x.shape[0], BLOCK):
            count = min(BLOCK, x.shape[0] - start)
            lengths(start, count, (x, y), sums)
            for i in range(0, count, 8):
                x0, y0 = roots(read(sums, 0, i) + over_c), roots(read(sums, 1, i) + over_c)
                apart, d, slopes = read(sums, 2, i) / (x0 + y0), take(kept, start + i), take(g, start + i)
                e = expm1(d * root)
                # 2 sinh delta = e + e / (1 + e), tanh(delta / 2) = e / (e + 2).
                pull = where_above(d, 0.0, slopes * (2 * root) / (e + e / (1 + e)), 0.0)
                inward = apart * apart / (x0 * y0) * (over_c * over_c / 2)
                gained = slopes * (e / (e + 2) * (2 / root) - d) * (over_c / 2) - pull * inward
                by_c = by_c + first(gained, count - i)
                write(weights, 0, i, pull)
                write(weights, 1, i, pull * apart / x0)
                write(weights, 2, i, pull * apart / y0)
            for i in range(count):
                row, pull_here, of_x, of_y = start + i, weights[0, i], weights[1, i], weights[2, i]
                gx[row, 0] = gy[row, 0] = 0.0
                for j in range(1, x.shape[1], 8):
                    a, b = wide(x, row, j), wide(y, row, j)
                    away = (a - b) * pull_here
                    put(gx, row, j, away - a * of_x)
                    put(gy, row, j, b * of_y - away)
        return total(by_c)

    return slope


@lru_cache(maxsize=1)
def sheet_dist_kernel(_: Any = None) -> Kernel:
    """Distances of pairs whose time coordinate stands first; it is not read, and its derivative is zero."""
    return Kernel(_forward(), _slope(), reduces=True, keeps=True)
