"""Compiled distance on the hyperboloid, with hand-written derivatives: see `rows` for how kernels are run.

`holonomy.geometry.lorentz.chord` says what is computed; here its numerator and denominator go into the logarithm
undivided. Float32 points that are not near each other need no chord in float64: cosh(sqrt(c) d) = c (x_0 y_0 - x.y).
The way back needs none either: with delta = sqrt(c) d the derivative of d by q = <x - y, x - y> is
sqrt(c) / (2 sinh delta), and x_0 - y_0 is (x - y).(x + y) / (x_0 + y_0) without loss.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from holonomy.geometry.compiled import BLOCK, block_sums, compiled, elementary, row_sums
from holonomy.geometry.gyro import pair_slope
from holonomy.geometry.rows import Kernel, each_access

NEAR = 1e-7
"""cosh(delta) - 1 below this share of c x_0 y_0 takes the chord: float64's rounding leaves 2e-16 of c x_0 y_0 in the
difference, which elsewhere is a few 1e-9 of the distance."""
PLAIN_BELOW = 1e6
"""Sum of c |x|^2 over a block of float32 points below which the chord is |D|^2 - (x_0 - y_0)^2 as it stands: that is
at least 4 |D|^2 / (c (x_0 + y_0)^2), so no more than a factor of 1e6 of float64's rounding shows, 2e-10."""


@lru_cache(maxsize=32)
def _sums(access: Any) -> tuple[Any, Any]:
    """Sums over the spatial columns, with D = x - y and s = x + y.

    |x|^2, |y|^2, D.s, |s|^2, x.s, y.s and |D|^2; squares of D, x and y less their multiples of s.
    """
    from holonomy.geometry.vectors import none

    wide, begin, columns = access.wide, access.begin, access.columns

    def chords(row, x, y):
        xx, yy, ds, ss, xs, ys, dd = none(), none(), none(), none(), none(), none(), none()
        for j in range(begin, columns(x), 8):
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
        for j in range(begin, columns(x), 8):
            a, b = wide(x, row, j), wide(y, row, j)
            s = a + b
            d, a, b = a - b - s * of_d, a - s * of_x, b - s * of_y
            p = p + d * d
            q = q + a * a
            r = r + b * b
        return p, q, r

    one, two = (block_sums(compiled(f, exact=True, inlined=True)) for f in (chords, across))
    return one, two


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


@lru_cache(maxsize=32)
def _by_chord(access: Any) -> Any:
    """A block by the chord, for any points."""
    import numpy as np

    from holonomy.geometry.vectors import ANY, EIGHTS, none, roots, total, where_above

    (chords, across), quotient, log1p_ratio = _sums(access), _quotient(), elementary().log1p_ratio
    read, write, keep = EIGHTS.wide, EIGHTS.put, ANY.put

    @compiled
    def block(x, y, out, kept, row, count, c):
        root, over_c, sums, rest, shares = (
            math.sqrt(c),
            1 / c,
            np.empty((7, BLOCK)),
            np.empty((3, BLOCK)),
            np.empty((3, BLOCK)),
        )
        chords(row, count, (x, y), sums)
        furthest = none()
        for i in range(0, count, 8):
            furthest = furthest + read(sums, 0, i) + read(sums, 1, i)
        plain = x.itemsize == 4 and c * total(furthest) < PLAIN_BELOW
        if not plain:
            for i in range(0, count, 8):
                ss = read(sums, 3, i)
                over = where_above(ss, 0.0, 1 / ss, 0.0)
                write(shares, 0, i, read(sums, 2, i) * over)
                write(shares, 1, i, read(sums, 4, i) * over)
                write(shares, 2, i, read(sums, 5, i) * over)
            across(row, count, (x, y, shares, row), rest)
        for i in range(0, count, 8):
            xx, yy, ds = read(sums, 0, i), read(sums, 1, i), read(sums, 2, i)
            ss, xs, ys, dd = read(sums, 3, i), read(sums, 4, i), read(sums, 5, i), read(sums, 6, i)
            if plain:
                apart = ds / (roots(xx + over_c) + roots(yy + over_c))
                q = dd - apart * apart
                above, below = where_above(q, 0.0, q, 0 * q), none() + 1
            else:
                p, q, r = read(rest, 0, i), read(rest, 1, i), read(rest, 2, i)
                above, below = quotient(xx, yy, ds, ss, xs, ys, dd, p, q, r, over_c)
            h = above * (c / 4)
            up = roots(h * (h + below))
            d = log1p_ratio(2 * (h + up), below) * (1 / root)
            keep(out, 0, row + i, d)
            if kept.shape[0]:
                x0, y0 = roots(xx + over_c), roots(yy + over_c)
                pull, apart = where_above(up, 0.0, below / up, 0.0) * (root / 2), ds / (x0 + y0)
                keep(kept, 0, row + i, pull)
                keep(kept, 1, row + i, 0 - pull * apart / x0)
                keep(kept, 2, row + i, pull * apart / y0)
                if kept.shape[0] > 3:
                    inward = apart * apart / (x0 * y0) * (over_c * over_c / 2)
                    # h / up is tanh(delta / 2).
                    turned = where_above(up, 0.0, h / up, 0.0) * (2 / root)
                    keep(kept, 3, row + i, (turned - d) * (over_c / 2) - pull * inward)

    return block


