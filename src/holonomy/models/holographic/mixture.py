"""Experts to one distribution: gates by expectation and maximisation, two exponents by simplex search.

q(w | c) = sum_i g_i(x) p_i(w | c), g = softmax(x W), x a few numbers that the context gives away: which orders are
known, how often, how much the text itself remembers. The maximisation step is one Newton step under the fixed bound of
the curvature (Boehning 1992): linear algebra on responsibilities, no gradient of anything but the gate's own bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from holonomy.core.errors import CheckpointError, DataError

TINY = 1e-300
FLOOR = 1e-30
"""Below this float32 has no logarithm to speak of."""
CONVERGED = 1e-7
"""Fall of the mean loss per step, in nats, at which the iteration ends."""

CERTAIN_STEPS = 10
"""Newton steps that fit a certainty."""
MOST_SHIFTED = 2.0
"""Largest correction of log odds: what was never seen may lie far outside."""
SURE = 1e-6
"""Probabilities nearer to zero or one have no odds to speak of."""


def shares_of(probs: np.ndarray, *, steps: int = 80) -> np.ndarray:
    """Weights of a mixture that maximise the likelihood, [C].

    Args:
        probs: probability that each component gave to each target, [N, C].
        steps: of expectation and maximisation.
    """
    weights = np.full(probs.shape[1], 1 / probs.shape[1])
    for _ in range(steps):
        blame = probs * weights
        blame /= blame.sum(1, keepdims=True) + TINY
        weights = blame.mean(0)
    return weights


def shares_of_scores(z: np.ndarray) -> np.ndarray:
    """The softmax of each row, [B, C]."""
    g = np.exp(z - z.max(1, keepdims=True))
    return g / g.sum(1, keepdims=True)


def logarithms(probs: np.ndarray, out: torch.Tensor | None = None) -> torch.Tensor:
    """Log probabilities, with a floor under them, [B, V] float32; `probs` are used up."""
    return torch.log(torch.from_numpy(probs).clamp_(min=FLOOR), out=out)


def moments(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What standardises numbers of contexts [N, d], the first of them always one: what to take away, and the unit."""
    mean, scale = numbers.mean(0), numbers.std(0)
    mean[0], scale[0] = 0.0, 1.0
    scale[scale < 1e-9] = 1.0
    return mean, scale


@dataclass(frozen=True)
class LinearWeights:
    """Scores of components as a linear function of numbers of a context.

    Attributes:
        mean, scale: of the numbers where the scores were fitted, [d]; the first number is always one.
        weights: [d, C].
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    def standard(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers in units of where they were fitted, [B, d]."""
        return (numbers - self.mean) / self.scale

    def scores(self, numbers: np.ndarray) -> np.ndarray:
        """Scores of the components, [B, C]."""
        return self.standard(numbers) @ self.weights

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that `from_state` reads back."""
        return {"mean": self.mean, "scale": self.scale, "weights": self.weights}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], size: int, components: int) -> Self:
        """What `state` gave.

        Raises:
            CheckpointError: an array is missing, misshapen or holds something that is no number.
        """
        shapes = {"mean": (size,), "scale": (size,), "weights": (size, components)}
        for name, shape in shapes.items():
            if name not in state or state[name].shape != shape or not np.isfinite(state[name]).all():
                raise CheckpointError(f"`{name}` of the {cls.__name__.lower()} is missing or damaged; wanted {shape}")
        return cls(*(np.asarray(state[name], dtype=np.float64) for name in shapes))


@dataclass(frozen=True)
class Gate(LinearWeights):
    """Weights of components that are added: the softmax of linear scores."""

    @classmethod
    def uniform(cls, size: int, components: int) -> Gate:
        """Equal weights for every component, whatever the context."""
        return cls(np.zeros(size), np.ones(size), np.zeros((size, components)))

    @classmethod
    def fit(cls, probs: np.ndarray, numbers: np.ndarray, *, steps: int = 150, prior: float = 10.0) -> Gate:
        """Maximises the likelihood of targets, less `prior` / 2 times the squared weights of all numbers but the first.

        Args:
            probs: probability that each component gave to each target, [N, C].
            numbers: what each context gives away, [N, d], first column one.
            steps: at most.
            prior: strength of the pull.

        Raises:
            DataError: shapes do not fit, or a target has no probability from any component.
        """
        if probs.ndim != 2 or len(probs) != len(numbers) or not len(probs):
            raise DataError(f"`probs` has shape {probs.shape} and `numbers` {numbers.shape}; wanted [N, C] and [N, d]")
        if not (probs.max(1) > 0).all():
            raise DataError(f"`probs` row {int((probs.max(1) <= 0).argmax())} is zero for every component")
        mean, scale = moments(numbers)
        x = (numbers - mean) / scale
        start = np.zeros((x.shape[1], probs.shape[1]))
        start[0] = np.log(shares_of(probs) + 1e-6)
        # Half of the outer product bounds the curvature of softmax regression for any number of components.
        inverse = np.linalg.inv(x.T @ x / 2 + prior * np.eye(x.shape[1]))
        weights, before = start.copy(), np.inf
        for _ in range(steps):
            g = shares_of_scores(x @ weights)
            blame = probs * g
            total = blame.sum(1, keepdims=True)
            loss = -float(np.log(total).mean())
            if before - loss < CONVERGED:
                break
            before = loss
            weights = weights + inverse @ (x.T @ (blame / total - g) - prior * (weights - start))
        return cls(mean, scale, weights)

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Weights of the components, [B, C], each row summing to one."""
        return shares_of_scores(self.scores(numbers))


