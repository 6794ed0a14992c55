"""Everything that is learned from pairs of context and word, and what it says about the next word.

Exact counts of words in a row, of words at chosen places and of words after classes; vectors of words from their
counted neighbours and what contexts expect of them. The counts follow each pair at once; vectors, classes and what
hangs on them are made again from a text that is replayed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import Contexts
from holonomy.models.holographic.counts import CountTrie, Pairs
from holonomy.models.holographic.recency import Recency, Trace
from holonomy.models.holographic.similarity import ContextFeatures, Readout
from holonomy.models.holographic.vectors import word_classes, word_vectors

PRESENT = 1e-9
"""A trace with less mass than this holds nothing."""
PART = 1 << 21
"""Numbers of a dense block: contexts at a time times words."""


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

    def read(self, symbols: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The trie's own contexts from the last words."""
        columns = symbols.shape[1] - np.array(self.places[::-1])
        own = symbols[:, columns]
        own = own if self.group is None else self.group[own]
        return own, np.searchsorted(np.array(self.places), lengths, side="right")


@dataclass
class Reading:
    """What the memories found for a batch of contexts.

    Attributes:
        contexts: the contexts.
        found: rows in each trie.
        features: of word vectors, [B, size]; None without vectors.
        mass: of the traces of the text itself, [B, traces].
        numbers: what decides the weights of the experts, [B, d].
    """

    contexts: Contexts
    found: list[np.ndarray]
    features: Tensor | None
    mass: np.ndarray
    numbers: np.ndarray


