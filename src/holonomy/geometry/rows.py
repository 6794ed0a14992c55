"""Compiled row kernels of the Poincare ball, with hand-written derivatives, and how kernels are run.

One pass over the coordinates, float64 in registers, nothing in between: many times faster than a chain of tensor
operations on a CPU, and as accurate. `holonomy.geometry.poincare` holds the plain twins that tests compare with; it
calls these for large inputs on the CPU. A kernel is compiled once a process, in a second or two, when first needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.geometry.compiled import BLOCK, FROM_ROWS, block_sums, compiled, elementary, over_rows, rows, scalars

EDGE = {t: 1 - 4 * torch.finfo(t).eps for t in (torch.float32, torch.float64)}
"""Largest sqrt(c) |x| of points that are kept in the ball: rounding of the coordinates cannot lift it to 1."""
TINY = 1e-150
"""Stands for a norm of zero, so that quotients of small numbers stay what they tend to."""
SERIES_BELOW = 1e-3
"""Squares below which the derivative of a radial factor is its series."""


class Kernel(NamedTuple):
    """An operation on rows.

    `forward(*points, out, kept, c)` fills `out`, and in `kept`, unless it is empty, one number a row for the way back.
    `slope(*points, g, kept, *grads, c)` fills the gradients by the points and returns the one by c.
    """

    forward: Callable[..., None]
    slope: Callable[..., float]
    reduces: bool
    """Whether a row becomes one number."""
    keeps: bool
    """Whether the way back wants float64 numbers of its own; otherwise it gets the numbers that rows became."""


class _Sums(NamedTuple):
    """Sums over the rows of a block, in the order of the formulas that want them."""

    squares: Any
    """|x|^2."""
    along: Any
    """|x|^2, x.g."""
    apart: Any
    """|x|^2, |y|^2, |x - y|^2."""
    together: Any
    """|x|^2, |y|^2, x.y."""
    drawn: Any
    """|x|^2, |y|^2, x.y, x.g, y.g."""


@lru_cache(maxsize=2)
def _sums(access: Any) -> _Sums:
    from holonomy.geometry.vectors import none

    wide = access.wide

    def squares(row, x):
        p = none()
        for j in range(0, x.shape[1], 8):
            a = wide(x, row, j)
            p = p + a * a
        return (p,)

    def along(row, x, g):
        p, q = none(), none()
        for j in range(0, x.shape[1], 8):
            a = wide(x, row, j)
            p = p + a * a
            q = q + a * wide(g, row, j)
        return p, q

    def apart(row, x, y):
        p, q, r = none(), none(), none()
        for j in range(0, x.shape[1], 8):
            a, b = wide(x, row, j), wide(y, row, j)
            p = p + a * a
            q = q + b * b
            r = r + (a - b) * (a - b)
        return p, q, r

    def together(row, x, y):
        p, q, r = none(), none(), none()
        for j in range(0, x.shape[1], 8):
            a, b = wide(x, row, j), wide(y, row, j)
            p = p + a * a
            q = q + b * b
            r = r + a * b
        return p, q, r

    def drawn(row, x, y, g):
        p, q, r, s, t = none(), none(), none(), none(), none()
        for j in range(0, x.shape[1], 8):
            a, b, h = wide(x, row, j), wide(y, row, j), wide(g, row, j)
            p = p + a * a
            q = q + b * b
            r = r + a * b
            s = s + a * h
            t = t + b * h
        return p, q, r, s, t

    kinds = (squares, along, apart, together, drawn)
    return _Sums(*(block_sums(compiled(kind, exact=True, inlined=True)) for kind in kinds))


@lru_cache(maxsize=2)
def dist_kernel(access: Any) -> Kernel:
    """Distances of pairs."""
    import numpy as np

    from holonomy.geometry.vectors import EIGHTS, first, keep, none, roots, take, total, where_above

    log1p_ratio, apart = elementary().log1p_ratio, _sums(access).apart
    _, own, put = access
    read, write = EIGHTS.wide, EIGHTS.put

    @compiled
    def forward(x, y, out, kept, c):
        root, sums = 1 / math.sqrt(c), np.empty((3, BLOCK))
        for start in range(0, x.shape[0], BLOCK):
            count = min(BLOCK, x.shape[0] - start)
            apart(start, count, (x, y), sums)
            for i in range(0, count, 8):
                gap, z = (1 - read(sums, 0, i) * c) * (1 - read(sums, 1, i) * c), read(sums, 2, i) * c
                # 2 asinh sqrt(z / gap) = log1p of this, which keeps the digits of small z.
                keep(out, start + i, log1p_ratio(2 * (z + roots(z * (z + gap))), gap) * root)

    @compiled
    def slope(x, y, g, kept, gx, gy, c):
        by_c, over_c, sums = none(), 1 / c, np.empty((3, BLOCK))
        # In the type of the points: the last loop stays in it.
        weights = np.empty((3, BLOCK), x.dtype)
        for start in range(0, x.shape[0], BLOCK):
            count = min(BLOCK, x.shape[0] - start)
            apart(start, count, (x, y), sums)
            for i in range(0, count, 8):
                xx, yy, dd = read(sums, 0, i), read(sums, 1, i), read(sums, 2, i)
                gap_x, gap_y, slopes = 1 - xx * c, 1 - yy * c, take(g, start + i)
                gap = gap_x * gap_y
                # d = (2 / sqrt c) asinh sqrt(c s), s = dd / gap: by dd it is 1 / sqrt(dd (gap + c dd)), zero where
                # points meet. Both quotients by one division.
                root = roots(dd * (gap + dd * c))
                share = where_above(root, 0.0, 1 / (root * gap), 0.0)
                pull, over_gap = slopes * gap * share, root * share
                bend = 2 * pull * dd * c * over_gap
                inward = pull * dd * ((xx * gap_y + yy * gap_x) * over_gap + over_c)
                by_c = by_c + first(inward - slopes * take(kept, start + i) * (over_c / 2), count - i)
                write(weights, 0, i, 2 * pull)
                write(weights, 1, i, bend * gap_y)
                write(weights, 2, i, bend * gap_x)
            for i in range(count):
                pull_here, of_x, of_y = weights[0, i], weights[1, i], weights[2, i]
                for j in range(0, x.shape[1], 8):
                    a, b = own(x, start + i, j), own(y, start + i, j)
                    away = (a - b) * pull_here
                    put(gx, start + i, j, away + a * of_x)
                    put(gy, start + i, j, b * of_y - away)
        return total(by_c)

    return Kernel(forward, slope, reduces=True, keeps=False)


@lru_cache(maxsize=2)
def dist0_kernel(access: Any) -> Kernel:
    """Distances from the origin."""
    import numpy as np

    from holonomy.geometry.vectors import EIGHTS, first, keep, none, roots, take, total, where_above

    log1p_ratio, squares = elementary().log1p_ratio, _sums(access).squares
    _, own, put = access
    read, write = EIGHTS.wide, EIGHTS.put

    @compiled
    def forward(x, out, kept, c):
        root, sums = 1 / math.sqrt(c), np.empty((1, BLOCK))
        for start in range(0, x.shape[0], BLOCK):
            count = min(BLOCK, x.shape[0] - start)
            squares(start, count, (x,), sums)
            for i in range(0, count, 8):
                r = roots(read(sums, 0, i) * c)
                # 2 artanh r.
                keep(out, start + i, log1p_ratio(2 * r, 1 - r) * root)

    @compiled
    def slope(x, g, kept, gx, c):
        root, over_c, by_c, sums = math.sqrt(c), 1 / c, none(), np.empty((1, BLOCK))
        weights = np.empty((1, BLOCK), x.dtype)
        for start in range(0, x.shape[0], BLOCK):
            count = min(BLOCK, x.shape[0] - start)
            squares(start, count, (x,), sums)
            for i in range(0, count, 8):
                xx, slopes = read(sums, 0, i), take(g, start + i)
                length = roots(xx)
                # By |x| the distance is 2 / gap.
                share = slopes / (length * ((1 - length * root) * (1 + length * root)))
                share = where_above(length, 0.0, share, 0.0)
                by_c = by_c + first(share * xx * over_c - slopes * take(kept, start + i) * (over_c / 2), count - i)
                write(weights, 0, i, 2 * share)
            for i in range(count):
                along = weights[0, i]
                for j in range(0, x.shape[1], 8):
                    put(gx, start + i, j, own(x, start + i, j) * along)
        return total(by_c)

    return Kernel(forward, slope, reduces=True, keeps=False)


def _radial(factor: Callable[..., Any], bend: Callable[..., Any], access: Any, *, inside: bool) -> Kernel:
    """x times a factor of sqrt(c) |x|.

    `factor(z)` gives the factors of z; `bend(u, f)` is twice the derivative of the factor by u = z^2. Results that
    belong `inside` the ball stay short of its boundary by what rounding may add, as by `poincare.project`.
    """
    import numpy as np

    from holonomy.geometry.vectors import EIGHTS, first, keep, none, roots, take, total, where_above

    factor, bend = (compiled(f, exact=True, inlined=True) for f in (factor, bend))
    squares, along = _sums(access)[:2]
    wide, own, put = access
    read, write = EIGHTS.wide, EIGHTS.put
    singles, doubles = EDGE[torch.float32], EDGE[torch.float64]

    @compiled
    def forward(x, out, kept, c):
        sums, edge = np.empty((1, BLOCK)), singles if x.itemsize == 4 else doubles
        for start in range(0, x.shape[0], BLOCK):
            count = min(BLOCK, x.shape[0] - start)
            squares(start, count, (x,), sums)
            for i in range(0, count, 8):
                z = roots(read(sums, 0, i) * c)
                z = where_above(TINY, z, TINY, z)
                f = factor(z)
                if inside:
                    f = where_above(f * z, edge, edge / z, f)
                keep(kept, start + i, f)
                write(sums, 0, i, f)
            for i in range(count):
                by = sums[0, i]
                for j in range(0, x.shape[1], 8):
                    put(out, start + i, j, wide(x, start + i, j) * by)

    @compiled
    def slope(x, g, kept, gx, c):
        by_c, sums, weights = none(), np.empty((2, BLOCK)), np.empty((2, BLOCK), x.dtype)
        for start in range(0, x.shape[0], BLOCK):
            count = min(BLOCK, x.shape[0] - start)
            along(start, count, (x, g), sums)
            for i in range(0, count, 8):
                xx, f = read(sums, 0, i), take(kept, start + i)
                by_u = read(sums, 1, i) * bend(xx * c, f)
                by_c = by_c + first(by_u * xx, count - i)
                write(weights, 0, i, f)
                write(weights, 1, i, by_u * c)
            for i in range(count):
                of_g, of_x = weights[0, i], weights[1, i]
                for j in range(0, x.shape[1], 8):
                    put(gx, start + i, j, own(g, start + i, j) * of_g + own(x, start + i, j) * of_x)
        return total(by_c) / 2

    return Kernel(forward, slope, reduces=False, keeps=True)


@lru_cache(maxsize=2)
def exp0_kernel(access: Any) -> Kernel:
    """The exponential map at the origin."""
    from holonomy.geometry.vectors import where_above

    expm1 = elementary().expm1

    def factor(z):
        e = expm1(where_above(z, 20.0, 40.0, 2 * z))
        return e / ((e + 2) * z)

    def bend(u, f):
        near = 2 * (u * (u * (u * (u * (-1382 / 31185) + 248 / 2835) - 17 / 105) + 4 / 15) - 1 / 3)
        return where_above(SERIES_BELOW, u, near, (1 - u * f * f - f) / u)

    return _radial(factor, bend, access, inside=True)


@lru_cache(maxsize=2)
def log0_kernel(access: Any) -> Kernel:
    """The logarithm at the origin."""
    from holonomy.geometry.vectors import where_above

    log1p_ratio = elementary().log1p_ratio

    def factor(z):
        return log1p_ratio(2 * z, 1 - z) / (2 * z)

    def bend(u, f):
        near = 2 * (u * (u * (u * (u * (u * (6 / 13) + 5 / 11) + 4 / 9) + 3 / 7) + 2 / 5) + 1 / 3)
        return where_above(SERIES_BELOW, u, near, (1 / (1 - u) - f) / u)

    return _radial(factor, bend, access, inside=False)


@lru_cache(maxsize=2)
def mobius_kernel(access: Any) -> Kernel:
    """Moebius addition: (A x + B y) / D with A = 1 + 2 c xy + c yy, B = 1 - c xx, D = 1 + 2 c xy + c^2 xx yy."""
    import numpy as np

    from holonomy.geometry.vectors import EIGHTS, first, none, total

    together, drawn = _sums(access)[3:]
    wide, own, put = access
    read, write = EIGHTS.wide, EIGHTS.put

    @compiled
    def forward(x, y, out, kept, c):
        sums = np.empty((3, BLOCK))
        for start in range(0, x.shape[0], BLOCK):
            count = min(BLOCK, x.shape[0] - start)
            together(start, count, (x, y), sums)
            for i in range(0, count, 8):
                xx, yy, cross = read(sums, 0, i), read(sums, 1, i), read(sums, 2, i) * (2 * c) + 1
                share = 1 / (cross + xx * yy * (c * c))
                write(sums, 0, i, share * (cross + yy * c))
                write(sums, 1, i, share * (1 - xx * c))
            for i in range(count):
                of_x, of_y = sums[0, i], sums[1, i]
                for j in range(0, x.shape[1], 8):
                    put(out, start + i, j, wide(x, start + i, j) * of_x + wide(y, start + i, j) * of_y)

    @compiled
    def slope(x, y, g, kept, gx, gy, c):
        by_c, sums, weights = none(), np.empty((5, BLOCK)), np.empty((5, BLOCK), x.dtype)
        for start in range(0, x.shape[0], BLOCK):
            count = min(BLOCK, x.shape[0] - start)
            drawn(start, count, (x, y, g), sums)
            for i in range(0, count, 8):
                xx, yy, xy, p, q = (
                    read(sums, 0, i),
                    read(sums, 1, i),
                    read(sums, 2, i),
                    read(sums, 3, i),
                    read(sums, 4, i),
                )
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
                for j in range(0, x.shape[1], 8):
                    a, b, h = own(x, start + i, j), own(y, start + i, j), own(g, start + i, j)
                    put(gx, start + i, j, h * of_x + b * cross_here + a * x_alone)
                    put(gy, start + i, j, h * of_y + a * cross_here + b * y_alone)
        return total(by_c)

    return Kernel(forward, slope, reduces=False, keeps=False)


def suits(k: Tensor, *points: Tensor) -> bool:
    """Whether the kernels take these points: many rows of one real dtype on the CPU, one curvature."""
    first = points[0]
    return (
        k.numel() == 1
        and first.dtype in (torch.float32, torch.float64)
        and first.shape[:-1].numel() >= FROM_ROWS
        and all(p.shape == first.shape and p.device.type == "cpu" and p.dtype == first.dtype for p in points)
    )


Operation = Callable[..., Kernel]
"""Gives a kernel, from the access to rows that it is to use."""


@lru_cache(maxsize=1)
def _accesses() -> tuple[Any, Any]:
    # Looked up once: after a large array has passed through the caches, every import statement costs.
    from holonomy.geometry.vectors import ANY, EIGHTS

    return EIGHTS, ANY


def _kernel_for(operation: Operation, points: tuple[Tensor, ...]) -> Kernel:
    return operation(_accesses()[points[0].shape[-1] % 8 > 0])


@lru_cache(maxsize=1)
def _nothing() -> Tensor:
    return torch.empty(0, dtype=torch.float64)


def _run(kernel: Kernel, k: Tensor, points: tuple[Tensor, ...], *, keep: bool) -> tuple[Tensor, Tensor]:
    """The result, and what the way back wants."""
    shape = points[0].shape
    out = torch.empty(shape[:-1] if kernel.reduces else shape, dtype=points[0].dtype)
    kept = torch.empty(shape[:-1], dtype=torch.float64) if keep and kernel.keeps else _nothing()
    laid = scalars(out) if kernel.reduces else rows(out)
    over_rows(kernel.forward, *map(rows, points), laid, scalars(kept), constants=(-k.item(),))
    return out, kept if kernel.keeps or not kernel.reduces else out


class _ByRows(torch.autograd.Function):
    """Runs a kernel; a second derivative goes through the plain twin."""

    @staticmethod
    def forward(ctx: Any, operation: Operation, twin: Callable[..., Tensor], k: Tensor, *points: Tensor) -> Tensor:
        kernel = _kernel_for(operation, points)
        out, kept = _run(kernel, k, points, keep=True)
        ctx.kernel, ctx.twin = kernel, twin
        ctx.save_for_backward(k, kept, *points)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        k, kept, *points = ctx.saved_tensors
        (g,) = slopes
        if torch.is_grad_enabled():
            with torch.enable_grad():
                value = ctx.twin(*points, k)
            inputs = (k, *points)
            wanted = [t for t in inputs if t.requires_grad]
            found = iter(torch.autograd.grad(value, wanted, g, create_graph=True))
            return None, None, *(next(found) if t.requires_grad else None for t in inputs)
        grads = [torch.empty_like(p, memory_format=torch.contiguous_format) for p in points]
        laid = scalars(g) if ctx.kernel.reduces else rows(g)
        arrays = (*map(rows, points), laid, scalars(kept), *map(rows, grads))
        by_c = over_rows(ctx.kernel.slope, *arrays, constants=(-k.item(),))
        return None, None, torch.full_like(k, -by_c), *grads


def by_rows(
    operation: Operation, twin: Callable[..., Tensor], k: Float[Tensor, ""], *points: Float[Tensor, "... d"]
) -> Float[Tensor, ...]:
    """An operation on each row of one or two arrays.

    Args:
        operation: gives the compiled operation.
        twin: the plain function of (*points, k) with the same values, for second derivatives.
        k: curvature, below zero.
        points: one or two arrays that `suits` accepts.
    """
    if not (torch.is_grad_enabled() and (k.requires_grad or any(p.requires_grad for p in points))):
        return _run(_kernel_for(operation, points), k, points, keep=False)[0]
    result = _ByRows.apply(operation, twin, k, *points)
    assert isinstance(result, Tensor)
    return result
