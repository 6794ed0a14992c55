"""When training stops, how fast it learns when, how often it logs, evaluates and saves. Free of torch."""

from __future__ import annotations

import itertools
from typing import Literal

from pydantic import Field, model_validator

from holonomy.core.config import Config, refuse_unread


class Budget(Config):
    """Stop conditions; the first one reached wins, and their used share drives the schedule."""

    steps: int | None = Field(default=None, ge=1, description="updates")
    tokens: int | None = Field(default=None, ge=1, description="trained tokens")
    cpu_s: float | None = Field(default=None, gt=0, description="process CPU-seconds spent in updates")
    seconds: float | None = Field(default=None, gt=0, description="wall seconds spent in updates")

    @model_validator(mode="after")
    def _check(self) -> Budget:
        if not any((self.steps, self.tokens, self.cpu_s, self.seconds)):
            raise ValueError("set at least one of steps, tokens, cpu_s, seconds")
        return self

    def used(self, *, steps: int, tokens: int, cpu_s: float, seconds: float) -> float:
        """Share of the budget that is used, in [0, 1]; 1 means stop."""
        spent = {"steps": steps, "tokens": tokens, "cpu_s": cpu_s, "seconds": seconds}
        limits = ((name, getattr(self, name)) for name in spent)
        return min(1.0, max(spent[name] / limit for name, limit in limits if limit is not None))


class Cadence(Config):
    """Steps between records, evaluations and checkpoints."""

    log_every: int = Field(default=10, ge=1, description="steps between log records")
    eval_every: int = Field(default=500, ge=1, description="steps between evaluations")
    save_every: int = Field(default=500, ge=1, description="steps between checkpoints")
    keep: int = Field(default=3, ge=1, description="newest checkpoints to keep, besides the best")
    keep_every: int | None = Field(default=None, ge=1, description="also keep checkpoints of steps divisible by this")
    eval_growth: float = Field(
        default=1.0, ge=1, le=10, description="evaluate again at this multiple of the step, if that is later"
    )
    samples: int = Field(default=0, ge=0, le=100_000, description="characters written to samples/ at each evaluation")


class Schedule(Config):
    """Learning rate over the used share of the budget, as a share of its peak."""

    kind: Literal["cosine", "linear", "constant", "cyclic", "table"] = Field(
        default="cosine",
        description="after the warm-up: half a cosine, a line, no change, `cycles` halves of a cosine, or `table`",
    )
    warmup: float = Field(default=0.03, ge=0, lt=1, description="share of the budget with rising learning rate")
    floor: float = Field(default=0.03, ge=0, le=1, description="lowest share of the peak after the warm-up")
    cycles: int = Field(default=4, ge=1, le=1000, description="restarts of a cyclic schedule")
    table: tuple[tuple[float, float], ...] = Field(
        default=((0.0, 1.0), (0.5, 0.3), (0.8, 0.1)),
        min_length=1,
        description="rows (from which share of the budget, share of the peak) of a table schedule",
    )

    @model_validator(mode="after")
    def _check(self) -> Schedule:
        starts = [row[0] for row in self.table]
        if any(a >= b for a, b in itertools.pairwise(starts)) or starts[0] != 0 or starts[-1] >= 1:
            raise ValueError(f"table starts at {starts}: shares of the budget must rise from 0 to below 1")
        if any(not 0 <= row[1] <= 1 for row in self.table):
            raise ValueError(f"table has heights {[r[1] for r in self.table]}: shares of the peak must lie in [0, 1]")
        owners = (("cycles", "cyclic"), ("table", "table"))
        refuse_unread(self, ((key, f"kind is {self.kind}") for key, owner in owners if self.kind != owner))
        return self


class Guard(Config):
    """What happens when training goes wrong or no longer helps."""

    on_nonfinite: Literal["stop", "skip", "rollback"] = Field(
        default="stop",
        description="a loss or statistic that is no number: stop, leave the batch out, or go back and halve the rate",
    )
    rollbacks: int = Field(default=1, ge=1, le=100, description="how often to go back before giving up")
    patience: int | None = Field(
        default=None, ge=1, description="evaluations without a new best after which training stops"
    )
    halve_after: int | None = Field(
        default=None, ge=1, description="evaluations without a new best after which the learning rate is halved"
    )
    min_gain: float = Field(default=0.0, ge=0, description="by how much a new best must be lower, nats per token")
    on_save_error: Literal["stop", "continue"] = Field(
        default="stop", description="a checkpoint or record that cannot be written: stop, or go on and try the next one"
    )
