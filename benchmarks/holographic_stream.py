"""A stream of any length within a memory budget: bytes of every structure and of the process as words go by.

Run: `HOLONOMY_DATA=... python benchmarks/holographic_stream.py --tokens 100000000 --memory 2048 [--out curve.jsonl]`.
Documents of the texts in the data directory, the reference text of Python among them, come in random order without
end. Of each, spans of `--span` words on average are put together in random order with those of other documents: without
that a text of a million words would hold nothing unseen after its first time, and nothing would ever have to be
dropped. One record every `--every` words; learning is counted in CPU-seconds of this process, making the stream apart.
Held-out documents, whole, are predicted at the end of every decade, by the plain counts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import resource
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from holonomy.core.errors import DataError
from holonomy.data.splits import split_documents
from holonomy.data.text import data_directory, load_text
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.config import HolographicConfig, TowerConfig
from holonomy.models.holographic.contexts import Contexts, of_text
from holonomy.models.holographic.model import HolographicModel

LEAST = 50
"""Characters of the shortest document."""
BLOCK = 1 << 18
"""Words made at a time."""


def documents() -> list[str]:
    """All documents that are there: addresses, articles, scenes and topics."""
    found = load_text("pydoc").text.split("\n\n\n")
    folder = data_directory()
    if (folder / "tinyshakespeare.txt").is_file():
        lines = load_text("tinyshakespeare").text.split("\n\n")
        found += ["\n\n".join(lines[i : i + 20]) for i in range(0, len(lines), 20)]
    for part in ("valid", "test"):
        path = folder / f"wikitext2_{part}.txt.gz"
        if path.is_file():
            found += re.split(r"\n(?= = [^=])", gzip.decompress(path.read_bytes()).decode())
    if (folder / "state_union.zip").is_file():
        with zipfile.ZipFile(folder / "state_union.zip") as archive:
            names = [n for n in archive.namelist() if n.endswith(".txt")]
            found += [archive.read(n).decode("latin-1") for n in sorted(names)]
    return [d for d in found if len(d) >= LEAST]


def stream(texts: list[np.ndarray], span: float, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Words and where documents begin, block by block; each document is made of spans of a random pool of others."""
    random, lengths = np.random.default_rng(seed), np.array([len(t) for t in texts])
    joined, offsets = np.concatenate(texts), np.cumsum([0, *lengths[:-1]])
    order = np.empty(0, dtype=np.int64)
    while True:
        out, starts, count = list[np.ndarray](), list[int](), 0
        while count < BLOCK:
            if len(order) < 8:
                order = np.concatenate([order, random.permutation(len(texts))])
            pool, order = order[:8], order[8:]
            where = np.concatenate([np.arange(a, a + n) for a, n in zip(offsets[pool], lengths[pool], strict=True)])
            cuts = np.flatnonzero(random.random(len(where)) < 1 / span)
            cuts = np.unique(np.concatenate([[0], cuts, np.cumsum(lengths[pool])[:-1]]))
            sizes = np.diff(np.append(cuts, len(where)))
            shuffled = random.permutation(len(cuts))
            begins, sizes = cuts[shuffled], sizes[shuffled]
            index = np.repeat(begins - np.cumsum(np.append(0, sizes[:-1])), sizes) + np.arange(len(where))
            starts.append(count)
            out.append(joined[where[index]])
            count += len(where)
        yield np.concatenate(out), np.array(starts)


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def held_out_loss(model: HolographicModel, texts: list[np.ndarray]) -> float:
    """Nats a word of the counts alone, every document from its beginning."""
    words = np.concatenate(texts)
    contexts = of_text(words, np.cumsum([0, *(len(t) for t in texts[:-1])]))
    counts = model.memories.counts
    return -float(np.log(counts.score(counts.find(*contexts.symbols(counts.order - 1)), words)).mean())


def main() -> None:
    """Learns the stream and prints a record every so many words."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--memory", type=int, default=2048, help="MiB; 0 is no limit")
    parser.add_argument("--every", type=int, default=1_000_000)
    parser.add_argument("--span", type=float, default=8.0)
    parser.add_argument("--tower", default="off", choices=("off", "overflow", "mirror"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, test = split_documents(documents(), 0.02)
    if not train or not test:
        raise DataError("the data directory holds too few documents")
    tokenizer = WordTokenizer.train(train, min_count=2)
    config = HolographicConfig(memory=args.memory or None, tower=TowerConfig(role=args.tower))
    model = HolographicModel(config, tokenizer)
    texts, held = ([tokenizer.encode(d) for d in part] for part in (train, test))
    texts, held = [t for t in texts if len(t)], [t for t in held if len(t)]
    print(
        json.dumps(
            {
                "words of the texts": sum(map(len, texts)),
                "held out": sum(map(len, held)),
                "vocabulary": model.vocab_size,
                "plan": model.memories.plan.table(),
            }
        ),
        flush=True,
    )
    source, size = stream(texts, args.span, args.seed), config.batch_size
    learned, spent, wall, top = 0, 0.0, time.perf_counter(), 0
    while learned < args.tokens:
        words, starts = next(source)
        contexts: Contexts = of_text(words, starts)
        for begin in range(0, len(words), size):
            cut, clock = slice(begin, begin + size), time.process_time()
            model.change(contexts.part(cut), words[cut], sign=1)
            spent += time.process_time() - clock
            before, learned = learned, learned + len(words[cut])
            top = max(top, resident())
            if before // args.every == learned // args.every and learned < args.tokens:
                continue
            record = {"tokens": learned, "cpu_s": round(spent, 1), "wall_s": round(time.perf_counter() - wall, 1)}
            record |= {"rss_mib": resident() // 2**20, "peak_rss_mib": top // 2**20}
            record |= {"bytes": model.stats(), "structures_mib": sum(model.stats().values()) // 2**20}
            record["evictions"] = {g.name: g.trie.evictions for g in [*model.memories.grams, model.memories.apart]}
            record["grams"] = {g.name: g.trie.num_grams for g in [*model.memories.grams, model.memories.apart]}
            if str(learned // args.every).strip("0") in ("1", "2", "5") or learned >= args.tokens:
                record["held_out_nats_counts"] = round(held_out_loss(model, held), 4)
            print(json.dumps(record), flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
            if learned >= args.tokens:
                break


if __name__ == "__main__":
    main()
