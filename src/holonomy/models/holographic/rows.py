"""The arrays of a trie that learns: their form at rest and back, and what they must satisfy."""

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
