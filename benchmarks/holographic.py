"""Words in one pass: perplexities of Kneser-Ney, reference mixtures and the holographic model on identical tokens.

Run: `HOLONOMY_DATA=... python benchmarks/holographic.py [--train-only] [tinyshakespeare pydoc wikitext2 state_union]`;
the last two are read from `wikitext2_{valid,test}.txt.gz` and `state_union.zip` of the data directory. `--train-only`
never looks at the test text: it learns the first nine tenths of the training words with and without hashed neighbours,
predicts words of the last tenth, and says what the expert costs. Static means that nothing is
learned from the test text, though it is context; online that each block of 64 words is learned after it was predicted.
Reference mixtures take their constants from where they were first measured; everything else is fitted on training text.
Seconds are CPU-seconds of this process with one thread, compilation included where it comes first.
"""

from __future__ import annotations

import argparse
import gzip
import time
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from holonomy.data.kneser_ney import KneserNey, NGramCounts
from holonomy.data.splits import split_documents
from holonomy.data.text import data_directory, load_text
from holonomy.data.words import WORD_PATTERN, WordTokenizer, split_words
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.fit import MixtureFit
from holonomy.models.holographic.memories import Memories
from holonomy.models.holographic.metrics import bootstrap, online_kneser_ney, predict, report_of, separation
from holonomy.models.holographic.mirror import Mirror
from holonomy.models.holographic.mixture import Gate, shares_of, simplex_search
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.recency import Recency
from holonomy.models.holographic.retrieval import retrieve_batch
from holonomy.models.holographic.sharpening import Whole
from holonomy.models.holographic.sleep import sleep

ONE = np.zeros(1, dtype=np.int64)
REFERENCE_POWER, REFERENCE_SLOPE = 0.95, 3.1
SAMPLE = 3000


