"""Checkpoints: whole or absent, and no changed byte goes unnoticed."""

from __future__ import annotations

import errno
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from holonomy.core.errors import CheckpointError, StorageError
from holonomy.train import checkpoint

TENSORS = {"b": torch.arange(300, dtype=torch.float64), "a": torch.linspace(0, 1, 7), "n": torch.tensor(3)}


def save(directory: Path, step: int = 5, **changed) -> Path:
    content = {"tensors": TENSORS, "state": {"x": [1.5, None, "y"]}, "files": {"tokenizer.json": "{}"}, **changed}
    return checkpoint.save(directory, step=step, **content)


def test_round_trip(tmp_path: Path) -> None:
    found = checkpoint.read(save(tmp_path))
    assert found.step == 5
    assert found.state == {"x": [1.5, None, "y"]}
    assert found.files == {"tokenizer.json": "{}"}
    assert found.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    first = save(tmp_path / "x")
    second = save(tmp_path / "y", tensors=dict(reversed(TENSORS.items())))
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_views_of_one_buffer_are_saved(tmp_path: Path) -> None:
    buffer = torch.arange(10.0)
    found = checkpoint.read(save(tmp_path, tensors={"p": buffer[:4], "q": buffer[4:]}))
    assert torch.equal(found.tensors["q"], buffer[4:])


