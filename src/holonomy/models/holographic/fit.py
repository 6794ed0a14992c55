"""Fitting the mixture on parts of the training text that the memories have not learned when they are asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from holonomy.core.errors import DataError
from holonomy.data.words import UNKNOWN_ID
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import Contexts
from holonomy.models.holographic.counts import Pairs
from holonomy.models.holographic.memories import PART, Memories, Reading
from holonomy.models.holographic.mirror import Mirror
from holonomy.models.holographic.mixture import Gate, simplex_search

START = (0.95, 3.0)
"""Exponents of counts and of similarity before they are fitted."""
MIRROR_POSITIONS = 2000
"""Held-out words that the shares of superposed orders are fitted on."""
ROUNDS = 2
"""How often gate and exponents are fitted in turn."""


@dataclass(frozen=True)
class Mixture:
    """How experts become one distribution.

    Attributes:
        gate: their weights by context.
        power: exponent of what is sharpened.
        slope: how much similarity sharpens it.
        calibrated: whether anything was fitted.
    """

    gate: Gate
    power: float
    slope: float
    calibrated: bool

    @classmethod
    def uniform(cls, memories: Memories) -> Mixture:
        """Equal weights, nothing sharpened."""
        return cls(Gate.uniform(memories.num_numbers, len(memories.experts)), 1.0, 0.0, calibrated=False)

    def weights(self, reading: Reading, known: np.ndarray) -> np.ndarray:
        """Weights of the experts, [B, C]: the first also takes those of experts that know nothing."""
        weights = self.gate(reading.numbers)
        idle = np.where(known, 0.0, weights).sum(1)
        weights = np.where(known, weights, 0.0)
        weights[:, 0] += idle
        return weights


def sharpened(probs: torch.Tensor, similar: torch.Tensor, power: float, slope: float) -> torch.Tensor:
    """probs^power exp(slope similar), normalised."""
    return probs.log().mul_(power).add_(similar, alpha=slope).softmax(1)


def sharpened_targets(
    probs: torch.Tensor, similar: torch.Tensor, targets: torch.Tensor, power: float, slope: float
) -> np.ndarray:
    """Entries of `sharpened` at targets, [B] float64."""
    logits = probs.log().mul_(power).add_(similar, alpha=slope)
    own = logits.gather(1, targets[:, None]).squeeze(1)
    return (own - logits.logsumexp(1)).exp().double().numpy()


@dataclass
class _Block:
    """What experts say about held-out words: probabilities, where they know anything, and the gate's numbers."""

    probs: np.ndarray
    known: np.ndarray
    numbers: np.ndarray

    def filled(self) -> np.ndarray:
        return np.where(self.known, self.probs, self.probs[:, :1])


