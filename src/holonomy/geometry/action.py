"""The action of a path: its length in a metric, weighted by a resistance.

    S = sum_t R_t s_t,    s_t = sqrt(g(dx_t, dx_t) + eps),    dx_t = x_{t+1} - x_t.

Polygon form of the integral of R sqrt(g(x', x')) dtau, so it does not depend on how the path is timed. An action is
reported as an action, never as a perplexity. Source of the integral: Lee (2018), Riemannian Manifolds, chapter 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

ACTION_EPS = {torch.float32: 1e-6, torch.float64: 1e-8}
"""Added to the square of a step, so that a path at rest has a gradient."""


def step_lengths(
    x: Float[Tensor, "*batch time n"], g: Float[Tensor, "n n"]
) -> tuple[Float[Tensor, "*batch steps"], Float[Tensor, "*batch steps n"]]:
    """s_t and g dx_t of every step."""
    steps = x.diff(dim=-2)
    covector = steps @ g
    return ((covector * steps).sum(-1) + ACTION_EPS[x.dtype]).sqrt(), covector


def path_action(
    x: Float[Tensor, "*batch time n"], resistance: Float[Tensor, "*batch steps"], g: Float[Tensor, "n n"]
) -> Float[Tensor, "*batch"]:
    """S of each path."""
    return (resistance * step_lengths(x, g)[0]).sum(-1)


def path_action_gradient(
    x: Float[Tensor, "*batch time n"], resistance: Float[Tensor, "*batch steps"], g: Float[Tensor, "n n"]
) -> Float[Tensor, "*batch time n"]:
    """dS/dx_t = R_{t-1} g dx_{t-1} / s_{t-1} - R_t g dx_t / s_t, one-sided at the ends."""
    length, covector = step_lengths(x, g)
    pull = (resistance / length).unsqueeze(-1) * covector
    rest = torch.zeros_like(pull[..., :1, :])
    return torch.cat((rest, pull), -2) - torch.cat((pull, rest), -2)


def path_action_statistic(
    x: Float[Tensor, "*batch time n"], resistance: Float[Tensor, "*batch steps"], g: Float[Tensor, "n n"]
) -> Float[Tensor, "n n"]:
    """dS/dg = sum_t R_t dx_t dx_t^T / (2 s_t), summed over the batch, as `Metric.stat` takes it."""
    length, _ = step_lengths(x, g)
    steps = x.diff(dim=-2)
    weighted = (resistance / (2 * length)).unsqueeze(-1) * steps
    return weighted.flatten(0, -2).mT @ steps.flatten(0, -2)


@dataclass(frozen=True)
class LiorState:
    """Action gathered along a path, and the memory exponent that follows from it.

    Attributes:
        integral: action so far.
        steps: steps so far.
        dtau: parameter length of a step.
        low, high: range of alpha.
        threshold: mu, the logarithm of the mean action a step at which alpha is in the middle of its range.
    """

    integral: float = 0.0
    steps: int = 0
    dtau: float = 1.0
    low: float = 0.1
    high: float = 0.9
    threshold: float = 0.0

    def advance(self, resistance: float, square: float) -> LiorState:
        """Adds R sqrt(|g(v, v)| + eps) dtau for a velocity with g(v, v) = square."""
        grown = resistance * (abs(square) + ACTION_EPS[torch.float64]) ** 0.5 * self.dtau
        return replace(self, integral=self.integral + grown, steps=self.steps + 1)

    @property
    def alpha(self) -> float:
        """low + (high - low) sigmoid(log(integral / (t + 1)) - mu), t + 1 the number of steps; low at the start."""
        ratio = 0.0 if not self.steps else self.integral / self.steps
        # sigmoid(log r - mu) = r / (r + e^mu), which needs no logarithm of zero.
        return self.low + (self.high - self.low) * ratio / (ratio + math.exp(self.threshold))