class Memories:
    """The learned state.

    Args:
        config: of the model.
        vocab_size: number of words.
    """

    def __init__(self, config: HolographicConfig, vocab_size: int) -> None:
        self.config, self.vocab_size = config, vocab_size
        counts = config.counts
        rolling = Grams("counts", CountTrie(counts.order, vocab_size), tuple(range(1, counts.order)))
        skips = [
            Grams(f"skip {'-'.join(map(str, p))}", CountTrie(len(p) + 1, vocab_size, rolling=False), p)
            for p in counts.skips
        ]
        self.grams = [rolling, *skips]
        self.apart = Grams("apart", CountTrie(2, vocab_size, rolling=False), (2,))
        self.classes: list[Grams] = []
        self.readout: Readout | None = None
        self.unigram = np.zeros(vocab_size, dtype=np.int64)
        self.recency = Recency(tuple(Trace(*trace) for trace in config.recency.traces))
        self.reach = max(config.similarity.positions, counts.class_order, *(max(g.places) for g in self.grams), 2)
        """Words of a context that everything but the text's own traces looks at."""

    @property
    def counts(self) -> CountTrie:
        """Exact counts of words in a row."""
        return self.grams[0].trie

    @property
    def experts(self) -> list[str]:
        """Names of the components of the mixture, in order."""
        named = [g.name for g in self.grams] + [f"class {number}" for number in self.config.counts.classes]
        named += [f"recent {t.match}-{t.window}-{t.tau:g}" for t in self.recency.traces]
        return [*named, "words"] if self.config.similarity.readout else named

    @property
    def num_numbers(self) -> int:
        """How many numbers decide the weights of the experts."""
        return 6 + self.counts.order + 2 * sum(t.match > 0 for t in self.recency.traces)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes by structure."""
        found = {g.name: g.trie.nbytes for g in [*self.grams, self.apart, *self.classes]}
        found["unigram"] = self.unigram.nbytes
        return found | ({"readout": self.readout.nbytes} if self.readout is not None else {})

    def learn(self, contexts: Contexts, targets: np.ndarray, weights: np.ndarray, *, sign: int = 1) -> None:
        """Adds pairs, or takes them away where `sign` is -1.

        Raises:
            DataError: ids or weights out of range, or a pair to take away that is not there; nothing has changed.
        """
        symbols, lengths = contexts.symbols(self.reach)
        self._count([*self.grams, self.apart, *self.classes], symbols, lengths, targets, weights, sign)
        np.add.at(self.unigram, targets, sign * weights)
        if self.readout is not None:
            self.readout.add(*map(torch.from_numpy, (symbols, lengths, targets, sign * weights)))

    @staticmethod
    def _count(
        grams: list[Grams],
        symbols: np.ndarray,
        lengths: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
        sign: int = 1,
    ) -> None:
        for gram in grams:
            pairs = Pairs(*gram.read(symbols, lengths), targets, weights)
            gram.trie.learn(pairs) if sign > 0 else gram.trie.unlearn(pairs)

    def refresh(self, contexts: Contexts, targets: np.ndarray) -> None:
        """Makes vectors and classes from the counts, and fills what hangs on them from a replayed text."""
        neighbours = []
        for gram in (self.grams[0], self.apart):
            words, raw, _ = gram.trie.grams(2)
            neighbours.append((words[:, 0], words[:, 1], raw))
        similarity = self.config.similarity
        vectors = word_vectors(neighbours, self.vocab_size, similarity.dim)
        features = ContextFeatures(vectors, positions=similarity.positions, decay=similarity.decay)
        readout = Readout(features, ridge=similarity.ridge, words=similarity.readout)
        self.classes = self._made_classes(vectors)
        for begin in range(0, len(targets), self.config.batch_size):
            cut = slice(begin, begin + self.config.batch_size)
            symbols, lengths = contexts.part(cut).symbols(self.reach)
            ones = np.ones(len(lengths), dtype=np.int64)
            self._count(self.classes, symbols, lengths, targets[cut], ones)
            readout.add(*map(torch.from_numpy, (symbols, lengths, targets[cut], ones)))
        readout.solve()
        self.readout = readout
        for gram in [*self.grams, *self.classes]:
            gram.trie.arrange()

    def _made_classes(self, vectors: Tensor) -> list[Grams]:
        counts, made = self.config.counts, []
        heavy = torch.from_numpy(self.unigram).float().sqrt()
        for number in counts.classes:
            group = self.vocab_size + word_classes(vectors, heavy, min(number, self.vocab_size))
            made.append(self.class_grams(number, group))
        return made

    def class_grams(self, number: int, group: np.ndarray) -> Grams:
        """An empty expert of words after classes."""
        order = self.config.counts.class_order
        trie = CountTrie(order, self.vocab_size, num_symbols=self.vocab_size + number, rolling=False)
        return Grams(f"class {number}", trie, tuple(range(1, order)), group)

    def read(self, contexts: Contexts) -> Reading:
        """Looks contexts up everywhere."""
        symbols, lengths = contexts.symbols(self.reach)
        found = [g.trie.find(*g.read(symbols, lengths)) for g in [*self.grams, *self.classes]]
        features = None
        if self.readout is not None:
            features = self.readout.features(torch.from_numpy(symbols), torch.from_numpy(lengths))
        nothing = np.full(len(lengths), -1, dtype=np.int64)
        mass, _ = self.recency.rate(*contexts, nothing)
        return Reading(contexts, found, features, mass, self._numbers(symbols, lengths, found[0], mass))

    def _numbers(self, symbols: np.ndarray, lengths: np.ndarray, found: np.ndarray, mass: np.ndarray) -> np.ndarray:
        level = (found >= 0).sum(1) - 1
        here = np.arange(len(found))
        totals, distinct = np.log1p(self.counts.totals(found)), np.log1p(self.counts.distinct(found))
        last = np.where(lengths > 0, self.unigram[symbols[:, -1]], 0)
        columns = [np.ones(len(found)), *(level >= n for n in range(1, self.counts.order))]
        columns += [totals[here, np.maximum(level, 0)], distinct[here, np.maximum(level, 0)]]
        columns += [totals[:, 1], distinct[:, 1], totals[:, min(2, self.counts.order - 1)], np.log1p(last)]
        for k, trace in enumerate(self.recency.traces):
            if trace.match > 0:
                columns += [mass[:, k] > PRESENT, np.log1p(mass[:, k])]
        return np.stack([np.asarray(c, dtype=np.float64) for c in columns], 1)

    def similarities(self, reading: Reading) -> Tensor | None:
        """How well each word fits the vector that contexts expect, [B, V]."""
        if self.readout is None or reading.features is None:
            return None
        return self.readout.similarities(reading.features)

    def prior(self) -> np.ndarray:
        """Smoothed distribution of words, [V] float32."""
        return ((self.unigram + 0.5) / (self.unigram.sum() + 0.5 * self.vocab_size)).astype(np.float32)

    def target_probs(self, reading: Reading, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probability of one target from every expert, [B, C], and whether the expert knew anything, [B, C].

        The first is that of plain counts; an expert that knows nothing gives zero.
        """
        tries = [*self.grams, *self.classes]
        probs = [g.trie.score(f, targets) for g, f in zip(tries, reading.found, strict=True)]
        probs += [np.zeros(len(targets))] * (len(self.config.counts.classes) - len(self.classes))
        mass, own = self.recency.rate(*reading.contexts, targets)
        probs += list((own / np.maximum(mass, PRESENT)).T)
        if self.config.similarity.readout:
            probs.append(self._read_out(reading)[np.arange(len(targets)), targets])
        return np.stack(probs, 1), self.knowing(reading)

    def knowing(self, reading: Reading) -> np.ndarray:
        """Which experts know anything, [B, C]."""
        batch = len(reading.mass)
        tries = [np.ones((batch, 1), bool)] * len(self.grams)
        tries += [np.full((batch, 1), bool(self.classes))] * len(self.config.counts.classes)
        known = [*tries, reading.mass > PRESENT]
        if self.config.similarity.readout:
            known.append(np.full((batch, 1), self.readout is not None))
        return np.concatenate(known, 1)

    def _read_out(self, reading: Reading) -> np.ndarray:
        if self.readout is None or reading.features is None:
            return np.zeros((len(reading.mass), self.vocab_size), dtype=np.float32)
        return self.readout.shares(reading.features, torch.from_numpy(self.prior())).numpy()

    def mix(self, reading: Reading, weights: np.ndarray, *, counts: bool) -> np.ndarray:
        """Sum of experts with weights [B, C], without that of plain counts unless `counts`; [B, V] float32."""
        batch, tries = len(weights), [*self.grams, *self.classes]
        out = np.zeros((batch, self.vocab_size), dtype=np.float32)
        bases, lowest = [], []
        for column, (gram, found) in enumerate(zip(tries, reading.found, strict=True)):
            if column or counts:
                bases.append(gram.trie.spread(found, weights[:, column], out))
                lowest.append(gram.trie.lowest)
        if bases:
            base = torch.from_numpy(np.stack(bases, 1).astype(np.float32))
            torch.from_numpy(out).addmm_(base, torch.from_numpy(np.stack(lowest)))
        first = len(self.grams) + len(self.config.counts.classes)
        traces = weights[:, first : first + len(self.recency.traces)] / np.maximum(reading.mass, PRESENT)
        self.recency.spread(*reading.contexts, np.where(reading.mass > PRESENT, traces, 0.0), out)
        if self.config.similarity.readout and self.readout is not None:
            out += weights[:, -1:].astype(np.float32) * self._read_out(reading)
        return out
