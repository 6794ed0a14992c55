"""kill -9 at any moment of small runs of every family: the next start ends with the same bits.

`python tests/train/test_kills.py [EACH [FAMILY ...]]` counts the kills by phase, `EACH` or more in each and ten by
default, and after them those at every fault point of the saves.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mortal import PHASES, Countdown, Outcome, check_continues, in_child, kill_all_phases, start

from holonomy.train import checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's timers kill")
FAMILIES = ("lior", "holographic", "ternary", "stream", "words")
CALLS = ("open", "mkdir", "fsync", "rename", "replace", "truncate", "unlink", "rmdir")
"""What a run asks of the file system besides writing."""


def count_down(tick: Callable[[], None]) -> None:
    """Lets this process tick after every change it makes to files, and in the middle of every file of a checkpoint."""

    def counted(real: Callable) -> Callable:
        def call(*arguments, **options):
            made = real(*arguments, **options)
            tick()
            return made

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    write = checkpoint._write_synced

    def halved(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        tick()
        write(path, content)

    checkpoint._write_synced = halved


def fault_points(family: str, folder: Path, chosen: Callable[[int], bool] = lambda k: True) -> int:
    """Dies after change k to files, for all chosen k up to the last one of a run; returns how often.

    The first change is that of the first run directory; the last are those of the last checkpoint and the result.
    """
    start(family, folder / "whole")
    whole, deaths, k = Outcome.read(folder / "whole"), 0, 0
    while True:
        k += 1
        if not chosen(k):
            continue
        path, tick = folder / f"point-{k}", Countdown(k)

        def work(path: Path = path, tick: Countdown = tick) -> None:
            count_down(tick)
            start(family, path)

        if in_child(work) != -signal.SIGKILL:
            return deaths
        deaths += 1
        check_continues(family, path, whole)


@pytest.mark.parametrize(("family", "each"), [("lior", 2), ("ternary", 1), ("stream", 1), ("words", 1)])
def test_kills_in_each_phase(family: str, each: int, tmp_path: Path) -> None:
    hits = kill_all_phases(family, tmp_path, each=each, seed=1)
    assert min(hits.values()) >= each


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_ten_kills_in_each_phase(family: str, tmp_path: Path) -> None:
    """Of three families and of two streams: 50 in each phase, 200 in all."""
    assert min(kill_all_phases(family, tmp_path, each=10, seed=2).values()) >= 10


def test_a_kill_at_some_fault_points(tmp_path: Path) -> None:
    assert fault_points("lior", tmp_path, lambda k: k % 23 == 0) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_kill_at_every_fault_point(family: str, tmp_path: Path) -> None:
    assert fault_points(family, tmp_path) > 100


def main() -> None:
    torch.set_num_threads(1)
    each, families = int((sys.argv[1:] or ["10"])[0]), sys.argv[2:] or FAMILIES
    total = dict.fromkeys(PHASES, 0)
    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            hits = kill_all_phases(family, Path(folder), each=each, seed=2)
        print(f"{family}: {hits}", flush=True)
        total = {phase: total[phase] + hits[phase] for phase in PHASES}
    print(f"{sum(total.values())} kills in all, each run continued to the same bits: {total}", flush=True)
    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{family}: killed at {fault_points(family, Path(folder))} fault points", flush=True)


if __name__ == "__main__":
    main()
