"""How row kernels are compiled, split over threads, and given elementary functions that vectorise.

A kernel takes a block of rows: sums over the coordinates of each row first, turned so that one vector holds the sums
of eight rows, then elementary functions of those, then the result, while the rows are still in the nearest cache. Each
step is a loop of its own, so that the long way through a logarithm is walked for several vectors at once. The C library
computes one logarithm at a time; the two functions here are branch-free.
"""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

BLOCK = 128
"""Rows in a block: they and what is found of them stay in the nearest cache."""
FROM_ROWS = 4096
"""Fewer rows are left to plain tensor operations: they take less than a kernel's compilation."""
ROWS_PER_THREAD = 32768
"""Fewer rows are not worth the waking of a thread."""


def compiled(function: Callable[..., Any], *, exact: bool = False, inlined: bool = False) -> Any:
    """A function compiled by numba at its first call, or into each of its callers.

    Unless `exact`, sums may be reordered, so that rows vectorise; NaN and infinity keep their meaning either way. A
    division by zero gives them, as in arrays: the check that Python's rule wants would keep loops from vectorising.
    """
    from numba import njit

    flags = {"contract"} if exact else {"reassoc", "contract", "nsz"}
    # Unwrapped, since an import hook that checks annotations wraps functions into what cannot be compiled.
    return njit(fastmath=flags, nogil=True, error_model="numpy", forceinline=inlined)(inspect.unwrap(function))


def block_sums(one: Callable[..., Any]) -> Any:
    """Sums over the rows of a block: `sums(start, count, arrays, table)` fills a row of the table for each kind of sum.

    Rows are taken by eights, the last one again where there are fewer.

    Args:
        one: a compiled function of (row, *arrays) that gives a tuple of vectors, each with eight partial sums.
    """
    from holonomy.geometry.vectors import join_fours, join_pairs, join_rows, put_each

    def two(row, last, arrays):
        return join_rows(one(min(row, last), *arrays), one(min(row + 1, last), *arrays))

    pair = compiled(two, exact=True, inlined=True)

    def four(row, last, arrays):
        return join_pairs(pair(row, last, arrays), pair(row + 2, last, arrays))

    quarter = compiled(four, exact=True, inlined=True)

    def sums(start, count, arrays, table):
        last = start + count - 1
        for i in range(0, count, 8):
            row = start + i
            put_each(table, i, join_fours(quarter(row, last, arrays), quarter(row + 4, last, arrays)))

    return compiled(sums, exact=True)


class RowSums(NamedTuple):
    """Sums over the rows of a block, in the order of the formulas that want them."""

    squares: Any
    """|x|^2."""
    own_squares: Any
    """|x|^2 in the type of the coordinates."""
    along: Any
    """|x|^2, x.g."""
    apart: Any
    """|x|^2, |y|^2, |x - y|^2."""
    together: Any
    """|x|^2, |y|^2, x.y."""
    drawn: Any
    """|x|^2, |y|^2, x.y, x.g, y.g."""


@lru_cache(maxsize=32)
def row_sums(access: Any) -> RowSums:
    """The sums of rows that are read in a way of `vectors.row_access`."""
    from holonomy.geometry.vectors import none, none_of

    wide, own, begin, columns = access.wide, access.own, access.begin, access.columns

    def squares(row, x):
        p = none()
        for j in range(begin, columns(x), 8):
            a = wide(x, row, j)
            p = p + a * a
        return (p,)

    def own_squares(row, x):
        p = none_of(x)
        for j in range(begin, columns(x), 8):
            a = own(x, row, j)
            p = p + a * a
        return (p,)

    def along(row, x, g):
        p, q = none(), none()
        for j in range(begin, columns(x), 8):
            a = wide(x, row, j)
            p = p + a * a
            q = q + a * wide(g, row, j)
        return p, q

    def apart(row, x, y):
        p, q, r = none(), none(), none()
        for j in range(begin, columns(x), 8):
            a, b = wide(x, row, j), wide(y, row, j)
            p = p + a * a
            q = q + b * b
            r = r + (a - b) * (a - b)
        return p, q, r

    def together(row, x, y):
        p, q, r = none(), none(), none()
        for j in range(begin, columns(x), 8):
            a, b = wide(x, row, j), wide(y, row, j)
            p = p + a * a
            q = q + b * b
            r = r + a * b
        return p, q, r

    def drawn(row, x, y, g):
        p, q, r, s, t = none(), none(), none(), none(), none()
        for j in range(begin, columns(x), 8):
            a, b, h = wide(x, row, j), wide(y, row, j), wide(g, row, j)
            p = p + a * a
            q = q + b * b
            r = r + a * b
            s = s + a * h
            t = t + b * h
        return p, q, r, s, t

    kinds = (squares, own_squares, along, apart, together, drawn)
    return RowSums(*(block_sums(compiled(kind, exact=True, inlined=True)) for kind in kinds))


