"""Claims about superposed bindings and exact counts: capacity, and learning that can be taken back and added up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from holonomy.audit.claim import Evidence, Figure, Setting, claim, curve
from holonomy.audit.claims.language import Paths
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.config import (
    CountsConfig,
    HolographicConfig,
    MixtureConfig,
    SimilarityConfig,
    TowerConfig,
)
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.retrieval import settled_states
from holonomy.models.holographic.signatures import Signatures
from holonomy.models.holographic.storage import merge_into
from holonomy.models.holographic.tower import Bindings, Tower

WORDS = 4_000
"""Words of the store whose capacity is measured."""
ADDRESSES = 240
ASKED = 1_500
"""Pairs that are asked for at each load."""
LOADS = {16: (4, 8, 16, 32), 64: (20, 45, 90)}
"""Pairs at an address that are tried, by channels: with fewer than 16 the noise is not normal enough for the law."""
MORE_LOADS = {32: (10, 20, 40), 64: (12, 25, 35, 70, 140)}
WITHIN = 0.05


def predicted_recall(noise: np.ndarray, channels: int, words: int) -> float:
    """Mean over `noise` (standard deviations) of the chance that a word beats all others.

    The word scores 1 + noise x, each other one sqrt(noise^2 + 1 / (16 K)) y, with x and y standard normal: besides the
    crosstalk, the word itself looks a little like every other.
    """
    x = torch.linspace(-8, 8, 1_601, dtype=torch.float64)
    density = (-x * x / 2).exp() / math.sqrt(2 * math.pi) * (x[1] - x[0])
    sd = torch.from_numpy(noise)[:, None]
    beats = torch.special.log_ndtr((1 + sd * x) / (sd.square() + 1 / (16 * channels)).sqrt())
    return float(((words - 1) * beats).exp().mul(density).sum(1).mean())


def _filled(tower: Tower, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Binds random words after random pairs of words at order 3; contexts and words."""
    contexts, words = random.integers(0, WORDS, (count, 2)), random.integers(0, WORDS, count)
    weights = np.zeros((count, 2), dtype=np.int64)
    weights[:, 1] = 1
    tower.write(Bindings(contexts, np.full(count, 2), words, weights))
    return contexts, words


def _crosstalk(tower: Tower, load: int, random: np.random.Generator) -> tuple[float, float, float, float, float]:
    """Recall and noise at a load, measured and predicted, and the relative error of the estimated sum of squares."""
    contexts, words = _filled(tower, load * ADDRESSES, random)
    place = tower.addresses(torch.from_numpy(contexts), 3).numpy()
    # Pairs by address, counted here: the load of a pair is the sum of squares of all others beside it.
    squares, own = Counter[int](), Counter[tuple[int, ...]]()
    for key in zip(place.tolist(), contexts[:, 0].tolist(), contexts[:, 1].tolist(), words.tolist(), strict=True):
        squares[key[0]] += 2 * own[key] + 1
        own[key] += 1
    asked = random.choice(len(words), min(ASKED, len(words)), replace=False)
    others = np.array([squares[a] - 1 for a in place[asked].tolist()], dtype=np.float64)
    channels = tower.signatures.channels
    noise = np.sqrt(others / (16 * channels))
    scores = tower.signatures.similarities(tower.read(torch.from_numpy(contexts[asked]), 3)).double()
    targets = torch.from_numpy(words[asked])
    recall = float((scores.argmax(1) == targets).double().mean())
    # All words that were not asked for tell the noise of a score, with that of the word itself.
    left = scores.scatter(1, targets[:, None], math.nan)
    measured = float(left[~left.isnan()].square().mean().sqrt())
    expected = float(np.sqrt((others / (16 * channels) + 1 / (16 * channels)).mean()))
    total = sum(squares.values())
    return recall, predicted_recall(noise, channels, WORDS), measured, expected, abs(tower.crosstalk() / total - 1)


