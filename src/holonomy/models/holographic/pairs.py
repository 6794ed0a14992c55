"""Contexts and what followed them, as arrays."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from holonomy.core.errors import DataError
from holonomy.geometry.compiled import compiled

LARGEST = 2**31 - 1
"""Most occurrences that are counted."""


@lru_cache(maxsize=1)
def ranging() -> Any:
    """`inside(symbols, lengths, targets, weights, order, num_symbols, vocab_size)`: whether all are in range."""

    def inside(symbols, lengths, targets, weights, order, num_symbols, vocab_size):
        good = True
        for b in range(len(targets)):
            good &= 0 <= lengths[b] < order and 0 <= targets[b] < vocab_size and 1 <= weights[b] < LARGEST
            for j in range(symbols.shape[1]):
                good &= 0 <= symbols[b, j] < num_symbols
        return good

    return compiled(inside, exact=True)


class Pairs(NamedTuple):
    """Contexts and what followed them.

    Attributes:
        symbols: the context, nearest last, [B, order - 1] int64; only the last `lengths` count.
        lengths: how many symbols each context has, [B] int64.
        targets: [B] int64.
        weights: how often, [B] int64.
    """

    symbols: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def checked(self, order: int, num_symbols: int, vocab_size: int) -> Pairs:
        """The same as whole numbers of 64 bits.

        Raises:
            DataError: shapes that do not fit, or numbers out of range.
        """
        symbols, lengths, targets, weights = (np.asarray(a) for a in self)
        rows = len(targets)
        if symbols.shape != (rows, order - 1) or lengths.shape != (rows,) or weights.shape != (rows,):
            raise DataError(
                f"`symbols` has shape {symbols.shape}, `lengths` {lengths.shape}, `weights` {weights.shape}; "
                f"{rows} targets want ({rows}, {order - 1}), ({rows},), ({rows},)"
            )
        arrays = symbols, lengths, targets, weights
        whole = all(a.dtype == np.int64 and a.flags.c_contiguous for a in arrays)
        if whole and ranging()(*arrays, order, num_symbols, vocab_size):
            return Pairs(*arrays)
        for name, array, low, high in (
            ("symbols", symbols, 0, num_symbols),
            ("lengths", lengths, 0, order),
            ("targets", targets, 0, vocab_size),
            ("weights", weights, 1, LARGEST),
        ):
            if array.dtype.kind not in "iu":
                raise DataError(f"`{name}` is {array.dtype}; wanted whole numbers")
            if array.size and not (low <= array.min() and array.max() < high):
                row = int(np.argmax((array < low) | (array >= high)) // max(1, array.size // rows))
                value = array[row].tolist()
                raise DataError(f"`{name}` row {row} is {value}; wanted {low} to {high - 1}")
        return Pairs(*(np.ascontiguousarray(a, dtype=np.int64) for a in arrays))
