"""Compiled row kernels of the Poincare ball, with hand-written derivatives.

One pass over the coordinates, float64 in registers, nothing in between: many times faster than a chain of tensor
operations on a CPU, and as accurate. `holonomy.geometry.poincare` holds the plain twins that tests compare with; it
calls these for large inputs on the CPU. A kernel is compiled once a process, in about a second, when first needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.geometry.compiled import BLOCK, FROM_ROWS, compiled, elementary, over_rows, rows, scalars

TINY = 1e-150
"""Stands for a norm of zero, so that quotients of small numbers stay what they tend to."""
SERIES_BELOW = 1e-3
"""Squares below which the derivative of a radial factor is its series."""


class Kernel(NamedTuple):
    """An operation on rows.

    `forward(*points, out, kept, c)` fills `out`, and in `kept` one number a row for the way back.
    `slope(*points, g, kept, *grads, c)` fills the gradients by the points and returns the one by c.
    """

    forward: Callable[..., None]
    slope: Callable[..., float]
    reduces: bool
    """Whether a row becomes one number."""


@lru_cache(maxsize=1)
def _sums() -> tuple[Callable[..., None], Callable[..., None]]:
    """Squares of the rows of a block, and squares of two with those of their difference."""

    @compiled
    def squares(x, start, n, xx):
        for i in range(n):
            total = 0.0
            for j in range(x.shape[1]):
                a = float(x[start + i, j])
                total += a * a
            xx[i] = total

    @compiled
    def pairs(x, y, start, n, xx, yy, dd):
        for i in range(n):
            p = q = r = 0.0
            for j in range(x.shape[1]):
                a, b = float(x[start + i, j]), float(y[start + i, j])
                p += a * a
                q += b * b
                r += (a - b) * (a - b)
            xx[i], yy[i], dd[i] = p, q, r

    return squares, pairs


@lru_cache(maxsize=1)
def dist_kernel() -> Kernel:
    """Distances of pairs."""
    import numpy as np

    (scratch, _, log1p), (_, pairs) = elementary(), _sums()

    @compiled
    def forward(x, y, out, kept, c):
        z, xx, yy, s = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), scratch()
        root = 1 / math.sqrt(c)
        for start in range(0, x.shape[0], BLOCK):
            n = min(BLOCK, x.shape[0] - start)
            pairs(x, y, start, n, xx, yy, z)
            for i in range(n):
                q = c * z[i] / ((1 - c * xx[i]) * (1 - c * yy[i]))
                # 2 asinh sqrt(q) = log1p of this, which keeps the digits of small q.
                z[i] = 2 * (q + math.sqrt(q * (1 + q)))
            log1p(z, n, s)
            for i in range(n):
                out[start + i] = kept[start + i] = root * z[i]

    @compiled
    def slope(x, y, g, kept, gx, gy, c):
        xx, yy, dd, by_c, over_c = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), 0.0, 1 / c
        # Weights in the type of the points: the last loop stays in it.
        apart, out_x, out_y = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
        for start in range(0, x.shape[0], BLOCK):
            n = min(BLOCK, x.shape[0] - start)
            pairs(x, y, start, n, xx, yy, dd)
            for i in range(n):
                gap_x, gap_y = 1 - c * xx[i], 1 - c * yy[i]
                share = 1 / (gap_x * gap_y)
                s = dd[i] * share
                # d = (2 / sqrt c) asinh(sqrt(c s)): by s it is 1 / (sqrt(s) sqrt(1 + c s)); zero where points meet.
                by_s = 0.0 if s == 0 else g[start + i] / math.sqrt(s * (1 + c * s))
                x_share, y_share = share * gap_y, share * gap_x
                by_c += by_s * s * (over_c + xx[i] * x_share + yy[i] * y_share)
                by_c -= g[start + i] * kept[start + i] * over_c / 2
                apart[i] = 2 * by_s * share
                out_x[i], out_y[i] = 2 * by_s * c * s * x_share, 2 * by_s * c * s * y_share
            for i in range(n):
                pull, of_x, of_y = apart[i], out_x[i], out_y[i]
                for j in range(x.shape[1]):
                    a, b = x[start + i, j], y[start + i, j]
                    gx[start + i, j] = pull * (a - b) + of_x * a
                    gy[start + i, j] = pull * (b - a) + of_y * b
        return by_c

    return Kernel(forward, slope, True)


@lru_cache(maxsize=1)
def dist0_kernel() -> Kernel:
    """Distances from the origin."""
    import numpy as np

    (scratch, _, log1p), (squares, _) = elementary(), _sums()

    @compiled
    def forward(x, out, kept, c):
        z, s, root = np.empty(BLOCK), scratch(), math.sqrt(c)
        for start in range(0, x.shape[0], BLOCK):
            n = min(BLOCK, x.shape[0] - start)
            squares(x, start, n, z)
            for i in range(n):
                r = root * math.sqrt(z[i])
                # 2 artanh r = log1p of this.
                z[i] = 2 * r / (1 - r)
            log1p(z, n, s)
            for i in range(n):
                out[start + i] = kept[start + i] = z[i] / root

    @compiled
    def slope(x, g, kept, gx, c):
        z, along, root, by_c = np.empty(BLOCK), np.empty(BLOCK, x.dtype), math.sqrt(c), 0.0
        for start in range(0, x.shape[0], BLOCK):
            n = min(BLOCK, x.shape[0] - start)
            squares(x, start, n, z)
            for i in range(n):
                length = math.sqrt(z[i])
                gap = (1 - root * length) * (1 + root * length)
                by_c += g[start + i] * (length / (c * gap) - kept[start + i] / (2 * c))
                along[i] = 0.0 if length == 0 else 2 * g[start + i] / (gap * length)
            for i in range(n):
                by = along[i]
                for j in range(x.shape[1]):
                    gx[start + i, j] = by * x[start + i, j]
        return by_c

    return Kernel(forward, slope, True)


def _radial(factor: Callable[..., None], bend: Callable[..., float]) -> Kernel:
    """x times a factor of sqrt(c) |x|.

    `factor(z, n, f, s)` fills f with the factors of z; `bend(u, f)` is twice the derivative of the factor by u = z^2.
    """
    import numpy as np

    scratch, (squares, _) = elementary().scratch, _sums()

    @compiled
    def forward(x, out, kept, c):
        z, f, s = np.empty(BLOCK), np.empty(BLOCK), scratch()
        for start in range(0, x.shape[0], BLOCK):
            n = min(BLOCK, x.shape[0] - start)
            squares(x, start, n, z)
            for i in range(n):
                root = math.sqrt(c * z[i])
                z[i] = TINY if root < TINY else root
            factor(z, n, f, s)
            for i in range(n):
                by = kept[start + i] = f[i]
                for j in range(x.shape[1]):
                    out[start + i, j] = by * float(x[start + i, j])

    @compiled
    def slope(x, g, kept, gx, c):
        xx, along, by_c = np.empty(BLOCK), np.empty(BLOCK), 0.0
        of_g, of_x = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
        for start in range(0, x.shape[0], BLOCK):
            n = min(BLOCK, x.shape[0] - start)
            for i in range(n):
                p = q = 0.0
                for j in range(x.shape[1]):
                    a = float(x[start + i, j])
                    p += a * a
                    q += a * float(g[start + i, j])
                xx[i], along[i] = p, q
            for i in range(n):
                by_u = along[i] * bend(c * xx[i], kept[start + i])
                by_c += by_u * xx[i] / 2
                of_g[i], of_x[i] = kept[start + i], by_u * c
            for i in range(n):
                by, along_x = of_g[i], of_x[i]
                for j in range(x.shape[1]):
                    gx[start + i, j] = by * g[start + i, j] + along_x * x[start + i, j]
        return by_c

    return Kernel(forward, slope, False)


@lru_cache(maxsize=1)
def exp0_kernel() -> Kernel:
    """The exponential map at the origin."""
    expm1 = elementary().expm1

    @compiled
    def factor(z, n, f, s):
        for i in range(n):
            f[i] = 40.0 if z[i] > 20 else 2 * z[i]
        expm1(f, n, s)
        for i in range(n):
            f[i] = f[i] / ((f[i] + 2) * z[i])

    @compiled
    def bend(u, f):
        near = 2 * (-1 / 3 + u * (4 / 15 + u * (-17 / 105 + u * (248 / 2835 - u * 1382 / 31185))))
        return near if u < SERIES_BELOW else (1 - u * f * f - f) / u

    return _radial(factor, bend)


@lru_cache(maxsize=1)
def log0_kernel() -> Kernel:
    """The logarithm at the origin."""
    log1p = elementary().log1p

    @compiled
    def factor(z, n, f, s):
        for i in range(n):
            f[i] = 2 * z[i] / (1 - z[i])
        log1p(f, n, s)
        for i in range(n):
            f[i] = f[i] / (2 * z[i])

    @compiled
    def bend(u, f):
        near = 2 * (1 / 3 + u * (2 / 5 + u * (3 / 7 + u * (4 / 9 + u * (5 / 11 + u * 6 / 13)))))
        return near if u < SERIES_BELOW else (1 / (1 - u) - f) / u

    return _radial(factor, bend)


@lru_cache(maxsize=1)
def mobius_kernel() -> Kernel:
    """Moebius addition: (A x + B y) / D with A = 1 + 2 c xy + c yy, B = 1 - c xx, D = 1 + 2 c xy + c^2 xx yy."""

    @compiled
    def forward(x, y, out, kept, c):
        for i in range(x.shape[0]):
            xx = yy = xy = 0.0
            for j in range(x.shape[1]):
                a, b = float(x[i, j]), float(y[i, j])
                xx += a * a
                yy += b * b
                xy += a * b
            share = 1 / (1 + 2 * c * xy + c * c * xx * yy)
            of_x, of_y = share * (1 + 2 * c * xy + c * yy), share * (1 - c * xx)
            for j in range(x.shape[1]):
                out[i, j] = of_x * float(x[i, j]) + of_y * float(y[i, j])

    @compiled
    def slope(x, y, g, kept, gx, gy, c):
        by_c = 0.0
        for i in range(x.shape[0]):
            xx = yy = xy = p = q = 0.0
            for j in range(x.shape[1]):
                a, b, h = float(x[i, j]), float(y[i, j]), float(g[i, j])
                xx += a * a
                yy += b * b
                xy += a * b
                p += a * h
                q += b * h
            share = 1 / (1 + 2 * c * xy + c * c * xx * yy)
            of_x, of_y = share * (1 + 2 * c * xy + c * yy), share * (1 - c * xx)
            # How much the numerator's weights and the denominator gain along g.
            r = share * (of_x * p + of_y * q)
            p, q = share * p, share * q
            cross, x_alone, y_alone = 2 * c * (p - r), 2 * c * (q + r * c * yy), 2 * c * (p - r * c * xx)
            for j in range(x.shape[1]):
                a, b, h = float(x[i, j]), float(y[i, j]), float(g[i, j])
                gx[i, j] = of_x * h + cross * b - x_alone * a
                gy[i, j] = of_y * h + cross * a + y_alone * b
            by_c += p * (2 * xy + yy) - q * xx - 2 * r * (xy + c * xx * yy)
        return by_c

    return Kernel(forward, slope, False)


def suits(k: Tensor, *points: Tensor) -> bool:
    """Whether the kernels take these points: many rows of one real dtype on the CPU, one curvature."""
    first = points[0]
    return (
        k.numel() == 1
        and first.dtype in (torch.float32, torch.float64)
        and first.shape[:-1].numel() >= FROM_ROWS
        and all(p.shape == first.shape and p.device.type == "cpu" and p.dtype == first.dtype for p in points)
    )


def _run(kernel: Kernel, k: Tensor, points: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The result, and what the way back wants."""
    shape = points[0].shape
    out = points[0].new_empty(shape[:-1] if kernel.reduces else shape)
    kept = torch.empty(shape[:-1], dtype=torch.float64)
    laid = scalars(out) if kernel.reduces else rows(out)
    over_rows(kernel.forward, *map(rows, points), laid, scalars(kept), constants=(-k.item(),))
    return out, kept


class _ByRows(torch.autograd.Function):
    """Runs a kernel; a second derivative goes through the plain twin."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, twin: Callable[..., Tensor], k: Tensor, *points: Tensor) -> Tensor:
        out, kept = _run(kernel, k, points)
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
    kernel: Kernel, twin: Callable[..., Tensor], k: Float[Tensor, ""], *points: Float[Tensor, "... d"]
) -> Float[Tensor, ...]:
    """An operation on each row of one or two arrays.

    Args:
        kernel: the compiled operation.
        twin: the plain function of (*points, k) with the same values, for second derivatives.
        k: curvature, below zero.
        points: one or two arrays that `suits` accepts.
    """
    if not (torch.is_grad_enabled() and (k.requires_grad or any(p.requires_grad for p in points))):
        return _run(kernel, k, points)[0]
    result = _ByRows.apply(kernel, twin, k, *points)
    assert isinstance(result, Tensor)
    return result
