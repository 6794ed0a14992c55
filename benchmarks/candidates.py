"""Vocabularies of 200,000 words: what they cost, and what similarity of few words costs in loss.

Run: `python benchmarks/candidates.py large [--words 200000] [--tokens 2000000] [--tower mirror]`, synthetic words with
Zipf's frequencies, a third of which follow from the word before: CPU-seconds and memory of every step, contexts scored
a second, one thread. `python benchmarks/candidates.py small` does the same with 10,000 words, and all are candidates.
`python benchmarks/candidates.py loss TEXT... [--most 64 256 1024]`: nats a held-out word with so many candidates beside
all words. `python benchmarks/candidates.py corpus FILE.jsonl` writes documents of 200,000 different words for a recipe.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch

from holonomy.data.words import WordTokenizer
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session
from holonomy.models.holographic.config import (
    HolographicConfig,
    MixtureConfig,
    SimilarityConfig,
    TowerConfig,
    WordsConfig,
)
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.plan import memory_plan
from holonomy.models.holographic.retrieval import retrieve_batch
from holonomy.recipes.holographic import read_words

HELD_OUT, DOCUMENT, REPLAY = 5_000, 1_000, 1_000_000


class Clock:
    """Prints CPU-seconds since the last look, and memory."""

    def __init__(self) -> None:
        self.since = time.process_time()

    def __call__(self, what: str, count: int = 0) -> None:
        """`count` things were done."""
        spent = time.process_time() - self.since
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        rate = f", {count / spent:,.0f} a second" if count else ""
        print(f"{what}: {spent:.2f} CPU-s{rate}, {peak:,} MB at most", flush=True)
        self.since = time.process_time()


def words(count: int, vocabulary: int, seed: int = 0) -> np.ndarray:
    """Ids with Zipf's frequencies, a third of which follow from the one before."""
    random = np.random.default_rng(seed)
    rank = np.exp(random.random(count) * np.log(vocabulary - 2)).astype(np.int64) + 1
    follows = np.flatnonzero(random.random(count - 1) < 0.3) + 1
    rank[follows] = rank[follows - 1] * 31 % min(5_000, vocabulary)
    return np.clip(rank, 2, vocabulary - 1)


def costs(vocabulary: int, tokens: int, tower: str) -> None:
    clock = Clock()
    tokenizer = WordTokenizer([f"w{n}" for n in range(vocabulary - 2)])
    config = HolographicConfig(tower=TowerConfig.model_validate({"role": tower}))
    clock("tokenizer")
    print({name: f"{size / 2**20:,.0f} MiB" for name, size in memory_plan(config, vocabulary).table().items()})
    model, text = HolographicModel(config, tokenizer), words(tokens + HELD_OUT, vocabulary)
    clock("empty model")
    train, starts = text[:tokens], np.arange(0, tokens, DOCUMENT)
    model.learn_text(train, starts)
    clock("learned", tokens)
    model.consolidate(train[:REPLAY], starts[starts < REPLAY])
    clock("vectors, classes, topics")
    model.fit_apart(text[tokens:], np.arange(0, HELD_OUT, DOCUMENT))
    clock("mixture")
    print({name: f"{size / 2**20:,.0f} MiB" for name, size in model.stats().items()}, flush=True)
    spans = of_text(text, np.zeros(1, np.int64), np.arange(tokens, tokens + 256))
    model.distributions(spans)
    clock("warmed up")
    logs = model.distributions(spans)
    clock("whole distributions", 256)
    off = max(abs(float(row.exp().sum(dtype=torch.float64)) - 1) for row in logs)
    print(f"largest distance of a sum from one: {off:.1e}")
    clock("sums")
    _, state = model.prefill(torch.from_numpy(train[:600])[None], model.start(1))
    clock("600 words taken")
    for word in train[600:650].tolist():
        _, state = model.step(torch.tensor([word]), state)
    clock("steps", 50)
    session = Session(model, Sampling(), seed=1)
    for turn in ("first turn", "second turn"):
        session.feed("w7 w8 w9")
        clock(f"{turn}, 40 words", len(list(session.reply(max_tokens=40))))
    retrieve_batch(model, train[:200].reshape(20, 10))
    clock("retrieved", 20)


def losses(texts: list[str], most: list[int]) -> None:
    for source in texts:
        split = read_words(WordsConfig(source=source)).split
        size = split.tokenizer.vocab_size
        places = np.sort(np.random.default_rng(0).permutation(len(split.test))[:3000])
        for candidates in (None, *(m for m in most if m < size)):
            begin = time.process_time()
            config = HolographicConfig(
                tower=TowerConfig(role="off"),
                similarity=SimilarityConfig(candidates=candidates),
                mixture=MixtureConfig(blocks=2),
            )
            model = HolographicModel(config, split.tokenizer)
            model.learn_text(split.train)
            model.fit(split.train)
            whole = np.concatenate([split.train, split.test])
            nats = -float(model.score(whole, len(split.train) + places).double().mean())
            print(
                f"{source}, {candidates or 'all'} of {size:,} words: {nats:.4f} nats, "
                f"exponents {model.mixture.power:.2f} {model.mixture.slope:.2f} "
                f"{[round(tilt, 2) for tilt in model.mixture.tilts]}, "
                f"{time.process_time() - begin:.0f} CPU-s",
                flush=True,
            )


def corpus(path: Path, vocabulary: int = 200_000, tokens: int = 2_000_000) -> None:
    """Documents in which every word stands twice or more."""
    text = words(tokens, vocabulary)
    every = np.random.default_rng(1).permutation(np.repeat(np.arange(2, vocabulary), 2))
    text = np.concatenate([text, every]).reshape(-1)
    order = np.random.default_rng(2).permutation(-(-len(text) // 200))
    with path.open("w", encoding="utf-8") as file:
        for part in order.tolist():
            said = " ".join(f"w{n}" for n in text[200 * part : 200 * part + 200].tolist())
            file.write(json.dumps({"text": said}) + "\n")


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=("large", "small", "loss", "corpus"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--words", type=int, default=200_000)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--tower", default="mirror", choices=("mirror", "off"))
    parser.add_argument("--most", type=int, nargs="*", default=[64, 256, 1024])
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.part == "loss":
        losses(args.names, args.most)
    elif args.part == "corpus":
        corpus(Path(args.names[0]), args.words, args.tokens)
    else:
        costs(10_000 if args.part == "small" else args.words, args.tokens, args.tower)


if __name__ == "__main__":
    main()
