"""Fitting the mixture on parts of the training text that the memories have not learned when they are asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import torch

from holonomy.core.errors import DataError
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import Contexts
from holonomy.models.holographic.cues import Reading
from holonomy.models.holographic.memories import PART, Memories
from holonomy.models.holographic.mirror import Mirror
from holonomy.models.holographic.mixture import SURE, Certainty, Gate, simplex_search
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.plan import LEAST_FITTED
from holonomy.models.holographic.pooling import Pool
from holonomy.models.holographic.sharpening import Focus, Leanings, Whole, sharpened

START = (0.95, 4.0)
"""Exponents of counts and of similarity before they are fitted."""
TILTS = (0.8, 0.2)
"""Exponents of what the learned text and the text itself are about before they are fitted."""
MIRROR_POSITIONS = 2000
"""Held-out words that the shares of superposed orders are fitted on."""
APART = 0.75
"""Share of a text that was not learned which fits the gate before temperatures are fitted to the rest."""
DOCUMENTS = 4
"""Documents for each part, from which on whole documents are held out."""
QUANTILES = np.linspace(0, 1, 101)
"""At which it is kept how sure what is said is."""
ROUNDS = 2
"""How often gate and exponents are fitted in turn."""


@dataclass(frozen=True)
class Mixture:
    """How experts become one distribution.

    Attributes:
        gate: their weights by context.
        power: exponent of what is sharpened.
        slope: how much similarity sharpens it.
        tilts: how much the topics of the learned text and of the text itself do; empty without topics.
        confidences: how sure it is: quantiles, in even steps, of the highest probability of what can be said, where
            words were not learned; empty before they are known.
        product: what is sharpened, as in the configuration.
        certainty: corrects the highest probability, and all others by one factor; None leaves them as they are.
        calibrated: whether anything was fitted.
        pool: multiplies voices instead of adding experts, if there is one; the gate then only tells who said what.
        rehearsed: what following the end of the training text taught, which learning while reading goes on from.
    """

    gate: Gate
    power: float
    slope: float
    product: str
    certainty: Certainty | None
    calibrated: bool
    pool: Pool | None = None
    tilts: tuple[float, ...] = ()
    confidences: tuple[float, ...] = ()
    rehearsed: Mapping[str, np.ndarray] | None = None

    @classmethod
    def uniform(cls, memories: Memories) -> Mixture:
        """Equal weights, nothing sharpened."""
        gate = Gate.uniform(memories.num_numbers, len(memories.experts))
        return cls(gate, 1.0, 0.0, "none", None, calibrated=False)

    def lean(self, memories: Memories, reading: Reading) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """What is added to sharpened log probabilities, [B, V], or of candidates, and these, [B, m].

        None before vectors are made.
        """
        return self.leaned(memories.leanings(reading) if self.product != "none" else None)

    def leaned(self, found: Leanings | None) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """The same of what speaks for words, if anything does."""
        return None if found is None else (found.weighted((self.slope, *self.tilts)), found.words)

    def weights(self, reading: Reading, known: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
        """Weights of the experts, [B, C]: the first also takes those of experts that know nothing.

        Args:
            reading: contexts.
            known: which experts know anything, [B, C].
            shares: of the experts if all did, [B, C]; those of the gate by default.
        """
        weights = self.gate(reading.numbers) if shares is None else shares
        idle = np.where(known, 0.0, weights).sum(1)
        weights = np.where(known, weights, 0.0)
        weights[:, 0] += idle
        return weights

    def experts_at(self, memories: Memories, reading: Reading, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probability of one target from every expert, the first sharpened, and whether each knew anything, [B, C]."""
        probs, known = memories.target_probs(reading, targets)
        lean = self.lean(memories, reading) if self.product == "episodic" else None
        if lean is not None:
            asked = counts_asked(memories, reading, lean[1], targets)
            probs[:, 0] = asked.said(lean[0], self.power)
        return probs, known

    def distribution(self, memories: Memories, reading: Reading) -> np.ndarray:
        """Probabilities of every word after contexts, [B, V] float32."""
        if self.pool is not None:
            return np.exp(memories.pooled_logs(reading, self.pool.exponents(reading.numbers)))
        weights = self.weights(reading, memories.knowing(reading))
        out = self.combined(memories, reading, weights, self.lean(memories, reading))
        if self.certainty is None:
            return out
        return self.certainty.corrected(out, None if memories.most is None else out.sum(1))

    def combined(
        self,
        memories: Memories,
        reading: Reading,
        weights: np.ndarray,
        lean: tuple[torch.Tensor, torch.Tensor | None] | None,
        own: torch.Tensor | None = None,
    ) -> np.ndarray:
        """Experts with weights [B, C] as one distribution of every word, [B, V] float32, however sure it is.

        Args:
            memories: what was read.
            reading: contexts.
            weights: of the experts.
            lean: of `lean`.
            own: sharpened exact counts of every word, [B, V], if they are there already; used up.
        """
        out = memories.mix(reading, weights, counts=self.product != "episodic" or lean is None)
        if lean is not None and self.product == "episodic":
            if lean[1] is not None:
                memories.followers(reading).add_focused(out, weights[:, 0], self.power, lean[1], lean[0])
            else:
                if own is None:
                    own = sharpened(torch.from_numpy(memories.counts.dense(reading.found[0])), lean[0], self.power)
                out += own.mul_(torch.from_numpy(weights[:, :1]).float()).numpy()
        elif lean is not None:
            out = sharpened(torch.from_numpy(out), lean[0], self.power, lean[1]).numpy()
        return out


