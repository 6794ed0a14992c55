"""The loop: what it writes, when it stops, and that a run that was broken off ends like one that was not."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy import Regression, Rows, ToyConfig, open_or_create, train_toy

from holonomy.core.budget import ENDLESS, Budget, Cadence, Guard
from holonomy.core.errors import CheckpointError, Interrupted, StorageError, TrainingDiverged
from holonomy.core.learner import Metrics
from holonomy.models.holographic.config import HolographicRunConfig
from holonomy.train import checkpoint
from holonomy.train.callbacks import Callback, Patience, Samples
from holonomy.train.monitor import SilentProgress
from holonomy.train.run import RunDirectory

LEARNED = ("train/loss", "train/lr", "train/tokens", "val/loss")
TOY = Path(__file__).parent / "toy.py"


def directory(tmp_path: Path, name: str) -> RunDirectory:
    return RunDirectory.create(tmp_path, name, prefix="toy", config=ToyConfig())


def records(run: Path) -> list[tuple[int, dict[str, str]]]:
    """Step and exact values of everything that does not measure time."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], {k: float(r[k]).hex() for k in LEARNED if k in r}) for r in lines]


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Regression, RunDirectory]:
    """A run that was never interrupted."""
    learner, run = Regression(), directory(tmp_path, "whole")
    with run:
        train_toy(run, learner)
    return learner, run


def test_records_checkpoints_and_report(tmp_path: Path) -> None:
    learner, run = Regression(), directory(tmp_path, "a")
    with run:
        report = train_toy(run, learner)
    logged = [step for step, values in records(run.path) if "train/loss" in values]
    evaluated = [step for step, values in records(run.path) if "val/loss" in values]
    assert logged == list(range(4, 61, 4))
    assert evaluated == [15, 30, 45, 60]
    assert checkpoint.steps(run.checkpoints) == [56, 60]
    assert (report.steps, report.tokens) == (60, 240)
    assert report.checkpoint == run.checkpoints / "step-60"
    assert report.best["value"] == report.metrics["val/loss"] < 1e-2
    assert checkpoint.find(run.checkpoints, "best") == run.checkpoints / "step-60"
    saved = checkpoint.read(report.checkpoint)
    assert saved.files == {"note.txt": "kept"}
    assert saved.state["kind"] == "toy"
    assert torch.equal(saved.tensors["weight"], learner.weight)


def test_logged_loss_is_the_mean_since_the_last_record(tmp_path: Path) -> None:
    run, twin, losses = directory(tmp_path, "a"), Regression(), []
    with run:
        train_toy(run, Regression())
    rows = Rows()
    for step in range(60):
        losses.append(float(twin.train_step(rows.next(), progress=step / 60).loss))
    expected = {step: sum(losses[step - 4 : step]) / 4 for step in range(4, 61, 4)}
    for step, values in records(run.path):
        if "train/loss" in values:
            assert abs(float.fromhex(values["train/loss"]) - expected[step]) < 1e-15


@pytest.mark.parametrize("stop_at", [1, 3, 7, 14, 15, 16, 30, 59])
def test_interrupted_and_resumed_equals_whole(
    tmp_path: Path, whole: tuple[Regression, RunDirectory], stop_at: int
) -> None:
    run = directory(tmp_path, "split")

    class Stopped(Regression):
        def train_step(self, batch, *, progress):
            metrics = super().train_step(batch, progress=progress)
            if self.calls == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return metrics

    before = signal.getsignal(signal.SIGTERM)
    with run, pytest.raises(Interrupted) as caught:
        train_toy(run, Stopped())
    assert caught.value.exit_code == 143
    assert caught.value.checkpoint == run.checkpoints / f"step-{stop_at}"
    assert signal.getsignal(signal.SIGTERM) is before
    rest = Regression()
    with run:
        train_toy(run, rest)
    assert torch.equal(rest.weight, whole[0].weight)
    assert records(run.path) == records(whole[1].path)