@dataclass
class Task:
    """A training and a test text as words; `joined` if the end of the training text stands before the test text."""

    name: str
    tokenizer: WordTokenizer
    train: np.ndarray
    train_starts: np.ndarray
    test: np.ndarray
    test_starts: np.ndarray
    joined: bool

    def questions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, positions to predict, and document starts."""
        if self.joined:
            tokens = np.concatenate([self.train, self.test])
            return tokens, np.arange(len(self.train), len(tokens)), ONE
        return self.test, np.arange(len(self.test)), self.test_starts


def documents(name: str, train: list[str], test: list[str]) -> Task:
    tokenizer = WordTokenizer.train(train, pattern=WORD_PATTERN)
    sides = [[ids for text in texts if len(ids := tokenizer.encode(text))] for texts in (train, test)]
    starts = [np.cumsum([0, *(len(ids) for ids in side[:-1])]) for side in sides]
    tokens = [np.concatenate(side) for side in sides]
    return Task(name, tokenizer, tokens[0], starts[0], tokens[1], starts[1], joined=False)


def load(name: str) -> Task:
    if name == "wikitext2":
        files = (data_directory() / f"wikitext2_{part}.txt.gz" for part in ("valid", "test"))
        parts = [gzip.decompress(file.read_bytes()).decode() for file in files]
        return documents(name, parts[:1], parts[1:])
    if name == "state_union":
        with zipfile.ZipFile(data_directory() / "state_union.zip") as archive:
            files = sorted(n for n in archive.namelist() if n.endswith(".txt"))
            texts = [archive.read(n).decode("latin-1") for n in files]
        return documents(name, *split_documents(texts, 0.1))
    split = split_words(load_text(name).text)
    assert isinstance(split.tokenizer, WordTokenizer)
    return Task(name, split.tokenizer, split.train, ONE, split.test, ONE, joined=True)


class Table:
    """Prints a row as soon as it is known."""

    def __init__(self, task: Task) -> None:
        unknown = (task.train == 0).mean(), (task.test == 0).mean()
        print(f"\n{task.name}: {len(task.train):,} words to learn, {len(task.test):,} to predict, ", end="")
        print(f"{task.tokenizer.vocab_size:,} known, unknown {unknown[0]:.2%} / {unknown[1]:.2%}")
        print(f"{'':44}{'perplexity':>11}{'/ KN-5':>8}{'top-1':>7}{'CPU s':>8}")
        self.base, self.begin = 0.0, time.process_time()

    def row(self, name: str, losses: np.ndarray, top1: float | None = None, base: float | None = None) -> None:
        value, spent = float(np.exp(losses.mean())), time.process_time() - self.begin
        ratio = f"{value / (base or self.base):8.3f}" if base or self.base else f"{'':8}"
        print(f"{name:44}{value:11.2f}{ratio}{'' if top1 is None else f'{top1:7.3f}':>7}{spent:8.1f}", flush=True)
        self.begin = time.process_time()


def kneser_ney(task: Task, table: Table) -> np.ndarray:
    """Rows of plain n-grams; returns the losses of the fifth order. Document starts are no boundary to them."""
    counts = NGramCounts(task.train, order=5, vocab_size=task.tokenizer.vocab_size)
    tokens = np.concatenate([task.train, task.test])
    losses = {n: KneserNey(counts, order=n).token_losses(tokens)[len(task.train) :] for n in (2, 5)}
    table.base = float(np.exp(losses[5].mean()))
    for order, found in losses.items():
        table.row(f"Kneser-Ney {order}", found)
    table.row("Kneser-Ney 5 with a unigram cache", cached(task, tokens))
    return losses[5]


def cached(task: Task, tokens: np.ndarray) -> np.ndarray:
    """Kneser-Ney 5 mixed with the first trace, its weight fitted on the last twentieth of the training text."""
    cut, size = int(0.95 * len(task.train)), task.tokenizer.vocab_size

    def parts(train: np.ndarray, text: np.ndarray) -> np.ndarray:
        own = np.exp(-KneserNey(NGramCounts(train, order=5, vocab_size=size), order=5).token_losses(text))[len(train) :]
        ends = np.arange(len(train), len(text))
        mass, hit = Recency().rate(text, np.zeros_like(ends), ends, text[ends])
        return np.stack([own, hit[:, 0] / np.maximum(mass[:, 0], 1e-9)], 1)

    weights = shares_of(parts(task.train[:cut], task.train))
    return -np.log(parts(task.train, tokens) @ weights)


class Reference:
    """Mixtures of counts, similarity, read-out and traces with bucketed weights, as they were first measured."""

    def __init__(self, task: Task) -> None:
        self.task, self.recency = task, Recency()
        self.config = HolographicConfig.model_validate(
            {"counts": {"skips": [], "classes": []}, "similarity": {"readout": True}, "tower": {"role": "off"}}
        )
        cut = int(0.95 * len(task.train))
        self.part, self.whole = self.built(task.train[:cut]), self.built(task.train)
        self.held = np.arange(cut, len(task.train))
        self.sample = np.random.default_rng(0).choice(len(task.test), min(SAMPLE, len(task.test)), replace=False)

    def built(self, tokens: np.ndarray) -> Memories:
        memories, contexts = Memories(self.config, self.task.tokenizer.vocab_size), of_text(tokens, ONE)
        memories.learn(contexts, tokens, np.ones(len(tokens), np.int64))
        memories.refresh(contexts, tokens)
        return memories

    def parts(self, memories: Memories, tokens: np.ndarray, positions: np.ndarray) -> tuple:
        """Counts, similarity, probabilities of read-out and traces (NaN for nothing), level and masses."""
        reading, targets = memories.read(of_text(tokens, ONE, positions)), tokens[positions]
        assert memories.readout is not None and reading.features is not None
        counts, similar = memories.counts.dense(reading.found[0]), memories.readout.similarities(reading.features)
        probs = memories.target_probs(reading, targets)[0][:, -1]
        mass, own = self.recency.rate(*reading.contexts, targets)
        traces = np.where(mass > 1e-9, own / np.maximum(mass, 1e-9), np.nan)
        level = (reading.found[0] >= 0).sum(1) - 1
        return torch.from_numpy(counts), similar, probs, traces, level, mass, torch.from_numpy(targets)

    def components(self, parts: tuple, power: float, slope: float, traces: int) -> tuple[np.ndarray, np.ndarray]:
        counts, similar, words, found, level, mass, targets = parts
        own = Whole(counts, targets).said(similar * slope, power)
        filled = [np.where(np.isnan(found[:, k]), own, found[:, k]) for k in range(traces)]
        classes = [(mass[:, k] > 1e-9).astype(int) + (mass[:, k] > 0.5) + (mass[:, k] > 2) for k in (1, 2)]
        bucket = level * 16 + (classes[0] * 4 + classes[1] if traces == 3 else 0)
        return np.stack([own, words, *filled], 1), bucket

    def rows(self, table: Table, base: float) -> None:
        tokens = np.concatenate([self.task.train, self.task.test])
        asked = self.sample + len(self.task.train)
        few = np.sort(np.random.default_rng(0).choice(self.held, min(1500, len(self.held)), replace=False))
        table.row(f"R1, sample of {SAMPLE}", self.first(few, self.parts(self.whole, tokens, asked)), base=base)
        rows = [("R0 (no working memory)", 0), ("R2", 3)]
        for name, traces in rows:
            held = []
            for i in range(0, len(self.held), 2000):
                parts = self.parts(self.part, self.task.train, self.held[i : i + 2000])
                held.append(self.components(parts, REFERENCE_POWER, REFERENCE_SLOPE, traces))
            probs, bucket = (np.concatenate(column) for column in zip(*held, strict=True))
            common, weights = bucketed(probs, bucket)
            own, at = self.components(self.parts(self.whole, tokens, asked), REFERENCE_POWER, REFERENCE_SLOPE, traces)
            chosen = np.stack([weights.get(int(b), common) for b in at])
            table.row(f"{name}, sample of {SAMPLE}", -np.log((own * chosen).sum(1)), base=base)

    def first(self, few: np.ndarray, asked: tuple) -> np.ndarray:
        """R1: global weights and both exponents by one simplex search."""

        def losses(point: np.ndarray, parts: tuple) -> np.ndarray:
            probs, _ = self.components(parts, point[0], point[1], 1)
            weights = np.exp(np.array([0.0, point[2], point[3]]))
            return -np.log(probs @ (weights / weights.sum()))

        held = self.parts(self.part, self.task.train, few)
        best = simplex_search(lambda p: float(losses(p, held).mean()), (1.0, 1.0, -1.0, -1.0), steps=60)
        return losses(best, asked)


def bucketed(probs: np.ndarray, bucket: np.ndarray, prior: float = 20.0) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Weights by expectation and maximisation, common and by bucket with pseudo-counts of the common ones."""
    common = shares_of(probs)
    found = {}
    for b in np.unique(bucket):
        own, weights = probs[bucket == b], common
        for _ in range(80):
            blame = own * weights
            total = (blame / blame.sum(1, keepdims=True)).sum(0) + prior * common
            weights = total / total.sum()
        found[int(b)] = weights
    return common, found


