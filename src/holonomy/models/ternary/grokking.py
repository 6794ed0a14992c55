"""When a held-out figure jumps long after the training figure: the mark of delayed generalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from holonomy.core.errors import ConfigError

ARMED = 0.99
"""Training accuracy from which a gap to the held-out one means something."""
GAP = 0.2
WINDOWS = 2
"""Evaluations of a gap that must come before a jump."""
JUMP, SHARE = 0.2, 0.2
"""Least height of a jump, and the share of the run that it may take at most."""


@dataclass(frozen=True)
class Grokking:
    """A jump of the held-out accuracy.

    Attributes:
        at: evaluation after which it happens.
        delay: evaluations since the training accuracy was first high enough.
        slope: rise per evaluation across it.
    """

    at: int
    delay: int
    slope: float


def change_point(values: Sequence[float]) -> int:
    """Where two constants, fitted by least squares, meet: the length of the first part.

    Raises:
        ConfigError: fewer than two values.
    """
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    if n < 2:
        raise ConfigError(f"`values` has {n} entries; a change wants at least 2")
    sums, squares = np.cumsum(x)[:-1], np.cumsum(x * x)[:-1]
    size = np.arange(1, n)
    left = squares - sums**2 / size
    right = ((x * x).sum() - squares) - (x.sum() - sums) ** 2 / (n - size)
    return int(np.argmin(left + right)) + 1


def find_grokking(train: Sequence[float], held_out: Sequence[float]) -> Grokking | None:
    """Looks for a jump in two series of accuracies, one value an evaluation.

    It must come after the training accuracy reached 0.99 and stayed ahead by 0.2 for two evaluations, be at least 0.2
    high, and take at most a fifth of the run.

    Raises:
        ConfigError: the series differ in length.
    """
    if len(train) != len(held_out):
        raise ConfigError(f"`held_out` has {len(held_out)} values and `train` {len(train)}; they belong together")
    seen, unseen = np.asarray(train, dtype=np.float64), np.asarray(held_out, dtype=np.float64)
    armed = np.flatnonzero(seen >= ARMED)
    if len(armed) == 0 or len(unseen) - armed[0] < WINDOWS + 2:
        return None
    first = int(armed[0])
    at = first + change_point(unseen[first:].tolist())
    before = slice(max(first, at - WINDOWS), at)
    if at - first < WINDOWS or not (seen[before] - unseen[before] >= GAP).all():
        return None
    width = max(1, int(SHARE * len(unseen)))
    low, high = max(first, at - 1 - width // 2), min(len(unseen) - 1, at + width - width // 2 - 1)
    rise = float(unseen[high] - unseen[low])
    # A steady climb has its change point in the middle, too, but no part of it is steep.
    whole = float(unseen[first:].max() - unseen[first:].min())
    if rise < JUMP or rise < 0.6 * whole:
        return None
    return Grokking(at, at - first, rise / max(1, high - low))


def grokking_figures(
    coverage: Sequence[float], held_out: Sequence[float], *, operations: int, withheld: int
) -> dict[str, float]:
    """What `find_grokking` says of the coverage of all operations and of the withheld ones, one value an evaluation.

    Returns:
        `grokking`, 1 or 0, and where there is one `grokking_at`, `grokking_delay` and `grokking_slope`, in evaluations.

    Raises:
        ConfigError: as for `find_grokking`, or nothing is withheld.
    """
    if not 0 < withheld < operations:
        raise ConfigError(
            f"`withheld` is {withheld}; wanted operations that are never trained on: data.holdout above 0"
        )
    rest = operations - withheld
    trained = [(a * operations - b * withheld) / rest for a, b in zip(coverage, held_out, strict=True)]
    found = find_grokking(trained, held_out)
    if found is None:
        return {"grokking": 0.0}
    return {"grokking": 1.0, **{f"grokking_{k}": float(v) for k, v in asdict(found).items()}}
