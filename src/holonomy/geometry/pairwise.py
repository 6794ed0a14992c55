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

from holonomy.geometry.compiled import BLOCK, compiled, elementary, over_rows, rows, slopes_of_twin


class _Kernels(NamedTuple):
    forward: Callable[..., None]
    slope: Callable[..., float]


@lru_cache(maxsize=1)
def _kernels() -> _Kernels:
    import numpy as np

    from holonomy.geometry.vectors import ANY, first, keep, none, roots, take, total, where_above

    log1p_ratio, read, put = elementary().log1p_ratio, ANY.wide, ANY.put

    @compiled
    def squares(here, columns, start, count, z):
        for i in range(0, count, 8):
            found = none()
            for j in range(here.shape[0]):
                away = read(columns, j, start + i) - here[j]
                found = found + away * away
            keep(z, i, found)

    @compiled
    def forward(x, gaps, out, columns, others, c):
        z, here, root = np.empty(BLOCK), np.empty(x.shape[1]), 1 / math.sqrt(c)
        for row in range(x.shape[0]):
            here[:] = x[row]
            for start in range(0, columns.shape[1], BLOCK):
                count = min(BLOCK, columns.shape[1] - start)
                squares(here, columns, start, count, z)
                for i in range(0, count, 8):
                    t, gap_y = take(z, i) * c, take(others, start + i)
                    # Two points outside the ball would have a gap above zero.
                    gap = where_above(0.0, gap_y, -1.0, gap_y * gaps[row])
                    put(out, row, start + i, log1p_ratio(2 * (t + roots(t * (t + gap))), gap) * root)

    @compiled
    def slope(x, gaps, g, d, gx, columns, others, gy, c):
        """`gy` takes, column by column, what the points of the second set get from these rows."""
        z, pulls, here, by_c, over_c = np.empty(BLOCK), np.empty(BLOCK), np.empty(x.shape[1]), none(), 1 / c
        out_y = np.zeros(columns.shape[1])
        for row in range(x.shape[0]):
            here[:] = x[row]
            gap_x, out_x, xx = gaps[row], none(), (1 - gaps[row]) / c
            for j in range(x.shape[1]):
                gx[row, j] = 0.0
            for start in range(0, columns.shape[1], BLOCK):
                count = min(BLOCK, columns.shape[1] - start)
                squares(here, columns, start, count, z)
                for i in range(0, count, 8):
                    gap_y, slopes, dd = take(others, start + i), read(g, row, start + i), take(z, i)
                    # As for single pairs; past the last column the gap is 0 and nothing of this is used.
                    gap = gap_y * gap_x
                    root = roots(dd * (gap + dd * c))
                    share = where_above(root, 0.0, 1 / (root * gap), 0.0)
                    pull, over_gap = slopes * gap * share, root * share
                    bend = 2 * pull * dd * c * over_gap
                    inward = pull * dd * ((gap_y * xx + (1 - gap_y) * (gap_x * over_c)) * over_gap + over_c)
                    gained = inward - slopes * read(d, row, start + i) * (over_c / 2)
                    by_c = by_c + first(gained, count - i)
                    out_x = out_x + first(bend * gap_y, count - i)
                    keep(out_y, start + i, take(out_y, start + i) + bend * gap_x)
                    keep(pulls, i, first(2 * pull, count - i))
                for j in range(x.shape[1]):
                    gains = none()
                    for i in range(0, count, 8):
                        pull = take(pulls, i) * (read(columns, j, start + i) - here[j])
                        gains = gains + pull
                        put(gy, j, start + i, read(gy, j, start + i) + pull)
                    gx[row, j] -= total(gains)
            for j in range(x.shape[1]):
                gx[row, j] += total(out_x) * here[j]
        for j in range(x.shape[1]):
            for i in range(columns.shape[1]):
                gy[j, i] += out_y[i] * columns[j, i]
        return total(by_c)

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
            by_x, by_y, by_k = slopes_of_twin(ctx.twin, (x, y, k), g)
            return None, by_k, by_x, by_y
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
