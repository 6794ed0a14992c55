"""Weights that follow a text: after each block one Newton step, and old targets count less and less.

The curvature of a linear model is taken for a product (Martens & Grosse 2015, eq. 2): of the mean square of the numbers
that decide, and of the mean curvature of the scores that they decide. Both are sums over what was read, so that nothing
but the fitted weights is needed to begin with. A step is that of `memory` targets of which the last block is a part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

EXPECTED = 1000.0
"""Targets that the numbers count for as independent and of unit square before any is read: they are standardised."""
LEAST = 0.01
"""Smallest mean square of a combination of numbers that may move."""
ROUND = 50
"""Targets whose curvature is the same for all scores, their mean one: without them the first few would leave gaps."""
SOFT = 1e-3
"""Added to the curvature of scores."""


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
        self._squares, self._seen = EXPECTED * np.eye(numbers), EXPECTED
        self._curvature, self._curved = np.zeros((scores, scores)), 0
        self._tables = [torch.zeros(size, scores, dtype=torch.float64) for size in keys]
        self._counts = [torch.full((size,), start, dtype=torch.float64) for size in keys]

    def shift(self, x: np.ndarray, keys: Sequence[np.ndarray] = ()) -> np.ndarray:
        """What is added to the scores of contexts with standardised numbers `x` [B, d] and keys [B] each; [B, C]."""
        total = x @ self.moved
        for table, key in zip(self._tables, keys, strict=True):
            total += table[torch.from_numpy(key)].numpy()
        return total

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
        self._seen += len(x)
        self._curvature += curvature
        self._curved += curved
        alike = ROUND * np.trace(self._curvature) / (self._curved * len(curvature)) * np.eye(len(curvature))
        scores = (self._curvature + alike) / (self._curved + ROUND) + SOFT * np.eye(len(curvature))
        towards = np.linalg.solve(scores, slopes.T).T
        numbers = self._squares / self._seen + LEAST * np.eye(len(self._squares))
        self.moved += np.linalg.solve(numbers, x.T @ towards) / self.memory
        way = torch.from_numpy(np.ascontiguousarray(towards))
        for table, count, key in zip(self._tables, self._counts, map(torch.from_numpy, keys), strict=True):
            count.index_add_(0, key, torch.ones(len(key), dtype=torch.float64))
            table.index_add_(0, key, way / count[key, None])


class Corrections:
    """What is added to log probabilities after a key, in tables that follow what came: r - q over the sum of q (1 - q).

    Args:
        keys: sizes of the tables.
        words: number of words.
        start: sum of q (1 - q) that each of their numbers counts for before anything is read.
    """

    def __init__(self, keys: Sequence[int], words: int, *, start: float) -> None:
        self._tables = [torch.zeros(size, words) for size in keys]
        self._sums = [torch.full((size, words), start) for size in keys]

    def add_to(self, logits: torch.Tensor, keys: Sequence[np.ndarray]) -> None:
        """Adds the tables' rows of keys [B] each to `logits` [B, V]."""
        for table, key in zip(self._tables, keys, strict=True):
            logits += table[torch.from_numpy(key)]

    def step(self, probs: torch.Tensor, targets: np.ndarray, keys: Sequence[np.ndarray]) -> None:
        """One step for a block, given what was said, [B, V], and what came, [B]."""
        slopes = probs.neg()
        slopes[torch.arange(len(targets)), torch.from_numpy(targets)] += 1
        curvature = probs * (1 - probs)
        for table, total, key in zip(self._tables, self._sums, map(torch.from_numpy, keys), strict=True):
            total.index_add_(0, key, curvature)
            table.index_add_(0, key, slopes / total[key])
