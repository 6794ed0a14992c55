"""Kneser-Ney tables against the textbook formula on dictionaries, and against sums that must be one."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holonomy.core.errors import ConfigError, DataError
from holonomy.data.kneser_ney import KneserNey, NGramCounts, baselines, discounts


class Dictionary:
    """The formula of Chen & Goodman (1999, section 2.7), straight on dictionaries of tuples."""

    def __init__(self, tokens: list[int], order: int, vocab_size: int) -> None:
        self.vocab_size, self.order = vocab_size, order
        raw = [Counter(tuple(tokens[i : i + k]) for i in range(len(tokens) - k + 1)) for k in range(1, order + 2)]
        self.counts = []
        for k in range(1, order + 1):
            if k == order:
                self.counts.append(raw[k - 1])
            else:
                left = defaultdict(set)
                for gram in raw[k]:
                    left[gram[1:]].add(gram[0])
                self.counts.append(Counter({g: len(left[g]) for g in raw[k - 1]}))
        self.discount = [self._discount(c) for c in self.counts]

    @staticmethod
    def _discount(counts: Counter) -> list[float]:
        n = [sum(c == m for c in counts.values()) for m in range(5)]
        y = n[1] / (n[1] + 2 * n[2]) if n[1] else 0.0
        found = [0.0]
        for m in (1, 2, 3):
            d = m - (m + 1) * y * n[m + 1] / n[m] if n[m] and y else 0.0
            found.append(d if 0 < d <= m else m / 2)
        return found

    def prob(self, context: tuple[int, ...], token: int) -> float:
        context = context[max(0, len(context) - self.order + 1) :]
        return self._prob(context, token, len(context) + 1)

    def _prob(self, context: tuple[int, ...], token: int, k: int) -> float:
        if k == 0:
            return 1 / self.vocab_size
        lower = self._prob(context[1:], token, k - 1)
        grams = {g: c for g, c in self.counts[k - 1].items() if g[:-1] == context}
        total = sum(grams.values())
        if not total:
            return lower
        d = self.discount[k - 1]
        count = grams.get((*context, token), 0)
        gamma = sum(d[min(c, 3)] for c in grams.values()) / total
        return (count - d[min(count, 3)]) / total + gamma * lower


TEXTS = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@given(TEXTS, TEXTS, st.integers(1, 4))
def test_equals_the_formula(train: list[int], held_out: list[int], order: int) -> None:
    counts = NGramCounts(np.array(train), order=order, vocab_size=4)
    slow = Dictionary(train, min(order, len(train)), 4)
    expected = [-math.log(slow.prob(tuple(held_out[:i]), w)) for i, w in enumerate(held_out)]
    found = KneserNey(counts, order=order).token_losses(np.array(held_out))
    assert np.abs(found - expected).max() < 1e-12


@given(TEXTS, st.lists(st.integers(0, 4), max_size=6), st.integers(1, 5))
def test_probabilities_sum_to_one(train: list[int], context: list[int], order: int) -> None:
    model = KneserNey(NGramCounts(np.array(train), order=order, vocab_size=5), order=order)
    probs = model.probs(np.array(context, dtype=np.int64))
    assert abs(probs.sum() - 1) < 1e-12
    assert probs.min() > 0


def test_distribution_and_losses_agree() -> None:
    tokens = np.random.default_rng(0).integers(0, 7, 400)
    model = KneserNey(NGramCounts(tokens[:300], order=4, vocab_size=7), order=4)
    losses = model.token_losses(tokens[300:])
    for at in (0, 1, 2, 3, 50, 99):
        assert math.isclose(-math.log(model.probs(tokens[300 : 300 + at])[tokens[300 + at]]), losses[at], rel_tol=1e-12)


def test_order_one_in_closed_form() -> None:
    # Seven symbols with counts 1, 1, 1, 2, 2, 3, 4, so n1..n4 = 3, 2, 1, 1 and Y = 3 / 7.
    counts = np.array([1, 1, 1, 2, 2, 3, 4])
    taken = np.array([3 / 7, 3 / 7, 3 / 7, 19 / 14, 19 / 14, 9 / 7, 9 / 7])
    model = KneserNey(NGramCounts(np.repeat(np.arange(7), counts), order=1, vocab_size=8), order=1)
    expected = np.append(counts - taken, 0) / 14 + taken.sum() / 14 / 8
    assert np.allclose(model.probs(np.array([], dtype=np.int64)), expected, rtol=1e-13)


def test_discounts_follow_the_counts_of_counts() -> None:
    counts = np.repeat([1, 2, 3, 4], [10, 4, 3, 2])
    y = 10 / (10 + 8)
    expected = [0, 1 - 2 * y * 4 / 10, 2 - 3 * y * 3 / 4, 3 - 4 * y * 2 / 3]
    assert np.allclose(discounts(counts), expected)


def test_large_vocabularies_and_orders_do_not_overflow() -> None:
    random = np.random.default_rng(1)
    tokens, rename = random.integers(0, 30, 3000), random.permutation(50_000)

    def losses(ids: np.ndarray) -> np.ndarray:
        return KneserNey(NGramCounts(ids[:2000], order=12, vocab_size=50_000), order=12).token_losses(ids[2000:])

    assert np.allclose(losses(tokens), losses(rename[tokens]), rtol=1e-12)


def test_longer_orders_predict_structured_text_better() -> None:
    words = b"the cat sat on the mat and the dog sat on the log "
    tokens = np.frombuffer(words * 30, dtype=np.uint8).astype(np.int64)
    found = baselines(tokens[:1200], tokens[1200:], 128)
    assert list(found) == ["baseline/unigram", "baseline/bigram", "baseline/kn5", "baseline/kn7"]
    assert found["baseline/unigram"] > found["baseline/bigram"] > found["baseline/kn5"] > 0


@pytest.mark.parametrize(
    ("tokens", "order", "kind"), [([], 2, DataError), ([0, 9], 2, DataError), ([0, 1], 0, ConfigError)]
)
def test_wrong_input_is_named(tokens: list[int], order: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"tokens|order"):
        NGramCounts(np.array(tokens), order=order, vocab_size=3)
