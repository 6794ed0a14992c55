"""When training stops, and how often it logs, evaluates and saves. Free of torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from holonomy.core.config import Config


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
