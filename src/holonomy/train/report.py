"""What a run plans, counts and reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from holonomy.core.budget import Budget, Cadence, Guard


@dataclass(frozen=True)
class Plan:
    """When a run stops, logs, evaluates and saves, and what it does when something goes wrong.

    Attributes:
        lean: training waits while a checkpoint is written, so that nothing is copied for it.
    """

    budget: Budget
    cadence: Cadence
    guard: Guard = field(default_factory=Guard)
    lean: bool = False


@dataclass
class Counters:
    """Where a run is; everything in it is saved and restored.

    Attributes:
        step: updates made.
        tokens: tokens trained on.
        cpu_s: process CPU-seconds spent in updates.
        seconds: wall seconds spent in updates.
        evaluated: step of the last evaluation, -1 before the first.
        evaluated_share: share of the budget that was used then.
        halvings: evaluations in a row, up to the last one, whose loss had changed much.
        pending_loss: sum of the token losses since the last record.
        pending_tokens: tokens since the last record.
        pending_sound: those of them whose loss is a number.
        pending_lost: those of the others that `nonfinite` counts already.
        pending_cpu_s: CPU-seconds since the last record.
        pending_s: wall seconds since the last record.
        pending_data_s: those of them that the next batch was waited for.
        nonfinite: tokens whose loss was no number and which were left out.
        rollbacks: how often training went back.
        ended: why training stopped before its budget; empty if it did not.
        best: step and value of the best evaluation.
        metrics: last value of each metric.
    """

    step: int = 0
    tokens: int = 0
    cpu_s: float = 0.0
    seconds: float = 0.0
    evaluated: int = -1
    evaluated_share: float = 0.0
    halvings: int = 0
    pending_loss: float = 0.0
    pending_tokens: int = 0
    pending_sound: float = 0.0
    pending_lost: int = 0
    pending_cpu_s: float = 0.0
    pending_s: float = 0.0
    pending_data_s: float = 0.0
    nonfinite: int = 0
    rollbacks: int = 0
    ended: str = ""
    best: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FitReport:
    """What a finished run has to say.

    Attributes:
        run: its directory.
        family: model family.
        steps: updates made.
        tokens: tokens trained on.
        seconds: wall seconds spent in updates.
        cpu_seconds: process CPU-seconds spent in updates.
        peak_rss_mb: largest resident memory of the process, MiB.
        metrics: last value of each metric.
        best: metric, value and step of the best evaluation.
        checkpoint: the last checkpoint.
        ended: why training stopped.
    """

    run: Path
    family: str
    steps: int
    tokens: int
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float
    metrics: dict[str, float]
    best: dict[str, str | float]
    checkpoint: Path
    ended: str

    def to_json(self) -> dict[str, object]:
        """The report as JSON values, as `holonomy train --json` prints it and a run directory keeps it."""
        content = asdict(self)
        content["run"], content["checkpoint"] = str(self.run), str(self.checkpoint)
        content["tokens_or_samples"] = content.pop("tokens")
        return content
