"""Learning-rate schedules as functions of the used share of the budget."""

from __future__ import annotations

import math


def warmup_cosine(progress: float, *, peak: float, warmup: float, floor: float) -> float:
    """Linear warm-up from zero, then half a cosine from `peak` down to `floor * peak`.

    Args:
        progress: used share of the budget, in [0, 1].
        peak: the largest learning rate.
        warmup: share of the budget that the warm-up takes.
        floor: last learning rate as a share of `peak`.
    """
    if progress < warmup:
        return peak * progress / warmup
    share = (progress - warmup) / (1 - warmup)
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2)
