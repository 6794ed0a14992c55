"""Run directories: found by name, path or checkpoint; never overwritten."""

from __future__ import annotations

import json
import math
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from toy import ToyConfig

from holonomy.core.config import read_yaml
from holonomy.core.errors import CheckpointError, ConfigError, StorageError
from holonomy.train import checkpoint
from holonomy.train.monitor import MetricsLog, read_curves
from holonomy.train.run import RunDirectory

DEAD = 2**22 + 1
"""A process number that Linux does not give."""


def create(root: Path, name: str | None) -> RunDirectory:
    return RunDirectory.create(root, name, prefix="toy", config=ToyConfig())


@pytest.mark.parametrize("name", ["plain", "with space", "\u00fc\u00f1\u00ee", "n" * 200])
def test_created_and_found_again(tmp_path: Path, name: str) -> None:
    run = create(tmp_path, name)
    assert read_yaml(run.path / "config.yaml")[0] == {"steps": 60}
    assert json.loads((run.path / "env.json").read_text())["torch"]
    step = run.checkpoints / "step-3"
    step.mkdir()
    for text, root in ((name, tmp_path), (str(run.path), Path("elsewhere")), (f"{name}/checkpoints/step-3", tmp_path)):
        assert RunDirectory.open(text, root).path == run.path


def test_names_come_from_the_recipe_and_the_time(tmp_path: Path) -> None:
    assert create(tmp_path, None).path.name.startswith("toy-20")


def test_who_begins_in_the_same_second_gets_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda form: "20260101-000000")
    made = [RunDirectory.create(tmp_path, None, prefix="x", config=ToyConfig()).path.name for _ in range(3)]
    assert made == ["x-20260101-000000", "x-20260101-000000-2", "x-20260101-000000-3"]


def test_of_many_that_make_one_run_at_once_one_does(tmp_path: Path) -> None:
    def make(number: int) -> int | None:
        with suppress(ConfigError, CheckpointError):
            RunDirectory.create(tmp_path, name, prefix="x", config=ToyConfig(steps=number + 1))
            return number
        return None

    with ThreadPoolExecutor(8) as pool:
        for name in map(str, range(20)):
            (winner,) = [number for number in pool.map(make, range(8)) if number is not None]
            assert read_yaml(tmp_path / name / "config.yaml")[0] == {"steps": winner + 1}


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    create(tmp_path, "a")
    before = (tmp_path / "a" / "env.json").read_bytes()
    with pytest.raises(ConfigError, match="--resume a"):
        create(tmp_path, "a")
    assert (tmp_path / "a" / "env.json").read_bytes() == before


def test_a_run_that_died_while_it_was_made_is_made_again(tmp_path: Path) -> None:
    """A process may die after each file; what a user put there stays."""
    create(tmp_path, "whole")
    files = ("env.json", "config.yaml")
    for n in range(3):
        path = tmp_path / f"half-{n}"
        path.mkdir()
        for name in files[:n]:
            (path / name).write_bytes((tmp_path / "whole" / name).read_bytes())
        (path / f".{files[min(n, 1)]}.{DEAD}").write_text("half")
        with create(tmp_path, path.name) as run:
            assert {p.name for p in run.path.iterdir()} == {*files, "checkpoints", "lock"}
    for content in ({"config.yaml"}, {"env.json", "notes"}):
        path = tmp_path / "-".join(sorted(content))
        path.mkdir()
        for name in content:
            (path / name).write_text("mine")
        with pytest.raises(ConfigError, match="holds a run already"):
            create(tmp_path, path.name)
        assert {p.read_text() for p in path.iterdir()} == {"mine"}


