"""Exact counts of n-grams that can be learned, unlearned and merged, read as interpolated modified Kneser-Ney.

The highest order counts occurrences, lower ones distinct symbols on the left (Chen & Goodman 1999). Everything is an
integer that one pair changes in a few places; discounts and probabilities follow from the integers when asked for, so
unlearning restores every bit. Symbols of a context need not be words: classes, or words further back, do as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.models.holographic.eviction import SLACK, drop, evict, row_depths, trie_bytes
from holonomy.models.holographic.growth import grown, let_go, reached, table_with_room
from holonomy.models.holographic.kernels import (
    FIRST,
    INNER_USED,
    INNER_WIDTH,
    LEAF_USED,
    LEAF_WIDTH,
    LOOKUPS,
    RAW,
    RELEASED,
    STEPS,
    TrieKernels,
    discounting,
    trie_kernels,
)
from holonomy.models.holographic.packed import STORED, PackedGrams, packed, packed_from
from holonomy.models.holographic.pairs import LARGEST, Pairs
from holonomy.models.holographic.rows import (
    WIDTHS,
    arranged,
    check_rows,
    grams_of,
    most_frequent,
    nodes_of,
    rows_of,
)

CHUNK = 1024
"""Pairs learned between two looks at the room left."""
SHARED = 4
"""Symbols that contexts are sorted by."""


class CountTrie:
    """Counts of all grams up to an order.

    Args:
        order: longest gram.
        vocab_size: number of words; the lowest distribution is uniform over them.
        num_symbols: number of symbols in contexts; that of words unless given.
        rolling: contexts are the words just before the target, which saves looking them up.
        room: bytes that rows and tables may take; when they are full, the rarest grams are dropped as by `prune`.

    Raises:
        ConfigError: an order below 1 or no words.
    """

    def __init__(
        self,
        order: int,
        vocab_size: int,
        *,
        num_symbols: int | None = None,
        rolling: bool = True,
        room: int | None = None,
    ) -> None:
        if not 1 <= order <= 16 or not 1 <= vocab_size <= LARGEST:
            raise ConfigError(f"`order` is {order} and `vocab_size` {vocab_size}; wanted 1 to 16 and 1 or more")
        self.order, self.vocab_size, self.rolling, self.room = order, vocab_size, rolling, room
        self.num_symbols = max(vocab_size, num_symbols or vocab_size)
        self.learned = self.evictions = self.longest = 0
        self.spill: Callable[[np.ndarray, np.ndarray], None] | None = None
        """Told of grams up to the order `longest` that are evicted; see `evict`."""
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
        self._packed: PackedGrams | None = None
        self._changed()

    def _changed(self) -> None:
        self._taken: np.ndarray | None = None
        self._lowest: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, the empty places included; with a `room`, those of rows in use, others take none yet."""
        if self._packed is not None:
            return self._packed.nbytes
        tables = self._inner_table.nbytes + self._leaf_table.nbytes
        if self.room is not None:
            used = self._sizes[INNER_USED] * INNER_WIDTH + self._sizes[LEAF_USED] * LEAF_WIDTH
            return tables + 4 * int(used)
        return tables + self._inner.nbytes + self._leaf.nbytes

    @property
    def packed(self) -> bool:
        """Whether it takes as little memory as reading needs."""
        return self._packed is not None

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
            taken = np.empty((self.order, 4))
            discounting()(self._tally, taken)
            self._taken = taken
        return taken

    def learn(self, pairs: Pairs) -> None:
        """Adds pairs.

        Raises:
            DataError: ids out of range, lengths that do not fit, weights below one, or counts above 2^31.
        """
        self.add(pairs.checked(self.order, self.num_symbols, self.vocab_size), int(pairs.weights.sum()))

    def add(self, pairs: Pairs, total: int, rows: np.ndarray | None = None) -> None:
        """`learn`, of pairs that are known to be in range.

        Args:
            pairs: the pairs.
            total: sum of their weights.
            rows: where `look_up` found their contexts, if nothing was learned or dropped since.

        Raises:
            DataError: counts would be above 2^31.
        """
        if self.learned + total > LARGEST:
            raise DataError(f"`weights` would raise the count to {self.learned + total:,}; the most is {LARGEST:,}")
        self._run(pairs, 1, rows=rows)
        self.learned += total
        self._changed()

    def unlearn(self, pairs: Pairs) -> None:
        """Takes pairs away again; nothing has changed if one of them is not there.

        Raises:
            DataError: as `learn`, or a pair that was not learned as often.
        """
        pairs = pairs.checked(self.order, self.num_symbols, self.vocab_size)
        missing = self._run(pairs, -1)
        if missing >= 0:
            self._run(Pairs(*(a[:missing] for a in pairs)), 1, grow=False)
            context = pairs.symbols[missing, self.order - 1 - pairs.lengths[missing] :].tolist()
            raise DataError(
                f"`targets` row {missing}: {int(pairs.targets[missing])} after {context} was not learned that often; "
                "unlearn only what was learned"
            )
        self.learned -= int(pairs.weights.sum())
        self._changed()

    def restore(self, pairs: Pairs) -> None:
        """Brings pairs back that were just unlearned, to the last bit: their rows are still there, so none is made."""
        pairs = pairs.checked(self.order, self.num_symbols, self.vocab_size)
        self._run(pairs, 1, grow=False)
        self.learned += int(pairs.weights.sum())
        self._changed()

    def _run(self, pairs: Pairs, sign: int, *, grow: bool = True, rows: np.ndarray | None = None) -> int:
        if self._packed is not None:
            self.unpack()
            rows = None
        learn, nowhere, evictions = trie_kernels().learn, np.empty((0, self.order), dtype=np.int32), self.evictions
        for begin in range(0, len(pairs.targets), CHUNK):
            part = pairs if len(pairs.targets) <= CHUNK else Pairs(*(a[begin : begin + CHUNK] for a in pairs))
            if sign > 0 and grow:
                self._reserve(len(part.targets))
            # What is evicted moves the rest.
            own = nowhere if rows is None or self.evictions > evictions else rows[begin : begin + CHUNK]
            arrays = (self._inner, self._leaf, self._inner_table, self._leaf_table, self._sizes, self._tally)
            stopped = learn(*arrays, *part[:3], part.weights if sign > 0 else -part.weights, self.rolling, own)
            if stopped >= 0:
                return begin + stopped
        return -1

    def _reserve(self, pairs: int) -> None:
        # A pair makes at most a node for each prefix of each of its contexts, and for each gram.
        inner = int(self._sizes[INNER_USED]) + pairs * (self.order * (self.order - 1) // 2 + self.order)
        leaf = int(self._sizes[LEAF_USED]) + pairs
        if self.room is None:
            self._inner, self._leaf = grown(self._inner, inner), grown(self._leaf, leaf)
        else:
            if trie_bytes(inner, leaf) > self.room:
                more = inner - int(self._sizes[INNER_USED])
                self._evict(more, pairs)
                inner, leaf = int(self._sizes[INNER_USED]) + more, int(self._sizes[LEAF_USED]) + pairs
            self._inner = reached(self._inner, self.room // (4 * INNER_WIDTH))
            self._leaf = reached(self._leaf, self.room // (4 * LEAF_WIDTH))
        self._inner_table = table_with_room(self._inner_table, self._inner, 1, int(self._sizes[INNER_USED]), inner)
        self._leaf_table = table_with_room(self._leaf_table, self._leaf, 0, int(self._sizes[LEAF_USED]), leaf)

    def _evict(self, inner: int, leaf: int) -> None:
        """Drops what is rarest until so many more rows fit, and some beyond, so that the next time is not soon."""
        room = self.room or 0
        evict(
            self._inner,
            self._leaf,
            self._sizes,
            self.order,
            lambda a, b: trie_bytes(a + inner, b + leaf) <= (1 - SLACK) * room,
            self.spill,
            self.longest,
        )
        if trie_bytes(int(self._sizes[INNER_USED]) + inner, int(self._sizes[LEAF_USED]) + leaf) > room:
            raise ConfigError(
                f"`room` is {room:,} bytes, too few for {self._sizes[INNER_USED]:,} symbols and what one batch brings; "
                "raise model.memory, or take fewer words or lower orders"
            )
        self.evictions += 1
        let_go(self._inner, int(self._sizes[INNER_USED]))
        let_go(self._leaf, int(self._sizes[LEAF_USED]))
        self._inner_table, self._leaf_table = (np.full(128, -1, dtype=np.int32) for _ in range(2))
        self._index()
        self._changed()

    def trim(self) -> None:
        """Gives back the room kept for growth."""
        if self._packed is not None:
            return
        self._inner = self._inner[: self._sizes[INNER_USED]].copy()
        self._leaf = self._leaf[: max(1, int(self._sizes[LEAF_USED]))].copy()

    def find(self, symbols: np.ndarray, lengths: np.ndarray, *, followed: bool = True) -> np.ndarray:
        """Where contexts stand, [B, order] int32: column m is the context of m symbols, -1 if it is unknown.

        Args:
            symbols: contexts, nearest last, [B, order - 1].
            lengths: how many symbols each has.
            followed: a context whose followers count nothing in its distribution is as good as unknown.
        """
        return self.look_up(symbols, lengths)[1 if followed else 0]

    def look_up(self, symbols: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What `find` gives of all contexts, and of those that something follows; arguments as there."""
        rows, found = np.empty((2, len(lengths), self.order), dtype=np.int32)
        view, kernels = self.view()
        symbols = np.ascontiguousarray(symbols, dtype=np.int64)
        kernels.contexts(view, symbols, np.ascontiguousarray(lengths, dtype=np.int64), rows, found)
        return rows, found

    def view(self) -> tuple[tuple[np.ndarray, ...], TrieKernels]:
        """The arrays as they are now, and the kernels that read such."""
        if self._packed is not None:
            return self._packed, trie_kernels(packed=True)
        return (self._inner, self._leaf, self._inner_table, self._leaf_table, self._sizes), trie_kernels()

    def heights(self, found: np.ndarray, out: np.ndarray) -> None:
        """How far found contexts are known, and what followed them, to `out` [B, 6]; see the kernel."""
        view, kernels = self.view()
        kernels.heights(view, found, out)

    def score(self, found: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Probability of one target after each found context, [B] float64."""
        result = np.empty(len(targets))
        view, kernels = self.view()
        kernels.score(view, self.taken, found, np.asarray(targets, dtype=np.int64), 1 / self.vocab_size, result)
        return result

    @property
    def lowest(self) -> np.ndarray:
        """Distribution without any context, [V] float32."""
        lowest = self._lowest
        if lowest is None:
            row, base = np.zeros((1, self.vocab_size)), np.empty(1)
            root = np.full((1, self.order), -1, dtype=np.int32)
            root[0, 0] = 0
            view, kernels = self.view()
            kernels.spread(view, self.taken, root, np.ones(1), 0, row, base)
            lowest = (row[0] + base[0] / self.vocab_size).astype(np.float32)
            self._lowest = lowest
        return lowest

    def spread(self, found: np.ndarray, weights: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Adds `weights` times the distributions after found contexts to `out` [B, V], all but a multiple of `lowest`.

        Returns:
            That multiple, [B] float64: the caller adds all of them in one product.
        """
        base = np.empty(len(weights))
        view, kernels = self.view()
        kernels.spread(view, self.taken, found, np.ascontiguousarray(weights, dtype=np.float64), 1, out, base)
        return base

    def dense(self, found: np.ndarray) -> np.ndarray:
        """Whole distributions after found contexts, [B, V] float32."""
        out = np.zeros((len(found), self.vocab_size), dtype=np.float32)
        base = self.spread(found, np.ones(len(found)), out)
        return out + base[:, None].astype(np.float32) * self.lowest

    def ladder(self, found: np.ndarray, lowest: int, out: np.ndarray) -> None:
        """Whole distributions after found contexts by order from `lowest` on, to `out` [B, order + 1 - lowest, V]."""
        view, kernels = self.view()
        # By the nearest symbols first: contexts share distributions of their lower orders.
        sort = np.lexsort(found[:, SHARED:0:-1].T) if self.order > 1 else np.arange(len(found))
        kernels.ladder(view, self.taken, found, sort, self.lowest.astype(np.float64), lowest, out)

    def occurrences(self, pairs: Pairs, order: int) -> tuple[np.ndarray, np.ndarray]:
        """Row of the gram of each pair at one order below the highest, and how often it occurred; -1 and 0 if never."""
        found = self.find(pairs.symbols, pairs.lengths, followed=False)[:, order - 1]
        rows = np.empty(len(found), dtype=np.int64)
        view, kernels = self.view()
        kernels.locate(view, found, pairs.targets, rows)
        at = np.maximum(rows, 0)
        raw = self._inner[at, RAW] if self._packed is None else self._packed.values(at)
        return rows, np.where(rows >= 0, raw, 0)

    def frequent(self, rows: np.ndarray, least: int, out: np.ndarray) -> None:
        """Adds to `out` [B, V] how often each word occurred after the context in a row, where that is `least` or more.

        Rows are a column of `find` below the highest order, -1 for none.
        """
        view, kernels = self.view()
        kernels.frequent(view, np.ascontiguousarray(rows), least, out)

    def totals(self, found: np.ndarray) -> np.ndarray:
        """Counts of all followers of each found context, [B, order]; zero where it is unknown."""
        return self.masses(found)[..., 0]

    def masses(self, found: np.ndarray) -> np.ndarray:
        """Counts of all followers of each found context, and how many differ, [B, order, 2]; zero if unknown."""
        view, kernels = self.view()
        out = np.zeros((*found.shape, 2), dtype=np.int64)
        kernels.masses(view, found, out)
        return out

    def grams(self, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All grams of one order with a count, sorted: symbols [G, order], occurrences and numbers of predecessors.

        Raises:
            ConfigError: there is no such order.
        """
        if not 1 <= order <= self.order:
            raise ConfigError(f"`order` is {order}; wanted 1 to {self.order}")
        return grams_of(*self._rows(), order, self.order)

    def frequent_pairs(self, most: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The grams of order two that occurred most often, at most so many: first symbols, words, occurrences."""
        return most_frequent(*self._rows(), self.order, most)

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
        self.unpack()
        before = self.num_grams
        drop(self._inner, self._leaf, self._sizes, self.order, least=least, lowest=lowest)
        self._inner_table, self._leaf_table = (np.full(128, -1, dtype=np.int32) for _ in range(2))
        self.trim()
        self._index()
        self.arrange()
        self._changed()
        return before - self.num_grams

    @property
    def cut_off(self) -> bool:
        """Whether grams were dropped, so that not every pair can be unlearned."""
        if self._packed is not None:
            return len(self._packed.few) > len(self._packed.symbols) + len(self._packed.firsts) - 1
        return bool(self._inner[: self._sizes[INNER_USED], RELEASED].any())

    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        # Rows of both kinds in use; those of a packed trie are made, with all but the columns that chain them.
        if self._packed is None:
            return self._inner[: self._sizes[INNER_USED]], self._leaf[: self._sizes[LEAF_USED]]
        return rows_of(self._packed.nodes())

    def pack(self) -> None:
        """Takes a quarter of the memory or less, for reading alone: whoever learns unpacks first; nothing is lost."""
        if self._packed is not None:
            return
        inner, leaf = self._rows()
        depths = np.append(row_depths(inner), np.full(len(leaf), self.order))
        self._packed = packed(nodes_of(inner, leaf), depths, self.num_symbols)
        self._inner, self._leaf = self._inner[:0].copy(), self._leaf[:0].copy()
        self._inner_table, self._leaf_table = self._inner_table[:0].copy(), self._leaf_table[:0].copy()

    def unpack(self) -> None:
        """Makes room for learning again."""
        if self._packed is None:
            return
        self._inner, leaf = self._rows()
        self._leaf = leaf if len(leaf) else np.zeros((1, LEAF_WIDTH), dtype=np.int32)
        self._inner_table, self._leaf_table = (np.full(128, -1, dtype=np.int32) for _ in range(2))
        self._packed = None
        self._rearrange()

    def arrange(self) -> None:
        """Puts grams with one context side by side, which makes whole distributions several times faster to read.

        It takes as much again for a while: where there is no room for that, everything stays where it is.
        """
        if self._packed is None and (self.room is None or 3 * self.nbytes <= self.room):
            self._rearrange()

    def _rearrange(self) -> None:
        self._inner, leaf = arranged(*self._rows(), self.order)
        self._leaf = leaf if len(leaf) else self._leaf[:1]
        self._index()

    def _index(self) -> None:
        inner, leaf = (int(n) for n in self._sizes[:2])
        self._inner_table = table_with_room(self._inner_table, self._inner, 1, inner, inner, fresh=True)
        self._leaf_table = table_with_room(self._leaf_table, self._leaf, 0, leaf, leaf, fresh=True)

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that `load_state` reads back; views, which change as the trie learns."""
        counts = {"tally": np.append(self._tally.reshape(-1), self.learned)}
        if self._packed is not None:
            return self._packed.state() | counts
        inner, leaf = self._rows()
        return {"inner": inner, "leaf": leaf} | counts

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over a stored trie.

        Raises:
            CheckpointError: arrays are missing, misshapen, or point outside.
        """
        at_rest = set(state) == {*STORED, "tally"}
        if not (at_rest or set(state) == {*WIDTHS, "tally"}) or state["tally"].shape != (5 * self.order + 1,):
            raise CheckpointError(
                f"`state` holds {sorted(state)}; wanted inner, leaf and the tally of {self.order} orders, or "
                f"{', '.join(STORED)} and the tally"
            )
        if at_rest:
            grams = packed_from(state, self.order, self.num_symbols)
            self._restored(state["tally"], len(grams.firsts) - 1, len(grams.symbols) - len(grams.firsts) + 1)
            self._inner, self._leaf = self._inner[:0].copy(), self._leaf[:0].copy()
            self._packed = grams
            return
        check_rows(state, self.num_symbols)
        self._restored(state["tally"], len(state["inner"]), len(state["leaf"]))
        self._inner, self._leaf = state["inner"].copy(), state["leaf"].copy()
        self._index()

    def _restored(self, tally: np.ndarray, inner: int, leaf: int) -> None:
        self.clear()
        self._sizes[INNER_USED], self._sizes[LEAF_USED] = inner, leaf
        self._tally, self.learned = tally[:-1].reshape(self.order, 5).copy(), int(tally[-1])
