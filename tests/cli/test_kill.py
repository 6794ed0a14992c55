"""The default model, killed without warning: the finished run equals one that was left alone, byte for byte."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holonomy.train import checkpoint


def holonomy(root: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "holonomy", "train", *arguments, "--root", str(root), "--threads", "1", "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def losses(run: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r.get("train/loss"), r.get("train/statistic_norm"), r.get("val/loss")) for r in lines]


def wait(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    while not happened():
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_five_times_ends_like_the_run_that_was_left_alone(tmp_path: Path) -> None:
    settings = ["--set", "train.cadence.save_every=20"]
    whole = holonomy(tmp_path, "lior-smoke", "--run", "whole", *settings)
    whole.communicate()
    assert whole.returncode == 0
    moments, folder = random.Random(1), tmp_path / "killed" / "checkpoints"
    process = holonomy(tmp_path, "lior-smoke", "--run", "killed", *settings)
    # The first dies before its first checkpoint, each other one some updates after a new one.
    wait(process, folder.is_dir)
    for _ in range(5):
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        before = checkpoint.steps(folder)
        process = holonomy(tmp_path, "--resume", "killed")
        wait(process, lambda before=before: checkpoint.steps(folder)[-1:] > before[-1:])
    process.communicate()
    assert process.returncode == 0
    runs = [tmp_path / name for name in ("whole", "killed")]
    assert losses(runs[0]) == losses(runs[1])
    last = [checkpoint.find(run / "checkpoints", "latest") for run in runs]
    assert last[0] is not None
    assert last[1] is not None
    assert last[0].name == last[1].name == "step-200"
    for name in (checkpoint.TENSORS, "tokenizer.json"):
        assert (last[0] / name).read_bytes() == (last[1] / name).read_bytes()
