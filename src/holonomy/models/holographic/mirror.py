"""Superposed bindings beside exact counts: every rare pair is bound, frequent ones are left to their counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from holonomy.geometry.minkowski import multivector_of, stability
from holonomy.models.holographic.config import TowerConfig
from holonomy.models.holographic.contexts import Contexts
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.memories import PART
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.settle import (
    BUCKETS,
    Settled,
    bucket_of,
    fit_shares,
    settle_among,
    spread_counts,
)
from holonomy.models.holographic.signatures import Signatures
from holonomy.models.holographic.tower import Bindings, Tower

Words = torch.Tensor | None
"""Those that each settled state may hold, [B, m]; None is all."""


class Mirror:
    """A tower that follows what the counts learn.

    Args:
        config: of the tower.
        vocab_size: number of words.
    """

    def __init__(self, config: TowerConfig, vocab_size: int) -> None:
        self.config, self.vocab_size = config, vocab_size
        orders = len(config.top_digits)
        self.signatures = Signatures(config.seed, config.channels, vocab_size, orders)
        self.tower = Tower(self.signatures, levels=config.levels, top_digits=config.top_digits, seed=config.seed)
        self.shares = np.zeros((orders, BUCKETS))
        """Share of each order by class of its settled state; zero until `fit`."""

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of the store and of the rotations."""
        return {"tower": self.tower.nbytes, "signatures": self.signatures.nbytes}

    def pack(self) -> None:
        """Takes as little memory as reading needs; whoever binds makes room first."""
        self.tower.pack()
        self.signatures.release()

    def _held(self, count: np.ndarray) -> np.ndarray:
        # What the store holds of a pair that occurred so often.
        limit = self.config.promote_at
        return count if limit is None else np.where(count < limit, count, 0)

    def follow(
        self, contexts: Contexts, targets: np.ndarray, weights: np.ndarray, sign: int, counts: CountTrie
    ) -> None:
        """Binds pairs that `counts` has just learned, or takes away what it has just unlearned."""
        orders = self.tower.orders
        symbols, lengths = contexts.symbols(counts.order - 1)
        pairs = Pairs(symbols, lengths, targets, weights)
        deltas = np.zeros((len(targets), len(orders)), dtype=np.int64)
        for column, order in enumerate(orders):
            there = np.flatnonzero(lengths >= order - 1)
            rows, after = counts.occurrences(Pairs(*(a[there] for a in pairs)), order)
            _, first, number = np.unique(rows, return_index=True, return_inverse=True)
            change = np.bincount(number.reshape(-1), weights=sign * weights[there]).astype(np.int64)
            # One row speaks for all copies of its pair, so the order within a batch does not matter.
            now = after[first].astype(np.int64)
            deltas[there[first], column] = self._held(now) - self._held(now - change)
        self.bind(symbols, lengths, targets, deltas)

    def take(self, grams: np.ndarray, counts: np.ndarray) -> None:
        """Binds grams that exact counts have dropped, where their addresses are not as full as they may be.

        Args:
            grams: nearest symbol last, behind -1, [B, highest order].
            counts: how often each occurred, [B].
        """
        lengths = (grams >= 0).sum(1)
        for column, order in enumerate(self.tower.orders):
            own = np.flatnonzero(lengths == order)
            symbols = np.maximum(grams[own, :-1], 0).astype(np.int64)
            # Beyond this load half of what is read would be wrong.
            most = self.tower.signatures.channels * 4 / np.log(max(2, self.vocab_size))
            rows = self.tower.addresses(torch.from_numpy(symbols), order)
            free = np.flatnonzero(self.tower.load[rows].numpy() < most)
            weights = np.zeros((len(free), len(self.tower.orders)), dtype=np.int64)
            weights[:, column] = counts[own[free]]
            targets = grams[own[free], -1].astype(np.int64)
            self.bind(symbols[free], np.full(len(free), order - 1), targets, weights)

    def bind(self, symbols: np.ndarray, lengths: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
        """Binds pairs as often as `weights` [B, orders] says, whatever the counts are."""
        near = np.ascontiguousarray(symbols[:, symbols.shape[1] - len(self.tower.orders) :])
        self.tower.write(Bindings(near, lengths, targets, weights))

    def settled(self, contexts: Contexts, order: int, words: Words = None) -> tuple[Settled, np.ndarray]:
        """Settled states of contexts at one order, and which contexts are long enough."""
        symbols, lengths = contexts.symbols(len(self.tower.orders))
        state = settle_among(self.tower.read(torch.from_numpy(symbols), order), self.signatures, words)
        return state, lengths >= order - 1

    def coherence(self, contexts: Contexts, words: np.ndarray) -> np.ndarray:
        """How clearly what stands at the address of the longest bound order is each of some words, 0 to 1, [B, m].

        The mean over channels of the stability of X E_w^T: one for a clean match, whatever its sign; zero where no
        order is bound, or nothing stands.

        Args:
            contexts: the contexts.
            words: the words of each, [B, m].
        """
        symbols, _ = contexts.symbols(len(self.tower.orders))
        longest, found = self._longest(contexts), np.zeros(words.shape)
        for order in self.tower.orders:
            rows = np.flatnonzero(longest == order)
            x = self.tower.read(torch.from_numpy(symbols[rows]), order)
            for column, word in enumerate(words.T):
                turned = x @ self.signatures.words[torch.from_numpy(word[rows])].mT
                found[rows, column] = stability(multivector_of(turned)).mean(1).numpy()
        return found

    def _counted(
        self, contexts: Contexts, order: int, counts: CountTrie, rows: np.ndarray, words: Words
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # Counts of words after contexts, settled or promoted, [B, V], the class of each state and its noise.
        state, long = self.settled(contexts, order, words)
        found = spread_counts(state, self.vocab_size).numpy().astype(np.float64)
        # What was dropped and came again is in both, each time by itself.
        least = 1 if self.config.role == "overflow" else self.config.promote_at
        if least is not None:
            counts.frequent(rows[:, order - 1], least, found)
        found[~long] = 0.0
        sd = state.sd.numpy().astype(np.float64)
        # A sum of nothing leaves nothing, to the last bit.
        return found, bucket_of(found.sum(1), sd), np.where(long & (sd > 0), sd, np.nan)

    def distribution(self, contexts: Contexts, counts: CountTrie, words: Words = None) -> np.ndarray:
        """What the store says about the next word, interpolated over its orders, [B, V] float64."""
        return self.said(contexts, counts, words)[0]

    def said(self, contexts: Contexts, counts: CountTrie, words: Words = None) -> tuple[np.ndarray, np.ndarray]:
        """`distribution`, and the noise of a count at the address that `coherence` looks at, nan where nothing is."""
        rows = counts.find(*contexts.symbols(counts.order - 1), followed=False)
        out = np.tile(counts.lowest.astype(np.float64), (len(rows), 1))
        longest, sd = self._longest(contexts), np.full(len(rows), np.nan)
        for column, order in enumerate(self.tower.orders):
            found, bucket, noise = self._counted(contexts, order, counts, rows, words)
            share = self.shares[column][bucket][:, None]
            out = (1 - share) * out + share * found / np.maximum(found.sum(1, keepdims=True), 1e-9)
            sd = np.where(longest == order, noise, sd)
        return out, sd

    def _longest(self, contexts: Contexts) -> np.ndarray:
        # The longest bound order of each context.
        return np.minimum(contexts.ends - contexts.begins + 1, self.tower.orders[-1])

    def fit(
        self,
        contexts: Contexts,
        targets: np.ndarray,
        counts: CountTrie,
        choose: Callable[[Contexts], Words] = lambda contexts: None,
    ) -> None:
        """Fits the shares of the orders to words that were not learned; `choose` says what states may hold."""
        rows = counts.find(*contexts.symbols(counts.order - 1), followed=False)
        lower, step = counts.lowest[targets].astype(np.float64), max(1, PART // self.vocab_size)
        for column, order in enumerate(self.tower.orders):
            own, bucket = np.empty(len(targets)), np.empty(len(targets), dtype=np.int64)
            for begin in range(0, len(targets), step):
                cut = slice(begin, begin + step)
                part = contexts.part(cut)
                found, bucket[cut], _ = self._counted(part, order, counts, rows[cut], choose(part))
                said = found[np.arange(len(found)), targets[cut]]
                own[cut] = said / np.maximum(found.sum(1), 1e-9)
            self.shares[column] = fit_shares(lower, own, bucket)
            share = self.shares[column][bucket]
            lower = (1 - share) * lower + share * own

    def merge(self, other: Mirror, mine: CountTrie, theirs: CountTrie) -> None:
        """Adds what another store holds; both counts are those before they are merged.

        A pair that is frequent only in both together leaves the store, as it would have in one pass.
        """
        self.tower.merge(other.tower)
        if self.config.role == "overflow":
            return
        places = theirs.order - 1
        for column, order in enumerate(self.tower.orders):
            words, raw, _ = theirs.grams(order)
            symbols = np.zeros((len(raw), places), dtype=np.int64)
            symbols[:, places - order + 1 :] = words[:, :-1]
            lengths, targets = np.full(len(raw), order - 1), words[:, -1].astype(np.int64)
            pairs = Pairs(symbols, lengths, targets, np.ones(len(raw), dtype=np.int64))
            here, there = mine.occurrences(pairs, order)[1].astype(np.int64), raw.astype(np.int64)
            weights = np.zeros((len(raw), len(self.tower.orders)), dtype=np.int64)
            weights[:, column] = self._held(here + there) - self._held(here) - self._held(there)
            changed = np.flatnonzero(weights[:, column])
            self.bind(symbols[changed], lengths[changed], targets[changed], weights[changed])
