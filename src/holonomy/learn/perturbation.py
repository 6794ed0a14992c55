"""Simultaneous perturbation (Spall 1992): gradients from differences of the loss alone.

Two losses with all parameters moved by +e D and -e D, D random signs, estimate the slope along D; the estimate of the
gradient is that slope times D. Its mean is the gradient up to e^2, its variance grows with the number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.flat import FlatParams, StatBuffer

MOST = 512
"""Scalars that may be learned this way beside others: with more, an estimate is hardly anything but noise."""


def check_moves(epsilon: float, samples: int) -> None:
    """Refuses perturbations that say nothing.

    Raises:
        ConfigError: epsilon or samples is not above zero.
    """
    if not epsilon > 0 or samples < 1:
        raise ConfigError(f"`epsilon` is {epsilon}, `samples` {samples}; wanted both above zero")


def estimated_slopes(
    value: Callable[[], Tensor], params: Sequence[Tensor], *, epsilon: float, samples: int, generator: torch.Generator
) -> tuple[list[Tensor], Tensor]:
    """Estimates of the derivatives of `value` by some parameters, and the mean of the values it took.

    Args:
        value: the loss at the present parameters; called 2 x `samples` times.
        params: what is moved; they come back exactly.
        epsilon: how far.
        samples: directions whose estimates are averaged.
        generator: source of the directions.
    """
    kept, found = [p.clone() for p in params], [torch.zeros_like(p) for p in params]
    total = torch.zeros((), dtype=torch.float64, device=kept[0].device)
    for _ in range(samples):
        signs = [torch.empty_like(p).bernoulli_(0.5, generator=generator).mul_(2).sub_(1) for p in kept]
        values = []
        for side in (epsilon, -epsilon):
            for param, middle, sign in zip(params, kept, signs, strict=True):
                torch.add(middle, sign, alpha=side, out=param)
            values.append(value())
        slope = (values[0] - values[1]) / (2 * epsilon * samples)
        for estimate, sign in zip(found, signs, strict=True):
            estimate.addcmul_(sign, slope)
        total += (values[0] + values[1]).double() / (2 * samples)
    for param, middle in zip(params, kept, strict=True):
        param.copy_(middle)
    return found, total


class PerturbedGroups:
    """A few parameters whose statistics are estimated, beside others that have a local rule.

    Args:
        flat: all parameters.
        groups: last parts of the names of those that are estimated.
        epsilon, samples: as for `estimated_slopes`.
        seed: of the directions.

    Raises:
        ConfigError: a group names nothing, there are more than 512 scalars in them, or a number is not above zero.
    """

    def __init__(self, flat: FlatParams, groups: Sequence[str], *, epsilon: float, samples: int, seed: int) -> None:
        check_moves(epsilon, samples)
        named = flat.named_views(flat.buffer)
        last = {name: name.rsplit(".", 1)[-1] for name in named}
        if absent := sorted(set(groups) - set(last.values())):
            raise ConfigError(
                f"`train.spsa.groups` names {', '.join(absent)}, which this model has not; "
                f"it has {', '.join(sorted(set(last.values())))}"
            )
        self.flat, self.names = flat, [name for name in named if last[name] in groups]
        self.epsilon, self.samples = epsilon, samples
        self.generator = torch.Generator(flat.buffer.device).manual_seed(seed)
        self.params = [named[name] for name in self.names]
        if (count := sum(p.numel() for p in self.params)) > MOST:
            raise ConfigError(
                f"`train.spsa.groups` hold {count:,} scalars, at most {MOST} can be estimated; name fewer"
            )

    def collected(self, acc: StatBuffer) -> list[Tensor]:
        """A copy of the statistics of these parameters so far."""
        views = self.flat.named_views(acc.buffer)
        return [views[name].clone() for name in self.names]

    def estimate(self, value: Callable[[], Tensor], before: list[Tensor], acc: StatBuffer) -> None:
        """Makes the statistics of these parameters what they were before, and an estimate on top.

        Args:
            value: the loss at the present parameters.
            before: from `collected`, before a local rule added its own.
            acc: all statistics.
        """
        slopes, _ = estimated_slopes(
            value, self.params, epsilon=self.epsilon, samples=self.samples, generator=self.generator
        )
        views = self.flat.named_views(acc.buffer)
        for name, old, slope in zip(self.names, before, slopes, strict=True):
            torch.add(old, slope, out=views[name])
