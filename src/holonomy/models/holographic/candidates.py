"""Few words of a large vocabulary that similarity speaks of: what followed, what is near, and what is frequent.

Exact counts give a word a probability of its own only where it followed a context; every other word has a multiple of
the lowest distribution. So powers, sums and whole rows of such a distribution follow from the words that followed and
from powers of the lowest distribution, which are the same for all contexts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.geometry.compiled import compiled
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.standing import access

FIXED, FOLLOWING = 2, 4
"""One candidate in so many is one of the most frequent words whatever the context; as many at most followed it."""
CELLS = 16
"""Cells of near words that a context looks into, at most."""


@lru_cache(maxsize=2)
def following(packed: bool) -> Any:
    """`follow(view, taken, found, slot, words, probs, ends, base)`: what lies above a multiple of the lowest one.

    p(v | context b) = base[b] p_1(v) + probs[i] where words[i] = v for one i from ends[b - 1] to ends[b], those after
    the longest contexts first. `slot` is zero for every word, before and after.
    """
    ways = access(packed)
    symbol, count_of, first, after, mass = ways.symbol, ways.count, ways.first, ways.after, ways.mass

    def follow(view, taken, found, slot, words, probs, ends, base):
        order, at = found.shape[1], 0
        for b in range(len(found)):
            share, begin = 1.0, at
            for m in range(order - 1, 0, -1):
                row, top = found[b, m], m == order - 1
                if row < 0:
                    continue
                total, ones, twos, more, gone = mass(view, row, top)
                if total == 0:
                    continue
                scale, child = share / total, first(view, row)
                while child >= 0:
                    count = count_of(view, child, top)
                    if count > 0:
                        v = symbol(view, child, top)
                        if slot[v] == 0:
                            words[at], probs[at] = v, 0.0
                            at += 1
                            slot[v] = at
                        probs[slot[v] - 1] += scale * (count - taken[m, min(count, 3)])
                    child = after(view, child, row, top)
                share *= (taken[m, 1] * ones + taken[m, 2] * twos + taken[m, 3] * more + gone) / total
            for i in range(begin, at):
                slot[words[i]] = 0
            ends[b], base[b] = at, share

    return compiled(follow, exact=True)


@lru_cache(maxsize=1)
def choosing() -> tuple[Any, Any, Any]:
    """`choose`, `gather` and `lay`: candidates of contexts, their probabilities, and whole rows made of them."""

    def choose(words, ends, follow, frequent, rank, fixed, cells, bounds, nearest, mark, out):
        # out[b]: the `fixed` most frequent words, up to `follow` that followed, those of the nearest cells, and the
        # next most frequent ones. `rank` counts words by frequency.
        most = out.shape[1]
        for b in range(len(ends)):
            at, begin = fixed, ends[b - 1] if b else 0
            out[b, :fixed] = frequent[:fixed]
            for i in range(begin, ends[b]):
                v = words[i]
                if at < min(most, fixed + follow) and rank[v] >= fixed:
                    out[b, at], mark[v] = v, b + 1
                    at += 1
            for c in range(nearest.shape[1]):
                for i in range(bounds[nearest[b, c]], bounds[nearest[b, c] + 1]):
                    v = cells[i]
                    if at < most and rank[v] >= fixed and mark[v] != b + 1:
                        out[b, at], mark[v] = v, b + 1
                        at += 1
            place = fixed
            while at < most:
                v = frequent[place]
                place += 1
                if mark[v] != b + 1:
                    out[b, at] = v
                    at += 1

    def gather(words, probs, ends, base, lowest, slot, asked, out):
        # out[b, j]: probability of the word asked[b, j].
        for b in range(len(ends)):
            begin = ends[b - 1] if b else 0
            for i in range(begin, ends[b]):
                slot[words[i]] = i + 1
            for j in range(asked.shape[1]):
                v = asked[b, j]
                own = base[b] * lowest[v]
                if slot[v] > 0:
                    own += probs[slot[v] - 1]
                out[b, j] = own
            for i in range(begin, ends[b]):
                slot[words[i]] = 0

    def lay(words, extra, ends, base, lowest, chosen, probs, weights, out):
        # Adds weights[b] times a row: what followed and a multiple of `lowest`, but for chosen words.
        before = np.empty(chosen.shape[1], dtype=out.dtype)
        for b in range(len(ends)):
            share, weight = np.float32(weights[b] * base[b]), np.float32(weights[b])
            for j in range(len(before)):
                before[j] = out[b, chosen[b, j]]
            for v in range(len(lowest)):
                out[b, v] += share * lowest[v]
            for i in range(ends[b - 1] if b else 0, ends[b]):
                out[b, words[i]] += weight * extra[i]
            for j in range(len(before)):
                out[b, chosen[b, j]] = before[j] + weight * probs[b, j]

    return compiled(choose, exact=True), compiled(gather, exact=True), compiled(lay, exact=True)


class Lowest:
    """The distribution of counts without any context, and its last power that was asked for.

    Args:
        probs: [V] float32.
    """

    def __init__(self, probs: np.ndarray) -> None:
        self.probs, self.total = probs, float(probs.sum(dtype=np.float64))
        self._raised: tuple[float, Lowest] | None = None

    def raised(self, power: float) -> Lowest:
        """Each probability to a power."""
        held = self._raised
        if held is None or held[0] != power:
            self._raised = held = power, Lowest(torch.from_numpy(self.probs).pow(power).numpy())
        return held[1]


@dataclass(frozen=True)
class Followers:
    """Distributions after contexts as what lies above a multiple of the lowest one.

    Attributes:
        lowest: that one.
        words: distinct for each context, those after its longest known part first, [N] int32.
        extra: what each has beside its share of the lowest distribution, [N] float32.
        ends: where the words of each context end, [B].
        base: multiple of the lowest distribution, [B].
    """

    lowest: Lowest
    words: np.ndarray
    extra: np.ndarray
    ends: np.ndarray
    base: np.ndarray

    @classmethod
    def of(cls, trie: CountTrie, found: np.ndarray, lowest: Lowest) -> Followers:
        """Those after contexts that a trie has found, [B, order]."""
        view, _ = trie.view()
        most = int(trie.masses(found)[:, 1:, 1].sum())
        words, extra = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.float32)
        ends, base = np.empty(len(found), dtype=np.int64), np.empty(len(found))
        slot = np.zeros(trie.vocab_size, dtype=np.int32)
        following(trie.packed)(view, trie.taken, found, slot, words, extra, ends, base)
        count = int(ends[-1]) if len(ends) else 0
        return cls(lowest, words[:count], extra[:count], ends, base)

    def at(self, asked: Int[Tensor, "B m"]) -> Float[Tensor, "B m"]:
        """Probabilities of some words."""
        out, slot = np.empty(tuple(asked.shape), dtype=np.float32), np.zeros(len(self.lowest.probs), dtype=np.int32)
        choosing()[1](self.words, self.extra, self.ends, self.base, self.lowest.probs, slot, asked.numpy(), out)
        return torch.from_numpy(out)

    @property
    def _rows(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))

    def raised(self, power: float) -> Followers:
        """Each probability to a power."""
        lowest, base, rows = self.lowest.raised(power), self.base**power, self._rows
        own = self.base[rows] * self.lowest.probs[self.words] + self.extra
        extra = own**power - base[rows] * lowest.probs[self.words]
        return Followers(lowest, self.words, extra.astype(np.float32), self.ends, base)

    @property
    def totals(self) -> np.ndarray:
        """Sums over all words, [B]."""
        return self.base * self.lowest.total + np.bincount(self._rows, weights=self.extra, minlength=len(self.base))

    def add_focused(
        self, out: np.ndarray, weights: np.ndarray, power: float, chosen: Int[Tensor, "B m"], lean: Float[Tensor, "B m"]
    ) -> None:
        """Adds `weights` [B] times `focused` distributions to `out` [B, V]."""
        own = self.raised(power)
        probs, weights = focused(own.at(chosen), lean).numpy(), weights / own.totals
        choosing()[2](own.words, own.extra, own.ends, own.base, own.lowest.probs, chosen.numpy(), probs, weights, out)


def focused(own: Float[Tensor, "B m"], lean: Float[Tensor, "B m"]) -> Float[Tensor, "B m"]:
    """own exp(lean), scaled so that each row keeps its sum: what candidates have does not touch any other word."""
    turned = own * (lean - lean.amax(1, keepdim=True)).exp_()
    # Where nothing is left of a row, there is nothing to keep.
    return turned.mul_(own.sum(1, keepdim=True) / turned.sum(1, keepdim=True).clamp_(min=torch.finfo(own.dtype).tiny))


class Cells:
    """Groups of near words.

    Args:
        vectors: of words.
        group: cell of each word, [V], numbered from any number on.
    """

    def __init__(self, vectors: Float[Tensor, "V D"], group: np.ndarray) -> None:
        cell = group - group.min()
        # Words without a vector are near to nothing.
        there = np.flatnonzero(vectors.abs().amax(1).numpy() > 0)
        self.words = there[np.argsort(cell[there], kind="stable")].astype(np.int32)
        self.bounds = np.concatenate([[0], np.cumsum(np.bincount(cell[there], minlength=int(cell.max()) + 1))])
        sums = torch.zeros(len(self.bounds) - 1, vectors.shape[1]).index_add_(0, torch.from_numpy(cell), vectors)
        self.centres = torch.nn.functional.normalize(sums, dim=1)

    def nearest(self, expected: Float[Tensor, "B D"]) -> np.ndarray:
        """Cells near vectors, nearest first, [B, cells]."""
        return (expected @ self.centres.T).topk(min(CELLS, len(self.centres)), 1).indices.numpy()


class Candidates:
    """Chooses candidates.

    Half of them are the most frequent words, up to a quarter followed the context, the others are near the vector that
    the context expects; what is left over goes to further frequent words.

    Args:
        unigram: occurrences of words, [V].
        cells: of near words; without, no word is near.
    """

    def __init__(self, unigram: np.ndarray, cells: Cells | None) -> None:
        self._frequent = np.argsort(-unigram, kind="stable").astype(np.int32)
        self._rank = np.empty_like(self._frequent)
        self._rank[self._frequent] = np.arange(len(unigram), dtype=np.int32)
        self._cells = cells

    def of(self, followers: Followers, expected: Float[Tensor, "B D"] | None, most: int) -> Int[Tensor, "B m"]:
        """Candidates of contexts, from what followed them and the vectors they expect.

        Args:
            followers: of the contexts.
            expected: by the contexts; None without vectors.
            most: how many of each context, fewer than there are words.
        """
        batch = len(followers.ends)
        cells, bounds, near = self._rank[:0], np.zeros(1, dtype=np.int64), np.empty((batch, 0), dtype=np.int64)
        if expected is not None and self._cells is not None:
            cells, bounds, near = self._cells.words, self._cells.bounds, self._cells.nearest(expected)
        out, mark = np.empty((batch, most), dtype=np.int64), np.zeros(len(self._rank), dtype=np.int32)
        follow = followers.words, followers.ends, most // FOLLOWING
        choosing()[0](*follow, self._frequent, self._rank, always(most), cells, bounds, near, mark, out)
        return torch.from_numpy(out)


def always(most: int) -> int:
    """How many candidates, the first ones, are the same for all contexts."""
    return most // FIXED
