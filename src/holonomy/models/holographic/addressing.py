"""Compiled look-ups of grams by parent and symbol: a table of row numbers in open addressing with linear probing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from holonomy.geometry.compiled import compiled


@lru_cache(maxsize=1)
def probing() -> tuple[Any, Any, Any]:
    """`find(rows, table, parent, symbol, sizes)`, `find_each(rows, table, places, symbols, sizes)`, `rehash(...)`."""
    import numpy as np

    def place(parent, symbol, mask):
        # One step of splitmix64 on both numbers side by side.
        z = (np.uint64(parent) << np.uint64(32)) | np.uint64(symbol)
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.int64((z ^ (z >> np.uint64(31))) & np.uint64(mask))

    place = compiled(place, exact=True)

    def find(rows, table, parent, symbol, sizes):
        # The row of a gram, or ~slot of the empty place where it would stand.
        mask = table.shape[0] - 1
        at = place(parent, symbol, mask)
        sizes[3] += 1
        while True:
            sizes[2] += 1
            row = table[at]
            if row < 0:
                return ~at
            if rows[row, 0] == parent and rows[row, 1] == symbol:
                return np.int64(row)
            at = (at + 1) & mask

    find = compiled(find, exact=True)

    def find_each(rows, table, places, symbols, sizes):
        # Puts the rows of grams, or -1, where their parents stand, of which -1 has none. Nothing of the first two
        # loops waits for another place in memory, nor for a guess which way it goes on.
        mask, held = table.shape[0] - 1, np.empty(len(places), dtype=np.int32)
        for b in range(len(places)):
            held[b] = table[place(max(places[b], 0), symbols[b], mask)]
        for b in range(len(places)):
            row, parent = held[b], places[b]
            at = max(row, 0)
            same = (rows[at, 0] == parent) & (rows[at, 1] == symbols[b])
            held[b] = -1 if (row < 0) | (parent < 0) else row if same else -2
        for b in range(len(places)):
            if held[b] == -2:
                row = find(rows, table, places[b], symbols[b], sizes)
                places[b] = row if row >= 0 else -1
            else:
                sizes[2] += places[b] >= 0
                sizes[3] += places[b] >= 0
                places[b] = held[b]

    def rehash(rows, table, begin, used):
        mask = table.shape[0] - 1
        for row in range(begin, used):
            at = place(rows[row, 0], rows[row, 1], mask)
            while table[at] >= 0:
                at = (at + 1) & mask
            table[at] = row

    return find, compiled(find_each, exact=True), compiled(rehash, exact=True)
