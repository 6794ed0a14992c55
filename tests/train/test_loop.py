"""The loop: what it writes, when it stops, and that a run that was broken off ends like one that was not."""

from __future__ import annotations

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
from toy import Regression, ToyConfig, open_or_create, train_toy

from holonomy.core.budget import Cadence
from holonomy.core.errors import Interrupted, StorageError, TrainingDiverged
from holonomy.train import checkpoint
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
    from toy import Rows

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
    process = start(tmp_path / "run", 0.05)
    second = subprocess.run([sys.executable, str(TOY), str(tmp_path / "run"), "0"], capture_output=True, text=True)
    process.kill()
    process.communicate()
    assert second.returncode == 4
    assert f"pid {process.pid}" in second.stderr
    with open_or_create(tmp_path / "run") as run:
        assert run.path.exists()
