"""Everything that is learned from pairs of context and word, and what it says about the next word.

Exact counts of words in a row, of words at chosen places and of words after classes; vectors of words from their
counted neighbours and what contexts expect of them. The counts follow each pair at once; vectors, classes and what
hangs on them are made again from a text that is replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError, DataError
from holonomy.data.tokenizer import Spelling
from holonomy.data.words import UNKNOWN_ID
from holonomy.models.holographic.basins import Basins, Neighbours
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import Contexts
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.plan import memory_plan, skip_name
from holonomy.models.holographic.recency import Recency, Trace
from holonomy.models.holographic.similarity import ContextFeatures, Readout
from holonomy.models.holographic.spelling import MODULUS, REACH, spelled
from holonomy.models.holographic.topics import Topics
from holonomy.models.holographic.vectors import word_classes, word_vectors
from holonomy.models.holographic.voices import Voices

PRESENT = 1e-9
"""A trace with less mass than this holds nothing."""
POOLED_MOST = 4096
"""Largest vocabulary whose experts are asked for every word."""
MIDDLE, SMOOTHING = 5, 0.5
"""Order of the counts that smooths the traces, and its weight in occurrences."""
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
    sources: tuple[str, ...] = ()
    spelling: Spelling | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of trie and classes."""
        return self.trie.nbytes + (0 if self.group is None else self.group.nbytes)

    def own(self, symbols: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The trie's own contexts from the last words of contexts, if it reads words."""
        columns = symbols.shape[1] - np.array(self.places[::-1])
        own = symbols[:, columns]
        own = own if self.group is None else self.group[own]
        return own, np.searchsorted(np.array(self.places), lengths, side="right")


def own_contexts(
    grams: Sequence[Grams], contexts: Contexts, symbols: np.ndarray, lengths: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The contexts of each trie from contexts and their last words; what is spelled is read in one pass."""
    found = {g.name: g.own(symbols, lengths) for g in grams if g.spelling is None}
    rest = [g for g in grams if g.spelling is not None]
    if rest and rest[0].spelling is not None:
        kinds = spelled(contexts, rest[0].spelling, [g.sources for g in rest])
        found |= {g.name: (own, np.full(len(own), own.shape[1])) for g, own in zip(rest, kinds, strict=True)}
    return [found[g.name] for g in grams]


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
    """

    contexts: Contexts
    found: list[np.ndarray]
    features: Tensor | None
    mass: np.ndarray
    numbers: np.ndarray
    followed: np.ndarray | None = None
    near: Neighbours | None = None


class Memories:
    """The learned state.

    Args:
        config: of the model.
        vocab_size: number of words.
        unknown: id of unknown words, if there is one.
        spelling: of characters, if words are such.
    """

    def __init__(
        self,
        config: HolographicConfig,
        vocab_size: int,
        *,
        unknown: int | None = UNKNOWN_ID,
        spelling: Spelling | None = None,
    ) -> None:
        self.config, self.vocab_size, self.unknown = config, vocab_size, unknown
        counts, self.plan = config.counts, memory_plan(config, vocab_size)
        rolling = Grams("counts", self._trie("counts", counts.order, rolling=True), tuple(range(1, counts.order)))
        skips = [Grams(name, self._trie(name, len(p) + 1), p) for p in counts.skips for name in (skip_name(p),)]
        spelled_ones = [
            Grams(name, self._trie(name, len(p) + 1, MODULUS), (), sources=p, spelling=spelling)
            for p in counts.spelled
            for name in (f"spelled {'-'.join(p)}",)
        ]
        self.grams = [rolling, *skips, *spelled_ones]
        self.apart = Grams("apart", self._trie("apart", 2), (2,))
        self.classes: list[Grams] = []
        self.readout: Readout | None = None
        self.topics: Topics | None = None
        self.basins: Basins | None = None
        self.unigram = np.zeros(vocab_size, dtype=np.int64)
        self.recency = Recency(tuple(Trace(*trace) for trace in config.recency.traces))
        near = (max(g.places, default=1) for g in self.grams)
        self.near = max(config.similarity.positions, counts.class_order, 2, *near)
        """Last words of a context that are looked at one by one."""
        self.reach = max(self.near, REACH if spelled_ones else 0)
        """Words of a context that everything but the text's own traces looks at."""
        self.pooled = config.mixture.pool == "logarithmic"
        if self.pooled and vocab_size > POOLED_MOST:
            raise ConfigError(
                f"`mixture.pool` is logarithmic and the vocabulary {vocab_size}; wanted {POOLED_MOST} ids at most, "
                "or the linear pool"
            )

    def _trie(self, name: str, order: int, symbols: int | None = None, *, rolling: bool = False) -> CountTrie:
        room = self.plan.rooms.get(name)
        return CountTrie(order, self.vocab_size, num_symbols=symbols, rolling=rolling, room=room)

    @property
    def counts(self) -> CountTrie:
        """Exact counts of words in a row."""
        return self.grams[0].trie

    @property
    def experts(self) -> list[str]:
        """Names of the components of the mixture, in order."""
        named = [g.name for g in self.grams] + [f"class {number}" for number in self.config.counts.classes]
        named += [f"recent {t.match}-{t.window}-{t.tau:g}" for t in self.recency.traces]
        named += ["words"] if self.config.similarity.readout else []
        return [*named, "neighbours"] if self.config.basins.enabled else named

    @property
    def num_numbers(self) -> int:
        """How many numbers decide the weights of the experts."""
        traces, spelled_ones = sum(t.match > 0 for t in self.recency.traces), len(self.config.counts.spelled)
        return 6 + self.counts.order + 2 * traces + 2 * spelled_ones + 2 * self.config.basins.enabled

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes by structure."""
        found = {g.name: g.nbytes for g in [*self.grams, self.apart, *self.classes]}
        found |= {"unigram": self.unigram.nbytes, "recency": self.recency.nbytes}
        made = {"readout": self.readout, "topics": self.topics, "basins": self.basins}
        return found | {name: part.nbytes for name, part in made.items() if part is not None}

    def pack(self) -> None:
        """Takes as little memory as reading needs; whoever learns makes room first."""
        for gram in [*self.grams, self.apart, *self.classes]:
            gram.trie.pack()
        if self.basins is not None:
            self.basins.pack()

    def learn(self, contexts: Contexts, targets: np.ndarray, weights: np.ndarray, *, sign: int = 1) -> None:
        """Adds pairs, or takes them away where `sign` is -1.

        Raises:
            DataError: ids or weights out of range, or a pair to take away that is not there; nothing has changed.
        """
        symbols, lengths = contexts.symbols(self.near)
        counted = self._counted(contexts, symbols, lengths, targets, weights)
        if sign > 0:
            for trie, pairs in counted:
                trie.learn(pairs)
            if self.basins is not None:
                self.basins.learn(symbols, lengths, targets, weights)
        else:
            self._unlearn(counted, Pairs(symbols, lengths, targets, weights))
        self._summed(symbols, lengths, targets, sign * weights)

    def restore(self, contexts: Contexts, targets: np.ndarray, weights: np.ndarray) -> None:
        """Brings pairs back that were just taken away; see `CountTrie.restore`."""
        symbols, lengths = contexts.symbols(self.near)
        for trie, pairs in self._counted(contexts, symbols, lengths, targets, weights):
            trie.restore(pairs)
        if self.basins is not None:
            self.basins.learn(symbols, lengths, targets, weights)
        self._summed(symbols, lengths, targets, weights)

    def _counted(
        self, contexts: Contexts, symbols: np.ndarray, lengths: np.ndarray, targets: np.ndarray, weights: np.ndarray
    ) -> list[tuple[CountTrie, Pairs]]:
        # Only word vectors are made of the counts that stand apart.
        grams = [*self.grams, *self.classes, *([] if self.pooled else [self.apart])]
        own = own_contexts(grams, contexts, symbols, lengths)
        return [(g.trie, Pairs(*read, targets, weights)) for g, read in zip(grams, own, strict=True)]

    def _unlearn(self, counted: list[tuple[CountTrie, Pairs]], whole: Pairs) -> None:
        # One of several tries may lack a pair that the others have: each drops by itself what is rare.
        done = 0
        try:
            for trie, pairs in counted:
                trie.unlearn(pairs)
                done += 1
            if self.basins is not None:
                self.basins.unlearn(*whole)
        except DataError:
            for before, own in counted[:done]:
                before.restore(own)
            raise

    def _summed(self, symbols: np.ndarray, lengths: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
        np.add.at(self.unigram, targets, weights)
        if self.readout is not None:
            self.readout.add(*map(torch.from_numpy, (symbols, lengths, targets, weights)))

    def refresh(self, contexts: Contexts, targets: np.ndarray) -> None:
        """Makes vectors and classes from the counts, and fills what hangs on them from a replayed text."""
        if self.pooled:
            # No voice reads vectors or classes.
            for gram in self.grams:
                gram.trie.arrange()
            return
        neighbours = []
        for gram in (self.grams[0], self.apart):
            most = self.plan.neighbours
            neighbours.append(gram.trie.frequent_pairs(None if most is None else most // 2))
        similarity = self.config.similarity
        vectors = word_vectors(neighbours, self.vocab_size, similarity.dim)
        features = ContextFeatures(vectors, positions=similarity.positions, decay=similarity.decay)
        readout = Readout(features, ridge=similarity.ridge, words=similarity.readout)
        self.classes = self._made_classes(vectors)
        for begin in range(0, len(targets), self.config.batch_size):
            cut = slice(begin, begin + self.config.batch_size)
            part = contexts.part(cut)
            symbols, lengths = part.symbols(self.near)
            ones = np.ones(len(lengths), dtype=np.int64)
            for gram in self.classes:
                gram.trie.learn(Pairs(*gram.own(symbols, lengths), targets[cut], ones))
            readout.add(*map(torch.from_numpy, (symbols, lengths, targets[cut], ones)))
        readout.solve()
        self.readout = readout
        if self.config.basins.enabled:
            # Keys are made of vectors and read-out, so that new ones mean new basins; the old ones make room first.
            self.basins = None
            self.basins = Basins(self.config.basins, readout)
            self.basins.learn(*contexts.symbols(self.near), targets, np.ones(len(targets), dtype=np.int64))
        if similarity.topics:
            self.topics = Topics.of_words(targets, self.vocab_size, self.unknown, similarity.topics)
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
        order, name = self.config.counts.class_order, f"class {number}"
        trie = self._trie(name, order, self.vocab_size + number)
        return Grams(name, trie, tuple(range(1, order)), group)

    def read(self, contexts: Contexts) -> Reading:
        """Looks contexts up everywhere."""
        symbols, lengths = contexts.symbols(self.near)
        tries = [*self.grams, *self.classes]
        owns = own_contexts(tries, contexts, symbols, lengths)
        found = [gram.trie.find(*own) for gram, own in zip(tries, owns, strict=True)]
        features = None
        if self.readout is not None:
            features = self.readout.features(torch.from_numpy(symbols), torch.from_numpy(lengths))
        nothing = np.full(len(lengths), -1, dtype=np.int64)
        followed = None
        if self.pooled:
            followed = self._followed(contexts)
            mass = followed.sum(2)
        else:
            mass, _ = self.recency.rate(*contexts, nothing)
        near = None if self.basins is None else self.basins.find(symbols, lengths)
        numbers = self._numbers(symbols, lengths, found, mass, near)
        return Reading(contexts, found, features, mass, numbers, followed, near)

    def _numbers(
        self,
        symbols: np.ndarray,
        lengths: np.ndarray,
        rows: list[np.ndarray],
        mass: np.ndarray,
        near: Neighbours | None,
    ) -> np.ndarray:
        found, here = rows[0], np.arange(len(lengths))
        level = (found >= 0).sum(1) - 1
        masses = self.counts.masses(found)
        longest, short = np.log1p(masses[here, np.maximum(level, 0)]), np.log1p(masses[:, 1])
        last = np.where(lengths > 0, self.unigram[symbols[:, -1]], 0)
        columns = [np.ones(len(found)), *(level >= n for n in range(1, self.counts.order)), *longest.T, *short.T]
        columns += [np.log1p(masses[:, min(2, self.counts.order - 1), 0]), np.log1p(last)]
        for k, trace in enumerate(self.recency.traces):
            if trace.match > 0:
                columns += [mass[:, k] > PRESENT, np.log1p(mass[:, k])]
        for gram, own in zip(self.grams, rows, strict=False):
            if gram.spelling is not None:
                level = (own >= 0).sum(1) - 1
                columns += [level, np.log1p(gram.trie.totals(own)[here, level])]
        if self.config.basins.enabled:
            nothing = np.zeros(len(found))
            columns += [nothing, nothing] if near is None else [near.nearest, np.log1p(near.mass)]
        return np.stack([np.asarray(c, dtype=np.float64) for c in columns], 1)

    def _followed(self, contexts: Contexts) -> np.ndarray:
        return self.recency.scatter(*contexts, self.vocab_size)

    def drop_made(self) -> None:
        """Drops vectors, classes and topics, which follow from counts and a text: `refresh` makes them again."""
        self.classes, self.readout, self.topics, self.basins = [], None, None, None

    def leanings(self, reading: Reading) -> list[Tensor] | None:
        """What speaks for each word besides its counts, [B, V] each: similarity, then the topics' log ratios."""
        similar = self.similarities(reading)
        if similar is None:
            return None
        return [similar, *(self.topics.tilts(reading.contexts) if self.topics is not None else [])]

    def similarities(self, reading: Reading) -> Tensor | None:
        """How well each word fits the vector that contexts expect, [B, V]."""
        if self.readout is None or reading.features is None:
            return None
        return self.readout.similarities(reading.features)

    @property
    def voices(self) -> list[str]:
        """Names of what a logarithmic pool multiplies, in order."""
        orders = [f"counts {n}" for n in range(self.config.mixture.lowest, self.counts.order + 1)]
        return [*orders, *(self.experts[1:])]

    @property
    def depth(self) -> int:
        """Numbers for each word of the vocabulary that predicting one word takes at a time."""
        return 2 * len(self.voices) if self.pooled else 1

    def panel(self, reading: Reading) -> np.ndarray:
        """Log probabilities of every voice, [B, voices, V] float32; traces relative to what counts expect.

        A trace is smoothed with the distribution of a middle order, and its logarithm is that of the quotient of both:
        one that remembers nothing says nothing.
        """
        low, order = self.config.mixture.lowest, self.counts.order
        traces, orders = len(self.recency.traces), order + 1 - low
        out = np.empty((len(reading.mass), len(self.voices), self.vocab_size), dtype=np.float32)
        self.counts.ladder(reading.found[0], low, out[:, :orders])
        for column, (gram, found) in enumerate(zip(self.grams[1:], reading.found[1:], strict=True), start=orders):
            gram.trie.ladder(found, gram.trie.order, out[:, column : column + 1])
        followed = reading.followed if reading.followed is not None else self._followed(reading.contexts)
        base = out[:, max(0, min(MIDDLE, order) - low), None]
        mass = reading.mass[:, :, None]
        out[:, -traces:] = (followed + SMOOTHING * base) / ((mass + SMOOTHING) * base)
        return torch.from_numpy(out).log_().numpy()

    def pooled_probs(self, reading: Reading, weights: np.ndarray) -> np.ndarray:
        """Product of the voices to the power of weights [B, voices], normalised, [B, V] float32.

        What `panel` holds, summed up while it is read.
        """
        low, order, weights = self.config.mixture.lowest, self.counts.order, weights.astype(np.float32)
        orders, spoken = order + 1 - low, Voices(len(weights), self.vocab_size)
        spoken.add(self.counts, reading.found[0], weights[:, :orders], low, max(low, min(MIDDLE, order)))
        for column, (gram, found) in enumerate(zip(self.grams[1:], reading.found[1:], strict=True), start=orders):
            spoken.add(gram.trie, found, weights[:, column : column + 1], gram.trie.order)
        assert reading.followed is not None
        spoken.recall(reading.followed, weights[:, orders + len(self.grams) - 1 :], SMOOTHING)
        return spoken.distributions()

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
        if self.config.basins.enabled:
            near, told = reading.near, np.zeros(len(targets))
            probs.append(told if self.basins is None or near is None else self.basins.probs(near, targets))
        return np.stack(probs, 1), self.knowing(reading)

    def knowing(self, reading: Reading) -> np.ndarray:
        """Which experts know anything, [B, C]."""
        batch = len(reading.mass)
        tries = [np.ones((batch, 1), bool)] * len(self.grams)
        tries += [np.full((batch, 1), bool(self.classes))] * len(self.config.counts.classes)
        known = [*tries, reading.mass > PRESENT]
        if self.config.similarity.readout:
            known.append(np.full((batch, 1), self.readout is not None))
        if self.config.basins.enabled:
            near = reading.near
            known.append(np.zeros((batch, 1), bool) if near is None else near.mass[:, None] > 0)
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
            out += weights[:, self.experts.index("words"), None].astype(np.float32) * self._read_out(reading)
        if self.basins is not None and reading.near is not None:
            self.basins.spread(reading.near, weights[:, -1], out)
        return out
