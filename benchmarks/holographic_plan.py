"""The memory plan of holographic recipes beside what a training takes: bytes of each structure, and of the process.

Run: `HOLONOMY_DATA=... python benchmarks/holographic_plan.py holographic holographic-shakespeare [--set key=value]`.
Each recipe is trained in a process of its own, one thread. The process is measured from after its libraries are loaded
and the kernels compiled (a tiny run comes first) to the largest it ever was; `VmHWM` is reset in between. Expected are
all structures of the plan, the counts as they are in the end, and three copies of what is saved.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.plan import WAITING, memory_plan, trie_shares
from holonomy.recipes import configure, launch
from holonomy.train.monitor import SilentProgress


def field(name: str) -> int:
    """Bytes of one line of /proc/self/status."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def measure(recipe: str, settings: list[str]) -> dict[str, object]:
    """Trains; plan, structures at the end, and growth of the process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        small = root / "small.txt"
        small.write_text(" ".join(f"w{n * n % 97}" for n in range(4000)))
        config = configure(recipe, overrides=settings).config
        less = [] if config.model.tower.role == "off" else ["model.tower.levels=3"]
        warm = configure(recipe, overrides=[f"data.source={small}", *less]).config
        launch.train(warm, recipe=recipe, run="warm", root=root, progress=SilentProgress())
        before = field("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        report = launch.train(config, recipe=recipe, run="run", root=root, progress=SilentProgress())
        peak = field("VmHWM") - before
        model = launch.load("run", root=root)
    assert isinstance(model, HolographicModel)
    plan, taken = memory_plan(config.model, model.vocab_size, report.tokens), model.stats()
    counts = sum(size for name, size in taken.items() if name in trie_shares(config.model))
    # Counts stand in no plan without a budget; each checkpoint that waits copies them too.
    expected = sum(plan.fixed.values()) + counts + plan.making["checkpoint"] + WAITING * counts
    return {
        "recipe": recipe,
        "vocabulary": model.vocab_size,
        "words": report.tokens,
        "plan": plan.fixed | plan.rooms,
        "in the making": plan.making,
        "structures": taken,
        "expected growth": expected,
        "growth": peak,
        "ratio": round(peak / expected, 3),
    }


def main() -> None:
    """Prints one JSON object for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for recipe in args.recipes:
        if args.inside:
            print(json.dumps(measure(recipe, args.settings)), flush=True)
            continue
        command = [sys.executable, __file__, recipe, "--inside", *(p for s in args.settings for p in ("--set", s))]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
