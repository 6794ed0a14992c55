"""Counts at rest: a trie in a quarter of the memory or less, read as it is, without a table and without any loss.

Grams stand in the order of their length, then of their context, then of their last symbol, so the ones after a context
are neighbours: a parent is a position, a search is one by halves (as in the tries of Heafield 2011), and what follows
a context is summed up when asked for, unless much does. A count is one byte; the few larger ones are listed apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from holonomy.core.errors import CheckpointError
from holonomy.geometry.compiled import compiled

BYTE = 255
"""A byte of this value says that the count is listed apart."""
MANY_FOLLOW = 8
"""Contexts with more grams after them have their sums stored."""


class Access(NamedTuple):
    """How kernels read the rows of a view, which is a tuple of arrays; all functions are compiled.

    `top` says that the grams after a context are of the highest order. Rows below zero are none.

    Attributes:
        gram: `(view, context, symbol, top)`, the row of a gram.
        grams: `(view, places, symbols)`, puts those of many grams below the highest order, or -1, where contexts stand.
        symbol, count: `(view, row, top)`, its last symbol, and what it counts in the distribution after its context.
        raw: `(view, row)`, how often a gram below the highest order occurred.
        first, after: `(view, context)` and `(view, row, context, top)`: the grams of a context one after the other.
        followed: `(view, context, top)`, whether any of them counts.
        mass: `(view, context, top)`, their sum, how many count 1, 2 and more, and the sum of those that were dropped.
        ahead: `(view, context, top)`, lets memory of those of them come that lie side by side.
    """

    gram: Any
    grams: Any
    symbol: Any
    count: Any
    raw: Any
    first: Any
    after: Any
    followed: Any
    mass: Any
    ahead: Any


class Nodes(NamedTuple):
    """Grams of all orders, a parent before its children; those of the highest order last.

    Attributes:
        parents: row of each gram without its last symbol, [R] int32; the empty gram is row 0 and its own parent.
        symbols: last symbol of each gram, [R].
        raw: occurrences, [R].
        preceded: distinct symbols before each gram below the highest order, [I].
        released: sum of the counts that were dropped after it, [I].
    """

    parents: np.ndarray
    symbols: np.ndarray
    raw: np.ndarray
    preceded: np.ndarray
    released: np.ndarray


class PackedGrams(NamedTuple):
    """Arrays of a packed trie.

    Attributes:
        symbols: last symbol of each gram, [R] uint16 where that is enough, else int32.
        few: occurrences of all grams, predecessors of those below the highest order, and, if anything was dropped, the
            sums of what was, end to end, uint8; 255 stands for a larger one.
        many_at, many: places in `few` of the larger ones, rising, and their values, int64 and int32.
        firsts: first row after each gram below the highest order, and the number of rows, [I + 1] int32.
        wide_at, wide: contexts with many grams after them, rising, and their masses, [W] and [W, 4] int32.
    """

    symbols: np.ndarray
    few: np.ndarray
    many_at: np.ndarray
    many: np.ndarray
    firsts: np.ndarray
    wide_at: np.ndarray
    wide: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(a.nbytes for a in self)

    def values(self, places: np.ndarray) -> np.ndarray:
        """Entries of `few`, the larger ones included, int32."""
        found = self.few[places].astype(np.int32)
        large = found == BYTE
        found[large] = self.many[np.searchsorted(self.many_at, places[large])]
        return found

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that `unpacked_state` reads back: sums of contexts follow from the others."""
        return {name: getattr(self, name).copy() for name in STORED}

    def nodes(self) -> Nodes:
        """The grams as they were packed."""
        rows, inner = len(self.symbols), len(self.firsts) - 1
        parents = np.concatenate([[0], np.repeat(np.arange(inner), np.diff(self.firsts))]).astype(np.int32)
        sections = [self.values(np.arange(begin, begin + inner)) for begin in range(rows, len(self.few), inner)]
        released = sections[1] if len(sections) > 1 else np.zeros(inner, dtype=np.int32)
        return Nodes(parents, self.symbols.astype(np.int32), self.values(np.arange(rows)), sections[0], released)


STORED = ("symbols", "few", "many_at", "many", "firsts")