def damaged(source: Path, target: Path, name: str, content: bytes) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    (target / name).write_bytes(content)
    return target


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    whole, chance = save(tmp_path), random.Random(0)
    for name in (checkpoint.TENSORS, checkpoint.STATE, "tokenizer.json"):
        content = (whole / name).read_bytes()
        for _ in range(170):
            at = chance.randrange(len(content) * 8)
            flipped = bytearray(content)
            flipped[at // 8] ^= 1 << at % 8
            with pytest.raises(CheckpointError, match=name):
                checkpoint.read(damaged(whole, tmp_path / "odd", name, bytes(flipped)))


def test_every_truncation_is_found(tmp_path: Path) -> None:
    whole, chance = save(tmp_path), random.Random(0)
    for name in (checkpoint.TENSORS, checkpoint.STATE, "tokenizer.json"):
        content = (whole / name).read_bytes()
        for _ in range(100):
            short = content[: chance.randrange(len(content))]
            with pytest.raises(CheckpointError, match=name):
                checkpoint.read(damaged(whole, tmp_path / "odd", name, short))


def test_the_first_bad_tensor_is_named(tmp_path: Path) -> None:
    whole = save(tmp_path)
    content = bytearray((whole / checkpoint.TENSORS).read_bytes())
    content[-1] ^= 1
    last = max(TENSORS, key=lambda n: content.find(f'"{n}"'.encode()))
    with pytest.raises(CheckpointError, match=f"differs is `{last}`"):
        checkpoint.read(damaged(whole, tmp_path / "odd", checkpoint.TENSORS, bytes(content)))


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (self.canary.write_text, ("executed",))


def test_pickles_are_never_executed(tmp_path: Path) -> None:
    whole, canary = save(tmp_path), tmp_path / "canary"
    trap = pickle.dumps(Trap(canary))
    for name in (checkpoint.TENSORS, checkpoint.STATE):
        with pytest.raises(CheckpointError, match=name):
            checkpoint.read(damaged(whole, tmp_path / "odd", name, trap))
    assert not canary.exists()


def test_foreign_missing_and_linked_files(tmp_path: Path) -> None:
    whole = save(tmp_path)
    with pytest.raises(CheckpointError, match=r"foreign.*extra\.pt"):
        checkpoint.read(damaged(whole, tmp_path / "odd", "extra.pt", b"x"))
    missing = damaged(whole, tmp_path / "odd", "tokenizer.json", b"{}")
    (missing / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        checkpoint.read(missing)
    (missing / "tokenizer.json").symlink_to(whole / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json.*plain file"):
        checkpoint.read(missing)
    (tmp_path / "link").symlink_to(whole)
    for path in (tmp_path / "link", tmp_path / "none"):
        with pytest.raises(CheckpointError, match="not a checkpoint directory"):
            checkpoint.read(path)


def test_newer_schemas_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SCHEMA", 2)
    path = save(tmp_path)
    monkeypatch.setattr(checkpoint, "SCHEMA", 1)
    with pytest.raises(CheckpointError, match="schema 2.*upgrade"):
        checkpoint.read(path)


def test_names_that_leave_the_directory_are_refused(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    path = save(tmp_path / "steps", files={"..x": "1"})
    with pytest.raises(CheckpointError, match=r"\.\.x"):
        checkpoint.read(path)


def test_nan_does_not_enter_the_state(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        save(tmp_path, state={"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


class Fault(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Fault()], ids=["full", "dead"])
def test_a_save_that_breaks_anywhere_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    save(tmp_path, step=1)
    checkpoint.point(tmp_path, "latest", 1)
    calls = ("fsync", "rename", "replace")
    for point in range(1, 40):
        count = 0

        def breaking(real):
            def call(*args, **kwargs):
                nonlocal count
                count += 1
                if count == point:  # noqa: B023 - called within this round only
                    raise error
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(os, name, breaking(getattr(os, name)))
            try:
                save(tmp_path, step=2)
                checkpoint.point(tmp_path, "latest", 2)
            except (StorageError, Fault):
                pass
            else:
                break
        newest, faults = checkpoint.newest_valid(tmp_path)
        assert newest.step in (1, 2)
        assert faults == []
        latest = checkpoint.find(tmp_path, "latest")
        assert latest is not None
        checkpoint.read(latest)
        checkpoint.prune(tmp_path, keep_last=3, up_to=1)
        assert {p.name for p in tmp_path.iterdir()} == {"step-1", "latest"}
        checkpoint.point(tmp_path, "latest", 1)
    else:
        pytest.fail("the save never got through")
    assert point > 6


def test_file_size_limit_in_a_process_of_its_own(tmp_path: Path) -> None:
    program = f"""
import resource, signal, sys, torch
from pathlib import Path
from holonomy.core.errors import StorageError
from holonomy.train import checkpoint
root = Path({str(tmp_path)!r})
checkpoint.save(root, step=1, tensors={{"a": torch.zeros(8)}}, state={{}}, files={{}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (0, 1, 100, 4096, 50_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoint.save(root, step=2, tensors={{"a": torch.zeros(100_000)}}, state={{}}, files={{}})
    except StorageError as error:
        assert "File too large" in str(error) and "needs" in str(error), error
    else:
        sys.exit("saved in spite of the limit")
    assert checkpoint.read(root / "step-1").step == 1
    assert sorted(p.name for p in root.iterdir()) == ["step-1"]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_newest_valid_passes_over_damaged_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step=step)
    (tmp_path / "step-3" / checkpoint.STATE).write_bytes(b"{}")
    found, faults = checkpoint.newest_valid(tmp_path)
    assert found.step == 2
    assert len(faults) == 1
    assert "step-3" in faults[0]
    for step in (1, 2):
        (tmp_path / f"step-{step}" / checkpoint.TENSORS).unlink()
    with pytest.raises(CheckpointError, match="no whole checkpoint.*step-1"):
        checkpoint.newest_valid(tmp_path)


def test_pruning_keeps_the_last_and_the_named(tmp_path: Path) -> None:
    for step in range(1, 8):
        save(tmp_path, step=step)
    (tmp_path / f"{checkpoint.TEMPORARY}9-1").mkdir()
    checkpoint.prune(tmp_path, keep_last=2, keep=[3, 99])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-3", "step-6", "step-7"]


@pytest.mark.parametrize(("keep_last", "left"), [(3, [1, 2]), (2, [1, 2]), (1, [1, 2]), (0, [1])])
def test_pruning_of_fewer_than_it_keeps(tmp_path: Path, keep_last: int, left: list[int]) -> None:
    for step in (1, 2):
        save(tmp_path, step=step)
    checkpoint.prune(tmp_path, keep_last=keep_last, keep=[1])
    assert checkpoint.steps(tmp_path) == left


def test_pointers_fall_back_to_the_newest(tmp_path: Path) -> None:
    assert checkpoint.find(tmp_path, "latest") is None
    save(tmp_path, step=4)
    save(tmp_path, step=10)
    for content in ("step-4\n", "step-99\n", "../step-4\n", "\xff"):
        (tmp_path / "best").write_bytes(content.encode("latin1"))
        expected = "step-4" if content == "step-4\n" else "step-10"
        assert checkpoint.find(tmp_path, "best") == tmp_path / expected
