"""How likely the most probable word is right: a logistic regression on what distribution and context give away.

The highest probability alone forgets how much was known: an even one after a context seen a thousand times is another
thing than the same after a new one. Fitted by iteratively reweighted least squares, which is Newton's method on a
concave likelihood with curvature in closed form (Hastie, Tibshirani & Friedman, 4.4.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from holonomy.core.errors import DataError
from holonomy.models.holographic.mixture import LinearWeights, moments

LEAST = 1e-9
"""Probabilities are kept this far from zero and one."""
CONVERGED = 1e-9
"""Largest change of a weight at which the iteration ends."""
SHAPE = 4
"""Numbers that the distribution gives away, the constant included."""


def evidence(probs: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """One, log odds of the best word, its distance to the second, entropy, and the numbers of the context, [B, d].

    Args:
        probs: distributions, [B, V].
        numbers: of the contexts, the first of them always one.
    """
    p = torch.from_numpy(probs)
    best, second = (x.double().clamp(LEAST, 1 - LEAST).numpy() for x in p.topk(2, dim=1).values.T)
    entropy = torch.special.entr(p).sum(1).double().numpy()
    columns = np.ones_like(best), np.log(best / (1 - best)), np.log(best / second), entropy
    return np.concatenate([np.stack(columns, 1), numbers[:, 1:]], 1)


@dataclass(frozen=True)
class Assurance(LinearWeights):
    """Log odds that the most probable word is right, linear in `evidence`."""

    @classmethod
    def fit(cls, found: np.ndarray, right: np.ndarray, *, prior: float = 10.0, steps: int = 25) -> Assurance:
        """Maximises the likelihood, less `prior` / 2 times the squared weights of all columns but the first.

        Args:
            found: `evidence`, [N, d].
            right: whether the most probable word came, [N].
            prior: strength of the pull; also keeps weights finite where one column separates everything.
            steps: at most.

        Raises:
            DataError: shapes do not fit.
        """
        if found.ndim != 2 or right.shape != (len(found),) or not len(found):
            raise DataError(f"`found` has shape {found.shape} and `right` {right.shape}; wanted [N, d] and [N]")
        mean, scale = moments(found)
        x = (found - mean) / scale
        pull = np.full(x.shape[1], prior)
        # Just enough that the constant stays finite where every answer is right.
        pull[0] = 1e-3
        weights = np.zeros(x.shape[1])
        for _ in range(steps):
            p = 1 / (1 + np.exp(-(x @ weights)))
            curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(pull)
            step = np.linalg.solve(curvature, x.T @ (right - p) - pull * weights)
            weights = weights + step
            if np.abs(step).max() < CONVERGED:
                break
        return cls(mean, scale, weights[:, None])

    def __call__(self, found: np.ndarray) -> np.ndarray:
        """Probability that the most probable word is right, [B]."""
        return 1 / (1 + np.exp(-self.scores(found)[:, 0]))