def counts_asked(
    memories: Memories, reading: Reading, words: torch.Tensor | None, targets: np.ndarray
) -> Whole | Focus:
    """Plain counts as exponents act on them, with candidates or without."""
    came = torch.from_numpy(targets)
    if words is not None:
        return Focus.of_followers(memories.followers(reading), words, came)
    return Whole(torch.from_numpy(memories.counts.dense(reading.found[0])), came)


def words_held_out(count: int, share: float) -> int:
    """Words of each part that is held out to fit a mixture.

    Raises:
        DataError: there would be none.
    """
    if int(count * share) < 1:
        raise DataError(
            f"the part to learn has {count} token(s), too few to fit the model to parts of it; give a text with "
            f"{ceil(1 / share)} or more in it"
        )
    return int(count * share)


@dataclass
class Block:
    """What experts say about words they have not learned.

    Attributes:
        probs: probability of each word from each expert, [N, C].
        known: where an expert knows anything, [N, C].
        numbers: what decides the weights, [N, d].
        words: the words, [N].
        panel: log probabilities of voices, [N, voices, V], where they are pooled.
    """

    probs: np.ndarray
    known: np.ndarray
    numbers: np.ndarray
    words: np.ndarray
    panel: np.ndarray | None = None

    def filled(self) -> np.ndarray:
        """Probabilities, those of the first expert where another knows nothing."""
        return np.where(self.known, self.probs, self.probs[:, :1])


