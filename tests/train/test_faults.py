"""Kills at every phase and fault point: whatever dies, the next start ends like the run that was left alone."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from mortal import Countdown, in_child, start
from test_loop import records
from toy import Regression, ToyConfig, train_toy

from holonomy.core.learner import Metrics
from holonomy.train import checkpoint
from holonomy.train.run import RunDirectory

POINTS = ("open", "mkdir", "fsync", "rename", "replace")
"""Calls of a save after which a process may die."""


def trained(path: Path, learner: Regression, **options) -> None:
    run = (
        RunDirectory(path)
        if (path / "checkpoints").exists()
        else RunDirectory.create(path.parent, path.name, prefix="t", config=ToyConfig())
    )
    with run:
        train_toy(run, learner, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list, dict[str, torch.Tensor]]:
    """Records and tensors of a run that was left alone."""
    path = tmp_path_factory.mktemp("whole") / "run"
    trained(path, Regression())
    last = checkpoint.find(path / "checkpoints", "latest")
    assert last is not None
    return records(path), checkpoint.read(last).tensors


def check_continues(path: Path, whole: tuple[list, dict[str, torch.Tensor]]) -> None:
    """Every checkpoint that is there is whole; the next start ends as it should and leaves nothing behind."""
    folder = path / "checkpoints"
    for step in checkpoint.steps(folder):
        checkpoint.read(folder / f"step-{step}")
    trained(path, Regression())
    last = checkpoint.find(folder, "latest")
    assert last is not None and last.name == "step-60"
    found = checkpoint.read(last).tensors
    assert all(torch.equal(found[name], value) for name, value in whole[1].items())
    assert records(path) == whole[0]
    assert not [p for p in folder.iterdir() if p.name.startswith(checkpoint.TEMPORARY)]


def killed_in(phase: str, at: int, path: Path) -> int:
    """Trains in a child that dies at the n-th event of a phase; returns what killed it."""
    tick = Countdown(at)

    class Mortal(Regression):
        def train_step(self, batch, *, progress) -> Metrics:
            if phase == "training":
                tick()
            return super().train_step(batch, progress=progress)

        def load_state(self, state) -> None:
            if phase == "loading":
                tick()
            super().load_state(state)
            if phase == "loading":
                tick()

    def work() -> None:
        if phase == "saving":
            real = checkpoint.save

            def save(*args, **kwargs) -> Path:
                tick()
                made = real(*args, **kwargs)
                tick()
                return made

            checkpoint.save = save
        trained(path, Mortal(), on_evaluate=tick if phase == "evaluating" else lambda: None)

    return in_child(work)


@pytest.mark.parametrize("phase", ["loading", "training", "saving", "evaluating"])
def test_fifty_kills_in_each_phase(phase: str, tmp_path: Path, whole: tuple[list, dict[str, torch.Tensor]]) -> None:
    """200 in all; a second kill hits the continued run where the first one left enough to do."""
    moments, kills, tries = random.Random(phase), 0, 0
    events = {"loading": 2, "training": 60, "saving": 24, "evaluating": 4}[phase]
    while kills < 50:
        path = tmp_path / f"run-{tries}"
        tries += 1
        if phase == "loading":
            assert killed_in("training", moments.randint(10, 60), path) == -signal.SIGKILL
        kills += killed_in(phase, moments.randint(1, events), path) == -signal.SIGKILL
        kills += killed_in(phase, moments.randint(1, events), path) == -signal.SIGKILL
        check_continues(path, whole)
    assert tries < 100


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_every_fault_point_of_a_save(
    point: str, tmp_path: Path, whole: tuple[list, dict[str, torch.Tensor]]
) -> None:
    """Dies after call number k of each kind that a run makes, for all k up to a whole run."""
    deaths = 0
    for k in range(1, 200):
        path, tick = tmp_path / f"{point}-{k}", Countdown(k)

        def work(path: Path = path, tick: Countdown = tick) -> None:
            real = getattr(os, point)

            def call(*args, **kwargs):
                made = real(*args, **kwargs)
                tick()
                return made

            setattr(os, point, call)
            trained(path, Regression())

        if in_child(work) != -signal.SIGKILL:
            break
        deaths += 1
        check_continues(path, whole)
    assert deaths > 5
    assert k < 199


def flipped(content: bytes, moments: random.Random) -> bytes:
    at = moments.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << moments.randrange(8)]) + content[at + 1 :]


def damage_is_refused(path: Path, num_flips: int, num_cuts: int) -> int:
    """Flips single bits and cuts files of a checkpoint, in turn over all its files; how many were refused."""
    moments = random.Random(5)
    files = sorted(path.iterdir())
    for n in range(num_flips + num_cuts):
        file = files[n % len(files)]
        content = file.read_bytes()
        bad = flipped(content, moments) if n < num_flips else content[: moments.randrange(len(content))]
        file.write_bytes(bad)
        with pytest.raises(checkpoint.CheckpointError, match=file.name.replace(".", r"\.")):
            checkpoint.read(path)
        file.write_bytes(content)
    checkpoint.read(path)
    return num_flips + num_cuts


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    trained(tmp_path / "run", Regression())
    path = checkpoint.find(tmp_path / "run" / "checkpoints", "latest")
    assert path is not None
    return path


def test_damage_is_refused_and_named(saved: Path) -> None:
    assert damage_is_refused(saved, 1000, 300) == 1300


@pytest.mark.slow
@pytest.mark.parametrize("family", ["lior", "holographic", "ternary", "words"])
def test_thousands_of_flips_and_cuts(family: str, tmp_path: Path) -> None:
    """Of the last checkpoint of a run of each family and of a stream: 10,000 flips and 1,000 cuts in all."""
    start(family, tmp_path / "run")
    path = checkpoint.find(tmp_path / "run" / "checkpoints", "latest")
    assert path is not None
    assert damage_is_refused(path, 2_500, 250) == 2_750


def test_exchanged_files_are_refused(tmp_path: Path) -> None:
    """Each file of one checkpoint in place of the same file of another, both of them whole."""
    trained(tmp_path / "a", Regression())
    other = tmp_path / "b"
    trained(other, Regression(), num_steps=56)
    mine, theirs = (checkpoint.find(p / "checkpoints", "latest") for p in (tmp_path / "a", other))
    assert mine is not None and theirs is not None
    for name in (checkpoint.TENSORS, checkpoint.STATE):
        content = (mine / name).read_bytes()
        shutil.copy(theirs / name, mine / name)
        with pytest.raises(checkpoint.CheckpointError, match=r"tensors\.safetensors"):
            checkpoint.read(mine)
        (mine / name).write_bytes(content)