@claim(
    "holographic.capacity",
    statement="Superposed bindings recall as the law of their noise says: its variance is the load over 16 K.",
    source="docs/holographic.md",
)
def capacity(setting: Setting) -> Evidence:
    """Random pairs at several loads; recall by integrating the law numerically, noise from all wrong words."""
    random = np.random.default_rng(setting.seed)
    recalls, noises, estimates = 0.0, 0.0, 0.0
    lines: dict[str, list[tuple[float, float]]] = {}
    for channels, loads in sorted({**LOADS, **(MORE_LOADS if setting.full else {})}.items()):
        signatures = Signatures(setting.seed, channels, WORDS, 2)
        for load in loads:
            tower = Tower(signatures, levels=3, top_digits={2: 1, 3: 15}, seed=setting.seed)
            recall, wanted, noise, expected, estimate = _crosstalk(tower, load, random)
            recalls, noises = max(recalls, abs(recall - wanted)), max(noises, abs(noise / expected - 1))
            estimates = max(estimates, estimate)
            lines.setdefault(f"K = {channels}, measured", []).append((load, recall))
            lines.setdefault(f"K = {channels}, predicted", []).append((load, wanted))
    return Evidence(
        (
            Figure("largest difference of the recall from the law", recalls, "<=", WITHIN),
            Figure("largest relative difference of the noise from the law", noises, "<=", WITHIN),
            Figure("largest relative error of the estimated sum of squares", estimates, "<=", WITHIN),
        ),
        (curve("recall of superposed pairs", "pairs at an address", "share recalled", lines, log_x=True),),
    )


def synthetic(count: int, words: int, seed: int) -> np.ndarray:
    """Ids from 2 on with repetitions like those of a text: a walk that returns to what it did before."""
    random = np.random.default_rng(seed)
    ids = 2 + np.minimum(random.zipf(1.5, count) - 1, words - 3)
    for at in range(40, count, 40):
        # Phrases come again, so that long grams have counts above one.
        begin = random.integers(0, at - 20)
        ids[at : at + 15] = ids[begin : begin + 15][: count - at]
    return ids.astype(np.int64)


def gram_counts(
    documents: Sequence[np.ndarray], order: int
) -> tuple[dict[tuple[int, ...], int], dict[tuple[int, ...], int]]:
    """Occurrences of all grams of an order, and how many different words stand before them, by dictionary."""
    grams, before = Counter[tuple[int, ...]](), dict[tuple[int, ...], set[int]]()
    for document in documents:
        words = document.tolist()
        for end in range(order, len(words) + 1):
            gram = tuple(words[end - order : end])
            grams[gram] += 1
            if end > order:
                before.setdefault(gram, set()).add(words[end - order - 1])
    return dict(grams), {gram: len(words) for gram, words in before.items()}


def differing(trie: CountTrie, documents: Sequence[np.ndarray]) -> int:
    """Grams whose occurrences or predecessors are not those of the dictionary."""
    wrong = 0
    for order in range(1, trie.order + 1):
        symbols, raw, preceded = trie.grams(order)
        found = {tuple(s): (int(n), int(p)) for s, n, p in zip(symbols.tolist(), raw, preceded, strict=True)}
        grams, before = gram_counts(documents, order)
        wanted = {gram: (n, before.get(gram, 0) if order < trie.order else 0) for gram, n in grams.items()}
        wrong += sum(found.get(gram) != wanted.get(gram) for gram in found.keys() | wanted.keys())
    return wrong