def ordered(nodes: Nodes, depths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of a packed trie: rows in it, [R], and where each row stands then, [R].

    Args:
        nodes: the grams.
        depths: number of symbols of each, [R].
    """
    place, sorted_rows = np.zeros(len(depths), dtype=np.int64), [np.zeros(1, dtype=np.int64)]
    at = 1
    for depth in range(1, int(depths.max(initial=0)) + 1):
        rows = np.flatnonzero(depths == depth)
        rows = rows[np.lexsort((nodes.symbols[rows], place[nodes.parents[rows]]))]
        place[rows] = np.arange(at, at + len(rows))
        sorted_rows.append(rows)
        at += len(rows)
    return np.concatenate(sorted_rows), place


def packed(nodes: Nodes, depths: np.ndarray, num_symbols: int) -> PackedGrams:
    """Packs grams.

    Args:
        nodes: the grams.
        depths: number of symbols of each, [R].
        num_symbols: how many symbols there may be.
    """
    inner, (rows, place) = len(nodes.preceded), ordered(nodes, depths)
    # Both parts keep their own rows: no gram of the highest order stands before a shorter one.
    below = rows[:inner]
    parts = [nodes.raw[rows], nodes.preceded[below]]
    if nodes.released.any():
        parts.append(nodes.released[below])
    counts = np.concatenate(parts)
    many_at = np.flatnonzero(counts >= BYTE)
    firsts = np.searchsorted(place[nodes.parents[rows[1:]]], np.arange(inner + 1)) + 1
    return _with_sums(
        nodes.symbols[rows].astype(np.uint16 if num_symbols <= 2**16 else np.int32),
        np.minimum(counts, BYTE).astype(np.uint8),
        many_at,
        counts[many_at].astype(np.int32),
        firsts.astype(np.int32),
    )


def _with_sums(
    symbols: np.ndarray, few: np.ndarray, many_at: np.ndarray, many: np.ndarray, firsts: np.ndarray
) -> PackedGrams:
    none = np.empty(0, dtype=np.int32), np.empty((0, 4), dtype=np.int32)
    found = PackedGrams(symbols, few, many_at, many, firsts, *none)
    at = np.flatnonzero(np.diff(firsts) > MANY_FOLLOW).astype(np.int32)
    begins, sizes = firsts[at].astype(np.int64), np.diff(firsts)[at].astype(np.int64)
    number = np.repeat(np.arange(len(at)), sizes)
    rows = np.arange(sizes.sum()) + np.repeat(begins - np.cumsum(sizes) + sizes, sizes)
    counts = found.values(np.where(rows < len(firsts) - 1, rows + len(symbols), rows))
    sums = [np.bincount(number, weights=counts, minlength=len(at))]
    kinds = np.minimum(counts, 3)
    sums += [np.bincount(number[kinds == kind], minlength=len(at)) for kind in (1, 2, 3)]
    return found._replace(wide_at=at, wide=np.stack(sums, 1).astype(np.int32))


def packed_from(state: Mapping[str, np.ndarray], order: int, num_symbols: int) -> PackedGrams:
    """Packed grams of a stored state.

    Args:
        state: what `PackedGrams.state` gave.
        order: of the trie.
        num_symbols: how many symbols there may be.

    Raises:
        CheckpointError: an array is missing or damaged.
    """
    symbols, few, many_at, many, firsts = (state[name] for name in STORED)
    kinds = symbols.dtype in (np.uint16, np.int32), few.dtype == np.uint8, many_at.dtype == np.int64
    flat = all(a.ndim == 1 for a in (symbols, few, many_at, many, firsts)) and len(firsts) > 1
    if not all(kinds) or many.dtype != np.int32 or firsts.dtype != np.int32 or not flat:
        raise CheckpointError("the arrays of a packed trie have other types or shapes than they were written with")
    rows, inner = len(symbols), len(firsts) - 1
    levels = [0, 1]
    for _ in range(order - 1):
        levels.append(int(firsts[min(levels[-1], inner)]))
    sound = firsts[0] == 1 and firsts[-1] == rows and (np.diff(firsts) >= 0).all() and levels[-1] == inner <= rows
    if not sound or len(few) not in (rows + inner, rows + 2 * inner):
        raise CheckpointError("`firsts` does not lead from each gram to those after it; the checkpoint is damaged")
    begins = np.zeros(rows + 1, dtype=bool)
    begins[firsts] = True
    wide = symbols.astype(np.int64)
    if wide.min() < 0 or wide.max() >= num_symbols or not (begins[2:rows] | (np.diff(wide[1:]) > 0)).all():
        raise CheckpointError("`symbols` after a gram do not rise, or are out of range; the checkpoint is damaged")
    if not np.array_equal(np.flatnonzero(few == BYTE), many_at) or many.shape != many_at.shape or (many < BYTE).any():
        raise CheckpointError("`many` does not hold the counts that a byte cannot; the checkpoint is damaged")
    return _with_sums(symbols.copy(), few.copy(), many_at.copy(), many.copy(), firsts.copy())


@lru_cache(maxsize=1)
def searching() -> tuple[Any, Any]:
    """`halving(sorted, number, low, high)`, the first place that is not below a number, and `value(view, place)`."""

    def halving(numbers, number, low, high):
        while low < high:
            middle = (low + high) >> 1
            if numbers[middle] < number:
                low = middle + 1
            else:
                high = middle
        return low

    halving = compiled(halving, exact=True)

    def value(view, place):
        found = np.int64(view.few[place])
        if found < BYTE:
            return found
        return np.int64(view.many[halving(view.many_at, place, 0, view.many_at.shape[0])])

    return halving, compiled(value, exact=True)


@lru_cache(maxsize=1)
def packed_access() -> Access:
    """How packed grams are read: a view is a `PackedGrams`."""
    halving, value = searching()

    def gram(view, context, symbol, top):
        low, end = np.int64(view.firsts[context]), np.int64(view.firsts[context + 1])
        high = end
        if end - low > MANY_FOLLOW:
            # Symbols are distinct: as many stand before one, and behind it, as there are numbers, or fewer.
            high = min(end, low + symbol + 1)
            low = max(low, end - 1 - (np.int64(view.symbols[end - 1]) - symbol))
        row = halving(view.symbols, symbol, low, high)
        return row if row < end and view.symbols[row] == symbol else np.int64(-1)

    gram = compiled(gram, exact=True)

    def grams(view, places, symbols):
        for b in range(len(places)):
            places[b] = gram(view, places[b], symbols[b], False) if places[b] >= 0 else -1

    def symbol(view, row, top):
        return view.symbols[row]

    def count(view, row, top):
        return value(view, row if top else row + view.symbols.shape[0])

    count = compiled(count, exact=True)

    def raw(view, row):
        return value(view, row)

    def first(view, context):
        row = np.int64(view.firsts[context])
        return row if row < view.firsts[context + 1] else np.int64(-1)

    def after(view, row, context, top):
        return row + 1 if row + 1 < view.firsts[context + 1] else np.int64(-1)

    def dropped(view, context):
        place = view.symbols.shape[0] + view.firsts.shape[0] - 1 + context
        return value(view, place) if place < view.few.shape[0] else np.int64(0)

    dropped = compiled(dropped, exact=True)

    def followed(view, context, top):
        for row in range(view.firsts[context], view.firsts[context + 1]):
            if view.few[row if top else row + view.symbols.shape[0]] > 0:
                return True
        return dropped(view, context) > 0

    def mass(view, context, top):
        begin, end = np.int64(view.firsts[context]), np.int64(view.firsts[context + 1])
        gone = dropped(view, context)
        total, ones, twos, more = gone, np.int64(0), np.int64(0), np.int64(0)
        if end - begin > MANY_FOLLOW:
            sums = view.wide[halving(view.wide_at, context, 0, view.wide_at.shape[0])]
            return total + sums[0], np.int64(sums[1]), np.int64(sums[2]), np.int64(sums[3]), gone
        for row in range(begin, end):
            own = count(view, row, top)
            total += own
            if own == 1:
                ones += 1
            elif own == 2:
                twos += 1
            elif own > 2:
                more += 1
        return total, ones, twos, more, gone

    def ahead(view, context, top):
        # What follows a context lies side by side in little room: it comes by itself.
        pass

    plain = {f.__name__: compiled(f, exact=True) for f in (grams, symbol, raw, first, after, followed, mass, ahead)}
    return Access(gram=gram, count=count, **plain)
