"""Compiled row kernels for distances of the Poincare ball, with hand-written derivatives.

One pass over the coordinates, float64 in registers, nothing in between: many times faster than a chain of tensor
operations on a CPU, and as accurate. `holonomy.geometry.poincare` holds the plain twins that tests compare with; it
calls these for large inputs on the CPU. Compilation takes about a second, once a process, when first needed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

FROM_ROWS = 4096
"""Fewer rows are left to the plain functions: they take less than the kernel's compilation."""


class _Kernels(NamedTuple):
    dist: Callable[..., None]
    dist_slope: Callable[..., float]
    dist0: Callable[..., None]
    dist0_slope: Callable[..., float]


@lru_cache(maxsize=1)
def _kernels() -> _Kernels:
    from numba import njit

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        # Sums may be reordered, so that rows vectorise; NaN and infinity keep their meaning. Unwrapped, since an import
        # hook that checks annotations wraps functions into what cannot be compiled.
        return njit(fastmath={"reassoc", "contract", "nsz"}, nogil=True)(inspect.unwrap(function))

    # The first kernel of each pair leaves the argument of log1p, which torch computes for many rows at once.
    @compiled
    def dist(x, y, c, argument):
        root = math.sqrt(c)
        for i in range(x.shape[0]):
            xx = yy = dd = 0.0
            for j in range(x.shape[1]):
                a, b = float(x[i, j]), float(y[i, j])
                xx += a * a
                yy += b * b
                dd += (a - b) * (a - b)
            z = root * math.sqrt(dd / ((1 - c * xx) * (1 - c * yy)))
            # asinh z = log1p of this, which keeps the digits of small z.
            argument[i] = z + z * z / (1 + math.sqrt(1 + z * z))

    @compiled
    def dist_slope(x, y, c, g, d, gx, gy):
        by_c = 0.0
        for i in range(x.shape[0]):
            xx = yy = dd = 0.0
            for j in range(x.shape[1]):
                a, b = float(x[i, j]), float(y[i, j])
                xx += a * a
                yy += b * b
                dd += (a - b) * (a - b)
            gap_x, gap_y = 1 - c * xx, 1 - c * yy
            s = dd / (gap_x * gap_y)
            # d = (2 / sqrt c) asinh(sqrt(c s)): by s it is 1 / (sqrt(s) sqrt(1 + c s)); zero where the points meet.
            by_s = g[i] / (math.sqrt(s) * math.sqrt(1 + c * s)) if s > 0 else 0.0
            apart = 2 * by_s / (gap_x * gap_y)
            out_x, out_y = 2 * by_s * c * s / gap_x, 2 * by_s * c * s / gap_y
            for j in range(x.shape[1]):
                a, b = float(x[i, j]), float(y[i, j])
                gx[i, j] = apart * (a - b) + out_x * a
                gy[i, j] = apart * (b - a) + out_y * b
            by_c += by_s * s / c - g[i] * d[i] / (2 * c) + by_s * s * (xx / gap_x + yy / gap_y)
        return by_c

    @compiled
    def dist0(x, c, argument):
        root = math.sqrt(c)
        for i in range(x.shape[0]):
            xx = 0.0
            for j in range(x.shape[1]):
                a = float(x[i, j])
                xx += a * a
            r = root * math.sqrt(xx)
            # 2 artanh r = log1p of this.
            argument[i] = 2 * r / (1 - r)

    @compiled
    def dist0_slope(x, c, g, d, gx):
        by_c = 0.0
        root = math.sqrt(c)
        for i in range(x.shape[0]):
            xx = 0.0
            for j in range(x.shape[1]):
                a = float(x[i, j])
                xx += a * a
            n = math.sqrt(xx)
            r = root * n
            gap = (1 - r) * (1 + r)
            along = 2 * g[i] / (gap * n) if n > 0 else 0.0
            for j in range(x.shape[1]):
                gx[i, j] = along * float(x[i, j])
            by_c += g[i] * (n / (c * gap) - d[i] / (2 * c))
        return by_c

    return _Kernels(dist, dist_slope, dist0, dist0_slope)


def suits(k: Tensor, *points: Tensor) -> bool:
    """Whether the kernels take these points: many rows of one real dtype on the CPU, one curvature."""
    first = points[0]
    return (
        k.numel() == 1
        and first.dtype in (torch.float32, torch.float64)
        and first.shape[:-1].numel() >= FROM_ROWS
        and all(p.shape == first.shape and p.device.type == "cpu" and p.dtype == first.dtype for p in points)
    )


def _rows(x: Tensor) -> Any:
    # Contiguous also where a view would do: kernels are compiled for one layout.
    return x.detach().contiguous().view(-1, x.shape[-1]).numpy()


class _ByRows(torch.autograd.Function):
    """Runs a kernel; a second derivative goes through the plain twin."""

    @staticmethod
    def forward(ctx: Any, twin: Callable[..., Tensor], k: Tensor, *points: Tensor) -> Tensor:
        argument = torch.empty(points[0].shape[:-1], dtype=torch.float64)
        kernel, factor = (_kernels().dist, 2.0) if len(points) == 2 else (_kernels().dist0, 1.0)
        kernel(*map(_rows, points), -float(k), argument.view(-1).numpy())
        out = argument.log1p_().mul_(factor * (-float(k)) ** -0.5).to(points[0].dtype)
        ctx.twin = twin
        ctx.save_for_backward(k, out, *points)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        k, out, *points = ctx.saved_tensors
        (g,) = slopes
        if torch.is_grad_enabled():
            with torch.enable_grad():
                value = ctx.twin(*points, k)
            inputs = (k, *points)
            wanted = [t for t in inputs if t.requires_grad]
            found = iter(torch.autograd.grad(value, wanted, g, create_graph=True))
            return None, *(next(found) if t.requires_grad else None for t in inputs)
        grads = [torch.empty_like(p, memory_format=torch.contiguous_format) for p in points]
        kernel = _kernels().dist_slope if len(points) == 2 else _kernels().dist0_slope
        known = (t.detach().contiguous().view(-1).numpy() for t in (g, out))
        by_c = kernel(*map(_rows, points), -float(k), *known, *map(_rows, grads))
        return None, torch.full_like(k, -by_c), *grads


def by_rows(twin: Callable[..., Tensor], k: Float[Tensor, ""], *points: Float[Tensor, "... d"]) -> Float[Tensor, ...]:
    """Distances of two arrays of points, or of one from the origin.

    Args:
        twin: the plain function of (*points, k) with the same values, for second derivatives.
        k: curvature, below zero.
        points: one or two arrays that `suits` accepts.
    """
    result = _ByRows.apply(twin, k, *points)
    assert isinstance(result, Tensor)
    return result