@dataclass(frozen=True)
class Certainty(LinearWeights):
    """What is added to the log odds of the highest probability: linear in them and their square (after Platt 1999).

    All other probabilities change by one factor. Of a word the likelihood has two parts then, whether it is the first,
    and which of the others it is; only the first part changes, and fitting it lowers that loss.
    """

    @classmethod
    def fit(cls, highest: np.ndarray, right: np.ndarray, *, prior: float = 30.0) -> Certainty:
        """Maximises the likelihood, less `prior` / 2 times the squared weights of all numbers but the first.

        Args:
            highest: highest probability of each distribution, [N].
            right: whether its word came, [N].
            prior: strength of the pull.

        Raises:
            DataError: shapes do not fit.
        """
        if highest.ndim != 1 or highest.shape != right.shape or not len(highest):
            raise DataError(f"`highest` has shape {highest.shape} and `right` {right.shape}; wanted [N] of both")
        odds, numbers = odds_of(highest)
        mean, scale = moments(numbers)
        x = (numbers - mean) / scale
        pull = prior * np.array([1e-9, 1.0, 1.0])
        weights = np.zeros(3)
        for _ in range(CERTAIN_STEPS):
            p = 1 / (1 + np.exp(-odds - (x @ weights).clip(-MOST_SHIFTED, MOST_SHIFTED)))
            slope = x.T @ (p - right) + pull * weights
            weights = weights - np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + np.diag(pull), slope)
        return cls(mean, scale, weights[:, None])

    def of(self, highest: np.ndarray) -> np.ndarray:
        """Highest probabilities as they should be, [B]."""
        odds, numbers = odds_of(highest)
        return 1 / (1 + np.exp(-odds - self.scores(numbers)[:, 0].clip(-MOST_SHIFTED, MOST_SHIFTED)))

    def corrected(self, probs: np.ndarray, whole: np.ndarray | None = None) -> np.ndarray:
        """Distributions with their highest probability corrected, [B, V] float32; in place.

        Args:
            probs: the distributions.
            whole: what each of them sums to, [B]; one by default. What is left of a sure one is little, and would
                otherwise take over all rounding of the sum.
        """
        first, here = probs.argmax(1), np.arange(len(probs))
        highest = probs[here, first].astype(np.float64)
        fresh = self.of(highest)
        left = (1 if whole is None else whole) - highest
        probs *= ((1 - fresh) / np.maximum(left, SURE))[:, None].astype(np.float32)
        probs[here, first] = fresh
        return probs


def odds_of(highest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log odds of probabilities [B], and what decides their correction: one, themselves and their square, [B, 3]."""
    p = np.clip(highest, SURE, 1 - SURE)
    odds = np.log(p) - np.log1p(-p)
    return odds, np.stack([np.ones_like(odds), odds, odds**2], 1)


def simplex_search(
    loss: Callable[[np.ndarray], float], start: Sequence[float], *, steps: int = 60, size: float = 0.25
) -> np.ndarray:
    """The point of least loss that Nelder and Mead's search (1965) finds within `steps` evaluations."""
    points = [np.asarray(start, dtype=np.float64)]
    for i in range(len(start)):
        moved = points[0].copy()
        moved[i] += size * max(1.0, abs(moved[i]))
        points.append(moved)
    values = [loss(point) for point in points]
    used = len(points)
    while used < steps:
        order = np.argsort(values, kind="stable")
        points, values = [points[i] for i in order], [values[i] for i in order]
        centre = np.mean(points[:-1], 0)
        away = centre - points[-1]
        trial, value = centre + away, loss(centre + away)
        used += 1
        if value < values[0]:
            further, better = centre + 2 * away, loss(centre + 2 * away)
            used += 1
            trial, value = (further, better) if better < value else (trial, value)
        elif value >= values[-2]:
            inner = centre + (0.5 if value < values[-1] else -0.5) * away
            trial, value = inner, loss(inner)
            used += 1
        if value < values[-1]:
            points[-1], values[-1] = trial, value
        else:
            points = [points[0], *((points[0] + point) / 2 for point in points[1:])]
            values = [values[0], *(loss(point) for point in points[1:])]
            used += len(points) - 1
    return points[int(np.argmin(values))]
