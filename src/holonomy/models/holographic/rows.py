"""The arrays of a trie that learns: their depths, their form at rest and back, and what goes when rare grams go."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from holonomy.core.errors import CheckpointError
from holonomy.models.holographic.kernels import (
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


def depths_of(inner: np.ndarray) -> np.ndarray:
    """Number of symbols of each gram below the highest order."""
    depths, at = np.zeros(len(inner), dtype=np.int64), np.arange(len(inner))
    # A parent stands before its children, so one pass by depth finds them all.
    while (alive := at > 0).any():
        depths += alive
        at = np.where(alive, inner[at, PARENT], 0)
    return depths


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


def pruned_rows(
    inner: np.ndarray, leaf: np.ndarray, order: int, least: int, lowest: int
) -> tuple[np.ndarray, np.ndarray]:
    """What stays of rows without grams that occurred fewer than `least` times; `inner` is changed too.

    Args:
        inner, leaf: rows in use.
        order: longest gram.
        least: occurrences that a gram needs to stay, unless a longer one needs it.
        lowest: order below which nothing goes.
    """
    if order >= lowest:
        gone = leaf[:, RAW] < least
        _release(inner, leaf[gone, PARENT], leaf[gone, RAW])
        leaf = leaf[~gone]
    depths = depths_of(inner)
    for depth in range(order - 1, 1, -1):
        # Without a longer gram nothing points at a row, so it can go: one that is a context only goes at any order.
        needed = np.zeros(len(inner), dtype=bool)
        needed[leaf[:, PARENT]] = True
        needed[inner[1:, PARENT]] = True
        gone = (depths == depth) & ~needed & (inner[:, RAW] < (least if depth >= lowest else 1))
        _release(inner, inner[gone, PARENT], inner[gone, PRECEDED])
        place = np.cumsum(~gone) - 1
        inner, leaf, depths = inner[~gone], leaf.copy(), depths[~gone]
        inner[:, PARENT], leaf[:, PARENT] = place[inner[:, PARENT]], place[leaf[:, PARENT]]
    return inner, leaf


def _release(inner: np.ndarray, contexts: np.ndarray, counts: np.ndarray) -> None:
    np.add.at(inner[:, RELEASED], contexts, counts)
    for kind in (1, 2, 3):
        np.subtract.at(inner[:, TOTAL + kind], contexts[np.minimum(counts, 3) == kind], 1)
