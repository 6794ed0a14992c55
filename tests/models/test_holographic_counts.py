"""The trie of counts against sorted arrays, dictionaries and itself in other orders."""

from __future__ import annotations

import time
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.data.kneser_ney import KneserNey, NGramCounts, discounts_of
from holonomy.data.text import KNOWN_TEXTS, data_directory, load_text
from holonomy.data.words import split_words
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.kernels import TOGETHER
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.transfer import compact_counts, merge_counts

WORDS = 6


def pairs_of(tokens: np.ndarray, order: int, begin: int = 0) -> Pairs:
    """Each token from `begin` on after all that stand before it, as a plain loop would cut them."""
    symbols, lengths = [], []
    for i in range(begin, len(tokens)):
        before = tokens[max(0, i - order + 1) : i].tolist()
        symbols.append([0] * (order - 1 - len(before)) + before)
        lengths.append(len(before))
    targets = tokens[begin:].astype(np.int64)
    shape = (len(targets), order - 1)
    return Pairs(
        np.array(symbols, np.int64).reshape(shape), np.array(lengths, np.int64), targets, np.ones_like(targets)
    )


def same(a: CountTrie, b: CountTrie) -> bool:
    grams = [zip(a.grams(n), b.grams(n), strict=True) for n in range(1, a.order + 1)]
    return all(np.array_equal(x, y) for order in grams for x, y in order) and np.array_equal(a.taken, b.taken)


TEXTS = st.lists(st.integers(0, WORDS - 1), min_size=1, max_size=60).map(np.array)


@given(TEXTS, TEXTS, st.integers(1, 5))
def test_equals_the_sorted_arrays(train: np.ndarray, held_out: np.ndarray, order: int) -> None:
    trie = CountTrie(order, WORDS)
    trie.learn(pairs_of(train, order))
    tokens = np.concatenate([train, held_out])
    pairs = pairs_of(tokens, order, len(train))
    found = trie.find(pairs.symbols, pairs.lengths)
    # Sorted arrays know no order longer than the text.
    expected = KneserNey(NGramCounts(train, order=order, vocab_size=WORDS), order=min(order, len(train)))
    losses = expected.token_losses(tokens)[len(train) :]
    if order <= len(train):
        assert np.abs(-np.log(trie.score(found, pairs.targets)) - losses).max() < 1e-9
    dense = trie.dense(found)
    assert np.abs(dense.sum(1) - 1).max() < 1e-5
    assert np.allclose(dense[np.arange(len(dense)), pairs.targets], trie.score(found, pairs.targets), rtol=1e-5)


@given(TEXTS, st.integers(1, 4))
def test_grams_equal_those_of_a_dictionary(tokens: np.ndarray, order: int) -> None:
    trie = CountTrie(order, WORDS)
    trie.learn(pairs_of(tokens, order))
    counted: Counter = Counter()
    left: dict[tuple, set] = defaultdict(set)
    for i in range(len(tokens)):
        for n in range(1, min(order, i + 1) + 1):
            gram = tuple(tokens[i - n + 1 : i + 1].tolist())
            counted[gram] += 1
            if n > 1:
                left[gram[1:]].add(gram[0])
    for n in range(1, order + 1):
        symbols, raw, preceded = trie.grams(n)
        expected = sorted(gram for gram in counted if len(gram) == n)
        assert [tuple(row) for row in symbols.tolist()] == expected
        assert raw.tolist() == [counted[g] for g in expected]
        assert n == order or preceded.tolist() == [len(left[g]) for g in expected]


@given(TEXTS, TEXTS, st.integers(1, 4), st.integers(0, 10))
def test_unlearning_leaves_no_trace(kept: np.ndarray, gone: np.ndarray, order: int, seed: int) -> None:
    trie, alone = CountTrie(order, WORDS), CountTrie(order, WORDS)
    away = pairs_of(gone, order)
    trie.learn(pairs_of(kept, order))
    trie.learn(away)
    mixed = np.random.default_rng(seed).permutation(len(gone))
    trie.unlearn(Pairs(*(a[mixed] for a in away)))
    alone.learn(pairs_of(kept, order))
    assert same(trie, alone) and trie.learned == alone.learned
    probe = pairs_of(np.concatenate([kept, gone]), order)
    assert np.array_equal(
        trie.score(trie.find(*probe[:2]), probe.targets), alone.score(alone.find(*probe[:2]), probe.targets)
    )
    compact_counts(trie)
    assert same(trie, alone) and trie.num_grams == sum(len(alone.grams(n)[0]) for n in range(1, order + 1))


