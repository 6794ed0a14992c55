"""How row kernels are run: by the addresses of their arrays, over threads, and on the way back.

A kernel takes one pass over the coordinates, float64 in registers, nothing in between: many times faster than a chain
of tensor operations on a CPU, and as accurate. The plain twins, which tests compare with, stand beside the functions
that call kernels for large inputs on the CPU. A kernel is compiled once a process, in a second or two, when first
needed. For twenty thousand rows the way to the kernel costs as much as the kernel, so there is little on it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.geometry.compiled import BLOCK, FROM_ROWS, compiled, over_ranges, plain_only, slopes_of_twin
from holonomy.geometry.manifold import check_real

REAL = (torch.float32, torch.float64)


class Kernel(NamedTuple):
    """An operation on rows `start` to `stop` of matrices.

    `forward(*points, out, kept, start, stop, c)` fills `out`, which is one row of numbers where it `reduces`, and the
    rows of `kept`, where it has any, with numbers for the way back. `slope(*points, g, kept, *grads, start, stop, c)`
    fills the gradients by the points and returns the one by c.
    """

    forward: Callable[..., None]
    slope: Callable[..., float]
    reduces: bool
    """Whether a row becomes one number. The last row of `kept` is then the derivative by c, where that is wanted."""
    keeps: int
    """Rows of `kept`, without the one for c."""
    keeps_wide: bool = False
    """Whether `kept` is float64 for all points."""


Operation = Callable[[int], Kernel]
"""Gives a kernel for rows of this many columns."""


def each_access(build: Callable[[Any], Kernel], *, timed: bool = False) -> Operation:
    """The operation whose kernels `build` makes, one for each way of reading rows.

    Args:
        build: gives a kernel for an access of `vectors.row_access`.
        timed: whether the first column is a time coordinate, which is not read.
    """
    cached = lru_cache(maxsize=32)(build)

    def operation(width: int) -> Kernel:
        from holonomy.geometry.vectors import row_access

        return cached(row_access(width, timed=timed))

    return operation


class _Entries(NamedTuple):
    """A kernel by `(*addresses, count, width, height of the value, its width, rows kept, start, stop, c)`."""

    forward: Callable[..., None]
    slope: Callable[..., float]
    reduces: bool
    keeps: int
    keeps_wide: bool


@lru_cache(maxsize=256)
def _entries(operation: Operation, width: int, points: int, single: bool) -> _Entries:
    return _entries_of(operation(width), points, single)


@lru_cache(maxsize=64)
def _entries_of(kernel: Kernel, points: int, single: bool) -> _Entries:
    import numpy as np

    from holonomy.geometry.vectors import matrix_at

    element = np.float32 if single else np.float64
    kept_element = np.float64 if kernel.keeps_wide else element
    forward, slope = kernel.forward, kernel.slope

    def one(x, value, kept, n, w, height, across, m, start, stop, c):
        value, kept = matrix_at(value, height, across, element), matrix_at(kept, m, n, kept_element)
        forward(matrix_at(x, n, w, element), value, kept, start, stop, c)

    def two(x, y, value, kept, n, w, height, across, m, start, stop, c):
        x, y = matrix_at(x, n, w, element), matrix_at(y, n, w, element)
        value, kept = matrix_at(value, height, across, element), matrix_at(kept, m, n, kept_element)
        forward(x, y, value, kept, start, stop, c)

    def back_one(x, g, kept, gx, n, w, height, across, m, start, stop, c):
        g, kept = matrix_at(g, height, across, element), matrix_at(kept, m, n, kept_element)
        return slope(matrix_at(x, n, w, element), g, kept, matrix_at(gx, n, w, element), start, stop, c)

    def back_two(x, y, g, kept, gx, gy, n, w, height, across, m, start, stop, c):
        x, y = matrix_at(x, n, w, element), matrix_at(y, n, w, element)
        g, kept = matrix_at(g, height, across, element), matrix_at(kept, m, n, kept_element)
        gx, gy = matrix_at(gx, n, w, element), matrix_at(gy, n, w, element)
        return slope(x, y, g, kept, gx, gy, start, stop, c)

    there, back = (one, back_one) if points == 1 else (two, back_two)
    return _Entries(
        compiled(there, exact=True), compiled(back, exact=True), kernel.reduces, kernel.keeps, kernel.keeps_wide
    )


def suits(k: Tensor, *points: Tensor) -> bool:
    """Whether the kernels take these points: many rows of one real dtype on the CPU, one curvature, plain tensors.

    What `torch.func`, forward derivatives or `torch.compile` look into takes the plain road.
    """
    first = points[0]
    shape, dtype = first.shape, first.dtype
    return (
        k.numel() == 1
        and dtype in REAL
        and first.numel() >= FROM_ROWS * max(shape[-1], 1)
        and all(p.is_cpu and p.dtype is dtype and p.shape == shape and not p.is_neg() for p in points)
        and not plain_only()
    )


def _run(entries: _Entries, c: float, points: tuple[Tensor, ...], kept_rows: int) -> tuple[Tensor, Tensor | None]:
    """The result, and what the way back wants."""
    first = points[0]
    shape, dtype = first.shape, first.dtype
    width = shape[-1]
    count = first.numel() // width
    out = torch.empty(shape[:-1] if entries.reduces else shape, dtype=dtype)
    kept_dtype = torch.float64 if entries.keeps_wide else dtype
    kept = torch.empty(kept_rows, count, dtype=kept_dtype) if kept_rows else None
    laid = [p.contiguous() for p in points]
    height, across = (1, count) if entries.reduces else (count, width)
    addresses = [p.data_ptr() for p in laid]
    address = 0 if kept is None else kept.data_ptr()
    forward, sizes = entries.forward, (out.data_ptr(), address, count, width, height, across, kept_rows)

    def run(start: int, stop: int) -> None:
        forward(*addresses, *sizes, start, stop, c)

    over_ranges(run, count, unit=BLOCK)
    return out, kept


class _ByRows(torch.autograd.Function):
    """Runs a kernel; a second derivative goes through the plain twin."""

    @staticmethod
    def forward(ctx: Any, entries: _Entries, twin: Callable[..., Tensor], k: Tensor, *points: Tensor) -> Tensor:
        out, kept = _run(entries, -k.item(), points, entries.keeps + (entries.reduces and k.requires_grad))
        ctx.entries, ctx.twin = entries, twin
        ctx.save_for_backward(k, kept, *points)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        k, kept, *points = ctx.saved_tensors
        (g,) = slopes
        if torch.is_grad_enabled():
            *by_points, by_k = slopes_of_twin(ctx.twin, (*points, k), g)
            return None, None, by_k, *by_points
        laid, g = [p.contiguous() for p in points], g.contiguous()
        shape = laid[0].shape
        width = shape[-1]
        count = laid[0].numel() // width
        grads = [torch.empty(shape, dtype=g.dtype) for _ in laid]
        arrays = [*laid, g, *(() if kept is None else (kept,))]
        addresses = [a.data_ptr() for a in arrays] + ([0] if kept is None else []) + [a.data_ptr() for a in grads]
        height, across = (1, count) if ctx.entries.reduces else (count, width)
        slope, c, kept_rows = ctx.entries.slope, -k.item(), 0 if kept is None else len(kept)

        def run(start: int, stop: int) -> float:
            return slope(*addresses, count, width, height, across, kept_rows, start, stop, c)

        by_c = over_ranges(run, count, unit=BLOCK)
        return None, None, torch.full_like(k, -by_c) if k.requires_grad else None, *grads


def by_rows(
    operation: Operation, twin: Callable[..., Tensor], k: Float[Tensor, ""], *points: Float[Tensor, "... d"]
) -> Float[Tensor, ...]:
    """An operation on each row of one or two arrays, compiled where `suits` says so, by tensor operations elsewhere.

    Args:
        operation: gives the compiled operation.
        twin: the plain function of (*points, k) with the same values, for everything else and second derivatives.
        k: curvature, below zero.
        points: one or two arrays.

    Raises:
        ConfigError: an array is one of integers.
    """
    if not suits(k, *points):
        check_real(**dict(zip(inspect.signature(twin).parameters, points, strict=False)))
        return twin(*points, k)
    entries = _entries(operation, points[0].shape[-1], len(points), points[0].dtype is torch.float32)
    if not (torch.is_grad_enabled() and (k.requires_grad or any(p.requires_grad for p in points))):
        return _run(entries, -k.item(), points, 0)[0]
    result = _ByRows.apply(entries, twin, k, *points)
    assert isinstance(result, Tensor)
    return result
