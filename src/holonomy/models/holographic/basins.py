"""Hashed neighbours: what followed the contexts that look most like the one asked for.

The key of a context is unit([v_c1; .6 v_c2; .5 unit(bundle); unit(f Z)]), made of its last words' vectors, their
superposition and the vector expected (see `ContextFeatures`, `Readout`). Random hyperplanes send keys at an angle theta
to one side with probability 1 - theta / pi (Charikar 2002), so near ones share a bucket of some table; further buckets
are probed across the hyperplanes that lie nearest (Lv et al. 2007). Of all that is found there, the nearest count, each
with weight exp(12 (cos - max)) for all that followed it.

A basin is a key with its contexts. Each context has its own until a sleep unites some; what followed is kept by
context, so that everything can still be unlearned. Keys depend on vectors and read-out and are never stored: new ones
mean new basins, from the text that is replayed, and a checkpoint holds the words of contexts alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from holonomy.core.errors import CheckpointError, DataError
from holonomy.models.holographic.basin_kernels import (
    BASIN,
    COUNT,
    HEAD,
    OWNER,
    UNIT,
    WORD,
    basin_kernels,
)
from holonomy.models.holographic.config import BasinsConfig
from holonomy.models.holographic.growth import FULL, grown
from holonomy.models.holographic.similarity import Readout

SEED = 7
"""Of the hyperplanes."""
UNIFORM = 0.001
"""Share of the uniform distribution in what neighbours say."""
STEP = 8192
"""Contexts that are taken at a time."""


class Neighbours(NamedTuple):
    """What is near some contexts.

    Attributes:
        rows: basins, nearest first, -1 where there are no more, [B, neighbours].
        dots: scalar products of their keys with those of the contexts, [B, neighbours].
        mass: weight of all that followed them, the nearest of weight one, [B].
    """

    rows: np.ndarray
    dots: np.ndarray
    mass: np.ndarray

    @property
    def nearest(self) -> np.ndarray:
        """Cosine of the nearest one, [B]; -1 where there is none."""
        return np.where(self.rows[:, 0] >= 0, self.dots[:, 0] / UNIT**2, -1.0)


def hyperplanes(dim: int, count: int) -> np.ndarray:
    """Normals of random hyperplanes as columns, [dim, count] float32."""
    return torch.randn(dim, count, generator=torch.Generator().manual_seed(SEED)).numpy()


class Basins:
    """What followed contexts, by the key of each.

    Args:
        config: of the tables.
        readout: makes keys; nothing of it may change afterwards.
    """

    def __init__(self, config: BasinsConfig, readout: Readout) -> None:
        features = readout.features
        self.config, self.vocab_size, self.places = config, len(features.vectors), features.positions
        maps = (features.vectors, features.turns, features.first, readout.towards)
        self._maps = tuple(np.ascontiguousarray(t.numpy()) for t in maps)
        width = 4 * features.vectors.shape[1]
        self.planes = hyperplanes(width, config.tables * config.bits)
        self._clear(width)

    def _clear(self, width: int) -> None:
        self._used = np.zeros(3, dtype=np.int64)
        self._contexts = np.empty((0, self.places + 3), dtype=np.int32)
        self._follows = np.empty((0, 4), dtype=np.int32)
        self._basins = np.empty((0, 2), dtype=np.int32)
        self._keys = np.empty((0, width), dtype=np.int16)
        self._links = np.empty((0, self.config.tables), dtype=np.int32)
        self._heads = np.full((self.config.tables, 1 << self.config.bits), -1, dtype=np.int32)
        self._table = np.full(16, -1, dtype=np.int32)

    @property
    def num_contexts(self) -> int:
        """Contexts that were entered."""
        return int(self._used[0])

    @property
    def num_basins(self) -> int:
        """Keys."""
        return int(self._used[2])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self._contexts, self._follows, self._basins, self._keys, self._links, self._heads, self._table)
        return sum(a.nbytes for a in (*arrays, self.planes))

    def _ids(self, symbols: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The words that a key is made of, nearest last, [B, places] int32; -1 is none."""
        missing = max(0, self.places - symbols.shape[1])
        near = np.pad(symbols[:, -self.places :], ((0, 0), (missing, 0)))
        there = np.arange(self.places, 0, -1) <= lengths[:, None]
        return np.where(there, near, -1).astype(np.int32)

    def keys(self, symbols: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Keys of contexts, [B, 4 dim] int16, of length `UNIT`.

        Args:
            symbols: last words, nearest last, [B, n].
            lengths: how many of them are there, [B].
        """
        return self._keys_of(self._ids(symbols, lengths))

    def _keys_of(self, ids: np.ndarray) -> np.ndarray:
        out = np.empty((len(ids), self._keys.shape[1]), dtype=np.int16)
        basin_kernels().keys(ids, *self._maps, out)
        return out

    def margins(self, keys: np.ndarray) -> np.ndarray:
        """Signed distances of keys from the hyperplanes, [B, tables * bits], up to the lengths of their normals."""
        out = np.empty((len(keys), self.planes.shape[1]), dtype=np.float32)
        basin_kernels().project(keys, self.planes, out)
        return out

    def learn(self, symbols: np.ndarray, lengths: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
        """Adds what followed contexts, [B] words and how often, arguments as of `keys`."""
        for begin in range(0, len(targets), STEP):
            cut = slice(begin, begin + STEP)
            ids, before = self._ids(symbols[cut], lengths[cut]), self.num_basins
            most = self._used + len(ids)
            self._contexts, self._follows = grown(self._contexts, most[0]), grown(self._follows, most[1])
            self._basins = grown(self._basins, most[2])
            self._make_room(most[0])
            arrays = self._contexts, self._follows, self._table, self._used, self._basins
            basin_kernels().enter(ids, targets[cut], weights[cut], *arrays)
            self._index(before)

    def _make_room(self, rows: int) -> None:
        size = len(self._table)
        while rows > FULL * size:
            size *= 2
        if size > len(self._table):
            self._table = np.full(size, -1, dtype=np.int32)
            basin_kernels().link(self._contexts, self.num_contexts, self._table)

    def _index(self, begin: int) -> None:
        """Gives the basins from `begin` on their keys, and enters them in the tables."""
        self._keys, self._links = grown(self._keys, self.num_basins), grown(self._links, self.num_basins)
        for first in range(begin, self.num_basins, STEP):
            rows = slice(first, min(first + STEP, self.num_basins))
            self._keys[rows] = self._keys_of(self._contexts[self._basins[rows, HEAD], : self.places])
            basin_kernels().hang(self.margins(self._keys[rows]), first, self._heads, self._links)

    def unlearn(self, symbols: np.ndarray, lengths: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
        """Takes away what was learned, arguments as of `learn`.

        Raises:
            DataError: one of the pairs was not learned as often; nothing has changed.
        """
        ids = self._ids(symbols, lengths)
        arrays = self._contexts, self._follows, self._table
        done = basin_kernels().take(ids, targets, weights, *arrays, self._basins)
        if done < len(ids):
            raise DataError(
                f"`targets` row {done}: {int(targets[done])} did not follow this context {int(weights[done])} times "
                "since the last consolidation"
            )
        # What was entered last goes whole: after a text was learned and unlearned everything is as it was.
        while self.num_contexts:
            begin = max(0, self.num_basins - STEP // 8)
            before, margins = self.num_basins, self.margins(self._keys[begin : self.num_basins])
            basin_kernels().trim(margins, begin, *arrays, self._used, self._basins, self._heads, self._links)
            if self.num_basins > begin or self.num_basins == before:
                break

    def find(self, symbols: np.ndarray, lengths: np.ndarray) -> Neighbours:
        """The nearest of what shares a bucket with each context; arguments as of `keys`."""
        return self.neighbours(self.keys(symbols, lengths))

    def neighbours(self, keys: np.ndarray, *, probes: int | None = None) -> Neighbours:
        """The nearest of what shares a bucket with each key, [B, 4 dim] int16; of as many as configured by default."""
        config = self.config
        probes = config.probes if probes is None else probes
        rows = np.full((len(keys), config.neighbours), -1, dtype=np.int32)
        dots = np.zeros((len(keys), config.neighbours), dtype=np.int32)
        seen, pile = np.full((2, self.num_basins), -1, dtype=np.int32)
        tables = self._heads, self._links, self._keys, self._contexts, self._basins
        basin_kernels().nearest(keys, self.margins(keys), *tables, probes, rows, dots, seen, pile)
        nothing = np.full(len(keys), -1, dtype=np.int64)
        return Neighbours(rows, dots, self._weigh(rows, dots, nothing)[1])

    def _weigh(self, rows: np.ndarray, dots: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own, mass = np.zeros((2, len(rows)))
        basin_kernels().shares(rows, dots, targets, self._contexts, self._follows, self._basins, own, mass)
        return own, mass

    def probs(self, found: Neighbours, targets: np.ndarray) -> np.ndarray:
        """Probability of one word after each context, [B] float64; uniform without neighbours."""
        own, mass = self._weigh(found.rows, found.dots, targets)
        told = own / np.where(mass > 0, mass, 1.0)
        return np.where(mass > 0, UNIFORM / self.vocab_size + (1 - UNIFORM) * told, 1 / self.vocab_size)

    def spread(self, found: Neighbours, weights: np.ndarray, out: np.ndarray) -> None:
        """Adds `weights` [B] times the distribution of each context to `out`, [B, V] float32."""
        some = found.mass > 0
        out += (weights * np.where(some, UNIFORM, 1.0) / self.vocab_size)[:, None].astype(np.float32)
        scale = (1 - UNIFORM) * weights / np.where(some, found.mass, 1.0)
        arrays = self._contexts, self._follows, self._basins
        basin_kernels().spread(found.rows, found.dots, scale, *arrays, out)

    def unite(self, *, alike: float = 0.02, near: float = 0.8) -> int:
        """Unites basins with neighbours that are followed by much the same; keeps the older key.

        What followed is added up where it is read, and can still be unlearned.

        Args:
            alike: Jensen-Shannon divergence, in nats, below which they are united.
            near: least cosine of their keys.

        Returns:
            How many were taken in by others.
        """
        into = np.arange(self.num_basins, dtype=np.int32)
        counts = np.zeros((2, self.vocab_size), dtype=np.int64)
        arrays = self._contexts, self._follows, self._basins
        for begin in range(0, self.num_basins, STEP):
            # So near ones share a bucket anyway.
            found = self.neighbours(self._keys[begin : min(begin + STEP, self.num_basins)], probes=1)
            least = near * UNIT**2
            basin_kernels().unite(begin, found.rows, found.dots, least, alike, *arrays, into, counts[0], counts[1])
        taken = int((into != np.arange(len(into))).sum())
        if taken:
            rows = self._contexts[: self.num_contexts]
            rows[:, BASIN] = into[rows[:, BASIN]]
            self.load_state(self.state())
        return taken

    def pack(self) -> None:
        """Gives back room that nothing stands in."""
        contexts, follows, basins = self._used.tolist()
        self._contexts, self._follows = self._contexts[:contexts].copy(), self._follows[:follows].copy()
        self._basins, self._keys = self._basins[:basins].copy(), self._keys[:basins].copy()
        self._links = self._links[:basins].copy()

    def state(self) -> dict[str, np.ndarray]:
        """Words of contexts, the first context of the basin of each, and what followed (context, word, how often)."""
        contexts, follows, _ = self._used.tolist()
        followed = self._follows[:follows]
        followed = followed[followed[:, COUNT] > 0]
        first = self._basins[self._contexts[:contexts, BASIN], HEAD]
        kept = np.zeros(contexts, dtype=bool)
        kept[followed[:, OWNER]] = True
        # A basin keeps the key of its first context, whatever is unlearned.
        kept[first[kept]] = True
        place = (np.cumsum(kept) - 1).astype(np.int32)
        rows = np.stack([place[followed[:, OWNER]], followed[:, WORD], followed[:, COUNT]], 1)
        return {
            "contexts": self._contexts[:contexts][kept, : self.places].copy(),
            "first": place[first[kept]],
            "followed": rows.astype(np.int32),
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over what `state` gave.

        Raises:
            CheckpointError: an array is missing or damaged; nothing has changed then.
        """
        ids, first, followed = _checked(state, self.places, self.vocab_size)
        self._clear(self._keys.shape[1])
        own = first == np.arange(len(first))
        self._used[:] = len(ids), len(followed), own.sum()
        self._contexts = np.full((len(ids), self.places + 3), -1, dtype=np.int32)
        self._contexts[:, : self.places] = ids
        self._contexts[:, BASIN] = (np.cumsum(own) - 1)[first]
        self._follows = np.empty((len(followed), 4), dtype=np.int32)
        self._follows[:, [OWNER, WORD, COUNT]] = followed
        self._basins = np.zeros((int(own.sum()), 2), dtype=np.int32)
        self._basins[:, HEAD] = np.flatnonzero(own)
        basin_kernels().chain(first, self._contexts, self._follows, self._basins)
        self._make_room(len(ids))
        if len(self._table) == 16:
            basin_kernels().link(self._contexts, len(ids), self._table)
        self._index(0)


def _checked(state: Mapping[str, np.ndarray], places: int, vocab_size: int) -> Iterator[np.ndarray]:
    """The arrays of a state."""
    widths = {"contexts": (places,), "first": (), "followed": (3,)}
    for name, width in widths.items():
        array = state.get(name)
        if array is None or array.dtype != np.int32 or array.shape[1:] != width or array.ndim != 1 + len(width):
            raise CheckpointError(f"`basins/{name}` is missing or of another kind; wanted int32 with {width} columns")
    ids, first, followed = (state[name] for name in widths)
    rows = np.arange(len(ids))
    sound = len(first) == len(ids) and (first >= 0).all() and (first <= rows).all() and (first[first] == first).all()
    absent = (ids < 0) & (np.arange(places) > 0) & np.roll(ids >= 0, 1, 1)
    sound = sound and (ids >= -1).all() and (ids < vocab_size).all() and not absent.any()
    owners, words, counts = followed.T
    sound = sound and not (len(owners) and (owners.min() < 0 or owners.max() >= len(ids)))
    if not sound or (len(words) and (words.min() < 0 or words.max() >= vocab_size or counts.min() < 1)):
        raise CheckpointError("`basins` point outside of themselves; the checkpoint is damaged")
    yield from (ids, first, followed)