@given(TEXTS, st.integers(1, 4), st.integers(0, 10))
def test_order_batches_weights_and_merging_do_not_matter(tokens: np.ndarray, order: int, seed: int) -> None:
    pairs, whole, parts, merged = pairs_of(tokens, order), *(CountTrie(order, WORDS) for _ in range(3))
    whole.learn(pairs)
    mixed = np.random.default_rng(seed).permutation(len(tokens))
    for half in (mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]):
        part = CountTrie(order, WORDS)
        part.learn(Pairs(*(a[half] for a in pairs)))
        merge_counts(merged, part)
    rows, inverse = np.unique(
        np.column_stack([pairs.symbols, pairs.lengths, pairs.targets]), axis=0, return_inverse=True
    )
    parts.learn(Pairs(rows[:, :-2], rows[:, -2], rows[:, -1], np.bincount(inverse.reshape(-1))))
    assert same(whole, parts) and same(whole, merged)


@given(TEXTS, TEXTS, st.integers(1, 4))
def test_arranging_changes_nothing(tokens: np.ndarray, later: np.ndarray, order: int) -> None:
    trie, plain = CountTrie(order, WORDS), CountTrie(order, WORDS)
    for each in (trie, plain):
        each.learn(pairs_of(tokens, order))
    trie.arrange()
    for _ in range(2):
        assert same(trie, plain) and trie.num_grams == plain.num_grams
        probe = pairs_of(np.concatenate([tokens, later]), order)
        found, expected = (t.dense(t.find(*probe[:2])) for t in (trie, plain))
        assert np.allclose(found, expected, atol=1e-7)
        for each in (trie, plain):
            each.learn(pairs_of(later, order))


@given(TEXTS, TEXTS, st.integers(1, 5), st.integers(2, 3))
def test_pruned_tries_keep_what_is_frequent(tokens: np.ndarray, later: np.ndarray, order: int, least: int) -> None:
    trie, plain = CountTrie(order, WORDS), CountTrie(order, WORDS)
    for each in (trie, plain):
        each.learn(pairs_of(tokens, order))
    dropped = trie.prune(least)
    assert dropped == plain.num_grams - trie.num_grams and trie.prune(least) == 0
    for n in range(1, order + 1):
        (symbols, raw, preceded), (all_symbols, all_raw, all_preceded) = trie.grams(n), plain.grams(n)
        kept = [tuple(row) for row in symbols.tolist()]
        known = {tuple(g): (r, p) for g, r, p in zip(all_symbols.tolist(), all_raw, all_preceded, strict=True)}
        assert all(known[g] == (r, p) for g, r, p in zip(kept, raw, preceded, strict=True))
        frequent = {g for g, (r, _) in known.items() if n < 3 or r >= least}
        assert frequent <= set(kept) and (n < order or frequent == set(kept))
        # Totals are still those of all followers: what was dropped goes to shorter contexts.
        counts = all_raw if n == order else all_preceded
        pairs = pairs_of(np.concatenate([tokens, later]), order)
        found = trie.find(*pairs[:2])[:, n - 1]
        for row, total, words, length in zip(found, trie.totals(found[:, None])[:, 0], *pairs[:2], strict=True):
            context = tuple(words[order - n :].tolist()) if n > 1 else ()
            wanted = sum(c for g, c in zip(known, counts, strict=True) if g[:-1] == context)
            assert total == (wanted if length >= n - 1 else 0) or row < 0
    probe = pairs_of(np.concatenate([tokens, later]), order)
    found = trie.find(*probe[:2])
    dense = trie.dense(found)
    assert np.abs(dense.sum(1) - 1).max() < 1e-5
    assert np.allclose(dense[np.arange(len(dense)), probe.targets], trie.score(found, probe.targets), rtol=1e-4)