def ablations(model: HolographicModel, fit: MixtureFit, task: Task, table: Table) -> None:
    """Gates fitted without some experts, scored on the words alone: no exponents of the whole."""
    tokens, positions, starts = task.questions()
    asked = MixtureFit(model.memories, None, model.config, of_text(tokens, starts), tokens)
    block = asked.read(positions, model.mixture)
    plain = model.memories.target_probs(model.memories.read(of_text(tokens, starts, positions)), tokens[positions])[0]
    names = model.memories.experts
    groups = {"nothing": [], "all skips": ["skip"], "all classes": ["class"], "all working memory": ["recent"]}
    groups |= {name: [name] for name in names[1:]}
    numbers = np.concatenate([b.numbers for b in fit.blocks])
    held = np.concatenate([b.filled() for b in fit.blocks])
    for name, prefixes in groups.items():
        kept = [i for i, n in enumerate(names) if not any(n.startswith(p) for p in prefixes)]
        gate = Gate.fit(held[:, kept], numbers, steps=model.config.mixture.em_steps, prior=model.config.mixture.prior)
        table.row(f"  without {name}", -np.log((block.filled()[:, kept] * gate(block.numbers)).sum(1)))
    table.row("  (counts alone, not sharpened)", -np.log(plain[:, 0]))


