"""The catalogue against the folders it stands for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toy import Regression, ToyConfig, train_toy

from holonomy.core.config import Config
from holonomy.core.errors import StorageError
from holonomy.train import catalogue, checkpoint
from holonomy.train.catalogue import Catalogue
from holonomy.train.run import RunDirectory


class Data(Config):
    source: str = "rows"


class Train(Config):
    budget: dict = {"steps": 60}  # noqa: RUF012 - pydantic copies defaults


class Whole(ToyConfig):
    family: str = "toy"
    data: Data = Data()
    train: Train = Train()


def create(root: Path, name: str, num_steps: int) -> RunDirectory:
    run = RunDirectory.create(root, name, prefix="toy", config=Whole())
    if num_steps:
        with run:
            train_toy(run, Regression(), num_steps=num_steps)
    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, num_steps in (("finished", 60), ("stopped", 30), ("empty", 0), ("broken", 20)):
        create(tmp_path, name, num_steps)
    state = tmp_path / "broken" / "checkpoints" / "step-20" / checkpoint.STATE
    state.write_bytes(state.read_bytes()[:-5])
    (tmp_path / "notes").mkdir()
    return tmp_path


def states(root: Path) -> dict[str, str]:
    return {r.name: r.state for r in Catalogue(root).records()}


def test_every_run_is_listed_whatever_its_state(root: Path) -> None:
    assert states(root) == {"finished": "finished", "stopped": "stopped", "empty": "empty", "broken": "damaged"}
    records = {r.name: r for r in Catalogue(root).records()}
    assert records["finished"].step == 60
    assert records["stopped"].step == 30
    saved = checkpoint.read(root / "finished" / "checkpoints" / "step-60").state["counters"]
    assert records["finished"].loss == saved["metrics"]["val/loss"]
    assert records["finished"].family == "toy"
    best = Catalogue(root).best()
    assert best is not None
    assert best.name == "finished"


def test_the_index_is_only_a_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Catalogue(root).records()
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "read_record", lambda run: pytest.fail(f"read {run} again"))
        assert Catalogue(root).records() == first
    (root / catalogue.INDEX).unlink()
    assert Catalogue(root).records() == first
    shutil.rmtree(root / "finished")
    assert "finished" not in states(root)
    with RunDirectory(root / "stopped") as run:
        assert states(root)["stopped"] == "running"
        train_toy(run, Regression(), num_steps=60)
    assert states(root)["stopped"] == "finished"


def test_runs_where_nobody_can_write_are_listed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.chmod(0o500)
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert states(root) == {"finished": "finished", "stopped": "stopped", "empty": "empty", "broken": "damaged"}
    assert not (root / catalogue.INDEX).exists()
    root.chmod(0o700)


def test_a_damaged_index_is_one_error(root: Path) -> None:
    (root / catalogue.INDEX).write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match="delete it"):
        Catalogue(root).records()


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    for n in range(60):
        (tmp_path / f"run-{n}" / "checkpoints").mkdir(parents=True)
    program = f"""
import os
from pathlib import Path
from holonomy.train.catalogue import Catalogue
root = Path({str(tmp_path)!r})
for n in range(60):
    os.utime(root / f"run-{{n}}" / "checkpoints")
    assert len(Catalogue(root).records()) == 60
"""
    writers = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors
    assert len(Catalogue(tmp_path).records()) == 60


def test_pruning_keeps_newest_and_best(root: Path) -> None:
    directory = root / "stopped" / "checkpoints"
    assert len(checkpoint.steps(directory)) > 1
    checkpoint.point(directory, "best", checkpoint.steps(directory)[-1])
    assert Catalogue(root).prune(["stopped"]) > 0
    assert checkpoint.steps(directory) == [30]
    assert Catalogue(root).prune(["stopped"]) == 0


def test_directories_whose_names_are_no_text_are_passed_over(tmp_path: Path) -> None:
    create(tmp_path, "a", 0)
    (tmp_path / os.fsdecode(b"\xff") / "checkpoints").mkdir(parents=True)
    assert [r.name for r in Catalogue(tmp_path).records()] == ["a"]


def test_no_runs_is_no_error(tmp_path: Path) -> None:
    assert Catalogue(tmp_path / "none").records() == []
    assert Catalogue(tmp_path).best() is None
    assert json.loads("[]") == os.listdir(tmp_path)
