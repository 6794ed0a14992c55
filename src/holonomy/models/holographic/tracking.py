"""Weights that follow a text: after each block one Newton step, and old targets count less and less.

The curvature of a linear model is taken for a product (Martens & Grosse 2015, eq. 2): of the mean square of the numbers
that decide, and of the mean curvature of the scores that they decide. Both are sums over what was read, so that nothing
but the fitted weights is needed to begin with. A step is that of `memory` targets of which the last block is a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from holonomy.core.errors import CheckpointError
from holonomy.geometry.compiled import compiled

EXPECTED = 1000.0
"""Targets that the numbers count for as independent and of unit square before any is read: they are standardised."""
LEAST = 0.01
"""Smallest mean square of a combination of numbers that may move."""
ROUND = 50
"""Targets whose curvature is the same for all scores, their mean one: without them the first few would leave gaps."""
SOFT = 1e-3
"""Added to the curvature of scores."""
GROWN = 1.05
"""Growth of what was read, with what was expected, at which inverses are made again."""


def taken_over(state: Mapping[str, np.ndarray], prefix: str, own: Mapping[str, np.ndarray]) -> None:
    """Fills arrays with those of a state under a prefix and their names.

    Raises:
        CheckpointError: one is missing, misshapen or holds something that is no number; nothing has changed.
    """
    for name, array in own.items():
        found = state.get(prefix + name)
        if found is None or found.shape != array.shape or not np.isfinite(found).all():
            raise CheckpointError(f"`{prefix}{name}` is missing or damaged; wanted {array.shape}")
    for name, array in own.items():
        array[:] = state[prefix + name]


class Tracker:
    """What is added to fitted linear weights, as far as a text was read.

    Args:
        numbers: how many numbers decide.
        scores: how many scores they decide.
        memory: targets after which a fall of the loss is followed.
        keys: sizes of tables with scores of their own for a key, such as the last word.
        start: targets that each row of a table counts for before it is read.
    """

    def __init__(
        self, numbers: int, scores: int, *, memory: float, keys: Sequence[int] = (), start: float = 1.0
    ) -> None:
        self.moved = np.zeros((numbers, scores))
        self.memory = memory
        self._squares, self._curvature = EXPECTED * np.eye(numbers), np.zeros((scores, scores))
        self._seen = np.array([EXPECTED, 0.0])
        self._inverses, self._inverted = (np.eye(numbers), np.eye(scores)), 0.0
        self._tables = [np.zeros((size, scores)) for size in keys]
        self._counts = [np.full(size, start) for size in keys]

    def shift(self, x: np.ndarray, keys: Sequence[np.ndarray] = (), start: np.ndarray | float = 0.0) -> np.ndarray:
        """What is added to the scores of contexts with standardised numbers `x` [B, d] and keys [B] each; [B, C].

        With the scores themselves where `start`, the fitted weights, is given.
        """
        total = x @ (self.moved + start)
        for table, key in zip(self._tables, keys, strict=True):
            total += table[key]
        return total

    @property
    def seen(self) -> float:
        """Targets that were followed, and those that the numbers count for before."""
        return float(self._seen[0])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that it learned, by name, as it goes on to change."""
        found = {"moved": self.moved, "squares": self._squares, "curvature": self._curvature, "seen": self._seen}
        found |= {f"table{k}": table for k, table in enumerate(self._tables)}
        return found | {f"counts{k}": counts for k, counts in enumerate(self._counts)}

    def _inverse(self) -> tuple[np.ndarray, np.ndarray]:
        seen, curved = self._seen
        size, mean = len(self._curvature), self._curvature / curved
        alike = ROUND * np.trace(mean) / size * np.eye(size)
        scores = (self._curvature + alike) / (curved + ROUND) + SOFT * np.eye(size)
        numbers = self._squares / seen + LEAST * np.eye(len(self._squares))
        return np.linalg.inv(numbers), np.linalg.inv(scores)

    def step(
        self, x: np.ndarray, slopes: np.ndarray, curvature: np.ndarray, curved: int, keys: Sequence[np.ndarray] = ()
    ) -> None:
        """One step for a block.

        Args:
            x: numbers, [B, d].
            slopes: of the log likelihood of each target in its scores, [B, C].
            curvature: its negative second derivative in the scores, summed over `curved` targets, [C, C].
            curved: how many these are.
            keys: of each table, [B].
        """
        self._squares += x.T @ x
        self._curvature += curvature
        self._seen += len(x), curved
        if self._seen[0] >= GROWN * self._inverted:
            self._inverses, self._inverted = self._inverse(), float(self._seen[0])
        numbers, scores = self._inverses
        towards = slopes @ scores
        self.moved += numbers @ (x.T @ towards) / self.memory
        for table, count, key in zip(self._tables, self._counts, keys, strict=True):
            keeping()(np.ascontiguousarray(key), towards, table, count)


@lru_cache(maxsize=1)
def keeping() -> Any:
    """`keep(keys, towards, table, counts)`: counts every key of a block, then adds each row over its key's count."""

    def keep(keys, towards, table, counts):
        for b in range(len(keys)):
            counts[keys[b]] += 1
        for b in range(len(keys)):
            for c in range(towards.shape[1]):
                table[keys[b], c] += towards[b, c] / counts[keys[b]]

    return compiled(keep, exact=True)


@lru_cache(maxsize=1)
def adding() -> Any:
    """`add(keys, table, out)`: adds the row of each key to a row of `out`, as far as it goes."""

    def add(keys, table, out):
        for b in range(len(keys)):
            for v in range(table.shape[1]):
                out[b, v] += table[keys[b], v]

    return compiled(add, exact=True)


@lru_cache(maxsize=1)
def correcting() -> Any:
    """`correct(probs, targets, keys, table, sums)`: adds q (1 - q) to sums, then (r - q) / sums to the table."""

    def correct(probs, targets, keys, table, sums):
        for b in range(len(targets)):
            for v in range(probs.shape[1]):
                sums[keys[b], v] += probs[b, v] * (1 - probs[b, v])
        for b in range(len(targets)):
            key, target = keys[b], targets[b]
            table[key, target] += 1 / sums[key, target]
            for v in range(probs.shape[1]):
                table[key, v] -= probs[b, v] / sums[key, v]

    return compiled(correct, exact=True)


class Corrections:
    """What is added to log probabilities after a key, in tables that follow what came: r - q over the sum of q (1 - q).

    Args:
        keys: sizes of the tables.
        words: number of words.
        start: sum of q (1 - q) that each of their numbers counts for before anything is read.
    """

    def __init__(self, keys: Sequence[int], words: int, *, start: float) -> None:
        self._tables = [np.zeros((size, words), dtype=np.float32) for size in keys]
        self._sums = [np.full((size, words), start, dtype=np.float32) for size in keys]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that it learned, by name, as it goes on to change."""
        found = {f"table{k}": table for k, table in enumerate(self._tables)}
        return found | {f"sums{k}": sums for k, sums in enumerate(self._sums)}

    def add_to(self, logits: np.ndarray, keys: Sequence[np.ndarray]) -> None:
        """Adds the tables' rows of keys [B] each to `logits`, [B, V] or wider."""
        for table, key in zip(self._tables, keys, strict=True):
            adding()(key, table, logits)

    def step(self, probs: np.ndarray, targets: np.ndarray, keys: Sequence[np.ndarray]) -> None:
        """One step for a block, given what was said, [B, V], and what came, [B]."""
        for table, total, key in zip(self._tables, self._sums, keys, strict=True):
            correcting()(probs, targets, key, table, total)
