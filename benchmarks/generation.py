"""Does generation slow down or grow? Speed and resident memory over 100,000 characters.

    python benchmarks/generation.py RUN [--root runs] [--tokens 100000]

What else runs on the machine moves the speed more than anything here could. So the first and the last thousand
characters are generated in turns with a session that has just begun, fifty at a time: the quotient of their CPU time
is what the age of a session costs.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

from holonomy.cli.process import tune_process
from holonomy.infer.language_model import LanguageModel
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session
from holonomy.recipes import launch

PART, THOUSAND = 50, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("--tokens", type=int, default=100_000)
    given = parser.parse_args()
    tune_process(threads=1)
    model, _ = launch.load_speaker(given.run, root=given.root)
    session = Session(model, Sampling(), seed=1)
    taken(session, PART)  # Warm-up.
    first = beside_a_fresh_one(session, model)
    memory = peak_mb()
    begin, middle = time.process_time(), given.tokens - 2 * THOUSAND - PART
    taken(session, middle)
    rate = middle / (time.process_time() - begin)
    last = beside_a_fresh_one(session, model)
    print(
        f"{given.tokens:,} characters, {rate:,.0f} per CPU-second: the first thousand take {first:.3f} of the time of "
        f"a fresh session, the last thousand {last:.3f}; peak memory {memory:.1f} MB first, {peak_mb():.1f} MB last"
    )


def taken(session: Session, count: int) -> float:
    """CPU-seconds of so many characters."""
    begin = time.process_time()
    for _ in session.reply(max_tokens=count):
        pass
    return time.process_time() - begin


def beside_a_fresh_one(session: Session, model: LanguageModel) -> float:
    """CPU time of the next thousand characters, in units of those that a session at its start takes."""
    old = fresh = 0.0
    other = Session(model, Sampling(), seed=2)
    taken(other, PART)
    for _ in range(THOUSAND // PART):
        old += taken(session, PART)
        fresh += taken(other, PART)
    return old / fresh


def peak_mb() -> float:
    """Largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
