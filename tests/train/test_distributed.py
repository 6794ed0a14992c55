"""Processes that train together: equal to one with the whole batch, and what remains when one dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from holonomy.core.errors import ConfigError
from holonomy.recipes import configure
from holonomy.recipes.lior import PARTS
from holonomy.train import checkpoint
from holonomy.train.distributed import World

SCRIPT = Path(__file__).parent / "replicas.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
PATIENCE = 300
"""Seconds after which something hangs; starting two processes takes minutes where many others run."""
SMALL = ["--set", "model.d=16", "--set", "model.n_osc=16", "--set", "model.hidden=16", "--set", "model.heads=2"]
SMALL += ["--set", "data.seq_len=32", "--threads", "1", "--set", "train.cadence.save_every=20"]


@pytest.mark.parametrize("kind", ["echo", "autograd"])
def test_two_processes_equal_one_with_the_doubled_batch(kind: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    port = str(29610 + (kind == "echo"))
    runs = [
        [sys.executable, str(SCRIPT), kind, "8", str(one)],
        [*TORCHRUN, port, str(SCRIPT), kind, "4", str(two)],
    ]
    for command in runs:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
    found, wanted = load_file(two), load_file(one)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float((found[name] - value).abs().max()) <= 1e-6, name


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(p) for p in listed.read_text().split()] if listed.exists() else []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers through /proc")
def test_a_killed_process_ends_the_run_with_a_checkpoint_that_continues(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{n} and {n + 1} make {2 * n + 1}.\n" for n in range(600)))
    train = [*TORCHRUN, "29613", "-m", "--", "holonomy", "train", "lior", "--data", "text.txt", "--run", "pair"]
    command = [*train, "--steps", "100000", *SMALL]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    checkpoints = tmp_path / "runs" / "pair" / "checkpoints"
    begin = time.monotonic()
    while not (checkpoints.is_dir() and len(checkpoint.steps(checkpoints)) > 1) and time.monotonic() - begin < PATIENCE:
        time.sleep(0.05)
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert "lost the others" in errors or "interrupted by signal 15" in errors or "SIGTERM" in errors
    saved, faults = checkpoint.newest_valid(checkpoints)
    assert saved.step > 0 and not faults
    again = [sys.executable, "-m", "holonomy", "train", "--resume", "pair", "--threads", "1"]
    process = subprocess.Popen(again, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    begin = time.monotonic()
    while checkpoint.steps(checkpoints)[-1] <= saved.step and time.monotonic() - begin < PATIENCE:
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, errors
    assert checkpoint.steps(checkpoints)[-1] > saved.step


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers through /proc")
def test_torchrun_starts_a_run_again_where_its_last_checkpoint_is(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{n} and {n + 1} make {2 * n + 1}.\n" for n in range(600)))
    launcher = [*TORCHRUN, "29615", "--max-restarts", "1", "-m", "--", "holonomy", "train", "lior"]
    command = [*launcher, "--data", "text.txt", "--run", "pair", "--steps", "1000", *SMALL, "--json"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = tmp_path / "runs" / "pair"
    begin = time.monotonic()
    while not ((run / "checkpoints").is_dir() and checkpoint.steps(run / "checkpoints")):
        assert time.monotonic() - begin < PATIENCE
        time.sleep(0.01)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert "continuing runs/pair at step" in errors
    assert json.loads(printed.splitlines()[-1])["steps"] == 1000
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in lines if "train/loss" in r] == list(range(10, 1001, 10))


def test_a_run_of_several_processes_needs_a_name(tmp_path: Path) -> None:
    command = [*TORCHRUN, "29614", "-m", "--", "holonomy", "train", "lior-smoke"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode != 0
    assert "`--run` is missing" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_only_what_follows_the_batches_of_one_process_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} and {n + 1} make {2 * n + 1}.\n" for n in range(600)))
    small = (f"data.source={text}", *SMALL[1:-4:2], "data.seq_len=32")
    work = PARTS.prepare(configure("lior", overrides=small).config, start=None, saved=None, world=World(0, 2))
    assert len(work.sampler.next().inputs) == work.config.data.batch
    carried = configure("lior", overrides=(*small, "data.carried=2")).config
    with pytest.raises(ConfigError, match=r"data\.carried"):
        PARTS.prepare(carried, start=None, saved=None, world=World(0, 2))