@claim(
    "holographic.exact-counts",
    statement="Episodic counts are those of a dictionary of all n-grams, and their distributions add up to one.",
    source="docs/holographic.md",
)
def exact_counts(setting: Setting) -> Evidence:
    """All grams of synthetic documents against dictionaries, and probabilities after known and unknown contexts."""
    words, order, size = 60, 5, (60_000 if setting.full else 3_000)
    documents = [synthetic(size, words, setting.seed), synthetic(size // 2, words, setting.seed + 1)]
    trie = CountTrie(order, words)
    tokens = np.concatenate(documents)
    contexts = of_text(tokens, np.array([0, size]))
    trie.learn(Pairs(*contexts.symbols(order - 1), tokens, np.ones(len(tokens), dtype=np.int64)))
    grams = sum(len(gram_counts(documents, n)[0]) for n in range(1, order + 1))
    random = np.random.default_rng(setting.seed)
    rows = np.where(
        random.random((400, order - 1)) < 0.5,
        random.integers(0, words, (400, order - 1)),
        tokens[random.integers(0, size - order, 400)[:, None] + np.arange(order - 1)],
    )
    found = trie.find(rows, random.integers(0, order, 400))
    dense = trie.dense(found).astype(np.float64)
    return Evidence(
        (
            Figure("grams counted", grams, ">=", 1_000),
            Figure("grams that differ from the dictionary", differing(trie, documents), "==", 0),
            Figure(
                "largest distance of a sum of probabilities from 1", float(np.abs(dense.sum(1) - 1).max()), "<=", 1e-5
            ),
            Figure("smallest probability", float(dense.min()), ">", 0),
        )
    )


def small_model(words: int) -> HolographicModel:
    """All kinds of counts and a store from which frequent pairs are promoted, nothing fitted."""
    config = HolographicConfig(
        tower=TowerConfig(levels=3, top_digits={2: 2, 3: 4, 4: 4}, promote_at=3),
        counts=CountsConfig(order=5, classes=()),
        mixture=MixtureConfig(product="none"),
    )
    return HolographicModel(config, WordTokenizer([f"w{n}" for n in range(words - 2)]))


def structures(model: HolographicModel) -> Iterator[tuple[str, np.ndarray]]:
    """Everything that was learned, in an order that does not depend on when it was."""
    for gram in [*model.memories.grams, model.memories.apart]:
        for order in range(1, gram.trie.order + 1):
            for name, array in zip(("grams", "occurrences", "predecessors"), gram.trie.grams(order), strict=True):
                yield f"{gram.name}, {name} of order {order}", array
    yield "unigram", model.memories.unigram
    assert model.mirror is not None
    yield "load", model.mirror.tower.load.numpy()
    yield "store", model.mirror.tower.store.numpy()


def _unlike(a: HolographicModel, b: HolographicModel) -> list[str]:
    pairs = zip(structures(a), structures(b), strict=True)
    return [name for (name, one), (_, other) in pairs if not np.array_equal(one, other)]


def _apart(a: HolographicModel, b: HolographicModel, ids: np.ndarray) -> float:
    one, other = (model.next_log_probs(ids) for model in (a, b))
    return float((one - other).abs().max())


@claim(
    "holographic.unlearning",
    statement="What was learned can be unlearned, and models of two texts merged, as if it had always been so.",
    source="docs/holographic.md",
)
def unlearning(setting: Setting) -> Evidence:
    """Learns two texts and takes one away; learns them apart and merges: against models that saw only that."""
    words, size = 60, (20_000 if setting.full else 1_200)
    kept, gone = (synthetic(size, words, setting.seed + n) for n in range(2))
    both, alone, apart, together = (small_model(words) for _ in range(4))
    both.learn_text(np.concatenate([kept, gone]), np.array([0, size]))
    once = sum(int(a.sum()) for _, a in structures(both))
    both.unlearn_text(gone)
    alone.learn_text(kept)
    apart.learn_text(gone)
    unlearned, counts = _unlike(both, alone), differing(both.memories.counts, [kept])
    ids = kept[np.random.default_rng(setting.seed).integers(0, size - 6, 50)[:, None] + np.arange(6)]
    moved = _apart(both, alone, ids)
    merge_into(alone, apart)
    together.learn_text(np.concatenate([kept, gone]), np.array([0, size]))
    merged = _unlike(alone, together)
    return Evidence(
        (
            Figure("sum of everything learned before", abs(once), ">", 0),
            Figure("structures that differ after unlearning", len(unlearned), "==", 0),
            Figure("grams that differ from the dictionary of the text that stayed", counts, "==", 0),
            Figure("largest change of a log probability after unlearning", moved, "<=", 1e-6),
            Figure("structures that differ after merging", len(merged), "==", 0),
            Figure("largest change of a log probability after merging", _apart(alone, together, ids), "<=", 1e-6),
        ),
        detail="; ".join([*unlearned[:5], *merged[:5]]),
    )


LEVELS = (3, 4, 5)
ASKED_PATHS, ASKED_ADDRESSES = 3_400, 340_000
"""Contexts that each tower is asked for: ten thousand, and a million, together."""
PATHS_APART = 1e-4
"""Of log probabilities by different paths, nats."""


def scrambled(x: np.ndarray) -> np.ndarray:
    """One step of splitmix64 on unsigned 64-bit numbers."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def address_of(symbols: np.ndarray, order: int, tower: Tower) -> np.ndarray:
    """Where contexts, nearest word last, belong by the formula: the digit of the order, then others of a hash."""
    h = scrambled(np.array([tower.seed ^ order * 0x9E3779B97F4A7C15 % 2**64], dtype=np.uint64)).repeat(len(symbols))
    for j in range(1, order):
        h = scrambled(h ^ symbols[:, -j].astype(np.uint64) + np.uint64(j * 0xD1B54A32D192ED03 % 2**64))
    high, low, below = h >> np.uint64(32), h & np.uint64(2**32 - 1), 4 * (tower.levels - 2)
    first = sum(digits for n, digits in tower.top_digits.items() if n < order)
    top = first + (high * np.uint64(tower.top_digits[order]) >> np.uint64(32)).astype(np.int64)
    return (top << below) + (low >> np.uint64(32 - below)).astype(np.int64)


def misplaced(levels: int, random: np.random.Generator, seed: int) -> tuple[int, int]:
    """Addresses whose number of items is not that of the contexts that belong there, and contexts read elsewhere."""
    tower = Tower(Signatures(seed, 1, WORDS, 3), levels=levels, top_digits={2: 4, 3: 6, 4: 6}, seed=seed)
    symbols = random.integers(0, WORDS, (ASKED_ADDRESSES, 3))
    words, ones = random.integers(0, WORDS, len(symbols)), np.ones((len(symbols), 3), dtype=np.int64)
    tower.write(Bindings(symbols, np.full(len(symbols), 3), words, ones))
    load, elsewhere = np.zeros(len(tower.load), dtype=np.int64), 0
    # Turning back keeps the sum of squares of what stands at an address, so this tells which one was read.
    energies = (tower.store.double() / 4096).square().sum((1, 2, 3))
    for order in tower.orders:
        place = address_of(symbols, order, tower)
        load += np.bincount(place, minlength=len(load))
        read = tower.read(torch.from_numpy(symbols), order).double().square().sum((1, 2, 3))
        elsewhere += int((~torch.isclose(read, energies[torch.from_numpy(place)], rtol=1e-4, atol=1e-6)).sum())
    return int((tower.load.numpy() != load).sum()), elsewhere


def bound_apart(model: HolographicModel, ids: np.ndarray, documents: Sequence[np.ndarray]) -> float:
    """Largest difference of what the bindings say from their settled states and the counts of a dictionary."""
    assert model.mirror is not None
    mirror, least, counts = model.mirror, model.config.tower.promote_at or 2**30, model.memories.counts
    wanted = np.tile(counts.lowest.astype(np.float64), (len(ids), 1))
    for column, order in enumerate(mirror.tower.orders):
        state = settled_states(model, ids, order)
        found = np.zeros_like(wanted)
        for row, (tokens, values) in enumerate(zip(state.tokens.tolist(), state.counts.tolist(), strict=True)):
            for word, value in zip(tokens, values, strict=True):
                found[row, word] += value if word >= 0 else 0.0
        frequent = {gram: n for gram, n in gram_counts(documents, order)[0].items() if n >= least}
        places = dict[tuple[int, ...], list[int]]()
        for row, context in enumerate(ids[:, ids.shape[1] - order + 1 :].tolist()):
            places.setdefault(tuple(context), []).append(row)
        for gram, n in frequent.items():
            for row in places.get(gram[:-1], ()):
                found[row, gram[-1]] += n
        # What stands before a pad is absent, and a context that is too short says nothing.
        found[(ids[:, 1 - order :] == model.pad_id).any(1)] = 0.0
        total, sd = found.sum(1), state.sd.numpy().astype(np.float64)
        size = np.minimum(9, np.floor(np.log2(np.maximum(total, 1)))).astype(int)
        share = mirror.shares[column][np.where(total > 0, 1 + 3 * size + (sd >= 0.707) + (sd >= 1.414), 0)][:, None]
        wanted = (1 - share) * wanted + share * found / np.maximum(total, 1e-9)[:, None]
    said = mirror.distribution(model.contexts(ids), counts)
    return float(np.abs(said - wanted).max())


@claim(
    "holographic.one-path",
    statement="With bindings, all ways to ask agree; what is bound is read at its address and settles into it.",
    source="docs/holographic.md",
    limit_s=300.0,
)
def bound_paths(setting: Setting) -> Evidence:
    """Towers of 3, 4 and 5 levels: 10,200 contexts by every path, 1,020,000 addresses by formula, settled states."""
    random, paths, words, size = np.random.default_rng(setting.seed), list[Paths](), 60, 3_000
    loads = reads = 0
    apart = 0.0
    document = synthetic(size, words, setting.seed)
    for levels in LEVELS:
        config = HolographicConfig(
            tower=TowerConfig(levels=levels, channels=4, top_digits={2: 4, 3: 6, 4: 6}, promote_at=3),
            counts=CountsConfig(order=5, classes=(8,)),
            similarity=SimilarityConfig(dim=16),
            mixture=MixtureConfig(blocks=2, block_share=0.1, product_steps=5, em_steps=20),
        )
        model = HolographicModel(config, WordTokenizer([f"w{n}" for n in range(words - 2)]))
        model.learn_text(document)
        model.fit(document)
        found = Paths(model)
        for length in (1, 2, 4, 9, 30):
            ids = random.integers(0, words, (ASKED_PATHS // 5, length))
            begin = random.integers(0, size - length, len(ids) // 2)
            ids[::2] = document[begin[:, None] + np.arange(length)]
            whole = found.compare(torch.from_numpy(ids), random, steps=length)
            found.recall(torch.from_numpy(ids), whole)
            if length > 4:
                apart = max(apart, bound_apart(model, ids[:200], [document]))
        found.evaluate(torch.from_numpy(ids[:2]), whole[:2])
        found.converse(model.tokenizer.decode(document[:9]), setting.scratch)
        paths.append(found)
        wrong, elsewhere = misplaced(levels, random, setting.seed)
        loads, reads = loads + wrong, reads + elsewhere
    names = sorted({name for found in paths for name in found.found})
    assert all(found.found.keys() == set(names) for found in paths)
    return Evidence(
        (
            Figure("contexts", ASKED_PATHS // 5 * 5 * len(LEVELS), ">=", 10_000),
            *(
                Figure(name, max(found.found[name] for found in paths), "<=", PATHS_APART, "nats apart")
                for name in names
            ),
            Figure("probabilities sum to one but for", max(found.excess for found in paths), "<=", 1e-4),
            Figure("bindings say what their settled states say but for", apart, "<=", 1e-5),
            Figure("contexts whose address was compared", ASKED_ADDRESSES * len(LEVELS), ">=", 10**6),
            Figure("addresses with another number of items", loads, "==", 0),
            Figure("contexts read at another address", reads, "==", 0),
        )
    )
