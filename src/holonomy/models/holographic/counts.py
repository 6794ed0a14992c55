"""Exact counts of n-grams that can be learned, unlearned and merged, read as interpolated modified Kneser-Ney.

The highest order counts occurrences, lower ones distinct symbols on the left (Chen & Goodman 1999). Everything is an
integer that one pair changes in a few places; discounts and probabilities follow from the integers when asked for, so
unlearning restores every bit. Symbols of a context need not be words: classes, or words further back, do as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.data.kneser_ney import discounts_of
from holonomy.models.holographic.growth import chain, grown, table_with_room
from holonomy.models.holographic.kernels import (
    FIRST,
    INNER_USED,
    INNER_WIDTH,
    LEAF_USED,
    LEAF_WIDTH,
    LOOKUPS,
    PARENT,
    PRECEDED,
    RAW,
    RELEASED,
    STEPS,
    SYMBOL,
    TOTAL,
    trie_kernels,
)

CHUNK = 1024
"""Pairs learned between two looks at the room left."""
LARGEST = 2**31 - 1
SHARED = 4
"""Symbols that contexts are sorted by."""


class Pairs(NamedTuple):
    """Contexts and what followed them.

    Attributes:
        symbols: the context, nearest last, [B, order - 1] int64; only the last `lengths` count.
        lengths: how many symbols each context has, [B] int64.
        targets: [B] int64.
        weights: how often, [B] int64.
    """

    symbols: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


class CountTrie:
    """Counts of all grams up to an order.

    Args:
        order: longest gram.
        vocab_size: number of words; the lowest distribution is uniform over them.
        num_symbols: number of symbols in contexts; that of words unless given.
        rolling: contexts are the words just before the target, which saves looking them up.

    Raises:
        ConfigError: an order below 1 or no words.
    """

    def __init__(self, order: int, vocab_size: int, *, num_symbols: int | None = None, rolling: bool = True) -> None:
        if not 1 <= order <= 16 or not 1 <= vocab_size <= LARGEST:
            raise ConfigError(f"`order` is {order} and `vocab_size` {vocab_size}; wanted 1 to 16 and 1 or more")
        self.order, self.vocab_size, self.rolling = order, vocab_size, rolling
        self.num_symbols = max(vocab_size, num_symbols or vocab_size)
        self.learned = 0
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self._inner = np.zeros((64, INNER_WIDTH), dtype=np.int32)
        self._inner[0, FIRST] = -1
        self._leaf = np.zeros((64, LEAF_WIDTH), dtype=np.int32)
        self._inner_table, self._leaf_table = (np.full(128, -1, dtype=np.int32) for _ in range(2))
        # Row 0 is the empty gram, which no search looks for.
        self._sizes = np.array([1, 0, 0, 0], dtype=np.int64)
        self._tally = np.zeros((self.order, 5), dtype=np.int64)
        self.learned = 0
        self._changed()

    def _changed(self) -> None:
        self._taken: np.ndarray | None = None
        self._lowest: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, the empty places included."""
        return sum(a.nbytes for a in (self._inner, self._leaf, self._inner_table, self._leaf_table))

    @property
    def num_grams(self) -> int:
        """Distinct grams, those that were unlearned but not yet dropped included."""
        return int(self._sizes[INNER_USED] + self._sizes[LEAF_USED]) - 1

    @property
    def mean_probes(self) -> float:
        """Table places looked at per search, since the start."""
        return float(self._sizes[STEPS] / max(1, self._sizes[LOOKUPS]))

    @property
    def taken(self) -> np.ndarray:
        """Discounts D(0) to D(3+) by order, [order, 4]."""
        taken = self._taken
        if taken is None:
            taken = np.array([discounts_of(row[1:].tolist()) for row in self._tally])
            self._taken = taken
        return taken

    def learn(self, pairs: Pairs) -> None:
        """Adds pairs.

        Raises:
            DataError: ids out of range, lengths that do not fit, weights below one, or counts above 2^31.
        """
        pairs = self._checked(pairs)
        total = int(pairs.weights.sum())
        if self.learned + total > LARGEST:
            raise DataError(f"`weights` would raise the count to {self.learned + total:,}; the most is {LARGEST:,}")
        self._run(pairs, 1)
        self.learned += total
        self._changed()

    def unlearn(self, pairs: Pairs) -> None:
        """Takes pairs away again; nothing has changed if one of them is not there.

        Raises:
            DataError: as `learn`, or a pair that was not learned as often.
        """
        pairs = self._checked(pairs)
        missing = self._run(pairs, -1)
        if missing >= 0:
            self._run(Pairs(*(a[:missing] for a in pairs)), 1)
            context = pairs.symbols[missing, self.order - 1 - pairs.lengths[missing] :].tolist()
            raise DataError(
                f"`targets` row {missing}: {int(pairs.targets[missing])} after {context} was not learned that often; "
                "unlearn only what was learned"
            )
        self.learned -= int(pairs.weights.sum())
        self._changed()

    def _run(self, pairs: Pairs, sign: int) -> int:
        learn = trie_kernels().learn
        for begin in range(0, len(pairs.targets), CHUNK):
            part = Pairs(*(a[begin : begin + CHUNK] for a in pairs))
            if sign > 0:
                self._reserve(len(part.targets))
            arrays = (self._inner, self._leaf, self._inner_table, self._leaf_table, self._sizes, self._tally)
            stopped = learn(*arrays, *part[:3], sign * part.weights, self.rolling)
            if stopped >= 0:
                return begin + stopped
        return -1

    def _reserve(self, pairs: int) -> None:
        # A pair makes at most a node for each prefix of each of its contexts, and for each gram.
        inner = int(self._sizes[INNER_USED]) + pairs * (self.order * (self.order - 1) // 2 + self.order)
        leaf = int(self._sizes[LEAF_USED]) + pairs
        self._inner = grown(self._inner, inner)
        self._leaf = grown(self._leaf, leaf)
        self._inner_table = table_with_room(self._inner_table, self._inner, 1, int(self._sizes[INNER_USED]), inner)
        self._leaf_table = table_with_room(self._leaf_table, self._leaf, 0, int(self._sizes[LEAF_USED]), leaf)

    def trim(self) -> None:
        """Gives back the room kept for growth."""
        self._inner = self._inner[: self._sizes[INNER_USED]].copy()
        self._leaf = self._leaf[: max(1, int(self._sizes[LEAF_USED]))].copy()

    def _checked(self, pairs: Pairs) -> Pairs:
        symbols, lengths, targets, weights = (np.asarray(a) for a in pairs)
        rows = len(targets)
        if symbols.shape != (rows, self.order - 1) or lengths.shape != (rows,) or weights.shape != (rows,):
            raise DataError(
                f"`symbols` has shape {symbols.shape}, `lengths` {lengths.shape}, `weights` {weights.shape}; "
                f"{rows} targets want ({rows}, {self.order - 1}), ({rows},), ({rows},)"
            )
        for name, array, low, high in (
            ("symbols", symbols, 0, self.num_symbols),
            ("lengths", lengths, 0, self.order),
            ("targets", targets, 0, self.vocab_size),
            ("weights", weights, 1, LARGEST),
        ):
            if array.dtype.kind not in "iu":
                raise DataError(f"`{name}` is {array.dtype}; wanted whole numbers")
            if array.size and not (low <= array.min() and array.max() < high):
                row = int(np.argmax((array < low) | (array >= high)) // max(1, array.size // rows))
                value = array[row].tolist()
                raise DataError(f"`{name}` row {row} is {value}; wanted {low} to {high - 1}")
        return Pairs(*(np.ascontiguousarray(a, dtype=np.int64) for a in (symbols, lengths, targets, weights)))

    def find(self, symbols: np.ndarray, lengths: np.ndarray, *, followed: bool = True) -> np.ndarray:
        """Where contexts stand, [B, order] int32: column m is the context of m symbols, -1 if it is unknown.

        Args:
            symbols: contexts, nearest last, [B, order - 1].
            lengths: how many symbols each has.
            followed: a context whose followers count nothing in its distribution is as good as unknown.
        """
        found = np.empty((len(lengths), self.order), dtype=np.int32)
        arrays = (self._inner, self._inner_table, self._sizes)
        symbols = np.ascontiguousarray(symbols, dtype=np.int64)
        trie_kernels().contexts(*arrays, symbols, np.ascontiguousarray(lengths, dtype=np.int64), found, followed)
        return found

    def score(self, found: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Probability of one target after each found context, [B] float64."""
        result = np.empty(len(targets))
        arrays = (self._inner, self._leaf, self._inner_table, self._leaf_table, self._sizes, self.taken)
        trie_kernels().score(*arrays, found, np.asarray(targets, dtype=np.int64), 1 / self.vocab_size, result)
        return result

    @property
    def lowest(self) -> np.ndarray:
        """Distribution without any context, [V] float32."""
        lowest = self._lowest
        if lowest is None:
            row, base = np.zeros((1, self.vocab_size)), np.empty(1)
            root = np.full((1, self.order), -1, dtype=np.int32)
            root[0, 0] = 0
            trie_kernels().spread(self._inner, self._leaf, self.taken, root, np.ones(1), 0, row, base)
            lowest = (row[0] + base[0] / self.vocab_size).astype(np.float32)
            self._lowest = lowest
        return lowest

    def spread(self, found: np.ndarray, weights: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Adds `weights` times the distributions after found contexts to `out` [B, V], all but a multiple of `lowest`.

        Returns:
            That multiple, [B] float64: the caller adds all of them in one product.
        """
        base = np.empty(len(weights))
        weights = np.ascontiguousarray(weights, dtype=np.float64)
        trie_kernels().spread(self._inner, self._leaf, self.taken, found, weights, 1, out, base)
        return base

    def dense(self, found: np.ndarray) -> np.ndarray:
        """Whole distributions after found contexts, [B, V] float32."""
        out = np.zeros((len(found), self.vocab_size), dtype=np.float32)
        base = self.spread(found, np.ones(len(found)), out)
        return out + base[:, None].astype(np.float32) * self.lowest

    def ladder(self, found: np.ndarray, lowest: int, out: np.ndarray) -> None:
        """Whole distributions after found contexts by order from `lowest` on, to `out` [B, order + 1 - lowest, V]."""
        kernel, start = trie_kernels().ladder, self.lowest.astype(np.float64)
        # By the nearest symbols first: contexts share distributions of their lower orders.
        sort = np.lexsort(found[:, SHARED:0:-1].T) if self.order > 1 else np.arange(len(found))
        kernel(self._inner, self._leaf, self.taken, found, sort, start, lowest, out)

    def occurrences(self, pairs: Pairs, order: int) -> tuple[np.ndarray, np.ndarray]:
        """Row of the gram of each pair at one order below the highest, and how often it occurred; -1 and 0 if never."""
        found = self.find(pairs.symbols, pairs.lengths, followed=False)[:, order - 1]
        rows = np.empty(len(found), dtype=np.int64)
        trie_kernels().locate(self._inner, self._inner_table, self._sizes, found, pairs.targets, rows)
        return rows, np.where(rows >= 0, self._inner[np.maximum(rows, 0), RAW], 0)

    def frequent(self, rows: np.ndarray, least: int, out: np.ndarray) -> None:
        """Adds to `out` [B, V] how often each word occurred after the context in a row, where that is `least` or more.

        Rows are a column of `find` below the highest order, -1 for none.
        """
        trie_kernels().frequent(self._inner, np.ascontiguousarray(rows), least, out)

    def totals(self, found: np.ndarray) -> np.ndarray:
        """Counts of all followers of each found context, [B, order]; zero where it is unknown."""
        return np.where(found >= 0, self._inner[np.maximum(found, 0), TOTAL], 0)

    def distinct(self, found: np.ndarray) -> np.ndarray:
        """Numbers of distinct followers of each found context, [B, order]; zero where it is unknown."""
        # A dropped follower counts as often as it occurred, which is once as a rule.
        counts = self._inner[np.maximum(found, 0), TOTAL + 1 :].sum(-1)
        return np.where(found >= 0, counts, 0)

    def grams(self, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All grams of one order with a count, sorted: symbols [G, order], occurrences and numbers of predecessors.

        Raises:
            ConfigError: there is no such order.
        """
        if not 1 <= order <= self.order:
            raise ConfigError(f"`order` is {order}; wanted 1 to {self.order}")
        inner = self._inner[: self._sizes[INNER_USED]]
        rows = self._leaf[: self._sizes[LEAF_USED]] if order == self.order else inner[self._depths() == order]
        rows = rows[rows[:, RAW] > 0]
        symbols, at = np.empty((len(rows), order), dtype=np.int32), rows[:, PARENT]
        symbols[:, -1] = rows[:, SYMBOL]
        for place in range(order - 2, -1, -1):
            symbols[:, place], at = inner[at, SYMBOL], inner[at, PARENT]
        preceded = rows[:, PRECEDED] if order < self.order else np.zeros(len(rows), dtype=np.int32)
        sort = np.lexsort(symbols.T[::-1])
        return symbols[sort], rows[sort, RAW], preceded[sort]

    def _depths(self) -> np.ndarray:
        # A parent stands before its children, so one pass by depth finds them all.
        return self._depths_of(self._inner[: self._sizes[INNER_USED]])

    @staticmethod
    def _depths_of(inner: np.ndarray) -> np.ndarray:
        depths, at = np.zeros(len(inner), dtype=np.int64), np.arange(len(inner))
        while (alive := at > 0).any():
            depths += alive
            at = np.where(alive, inner[at, PARENT], 0)
        return depths

    def pairs(self) -> Iterator[Pairs]:
        """Pairs that, learned by an empty trie, give this one; those with the longest contexts first."""
        longer: tuple[np.ndarray, np.ndarray] | None = None
        for order in range(self.order, 0, -1):
            symbols, raw, _ = self.grams(order)
            weights = raw.astype(np.int64)
            if longer is not None and len(longer[0]):
                # Occurrences that continue further left are those of longer grams.
                both = np.concatenate([symbols, longer[0][:, 1:]])
                _, number = np.unique(both, axis=0, return_inverse=True)
                number = number.reshape(-1)
                beyond = np.bincount(number[len(symbols) :], weights=longer[1], minlength=number.max() + 1)
                weights = weights - beyond[number[: len(symbols)]].astype(np.int64)
            longer = symbols, raw
            kept = weights > 0
            context = np.zeros((int(kept.sum()), self.order - 1), dtype=np.int64)
            context[:, self.order - order :] = symbols[kept, :-1]
            yield Pairs(context, np.full(len(context), order - 1), symbols[kept, -1].astype(np.int64), weights[kept])

    def merge(self, other: CountTrie) -> None:
        """Adds all that another trie has learned.

        Raises:
            ConfigError: it has another shape.
        """
        mine, theirs = (
            (self.order, self.vocab_size, self.num_symbols),
            (other.order, other.vocab_size, other.num_symbols),
        )
        if mine != theirs:
            raise ConfigError(f"`other` has order, words and symbols {theirs}; wanted {mine}")
        for pairs in list(other.pairs()):
            self.learn(pairs)

    def compact(self) -> None:
        """Drops grams that were unlearned."""
        kept = list(self.pairs())
        self.clear()
        for pairs in kept:
            self.learn(pairs)
        self.trim()

    def prune(self, least: int, *, lowest: int = 3) -> int:
        """Drops grams of the higher orders that occurred fewer than `least` times, unless a longer gram needs them.

        Contexts keep their totals, so the probability of what was dropped goes to shorter contexts, and discounts stay
        those of all grams. Pairs that were dropped can no longer be unlearned.

        Args:
            least: occurrences that a gram needs to stay.
            lowest: order below which nothing is dropped.

        Returns:
            How many were dropped.
        """
        before = self.num_grams
        inner, leaf = self._inner[: self._sizes[INNER_USED]], self._leaf[: self._sizes[LEAF_USED]]
        if self.order >= lowest:
            gone = leaf[:, RAW] < least
            self._release(inner, leaf[gone, PARENT], leaf[gone, RAW])
            leaf = leaf[~gone]
        depths = self._depths_of(inner)
        for order in range(self.order - 1, 1, -1):
            # Without a longer gram nothing points at a row, so it can go: one that is a context only goes at any order.
            needed = np.zeros(len(inner), dtype=bool)
            needed[leaf[:, PARENT]] = True
            needed[inner[1:, PARENT]] = True
            gone = (depths == order) & ~needed & (inner[:, RAW] < (least if order >= lowest else 1))
            self._release(inner, inner[gone, PARENT], inner[gone, PRECEDED])
            place = np.cumsum(~gone) - 1
            inner, leaf, depths = inner[~gone], leaf.copy(), depths[~gone]
            inner[:, PARENT], leaf[:, PARENT] = place[inner[:, PARENT]], place[leaf[:, PARENT]]
        self._inner, self._leaf = inner.copy(), leaf if len(leaf) else self._leaf[:1]
        self._sizes[INNER_USED], self._sizes[LEAF_USED] = len(inner), len(leaf)
        self._inner_table, self._leaf_table = self._inner_table[:128].copy(), self._leaf_table[:128].copy()
        self.arrange()
        self._changed()
        return before - self.num_grams

    @staticmethod
    def _release(inner: np.ndarray, contexts: np.ndarray, counts: np.ndarray) -> None:
        np.add.at(inner[:, RELEASED], contexts, counts)
        for kind in (1, 2, 3):
            np.subtract.at(inner[:, TOTAL + kind], contexts[np.minimum(counts, 3) == kind], 1)

    @property
    def cut_off(self) -> bool:
        """Whether grams were dropped, so that not every pair can be unlearned."""
        return bool(self._inner[: self._sizes[INNER_USED], RELEASED].any())

    def arrange(self) -> None:
        """Puts grams with one context side by side, which makes whole distributions several times faster to read."""
        inner, leaf = self._inner[: self._sizes[INNER_USED]], self._leaf[: self._sizes[LEAF_USED]]
        depths = self._depths()
        place, at = np.zeros(len(inner), dtype=np.int32), 1
        arranged = np.zeros_like(inner)
        arranged[0] = inner[0]
        arranged[:, FIRST] = -1
        for depth in range(1, self.order):
            rows = np.flatnonzero(depths == depth)
            counted = inner[rows, RAW] > 0
            # Those that follow first, so that walking over them never leaves their lines of memory.
            sort = np.lexsort((inner[rows, SYMBOL], ~counted, place[inner[rows, PARENT]]))
            rows, counted = rows[sort], counted[sort]
            place[rows] = np.arange(at, at + len(rows))
            part = arranged[at : at + len(rows)]
            part[:, :INNER_WIDTH] = inner[rows]
            part[:, FIRST] = -1
            chain(part, place[inner[rows, PARENT]], arranged, at, counted)
            at += len(rows)
        parents = place[leaf[:, PARENT]]
        rows = np.lexsort((leaf[:, SYMBOL], parents))
        leaves = leaf[rows]
        chain(leaves, parents[rows], arranged, 0, np.ones(len(rows), dtype=bool))
        self._inner, self._leaf = arranged, leaves if len(leaves) else self._leaf[:1]
        self._index()

    def _index(self) -> None:
        inner, leaf = (int(n) for n in self._sizes[:2])
        self._inner_table = table_with_room(self._inner_table, self._inner, 1, inner, inner, fresh=True)
        self._leaf_table = table_with_room(self._leaf_table, self._leaf, 0, leaf, leaf, fresh=True)

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that `load_state` reads back."""
        used = self._sizes[:2]
        counts = np.append(self._tally.reshape(-1), self.learned)
        return {"inner": self._inner[: used[0]].copy(), "leaf": self._leaf[: used[1]].copy(), "tally": counts}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over a stored trie.

        Raises:
            CheckpointError: arrays are missing, misshapen, or point outside.
        """
        wanted = {"inner": INNER_WIDTH, "leaf": LEAF_WIDTH}
        if set(state) != {*wanted, "tally"} or state["tally"].shape != (5 * self.order + 1,):
            raise CheckpointError(
                f"`state` holds {sorted(state)}; wanted inner, leaf and the tally of {self.order} orders"
            )
        for name, width in wanted.items():
            array = state[name]
            if array.ndim != 2 or array.shape[1] != width or array.dtype != np.int32:
                raise CheckpointError(
                    f"`{name}` is {array.dtype} of shape {array.shape}; wanted int32 with {width} columns"
                )
            parents, symbols = array[:, PARENT], array[:, SYMBOL]
            sound = not array.size or (
                parents.min() >= 0 and parents.max() < len(state["inner"]) and symbols.min() >= 0
            )
            if not sound or (array.size and (symbols.max() >= self.num_symbols or array[:, RAW].min() < 0)):
                raise CheckpointError(f"`{name}` points outside of the trie; the checkpoint is damaged")
        if not len(state["inner"]):
            raise CheckpointError("`inner` is empty; the checkpoint is damaged")
        self.clear()
        self._inner, self._leaf = state["inner"].copy(), state["leaf"].copy()
        self._sizes[INNER_USED], self._sizes[LEAF_USED] = len(self._inner), len(self._leaf)
        self._tally, self.learned = state["tally"][:-1].reshape(self.order, 5).copy(), int(state["tally"][-1])
        self._index()
