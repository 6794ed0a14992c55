"""Counts as pairs that were learned: another trie takes them over, or the same one anew."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from holonomy.core.errors import ConfigError, DataError
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.pairs import LARGEST, Pairs
from holonomy.models.holographic.rows import ending_here


def learned_pairs(trie: CountTrie) -> Iterator[Pairs]:
    """Pairs that, learned by an empty trie, give this one; those with the longest contexts first."""
    longer: tuple[np.ndarray, np.ndarray] | None = None
    for order in range(trie.order, 0, -1):
        symbols, raw, _ = trie.grams(order)
        weights = raw if longer is None else ending_here(symbols, raw, *longer)
        longer = symbols, raw
        kept = weights > 0
        context = np.zeros((int(kept.sum()), trie.order - 1), dtype=np.int64)
        context[:, trie.order - order :] = symbols[kept, :-1]
        words, counts = symbols[kept, -1].astype(np.int64), weights[kept].astype(np.int64)
        yield Pairs(context, np.full(len(context), order - 1), words, counts)


def check_addable(trie: CountTrie, other: CountTrie) -> None:
    """Refuses a trie that cannot be merged into another one.

    Raises:
        ConfigError: it has another shape.
        DataError: counts would overflow.
    """
    mine, theirs = ((t.order, t.vocab_size, t.num_symbols) for t in (trie, other))
    if mine != theirs:
        raise ConfigError(f"`other` has order, words and symbols {theirs}; wanted {mine}")
    if trie.learned + other.learned > LARGEST:
        raise DataError(f"`other` would raise the count to {trie.learned + other.learned:,}; {LARGEST:,} is most")


def merge_counts(trie: CountTrie, other: CountTrie) -> None:
    """Adds all that another trie has learned.

    Raises:
        ConfigError, DataError: it cannot be added, see `check_addable`; nothing has changed.
    """
    check_addable(trie, other)
    for pairs in list(learned_pairs(other)):
        trie.learn(pairs)


def compact_counts(trie: CountTrie) -> None:
    """Drops grams that were unlearned."""
    kept = list(learned_pairs(trie))
    trie.clear()
    for pairs in kept:
        trie.learn(pairs)
    trie.trim()