def test_a_run_made_at_once_is_one_when_its_checkpoint_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merged run of which nothing was saved can be merged again, and cannot be trained to something else."""

    def made() -> RunDirectory:
        return RunDirectory.create(tmp_path, "a", prefix="toy", config=ToyConfig(), at_once=True)

    def save(run: RunDirectory) -> None:
        checkpoint.save(run.checkpoints, step=3, tensors={"x": torch.ones(2)}, state={"b": 1}, files={})

    honest, calls = checkpoint._write_synced, list[Path]()

    def killed(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        honest(path, content)

    monkeypatch.setattr(checkpoint, "_write_synced", killed)
    with pytest.raises(KeyboardInterrupt):
        save(made())
    assert any(tmp_path.rglob(calls[0].name)), "what the dead left is in the way of nobody"
    with pytest.raises(CheckpointError, match="not a run directory"):
        RunDirectory.open("a", tmp_path)
    with made() as run:
        save(run)
    assert {p.name for p in run.path.iterdir()} == {"env.json", "config.yaml", "checkpoints", "lock"}
    assert checkpoint.read(RunDirectory.open("a", tmp_path).checkpoints / "step-3").step == 3
    with pytest.raises(ConfigError, match="holds a run already"):
        made()


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    names = {f".audit.json.{os.getppid()}", ".profile", ".x.y", "result.json.1"}
    for name in (*names, f".audit.json.{DEAD}", f".result.json.{os.getpid()}"):
        (tmp_path / name).touch()
    with RunDirectory(tmp_path):
        assert {p.name for p in tmp_path.iterdir()} == names | {"lock"}


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\udcff", "\x1b[31m"])
def test_names_that_cannot_be_shown_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="control character"):
        RunDirectory.create(tmp_path, name, prefix="x", config=ToyConfig())
    assert list(tmp_path.iterdir()) == []


def test_a_leftover_that_cannot_be_removed_does_not_keep_the_lock(tmp_path: Path) -> None:
    (tmp_path / f".x.{DEAD}").mkdir()
    with pytest.raises(StorageError, match="cannot remove"):
        RunDirectory(tmp_path).__enter__()
    (tmp_path / f".x.{DEAD}").rmdir()
    with RunDirectory(tmp_path) as run:
        assert run.path == tmp_path


def test_a_missing_run_gets_a_suggestion(tmp_path: Path) -> None:
    create(tmp_path, "shakespeare")
    with pytest.raises(CheckpointError, match="did you mean `shakespeare`"):
        RunDirectory.open("shakespear", tmp_path)
    with pytest.raises(CheckpointError, match="no runs"):
        RunDirectory.open("x", tmp_path / "none")


def test_what_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="Not a directory"):
        create(tmp_path / "file", "a")
    with pytest.raises(StorageError, match="name too long"):
        create(tmp_path, "n" * 300)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_root_is_one_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        create(tmp_path, "a")


def test_the_log_drops_later_and_half_written_records(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.truncate_after(3)
    for step in (1, 2, 2, 3, 4):
        log.write(step, {"x": step / 2})
    with log.path.open("a") as file:
        file.write('{"step": 2, "x"')
    log.truncate_after(3)
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {"step": s, "x": s / 2} for s in (1, 2, 2, 3)
    ]


@pytest.mark.parametrize("middle", ["", "damaged\n"])
def test_who_dies_while_the_log_is_cut_loses_nothing(tmp_path: Path, middle: str, monkeypatch) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.path.write_text('{"step": 1}\n' + middle + '{"step": 2}\n{"step": 3}\n')
    before = log.path.read_bytes()

    def broken(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        for name in ("truncate", "replace"):
            patch.setattr(os, name, broken)
        with pytest.raises(StorageError, match="Input/output"):
            log.truncate_after(2)
    assert log.path.read_bytes() == before
    log.truncate_after(2)
    assert log.path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_record_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(1, {"x": 1.0})
    before = log.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
    try:
        with pytest.raises(StorageError, match="File too large"):
            log.write(2, {"x": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert log.path.read_bytes() == before


def test_the_log_is_read_back_by_metric(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert read_curves(log.path).values == {}
    log.write(1, {"a": 0.1, "b": math.nan})
    log.write(2, {"a": 0.2})
    log.write(2, {"c": 3})
    with log.path.open("a") as file:
        file.write('{"step": 3, "a": "text", "b": true, "c": 4}\n[]\n\n{"step": 4, "a"')
    found = read_curves(log.path)
    assert (found.records, found.damaged) == (4, (5, 6, 7))
    assert {name: (list(x), list(y)) for name, (x, y) in found.values.items() if name != "b"} == {
        "a": ([1, 2], [0.1, 0.2]),
        "c": ([2, 3], [3, 4]),
    }
    assert math.isnan(found.last["b"])
    with pytest.raises(StorageError, match="cannot read"):
        read_curves(tmp_path)