def test_a_signal_during_evaluation_loses_nothing(tmp_path: Path, whole: tuple[Regression, RunDirectory]) -> None:
    run, hits = directory(tmp_path, "split"), []

    def interrupt() -> None:
        hits.append(1)
        if len(hits) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with run, pytest.raises(Interrupted) as caught:
        train_toy(run, Regression(), on_evaluate=interrupt)
    assert caught.value.exit_code == 130
    rest = Regression()
    with run:
        train_toy(run, rest)
    assert torch.equal(rest.weight, whole[0].weight)
    assert records(run.path) == records(whole[1].path)


def test_dying_before_the_first_checkpoint_leaves_no_records_behind(
    tmp_path: Path, whole: tuple[Regression, RunDirectory]
) -> None:
    run, learner = directory(tmp_path, "split"), Regression()
    learner.spoil_at = 6  # between a record and the first save
    with run:
        with pytest.raises(TrainingDiverged):
            train_toy(run, learner)
        assert len(records(run.path)) == 1
        train_toy(run, Regression())
    assert records(run.path) == records(whole[1].path)


def test_a_finished_run_reports_again_without_training(tmp_path: Path) -> None:
    run, again = directory(tmp_path, "a"), Regression()
    with run:
        first = train_toy(run, Regression())
        second = train_toy(run, again)
    assert again.calls == 60
    assert second.metrics == first.metrics
    assert second.best == first.best


def test_a_damaged_newest_checkpoint_is_made_again(tmp_path: Path, whole: tuple[Regression, RunDirectory]) -> None:
    run, rest = directory(tmp_path, "split"), Regression()
    with run:
        train_toy(run, Regression(), num_steps=28)
        (run.checkpoints / "step-28" / "tensors.safetensors").write_bytes(b"gone")
        train_toy(run, rest, num_steps=60)
    assert torch.equal(rest.weight, whole[0].weight) is False  # the first budget had another schedule
    assert checkpoint.steps(run.checkpoints) == [56, 60]
    checkpoint.read(run.checkpoints / "step-56")


def test_divergence_stops_before_anything_is_overwritten(tmp_path: Path) -> None:
    run, learner = directory(tmp_path, "a"), Regression()
    learner.spoil_at = 18
    with run, pytest.raises(TrainingDiverged, match="step-15"):
        train_toy(run, learner)
    assert checkpoint.steps(run.checkpoints) == [14, 15]
    assert max(step for step, _ in records(run.path)) == 16


def test_disk_full_keeps_the_older_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = directory(tmp_path, "a")
    real, saves = os.fsync, []

    def fsync(handle: int) -> None:
        saves.append(handle)
        if len(saves) > 20:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with run, pytest.raises(StorageError, match="No space left"):
        train_toy(run, Regression())
    kept = checkpoint.steps(run.checkpoints)
    assert kept
    assert not [p for p in run.checkpoints.iterdir() if p.name.startswith(checkpoint.TEMPORARY)]
    for step in kept:
        checkpoint.read(run.checkpoints / f"step-{step}")


def test_cadence_of_one_and_beyond_the_end(tmp_path: Path) -> None:
    for name, every in (("often", 1), ("never", 1000)):
        run = directory(tmp_path, name)
        with run:
            report = train_toy(
                run,
                Regression(),
                num_steps=5,
                cadence=Cadence(log_every=every, eval_every=every, save_every=every, keep=1),
            )
        assert checkpoint.read(report.checkpoint).step == 5
        assert records(run.path)[-1][0] == 5
        assert "val/loss" in report.metrics


