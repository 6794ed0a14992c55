"""Everything that is learned from pairs of context and word, and what it says about the next word.

Exact counts of words in a row, of words at chosen places and of words after classes; vectors of words from their
counted neighbours and what contexts expect of them. The counts follow each pair at once; vectors, classes and what
hangs on them are made again from a text that is replayed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError, DataError
from holonomy.data.tokenizer import Spelling
from holonomy.data.words import UNKNOWN_ID
from holonomy.models.holographic.basins import Basins, Neighbours
from holonomy.models.holographic.candidates import Candidates, Cells, Followers, Lowest
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import Contexts
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.cues import Cues, Grams, Reading, own_contexts
from holonomy.models.holographic.evidence import HEIGHTS, PRESENT, gathering
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.plan import (
    fitted_breadth,
    memory_plan,
    num_candidates,
    settled_candidates,
    skip_name,
)
from holonomy.models.holographic.recency import Recency, Trace
from holonomy.models.holographic.sharpening import Leanings
from holonomy.models.holographic.similarity import ContextFeatures, Readout
from holonomy.models.holographic.spelling import MODULUS, reach_of
from holonomy.models.holographic.topics import Topics
from holonomy.models.holographic.vectors import word_classes, word_vectors
from holonomy.models.holographic.voices import Voices

POOLED_MOST = 4096
"""Largest vocabulary whose experts are asked for every word."""
MIDDLE, SMOOTHING = 5, 0.5
"""Order of the counts that smooths the traces, and its weight in occurrences."""
PART = 1 << 21
"""Numbers of a dense block: contexts at a time times words."""


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
        self.most = num_candidates(config, vocab_size)
        """Words that similarity speaks of after a context; None is all of them."""
        self.breadth = fitted_breadth(config, vocab_size)
        """Numbers that exponents of one context are fitted to."""
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
        self._lowest: Lowest | None = None
        self._bases: tuple[list[np.ndarray], Tensor] | None = None
        self._cells: Cells | None = None
        self._candidates: Candidates | None = None
        self.recency = Recency(tuple(Trace(*trace) for trace in config.recency.traces))
        near = (max(g.places, default=1) for g in self.grams)
        self.near = max(config.similarity.positions, counts.class_order, 2, *near)
        """Last words of a context that are looked at one by one."""
        self.reach = max(self.near, reach_of(counts.spelled))
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
    def learned(self) -> int:
        """Words learned, less those unlearned."""
        return int(self.unigram.sum())

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
        self.learn_cued(self.cues(contexts), targets, weights, sign=sign)

    def learn_cued(
        self,
        cues: Cues,
        targets: np.ndarray,
        weights: np.ndarray,
        *,
        sign: int = 1,
        rows: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """`learn`, of contexts whose cues are there; `rows` is that of their reading, if nothing has changed since."""
        whole = Pairs(cues.symbols, cues.lengths, targets, weights)
        if sign > 0:
            # What tries are asked with is made of these symbols: what holds of them need not be looked at again.
            whole, total = whole.checked(self.near + 1, self.vocab_size, self.vocab_size), int(weights.sum())
            for gram in self._learning:
                gram.trie.add(Pairs(*cues.owns[gram.name], *whole[2:]), total, (rows or {}).get(gram.name))
            if self.basins is not None:
                self.basins.learn(*whole)
        else:
            self._unlearn(self._counted(cues, targets, weights), whole)
        self._summed(cues, targets, sign * weights)

    def restore(self, contexts: Contexts, targets: np.ndarray, weights: np.ndarray) -> None:
        """Brings pairs back that were just taken away; see `CountTrie.restore`."""
        cues = self.cues(contexts)
        for trie, pairs in self._counted(cues, targets, weights):
            trie.restore(pairs)
        if self.basins is not None:
            self.basins.learn(cues.symbols, cues.lengths, targets, weights)
        self._summed(cues, targets, weights)

    def cues(self, contexts: Contexts, *, traces: bool = False, targets: np.ndarray | None = None) -> Cues:
        """What contexts are learned by and, with their `traces`, read with; `targets` are the words that come."""
        symbols, lengths = contexts.symbols(self.near)
        found = Cues(contexts, symbols, lengths, own_contexts(self._learning, contexts, symbols, lengths))
        if traces and self.pooled:
            found.followed = self.recency.scatter(*contexts, self.vocab_size)
            found.mass = found.followed.sum(2)
        elif traces:
            nothing = np.full(len(lengths), -1, dtype=np.int64)
            found.mass, own = self.recency.rate(*contexts, nothing if targets is None else targets)
            found.recalled = None if targets is None else own
        return found

    @property
    def _learning(self) -> list[Grams]:
        # Only word vectors are made of the counts that stand apart.
        return [*self.grams, *self.classes, *([] if self.pooled else [self.apart])]

    def _counted(self, cues: Cues, targets: np.ndarray, weights: np.ndarray) -> list[tuple[CountTrie, Pairs]]:
        return [(g.trie, Pairs(*cues.owns[g.name], targets, weights)) for g in self._learning]

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

    def _summed(self, cues: Cues, targets: np.ndarray, weights: np.ndarray) -> None:
        np.add.at(self.unigram, targets, weights)
        self._candidates = None
        if self.readout is not None:
            self.readout.add(*map(torch.from_numpy, (cues.symbols, cues.lengths, targets, weights)))

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
        self._cells = self._candidates = None
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
        return self.read_cued(self.cues(contexts, traces=True))

    def read_cued(self, cues: Cues) -> Reading:
        """`read`, of contexts whose cues are there, with traces."""
        stand = {gram.name: gram.trie.look_up(*cues.owns[gram.name]) for gram in [*self.grams, *self.classes]}
        rows, found = {name: one[0] for name, one in stand.items()}, [one[1] for one in stand.values()]
        features = None
        if self.readout is not None:
            features = self.readout.features(torch.from_numpy(cues.symbols), torch.from_numpy(cues.lengths))
        near = None if self.basins is None else self.basins.find(cues.symbols, cues.lengths)
        assert cues.mass is not None
        numbers = self._numbers(cues, found, cues.mass, near)
        told = cues.followed, near
        return Reading(cues.contexts, found, features, cues.mass, numbers, *told, rows=rows, recalled=cues.recalled)

    def _numbers(self, cues: Cues, rows: list[np.ndarray], mass: np.ndarray, near: Neighbours | None) -> np.ndarray:
        out, spelled = np.empty((len(mass), self.num_numbers)), [g.spelling is not None for g in self.grams]
        tries = [(g.trie, own) for g, own, read in zip(self.grams, rows, [True, *spelled[1:]], strict=False) if read]
        held = np.empty((len(tries), len(mass), HEIGHTS))
        for (trie, own), out_of in zip(tries, held, strict=True):
            trie.heights(own, out_of)
        gathering()(held, self.counts.order, cues.symbols, cues.lengths, self.unigram, mass, self.recency.matched, out)
        if self.config.basins.enabled:
            out[:, -2], out[:, -1] = (0, 0) if near is None else (near.nearest, np.log1p(near.mass))
        return out

    def _together(self, lowest: list[np.ndarray]) -> Tensor:
        # One below the other, until one of them is another one.
        held = self._bases
        if held is None or len(held[0]) != len(lowest) or any(a is not b for a, b in zip(held[0], lowest, strict=True)):
            held = lowest, torch.from_numpy(np.stack(lowest))
            self._bases = held
        return held[1]

    def drop_made(self) -> None:
        """Drops vectors, classes and topics, which follow from counts and a text: `refresh` makes them again."""
        self.classes, self.readout, self.topics, self.basins = [], None, None, None
        self._cells = self._candidates = None

    def leanings(self, reading: Reading) -> Leanings | None:
        """What speaks for words besides their counts: similarity, then the topics' log ratios."""
        if self.readout is None or reading.features is None:
            return None
        if self.most is None:
            tilts = [] if self.topics is None else self.topics.tilts(reading.contexts)
            return Leanings(None, [self.readout.similarities(reading.features), *tilts])
        words = self.candidates(reading, self.most)
        tilts = [] if self.topics is None else self.topics.tilts_of(reading.contexts, words)
        return Leanings(words, [self.readout.similarities_of(reading.features, words), *tilts])

    def followers(self, reading: Reading) -> Followers:
        """What followed contexts in the exact counts."""
        if reading.followers is None:
            lowest = self.counts.lowest
            if self._lowest is None or self._lowest.probs is not lowest:
                self._lowest = Lowest(lowest)
            reading.followers = Followers.of(self.counts, reading.found[0], self._lowest)
        return reading.followers

    def candidates(self, reading: Reading, most: int) -> Tensor:
        """Words that followed contexts, that they expect, and that are frequent, [B, most]."""
        vectors = None if self.readout is None else self.readout.features.vectors
        if self._cells is None and vectors is not None:
            groups = [g.group for g in self.classes if g.group is not None]
            finest = max(groups, key=lambda group: int(group.max()), default=None)
            if finest is None:
                finest = word_classes(vectors, torch.ones(len(vectors)), int(len(vectors) ** 0.5))
            self._cells = Cells(vectors, finest)
        if self._candidates is None:
            self._candidates = Candidates(self.unigram, self._cells)
        expected = None
        if self.readout is not None and reading.features is not None:
            expected = reading.features @ self.readout.towards
        return self._candidates.of(self.followers(reading), expected, most)

    def settling(self, contexts: Contexts, reading: Reading | None = None) -> Tensor | None:
        """Words that settled states after contexts may hold, [B, m]; None is all of them.

        Args:
            contexts: the contexts.
            reading: of them, if there is one.
        """
        most = settled_candidates(self.config, self.vocab_size)
        return None if most is None else self.candidates(reading or self.read(contexts), most)

    @property
    def voices(self) -> list[str]:
        """Names of what a logarithmic pool multiplies, in order."""
        orders = [f"counts {n}" for n in range(self.config.mixture.lowest, self.counts.order + 1)]
        return [*orders, *(self.experts[1:])]

    @property
    def depth(self) -> int:
        """Numbers for each word of the vocabulary that predicting one word takes at a time."""
        return 2 * len(self.voices) if self.pooled else 1

    @property
    def middle(self) -> int:
        """Place among the voices of the order that smooths the traces."""
        return max(0, min(MIDDLE, self.counts.order) - self.config.mixture.lowest)

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
        assert reading.followed is not None
        base = out[:, self.middle, None]
        mass = reading.mass[:, :, None]
        out[:, -traces:] = (reading.followed + SMOOTHING * base) / ((mass + SMOOTHING) * base)
        return torch.from_numpy(out).log_().numpy()

    def pooled_logs(self, reading: Reading, weights: np.ndarray) -> np.ndarray:
        """Logarithm of the product of the voices to the power of weights [B, voices], normalised, [B, V] float32.

        What `panel` holds, summed up while it is read.
        """
        return self.pooled_voices(reading, weights).normalised()

    def pooled_voices(self, reading: Reading, weights: np.ndarray, panel: np.ndarray | None = None) -> Voices:
        """The voices with weights; what each says goes to a `panel` as well, up to a number of each, if it is given."""
        low, order, weights = self.config.mixture.lowest, self.counts.order, np.asarray(weights, dtype=np.float32)
        orders, spoken = order + 1 - low, Voices(len(weights), self.vocab_size, panel)
        spoken.add(self.counts, reading.found[0], weights[:, :orders], low, low + self.middle)
        for column, (gram, found) in enumerate(zip(self.grams[1:], reading.found[1:], strict=True), start=orders):
            spoken.add(gram.trie, found, weights[:, column : column + 1], gram.trie.order)
        assert reading.followed is not None
        spoken.recall(reading.followed, weights[:, orders + len(self.grams) - 1 :], SMOOTHING)
        return spoken

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
        mass, own = reading.mass, reading.recalled
        if own is None:
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
            torch.from_numpy(out).addmm_(base, self._together(lowest))
        first = len(self.grams) + len(self.config.counts.classes)
        traces = weights[:, first : first + len(self.recency.traces)] / np.maximum(reading.mass, PRESENT)
        self.recency.spread(*reading.contexts, np.where(reading.mass > PRESENT, traces, 0.0), out)
        if self.config.similarity.readout and self.readout is not None:
            out += weights[:, self.experts.index("words"), None].astype(np.float32) * self._read_out(reading)
        if self.basins is not None and reading.near is not None:
            self.basins.spread(reading.near, weights[:, -1], out)
        return out
