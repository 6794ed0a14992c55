"""A tenth of the counts of pydoc, with and without a store of bindings that takes what they drop.

Run: `python benchmarks/overflow.py`. Perplexity of all held-out words. Everything is learned without the last twentieth
of the training words, on which the shares of the store's orders are fitted.
"""

from __future__ import annotations

import numpy as np
import torch

from holonomy.data.text import load_text
from holonomy.data.words import split_words
from holonomy.models.holographic.config import TowerConfig
from holonomy.models.holographic.contexts import Contexts, of_text
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.mirror import Mirror
from holonomy.models.holographic.pairs import Pairs

ONE = np.zeros(1, dtype=np.int64)
ORDER, BATCH, PART = 5, 8192, 512
SPARE = 1_018_000
"""Bytes beside a tenth of the counts: what one batch may bring at worst, and the quarter that an eviction empties."""


def learned(tokens: np.ndarray, vocab_size: int, room: int | None, store: Mirror | None = None) -> CountTrie:
    """Counts of a text within a room, what they drop in a store."""
    trie = CountTrie(ORDER, vocab_size, room=room)
    if store is not None:
        trie.spill, trie.longest = store.take, store.tower.orders[-1]
    pairs = Pairs(*of_text(tokens, ONE).symbols(ORDER - 1), tokens, np.ones(len(tokens), dtype=np.int64))
    for begin in range(0, len(tokens), BATCH):
        trie.learn(Pairs(*(a[begin : begin + BATCH] for a in pairs)))
    return trie


def interpolated(store: Mirror, trie: CountTrie, contexts: Contexts, words: np.ndarray) -> float:
    """Perplexity of a store beside the counts."""
    own = []
    for begin in range(0, len(words), PART):
        cut = slice(begin, begin + PART)
        said = store.distribution(contexts.part(cut), trie)
        own.append(said[np.arange(len(said)), words[cut]])
    return float(np.exp(-np.log(np.concatenate(own)).mean()))


def main() -> None:
    """Prints perplexities and bytes."""
    torch.set_num_threads(1)
    split = split_words(load_text("pydoc").text)
    train, test, size = split.train, split.test, split.tokenizer.vocab_size
    cut = len(train) - len(train) // 20
    asked = of_text(np.concatenate([train, test]), ONE, np.arange(len(train), len(train) + len(test)))
    fitted = of_text(train, ONE, np.arange(cut, len(train)))

    def plain(trie: CountTrie) -> float:
        return float(np.exp(-np.log(trie.score(trie.find(*asked.symbols(ORDER - 1)), test)).mean()))

    whole = learned(train[:cut], size, None)
    whole.trim()
    few = learned(train[:cut], size, whole.nbytes // 10 + SPARE)
    print(f"all counts         {whole.nbytes:>11,} bytes  Kneser-Ney {plain(whole):.1f}")
    print(f"a tenth of them    {few.nbytes:>11,} bytes  Kneser-Ney {plain(few):.1f}")
    for levels in (4, 5):
        store = Mirror(TowerConfig(role="overflow", levels=levels), size)
        trie = learned(train[:cut], size, whole.nbytes // 10 + SPARE, store)
        empty = Mirror(TowerConfig(role="overflow", levels=3), size)
        for one in (empty, store):
            one.fit(fitted, train[cut:], trie)
        print(
            f"store of {levels} levels  {store.tower.nbytes:>11,} bytes  with the tenth "
            f"{interpolated(store, trie, asked, test):.1f}, interpolated alike without it "
            f"{interpolated(empty, trie, asked, test):.1f}"
        )


if __name__ == "__main__":
    main()
