"""Learning-rate schedules as functions of the used share of the budget; they keep no state."""

from __future__ import annotations

import math

from holonomy.core.budget import Schedule


def learning_rate(progress: float, schedule: Schedule, peak: float) -> float:
    """Linear warm-up from zero to the peak, then what the kind of the schedule says.

    Args:
        progress: used share of the budget, in [0, 1].
        schedule: shape; with the share s of the budget after the warm-up, cosine falls as (1 + cos pi s) / 2, linear
            as 1 - s, cyclic is the cosine restarted (Loshchilov & Hutter 2017), each from 1 to `floor`.
        peak: the largest learning rate.
    """
    if progress < schedule.warmup:
        return peak * progress / schedule.warmup
    share = (progress - schedule.warmup) / (1 - schedule.warmup)
    if schedule.kind == "constant":
        return peak
    if schedule.kind == "table":
        return peak * next(height for start, height in reversed(schedule.table) if progress >= start)
    if schedule.kind == "linear":
        height = 1 - share
    else:
        cycles = schedule.cycles if schedule.kind == "cyclic" else 1
        # The end of the budget is the end of the last cycle, not the start of another.
        place = share * cycles - min(math.floor(share * cycles), cycles - 1)
        height = (1 + math.cos(math.pi * place)) / 2
    return peak * (schedule.floor + (1 - schedule.floor) * height)
