"""Words read from JSON lines, turned into ids and kept on disk, a second.

Run: `python benchmarks/word_ids.py [TEXT] [--copies 30] [--workers 1 2]` (default: tinyshakespeare): paragraphs of the
text, four to a document, each copy with a number of its own in front. CPU-seconds are those of all processes, which
spend some on starting.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from holonomy.data.cache import cached_documents
from holonomy.data.splits import Sides
from holonomy.data.stream import DocumentFiles
from holonomy.data.text import load_text
from holonomy.data.words import WordTokenizer


def spent() -> float:
    """CPU-seconds of this process and of those that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(r.ru_utime + r.ru_stime for r in both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", default="tinyshakespeare")
    parser.add_argument("--copies", type=int, default=30)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    text = load_text(given.text).text
    tokenizer, parts = WordTokenizer.train([text]), text.split("\n\n")
    sides = Sides(held_out=0.01, apart=0.01, least=50)
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "all.jsonl"
        with lines.open("w", encoding="utf-8") as file:
            for copy in range(given.copies):
                for at in range(0, len(parts), 4):
                    file.write(json.dumps({"text": f"{copy} " + "\n".join(parts[at : at + 4])}) + "\n")
        for workers in given.workers:
            begin, wall = spent(), time.perf_counter()
            made = cached_documents(
                DocumentFiles(lines), tokenizer, Path(folder) / str(workers), sides=sides, workers=workers
            )
            seconds, wall = spent() - begin, time.perf_counter() - wall
            words = sum(len(part.tokens) for part in made.parts)
            print(f"{workers} processes: {words:,} words,", end=" ")
            print(f"{words / seconds:,.0f} a CPU-second, {words / wall:,.0f} a second")


if __name__ == "__main__":
    main()
