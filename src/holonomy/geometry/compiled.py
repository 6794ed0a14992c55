"""How row kernels are compiled, split over threads, and given elementary functions that vectorise.

A kernel works on blocks of rows: sums over the coordinates of each row first, then one elementary function for the
whole block, then the result, while the rows are still in the nearest cache. The C library computes one logarithm at a
time; the two functions here are branch-free, so that the compiler makes vectors of them.
"""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 256
"""Rows in a block: their scratch fills a few kilobytes."""
FROM_ROWS = 4096
"""Fewer rows are left to plain tensor operations: they take less than a kernel's compilation."""
ROWS_PER_THREAD = 8192
"""Fewer rows are not worth the waking of a thread."""


def compiled(function: Callable[..., Any], *, exact: bool = False) -> Any:
    """A function compiled by numba at its first call.

    Unless `exact`, sums may be reordered, so that rows vectorise; NaN and infinity keep their meaning either way. A
    division by zero gives them, as in arrays: the check that Python's rule wants would keep loops from vectorising.
    """
    from numba import njit

    flags = {"contract"} if exact else {"reassoc", "contract", "nsz"}
    # Unwrapped, since an import hook that checks annotations wraps functions into what cannot be compiled.
    return njit(fastmath=flags, nogil=True, error_model="numpy")(inspect.unwrap(function))


class Elementary(NamedTuple):
    """Compiled functions of a block; the scratch arrays come from `scratch`."""

    scratch: Callable[..., Any]
    expm1: Callable[..., None]
    log1p: Callable[..., None]


@lru_cache(maxsize=1)
def elementary() -> Elementary:
    """`expm1(z, n, s)` for z from 0 to 700 and `log1p(z, n, s)` for z >= 0, in place on the first n of z, to 2 ulp."""
    import numpy as np

    # Adding this number leaves the nearest integer in the last bits of a float64.
    magic = 6755399441055744.0
    log2_e, ln2_high, ln2_low = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10
    root_half_bits = 0x3FE6A09E667F3BCD
    one_bits, mantissa_bits, integer_bits = 0x3FF0000000000000, 0x000FFFFFFFFFFFFF, 0x4330000000000000
    above_root = one_bits - root_half_bits
    largest = 1.7976931348623157e308

    def scratch():
        a, b, c = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
        return a, a.view(np.int64), b, b.view(np.int64), c, c.view(np.int64)

    def expm1(z, n, s):
        nearest, nearest_bits, power, power_bits, _, _ = s
        for i in range(n):
            nearest[i] = z[i] * log2_e + magic
        for i in range(n):
            power_bits[i] = (nearest_bits[i] + 1023) << 52
        for i in range(n):
            k = nearest[i] - magic
            r = z[i] - k * ln2_high - k * ln2_low
            p = 1 / 6227020800
            p = p * r + 1 / 479001600
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
            z[i] = power[i] * (r + r * r * p) + (power[i] - 1)

    def log1p(z, n, s):
        u, u_bits, m, m_bits, k, k_bits = s
        for i in range(n):
            u[i] = 1 + z[i]
        # u = 2^k m with m from sqrt(1/2) to sqrt(2).
        for i in range(n):
            shifted = u_bits[i] + above_root
            k_bits[i] = (shifted >> 52) | integer_bits
            m_bits[i] = (shifted & mantissa_bits) + root_half_bits
        for i in range(n):
            s = (m[i] - 1) / (m[i] + 1)
            q = s * s
            p = 1 / 23
            p = p * q + 1 / 21
            p = p * q + 1 / 19
            p = p * q + 1 / 17
            p = p * q + 1 / 15
            p = p * q + 1 / 13
            p = p * q + 1 / 11
            p = p * q + 1 / 9
            p = p * q + 1 / 7
            p = p * q + 1 / 5
            p = p * q + 1 / 3
            power = k[i] - (4503599627370496.0 + 1023.0)
            # What rounding took from u is put back.
            lost = (z[i] - (u[i] - 1)) / u[i]
            value = power * ln2_high + (2 * s + (2 * s * q * p + (power * ln2_low + lost)))
            z[i] = z[i] if z[i] > largest else value

    return Elementary(*(compiled(f, exact=True) for f in (scratch, expm1, log1p)))


def rows(x: Tensor) -> Any:
    """The rows of a tensor as a contiguous matrix, and a tensor of scalars as a vector: one layout for all kernels."""
    flat = x.detach()
    return (flat if flat.dim() == 2 and flat.is_contiguous() else flat.contiguous().view(-1, x.shape[-1])).numpy()


def scalars(x: Tensor) -> Any:
    """One number per row, as a contiguous vector."""
    flat = x.detach()
    return (flat if flat.dim() == 1 and flat.is_contiguous() else flat.contiguous().view(-1)).numpy()


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
    count = len(arrays[0])
    threads = min(torch.get_num_threads(), count * per_row // ROWS_PER_THREAD, count)
    if threads <= 1:
        return kernel(*arrays, *constants) or 0.0
    edges = [count * i // threads for i in range(threads + 1)]
    pool = _pool(threads - 1, os.getpid())
    parts = [tuple(a[start:stop] for a in arrays) for start, stop in itertools.pairwise(edges)]
    others = [pool.submit(kernel, *part, *constants) for part in parts[1:]]
    return sum([kernel(*parts[0], *constants) or 0.0, *(other.result() or 0.0 for other in others)])
