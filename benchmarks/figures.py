"""What figures of parts and samples cost a holographic run.

Run: `python benchmarks/figures.py [RECIPE] [KEY=VALUE ...]`: CPU-seconds of a training of the recipe (holographic
unless said) with these settings, one thread; and of these what takes predictions apart, what looks at the store, and
the writing of samples, evaluation by evaluation. The first of each compiles what the fit needs, too.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch

from holonomy.recipes import configure, launch
from holonomy.train.callbacks import Samples

SPENT: dict[str, list[float]] = defaultdict(list)


def timed(owner: object, name: str) -> None:
    plain = getattr(owner, name)

    def measured(*args: object, **named: object) -> object:
        begin = time.process_time()
        found = plain(*args, **named)
        SPENT[f"{getattr(owner, '__name__', owner)}.{name}"].append(time.process_time() - begin)
        return found

    setattr(owner, name, measured)


def main() -> None:
    torch.set_num_threads(1)
    recipe, *overrides = sys.argv[1:] or ["holographic"]
    for module in ("holographic", "holographic_stream"):
        for name in ("part_figures", "store_figures"):
            timed(importlib.import_module(f"holonomy.recipes.{module}"), name)
    timed(Samples, "evaluated")
    config = configure(recipe, overrides=overrides).config
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        launch.train(config, run="run", root=Path(folder))
    total = time.process_time() - begin
    print(f"{recipe}: {total:.1f} CPU-seconds")
    for name, times in SPENT.items():
        each = " ".join(f"{t:.2f}" for t in times)
        print(f"{name}: {each}, together {sum(times):.2f}, without the first {sum(times[1:]) / total:.2%}")


if __name__ == "__main__":
    main()
