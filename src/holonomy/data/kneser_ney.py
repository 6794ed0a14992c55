"""Interpolated modified Kneser-Ney n-gram models (Chen & Goodman 1999, section 2.7) as sorted arrays.

p(w | h) = (c(h w) - D(c)) / c(h) + gamma(h) p(w | h'), h' = h without its oldest token, down to the uniform
distribution. The highest order counts occurrences, lower orders count distinct tokens seen before. The discounts
D1, D2, D3+ of each order follow from its counts of counts; gamma(h) makes the sum over w one.

A k-gram is numbered by (number of its first k - 1 tokens) * V + (its last token), ranked; so numbers stay small
for any vocabulary and any order, and looking a gram up is a binary search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from holonomy.core.errors import ConfigError, DataError

ABSENT = -1


@dataclass(frozen=True)
class _Level:
    """All distinct k-grams of a text, sorted.

    Attributes:
        keys: context number * V + last token.
        occurrences: how often each gram occurs.
        preceded: before how many distinct tokens each gram occurs.
    """

    keys: np.ndarray
    occurrences: np.ndarray
    preceded: np.ndarray


class NGramCounts:
    """Counts of all k-grams of a token array, k = 1..order; shared by models of every order up to it.

    Args:
        tokens: token ids, [n].
        order: longest gram.
        vocab_size: number of token ids.

    Raises:
        ConfigError, DataError: an order below 1, no tokens, or ids outside the vocabulary.
    """

    def __init__(self, tokens: np.ndarray, *, order: int, vocab_size: int) -> None:
        if order < 1:
            raise ConfigError(f"`order` is {order}; wanted 1 or more")
        self.order, self.vocab_size = order, vocab_size
        tokens = _checked(tokens, vocab_size)
        if len(tokens) == 0:
            raise DataError("`tokens` is empty; an n-gram model needs at least one token")
        self.levels: list[_Level] = []
        context = numbers = np.zeros(len(tokens), dtype=np.int64)
        for k in range(1, order + 1):
            keys = context * vocab_size + tokens[k - 1 :]
            by_key = np.argsort(keys)
            ordered = keys[by_key]
            first = np.flatnonzero(np.diff(ordered, prepend=-1))
            number = np.empty(len(keys), dtype=np.int64)
            number[by_key] = np.repeat(np.arange(len(first)), np.diff(first, append=len(keys)))
            if k > 1:
                # Any occurrence of a gram tells the number of its suffix, one order lower.
                suffix = numbers[by_key[first] + 1]
                preceded = np.bincount(suffix, minlength=len(self.levels[-1].keys))
                self.levels[-1] = _Level(self.levels[-1].keys, self.levels[-1].occurrences, preceded)
            occurrences = np.diff(first, append=len(keys))
            self.levels.append(_Level(ordered[first], occurrences, np.zeros(len(first), dtype=np.int64)))
            numbers = number
            context = number[:-1]
            if len(context) == 0:
                break


def _checked(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    tokens = np.asarray(tokens, dtype=np.int64)
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise DataError(f"`tokens` run from {tokens.min()} to {tokens.max()}; wanted 0 to {vocab_size - 1}")
    return tokens


def discounts(counts: np.ndarray) -> np.ndarray:
    """D(0) = 0, D1, D2, D3+ of the counts of all grams of one order."""
    return np.array(discounts_of(*(int((counts == c).sum()) for c in (1, 2, 3, 4))))


def discounts_of(n1: int, n2: int, n3: int, n4: int) -> tuple[float, float, float, float]:
    """D(0) = 0, D1, D2, D3+ from how many grams have counts 1 to 4 (Chen & Goodman 1999, equation 26).

    An estimate that does not exist (a count of counts is zero) or lies outside (0, c] is replaced by c / 2, so that
    every context leaves some probability to what it has not seen. Kernels compile it, too.
    """
    y = n1 / (n1 + 2 * n2) if n1 > 0 else 0.0
    one = 1 - 2 * y * n2 / n1 if n1 > 0 else 0.0
    two = 2 - 3 * y * n3 / n2 if n2 > 0 and y > 0 else 0.0
    more = 3 - 4 * y * n4 / n3 if n3 > 0 and y > 0 else 0.0
    return 0.0, one if 0 < one <= 1 else 0.5, two if 0 < two <= 2 else 1.0, more if 0 < more <= 3 else 1.5


@dataclass(frozen=True)
class _Table:
    """One order of a model.

    Attributes:
        keys: of the level.
        share: discounted probability of each gram.
        rest: gamma of each context; 1 where the context was never followed by anything.
    """

    keys: np.ndarray
    share: np.ndarray
    rest: np.ndarray


class KneserNey:
    """An n-gram model.

    Args:
        counts: counts of the training text.
        order: length of the longest gram, at most that of `counts`.
    """

    def __init__(self, counts: NGramCounts, *, order: int) -> None:
        if not 1 <= order <= counts.order:
            raise ConfigError(f"`order` is {order}; wanted 1 to {counts.order}, the order of `counts`")
        self.vocab_size = counts.vocab_size
        self._tables: list[_Table] = []
        num_contexts = 1
        levels = counts.levels[:order]
        for level in levels:
            top = level is levels[-1]
            self._tables.append(self._table(level, level.occurrences if top else level.preceded, num_contexts))
            num_contexts = len(level.keys)

    def _table(self, level: _Level, count: np.ndarray, num_contexts: int) -> _Table:
        context = level.keys // self.vocab_size
        total = np.bincount(context, weights=count, minlength=num_contexts)
        taken = discounts(count)[np.minimum(count, 3)]
        removed = np.bincount(context, weights=taken, minlength=num_contexts)
        known = total > 0
        rest = np.ones(num_contexts)
        rest[known] = removed[known] / total[known]
        share = np.zeros(len(count))
        np.divide(count - taken, total[context], out=share, where=total[context] > 0)
        return _Table(level.keys, share, rest)

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(t.keys.nbytes + t.share.nbytes + t.rest.nbytes for t in self._tables)

    def token_losses(self, tokens: np.ndarray) -> np.ndarray:
        """Negative log probability of each token given those before it, in nats, [n] float64."""
        tokens = _checked(tokens, self.vocab_size)
        probability = np.full(len(tokens), 1 / self.vocab_size)
        context = np.zeros(len(tokens), dtype=np.int64)
        for k, table in enumerate(self._tables):
            if k >= len(tokens):
                break
            number, probability[k:] = self._extend(table, context, tokens[k:], probability[k:])
            context = number[:-1]
        return -np.log(probability)

    def _extend(
        self, table: _Table, context: np.ndarray, token: np.ndarray, lower: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the grams (context, token), and their probabilities from those one order lower."""
        keys = np.where(context == ABSENT, ABSENT, context * self.vocab_size + token)
        at = np.searchsorted(table.keys, keys).clip(max=len(table.keys) - 1)
        found = table.keys[at] == keys
        share = np.where(found, table.share[at], 0.0)
        rest = np.where(context == ABSENT, 1.0, table.rest[context])
        return np.where(found, at, ABSENT), share + rest * lower

    def loss(self, tokens: np.ndarray) -> float:
        """Mean loss of all tokens but the first, in nats."""
        return float(self.token_losses(tokens)[1:].mean())

    def probs(self, context: np.ndarray) -> np.ndarray:
        """Distribution of the token after a context, [V]."""
        context = _checked(context, self.vocab_size)
        candidates = np.arange(self.vocab_size)
        probability = np.full(self.vocab_size, 1 / self.vocab_size)
        for k, table in enumerate(self._tables):
            if k > len(context):
                break
            number = np.zeros(1, dtype=np.int64)
            for lower, token in zip(self._tables, context[len(context) - k :], strict=False):
                number, _ = self._extend(lower, number, np.array([token]), np.ones(1))
            _, probability = self._extend(table, np.repeat(number, self.vocab_size), candidates, probability)
        return probability


def baselines(train: np.ndarray, validation: np.ndarray, vocab_size: int) -> dict[str, float]:
    """Held-out losses of plain n-gram models trained on the same tokens, nats per token."""
    counts = NGramCounts(train, order=7, vocab_size=vocab_size)
    names = {"baseline/unigram": 1, "baseline/bigram": 2, "baseline/kn5": 5, "baseline/kn7": 7}
    return {name: KneserNey(counts, order=order).loss(validation) for name, order in names.items()}
