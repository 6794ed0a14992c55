"""All distances between two sets of points of the Poincare ball, compiled: no array of n x m x d anywhere.

The points of the second set stand column by column, so that a block of distances is made side by side; differences
are taken before they are squared, which keeps the digits of near pairs that a matrix product would lose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.geometry.compiled import BLOCK, compiled, elementary, over_rows, rows


class _Kernels(NamedTuple):
    forward: Callable[..., None]
    slope: Callable[..., float]


@lru_cache(maxsize=1)
def _kernels() -> _Kernels:
    import numpy as np

    scratch, _, log1p = elementary()

    @compiled
    def squares(x, columns, start, n, z):
        for i in range(n):
            z[i] = 0.0
        # Four coordinates at once: a sum goes to memory and back a quarter as often.
        whole = x.shape[0] - x.shape[0] % 4
        for j in range(0, whole, 4):
            p, q, r, s = float(x[j]), float(x[j + 1]), float(x[j + 2]), float(x[j + 3])
            by_p, by_q = columns[j, start : start + n], columns[j + 1, start : start + n]
            by_r, by_s = columns[j + 2, start : start + n], columns[j + 3, start : start + n]
            for i in range(n):
                z[i] += (by_p[i] - p) ** 2 + (by_q[i] - q) ** 2 + (by_r[i] - r) ** 2 + (by_s[i] - s) ** 2
        for j in range(whole, x.shape[0]):
            p, by_p = float(x[j]), columns[j, start : start + n]
            for i in range(n):
                z[i] += (by_p[i] - p) ** 2

    @compiled
    def forward(x, gaps, out, columns, others, c):
        z, s, root = np.empty(BLOCK), scratch(), 1 / math.sqrt(c)
        for row in range(x.shape[0]):
            for start in range(0, columns.shape[1], BLOCK):
                n = min(BLOCK, columns.shape[1] - start)
                squares(x[row], columns, start, n, z)
                gap, other = gaps[row], others[start : start + n]
                for i in range(n):
                    q = c * z[i] / (gap * other[i])
                    z[i] = 2 * (q + math.sqrt(q * (1 + q)))
                log1p(z, n, s)
                here = out[row, start : start + n]
                for i in range(n):
                    here[i] = root * z[i]

    @compiled
    def slope(x, gaps, g, d, gx, columns, others, gy, c):
        """`gy` takes, column by column, what the points of the second set get from these rows."""
        z, by_c, over_c, width = np.empty(BLOCK), 0.0, 1 / c, x.shape[1]
        out_y = np.zeros(columns.shape[1])
        for row in range(x.shape[0]):
            gap, out_x, xx = gaps[row], 0.0, (1 - gaps[row]) / c
            for j in range(width):
                gx[row, j] = 0.0
            for start in range(0, columns.shape[1], BLOCK):
                n = min(BLOCK, columns.shape[1] - start)
                squares(x[row], columns, start, n, z)
                outward, beside = out_y[start : start + n], others[start : start + n]
                slopes, known = g[row, start : start + n], d[row, start : start + n]
                for i in range(n):
                    other, slope_here = beside[i], float(slopes[i])
                    share = 1 / (gap * other)
                    s = z[i] * share
                    by_s = 0.0 if s == 0 else slope_here / math.sqrt(s * (1 + c * s))
                    x_share, y_share = share * other, share * gap
                    by_c += by_s * s * (over_c + xx * x_share + (1 - other) * over_c * y_share)
                    by_c -= slope_here * float(known[i]) * over_c / 2
                    out_x += 2 * by_s * c * s * x_share
                    outward[i] += 2 * by_s * c * s * y_share
                    z[i] = 2 * by_s * share
                for j in range(width):
                    a, total = float(x[row, j]), 0.0
                    column, gains = columns[j, start : start + n], gy[j, start : start + n]
                    for i in range(n):
                        pull = z[i] * (column[i] - a)
                        total += pull
                        gains[i] += pull
                    gx[row, j] -= total
            for j in range(width):
                gx[row, j] += out_x * float(x[row, j])
        for j in range(width):
            for i in range(columns.shape[1]):
                gy[j, i] += out_y[i] * columns[j, i]
        return by_c

    return _Kernels(forward, slope)


def _laid_out(x: Tensor, y: Tensor, c: float) -> tuple[Any, Any, Any, Any]:
    """Rows of x with their gaps 1 - c |x|^2, columns of y with theirs."""
    gaps, others = ((1 - c * a.detach().double().square().sum(-1)).numpy() for a in (x, y))
    return rows(x), gaps, y.detach().double().T.contiguous().numpy(), others


class _Pairwise(torch.autograd.Function):
    """Runs the kernels; a second derivative goes through the plain twin."""

    @staticmethod
    def forward(ctx: Any, twin: Callable[..., Tensor], k: Tensor, x: Tensor, y: Tensor) -> Tensor:
        c = -k.item()
        out = x.new_empty(x.shape[0], y.shape[0])
        left, gaps, columns, others = _laid_out(x, y, c)
        over_rows(_kernels().forward, left, gaps, out.numpy(), constants=(columns, others, c), per_row=y.shape[0])
        ctx.twin = twin
        ctx.save_for_backward(k, out, x, y)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        k, out, x, y = ctx.saved_tensors
        (g,) = slopes
        if torch.is_grad_enabled():
            with torch.enable_grad():
                value = ctx.twin(x, y, k)
            inputs = (k, x, y)
            wanted = [t for t in inputs if t.requires_grad]
            found = iter(torch.autograd.grad(value, wanted, g, create_graph=True))
            return None, *(next(found) if t.requires_grad else None for t in inputs)
        c = -k.item()
        left, gaps, columns, others = _laid_out(x, y, c)
        gx = torch.empty(x.shape, dtype=torch.float64)
        shares: list[Tensor] = []

        def kernel(*arrays: Any) -> float:
            # Rows of different threads meet in the same columns: each thread has its own, added in the end.
            share = torch.zeros(y.shape[1], y.shape[0], dtype=torch.float64)
            shares.append(share)
            return _kernels().slope(*arrays, columns, others, share.numpy(), c)

        by_c = over_rows(kernel, left, gaps, rows(g), out.numpy(), gx.numpy(), per_row=y.shape[0])
        gy = torch.stack(shares).sum(0).T
        return None, torch.full_like(k, -by_c), gx.to(x.dtype), gy.to(y.dtype)


def pairwise(
    twin: Callable[..., Tensor], k: Float[Tensor, ""], x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]
) -> Float[Tensor, "n m"]:
    """Distances between all points of two sets on the CPU, in memory for the result and a few rows.

    Args:
        twin: the plain function of (x, y, k) with the same values, for second derivatives.
        k: curvature, below zero.
        x, y: points of one dtype.
    """
    result = _Pairwise.apply(twin, k, x, y)
    assert isinstance(result, Tensor)
    return result
