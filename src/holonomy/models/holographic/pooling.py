"""Logarithmic pool: distributions multiplied with weights that numbers of the context decide, and normalised.

q(v | c) = exp(sum_i w_i(x) log p_i(v | c)) / Z, w = x W. The likelihood is concave in W, so Newton's steps find its
maximum: gradients and curvatures of a linear model in closed form, nothing is propagated through anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from holonomy.core.errors import DataError
from holonomy.geometry.compiled import compiled
from holonomy.models.holographic.mixture import LinearWeights, moments

ROWS = 4096
"""Rows whose curvatures exist at a time."""
CONVERGED = 1e-6
"""Fall of the mean loss of a step, in nats, at which the iteration ends."""
SHORTEST = 1 / 64
"""Smallest part of a step that is tried."""


@lru_cache(maxsize=1)
def scoring() -> Any:
    """`score(numbers, mean, scale, weights, out)`: linear scores; few contexts need no matrix product."""

    def score(numbers, mean, scale, weights, out):
        size, voices = weights.shape
        own = np.empty(voices)
        for b in range(len(numbers)):
            own[:] = 0.0
            for d in range(size):
                x = (numbers[b, d] - mean[d]) / scale[d]
                for c in range(voices):
                    own[c] += x * weights[d, c]
            out[b] = own

    return compiled(score, exact=True)


@dataclass(frozen=True)
class Pool(LinearWeights):
    """Weights of voices that are multiplied: they need not be positive, nor sum to one."""

    @classmethod
    def fit(
        cls, logs: np.ndarray, targets: np.ndarray, numbers: np.ndarray, *, steps: int = 8, prior: float = 30.0
    ) -> Pool:
        """Maximises the likelihood of targets, less `prior` / 2 times the squared distance from equal weights.

        Args:
            logs: log probabilities of voices, [N, C, V].
            targets: [N].
            numbers: what each context gives away, [N, d], first column one.
            steps: at most.
            prior: strength of the pull.

        Raises:
            DataError: shapes do not fit, or a voice gives no probability to something.
        """
        if logs.ndim != 3 or not len(logs) or targets.shape != (len(logs),) or len(numbers) != len(logs):
            raise DataError(
                f"`logs` has shape {logs.shape}, `targets` {targets.shape}, `numbers` {numbers.shape}; "
                "wanted [N, C, V], [N] and [N, d] with one N from 1 on"
            )
        if not np.isfinite(logs).all():
            raise DataError(f"`logs` row {int(np.argwhere(~np.isfinite(logs))[0, 0])} is not finite; smooth the voices")
        mean, scale = moments(numbers)
        weights = np.zeros((numbers.shape[1], logs.shape[1]))
        weights[0] = 1 / logs.shape[1]
        pool = cls(mean, scale, weights)
        start, now = weights, pool.objective(logs, targets, numbers, weights, prior)
        for _ in range(steps):
            step = pool.ascent(logs, targets, numbers, start, prior)
            size = 1.0
            while size >= SHORTEST:
                moved = cls(mean, scale, pool.weights + size * step)
                value = moved.objective(logs, targets, numbers, start, prior)
                if value < now:
                    break
                size /= 2
            else:
                break
            pool, fell, now = moved, now - value, value
            if fell < CONVERGED:
                break
        return pool

    def __call__(self, logs: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Pooled distributions, [B, V] float32."""
        weights = torch.from_numpy(self.scores(numbers).astype(np.float32))
        return torch.bmm(weights[:, None], torch.from_numpy(logs)).squeeze(1).softmax(1).numpy()

    def exponents(self, numbers: np.ndarray) -> np.ndarray:
        """Exponents of the voices, [B, C] float32: `scores`, the same whatever rows come together."""
        out = np.empty((len(numbers), self.weights.shape[1]), dtype=np.float32)
        scoring()(numbers, self.mean, self.scale, self.weights, out)
        return out

    def objective(
        self, logs: np.ndarray, targets: np.ndarray, numbers: np.ndarray, start: np.ndarray, prior: float
    ) -> float:
        """Mean loss with its pull, which `fit` makes small."""
        total = prior / 2 * float(((self.weights - start) ** 2).sum())
        for begin in range(0, len(logs), ROWS):
            cut = slice(begin, begin + ROWS)
            own = self(logs[cut], numbers[cut])[np.arange(len(targets[cut])), targets[cut]]
            total -= float(np.log(np.maximum(own, 1e-37).astype(np.float64)).sum())
        return total / len(logs)

    def ascent(
        self, logs: np.ndarray, targets: np.ndarray, numbers: np.ndarray, start: np.ndarray, prior: float
    ) -> np.ndarray:
        """Newton's step, [d, C]: curvature of the log likelihood is the covariance of the voices under the pool."""
        d, voices = self.weights.shape
        slope = -prior * (self.weights - start)
        curvature = np.zeros((d * d, voices * voices))
        for begin in range(0, len(logs), ROWS):
            cut = slice(begin, begin + ROWS)
            part, x = torch.from_numpy(logs[cut]), self.standard(numbers[cut])
            probs = torch.from_numpy(self(logs[cut], numbers[cut]))
            expected = torch.bmm(part, probs[:, :, None])
            # About their mean, so that nothing large cancels.
            centred = part - expected
            spread = torch.bmm(centred * probs[:, None], centred.mT).flatten(1).double().numpy()
            at = torch.from_numpy(targets[cut])[:, None, None].expand(-1, voices, 1)
            slope += x.T @ centred.gather(2, at).squeeze(2).double().numpy()
            curvature += (x[:, :, None] * x[:, None]).reshape(len(x), -1).T @ spread
        square = curvature.reshape(d, d, voices, voices).transpose(0, 2, 1, 3).reshape(d * voices, d * voices)
        solved = np.linalg.solve(square + prior * np.eye(d * voices), slope.reshape(-1))
        return solved.reshape(d, voices)
