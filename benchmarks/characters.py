"""Characters in one pass: losses of Kneser-Ney and of the `holographic-chars` recipe on the last tenth of a text.

Run: `HOLONOMY_DATA=... python benchmarks/characters.py [--train-only | --speed] [tinyshakespeare pydoc]`. Static
means that nothing is learned from the test text, though its last 3,000 characters are context; online that each block
of 64 characters is learned after it was predicted. `--train-only` never looks at the test text: it learns the first
nine tenths of the training text and predicts the last of them, which is how the configuration was chosen. Seconds are
CPU-seconds of this process with one thread, without compilation; rows without some voices are fitted anew. `--speed`
shows speeds alone, of a model whose pool is fitted to few characters.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from holonomy.data.kneser_ney import KneserNey, NGramCounts
from holonomy.data.text import load_text
from holonomy.data.words import WordSplit, split_characters
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import Contexts, of_text
from holonomy.models.holographic.fit import MixtureFit
from holonomy.models.holographic.following import following_of
from holonomy.models.holographic.metrics import bootstrap, online_kneser_ney, predict, report_of
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.pooling import Pool
from holonomy.recipes import holographic_chars

ONE = np.zeros(1, dtype=np.int64)
ROUNDS = 3


def row(name: str, static: float | None, online: float | None = None, note: str = "") -> None:
    columns = (f"{x:10.4f}" if x is not None else f"{'':10}" for x in (static, online))
    print(f"{name:44}{''.join(columns)}  {note}", flush=True)


def split_of(name: str, *, train_only: bool) -> WordSplit:
    split = split_characters(load_text(name).text, unk=holographic_chars(name).data.unk)
    if not train_only:
        return split
    cut = int(0.9 * len(split.train))
    return WordSplit(split.tokenizer, split.train[:cut], split.train[cut:])


def kneser_ney(split: WordSplit) -> np.ndarray:
    """Rows of plain n-grams; returns the losses of the seventh order, each character after all before it."""
    size = split.tokenizer.vocab_size
    counts = NGramCounts(split.train, order=8, vocab_size=size)
    tokens = np.concatenate([split.train, split.test])
    losses = {n: KneserNey(counts, order=n).token_losses(tokens)[len(split.train) :] for n in (5, 6, 7, 8)}
    for order, found in losses.items():
        alone = KneserNey(counts, order=order).loss(split.test)
        row(f"Kneser-Ney {order}", float(found.mean()), None, f"test text alone {alone:.4f}")
    return losses[7]


def without(model: HolographicModel, fit: MixtureFit, split: WordSplit) -> None:
    """Pools fitted again without some voices."""
    tokens = np.concatenate([split.train, split.test])
    positions = np.arange(len(split.train), len(tokens))
    asked = MixtureFit(model.memories, None, model.config, of_text(tokens, ONE), tokens)
    block = asked.read(positions, model.mixture)
    panel = np.concatenate([b.panel for b in fit.blocks if b.panel is not None])
    words, numbers = (np.concatenate(x) for x in zip(*((b.words, b.numbers) for b in fit.blocks), strict=True))
    voices, memory = model.memories.voices, 2 * len(model.memories.recency.traces)
    first = 6 + model.memories.counts.order
    assert block.panel is not None
    groups = {"nothing": [], "working memory": ["recent"], "spelling": ["spelled"]}
    groups |= {"all but counts": ["recent", "spelled"], "orders below the highest": ["counts"]}
    for name, prefixes in groups.items():
        kept = [i for i, v in enumerate(voices) if not any(v.startswith(p) for p in prefixes)]
        kept += [voices.index(f"counts {model.memories.counts.order}")] if "counts" in prefixes else []
        # Without working memory, what it has in store must not decide weights either.
        columns = np.arange(numbers.shape[1])
        columns = np.delete(columns, np.arange(first, first + memory)) if "recent" in prefixes else columns
        own, learned = np.ascontiguousarray(block.panel[:, kept]), np.ascontiguousarray(panel[:, kept])
        mixture = model.config.mixture
        pool = Pool.fit(learned, words, numbers[:, columns], steps=mixture.pool_steps, prior=mixture.pool_prior)
        probs = pool(own, block.numbers[:, columns])[np.arange(len(own)), block.words]
        row(f"  without {name}", float(-np.log(probs).mean()), None, f"{len(kept)} voices")
    linear = np.log((block.filled() * model.mixture.gate(block.numbers)).sum(1)).mean()
    row("  experts added up instead", -float(linear))


def warm(split: WordSplit, config: HolographicConfig) -> None:
    """Compiles everything that is timed."""
    model = HolographicModel(config, split.tokenizer)
    few = split.train[:4000]
    model.learn_text(few)
    model.fit(few)
    predict(model, few, np.arange(100), online=True)


def speeds(model: HolographicModel, tokens: np.ndarray, positions: np.ndarray) -> None:
    """Characters a CPU-second, the best of some rounds in turn; what is learned again was taken away, its rows stay."""
    block, best = model.config.evaluation.block, dict[str, float]()

    def timed(what: str, work: Callable[[Contexts, np.ndarray], object], own: Contexts, words: np.ndarray) -> None:
        begin = time.process_time()
        work(own, words)
        best[what] = max(best.get(what, 0.0), len(words) / (time.process_time() - begin))

    def learned(own: Contexts, words: np.ndarray) -> None:
        model.change(own, words, sign=1)

    def followed(own: Contexts, words: np.ndarray) -> None:
        model.follow(own, words, block)

    def pursued(own: Contexts, words: np.ndarray) -> None:
        model.follow(own, words, block, following_of(model.memories, model.mixture))

    def forgotten(own: Contexts, words: np.ndarray) -> None:
        model.change(own, words, sign=-1)

    def apart(own: Contexts, words: np.ndarray) -> None:
        for begin in range(0, len(words), block):
            part = slice(begin, begin + block)
            model.distributions(own.part(part))
            model.change(own.part(part), words[part], sign=1)

    ways = {"learned": learned, "learned while reading": followed, "the same, asked and learned apart": apart}
    ways["learned while reading, mixture follows"] = pursued
    pieces = iter(np.array_split(positions, ROUNDS * len(ways)))
    for _ in range(ROUNDS):
        for what, work in ways.items():
            piece = next(pieces)
            own, words = of_text(tokens, ONE, piece), tokens[piece]
            timed("read", lambda own, _: model.distributions(own), own, words)
            timed(what, work, own, words)
            timed("taken away", forgotten, own, words)
            if work is followed:
                timed("learned while reading, once more", work, own, words)
                forgotten(own, words)
    print(f"{len(positions):,} characters, blocks of {block}; characters a CPU-second, best of {ROUNDS} pieces or more")
    for what, rate in best.items():
        print(f"  {what:40}{rate:10,.0f}")
    for what in ("learned while reading", "learned while reading, once more", "learned while reading, mixture follows"):
        both = 1 / (1 / best[what] + 1 / best["taken away"])
        print(f"  {what + ', and away':48}{both:10,.0f}", flush=True)


def run_speeds(name: str) -> None:
    split, config = split_of(name, train_only=False), holographic_chars(name).model
    mixture = config.mixture.model_copy(update={"positions": 4_000})
    model = HolographicModel(config.model_copy(update={"mixture": mixture}), split.tokenizer)
    few = split.train[: len(split.train) // 8]
    model.learn_text(few)
    model.fit(few)
    begin = time.process_time()
    model.learn_text(split.train[len(few) :])
    spent = time.process_time() - begin
    print(f"\n{name}: {(len(split.train) - len(few)) / spent:,.0f} characters learned a CPU-second, in large batches")
    for gram in model.memories.grams:
        gram.trie.arrange()
    tokens = np.concatenate([split.train, split.test])
    warmed = np.arange(len(split.train) - 600, len(split.train))
    for mixture in (None, following_of(model.memories, model.mixture)):
        model.follow(of_text(tokens, ONE, warmed), tokens[warmed], config.evaluation.block, mixture)
    speeds(model, tokens, np.arange(len(split.train), min(len(tokens), len(split.train) + 72_000)))


def run(name: str, *, train_only: bool) -> None:
    split, config = split_of(name, train_only=train_only), holographic_chars(name).model
    print(f"\n{name}: {len(split.train):,} characters to learn, {len(split.test):,} to predict, ", end="")
    print(f"{split.tokenizer.vocab_size} different ones; nats per character")
    print(f"{'':44}{'static':>10}{'online':>10}")
    plain = kneser_ney(split)
    warm(split, config)
    tokens = np.concatenate([split.train, split.test])
    positions = np.arange(len(split.train), len(tokens))
    following = online_kneser_ney(split.train, tokens, positions, order=7, vocab_size=split.tokenizer.vocab_size)
    row("Kneser-Ney 7, online", None, float(following.mean()))
    model, seconds = HolographicModel(config, split.tokenizer), {}

    def timed(what: str, count: int, begin: float) -> float:
        seconds[what] = time.process_time() - begin
        print(f"  ({what}: {seconds[what]:.1f} CPU-s, {count / seconds[what]:,.0f} characters/s)", flush=True)
        return time.process_time()

    begin = time.process_time()
    model.learn_text(split.train)
    begin = timed("learned", len(split.train), begin)
    fit = MixtureFit(model.memories, model.mirror, config, of_text(split.train, ONE), split.train)
    model.mixture = fit.run()
    begin = timed("fitted", len(split.train), begin)
    model.rehearse(of_text(split.train, ONE), split.train)
    begin = timed("rehearsed", int(config.mixture.rehearsal * len(split.train)), begin)
    static = predict(model, tokens, positions)
    begin = timed("whole distributions", len(positions), begin)
    online = predict(model, tokens, positions, online=True)
    begin = timed("online: whole distributions, learned and unlearned", len(positions), begin)
    low, high = bootstrap(static.losses - plain)
    row("holographic-chars", float(static.losses.mean()), float(online.losses.mean()))
    print(f"static less Kneser-Ney 7: 95 % interval {low:.4f} to {high:.4f}")
    print(f"static: { ({k: round(v, 4) for k, v in report_of(model, static).values().items()}) }")
    print(f"bytes: {sum(model.stats().values()):,}")
    without(model, fit, split)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", nargs="*", default=["tinyshakespeare"])
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--speed", action="store_true")
    torch.set_num_threads(1)
    asked = parser.parse_args()
    for name in asked.texts:
        if asked.speed:
            run_speeds(name)
        else:
            run(name, train_only=asked.train_only)


if __name__ == "__main__":
    main()
