"""Exact counts beside KenLM: the same Kneser-Ney model in both, bytes, words scored a second, and whether they agree.

Run: `python benchmarks/exact_counts.py [TEXT ...] [--order 5]` (default: pydoc tinyshakespeare), one thread, with KenLM
(`pip install kenlm`). Counts learn the training part; their grams are written as an ARPA file, with back-off weights
summed up here from the grams alone, and KenLM reads it into its hash tables (probing). Both score the held-out part.
Bytes of KenLM are those by which the process grows, and those its format takes: 16 for each gram, 12 of the highest
order, times 1.5, and 16 for a word. Ours can be learned, unlearned and merged; KenLM's stand as they are.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from holonomy.data.kneser_ney import discounts
from holonomy.data.text import load_text
from holonomy.data.words import split_words
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.transfer import compact_counts

ALMOST_ZERO = -99.0


def pairs_of(tokens: np.ndarray, order: int, begin: int = 0) -> Pairs:
    """What follows what stands before, from a place on."""
    contexts = of_text(tokens, np.zeros(1, dtype=np.int64)).part(np.arange(begin, len(tokens)))
    words = tokens[begin:]
    return Pairs(*contexts.symbols(order - 1), words, np.ones_like(words))


def back_off(trie: CountTrie, order: int) -> dict[bytes, float]:
    """Base-ten logarithm of the weight that each context of `order - 1` symbols leaves to shorter ones."""
    symbols, raw, preceded = trie.grams(order)
    count = raw if order == trie.order else preceded
    taken = discounts(count)[np.minimum(count, 3)]
    contexts, at = np.unique(symbols[:, :-1], axis=0, return_inverse=True)
    total, left = np.bincount(at.ravel(), count), np.bincount(at.ravel(), taken)
    # The first words of the text follow nothing: all of their followers may have no count.
    logs = np.log10(np.where(total > 0, left / np.maximum(total, 1), 1.0))
    return {c.tobytes(): float(w) for c, w in zip(contexts.astype(np.int64), logs, strict=True)}


def write_arpa(trie: CountTrie, path: Path) -> list[int]:
    """Writes all grams; words are numbers, since only their order matters. Returns how many there are of each order."""
    sizes = [trie.vocab_size, *(len(trie.grams(n)[0]) for n in range(2, trie.order + 1))]
    with path.open("w", encoding="ascii") as file:
        listed = enumerate([sizes[0] + 2, *sizes[1:]], 1)
        file.write("\\data\\\n" + "".join(f"ngram {n}={size}\n" for n, size in listed))
        for n in range(1, trie.order + 1):
            symbols = np.arange(trie.vocab_size)[:, None] if n == 1 else trie.grams(n)[0].astype(np.int64)
            context = np.zeros((len(symbols), trie.order - 1), dtype=np.int64)
            context[:, trie.order - n :] = symbols[:, :-1]
            found = trie.find(context, np.full(len(symbols), n - 1))
            logs = np.log10(trie.score(found, symbols[:, -1]))
            rest = back_off(trie, n + 1) if n < trie.order else {}
            file.write(f"\n\\{n}-grams:\n")
            if n == 1:
                file.write(f"{ALMOST_ZERO}\t<s>\t0\n{ALMOST_ZERO}\t</s>\n")
            for gram, log in zip(symbols, logs.tolist(), strict=True):
                words = " ".join("<unk>" if i == 0 else str(i) for i in gram.tolist())
                file.write(f"{log:.9f}\t{words}" + (f"\t{rest.get(gram.tobytes(), 0.0):.9f}\n" if rest else "\n"))
        file.write("\n\\end\\\n")
    return sizes


def resident() -> int:
    """Bytes of the process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def spent(work) -> float:
    """CPU-seconds, the median of five calls."""
    found = []
    for _ in range(5):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return float(np.median(found))


def compared(text: str, order: int) -> None:
    import kenlm  # pyright: ignore[reportMissingImports]

    split = split_words(load_text(text).text)
    train, tokens = split.train, np.concatenate([split.train, split.test])
    trie = CountTrie(order, split.tokenizer.vocab_size)
    trie.learn(pairs_of(train, order))
    compact_counts(trie)
    pairs = pairs_of(tokens, order, len(train))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counts.arpa"
        sizes = write_arpa(trie, path)
        before = resident()
        model = kenlm.Model(str(path))
        grown = resident() - before
    sentence = " ".join("<unk>" if i == 0 else str(i) for i in tokens[len(train) - order + 1 :].tolist())
    theirs = np.array([p for p, _, _ in model.full_scores(sentence, bos=False, eos=False)])[order - 1 :] * np.log(10)
    ours = np.log(trie.score(trie.find(pairs.symbols, pairs.lengths), pairs.targets))
    grams, format_bytes = sum(sizes), 1.5 * (16 * sum(sizes[1:-1]) + 12 * sizes[-1]) + 16 * sizes[0]
    print(f"{text}: {grams:,} grams, {len(ours):,} words scored, largest difference {np.abs(ours - theirs).max():.1e}")
    print(f"  nats a word: {-ours.mean():.5f} ours, {-theirs.mean():.5f} KenLM")
    print(f"  bytes a gram: {trie.nbytes / grams:.1f} ours, {grown / grams:.1f} KenLM in memory,", end=" ")
    print(f"{format_bytes / grams:.1f} by its format")
    trie.pack()
    print(f"  packed for reading: {trie.nbytes / grams:.1f}")
    trie.unpack()
    own = spent(lambda: trie.score(trie.find(pairs.symbols, pairs.lengths), pairs.targets))
    other = spent(lambda: model.score(sentence, bos=False, eos=False))
    print(f"  words a CPU-second: {len(ours) / own:,.0f} ours, {len(ours) / other:,.0f} KenLM", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="*", default=["pydoc", "tinyshakespeare"])
    parser.add_argument("--order", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for text in given.texts:
        compared(text, given.order)


if __name__ == "__main__":
    main()
