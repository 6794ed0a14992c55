"""Contexts as spans of one buffer of tokens: what a text, a batch of windows and a chat have in common."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import NamedTuple

import numpy as np

from holonomy.core.errors import DataError

ABSENT = 1
"""Stands where a context has no symbol; only its length says so, since this is also an id."""


class Contexts(NamedTuple):
    """What stands before each place.

    Attributes:
        tokens: a buffer, [n] int64.
        begins: first token of each context, [B] int64.
        ends: one after its last, [B] int64.
    """

    tokens: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    def part(self, cut: slice | np.ndarray) -> Contexts:
        """Some of the contexts."""
        return Contexts(self.tokens, self.begins[cut], self.ends[cut])

    def symbols(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The last words of each context, nearest last, [B, count], and how many there are, [B]; both int64."""
        index = self.ends[:, None] + np.arange(-count, 0)
        inside = index >= self.begins[:, None]
        lengths = np.minimum(self.ends - self.begins, count)
        if not len(self.tokens):
            return np.full(index.shape, ABSENT, dtype=np.int64), lengths
        return np.where(inside, self.tokens[np.maximum(index, 0)], ABSENT), lengths


def of_text(tokens: np.ndarray, starts: np.ndarray, positions: np.ndarray | None = None) -> Contexts:
    """What stands before places of documents that lie end to end.

    Args:
        tokens: all documents.
        starts: where each begins, rising, the first at zero.
        positions: the places; all by default.
    """
    ends = np.arange(len(tokens)) if positions is None else np.asarray(positions, dtype=np.int64)
    return Contexts(tokens, starts[np.searchsorted(starts, ends, side="right") - 1], ends)


def of_rows(ids: np.ndarray, lengths: np.ndarray, pad_id: int) -> Contexts:
    """The last `lengths` ids of each row; nothing before the last pad counts."""
    rows, width = ids.shape
    ends = (np.arange(rows) + 1) * width
    pad = ids == pad_id
    after = np.where(pad.any(1), pad[:, ::-1].argmax(1) if width else 0, width)
    return Contexts(ids.reshape(-1), ends - np.minimum(lengths, after), ends)


def of_windows(ids: np.ndarray, pad_id: int) -> Contexts:
    """What stands in each row up to and with each place, [rows * width]; nothing before the last pad counts."""
    rows, width = ids.shape
    starts = np.arange(rows)[:, None] * width
    last = np.maximum.accumulate(np.where(ids == pad_id, np.arange(1, width + 1), 0), 1)
    ends = starts + np.arange(1, width + 1)
    return Contexts(np.ascontiguousarray(ids.reshape(-1)), (starts + last).reshape(-1), ends.reshape(-1))


def checked_array(name: str, values: np.ndarray | Sequence[object]) -> np.ndarray:
    """Numbers as an array.

    Raises:
        DataError: rows are of different lengths; names the first that is not as long as row 0.
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        sizes = [len(row) if isinstance(row, Sized) else 1 for row in values]
        odd = next((n for n, size in enumerate(sizes) if size != sizes[0]), None)
        if odd is None:
            raise DataError(f"`{name}` is no array of numbers: {error}") from error
        raise DataError(
            f"`{name}` row {odd} has {sizes[odd]} number(s), row 0 has {sizes[0]}; give rows of one length "
            "(shorter contexts: pad them in front and pass `lengths`)"
        ) from error


def checked_numbers(name: str, values: np.ndarray | Sequence[object], low: int, high: int) -> np.ndarray:
    """Whole numbers from `low` to `high` as int64.

    Raises:
        DataError: something else; names the row and the value.
    """
    array = checked_array(name, values)
    if array.dtype.kind not in "iuf" and array.size:
        raise DataError(f"`{name}` is {array.dtype}; wanted whole numbers")
    fractions = array.dtype.kind == "f"
    # Of NaN each comparison is false.
    wrong = ~((array >= low) & (array <= high) & (array % 1 == 0)) if fractions else (array < low) | (array > high)
    if wrong.any():
        place = np.argwhere(np.atleast_1d(wrong))[0]
        value = np.atleast_1d(array)[tuple(place)]
        kind = " as whole numbers" if fractions else ""
        raise DataError(f"`{name}` row {int(place[0])} holds {value}; wanted {low} to {high}{kind}")
    if fractions and array.size:
        raise DataError(f"`{name}` is {array.dtype}; wanted whole numbers")
    return np.ascontiguousarray(array, dtype=np.int64)


def checked_ids(name: str, ids: np.ndarray | Sequence[object], vocab_size: int) -> np.ndarray:
    """Ids as int64.

    Raises:
        DataError: not whole numbers, or one is outside the vocabulary; names the row and the value.
    """
    return checked_numbers(name, ids, 0, vocab_size - 1)
