"""The training loop: it knows budgets, cadences and interruptions, and nothing about learning rules."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from holonomy.core.errors import Interrupted, StorageError, TrainingDiverged
from holonomy.core.learner import Json, Learner
from holonomy.train import checkpoint
from holonomy.train.callbacks import Action, Callback, Patience
from holonomy.train.checkpoint import Checkpoint
from holonomy.train.distributed import World
from holonomy.train.monitor import MetricsLog, Progress, peak_rss_mb
from holonomy.train.report import Counters, FitReport, Plan
from holonomy.train.run import RunDirectory
from holonomy.train.signals import StopSignals
from holonomy.train.writer import BackgroundWriter

BEST = "val/loss"
"""Metric that decides which checkpoint is the best: the lower the better."""

STATISTIC = "train/statistic_norm"
"""Size of what an update is made of; where a learner reports it, it must be a number as the loss must."""

LEFT_OUT = "train/lines_left_out"
"""Bad lines of a stream that were not learned."""

FEW_STEPS = 20
"""Steps before which the share of batches that were left out says nothing."""

Evaluation = Callable[[Callable[[], bool]], dict[str, float] | None]
"""Evaluates the learner; asks its argument between batches and returns None when told to stop."""


class BatchSource(Protocol):
    """A source of batches that can continue where it was.

    One that ends says so with an attribute `over`; one that leaves bad lines out counts them in `left_out`.
    """

    def next(self) -> Any: ...

    def state(self) -> dict[str, Json]: ...

    def load_state(self, state: Mapping[str, Json]) -> None: ...


class _Fit:
    """One run of the loop."""

    def __init__(
        self,
        learner: Learner,
        data: BatchSource,
        run: RunDirectory,
        plan: Plan,
        evaluate: Evaluation,
        progress: Progress,
        files: Mapping[str, str],
        facts: Mapping[str, Json],
        callbacks: Sequence[Callback],
        writer: BackgroundWriter,
        world: World,
    ) -> None:
        self.learner, self.data, self.run = learner, data, run
        self.plan, self.evaluate = plan, evaluate
        self.progress, self.files, self.facts = progress, files, facts
        guard = plan.guard
        patience = Patience(BEST, stop_after=guard.patience, halve_after=guard.halve_after, min_gain=guard.min_gain)
        self.callbacks = [patience, *callbacks]
        self.writer, self.world = writer, world
        self.now = Counters()
        self.log = MetricsLog(run.path / "metrics.jsonl")
        self.stop = StopSignals()
        self.untouched: dict[str, Any] = {}
        self.share = 0.0
        self.told: int | None = None
        self._loss: Tensor | None = None
        self._sound: Tensor | None = None
        self._extra: Mapping[str, Tensor | float] = {}

    def _agree(self) -> None:
        """Settles with all processes which share of the budget is used, and whether a signal came."""
        now = self.now
        share = self.plan.budget.used(steps=now.step, tokens=now.tokens, cpu_s=now.cpu_s, seconds=now.seconds)
        share = 1.0 if getattr(self.data, "over", False) else share
        self.share, self.told = self.world.agree(share, self.stop.received)

    def restore(self, saved: Checkpoint) -> None:
        self.learner.load_state({**saved.tensors, **saved.state["learner"]})
        self.data.load_state(saved.state["data"])
        if self.plan.lean:
            # They are the model's now; whoever holds the checkpoint needs no second copy.
            saved.tensors.clear()
        counters = saved.state["counters"]
        # Older versions did not count which losses are numbers; they saved only while all were.
        self.now = Counters(**{"pending_sound": float(counters["pending_tokens"]), **counters})
        states = saved.state.get("callbacks", {})
        for callback in self.callbacks:
            if callback.name in states:
                callback.load_state(states[callback.name])

    def keep_start(self) -> None:
        """Remembers how everything began, for going back before there is a checkpoint."""
        state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in self.learner.state().items()}
        callbacks = {c.name: c.state() for c in self.callbacks}
        self.untouched = {"learner": state, "data": self.data.state(), "callbacks": callbacks}

    def go(self) -> None:
        # A run that died before its first checkpoint starts again, and must not keep what it logged.
        self._begin()
        self._prune(self._best_step(), up_to=self.now.step)
        self._repair_pointers()
        cadence = self.plan.cadence
        self._agree()
        # A further text makes the budget larger than it was.
        self.now.evaluated_share = min(self.now.evaluated_share, self.share)
        if self.now.step and self.share < 1 and self._evaluation_due() and self.now.evaluated != self.now.step:
            self._evaluate()
        while self.share < 1 and not self.now.ended:
            self._step()
            self._agree()
            if (self._due(cadence.log_every) or self.share >= 1) and not self._record():
                self._agree()
                continue
            self.leave_if_told()
            if self._evaluation_due() or self.share >= 1:
                self._evaluate()
            if self._due(cadence.save_every) or self.share >= 1 or self.now.ended:
                self._save()
        if self.now.evaluated != self.now.step:
            self._evaluate()
            self._save()

    def _begin(self) -> None:
        """Drops what was logged after this step, and tells the callbacks; evaluates at the start, if that is wanted."""
        now = self.now
        if self.world.leads:
            self.log.truncate_after(now.step if now.step else now.evaluated)
        for callback in self.callbacks:
            callback.start(now.step)
        if not now.step and self.plan.cadence.eval_least:
            self._agree()
            self._evaluate()

    def _due(self, every: int) -> bool:
        return self.now.step % every == 0 and self.now.step > 0

    def _evaluation_due(self) -> bool:
        cadence, now = self.plan.cadence, self.now
        return cadence.due(now.step, last=now.evaluated, halvings=now.halvings) or cadence.owed(
            now.step, self.share, last=now.evaluated, last_share=now.evaluated_share, ends=self.plan.budget.ends()
        )

    def _step(self) -> None:
        now = self.now
        aside, cpu, wall = self.writer.cpu_s, time.process_time(), time.perf_counter()
        batch = self.data.next()
        now.pending_data_s += time.perf_counter() - wall
        metrics = self.learner.train_step(batch, progress=self.share)
        if self._loss is None or self._sound is None:
            self._loss = torch.full_like(metrics.loss, now.pending_loss, dtype=torch.float64)
            self._sound = torch.full_like(self._loss, now.pending_sound)
        # A loss that is no number is counted, not added; the decision stays on the device.
        fine = torch.isfinite(metrics.loss)
        if STATISTIC in metrics.extra:
            fine = fine & torch.isfinite(torch.as_tensor(metrics.extra[STATISTIC]))
        self._loss += torch.where(fine, metrics.loss.double(), 0) * metrics.count
        self._sound += fine * metrics.count
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        self._extra = metrics.extra
        now.step += 1
        now.tokens += metrics.count
        now.pending_tokens += metrics.count
        spent = max(0.0, cpu - (self.writer.cpu_s - aside))
        now.cpu_s += spent
        now.pending_cpu_s += spent
        now.seconds += wall
        now.pending_s += wall

    def _record(self) -> bool:
        """Logs what happened since the last record; False if training went back instead."""
        now = self.now
        loss, sound = self._pending()
        if loss is None:
            return False
        record = {"train/loss": loss / max(sound, 1)}
        record.update({name: float(value) for name, value in self._extra.items()})
        record["train/tokens"] = float(now.tokens)
        record["train/cpu_s"] = now.cpu_s
        record["perf/tokens_per_cpu_second"] = now.pending_tokens / max(now.pending_cpu_s, 1e-9)
        record["perf/data_share"] = now.pending_data_s / max(now.pending_s, 1e-9)
        record["perf/peak_rss_mb"] = peak_rss_mb()
        if now.nonfinite:
            record["train/nonfinite_tokens"] = float(now.nonfinite)
        if now.rollbacks:
            record["train/rollbacks"] = float(now.rollbacks)
        if left_out := getattr(self.data, "left_out", 0):
            record[LEFT_OUT] = float(left_out)
            if LEFT_OUT not in now.metrics:
                self.progress.notice(f"bad lines are left out; `{LEFT_OUT}` counts them")
        now.pending_loss = now.pending_sound = now.pending_cpu_s = now.pending_data_s = now.pending_s = 0.0
        now.pending_tokens, now.pending_lost, self._loss, self._sound = 0, 0, None, None
        self._publish(record)
        self.pass_notes_on()
        for callback in self.callbacks:
            callback.recorded(now.step, record)
        return True

    def pass_notes_on(self) -> None:
        """Shows what the learner has to say."""
        notes = getattr(self.learner, "notes", [])
        while notes:
            self.progress.notice(notes.pop(0))

    def _pending(self) -> tuple[float | None, float]:
        """Sum of the sound losses since the last record and their number; None after going back."""
        now = self.now
        loss = now.pending_loss if self._loss is None else float(self._loss)
        sound = now.pending_sound if self._sound is None else float(self._sound)
        lost = now.pending_tokens - int(sound)
        if lost:
            policy = self.plan.guard.on_nonfinite
            if policy == "rollback":
                self._go_back()
                return None, 0.0
            now.nonfinite += lost - now.pending_lost
            now.pending_lost = lost
            # Leaving out is for damaged batches; a model that gives hardly anything else is lost.
            if policy == "stop" or (now.step >= FEW_STEPS and now.nonfinite > now.tokens / 2):
                raise TrainingDiverged(self._diverged(f"the training loss of {now.nonfinite:,} tokens is no number"))
        return loss, sound

    def _diverged(self, what: str) -> str:
        self.finish()
        good = checkpoint.find(self.run.checkpoints, "latest")
        return (
            f"{what} at step {self.now.step}; "
            f"{f'the last good checkpoint is {good}' if good else 'no checkpoint was saved before'}. "
            "Lower train.optim.lr, or look for damaged data"
        )

    def _go_back(self) -> None:
        """Returns to the last checkpoint, or to the start, with half the learning rate."""
        spent, rollbacks, failed = self.now, self.now.rollbacks + 1, self.now.step
        if rollbacks > self.plan.guard.rollbacks:
            raise TrainingDiverged(
                self._diverged(f"the training loss is no number, after {self.plan.guard.rollbacks} rollback(s)")
            )
        self.finish()
        self.world.barrier()
        if checkpoint.steps(self.run.checkpoints):
            self.restore(checkpoint.newest_valid(self.run.checkpoints)[0])
        else:
            self.learner.load_state(self.untouched["learner"])
            self.data.load_state(self.untouched["data"])
            for callback in self.callbacks:
                callback.load_state(self.untouched["callbacks"][callback.name])
            self.now = Counters()
        # What was spent stays spent: otherwise a budget of time could be used twice.
        self.now.cpu_s, self.now.seconds, self.now.rollbacks = spent.cpu_s, spent.seconds, rollbacks
        self.learner.scale_rate(0.5**rollbacks)
        self._loss = self._sound = None
        self._begin()
        self.progress.notice(
            f"the training loss is no number at step {failed}: back to step {self.now.step} with "
            f"{0.5**rollbacks:g} times the learning rate"
        )

    def _publish(self, record: dict[str, float]) -> None:
        self.now.metrics.update(record)
        if self.world.leads:
            self._tolerant(lambda: self.log.write(self.now.step, record))
        self.progress.update(self.now.step, self.share, self.now.metrics)

    def _evaluate(self) -> None:
        begin = time.perf_counter()
        # One process must not leave an evaluation that the others finish: they hear of a signal at the next step.
        metrics = self.evaluate(self.stop if self.world.size == 1 else lambda: False)
        self.leave_if_told()
        if metrics is None:
            return
        metrics = self.world.same(metrics)
        now, halve = self.now, self.plan.cadence.eval_halve
        before = now.metrics.get(BEST, math.nan)
        changed = halve is not None and abs(metrics[BEST] - before) > halve * abs(before)
        now.halvings = now.halvings + 1 if changed else 0
        now.evaluated, now.evaluated_share = now.step, self.share
        self._publish({**metrics, "perf/eval_s": time.perf_counter() - begin})
        actions = [callback.evaluated(now.step, metrics) for callback in self.callbacks]
        if Action.HALVE in actions:
            self.learner.scale_rate(0.5)
            self.progress.notice(f"no new best for {self.plan.guard.halve_after} evaluations: half the learning rate")
        if Action.STOP in actions:
            now.ended = f"no new best for {self.plan.guard.patience} evaluations"
            self.progress.notice(f"{now.ended}: training ends at step {now.step}")
        # What has learned nothing is not worth a checkpoint.
        if now.step and metrics[BEST] < now.best.get("value", math.inf):
            now.best = {"value": metrics[BEST], "step": now.step}
            self._save(best=True)

    def _best_step(self) -> int:
        return int(self.now.best.get("step", 0))

    def _prune(self, best: int, up_to: int | None = None) -> None:
        if not self.world.leads:
            return
        cadence, kept = self.plan.cadence, [best]
        if cadence.keep_every is not None:
            kept += [s for s in checkpoint.steps(self.run.checkpoints) if s % cadence.keep_every == 0]
        checkpoint.prune(self.run.checkpoints, keep_last=cadence.keep, keep=kept, up_to=up_to)

    def _repair_pointers(self) -> None:
        """A process may have died between a checkpoint and the pointers to it."""
        wanted = {"latest": self.now.step, "best": self._best_step()}
        if self.world.leads:
            for name, step in wanted.items():
                if step in checkpoint.steps(self.run.checkpoints):
                    checkpoint.point(self.run.checkpoints, name, step)

    def _save(self, *, best: bool = False) -> Path | None:
        now = self.now
        loss, sound = self._pending()
        if loss is None:
            return None
        now.pending_loss, now.pending_sound = loss, sound
        if not self.world.leads:
            return None
        # Whatever happens until they are written, it is the best of now that must stay.
        state, step, best_step = self.learner.state(), now.step, self._best_step()
        tensors = {k: v.detach().cpu() for k, v in state.items() if isinstance(v, Tensor)}
        if not self.plan.lean:
            # Copies, so that training may go on while they are written.
            tensors = {k: v.clone() for k, v in tensors.items()}
        values = {
            **self.facts,
            "learner": {k: v for k, v in state.items() if not isinstance(v, Tensor)},
            "data": self.data.state(),
            "counters": asdict(now),
            "callbacks": {c.name: c.state() for c in self.callbacks},
        }

        def write() -> None:
            checkpoint.save(self.run.checkpoints, step=step, tensors=tensors, state=values, files=self.files)
            checkpoint.point(self.run.checkpoints, "latest", step)
            if best:
                checkpoint.point(self.run.checkpoints, "best", step)
            self._prune(best_step)

        self._write(write)
        if self.plan.lean:
            self.finish()
        return self.run.checkpoints / f"step-{step}"

    def _write(self, job: Callable[[], None]) -> None:
        try:
            self.writer.submit(job)
        except StorageError as error:
            if self.plan.guard.on_save_error == "stop":
                raise
            # What failed was an earlier job; this one was not taken yet.
            self.progress.notice(str(error))
            self._write(job)

    def finish(self) -> None:
        """Waits for the last checkpoint; each of those that wait may fail for itself."""
        while self.writer.pending:
            self._tolerant(self.writer.join)

    def _tolerant(self, job: Callable[[], None]) -> None:
        """Does something that may lack space, which ends the run or is told of, as the guard says."""
        try:
            job()
        except StorageError as error:
            if self.plan.guard.on_save_error == "stop":
                raise
            self.progress.notice(str(error))

    def leave_if_told(self) -> None:
        """Saves and raises `Interrupted` where a signal came."""
        received = self.stop.received if self.world.size == 1 else self.told
        if received is not None:
            path = self._save() if self.now.step else None
            self.finish()
            raise Interrupted(received, path)


def fit(
    learner: Learner,
    data: BatchSource,
    *,
    run: RunDirectory,
    plan: Plan,
    evaluate: Evaluation,
    progress: Progress,
    family: str,
    files: Mapping[str, str],
    facts: Mapping[str, Json],
    callbacks: Sequence[Callback] = (),
    world: World | None = None,
    restored: Checkpoint | None = None,
) -> FitReport:
    """Trains until the budget is used up, then evaluates and saves.

    A run that continues from a checkpoint makes the same updates and records, bit for bit, as one that was never
    interrupted, where the budget counts steps or tokens and the device is deterministic.

    Args:
        learner: the learning rule with its model.
        data: source of batches.
        run: open run directory.
        plan: when to stop, to log, to evaluate and to save, and what to do when something goes wrong.
        evaluate: held-out metrics, `val/loss` among them.
        progress: told about the run.
        family: model family, for the report.
        files: text files to keep in every checkpoint.
        facts: JSON values to keep in every checkpoint.
        callbacks: told of records and evaluations; their states are kept too.
        world: the processes that train together; None is this one alone. Only the leader writes.
        restored: checkpoint to continue from.

    Raises:
        TrainingDiverged: the loss is not finite; nothing was overwritten.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was saved.
        StorageError, CheckpointError: writing failed, or `restored` does not fit.
    """
    world = world or World()
    with BackgroundWriter() as writer:
        work = _Fit(learner, data, run, plan, evaluate, progress, files, facts, callbacks, writer, world)
        untouched = data.state()
        learner.setup(data.next())
        data.load_state(untouched)
        work.pass_notes_on()
        if restored is not None:
            work.restore(restored)
        elif plan.guard.on_nonfinite == "rollback":
            work.keep_start()
        try:
            with work.stop.installed():
                work.go()
                work.finish()
                work.leave_if_told()
                world.barrier()
        finally:
            for callback in work.callbacks:
                callback.close()
    now = work.now
    last = checkpoint.find(run.checkpoints, "latest")
    if last is None:
        raise StorageError(f"no checkpoint of `{run.path}` could be written; make room and start again")
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
        ended=now.ended or "the budget is used up",
    )