def neighbours_compared(name: str) -> None:
    """Rows with and without hashed neighbours, on the last tenth of the training words alone."""
    whole = load(name)
    cut = int(0.9 * len(whole.train))
    starts = whole.train_starts[whole.train_starts < cut]
    task = Task(name, whole.tokenizer, whole.train[:cut], starts, whole.train[cut:], ONE, joined=True)
    table, (tokens, positions, _) = Table(task), task.questions()
    few = np.sort(np.random.default_rng(0).choice(positions, min(SAMPLE, len(positions)), replace=False))
    for enabled in (False, True):
        config = HolographicConfig.model_validate({"tower": {"role": "off"}, "basins": {"enabled": enabled}})
        model = HolographicModel(config, task.tokenizer)
        model.learn_text(task.train, starts)
        table.row("  (learned)", np.zeros(1))
        fit = MixtureFit(model.memories, None, config, of_text(task.train, starts), task.train)
        model.mixture = fit.run()
        told = np.concatenate([(b.filled() * model.mixture.gate(b.numbers)).sum(1) for b in fit.blocks])
        table.row(f"parts held out for the fit, neighbours {enabled}", -np.log(told))
        losses = predict(model, tokens, few).losses
        table.row(f"words of the last tenth, neighbours {enabled}", losses)
        print(f"losses {-np.log(told).mean():.5f} {losses.mean():.5f}; bytes {model.stats()}", flush=True)
    asked = MixtureFit(model.memories, None, config, of_text(tokens, ONE), tokens)
    block = asked.read(few, model.mixture)
    print(f"share of neighbours in the mixture: {model.mixture.gate(block.numbers)[:, -1].mean():.4f}")


def superposed(task: Task) -> None:
    """The store of bindings alone: shares fitted on odd, scored on even places of the sample."""
    tokens, positions, _ = task.questions()
    sample = positions[np.random.default_rng(0).choice(len(positions), min(SAMPLE, len(positions)), replace=False)]
    learned, size = of_text(task.train, ONE), task.tokenizer.vocab_size
    counts = CountTrie(5, size)
    ones = np.ones(len(task.train), np.int64)
    counts.learn(Pairs(*learned.symbols(4), task.train, ones))
    for promote in (None, 4):
        values, hits, begin = [], [], time.process_time()
        for seed in (7, 8, 9):
            digits = {"levels": 5, "top_digits": {2: 4, 3: 4, 4: 4}, "promote_at": promote, "seed": seed}
            config = HolographicConfig.model_validate({"tower": digits})
            mirror = Mirror(config.tower, size)
            for i in range(0, len(ones), config.batch_size):
                cut = slice(i, i + config.batch_size)
                symbols, lengths = learned.part(cut).symbols(4)
                weights = np.ones((len(lengths), 3), np.int64)
                if promote:
                    pairs = Pairs(symbols, lengths, task.train[cut], ones[cut])
                    raw = np.stack([counts.occurrences(pairs, n)[1] for n in (2, 3, 4)], 1)
                    weights = (raw < promote).astype(np.int64)
                mirror.bind(symbols, lengths, task.train[cut], weights)
            odd, even = sample[1::2], sample[::2]
            mirror.fit(of_text(tokens, ONE, odd), tokens[odd], counts)
            dense = mirror.distribution(of_text(tokens, ONE, even), counts)
            values.append(float(np.exp(-np.log(dense[np.arange(len(even)), tokens[even]]).mean())))
            hits.append(float((dense.argmax(1) == tokens[even]).mean()))
        spent = time.process_time() - begin
        name = f"bindings alone, 16,384 addresses, promote_at {promote}"
        print(f"{name:50}{np.mean(values):8.2f}  top-1 {np.mean(hits):.3f}  seeds {np.round(values, 1)}  {spent:.1f} s")


