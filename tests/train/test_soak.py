"""Long runs: memory and open files stay what they were.

`python tests/train/test_soak.py SECONDS` trains that long and prints how they grow.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from mortal import small_run

from holonomy.recipes import configure, launch
from holonomy.train.monitor import SilentProgress

OFTEN = ("train.cadence.log_every=50", "train.cadence.eval_every=100", "train.cadence.save_every=100")
SAMPLES_EVERY = 100
"""Updates between two looks at the process."""


@dataclass(frozen=True)
class Growth:
    """What a run needed as it went.

    Attributes:
        steps: updates made.
        mb_per_10k: slope of the resident memory over the second half, MiB for 10,000 updates.
        handles: numbers of open files that were seen in the second half.
        threads: numbers of threads likewise.
        cpu_s: CPU-seconds.
    """

    steps: int
    mb_per_10k: float
    handles: set[int]
    threads: set[int]
    cpu_s: float


class Watch(SilentProgress):
    """Looks at this process at evaluations."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, int, int]] = []

    def update(self, step, fraction, metrics) -> None:
        if step % SAMPLES_EVERY or (self.seen and self.seen[-1][0] == step):
            return
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        handles, threads = (len(os.listdir(f"/proc/self/{what}")) for what in ("fd", "task"))
        self.seen.append((step, memory, handles, threads))


def soak(family: str, folder: Path, budget: str) -> Growth:
    """Trains a small run with an evaluation and a checkpoint every hundred updates."""
    recipe, settings = small_run(family, folder)
    kept = [s for s in settings if not s.startswith(("train.cadence", "train.budget"))]
    config = configure(recipe, overrides=[*kept, *OFTEN, f"train.budget={budget}"]).config
    watch, begin = Watch(), time.process_time()
    report = launch.train(config, recipe=recipe, run="soak", root=folder, progress=watch)
    spent = time.process_time() - begin
    late = np.array(watch.seen[len(watch.seen) // 2 :])
    slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0]) * 10_000
    # A look may meet a checkpoint that is being written, and its files.
    handles, threads = ({int(n) for n in late[:, column]} for column in (2, 3))
    return Growth(report.steps, slope, handles, threads, spent)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="looks at the process through /proc")
def test_memory_and_handles_do_not_grow(tmp_path: Path) -> None:
    """Of lior alone: the slope of ternary runs shows nothing below some ten thousand updates, which take minutes."""
    found = soak("lior", tmp_path, "{steps: 20000}")
    assert found.steps == 20_000
    assert found.mb_per_10k <= 1.0, found
    # One file of a checkpoint and its directory may be open.
    assert max(found.handles) - min(found.handles) <= 2, found
    assert len(found.threads) == 1, found


def main() -> None:
    torch.set_num_threads(1)
    for family in ("lior", "ternary"):
        with tempfile.TemporaryDirectory() as folder:
            print(family, soak(family, Path(folder), f"{{steps: null, seconds: {sys.argv[1]}}}"), flush=True)


if __name__ == "__main__":
    main()