class MixtureFit:
    """Holds parts of a learned text out one after the other, and fits the mixture to them.

    Args:
        memories: have learned the text; they are as before afterwards, but for what `refresh` makes again.
        mirror: has followed them, if there is one; its shares are fitted too.
        config: of the model.
        contexts: of every word of the text.
        targets: the words.
    """

    def __init__(
        self,
        memories: Memories,
        mirror: Mirror | None,
        config: HolographicConfig,
        contexts: Contexts,
        targets: np.ndarray,
    ) -> None:
        self.memories, self.mirror, self.config = memories, mirror, config
        self.contexts, self.targets = contexts, targets
        self._asked = contexts.tokens
        self.random = np.random.default_rng(config.seed)

    def run(self) -> Mixture:
        """Fits everything, and refreshes the memories on the whole text.

        Raises:
            DataError: the text is too short to hold anything out.
        """
        mixture, count = self.config.mixture, len(self.targets)
        size = int(count * mixture.block_share)
        if size < 1:
            raise DataError(f"`targets` has {count} words, too few to fit a mixture; learn more text first")
        blocks: list[_Block] = []
        fitted = Mixture.uniform(self.memories)
        # The last part is most like what comes next: the exponents are fitted there.
        for number in range(mixture.blocks, 0, -1):
            stop = count * number // mixture.blocks
            held = np.arange(max(0, stop - size), stop)
            self._learn(held, -1)
            others = np.delete(np.arange(count), held)
            self.memories.refresh(self.contexts.part(others), self.targets[others])
            self._asked, chosen = self._unseen(held), self._sample(held, mixture.positions // mixture.blocks)
            if not blocks:
                fitted = self._exponents(chosen)
                self._fit_mirror(held)
            blocks.append(self._read(chosen, fitted))
            self.memories.classes, self.memories.readout = [], None
            self._learn(held, 1)
        self.memories.refresh(self.contexts, self.targets)
        gate = self._gate(blocks)
        return Mixture(gate, fitted.power, fitted.slope, calibrated=True)

    def _unseen(self, held: np.ndarray) -> np.ndarray:
        # A word too rare outside of the part would not be in its vocabulary: new texts bring such words as unknown.
        asked = self.contexts.tokens.copy()
        asked[held] = np.where(self.memories.unigram[asked[held]] < self.config.mixture.rare, UNKNOWN_ID, asked[held])
        return asked

    def _questions(self, positions: np.ndarray) -> tuple[Contexts, np.ndarray]:
        part = self.contexts.part(positions)
        return Contexts(self._asked, part.begins, part.ends), self._asked[part.ends]

    def _learn(self, held: np.ndarray, sign: int) -> None:
        # What is made from counts follows later: only the counts change here.
        self.memories.classes, self.memories.readout = [], None
        ones = np.ones(len(held), dtype=np.int64)
        self.memories.learn(self.contexts.part(held), self.targets[held], ones, sign=sign)

    def _fit_mirror(self, held: np.ndarray) -> None:
        if self.mirror is None:
            return
        part, targets, ones = self.contexts.part(held), self.targets[held], np.ones(len(held), dtype=np.int64)
        self.mirror.follow(part, targets, ones, -1, self.memories.counts)
        few = self._sample(held, MIRROR_POSITIONS)
        self.mirror.fit(*self._questions(few), self.memories.counts)
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

    def _gate(self, blocks: list[_Block]) -> Gate:
        mixture = self.config.mixture
        probs = np.concatenate([b.filled() for b in blocks])
        numbers = np.concatenate([b.numbers for b in blocks])
        return Gate.fit(probs, numbers, steps=mixture.em_steps, prior=mixture.prior)

    def _read(self, positions: np.ndarray, fitted: Mixture) -> _Block:
        parts: list[_Block] = []
        episodic = self.config.mixture.product == "episodic"
        step = max(1, PART // self.memories.vocab_size)
        for begin in range(0, len(positions), step):
            contexts, words = self._questions(positions[begin : begin + step])
            reading = self.memories.read(contexts)
            probs, known = self.memories.target_probs(reading, words)
            similar = self.memories.similarities(reading)
            if episodic and similar is not None:
                dense = torch.from_numpy(self.memories.counts.dense(reading.found[0]))
                targets = torch.from_numpy(words)
                probs[:, 0] = sharpened_targets(dense, similar, targets, fitted.power, fitted.slope)
            parts.append(_Block(probs, known, reading.numbers))
        return _Block(
            np.concatenate([p.probs for p in parts]),
            np.concatenate([p.known for p in parts]),
            np.concatenate([p.numbers for p in parts]),
        )

    def _exponents(self, positions: np.ndarray) -> Mixture:
        """Fits gate and exponents in turn on one part."""
        mixture, memories = self.config.mixture, self.memories
        size = memories.num_numbers
        if mixture.product == "none":
            return Mixture(Gate.uniform(size, len(memories.experts)), 1.0, 0.0, calibrated=True)
        power, slope = START if mixture.product == "episodic" else (1.0, 1.0)
        few = self._sample(positions, max(50, min(mixture.product_positions, 5 * PART // memories.vocab_size)))
        contexts, words = self._questions(few)
        reading, targets = memories.read(contexts), torch.from_numpy(words)
        similar = memories.similarities(reading)
        if similar is None:
            return Mixture(Gate.uniform(size, len(memories.experts)), 1.0, 0.0, calibrated=True)
        known = memories.knowing(reading)
        fitted = Mixture(Gate.uniform(size, len(memories.experts)), power, slope, calibrated=True)
        for _ in range(ROUNDS):
            gate = self._gate([self._read(positions, fitted)])
            fitted = Mixture(gate, power, slope, calibrated=True)
            weights = fitted.weights(reading, known)
            if mixture.product == "episodic":
                others = weights.copy()
                others[:, 0] = 0.0
                rest = (memories.target_probs(reading, words)[0] * others).sum(1)
                dense, first = torch.from_numpy(memories.counts.dense(reading.found[0])), weights[:, 0]
            else:
                dense, rest = torch.from_numpy(memories.mix(reading, weights, counts=True)), np.zeros(len(few))
                first = np.ones(len(few))

            def loss(point: np.ndarray, dense=dense, rest=rest, first=first) -> float:
                own = sharpened_targets(dense, similar, targets, float(point[0]), float(point[1]))
                return -float(np.log(np.maximum(first * own + rest, 1e-300)).mean())

            power, slope = simplex_search(loss, (power, slope), steps=mixture.product_steps).tolist()
            fitted = Mixture(gate, power, slope, calibrated=True)
        return fitted
