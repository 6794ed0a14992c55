"""Full and read-only disks: what was saved before stays, the exit code says what happened, and room lets it go on."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from mortal import Outcome, check_continues, in_child, small_run, start

from holonomy.cli import main
from holonomy.core.config import LEFTOVER
from holonomy.learn.echo import EchoLearner
from holonomy.train import checkpoint

NOBODY = 65534


def command(errors: Path, *arguments: str, first: Callable[[], object] = lambda: None) -> int:
    """The exit code of `holonomy train` in a child, whose standard error goes to a file."""

    def work() -> int:
        with errors.open("w") as file, redirect_stderr(file):
            first()
            sys.argv = ["holonomy", "train", *arguments, "--threads", "1", "--quiet"]
            with pytest.raises(SystemExit) as ended:
                main.run()
        return int(ended.value.code or 0)

    return in_child(work)


def run_that(path: Path, errors: Path, *, at: int, change: Callable[[], object], settings: tuple[str, ...] = ()) -> int:
    """Trains through the command line in a child; something happens right before an update. Returns the exit code."""
    recipe, given = small_run("lior", path.parent)

    def first() -> None:
        real, calls = EchoLearner.train_step, []

        def train_step(*arguments, **further):
            calls.append(1)
            if len(calls) == at:
                # The checkpoint of the fourth update is written beside the fifth.
                while not (path / "checkpoints" / "best").exists():
                    time.sleep(0.01)
                change()
            return real(*arguments, **further)

        EchoLearner.train_step = train_step

    options = ["--run", path.name, "--root", str(path.parent), *(f"--set={s}" for s in (*given, *settings))]
    return command(errors, recipe, *options, first=first)


def whole_checkpoints(path: Path) -> list[int]:
    """Reads every checkpoint of a run, and looks for what should have been removed."""
    found = checkpoint.steps(path / "checkpoints")
    for step in found:
        checkpoint.read(path / "checkpoints" / f"step-{step}")
    assert not [p for p in path.rglob("*") if p.name.startswith(checkpoint.TEMPORARY) or LEFTOVER.fullmatch(p.name)]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    path = tmp_path_factory.mktemp("whole") / "run"
    start("lior", path)
    return Outcome.read(path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting needs root and its capabilities: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(path: Path, left: int) -> None:
    """Takes all space of a disk but so many bytes."""
    block = os.statvfs(path).f_frsize
    free = os.statvfs(path).f_bavail * block
    with (path / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(block, (free - left) // block * block))


@pytest.mark.parametrize("sizes", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_disk_that_fills(sizes: int, disk: Path, tmp_path: Path, whole: Outcome) -> None:
    path, errors = disk / "run", tmp_path / "errors"
    start("lior", path)
    needed = sum(f.stat().st_size for f in (path / "checkpoints" / "step-12").iterdir())
    ends = []
    for n in range(sizes):
        subprocess.run(["rm", "-r", path], check=True)
        # The updates after the fourth need two more checkpoints and may keep three.
        left = n * 2 * needed // sizes
        ends.append(run_that(path, errors, at=5, change=lambda left=left: fill(disk, left)))
        assert whole_checkpoints(path)[0] == 4
        if ends[-1]:
            said = " ".join(errors.read_text().split())
            assert re.search(r"cannot (save|write) `.*/run/.*No space left on device", said), said
            assert re.search(r"it needs [\d,]+ bytes and [\d,]+ bytes are free", said), said
        (disk / "filler").unlink()
        check_continues("lior", path, whole)
    assert set(ends) <= {0, 6}
    assert ends.count(6) >= sizes // 4


def test_training_goes_on_where_that_is_wanted(disk: Path, tmp_path: Path, whole: Outcome) -> None:
    path, errors = disk / "run", tmp_path / "errors"
    settings = ("train.guard.on_save_error=continue", "train.cadence.samples=0")
    code = run_that(path, errors, at=5, change=lambda: fill(disk, 0), settings=settings)
    assert code == 0, errors.read_text()
    assert whole_checkpoints(path) == [4]
    said = [line for line in errors.read_text().splitlines() if "No space left" in line]
    # Records, the checkpoints and the result: each says what it lacks.
    assert any("metrics.jsonl" in line for line in said)
    for line in said:
        assert re.search(r"it needs [\d,]+ bytes and 0 bytes are free", line), line
    (disk / "filler").unlink()
    check_continues("lior", path, whole)


def stopped(path: Path, errors: Path) -> dict[Path, bytes]:
    """A run that was interrupted after its sixth update, and all its files."""
    assert run_that(path, errors, at=6, change=lambda: os.kill(os.getpid(), signal.SIGTERM)) == 143
    assert whole_checkpoints(path)[-1] == 6
    return contents(path)


def contents(path: Path) -> dict[Path, bytes]:
    return {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}


def test_a_disk_that_is_read_only(disk: Path, tmp_path: Path, whole: Outcome) -> None:
    path, errors = disk / "run", tmp_path / "errors"
    before = stopped(path, errors)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for arguments in (["--resume", str(path)], ["lior-smoke", "--root", str(disk), "--run", "other"]):
        assert command(errors, *arguments) == 6
        assert re.search(r"`\S*(run/lock|other)`: Read-only file system", " ".join(errors.read_text().split()))
    assert contents(path) == before
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    check_continues("lior", path, whole)


@pytest.mark.parametrize("limit", [300, 10_000, 20_000, 40_000])
def test_files_that_may_not_grow(limit: int, tmp_path: Path, whole: Outcome) -> None:
    """What a quota does, without being root."""
    path, errors = tmp_path / "run", tmp_path / "errors"

    def change() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code = run_that(path, errors, at=5, change=change)
    assert code == 6, errors.read_text()
    assert "File too large" in errors.read_text()
    assert whole_checkpoints(path)[0] == 4
    check_continues("lior", path, whole)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes somebody else")
def test_a_directory_of_somebody_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path, errors = tmp_path / "run", tmp_path / "errors"
    before = stopped(path, errors)

    def become_nobody() -> None:
        # From inside, because others may not enter the directories above.
        os.chdir(tmp_path)
        os.setuid(NOBODY)

    assert command(errors, "--resume", "run", "--root", ".", first=become_nobody) == 6
    assert "`run/lock`: Permission denied" in " ".join(errors.read_text().split())
    assert contents(path) == before
