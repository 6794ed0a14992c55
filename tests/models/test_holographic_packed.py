"""Packed counts say the same as open ones, to the last bit, in a fraction of the memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holonomy.core.errors import CheckpointError
from holonomy.data.text import load_text
from holonomy.data.words import split_words
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.packed import packed_from
from holonomy.models.holographic.pairs import Pairs

WORDS = 6
TEXTS = st.lists(st.integers(0, WORDS - 1), min_size=1, max_size=80).map(np.array)


def pairs_of(tokens: np.ndarray, order: int, weight: int = 1) -> Pairs:
    symbols, lengths = of_text(tokens, np.zeros(1, np.int64)).symbols(order - 1)
    return Pairs(symbols, lengths, tokens.astype(np.int64), np.full(len(tokens), weight))


def told(trie: CountTrie, probe: Pairs) -> list[np.ndarray]:
    """Everything that a trie can be asked."""
    found = trie.find(probe.symbols, probe.lengths)
    ladder = np.zeros((len(found), trie.order, WORDS), dtype=np.float32)
    trie.ladder(found, 1, ladder)
    answers = [found >= 0, trie.find(probe.symbols, probe.lengths, followed=False) >= 0, trie.dense(found), ladder]
    answers += [trie.score(found, probe.targets), trie.masses(found), trie.lowest, trie.taken]
    for order in range(1, trie.order + 1):
        answers += trie.grams(order)
    for order in range(2, trie.order):
        answers.append(trie.occurrences(probe, order)[1])
        rows = trie.find(probe.symbols, probe.lengths, followed=False)[:, order - 1]
        frequent = np.zeros((len(rows), WORDS))
        trie.frequent(rows, 2, frequent)
        answers.append(frequent)
    return answers


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@settings(max_examples=40)
@given(TEXTS, TEXTS, st.integers(1, 4), st.sampled_from([1, 300]), st.integers(1, 3))
def test_packed_counts_say_the_same(tokens: np.ndarray, later: np.ndarray, order: int, weight: int, least: int) -> None:
    trie, plain = CountTrie(order, WORDS), CountTrie(order, WORDS)
    probe = pairs_of(np.concatenate([tokens, later]), order)
    for each in (trie, plain):
        each.learn(pairs_of(tokens, order, weight))
        each.learn(pairs_of(tokens[: len(tokens) // 2], order))
        if least > 1 and order > 1:
            each.prune(least, lowest=2)
    trie.pack()
    assert same(told(trie, probe), told(plain, probe))
    assert trie.num_grams == plain.num_grams and trie.learned == plain.learned and trie.cut_off == plain.cut_off
    again, state = CountTrie(order, WORDS), trie.state()
    again.load_state(state)
    assert same(told(again, probe), told(plain, probe)) and again.nbytes == trie.nbytes
    trie.pack()
    assert all(np.array_equal(state[name], trie.state()[name]) for name in state)
    # Whoever learns or unlearns goes on as if nothing had been packed.
    for each in (trie, plain):
        each.learn(pairs_of(later, order))
    assert same(told(trie, probe), told(plain, probe))
    trie.pack()
    for each in (trie, plain):
        each.unlearn(pairs_of(later, order))
    assert same(told(trie, probe), told(plain, probe))


def test_skipped_contexts_of_large_symbols_are_packed() -> None:
    random = np.random.default_rng(0)
    symbols, targets = random.integers(0, 2**31 - 2, (400, 2)), random.integers(0, WORDS, 400)
    symbols[200:] = symbols[:200]
    pairs = Pairs(symbols, np.full(400, 2), targets, np.ones(400, np.int64))
    trie, plain = (CountTrie(3, WORDS, num_symbols=2**31 - 1, rolling=False) for _ in range(2))
    for each in (trie, plain):
        each.learn(pairs)
    trie.pack()
    assert same(told(trie, pairs), told(plain, pairs))


def test_packing_a_real_text_takes_a_fifth() -> None:
    train = split_words(load_text("pydoc").text[:100_000]).train
    trie = CountTrie(5, int(train.max()) + 1)
    trie.learn(pairs_of(train, 5))
    trie.arrange()
    # As a checkpoint brings it: rows and tables that fit.
    state = trie.state()
    trie.load_state(state)
    before = trie.nbytes
    trie.pack()
    assert trie.nbytes <= 0.2 * before
    trie.unpack()
    assert trie.nbytes == before and all(np.array_equal(state[name], trie.state()[name]) for name in state)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("firsts", lambda a: np.append(a[:-1], a[-1] + 1)),
        ("firsts", lambda a: a[::-1].copy()),
        ("firsts", lambda a: a.astype(np.int64)),
        ("firsts", lambda a: np.array([1, *a[2:], a[-1]], dtype=np.int32)),
        ("symbols", lambda a: np.where(np.arange(len(a)) == 1, 5, a).astype(a.dtype)),
        ("symbols", lambda a: np.minimum(a + 3, 9).astype(a.dtype)),
        ("few", lambda a: np.minimum(a, 254)),
        ("few", lambda a: a[:-1]),
        ("many", lambda a: np.full_like(a, 3)),
        ("many_at", lambda a: a[:0]),
    ],
)
def test_damaged_arrays_are_refused(name: str, change) -> None:
    tokens = np.random.default_rng(0).integers(0, WORDS, 60)
    trie = CountTrie(3, WORDS)
    trie.learn(pairs_of(tokens, 3, 300))
    trie.pack()
    state = trie.state()
    packed_from(state, 3, WORDS)
    before = told(trie, pairs_of(tokens, 3))
    with pytest.raises(CheckpointError):
        trie.load_state(state | {name: change(state[name])})
    assert same(told(trie, pairs_of(tokens, 3)), before)
