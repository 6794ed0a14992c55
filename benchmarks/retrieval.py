"""How fast contexts are learned, scored and looked up, beside an index of vectors and beside other superpositions.

Run: `python benchmarks/retrieval.py [rates latency contexts superposition recall] [--scale 1.0]`; CPU time, one thread.
Peers that are not installed (`pip install --no-deps torch-hd faiss-cpu hnswlib`) are left out. Contexts are four words
of 10,000. An index gets them as 128 numbers, a random sign code for each word at its place, and answers with the word
that followed the nearest one. A superposition gets as many bytes as an address of the store: 1,024.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.growth import grown, table_with_room
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.retrieval import retrieve_batch
from holonomy.models.holographic.settle import settle
from holonomy.models.holographic.signatures import Signatures
from holonomy.models.holographic.tower import Bindings, Tower
from holonomy.recipes import holographic
from holonomy.recipes.holographic import read_words

WORDS = 10_000


def seconds(work: Callable[[], Any], repeats: int = 1, undo: Callable[[], Any] | None = None) -> float:
    """Median CPU-seconds of some calls after one that warms up; each is undone before the next, if need be."""
    spent = []
    for _ in range(repeats + 1):
        begin = time.process_time()
        work()
        spent.append(time.process_time() - begin)
        if undo is not None:
            undo()
    return float(np.median(spent[1:]))


def zipf(count: int, random: np.random.Generator) -> np.ndarray:
    """Words with the frequencies of a text, the pad left out."""
    rank = np.exp(random.random(count) * np.log(WORDS - 2)).astype(np.int64)
    return np.minimum(rank + 1, WORDS - 1)


def plain_model() -> HolographicModel:
    tokenizer = WordTokenizer([f"w{i}" for i in range(WORDS - 2)])
    return HolographicModel(HolographicConfig.model_validate({"counts": {"skips": [], "classes": []}}), tokenizer)


def rates(scale: float) -> None:
    random, size = np.random.default_rng(0), int(200_000 * scale)
    tokens = zipf(size + 20_000, random)
    model = plain_model()
    model.learn_text(tokens[:2000])
    begin = time.process_time()
    model.learn_text(tokens[2000:size])
    spent = time.process_time() - begin
    print(f"learned: {(size - 2000) / spent:,.0f} targets/s (counts to order 5, bindings of orders 2 to 4)", flush=True)
    model.consolidate(tokens[:size])
    asked = of_text(tokens, np.zeros(1, np.int64), np.arange(size, size + 256))
    spent = seconds(lambda: model.distributions(asked), 3)
    print(f"scored: {256 / spent:,.0f} whole distributions/s of {WORDS:,} words", flush=True)


def latency(scale: float) -> None:
    """Reading and learning with more and more stored, in tables that are as large from the start as they get.

    Every time the same 256 contexts are asked, which are among the first thousand that were learned, and 256 pairs
    are learned and taken away again, so that only what stands around them grows.
    """
    random, stored, largest = np.random.default_rng(0), 0, int(10_000_000 * scale)
    signatures, model = Signatures(7, 16, WORDS, 3), plain_model()
    tower, trie = Tower(signatures, levels=5, top_digits={2: 4, 3: 6, 4: 6}, seed=7), model.memories.counts
    presized(trie, largest)
    lengths, ones, threes = np.full(256, 4), np.ones(256, np.int64), np.ones((256, 3), np.int64)

    def pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
        return random.integers(2, WORDS, (count, 4)), random.integers(2, WORDS, count)

    def bindings(symbols: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Bindings:
        return Bindings(np.ascontiguousarray(symbols[:, 1:]), np.full(len(targets), 3), targets, weights)

    asked, followed = pairs(256)
    fresh, words = pairs(256)
    for size in (1_000, 100_000, largest):
        while stored < size:
            symbols, targets = (asked, followed) if not stored else pairs(min(50_000, size - stored))
            whole = np.ones(len(targets), np.int64)
            trie.learn(Pairs(symbols, np.full(len(targets), 4), targets, whole))
            tower.write(bindings(symbols, targets, np.ones((len(targets), 3), np.int64)))
            stored += len(targets)
        found = trie.find(asked, lengths)
        spent = {
            "bindings read": lambda: signatures.similarities(tower.read(torch.from_numpy(asked[:, 1:]), 4)),
            "bindings learned": lambda: tower.write(bindings(fresh, words, threes)),
            "contexts found": lambda: trie.find(asked, lengths),
            "words scored": lambda found=found: trie.score(found, followed),
            "pairs counted": lambda: trie.learn(Pairs(fresh, lengths, words, ones)),
        }
        undone = {
            "bindings learned": lambda: tower.write(bindings(fresh, words, -threes)),
            "pairs counted": lambda: trie.unlearn(Pairs(fresh, lengths, words, ones)),
        }
        text = ", ".join(
            f"{what} {1e6 / 256 * seconds(work, 31, undone.get(what)):.3f}" for what, work in spent.items()
        )
        dense = 1e6 / 256 * seconds(lambda: model.next_log_probs(asked), 7)
        print(
            f"{size:>12,} pairs: {text}, whole distributions {dense:.1f} us, {trie.mean_probes:.2f} probes a search",
            flush=True,
        )


def presized(trie: CountTrie, pairs: int) -> None:
    """Makes rows and tables as large as so many random pairs of four words need."""
    # Contexts of 2 to 4 words make 1, 2 and 3 rows that no other has, three grams after them one each.
    trie._inner, trie._leaf = grown(trie._inner, 9 * pairs + WORDS * WORDS), grown(trie._leaf, pairs)
    trie._inner_table = table_with_room(trie._inner_table, trie._inner, 1, 1, 9 * pairs)
    trie._leaf_table = table_with_room(trie._leaf_table, trie._leaf, 0, 0, pairs)


def contexts(scale: float) -> None:
    random, size = np.random.default_rng(0), int(100_000 * scale)
    symbols, targets = zipf(4 * size, random).reshape(size, 4), zipf(size, random)
    _, first = np.unique(symbols, axis=0, return_index=True)
    symbols, targets = symbols[first], targets[first]
    size, lengths = len(first), np.full(len(first), 4)
    # The highest order keeps no list that can be asked for, so it stays empty.
    trie, begin = CountTrie(6, WORDS), time.process_time()
    longer = np.pad(symbols, ((0, 0), (1, 0)))
    trie.learn(Pairs(longer, lengths, targets, np.ones(size, np.int64)))
    built, asked = time.process_time() - begin, random.permutation(size)[:4096]

    def answers() -> np.ndarray:
        found = []
        for part in np.array_split(asked, 16):
            row = trie.find(longer[part], lengths[part], followed=False)[:, 4]
            counts = np.zeros((len(part), WORDS), np.float32)
            trie.frequent(row, 1, counts)
            found.append(counts.argmax(1))
        return np.concatenate(found)

    spent, right = seconds(answers, 3), answers() == targets[asked]
    print(f"exact counts: built in {built:.2f} s, {1e6 * spent / 4096:.2f} us a context, recall {right.mean():.4f}")
    codes = random.choice([-1.0, 1.0], (4, WORDS, 32)).astype(np.float32)
    vectors = np.concatenate([codes[place][symbols[:, place]] for place in range(4)], 1)
    for name, make in INDEXES.items():
        try:
            add, find = make(importlib.import_module(name.split()[0]), vectors.shape[1], size)
        except ModuleNotFoundError:
            print(f"{name}: not installed")
            continue
        begin = time.process_time()
        add(vectors)
        built, few = time.process_time() - begin, vectors[asked[:512]]
        spent = seconds(lambda find=find, few=few: find(few))
        recall = (targets[find(few)] == targets[asked[:512]]).mean()
        print(f"{name}: built in {built:.2f} s, {1e6 * spent / 512:.2f} us a context, recall {recall:.4f}", flush=True)


def _flat(faiss: Any, dim: int, _: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    index = faiss.IndexFlatL2(dim)
    return index.add, lambda x: index.search(x, 1)[1][:, 0]


def _graph(faiss: Any, dim: int, _: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    index = faiss.IndexHNSWFlat(dim, 16)
    index.hnsw.efSearch = 64
    return index.add, lambda x: index.search(x, 1)[1][:, 0]


def _hnswlib(hnswlib: Any, dim: int, size: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    index = hnswlib.Index("l2", dim)
    index.init_index(size, M=16)
    index.set_ef(64)
    index.set_num_threads(1)
    return lambda x: index.add_items(x, num_threads=1), lambda x: index.knn_query(x, 1)[0][:, 0].astype(np.int64)


INDEXES = {"faiss flat": _flat, "faiss graph": _graph, "hnswlib": _hnswlib}


VSAS = (("MAP", 256), ("HRR", 256), ("VTB", 256), ("FHRR", 128), ("BSC", 1024))
"""Kinds of torchhd and as many dimensions as 1,024 bytes hold: of four bytes, of eight, and of one."""


def superposition(_: float) -> None:
    signatures, generator = Signatures(7, 16, WORDS, 1), torch.Generator().manual_seed(0)
    try:
        torchhd = importlib.import_module("torchhd")
    except ModuleNotFoundError:
        torchhd = None
    print("recall of pairs added up in 1,024 bytes, mean of 40 superpositions")
    for load in (4, 6, 7, 8, 12, 16, 21, 24, 32):
        names, words = (torch.randint(2, WORDS, (40, load), generator=generator) for _ in range(2))
        # As at an address: one context, several words.
        keys = signatures.keys(names[:, :1])
        bound = sum(keys @ signatures.words[words[:, i]] for i in range(load))
        read = settle(keys.mT @ bound, signatures)
        shares = {"explained away": (read.tokens[:, None, :load] == words[:, :, None]).any(2).double().mean()}
        best = signatures.similarities(keys.mT @ bound).topk(load).indices
        shares["read at once"] = (best[:, None] == words[:, :, None]).any(2).double().mean()
        for vsa, dim in VSAS if torchhd is not None else ():
            book = torchhd.random(WORDS, dim, vsa, generator=generator)
            key = torchhd.random(40, dim, vsa, generator=generator)
            held = torchhd.multibundle(torchhd.bind(book[words], key[:, None].expand(-1, load, -1)))
            found = torchhd.dot_similarity(torchhd.bind(held, torchhd.inverse(key)), book).topk(load).indices
            shares[f"torchhd {vsa}"] = (found[:, None] == words[:, :, None]).any(2).double().mean()
        print(
            f"{load:4} pairs: " + ", ".join(f"{name} {float(share):.3f}" for name, share in shares.items()), flush=True
        )


def recall(_: float) -> None:
    size, random = 50_000, np.random.default_rng(0)
    signatures = Signatures(7, 16, size, 1)
    tower = Tower(signatures, levels=5, top_digits={2: 2}, seed=7)
    symbols, targets = random.permutation(size)[:, None], random.integers(0, WORDS, size)
    ones = np.ones(size, dtype=np.int64)
    tower.write(Bindings(symbols, ones, targets, ones[:, None]))
    asked = random.permutation(size)[:4096]
    scores = signatures.similarities(tower.read(torch.from_numpy(symbols[asked]), 2))[:, :WORDS]
    found = (scores.argmax(1).numpy() == targets[asked]).mean()
    print(f"{size:,} random pairs in {tower.nbytes / 2**20:.2f} MiB: recall {found:.4f} of {WORDS:,} words")
    config = holographic()
    split = read_words(config.data).split
    model = HolographicModel(config.model, split.tokenizer)
    model.learn_text(split.train)
    model.fit(split.train)
    contexts = of_text(split.train, np.zeros(1, np.int64), np.arange(4, len(split.train)))
    rows, lengths = contexts.symbols(4)
    number = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    pairs = np.unique(np.stack([number, split.train[4:]], 1), axis=0)
    alone = np.flatnonzero(np.bincount(pairs[:, 0])[number] == 1)
    asked = np.sort(random.choice(alone, 4096, replace=False))
    told = retrieve_batch(model, *contexts.part(asked).symbols(3000))
    right, named = (said == split.train[4 + asked] for said in (told.tokens, told.recalled))
    print("four words that one word follows in the text learned, 4,096 times: it is")
    print(f"the most probable one in {right.mean():.4f}, what is recalled in {named.mean():.4f}")
    others = Counter(source for source, known in zip(told.sources, right, strict=True) if not known).most_common()
    brought = ", ".join(f"{expert} {count / (~right).sum():.3f}" for expert, count in others)
    print(f"where another is more probable, most of it is brought by: {brought}", flush=True)
    ids = random.integers(0, model.vocab_size, (10_000, 1000))
    ids[:2000] = 0
    ids[ids == model.pad_id] = 0
    lengths = np.where(np.arange(10_000) % 10 == 0, 1000, random.integers(0, 1001, 10_000))
    lengths[2000:2100] = 0
    off = max(
        float((model.next_log_probs(ids[i : i + 500], lengths[i : i + 500]).double().exp().sum(1) - 1).abs().max())
        for i in range(0, 10_000, 500)
    )
    print(f"10,000 contexts, none to 1,000 words, 2,000 of unknown words: probabilities sum to 1 within {off:.1e}")


PARTS = {"rates": rates, "latency": latency, "contexts": contexts, "superposition": superposition, "recall": recall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[], choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--scale", type=float, default=1.0, help="of numbers of words and pairs")
    torch.set_num_threads(1)
    asked = parser.parse_args()
    for part in asked.parts or PARTS:
        print(f"\n{part}")
        PARTS[part](asked.scale)


if __name__ == "__main__":
    main()