class Elementary(NamedTuple):
    """Compiled functions of vectors."""

    expm1: Callable[..., Any]
    log1p_ratio: Callable[..., Any]
    log1p_brief: Callable[..., Any]


@lru_cache(maxsize=1)
def elementary() -> Elementary:
    """`expm1(z)` for z from 0 to 700, and `log1p_ratio(t, g)`, which is log(1 + t / g) for t >= 0, to 2 ulp.

    A quotient costs as much as the rest of a logarithm, which has one inside already: both are one division here.
    `log1p_brief(t)` has none, and is good to 1e-11, which is more than float32 shows.
    """
    import numpy as np

    from holonomy.geometry.vectors import bits, from_bits, horner, where_above

    # Adding this number leaves the nearest integer in the last bits of a float64.
    magic = 6755399441055744.0
    log2_e, ln2_high, ln2_low = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10
    one_bits, integer_bits = 0x3FF0000000000000, 0x4330000000000000
    infinite, undefined = float("inf"), float("nan")

    def expm1(z):
        nearest = z * log2_e + magic
        k = nearest - magic
        power = from_bits((bits(nearest) + 1023) << 52)
        r = z - k * ln2_high - k * ln2_low
        p = r * (1 / 6227020800) + 1 / 479001600
        p = p * r + 1 / 39916800
        p = p * r + 1 / 3628800
        p = p * r + 1 / 362880
        p = p * r + 1 / 40320
        p = p * r + 1 / 5040
        p = p * r + 1 / 720
        p = p * r + 1 / 120
        p = p * r + 1 / 24
        p = p * r + 1 / 6
        p = p * r + 1 / 2
        return power * (r + r * r * p) + (power - 1)

    def log1p_ratio(t, g):
        # The difference of two patterns of bits is the logarithm of the quotient to a twelfth: (g + t) / g = 2^k m
        # with m from 2^-0.59 to 2^0.59, and log m = 2 artanh((m - 1) / (m + 1)).
        k_bits = (bits(g + t) - bits(g) + (1 << 51)) >> 52
        power = from_bits((k_bits << 52) + one_bits)
        k = from_bits(k_bits | integer_bits) - 4503599627370496.0
        s = (g * (1 - power) + t) / (g * (1 + power) + t)
        q = s * s
        q2 = q * q
        q4 = q2 * q2
        near = (q * (1 / 5) + 1 / 3) + q2 * (q * (1 / 9) + 1 / 7)
        middle = (q * (1 / 13) + 1 / 11) + q2 * (q * (1 / 17) + 1 / 15)
        p = near + q4 * (middle + q4 * ((q * (1 / 21) + 1 / 19) + q2 * (1 / 23)))
        value = k * ln2_high + (2 * s + (2 * s * q * p + k * ln2_low))
        return where_above(g, 0.0, value, where_above(g, -1e-300, infinite, undefined))

    fitted = np.polynomial.Chebyshev.interpolate(lambda f: np.log1p(f) / f, 13, domain=[-0.25, 0.5])
    log1p_over = horner(fitted.convert(kind=np.polynomial.Polynomial).coef)

    def log1p_brief(t):
        k_bits = (bits(t + 1) - one_bits + (1 << 51)) >> 52
        down = from_bits(one_bits - (k_bits << 52))
        k = from_bits(k_bits | integer_bits) - 4503599627370496.0
        # 1 + t = 2^k (1 + f) with f from -1/4 to 1/2; f = t where k = 0.
        f = t * down + (down - 1)
        return k * (ln2_high + ln2_low) + f * log1p_over(f)

    return Elementary(*(compiled(f, exact=True, inlined=True) for f in (expm1, log1p_ratio, log1p_brief)))


