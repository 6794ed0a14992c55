"""Long runs: memory and open files stay what they were.

`python tests/train/test_soak.py UPDATES [FAMILY ...]` trains as long and prints how they grow.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from mortal import small_run

from holonomy.recipes import configure, launch
from holonomy.train.monitor import SilentProgress

EVERY = 500
"""Updates between two evaluations, two checkpoints, and two looks at the process; records come ten times as often."""
_CADENCE = {f"train.cadence.{what}_every": str(EVERY) for what in ("eval", "save")}
_OFTEN = {**_CADENCE, "train.cadence.log_every": str(EVERY // 10)}
_COUNTS = {
    "model.batch_size": "1",
    "model.mixture.positions": "100",
    "model.tower.role": "mirror",
    "model.tower.levels": "3",
    "model.tower.channels": "1",
    "model.tower.top_digits": "{2: 1}",
    "model.counts.order": "3",
    "model.counts.skips": "[[1, 3]]",
    "model.counts.classes": "[]",
    "train.positions": "100",
}
SMALLEST: Mapping[str, Mapping[str, str]] = {
    "lior": {
        "model.d": "8",
        "model.n_osc": "8",
        "model.hidden": "8",
        "model.blocks": "1",
        "data.seq_len": "8",
        "data.batch": "1",
    },
    "holographic": _COUNTS,
    "ternary": {
        "data.digits": "3",
        "data.extra_from_level": "3",
        "data.batch": "8",
        "model.latent_dim": "2",
        "model.hidden": "[8]",
        "model.decoder_hidden": "8",
        "model.projection.hidden": "8",
        "loss.padic_triplet.weight": "0",
    },
}
"""Settings that make an update of a family cheap."""


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
    """Looks at this process at evaluations, after what is free went back to the system."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, int, int]] = []
        self.trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)

    def update(self, step, fraction, metrics) -> None:
        if step % EVERY or (self.seen and self.seen[-1][0] == step):
            return
        self.trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        handles, threads = (len(os.listdir(f"/proc/self/{what}")) for what in ("fd", "task"))
        self.seen.append((step, memory, handles, threads))


def soak(family: str, folder: Path, updates: int) -> Growth:
    """Trains a run of a family with an evaluation and a checkpoint every `EVERY` updates."""
    recipe, settings = small_run(family, folder)
    chosen = dict(setting.split("=", 1) for setting in settings) | SMALLEST[family] | _OFTEN
    if family == "holographic":
        # One text again and again: what is known of it does not grow.
        text = (folder / "text.txt").read_text()[:2000]
        (folder / "text.txt").write_text(text * (2 * updates // len(text.split())))
        chosen |= {"train.share": "1.0", "data.train_share": "0.9"}
    else:
        chosen |= {"train.budget.steps": str(updates)}
    config = configure(recipe, overrides=[f"{k}={v}" for k, v in chosen.items()]).config
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
@pytest.mark.parametrize("family", SMALLEST)
def test_memory_and_handles_do_not_grow(family: str, tmp_path: Path) -> None:
    found = soak(family, tmp_path, 20_000)
    assert found.steps >= 20_000
    assert found.mb_per_10k <= 1.0, found
    # One file of a checkpoint and its directory may be open.
    assert max(found.handles) - min(found.handles) <= 2, found
    assert len(found.threads) == 1, found


def main() -> None:
    torch.set_num_threads(1)
    for family in sys.argv[2:] or SMALLEST:
        with tempfile.TemporaryDirectory() as folder:
            print(family, soak(family, Path(folder), int(sys.argv[1])), flush=True)


if __name__ == "__main__":
    main()