def _sheet_dist(access: Any) -> Kernel:
    """Distances of pairs whose time coordinate stands first; it is not read, and its derivative is zero."""
    import numpy as np

    from holonomy.geometry.vectors import ANY, EIGHTS, extent, none, roots, where_above

    by_chord, together, log1p_brief = _by_chord(access), row_sums(access).together, elementary().log1p_brief
    read, write, take, keep = EIGHTS.wide, EIGHTS.put, ANY.wide, ANY.put

    @compiled
    def block(x, y, out, kept, sums, row, count, c):
        """A block of pairs that are not near; False, and nothing of use written, if one is."""
        root, over_root, over_c = math.sqrt(c), 1 / math.sqrt(c), 1 / c
        together(row, count, (x, y), sums)
        nearest = none() - 1
        for i in range(0, count, 8):
            # x_0^2 and y_0^2; their product under one root is all that is wanted of x_0 and y_0.
            xt, yt = read(sums, 0, i) + over_c, read(sums, 1, i) + over_c
            both = roots(xt * yt)
            e = (both - read(sums, 2, i)) * c - 1
            near = both * (c * NEAR) - e
            nearest = where_above(near, nearest, near, nearest)
            s = roots(e * (e + 2))
            write(sums, 2, i, e + s)
            if kept.shape[0]:
                of_x, of_y, gained = xt + both, yt + both, xt - yt
                share = root / (s * (of_x * of_y))
                pull = share * (of_x * of_y)
                keep(kept, 0, row + i, pull)
                keep(kept, 1, row + i, 0 - share * gained * of_y)
                keep(kept, 2, row + i, share * gained * of_x)
                if kept.shape[0] > 3:
                    inward = gained * gained / (both * (of_x + of_y)) * (over_c * over_c / 2)
                    keep(kept, 3, row + i, e / s * (over_root * over_c) - pull * inward)
        if not extent(nearest) < 0:
            return False
        for i in range(0, count, 8):
            d = log1p_brief(read(sums, 2, i)) * over_root
            keep(out, 0, row + i, d)
            if kept.shape[0] > 3:
                keep(kept, 3, row + i, take(kept, 3, row + i) - d * (over_c / 2))
        return True

    @compiled
    def forward(x, y, out, kept, start, stop, c):
        sums = np.empty((3, BLOCK))
        for row in range(start, stop, BLOCK):
            count = min(BLOCK, stop - row)
            if not (x.itemsize == 4 and block(x, y, out, kept, sums, row, count, c)):
                by_chord(x, y, out, kept, row, count, c)

    return Kernel(forward, pair_slope(access, cancels=True), reduces=True, keeps=3, keeps_wide=True)


sheet_dist_kernel = each_access(_sheet_dist, timed=True)