def rows(x: Tensor) -> Any:
    """The rows of a tensor as a contiguous matrix, and a tensor of scalars as a vector: one layout for all kernels."""
    flat = x.detach()
    return (flat if flat.dim() == 2 and flat.is_contiguous() else flat.contiguous().view(-1, x.shape[-1])).numpy()


def scalars(x: Tensor) -> Any:
    """One number per row, as a contiguous vector."""
    flat = x.detach()
    return (flat if flat.dim() == 1 and flat.is_contiguous() else flat.contiguous().view(-1)).numpy()


def plain_only() -> bool:
    """Whether `torch.func`, forward derivatives or `torch.compile` look on: they cannot see into compiled functions."""
    return (
        torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0 or torch.compiler.is_compiling()
    )


def slopes_of_twin(twin: Callable[..., Tensor], inputs: Sequence[Tensor], g: Tensor) -> tuple[Tensor | None, ...]:
    """Derivatives of a plain twin along g by each of its inputs, which can be differentiated again.

    Each input stands apart: one that is given twice, or that another one was made of, gets what it does itself and no
    more, since what made it goes on from there.
    """
    with torch.enable_grad():
        apart = [t.view_as(t) for t in inputs]
        value = twin(*apart)
    wanted = [own for own, t in zip(apart, inputs, strict=True) if t.requires_grad]
    found = iter(torch.autograd.grad(value, wanted, g, create_graph=True))
    return tuple(next(found) if t.requires_grad else None for t in inputs)


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    # Per process: threads do not survive a fork.
    return ThreadPoolExecutor(threads, thread_name_prefix=f"holonomy-{process}")


def over_rows(kernel: Callable[..., Any], *arrays: Any, constants: tuple[Any, ...] = (), per_row: int = 1) -> float:
    """Runs `kernel(*arrays, *constants)` on slices of all arrays, on as many threads as torch uses.

    Args:
        kernel: a compiled function, or one that calls it.
        arrays: what is sliced.
        constants: what every slice gets whole.
        per_row: how many rows' worth of work a row is.

    Returns:
        The sum of what the slices return, in their order.
    """

    def run(start: int, stop: int) -> float | None:
        return kernel(*(a[start:stop] for a in arrays), *constants)

    return over_ranges(run, len(arrays[0]), per_row=per_row)


def over_ranges(run: Callable[[int, int], float | None], count: int, *, per_row: int = 1, unit: int = 1) -> float:
    """Runs `run(start, stop)` on parts of the rows 0 to count, on as many threads as torch uses.

    Args:
        run: what calls a compiled function.
        count: number of rows.
        per_row: how many rows' worth of work a row is.
        unit: parts are made of this many rows, but for the last.

    Returns:
        The sum of what the parts return, in their order.
    """
    threads = min(torch.get_num_threads(), count * per_row // ROWS_PER_THREAD, count)
    if threads <= 1:
        return run(0, count) or 0.0
    edges = [*(count * i // (threads * unit) * unit for i in range(threads)), count]
    pool = _pool(threads - 1, os.getpid())
    others = [pool.submit(run, start, stop) for start, stop in itertools.pairwise(edges[1:])]
    return sum([run(0, edges[1]) or 0.0, *(other.result() or 0.0 for other in others)])