@given(st.integers(0, 10**6), st.booleans())
def test_pairs_looked_up_together_are_learned_as_one_after_the_other(seed: int, rolling: bool) -> None:
    random = np.random.default_rng(seed)
    tokens = random.integers(0, int(random.integers(1, WORDS + 1)), 2 * TOGETHER + 40)
    pairs = pairs_of(tokens, 4)
    weights = random.integers(1, 4, len(tokens))
    if not rolling:
        pairs = pairs._replace(symbols=pairs.symbols[::-1].copy(), lengths=pairs.lengths[::-1].copy())
    pairs = pairs._replace(weights=weights)
    together, single = CountTrie(4, WORDS, rolling=rolling), CountTrie(4, WORDS, rolling=rolling)
    together.learn(pairs)
    for b in range(len(tokens)):
        single.learn(Pairs(*(a[b : b + 1] for a in pairs)))
    # To the last bit, the places of rows and what chains them included.
    for name, array in single.state().items():
        assert np.array_equal(together.state()[name], array)
    assert np.array_equal(
        together.taken, [discounts_of(*row) for row in together.state()["tally"][:-1].reshape(4, 5)[:, 1:].tolist()]
    )
    kept = together.state()["inner"].copy()
    wrong = pairs._replace(weights=np.where(np.arange(len(tokens)) == TOGETHER + 7, weights + 10**6, weights))
    with pytest.raises(DataError, match=f"row {TOGETHER + 7}"):
        together.unlearn(wrong)
    assert np.array_equal(together.state()["inner"], kept)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_heights_are_masses_at_the_last_known_order(order: int) -> None:
    random = np.random.default_rng(order)
    trie = CountTrie(order, WORDS)
    trie.learn(pairs_of(random.integers(0, WORDS, 80), order))
    pairs = pairs_of(random.integers(0, WORDS, 50), order)
    for _ in range(2):
        found = trie.find(pairs.symbols, pairs.lengths)
        masses, level, here = trie.masses(found), (found >= 0).sum(1) - 1, np.arange(50)
        second, third = min(1, order - 1), min(2, order - 1)
        wanted = [level, *masses[here, level].T, *masses[:, second].T, masses[:, third, 0]]
        held = np.empty((50, 6))
        view, kernels = trie.view()
        kernels.heights(view, found, held)
        assert np.array_equal(held, np.stack(wanted, 1))
        trie.pack()


def test_a_missing_pair_changes_nothing() -> None:
    trie, twin = CountTrie(3, WORDS), CountTrie(3, WORDS)
    pairs = pairs_of(np.random.default_rng(0).integers(0, WORDS, 3000), 3)
    trie.learn(pairs)
    twin.learn(pairs)
    twice = Pairs(*(np.concatenate([a, a[-1:]]) for a in pairs))
    wrong = Pairs(twice.symbols, twice.lengths, twice.targets, np.append(pairs.weights, 3000))
    with pytest.raises(DataError, match="`targets` row 3000: .* was not learned that often"):
        trie.unlearn(wrong)
    assert same(trie, twin) and trie.learned == 3000


def test_a_stored_trie_is_the_same() -> None:
    pairs = pairs_of(np.random.default_rng(1).integers(0, WORDS, 2000), 4)
    trie, again = CountTrie(4, WORDS), CountTrie(4, WORDS)
    trie.learn(pairs)
    again.load_state(trie.state())
    assert same(trie, again)
    trie.learn(pairs)
    again.learn(pairs)
    assert same(trie, again)
    state = trie.state()
    for damage in ({"inner": state["inner"][:0]}, {"leaf": state["leaf"] - 1}, {"tally": state["tally"][1:]}):
        with pytest.raises(CheckpointError):
            again.load_state(state | damage)
    with pytest.raises(CheckpointError):
        again.load_state({"inner": state["inner"]})
    assert same(trie, again)


