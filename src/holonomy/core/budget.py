"""When training stops, how fast it learns when, how often it logs, evaluates and saves. Free of torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from holonomy.core.config import Config, refuse_unread

ENDLESS = 2**53
"""Tokens of a budget that only the end of the data limits."""


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

    def ends(self) -> bool:
        """Whether it says when training stops; else its data do."""
        return self.tokens != ENDLESS or any((self.steps, self.cpu_s, self.seconds))


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
    eval_table: tuple[tuple[int, int], ...] = Field(
        default=(),
        max_length=20,
        description="rows (below which step, steps between evaluations), where that is fewer than eval_every",
    )
    eval_halve: float | None = Field(
        default=None,
        gt=0,
        description="change of the held-out loss from one evaluation to the next, relative, above which the steps to "
        "the next are halved, down to the fewest of the table",
    )
    eval_least: int = Field(
        default=0, ge=0, le=1000, description="evaluations between start and end at least, and one at the start; or 0"
    )
    samples: int = Field(
        default=0, ge=0, le=100_000, description="tokens of each text that is written to samples/ at each evaluation"
    )

    @model_validator(mode="after")
    def _check(self) -> Cadence:
        ends = [0, *(below for below, _ in self.eval_table)]
        if any(a >= b for a, b in itertools.pairwise(ends)) or any(every < 1 for _, every in self.eval_table):
            rows = [list(row) for row in self.eval_table]
            raise ValueError(f"eval_table is {rows}: first numbers must rise from 1, second ones be 1 or more")
        refuse_unread(self, self._inactive())
        return self

    def _inactive(self) -> Iterator[tuple[str, str]]:
        if self.eval_table:
            yield "eval_growth", f"eval_table is {[list(row) for row in self.eval_table]}, which says when to evaluate"

    def due(self, step: int, *, last: int, halvings: int = 0) -> bool:
        """Whether it is time to evaluate after a step, by steps alone.

        Args:
            step: updates made, 1 or more.
            last: step of the last evaluation, 0 or less before the first.
            halvings: evaluations in a row, up to the last one, whose loss had changed much.
        """
        if self.eval_growth > 1:
            return step >= max(max(0, last) + self.eval_every, math.ceil(last * self.eval_growth))
        row = next((every for below, every in self.eval_table if step < below), self.eval_every)
        fewest = min([self.eval_every, *(every for _, every in self.eval_table)])
        return step % max(fewest, min(row, self.eval_every) >> min(halvings, 64)) == 0

    def owed(self, step: int, share: float, *, last: int, last_share: float, ends: bool) -> bool:
        """Whether it is time to evaluate so that there are enough evaluations before the end.

        They are one in each of equal parts of the budget. Where nobody knows the end, they come after one step, two,
        four and so on.

        Args:
            step: updates made.
            share: of the budget, that is used.
            last: step of the last evaluation, 0 or less before the first.
            last_share: of the budget, that was used then.
            ends: whether the budget says when training stops.
        """
        if not self.eval_least:
            return False
        if not ends:
            return last < 2 ** (self.eval_least - 1) and step >= max(1, 2 * last)
        # A step in so many may fall short of its share by rounding.
        part, last_part = (int(used * (self.eval_least + 1) + 1e-9) for used in (share, last_share))
        return part > last_part


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
