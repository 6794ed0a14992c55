"""Does generation slow down or grow? Characters per CPU-second and resident memory over 100,000 characters.

python benchmarks/generation.py RUN [--root runs] [--tokens 100000]
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

from holonomy.cli.process import tune_process
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session
from holonomy.recipes import launch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("--tokens", type=int, default=100_000)
    given = parser.parse_args()
    tune_process(threads=1)
    model, _ = launch.load_speaker(given.run, root=given.root)
    session = Session(model, Sampling(), seed=1)
    marks, begin, count = [], time.process_time(), 0
    for _ in session.reply(max_tokens=given.tokens):
        count += 1
        if count % 1000 == 0:
            now = time.process_time()
            marks.append((1000 / (now - begin), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
            begin = now
    (first, memory), (last, grown) = marks[1], marks[-1]
    middle = sorted(rate for rate, _ in marks)[len(marks) // 2]
    print(
        f"{count:,} characters: {first:,.0f} per CPU-second in the second thousand, {last:,.0f} in the last, median "
        f"{middle:,.0f}; peak memory {memory:.1f} MB after two thousand, {grown:.1f} MB at the end"
    )


if __name__ == "__main__":
    main()