def start(path: Path, pause: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(TOY), str(path), str(pause)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_killed_at_random_moments_ends_like_the_whole_run(
    tmp_path: Path, whole: tuple[Regression, RunDirectory]
) -> None:
    moments, path = random.Random(4), tmp_path / "killed"
    for _ in range(5):
        process = start(path, 0.02)
        time.sleep(moments.uniform(0.05, 0.6))
        process.kill()
        process.communicate()
    process = start(path, 0.0)
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert json.loads(printed) == [w.hex() for w in whole[0].weight.tolist()]
    assert records(path) == records(whole[1].path)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_exit(tmp_path: Path, signum: int, code: int) -> None:
    process = start(tmp_path / "run", 0.05)
    time.sleep(0.4)
    begin = time.monotonic()
    process.send_signal(signum)
    _, errors = process.communicate(timeout=10)
    assert time.monotonic() - begin < 2
    assert process.returncode == code
    saved = checkpoint.find(tmp_path / "run" / "checkpoints", "latest")
    assert saved is not None
    assert str(saved) in errors


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    process = start(tmp_path / "run", 1.0)
    second = subprocess.run([sys.executable, str(TOY), str(tmp_path / "run"), "0"], capture_output=True, text=True)
    process.kill()
    process.communicate()
    assert second.returncode == 4
    assert f"pid {process.pid}" in second.stderr
    with open_or_create(tmp_path / "run") as run:
        assert run.path.exists()


class Notes(SilentProgress):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def notice(self, text: str) -> None:
        self.texts.append(text)


def test_rollback_returns_to_the_last_checkpoint_with_half_the_rate(tmp_path: Path) -> None:
    run, learner, notes = directory(tmp_path, "a"), Regression(), Notes()
    learner.spoil_once = 25
    with run:
        report = train_toy(run, learner, guard=Guard(on_nonfinite="rollback"), progress=notes)
    assert notes.texts == [
        "the training loss is no number at step 28: back to step 21 with 0.5 times the learning rate"
    ]
    assert report.metrics["train/rollbacks"] == 1
    assert report.steps == 60
    logged = [step for step, values in records(run.path) if "train/loss" in values]
    assert logged == list(range(4, 61, 4))
    rates = {step: float.fromhex(v["train/lr"]) for step, v in records(run.path) if "train/lr" in v}
    assert abs(rates[20] - 0.05 * (1 - 0.5 * 19 / 60)) < 1e-15
    assert abs(rates[24] - 0.025 * (1 - 0.5 * 23 / 60)) < 1e-15
    assert checkpoint.read(report.checkpoint).state["learner"]["rate"] == 0.5


def test_rollback_before_the_first_checkpoint_starts_again(tmp_path: Path) -> None:
    run, learner, notes = directory(tmp_path, "a"), Regression(), Notes()
    learner.spoil_once = 3
    with run:
        train_toy(run, learner, guard=Guard(on_nonfinite="rollback"), progress=notes)
    assert "back to step 0" in notes.texts[0]
    twin, other = Regression(), directory(tmp_path, "b")
    twin.scale_rate(0.5)
    with other:
        train_toy(other, twin)
    assert torch.equal(learner.weight, twin.weight)


def test_a_fault_that_comes_back_ends_the_run(tmp_path: Path) -> None:
    run, learner = directory(tmp_path, "a"), Regression()
    learner.spoil_at = 25
    with run, pytest.raises(TrainingDiverged, match=r"after 2 rollback.*step-21") as caught:
        train_toy(run, learner, guard=Guard(on_nonfinite="rollback", rollbacks=2))
    assert caught.value.exit_code == 5
    assert checkpoint.steps(run.checkpoints)[-1] == 21


def test_skipped_batches_are_counted_and_left_out_of_the_mean(tmp_path: Path) -> None:
    run, learner = directory(tmp_path, "a"), Regression()
    learner.spoil_at = 26
    with run:
        report = train_toy(run, learner, guard=Guard(on_nonfinite="skip"))
    assert report.metrics["train/nonfinite_tokens"] == 4
    twin, rows = Regression(), Rows()
    losses = [float(twin.train_step(rows.next(), progress=step / 60).loss) for step in range(60)]
    logged = dict(records(run.path))
    expected = (losses[24] + losses[26] + losses[27]) / 3
    assert abs(float.fromhex(logged[28]["train/loss"]) - expected) < 1e-15


def test_a_model_that_gives_nothing_else_is_not_skipped_for_ever(tmp_path: Path) -> None:
    class Lost(Regression):
        def train_step(self, batch, *, progress):
            metrics = super().train_step(batch, progress=progress)
            return Metrics(metrics.loss * float("nan"), metrics.count)

    with directory(tmp_path, "a") as run, pytest.raises(TrainingDiverged, match="80 tokens is no number"):
        train_toy(run, Lost(), guard=Guard(on_nonfinite="skip"))


@pytest.mark.parametrize("stop_at", [None, 17, 28])
def test_patience_stops_and_halves_and_survives_a_resume(tmp_path: Path, stop_at: int | None) -> None:
    class Stuck(Regression):
        def train_step(self, batch, *, progress):
            metrics = super().train_step(batch, progress=progress)
            self.weight = torch.zeros_like(self.weight)
            if self.calls == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return metrics

    run, notes = directory(tmp_path, "a"), Notes()
    cadence, guard = Cadence(log_every=4, eval_every=5, save_every=7, keep=2), Guard(patience=5, halve_after=2)
    with run:
        if stop_at is not None:
            with pytest.raises(Interrupted):
                train_toy(run, Stuck(), cadence=cadence, guard=guard, progress=notes)
        report = train_toy(run, Stuck(), cadence=cadence, guard=guard, progress=notes)
        again = train_toy(run, Stuck(), cadence=cadence, guard=guard)
    # The first evaluation, at step 5, is the best; the fifth after it is at step 30.
    assert (report.steps, report.ended) == (30, "no new best for 5 evaluations")
    assert again.steps == 30
    assert checkpoint.read(report.checkpoint).state["learner"]["rate"] == 0.25
    assert sum("half the learning rate" in text for text in notes.texts) == 2


def test_evaluations_grow_apart_and_a_resume_keeps_their_places(tmp_path: Path) -> None:
    cadence = Cadence(log_every=4, eval_every=5, save_every=7, keep=2, eval_growth=1.5)
    for name, stop_at in (("whole", 0), ("split", 20)):
        run = directory(tmp_path, name)
        with run:
            if stop_at:
                with pytest.raises(StorageError, match="by the test"):
                    train_toy(run, Regression(), num_steps=60, cadence=cadence, callbacks=[Stopper(stop_at)])
            train_toy(run, Regression(), num_steps=60, cadence=cadence)
        evaluated = [step for step, values in records(run.path) if "val/loss" in values]
        assert evaluated == [5, 10, 15, 23, 35, 53, 60]


class Course(Regression):
    """Learns nothing; its held-out loss is what a table says for each step."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.losses, self.target = losses, torch.zeros_like(self.weight)

    def load_state(self, state) -> None:
        super().load_state(state)
        self.at(self.calls)

    def at(self, step: int) -> None:
        self.weight = torch.zeros_like(self.weight)
        self.weight[0] = self.losses[step] ** 0.5

    def setup(self, example_batch) -> None:
        self.at(0)

    def train_step(self, batch, *, progress):
        self.calls += 1
        self.at(self.calls)
        return Metrics(torch.ones((), dtype=torch.float64), 1)


def told_one_by_one(losses: list[float], num_steps: int, cadence: Cadence) -> list[int]:
    """Steps of evaluations by the rule in words: a table, halved while losses change, never too few."""
    found, interval = ([0] if cadence.eval_least else []), dict[int, int]()
    for step in range(1, num_steps + 1):
        rows = [every for below, every in cadence.eval_table if step < below]
        wanted = min([*rows[:1], cadence.eval_every])
        fewest = min([cadence.eval_every, *(every for _, every in cadence.eval_table)])
        for before, after in reversed(list(itertools.pairwise(found))):
            if cadence.eval_halve is None or abs(losses[after] / losses[before] - 1) <= cadence.eval_halve:
                break
            wanted = wanted // 2
        interval[step] = max(wanted, fewest)
        # Parts of the run that ended with this step, against those that had at the last evaluation.
        parts = [k * (cadence.eval_least + 1) // num_steps for k in (step, max([0, *found]))]
        if step % interval[step] == 0 or step == num_steps or (cadence.eval_least and parts[0] > parts[1]):
            found.append(step)
    return found


@pytest.mark.parametrize(
    ("num_steps", "cadence"),
    [
        (60, {"eval_table": ((12, 3), (40, 6)), "eval_every": 12, "eval_halve": 0.01, "eval_least": 4}),
        (60, {"eval_table": ((12, 3), (40, 6)), "eval_every": 12, "eval_halve": 0.05}),
        (37, {"eval_table": ((10, 4),), "eval_every": 16, "eval_halve": 0.02, "eval_least": 2}),
        (9, {"eval_table": ((500, 50), (2000, 100)), "eval_every": 200, "eval_halve": 0.01, "eval_least": 4}),
        (5, {"eval_every": 100, "eval_least": 4}),
        (20, {"eval_table": ((500, 50),), "eval_every": 3}),
    ],
)
def test_evaluations_follow_a_table_and_what_changes(tmp_path: Path, num_steps: int, cadence: dict) -> None:
    random, losses = torch.Generator().manual_seed(num_steps), [4.0]
    for step in range(num_steps):
        # Changes come and go, so that steps are halved, once or twice, and not halved again.
        size = 0.03 if step // 9 % 2 else 0.002
        losses.append(losses[-1] * (1 - size * float(torch.rand(1, generator=random))))
    planned = Cadence(log_every=4, save_every=7, keep=2, **cadence)
    wanted = told_one_by_one(losses, num_steps, planned)
    assert len(wanted) >= cadence.get("eval_least", -1) + 2
    for name, stop_at in (("whole", 0), ("early", 4), ("split", num_steps // 2)):
        run = directory(tmp_path, name)
        with run:
            if stop_at:
                with pytest.raises(StorageError, match="by the test"):
                    train_toy(run, Course(losses), num_steps=num_steps, cadence=planned, callbacks=[Stopper(stop_at)])
            report = train_toy(run, Course(losses), num_steps=num_steps, cadence=planned)
        assert [step for step, values in records(run.path) if "val/loss" in values] == wanted
        assert (report.steps, report.best["step"]) == (num_steps, num_steps)


def test_the_table_of_long_runs() -> None:
    cadence = HolographicRunConfig().train.cadence
    assert [k for k in range(1, 2500) if cadence.due(k, last=0)] == [
        *range(50, 500, 50), *range(500, 2000, 100), *range(2000, 2500, 200)
    ]  # fmt: skip
    # Halved while the loss changes, down to 50.
    assert [k for k in range(2000, 2401) if cadence.due(k, last=0, halvings=1)] == [2000, 2100, 2200, 2300, 2400]
    for halvings in (2, 3, 1000):
        assert [k for k in range(1, 2401) if cadence.due(k, last=0, halvings=halvings)] == list(range(50, 2401, 50))


@pytest.mark.parametrize("most", [9, 20, 70])
def test_a_run_of_unknown_length_is_evaluated_often_enough(most: int) -> None:
    cadence, last, found = HolographicRunConfig().train.cadence, 0, list[int]()
    for step in range(1, most):
        share = Budget(tokens=ENDLESS).used(steps=step, tokens=8192 * step, cpu_s=1.0, seconds=1.0)
        owed = cadence.owed(step, share, last=last, last_share=0.0, ends=Budget(tokens=ENDLESS).ends())
        if owed or cadence.due(step, last=last):
            found.append(last := step)
    assert found == [k for k in (1, 2, 4, 8, 50) if k < most]
    assert Budget(tokens=ENDLESS, steps=9).ends() and Budget(tokens=9).ends()


def test_tables_that_cannot_be_are_refused() -> None:
    for wrong, words in (
        ({"eval_table": ((5, 1), (5, 2))}, r"eval_table is \[\[5, 1\], \[5, 2\]\]: first numbers must rise from 1"),
        ({"eval_table": ((5, 0),)}, "second ones be 1 or more"),
        ({"eval_table": ((5, 1),), "eval_growth": 2.0}, "eval_growth has no effect: eval_table"),
    ):
        with pytest.raises(ValueError, match=words):
            Cadence(**wrong)


class Stopper(Callback):
    """Fails at a log point as a full disk would, and says so; the run may be continued."""

    def __init__(self, step: int) -> None:
        self.step = step

    def recorded(self, step, metrics) -> None:
        if step >= self.step:
            raise StorageError("stopped by the test")


def test_checkpoints_of_chosen_steps_stay(tmp_path: Path) -> None:
    run = directory(tmp_path, "a")
    with run:
        train_toy(run, Regression(), cadence=Cadence(log_every=4, eval_every=60, save_every=5, keep=2, keep_every=20))
    assert checkpoint.steps(run.checkpoints) == [20, 40, 55, 60]


def test_training_goes_on_past_a_full_disk_where_that_is_wanted(tmp_path: Path, monkeypatch) -> None:
    run, notes, real, count = directory(tmp_path, "a"), Notes(), checkpoint.save, []

    def save(directory: Path, *, step: int, **content) -> Path:
        count.append(step)
        if 14 <= step <= 30:
            raise StorageError("no space left")
        return real(directory, step=step, **content)

    monkeypatch.setattr(checkpoint, "save", save)
    with run:
        report = train_toy(run, Regression(), guard=Guard(on_save_error="continue"), progress=notes)
    assert len(notes.texts) == sum(14 <= s <= 30 for s in count) > 1
    # Every save was tried: none is lost because the one before it failed.
    assert set(count) == {7, 14, 15, 21, 28, 30, 35, 42, 45, 49, 56, 60}
    assert checkpoint.read(report.checkpoint).step == 60


def test_all_saves_that_wait_at_the_end_may_fail(tmp_path: Path, monkeypatch) -> None:
    run, notes, real, tried = directory(tmp_path, "a"), Notes(), checkpoint.save, []

    def save(directory: Path, *, step: int, **content) -> Path:
        if step < 50:
            return real(directory, step=step, **content)
        tried.append(f"no space left at {step}")
        # The job in front is still at work when the last one is queued behind it.
        time.sleep(0.5)
        raise StorageError(f"no space left at {step}")

    monkeypatch.setattr(checkpoint, "save", save)
    with run:
        report = train_toy(run, Regression(), guard=Guard(on_save_error="continue"), progress=notes)
    # Each failure is told of, in order, and none ends the run.
    assert len(tried) > 1
    assert notes.texts == tried
    assert checkpoint.read(report.checkpoint).step == 49


def test_samples_and_callback_states(tmp_path: Path) -> None:
    run = directory(tmp_path, "a")
    with run:
        report = train_toy(run, Regression(), callbacks=[Samples(run.path / "samples", lambda step: f"said at {step}")])
    assert (run.path / "samples" / "step-45.txt").read_text() == "said at 45"
    assert checkpoint.read(report.checkpoint).state["callbacks"]["patience"]["without"] == 0
    with pytest.raises(CheckpointError, match="patience"):
        Patience("val/loss", stop_after=1, halve_after=None).load_state({"best": "low"})


def test_checkpoints_of_the_first_version_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They knew nothing of losses that are no numbers, of callbacks or of growing distances."""
    run, real = directory(tmp_path, "a"), checkpoint.save

    def save(directory: Path, *, state, **rest) -> Path:
        old = ("step", "tokens", "cpu_s", "seconds", "evaluated", "pending_loss", "pending_tokens", "pending_cpu_s")
        kept = {k: v for k, v in state["counters"].items() if k in (*old, "best", "metrics")}
        without = {k: v for k, v in state.items() if k != "callbacks"}
        return real(directory, state={**without, "counters": kept}, **rest)

    monkeypatch.setattr(checkpoint, "save", save)
    with run, pytest.raises(StorageError, match="by the test"):
        train_toy(run, Regression(), callbacks=[Stopper(24)])
    monkeypatch.setattr(checkpoint, "save", real)
    assert checkpoint.steps(run.checkpoints)[-1] == 21
    with run:
        report = train_toy(run, Regression())
    assert report.steps == 60
    assert dict(records(run.path))[24].keys() >= {"train/loss"}


def test_a_statistic_that_is_no_number_counts_as_a_loss_that_is_none(tmp_path: Path) -> None:
    class Spoilt(Regression):
        def train_step(self, batch, *, progress):
            metrics = super().train_step(batch, progress=progress)
            norm = torch.tensor(float("inf") if self.calls == 18 else 1.0)
            return Metrics(metrics.loss, metrics.count, {**metrics.extra, "train/statistic_norm": norm})

    with directory(tmp_path, "a") as run, pytest.raises(TrainingDiverged, match="step-15"):
        train_toy(run, Spoilt())
    with directory(tmp_path, "b") as run:
        report = train_toy(run, Spoilt(), guard=Guard(on_nonfinite="skip"))
    assert report.metrics["train/nonfinite_tokens"] == 4
