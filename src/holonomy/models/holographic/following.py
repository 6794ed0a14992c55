"""What a mixture learns while a text is read: gate, exponents and certainty, or the pool, follow what came.

A block is predicted with the weights as they were before it; then each takes one step (`Tracker`). All of it is kept
here, and the fitted mixture stays as it is: who drops this has forgotten it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from holonomy.geometry.compiled import compiled
from holonomy.models.holographic.cues import Reading
from holonomy.models.holographic.fit import Mixture, counts_asked
from holonomy.models.holographic.memories import Memories
from holonomy.models.holographic.mixture import TINY, logarithms, odds_of, shares_of_scores
from holonomy.models.holographic.pooling import Pool
from holonomy.models.holographic.sharpening import sharpened
from holonomy.models.holographic.tracking import Corrections, Tracker, taken_over

MEMORY = 300
"""Targets that gate, exponents and certainty follow. The gate's curvature is a bound, several times too large."""
POOL_MEMORY = 80_000
"""Targets that the numbers of a pool follow: it has a weight for each of them and each voice."""
WORDS_START, VOICES_START, SYMBOLS_START = 20.0, 700.0, 20.0
"""What rows of the tables count for before they are read: of the gate, of the pool, and of symbols after others."""
PAIRS, TABLE = 1 << 14, 1 << 22
"""Pairs of symbols told apart, and numbers of a table of words after them, at most."""
CURVED = 8
"""One of so many contexts tells the curvature of exponents and of the pool."""
STEADY, RARELY = 1 << 14, 16
"""Targets after which one of so many questions tells the curvature of a pool: by then it hardly changes."""


class Following(Protocol):
    """What follows a text."""

    def log_probs(self, reading: Reading, targets: np.ndarray) -> torch.Tensor:
        """Log probabilities, [B, V] float32, before `targets` [B] came; what these tell waits for `step`."""
        ...

    def step(self) -> None:
        """Follows all that was said since the last step."""
        ...


def following_of(memories: Memories, mixture: Mixture) -> Following | None:
    """What follows a text for a mixture; None where this was not fitted, or is not to be followed."""
    if not mixture.calibrated or not memories.config.evaluation.follow:
        return None
    if mixture.pool is None:
        return Summed(memories, mixture)
    found = Multiplied(memories, mixture.pool)
    if mixture.rehearsed is not None:
        found.load_state(mixture.rehearsed)
    return found


class Told(NamedTuple):
    """What contexts and their targets tell about weights; see `Tracker.step`."""

    x: np.ndarray
    slopes: np.ndarray
    curvature: np.ndarray
    curved: int
    keys: tuple[np.ndarray, ...] = ()


def _follow(tracker: Tracker, told: list[Told]) -> None:
    if not told:
        return
    first, *rest = told
    if rest:
        keys = tuple(np.concatenate(key) for key in zip(*(t.keys for t in told), strict=True))
        x, slopes = np.concatenate([t.x for t in told]), np.concatenate([t.slopes for t in told])
        curvature = np.sum([t.curvature for t in told], 0)
        first = Told(x, slopes, curvature, sum(t.curved for t in told), keys)
    tracker.step(*first)
    told.clear()


@lru_cache(maxsize=1)
def surprising() -> Any:
    """`surprise(features, probs, targets, out)`: features [b, c] at targets, less their means."""

    def surprise(features, probs, targets, out):
        for b in range(out.shape[0]):
            for c in range(out.shape[1]):
                expected = probs[b, 0] * features[b, c, 0]
                for v in range(1, probs.shape[1]):
                    expected += probs[b, v] * features[b, c, v]
                out[b, c] = features[b, c, targets[b]] - expected

    return compiled(surprise)