class MixtureFit:
    """Holds parts of a learned text out one after the other, and fits the mixture to them.

    Args:
        memories: have learned the text; they are as before afterwards, but for what `refresh` makes again.
        mirror: has followed them, if there is one; its shares are fitted too.
        config: of the model.
        contexts: of every word of the text.
        targets: the words.
        unspoken: ids that are never written.
    """

    def __init__(
        self,
        memories: Memories,
        mirror: Mirror | None,
        config: HolographicConfig,
        contexts: Contexts,
        targets: np.ndarray,
        unspoken: Sequence[int] = (),
    ) -> None:
        self.memories, self.mirror, self.config, self.unspoken = memories, mirror, config, list(unspoken)
        self.contexts, self.targets = contexts, targets
        self._asked = contexts.tokens
        self.blocks: list[Block] = []
        """What the gate is fitted to."""
        self._said: list[np.ndarray] = []
        self.random = np.random.default_rng(config.seed)

    def run(self) -> Mixture:
        """Fits everything, and refreshes the memories on the whole text.

        Raises:
            DataError: the text is too short to hold anything out.
        """
        mixture, count = self.config.mixture, len(self.targets)
        size = words_held_out(count, mixture.block_share)
        parts = self._parts(size)
        blocks = self.blocks
        blocks.clear()
        self._said.clear()
        fitted, out = Mixture.uniform(self.memories), np.empty(0, dtype=np.int64)
        try:
            for held, later in parts:
                unlearned = np.concatenate([held, later])
                self._learn(np.setdiff1d(out, unlearned), 1)
                self._learn(np.setdiff1d(unlearned, out), -1)
                out, rest = unlearned, np.setdiff1d(np.arange(count), unlearned)
                self.memories.refresh(self.contexts.part(rest), self.targets[rest])
                self._asked, chosen = self._unseen(held), self._sample(held, mixture.positions // len(parts))
                if not blocks:
                    fitted = self._exponents(chosen)
                if held is parts[-1][0]:
                    self._fit_mirror(held)
                blocks.append(self.read(chosen, fitted))
                self._say(chosen, fitted)
        finally:
            self._learn(out, 1)
            self.memories.refresh(self.contexts, self.targets)
        return self._whole(fitted)

    def _whole(self, fitted: Mixture) -> Mixture:
        whole = replace(fitted, gate=self._gate(self.blocks), pool=self._pool(self.blocks), certainty=self._certainty())
        return replace(whole, confidences=tuple(np.quantile(self._confidences(whole), QUANTILES).tolist()))

    def run_apart(self) -> Mixture:
        """Fits everything to the text, which the memories have not learned.

        Raises:
            DataError: the text is too short.
        """
        size, mixture = len(self.targets), self.config.mixture
        if size < 2:
            raise DataError(f"the documents to fit on have {size} token(s), too few; raise data.documents.apart")
        # Temperatures are fitted to words that the gate has not seen.
        rest = np.arange(int(size * APART), size)
        chosen = self._sample(np.arange(rest[0]), mixture.positions)
        fitted, few = self._exponents(chosen), self._sample(rest, mixture.positions)
        self.blocks[:] = [self.read(chosen, fitted)]
        self._said.clear()
        self._say(few, fitted)
        if self.mirror is not None:
            contexts, words = self._questions(self._sample(rest, MIRROR_POSITIONS))
            self.mirror.fit(contexts, words, self.memories.counts, self.memories.settling)
        self.blocks.append(self.read(few, fitted))
        return self._whole(fitted)

    def _parts(self, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Positions that are predicted, and those that are not learned at that time either.

        As in use, a part of one long text is predicted from what stands before it, and a document of many from all
        the others.
        """
        mixture, count = self.config.mixture, len(self.targets)
        begins, document = np.unique(self.contexts.begins, return_inverse=True)
        nothing = np.empty(0, dtype=np.int64)
        if len(begins) >= DOCUMENTS * mixture.blocks:
            order = np.random.default_rng(self.config.seed).permutation(len(begins))
            lengths = np.bincount(document)[order]
            chosen = np.minimum((np.cumsum(lengths) - lengths) // size, mixture.blocks)
            part = np.empty_like(order)
            part[order] = chosen
            held = (np.flatnonzero(part[document] == n) for n in range(mixture.blocks))
            return [(places, nothing) for places in held if len(places)]
        starts = {count - int(n * count * mixture.span / mixture.blocks) - size for n in range(mixture.blocks)}
        starts = sorted(start for start in starts if start > 0) or [count - size]
        return [(np.arange(start, start + size), np.arange(start + size, count)) for start in starts]

    def _pool(self, blocks: list[Block]) -> Pool | None:
        panels = [b.panel for b in blocks if b.panel is not None]
        if not panels:
            return None
        words, numbers = (np.concatenate(part) for part in zip(*((b.words, b.numbers) for b in blocks), strict=True))
        mixture = self.config.mixture
        panel = np.concatenate(panels)
        return Pool.fit(panel, words, numbers, steps=mixture.pool_steps, prior=mixture.pool_prior)

    def _say(self, positions: np.ndarray, fitted: Mixture) -> None:
        """Keeps how sure what is said is, and whether it is right, of words that the memories have not seen."""
        if self.memories.pooled:
            return
        fitted = replace(fitted, gate=self._gate(self.blocks))
        few = self._few(positions, self.memories.breadth)
        for contexts, words in self._pieces(few, self.memories.vocab_size):
            probs = fitted.distribution(self.memories, self.memories.read(contexts))
            self._said.append(self._told(probs, words))

    def _told(self, probs: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Of distributions: the highest probability, whether its word came or is never written, all, and `_spoken`."""
        first = probs.argmax(1)
        right, unwritten = first == words, np.isin(first, self.unspoken)
        return np.stack([probs.max(1), right, unwritten, probs.sum(1), *self._spoken(probs)])

    def _certainty(self) -> Certainty | None:
        fits = self._said and self.config.mixture.temper
        return Certainty.fit(*np.concatenate(self._said, 1)[:2]) if fits else None

    def _spoken(self, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The highest probability of what can be said, the next one, and all of it, [B]."""
        said = np.delete(probs, self.unspoken, 1)
        best, whole = said.max(1), said.sum(1, dtype=np.float64)
        said[np.arange(len(said)), said.argmax(1)] = 0
        return best, said.max(1), whole

    def _confidences(self, whole: Mixture) -> np.ndarray:
        """The highest probabilities in what a mixture says about words that the memories had not seen.

        Of what can be said alone: nobody commits to a word that is never written.
        """
        if whole.pool is not None:
            panels = ((b.panel, b.numbers) for b in self.blocks if b.panel is not None)
            found = [self._spoken(whole.pool(panel, numbers)) for panel, numbers in panels]
            return np.concatenate([best / said for best, _, said in found])
        highest, _, unwritten, total, best, second, said = np.concatenate(self._said, 1)
        if whole.certainty is None:
            return best / said
        # The first of all words gets another probability, the others one factor; where it is not said, that cancels.
        fresh = whole.certainty.of(highest)
        factor = (1 - fresh) / np.maximum(total - highest, SURE)
        told = np.maximum(fresh, second * factor) / (fresh + (said - best) * factor)
        return np.where(unwritten > 0, best / said, told)

    def _few(self, positions: np.ndarray, breadth: int) -> np.ndarray:
        most = min(self.config.mixture.product_positions, self.memories.plan.fitted // breadth)
        return self._sample(positions, max(LEAST_FITTED, most))

    def _pieces(self, positions: np.ndarray, breadth: int) -> Iterator[tuple[Contexts, np.ndarray]]:
        step = max(1, PART // (breadth * self.memories.depth))
        for begin in range(0, len(positions), step):
            yield self._questions(positions[begin : begin + step])

    def _unseen(self, held: np.ndarray) -> np.ndarray:
        # A word too rare before the part would not be in its vocabulary: new texts bring such words as unknown.
        asked, unknown = self.contexts.tokens.copy(), self.memories.unknown
        if unknown is not None:
            asked[held] = np.where(self.memories.unigram[asked[held]] < self.config.mixture.rare, unknown, asked[held])
        return asked

    def _questions(self, positions: np.ndarray) -> tuple[Contexts, np.ndarray]:
        part = self.contexts.part(positions)
        return Contexts(self._asked, part.begins, part.ends), self._asked[part.ends]

    def _learn(self, held: np.ndarray, sign: int) -> None:
        # What is made from counts follows later: only the counts change here.
        self.memories.drop_made()
        ones = np.ones(len(held), dtype=np.int64)
        self.memories.learn(self.contexts.part(held), self.targets[held], ones, sign=sign)

    def _fit_mirror(self, held: np.ndarray) -> None:
        if self.mirror is None:
            return
        part, targets, ones = self.contexts.part(held), self.targets[held], np.ones(len(held), dtype=np.int64)
        self.mirror.follow(part, targets, ones, -1, self.memories.counts)
        few = self._sample(held, MIRROR_POSITIONS)
        self.mirror.fit(*self._questions(few), self.memories.counts, self.memories.settling)
        self.memories.counts.learn(self._pairs(held))
        self.mirror.follow(part, targets, ones, 1, self.memories.counts)
        self.memories.counts.unlearn(self._pairs(held))

    def _pairs(self, held: np.ndarray) -> Pairs:
        ones = np.ones(len(held), dtype=np.int64)
        return Pairs(*self.contexts.part(held).symbols(self.memories.counts.order - 1), self.targets[held], ones)

    def _sample(self, held: np.ndarray, most: int) -> np.ndarray:
        if len(held) <= most:
            return held
        return np.sort(self.random.choice(held, most, replace=False))

    def _gate(self, blocks: list[Block]) -> Gate:
        mixture = self.config.mixture
        probs = np.concatenate([b.filled() for b in blocks])
        numbers = np.concatenate([b.numbers for b in blocks])
        return Gate.fit(probs, numbers, steps=mixture.em_steps, prior=mixture.prior)

    def read(self, positions: np.ndarray, fitted: Mixture) -> Block:
        """What the memories, as they are, say about the words at some positions."""
        parts: list[Block] = []
        for contexts, words in self._pieces(positions, self.memories.breadth):
            reading = self.memories.read(contexts)
            probs, known = fitted.experts_at(self.memories, reading, words)
            panel = self.memories.panel(reading) if self.memories.pooled else None
            parts.append(Block(probs, known, reading.numbers, words, panel))
        panels = [p.panel for p in parts if p.panel is not None]
        return Block(
            np.concatenate([p.probs for p in parts]),
            np.concatenate([p.known for p in parts]),
            np.concatenate([p.numbers for p in parts]),
            np.concatenate([p.words for p in parts]),
            np.concatenate(panels) if panels else None,
        )

    def _exponents(self, positions: np.ndarray) -> Mixture:
        """Fits gate and exponents in turn on one part."""
        mixture, memories = self.config.mixture, self.memories
        start = replace(Mixture.uniform(memories), product=mixture.product, calibrated=True)
        few = list(self._pieces(self._few(positions, memories.breadth), memories.breadth))
        readings = [memories.read(contexts) for contexts, _ in few]
        terms = [found for found in map(memories.leanings, readings) if found is not None]
        if mixture.product == "none" or not terms:
            return replace(start, gate=self._gate([self.read(positions, start)]))
        power, slope = START if mixture.product == "episodic" else (1.0, 1.0)
        fitted = replace(start, power=power, slope=slope, tilts=TILTS[: len(terms[0].terms) - 1])
        for _ in range(ROUNDS):
            fitted = replace(fitted, gate=self._gate([self.read(positions, fitted)]))
            asked = [
                self._sharpenable(reading, own.words, words, fitted)
                for reading, own, (_, words) in zip(readings, terms, few, strict=True)
            ]

            def loss(point: np.ndarray, asked=asked) -> float:
                found = list[np.ndarray]()
                for (sought, first, rest), own in zip(asked, terms, strict=True):
                    found.append(first * sought.said(own.weighted(point[1:].tolist()), float(point[0])) + rest)
                return -float(np.log(np.maximum(np.concatenate(found), 1e-300)).mean())

            begun = (fitted.power, fitted.slope, *fitted.tilts)
            best = simplex_search(loss, begun, steps=mixture.product_steps).tolist()
            fitted = replace(fitted, power=best[0], slope=best[1], tilts=tuple(best[2:]))
        return fitted

    def _sharpenable(
        self, reading: Reading, chosen: torch.Tensor | None, words: np.ndarray, fitted: Mixture
    ) -> tuple[Whole | Focus, np.ndarray, np.ndarray]:
        """What exponents act on, its weight, and what they leave alone of the probability of `words`, [B]."""
        memories, weights = self.memories, fitted.weights(reading, self.memories.knowing(reading))
        if fitted.product != "episodic":
            dense, came = torch.from_numpy(memories.mix(reading, weights, counts=True)), torch.from_numpy(words)
            asked = Whole(dense, came) if chosen is None else Focus.of_rows(dense, chosen, came)
            return asked, np.ones(len(words)), np.zeros(len(words))
        first, weights[:, 0] = weights[:, 0].copy(), 0.0
        rest = (memories.target_probs(reading, words)[0] * weights).sum(1)
        return counts_asked(memories, reading, chosen, words), first, rest
