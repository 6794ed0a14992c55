"""How kernels find and read rows of a trie, whatever way it is stored, and where contexts stand in it.

Columns of rows are those that `kernels` names.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from holonomy.geometry.compiled import compiled
from holonomy.models.holographic.addressing import probing
from holonomy.models.holographic.fetching import fetching
from holonomy.models.holographic.packed import Access, packed_access

MOST_AHEAD, MOST_LINKED = 64, 4
"""Rows that are fetched before they are read, and how many of those that came since are passed by for them."""


@lru_cache(maxsize=1)
def open_access() -> Access:
    """How rows of a trie that learns are read: a view is `(inner, leaf, inner_table, leaf_table, sizes)`."""
    import numpy as np

    (find, find_each, _), fetch = probing(), fetching()

    def grams(view, places, symbols):
        find_each(view[0], view[2], places, symbols, view[4])

    def gram(view, context, symbol, top):
        # Each in a branch of its own: arrays that are chosen between have their references counted.
        if top:
            return find(view[1], view[3], context, symbol, view[4])
        return find(view[0], view[2], context, symbol, view[4])

    def symbol(view, row, top):
        return view[1][row, 1] if top else view[0][row, 1]

    def count(view, row, top):
        return view[1][row, 2] if top else view[0][row, 4]

    def raw(view, row):
        return view[0][row, 2]

    def first(view, context):
        return view[0][context, 5]

    def after(view, row, context, top):
        return view[1][row, 3] if top else view[0][row, 3]

    def followed(view, context, top):
        return view[0][context, 6] > 0

    def mass(view, context, top):
        row = view[0][context]
        return row[6], row[7], row[8], row[9], row[10]

    def ahead(view, context, top):
        # Those that came since rows were put side by side are linked before the others.
        inner, leaf = view[0], view[1]
        many = min(inner[context, 7] + inner[context, 8] + inner[context, 9], MOST_AHEAD)
        row = np.int64(inner[context, 5])
        if many < 2 or row < 0:
            return
        for _ in range(MOST_LINKED):
            beside = np.int64(leaf[row, 3] if top else inner[row, 3])
            if beside < 0 or beside == row + 1:
                break
            row = beside
        if top:
            for at in range(row, min(row + many, len(leaf)), 4):
                fetch(leaf, at, 0)
        else:
            for at in range(row, min(row + many, len(inner))):
                fetch(inner, at, 3)

    own = (gram, grams, symbol, count, raw, first, after, followed, mass, ahead)
    return Access(*(compiled(f, exact=True) for f in own))


def access(packed: bool) -> Access:
    """How kernels read the rows of a trie."""
    return packed_access() if packed else open_access()


@lru_cache(maxsize=1)
def continuing() -> Any:
    """`continues(symbols, lengths, b)`: whether context b is that of b - 1 and a symbol more, as in a text."""

    def continues(symbols, lengths, b):
        width = symbols.shape[1]
        same = b > 0 and lengths[b] > 0 and lengths[b] == min(lengths[b - 1] + 1, width)
        for j in range(lengths[b] - 1):
            same = same and symbols[b, width - 2 - j] == symbols[b - 1, width - 1 - j]
        return same

    return compiled(continues, exact=True)


@lru_cache(maxsize=2)
def standing(packed: bool) -> Any:
    """`stand(view, symbols, lengths, rows)`: where contexts stand, whether or not anything follows them; -1 is none."""
    import numpy as np

    grams, continues = access(packed).grams, continuing()

    def stand(view, symbols, lengths, rows):
        order, batch, count = symbols.shape[1] + 1, len(lengths), 0
        rows[:, :], rows[:, 0] = -1, 0
        # Most contexts of a text go on from the one before: one symbol more, and they are found.
        apart, follows = np.empty(batch, dtype=np.int64), np.zeros(batch, dtype=np.bool_)
        for b in range(batch):
            follows[b] = lengths[b] > 1 and continues(symbols, lengths, b)
            if not follows[b]:
                apart[count] = b
                count += 1
        # Symbol after symbol of all contexts: their places in memory are fetched at the same time.
        places, own = np.empty((2, batch), dtype=np.int64)
        for m in range(1, order):
            for j in range(order - 1 - m, order - 2):
                for k in range(count):
                    b = apart[k]
                    places[k] = -1 if m > lengths[b] else 0 if j == order - 1 - m else places[k]
                    own[k] = symbols[b, j]
                grams(view, places[:count], own[:count])
                for k in range(count):
                    rows[apart[k], m] = places[k]
            for b in range(batch):
                before = rows[b - 1, m - 1] if follows[b] else rows[b, m] if m > 1 else 0
                places[b], own[b] = before if m <= lengths[b] else -1, symbols[b, order - 2]
            grams(view, places, own)
            for b in range(batch):
                rows[b, m] = places[b]

    return compiled(stand, exact=True)
