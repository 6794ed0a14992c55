"""What memories are asked with and answer: tries and the places of a context they read, cues, and what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from holonomy.data.tokenizer import Spelling
from holonomy.models.holographic.basins import Neighbours
from holonomy.models.holographic.candidates import Followers
from holonomy.models.holographic.contexts import Contexts
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.spelling import spelled


@dataclass
class Grams:
    """A trie and the places of a context that it reads.

    Attributes:
        name: of the expert.
        trie: its counts.
        places: distances from the target, nearest first.
        group: symbol of each word in contexts, or None for the words themselves.
    """

    name: str
    trie: CountTrie
    places: tuple[int, ...]
    group: np.ndarray | None = None
    sources: tuple[str, ...] = ()
    spelling: Spelling | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of trie and classes."""
        return self.trie.nbytes + (0 if self.group is None else self.group.nbytes)

    def own(self, symbols: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The trie's own contexts from the last words of contexts, if it reads words."""
        columns = symbols.shape[1] - np.array(self.places[::-1], dtype=np.int64)
        own = symbols.take(columns, axis=1)
        own = own if self.group is None else self.group[own]
        return own, np.searchsorted(np.array(self.places), lengths, side="right")


def own_contexts(
    grams: Sequence[Grams], contexts: Contexts, symbols: np.ndarray, lengths: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The contexts of each trie from contexts and their last words; what is spelled is read in one pass."""
    found = {g.name: g.own(symbols, lengths) for g in grams if g.spelling is None}
    rest = [g for g in grams if g.spelling is not None]
    if rest and rest[0].spelling is not None:
        kinds = spelled(contexts, rest[0].spelling, [g.sources for g in rest])
        found |= {g.name: (own, np.full(len(own), own.shape[1])) for g, own in zip(rest, kinds, strict=True)}
    return found


@dataclass
class Cues:
    """What memories are asked with, and learn by: it hangs on contexts alone, so it stays while pairs are learned.

    Attributes:
        contexts: the contexts.
        symbols: their last words, nearest last, [B, n].
        lengths: how many of them there are, [B].
        owns: contexts of each trie, and how many symbols they have, by name.
        mass: of the traces of the text itself, [B, traces]; None where nothing is to be read.
        followed: mass of the traces by word, [B, traces, V], where they are pooled.
        recalled: mass of the traces on the words that come, [B, traces], where these are told and traces added.
    """

    contexts: Contexts
    symbols: np.ndarray
    lengths: np.ndarray
    owns: dict[str, tuple[np.ndarray, np.ndarray]]
    mass: np.ndarray | None = None
    followed: np.ndarray | None = None
    recalled: np.ndarray | None = None

    def part(self, cut: slice) -> Cues:
        """Those of some of the contexts."""
        owns = {name: (own[cut], lengths[cut]) for name, (own, lengths) in self.owns.items()}
        told = (None if a is None else a[cut] for a in (self.mass, self.followed, self.recalled))
        return Cues(self.contexts.part(cut), self.symbols[cut], self.lengths[cut], owns, *told)


@dataclass
class Reading:
    """What the memories found for a batch of contexts.

    Attributes:
        contexts: the contexts.
        found: rows in each trie.
        features: of word vectors, [B, size]; None without vectors.
        mass: of the traces of the text itself, [B, traces].
        numbers: what decides the weights of the experts, [B, d].
        followed: mass of the traces by word, [B, traces, V], where they are pooled.
        near: contexts that look much the same, if they are kept.
        followers: words that followed the contexts, once they were asked for.
        rows: rows in each trie, by name, of contexts that nothing follows too: they save whoever learns them a search.
        recalled: mass of the traces on the words that come, [B, traces], where these were told.
    """

    contexts: Contexts
    found: list[np.ndarray]
    features: Tensor | None
    mass: np.ndarray
    numbers: np.ndarray
    followed: np.ndarray | None = None
    near: Neighbours | None = None
    followers: Followers | None = None
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    recalled: np.ndarray | None = None