def slopes_of(features: np.ndarray, probs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Slopes of log probabilities of `targets` [B] in weights of features [B, C, V], [B, C]."""
    slopes = np.empty(features.shape[:2])
    surprising()(features, probs, targets, slopes)
    return slopes


def derivatives(features: np.ndarray, probs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of log probabilities of `targets` [B] in weights of features [B, C, V]: slopes [B, C] and curvatures [b, C, C].

    The latter, the covariances of features, are those of one of `CURVED` contexts.
    """
    slopes = slopes_of(features, probs, targets)
    some, own = torch.from_numpy(features[::CURVED]), torch.from_numpy(probs[::CURVED])
    centred = some - torch.bmm(some, own[:, :, None])
    return slopes, torch.bmm(centred * own[:, None], centred.mT).double().numpy()


class Summed:
    """Gate, exponents and certainty of experts that are added.

    The gate takes a step of expectation and maximisation under Boehning's bound, as in `Gate.fit`, and has scores of
    its own after each word. Exponents are followed where they act on whole distributions: what each adds at the target
    beyond what it was expected to, times the share of the first expert in the target.

    Args:
        memories: what is read.
        mixture: as it was fitted.
    """

    def __init__(self, memories: Memories, mixture: Mixture) -> None:
        self.memories, self.mixture = memories, mixture
        size, components = mixture.gate.weights.shape
        exponents = 2 + len(mixture.tilts)
        self._gate = Tracker(size, components, memory=MEMORY, keys=(memories.vocab_size,), start=WORDS_START)
        self._exponents, self._certainty = Tracker(1, exponents, memory=MEMORY), Tracker(3, 1, memory=MEMORY)
        self._of_gate, self._of_exponents, self._of_certainty = list[Told](), list[Told](), list[Told]()

    def now(self) -> Mixture:
        """The mixture with exponents and certainty as they are now."""
        mixture, certainty = self.mixture, self.mixture.certainty
        if certainty is not None:
            certainty = replace(certainty, weights=certainty.weights + self._certainty.moved)
        moved = self._exponents.moved[0].tolist()
        tilts = tuple(tilt + more for tilt, more in zip(mixture.tilts, moved[2:], strict=True))
        power, slope = mixture.power + moved[0], mixture.slope + moved[1]
        return replace(mixture, power=power, slope=slope, tilts=tilts, certainty=certainty)

    def log_probs(self, reading: Reading, targets: np.ndarray) -> torch.Tensor:
        """See `Following`."""
        now, memories, came = self.now(), self.memories, torch.from_numpy(targets)[:, None]
        x, last = now.gate.standard(reading.numbers), reading.contexts.symbols(1)[0][:, 0]
        shares = shares_of_scores(now.gate.scores(reading.numbers) + self._gate.shift(x, (last,)))
        probs, known = memories.target_probs(reading, targets)
        weights = now.weights(reading, known, shares)
        found = memories.leanings(reading) if now.product != "none" else None
        lean, own, logs = now.leaned(found), None, None
        if lean is not None and now.product == "episodic":
            if lean[1] is None:
                counts = torch.from_numpy(memories.counts.dense(reading.found[0]))
                logs, own = counts.log(), sharpened(counts, lean[0], now.power)
                probs[:, 0] = own.gather(1, came).squeeze(1).numpy()
            else:
                probs[:, 0] = counts_asked(memories, reading, lean[1], targets).said(lean[0], now.power)
        filled = np.where(known, probs, probs[:, :1]) * shares
        total = filled.sum(1, keepdims=True) + TINY
        bound = len(x) * np.eye(shares.shape[1]) / 2
        self._of_gate.append(Told(x, filled / total - shares, bound, len(x), (last,)))
        if own is not None and logs is not None and found is not None:
            blame = weights[:, 0] * probs[:, 0] / total[:, 0]
            slopes, spread = derivatives(torch.stack([logs, *found.terms], 1).numpy(), own.numpy(), targets)
            curvature = (spread * blame[::CURVED, None, None]).sum(0)
            ones = np.ones((len(x), 1))
            self._of_exponents.append(Told(ones, slopes * blame[:, None], curvature, len(spread)))
        return logarithms(self._tempered(now, now.combined(memories, reading, weights, lean, own), targets))

    def _tempered(self, now: Mixture, out: np.ndarray, targets: np.ndarray) -> np.ndarray:
        if now.certainty is None:
            return out
        first, here = out.argmax(1), np.arange(len(out))
        x = now.certainty.standard(odds_of(out[here, first].astype(np.float64))[1])
        out = now.certainty.corrected(out, None if self.memories.most is None else out.sum(1))
        p = out[here, first].astype(np.float64)
        curvature = np.array([[(p * (1 - p)).sum()]])
        self._of_certainty.append(Told(x, ((targets == first) - p)[:, None], curvature, len(x)))
        return out

    def step(self) -> None:
        """See `Following`."""
        _follow(self._gate, self._of_gate)
        _follow(self._exponents, self._of_exponents)
        _follow(self._certainty, self._of_certainty)


class Multiplied:
    """The weights of a logarithmic pool, with some of their own after each of the last three symbols and the last pair.

    What is left is corrected symbol by symbol after the last one and the last two.

    Args:
        memories: what is read.
        pool: as it was fitted.
    """

    def __init__(self, memories: Memories, pool: Pool) -> None:
        self.memories, self.pool, size = memories, pool, memories.vocab_size
        pairs = min(size * size, PAIRS)
        self._pairs = pairs, min(pairs, max(1, TABLE // size))
        own = size, size, size, pairs
        self._weights = Tracker(*pool.weights.shape, memory=POOL_MEMORY, keys=own, start=VOICES_START)
        self._symbols = Corrections((size, self._pairs[1]), size, start=SYMBOLS_START)
        self._room, self._asked = np.empty((0, 0, 0), dtype=np.float32), 0
        self._nothing = np.zeros((len(memories.voices),) * 2)
        self._of_weights, self._of_symbols = list[Told](), list[tuple[np.ndarray, np.ndarray, Sequence[np.ndarray]]]()

    def state(self) -> dict[str, np.ndarray]:
        """Copies of all that it learned from the text, which `load_state` takes over."""
        return {f"{part}/{name}": array.copy() for part, own in self._arrays.items() for name, array in own.items()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from where `state` was given.

        Raises:
            CheckpointError: a piece is missing or damaged.
        """
        for part, own in self._arrays.items():
            taken_over(state, f"{part}/", own)

    @property
    def _arrays(self) -> dict[str, dict[str, np.ndarray]]:
        return {"weights": self._weights.arrays, "symbols": self._symbols.arrays}

    def log_probs(self, reading: Reading, targets: np.ndarray) -> torch.Tensor:
        """See `Following`."""
        if len(self._room) < len(targets):
            self._room = np.empty((len(targets), len(self.memories.voices), self.memories.vocab_size), np.float32)
        panel, memories = self._room[: len(targets)], self.memories
        symbols = reading.contexts.symbols(3)[0]
        third, before, last = np.ascontiguousarray(symbols.T)
        pair = last * self.memories.vocab_size + before
        keys, after = (last, before, third, pair % self._pairs[0]), (last, pair % self._pairs[1])
        x = self.pool.standard(reading.numbers)
        spoken = memories.pooled_voices(reading, self._weights.shift(x, keys, self.pool.weights), panel)
        self._symbols.add_to(spoken.sums, after)
        logs = spoken.normalised()
        probs = np.exp(logs)
        self._asked += 1
        if self._weights.seen < STEADY or self._asked % RARELY == 0:
            slopes, spread = derivatives(panel, probs, targets)
            told = Told(x, slopes, spread.sum(0), len(spread), keys)
        else:
            told = Told(x, slopes_of(panel, probs, targets), self._nothing, 0, keys)
        self._of_weights.append(told)
        self._of_symbols.append((probs, targets, after))
        return torch.from_numpy(logs)

    def step(self) -> None:
        """See `Following`."""
        _follow(self._weights, self._of_weights)
        if self._of_symbols:
            probs, targets, keys = zip(*self._of_symbols, strict=True)
            after = [np.concatenate(key) for key in zip(*keys, strict=True)]
            self._symbols.step(np.concatenate(probs), np.concatenate(targets), after)
            self._of_symbols.clear()