def certainty(model: HolographicModel, tokens: np.ndarray, positions: np.ndarray, starts: np.ndarray) -> None:
    """How well right and wrong answers are told apart: by the highest probability, and by coherence."""
    few = np.sort(np.random.default_rng(0).choice(positions, min(1000, len(positions)), replace=False))
    contexts = of_text(tokens, starts, few)
    logs = model.distributions(contexts)
    right = (logs.argmax(1).numpy() == tokens[few]).astype(np.float64)
    # Nothing further back has a binding.
    found = retrieve_batch(model, *contexts.symbols(8))
    areas = {
        "highest probability": separation(logs.max(1).values.numpy(), right),
        "coherence": separation(found.coherence, (found.tokens == tokens[few]).astype(np.float64)),
    }
    print("areas on a thousand words: " + ", ".join(f"{name} {area:.3f}" for name, area in areas.items()))


def run(name: str) -> None:
    task = load(name)
    table = Table(task)
    plain = kneser_ney(task, table)
    asked = {"vocab_size": task.tokenizer.vocab_size, "order": 5}
    tokens, positions, starts = task.questions()
    documents_at: dict[str, Any] = {"train_starts": task.train_starts, "starts": starts}
    following = online_kneser_ney(task.train, tokens, positions, **asked, **documents_at)
    table.row("Kneser-Ney 5, online", following)
    if task.joined:
        sample = np.random.default_rng(0).choice(len(task.test), min(SAMPLE, len(task.test)), replace=False)
        Reference(task).rows(table, float(np.exp(plain[sample].mean())))
    model = HolographicModel(HolographicConfig(), task.tokenizer)
    model.learn_text(task.train, task.train_starts)
    table.row("  (learned)", np.zeros(1))
    fit = MixtureFit(model.memories, model.mirror, model.config, of_text(task.train, task.train_starts), task.train)
    model.mixture = fit.run()
    table.row("  (fitted)", np.zeros(1))
    static = predict(model, tokens, positions, starts=starts)
    report = report_of(model, static)
    table.row("holographic, static", static.losses, report.top1)
    online = predict(model, tokens, positions, starts=starts, online=True)
    table.row("holographic, online", online.losses, report_of(model, online).top1)
    low, high = (np.exp(x) for x in bootstrap(static.losses - plain))
    ahead = np.exp(online.losses.mean() - following.mean())
    print(f"static / KN-5: 95 % interval {low:.3f} to {high:.3f}; online / KN-5 online {ahead:.3f}")
    print(f"static: { ({k: round(v, 4) for k, v in report.values().items()}) }")
    certainty(model, tokens, positions, starts)
    exponents = (model.mixture.power, model.mixture.slope, *model.mixture.tilts)
    print(f"bytes: {model.stats()}; exponents {np.round(exponents, 3).tolist()}")
    ablations(model, fit, task, table)
    slept = sleep(model, task.train, starts=task.train_starts)
    table.row(
        f"after a sleep, {slept.bytes_after / slept.bytes_before:.0%} of the bytes",
        predict(model, tokens, positions, starts=starts).losses,
    )
    print(slept)
    if name == "pydoc":
        superposed(task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", nargs="*", default=["tinyshakespeare", "pydoc"])
    parser.add_argument("--train-only", action="store_true")
    torch.set_num_threads(1)
    asked = parser.parse_args()
    for name in asked.texts:
        (neighbours_compared if asked.train_only else run)(name)


if __name__ == "__main__":
    main()