def test_contexts_may_be_of_other_symbols() -> None:
    # Words after the class of the word before: classes are the numbers from WORDS on.
    tokens = np.random.default_rng(2).integers(0, WORDS, 500)
    classes, trie = tokens % 2 + WORDS, CountTrie(2, WORDS, num_symbols=WORDS + 2, rolling=False)
    trie.learn(Pairs(classes[:-1, None], np.ones(499, np.int64), tokens[1:], np.ones(499, np.int64)))
    dense = trie.dense(trie.find(np.array([[WORDS], [WORDS + 1]]), np.array([1, 1])))
    assert np.abs(dense.sum(1) - 1).max() < 1e-6
    counts = np.array([np.bincount(tokens[1:][classes[:-1] == c], minlength=WORDS) for c in (WORDS, WORDS + 1)])
    left = np.stack([(counts[0] > 0) * 1 + (counts[1] > 0)])
    d1, d2 = trie.taken
    lowest = (left - d1[left]) / left.sum() + d1[left].sum() / left.sum() / WORDS
    expected = (counts - d2[np.minimum(counts, 3)]) / counts.sum(1, keepdims=True)
    expected = expected + d2[np.minimum(counts, 3)].sum(1, keepdims=True) / counts.sum(1, keepdims=True) * lowest
    assert np.allclose(dense, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "row", "value"),
    [("symbols", 1, WORDS), ("lengths", 0, 3), ("targets", 2, -1), ("weights", 1, 0), ("weights", 0, 2**31)],
)
def test_wrong_pairs_are_named_and_change_nothing(name: str, row: int, value: int) -> None:
    pairs, trie = pairs_of(np.array([1, 2, 3]), 3), CountTrie(3, WORDS)
    array = getattr(pairs, name).copy()
    array[row] = value
    with pytest.raises(DataError, match=f"`{name}` row {row}"):
        trie.learn(pairs._replace(**{name: array}))
    with pytest.raises(DataError, match="shape"):
        trie.learn(pairs._replace(lengths=pairs.lengths[:2]))
    with pytest.raises(DataError, match="whole numbers"):
        trie.learn(pairs._replace(weights=pairs.weights * 1.5))
    assert trie.num_grams == 0 and trie.learned == 0
    with pytest.raises(ConfigError, match="order"):
        CountTrie(0, WORDS)
    with pytest.raises(ConfigError, match="other"):
        merge_counts(trie, CountTrie(2, WORDS))


def test_a_repeated_answer_is_expected() -> None:
    tokens = split_words(load_text("pydoc").text).train
    trie, words = CountTrie(5, 3000), np.array([2900, 2901, 2902, 2903])
    trie.learn(pairs_of(tokens, 5))
    pairs = Pairs(np.tile(words, (2, 1)), np.full(2, 4), np.array([2904, 2905]), np.array([9, 1]))
    trie.learn(pairs)
    assert trie.score(trie.find(pairs.symbols[:1], pairs.lengths[:1]), pairs.targets[:1])[0] >= 0.75


def test_size_and_speed_of_a_real_text() -> None:
    tokens = split_words(load_text("pydoc").text).train
    pairs, trie = pairs_of(tokens, 5), CountTrie(5, int(tokens.max()) + 1)
    trie.learn(pairs)
    trie.clear()
    begin = time.process_time()
    trie.learn(pairs)
    assert len(tokens) / (time.process_time() - begin) > 50_000
    trie.trim()
    assert trie.nbytes <= 48 * trie.num_grams
    assert trie.mean_probes <= 8


@pytest.mark.parametrize(("text", "perplexity"), [("pydoc", 71.9), ("tinyshakespeare", 164.6)])
def test_reference_perplexities(text: str, perplexity: float) -> None:
    if text != "pydoc" and not (data_directory() / KNOWN_TEXTS[text].file).exists():
        pytest.skip("the text is not here")
    split = split_words(load_text(text).text)
    if len(split.train) not in (75_002, 225_358):
        pytest.skip("the reference text of another Python")
    trie = CountTrie(5, split.tokenizer.vocab_size)
    trie.learn(pairs_of(split.train, 5))
    pairs = pairs_of(np.concatenate([split.train, split.test]), 5, len(split.train))
    p = trie.score(trie.find(pairs.symbols, pairs.lengths), pairs.targets)
    assert abs(np.exp(-np.log(p).mean()) - perplexity) < 0.1
