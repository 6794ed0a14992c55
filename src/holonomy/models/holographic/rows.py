"""The arrays of a trie that learns: their form at rest and back, their order, and what is read off them whole."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from holonomy.core.errors import CheckpointError
from holonomy.models.holographic.eviction import row_depths
from holonomy.models.holographic.growth import chain
from holonomy.models.holographic.kernels import (
    FIRST,
    INNER_WIDTH,
    LEAF_WIDTH,
    PARENT,
    PRECEDED,
    RAW,
    RELEASED,
    SYMBOL,
    TOTAL,
)
from holonomy.models.holographic.packed import Nodes

WIDTHS = {"inner": INNER_WIDTH, "leaf": LEAF_WIDTH}


def nodes_of(inner: np.ndarray, leaf: np.ndarray) -> Nodes:
    """Rows of both kinds without what follows from them."""
    parents, symbols, raw = (np.concatenate([inner[:, c], leaf[:, c]]) for c in (PARENT, SYMBOL, RAW))
    return Nodes(parents, symbols, raw, inner[:, PRECEDED], inner[:, RELEASED])


def rows_of(nodes: Nodes) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both kinds, all but the columns that chain them."""
    split = len(nodes.preceded)
    inner = np.zeros((split, INNER_WIDTH), dtype=np.int32)
    leaf = np.zeros((len(nodes.raw) - split, LEAF_WIDTH), dtype=np.int32)
    for rows, part in ((inner, slice(0, split)), (leaf, slice(split, None))):
        rows[:, PARENT], rows[:, SYMBOL], rows[:, RAW] = nodes.parents[part], nodes.symbols[part], nodes.raw[part]
    inner[:, PRECEDED] = nodes.preceded
    inner[:, RELEASED] = inner[:, TOTAL] = nodes.released
    for parents, counts in ((inner[1:, PARENT], inner[1:, PRECEDED]), (leaf[:, PARENT], leaf[:, RAW])):
        np.add.at(inner[:, TOTAL], parents, counts)
        for kind in (1, 2, 3):
            np.add.at(inner[:, TOTAL + kind], parents[np.minimum(counts, 3) == kind], 1)
    return inner, leaf


def check_rows(state: Mapping[str, np.ndarray], num_symbols: int) -> None:
    """Refuses stored rows that are no trie.

    Raises:
        CheckpointError: they are misshapen, or point outside.
    """
    for name, width in WIDTHS.items():
        array = state[name]
        if array.ndim != 2 or array.shape[1] != width or array.dtype != np.int32:
            raise CheckpointError(
                f"`{name}` is {array.dtype} of shape {array.shape}; wanted int32 with {width} columns"
            )
        parents, symbols = array[:, PARENT], array[:, SYMBOL]
        sound = not array.size or (parents.min() >= 0 and parents.max() < len(state["inner"]) and symbols.min() >= 0)
        if not sound or (array.size and (symbols.max() >= num_symbols or array[:, RAW].min() < 0)):
            raise CheckpointError(f"`{name}` points outside of the trie; the checkpoint is damaged")
    if not len(state["inner"]):
        raise CheckpointError("`inner` is empty; the checkpoint is damaged")


def grams_of(
    inner: np.ndarray, leaf: np.ndarray, order: int, highest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All grams of one order with a count, sorted: symbols [G, order], occurrences and numbers of predecessors."""
    rows = leaf if order == highest else inner[row_depths(inner) == order]
    rows = rows[rows[:, RAW] > 0]
    symbols, at = np.empty((len(rows), order), dtype=np.int32), rows[:, PARENT]
    symbols[:, -1] = rows[:, SYMBOL]
    for place in range(order - 2, -1, -1):
        symbols[:, place], at = inner[at, SYMBOL], inner[at, PARENT]
    preceded = rows[:, PRECEDED] if order < highest else np.zeros(len(rows), dtype=np.int32)
    sort = np.lexsort(symbols.T[::-1])
    return symbols[sort], rows[sort, RAW], preceded[sort]


def ending_here(symbols: np.ndarray, raw: np.ndarray, longer: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Occurrences of grams without those that continue further left, which are those of the longer grams."""
    if not len(longer):
        return raw
    _, number = np.unique(np.concatenate([symbols, longer[:, 1:]]), axis=0, return_inverse=True)
    number = number.reshape(-1)
    beyond = np.bincount(number[len(symbols) :], weights=counts, minlength=number.max() + 1)
    return raw - beyond[number[: len(symbols)]].astype(np.int64)


def most_frequent(
    inner: np.ndarray, leaf: np.ndarray, highest: int, most: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The grams of order two that occurred most often, at most so many: first symbols, words, occurrences."""
    longest = highest == 2
    rows = leaf if longest else inner
    there = np.flatnonzero((rows[:, RAW] > 0) & (longest or row_depths(inner) == 2))
    if most is not None and len(there) > most:
        # Equal counts by age, so that the same ones stay whatever the machine.
        there = np.sort(there[np.argsort(-rows[there, RAW], kind="stable")[:most]])
    return inner[rows[there, PARENT], SYMBOL], rows[there, SYMBOL], rows[there, RAW]


def arranged(inner: np.ndarray, leaf: np.ndarray, highest: int) -> tuple[np.ndarray, np.ndarray]:
    """The same rows with grams of one context side by side."""
    depths = row_depths(inner)
    place, at = np.zeros(len(inner), dtype=np.int32), 1
    whole = np.zeros_like(inner)
    whole[0] = inner[0]
    whole[:, FIRST] = -1
    for depth in range(1, highest):
        rows = np.flatnonzero(depths == depth)
        counted = inner[rows, RAW] > 0
        # Those that follow first, so that walking over them never leaves their lines of memory.
        sort = np.lexsort((inner[rows, SYMBOL], ~counted, place[inner[rows, PARENT]]))
        rows, counted = rows[sort], counted[sort]
        place[rows] = np.arange(at, at + len(rows))
        part = whole[at : at + len(rows)]
        part[:, :INNER_WIDTH] = inner[rows]
        part[:, FIRST] = -1
        chain(part, place[inner[rows, PARENT]], whole, at, counted)
        at += len(rows)
    parents = place[leaf[:, PARENT]]
    rows = np.lexsort((leaf[:, SYMBOL], parents))
    leaves = leaf[rows]
    chain(leaves, parents[rows], whole, 0, np.ones(len(rows), dtype=bool))
    return whole, leaves
