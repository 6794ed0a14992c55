"""The training loop: it knows budgets, cadences and interruptions, and nothing about learning rules."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from holonomy.core.budget import Budget, Cadence
from holonomy.core.errors import Interrupted, TrainingDiverged
from holonomy.core.learner import Json, Learner
from holonomy.train import checkpoint
from holonomy.train.checkpoint import Checkpoint
from holonomy.train.monitor import MetricsLog, Progress, peak_rss_mb
from holonomy.train.run import RunDirectory

logger = logging.getLogger(__name__)

BEST = "val/loss"
"""Metric that decides which checkpoint is the best: the lower the better."""

Evaluation = Callable[[Callable[[], bool]], dict[str, float] | None]
"""Evaluates the learner; asks its argument between batches and returns None when told to stop."""


class BatchSource(Protocol):
    """An endless source of batches that can continue where it was."""

    def next(self) -> Any: ...

    def state(self) -> dict[str, Json]: ...

    def load_state(self, state: Mapping[str, Json]) -> None: ...


@dataclass
class Counters:
    """Where a run is; everything in it is saved and restored.

    Attributes:
        step: updates made.
        tokens: tokens trained on.
        cpu_s: process CPU-seconds spent in updates.
        seconds: wall seconds spent in updates.
        evaluated: step of the last evaluation, -1 before the first.
        pending_loss: sum of the token losses since the last record.
        pending_tokens: tokens since the last record.
        pending_cpu_s: CPU-seconds since the last record.
        best: step and value of the best evaluation.
        metrics: last value of each metric.
    """

    step: int = 0
    tokens: int = 0
    cpu_s: float = 0.0
    seconds: float = 0.0
    evaluated: int = -1
    pending_loss: float = 0.0
    pending_tokens: int = 0
    pending_cpu_s: float = 0.0
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


class _StopSignals:
    """Notes SIGINT and SIGTERM instead of dying, for the duration of a run."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __call__(self) -> bool:
        return self.received is not None

    def note(self, signum: int, frame: object) -> None:
        self.received = signum

    @contextmanager
    def installed(self) -> Iterator[_StopSignals]:
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        old = {s: signal.signal(s, self.note) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for signum, handler in old.items():
                signal.signal(signum, handler)


class _Fit:
    """One run of the loop."""

    def __init__(
        self,
        learner: Learner,
        data: BatchSource,
        run: RunDirectory,
        budget: Budget,
        cadence: Cadence,
        evaluate: Evaluation,
        progress: Progress,
        files: Mapping[str, str],
        facts: Mapping[str, Json],
    ) -> None:
        self.learner, self.data, self.run = learner, data, run
        self.budget, self.cadence, self.evaluate = budget, cadence, evaluate
        self.progress, self.files, self.facts = progress, files, facts
        self.now = Counters()
        self.log = MetricsLog(run.path / "metrics.jsonl")
        self.stop = _StopSignals()
        self._loss: Tensor | None = None
        self._extra: Mapping[str, Tensor | float] = {}

    @property
    def fraction(self) -> float:
        now = self.now
        return self.budget.used(steps=now.step, tokens=now.tokens, cpu_s=now.cpu_s, seconds=now.seconds)

    def restore(self, saved: Checkpoint) -> None:
        self.learner.load_state({**saved.tensors, **saved.state["learner"]})
        self.data.load_state(saved.state["data"])
        self.now = Counters(**saved.state["counters"])

    def go(self) -> None:
        # A run that died before its first checkpoint starts again, and must not keep what it logged.
        self.log.truncate_after(self.now.step)
        checkpoint.prune(
            self.run.checkpoints,
            keep_last=self.cadence.keep,
            keep=self._best_steps(),
            up_to=self.now.step,
        )
        if self.now.step and self._due(self.cadence.eval_every) and self.now.evaluated != self.now.step:
            self._evaluate()
        while self.fraction < 1:
            self._step()
            if self._due(self.cadence.log_every) or self.fraction >= 1:
                self._record()
            self._leave_if_told()
            if self._due(self.cadence.eval_every) or self.fraction >= 1:
                self._evaluate()
            if self._due(self.cadence.save_every) or self.fraction >= 1:
                self._save()
        if self.now.evaluated != self.now.step:
            self._evaluate()
            self._save()

    def _due(self, every: int) -> bool:
        return self.now.step % every == 0

    def _step(self) -> None:
        now, fraction = self.now, self.fraction
        cpu, wall = time.process_time(), time.perf_counter()
        batch = self.data.next()
        metrics = self.learner.train_step(batch, progress=fraction)
        if self._loss is None:
            self._loss = torch.full_like(metrics.loss, now.pending_loss, dtype=torch.float64)
        self._loss += metrics.loss.double() * metrics.count
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        self._extra = metrics.extra
        now.step += 1
        now.tokens += metrics.count
        now.pending_tokens += metrics.count
        now.cpu_s += cpu
        now.pending_cpu_s += cpu
        now.seconds += wall

    def _record(self) -> None:
        now = self.now
        record = {"train/loss": self._pending() / now.pending_tokens}
        record.update({name: float(value) for name, value in self._extra.items()})
        record["train/tokens"] = float(now.tokens)
        record["train/cpu_s"] = now.cpu_s
        record["perf/tokens_per_cpu_second"] = now.pending_tokens / max(now.pending_cpu_s, 1e-9)
        record["perf/peak_rss_mb"] = peak_rss_mb()
        now.pending_loss, now.pending_tokens, now.pending_cpu_s, self._loss = 0.0, 0, 0.0, None
        self._publish(record)

    def _pending(self) -> float:
        """Sum of the losses since the last record, which tells whether training is still sound."""
        pending = self.now.pending_loss if self._loss is None else float(self._loss)
        if not math.isfinite(pending):
            good = checkpoint.find(self.run.checkpoints, "latest")
            raise TrainingDiverged(
                f"the training loss is {pending} at step {self.now.step}; "
                f"{f'the last good checkpoint is {good}' if good else 'no checkpoint was saved before'}. "
                "Lower train.optim.lr, or look for damaged data"
            )
        return pending

    def _publish(self, record: dict[str, float]) -> None:
        self.now.metrics.update(record)
        self.log.write(self.now.step, record)
        self.progress.update(self.now.step, self.fraction, self.now.metrics)

    def _evaluate(self) -> None:
        metrics = self.evaluate(self.stop)
        self._leave_if_told()
        if metrics is None:
            return
        now = self.now
        now.evaluated = now.step
        self._publish(metrics)
        if metrics[BEST] < now.best.get("value", math.inf):
            now.best = {"value": metrics[BEST], "step": now.step}
            self._save()
            checkpoint.point(self.run.checkpoints, "best", now.step)

    def _best_steps(self) -> list[int]:
        return [int(self.now.best["step"])] if self.now.best else []

    def _save(self) -> Path:
        now = self.now
        now.pending_loss = self._pending()
        state = self.learner.state()
        path = checkpoint.save(
            self.run.checkpoints,
            step=now.step,
            tensors={k: v for k, v in state.items() if isinstance(v, Tensor)},
            state={
                **self.facts,
                "learner": {k: v for k, v in state.items() if not isinstance(v, Tensor)},
                "data": self.data.state(),
                "counters": asdict(now),
            },
            files=self.files,
        )
        checkpoint.point(self.run.checkpoints, "latest", now.step)
        checkpoint.prune(self.run.checkpoints, keep_last=self.cadence.keep, keep=self._best_steps())
        return path

    def _leave_if_told(self) -> None:
        if self.stop.received is not None:
            raise Interrupted(self.stop.received, self._save() if self.now.step else None)


def fit(
    learner: Learner,
    data: BatchSource,
    *,
    run: RunDirectory,
    budget: Budget,
    cadence: Cadence,
    evaluate: Evaluation,
    progress: Progress,
    family: str,
    files: Mapping[str, str],
    facts: Mapping[str, Json],
    restored: Checkpoint | None = None,
) -> FitReport:
    """Trains until the budget is used up, then evaluates and saves.

    A run that continues from a checkpoint makes the same updates and records, bit for bit, as one that was never
    interrupted, where the budget counts steps or tokens and the device is deterministic.

    Args:
        learner: the learning rule with its model.
        data: source of batches.
        run: open run directory.
        budget: when to stop.
        cadence: when to log, evaluate and save.
        evaluate: held-out metrics, `val/loss` among them.
        progress: told about the run.
        family: model family, for the report.
        files: text files to keep in every checkpoint.
        facts: JSON values to keep in every checkpoint.
        restored: checkpoint to continue from.

    Raises:
        TrainingDiverged: the loss is not finite; nothing was overwritten.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was saved.
        StorageError, CheckpointError: writing failed, or `restored` does not fit.
    """
    work = _Fit(learner, data, run, budget, cadence, evaluate, progress, files, facts)
    untouched = data.state()
    learner.setup(data.next())
    data.load_state(untouched)
    if restored is not None:
        work.restore(restored)
    with work.stop.installed():
        work.go()
    now = work.now
    last = checkpoint.find(run.checkpoints, "latest")
    assert last is not None
    return FitReport(
        run=run.path,
        family=family,
        steps=now.step,
        tokens=now.tokens,
        seconds=now.seconds,
        cpu_seconds=now.cpu_s,
        peak_rss_mb=peak_rss_mb(),
        metrics=dict(now.metrics),
        best={"metric": BEST, **now.best},
        checkpoint=last,
    )
