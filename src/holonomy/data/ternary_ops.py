"""All operation tables of a number of places over a prime base, and batches of them that do not forget the deep levels.

The default is the 3^9 = 19,683 binary operations on {-1, 0, 1}. An operation is its index, the number whose base-p
digits, least significant first, are the entries of its table; its level is the p-adic valuation of that number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, Int8, Int64
from torch import Tensor

from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.core.learner import Json
from holonomy.geometry.padic import PadicTree

LARGEST = 2**24
"""Operations of a space whose tables are held in memory: 16 million, some hundred MB."""


class OperationSpace:
    """Every table of `digits` entries over {0, ..., base - 1}, shifted to be symmetric about 0 where it can be.

    Args:
        base: prime number of values an entry takes.
        digits: entries of a table.
        device: where the look-up tables live.

    Raises:
        ConfigError: the base is no prime, or there are more than 2^24 operations.
    """

    def __init__(self, base: int = 3, digits: int = 9, *, device: torch.device | None = None) -> None:
        self.tree = PadicTree(base, digits)
        if self.tree.size > LARGEST:
            raise ConfigError(
                f"`digits` is {digits}: {base}^{digits} is {self.tree.size:,} operations, at most {LARGEST:,} are "
                "held in memory; lower `base` or `digits`"
            )
        self.base, self.digits, self.size = base, digits, self.tree.size
        self.shift = (base - 1) // 2
        index = torch.arange(self.size, device=device)
        self.index = index
        self.table = self.tree.digits(index).to(torch.int8)
        self.levels = self.tree.valuation(index).to(torch.int8)
        # The rank in the order of the tree: numbers that share their low digits are neighbours.
        rank = torch.zeros_like(index)
        for k in range(digits):
            rank = rank * base + self.table[:, k]
        self.rank = rank

    def __repr__(self) -> str:
        return f"OperationSpace({self.base}, {self.digits})"

    @property
    def name(self) -> str:
        """Such as 3^9."""
        return f"{self.base}^{self.digits}"

    def to_digits(self, index: Int[Tensor, ...]) -> Int8[Tensor, "... digits"]:
        """Entries of the tables, least significant first, shifted by (base - 1) // 2.

        Raises:
            ConfigError: an index is out of range or not an integer; nothing is clamped.
        """
        _check_integers("index", index)
        self.tree.check(index)
        return self.table[index.long()] - self.shift

    def to_index(self, values: Int[Tensor, "... digits"]) -> Int64[Tensor, ...]:
        """Inverse of `to_digits`.

        Raises:
            ConfigError: a table has another number of entries, or an entry is out of range or not an integer.
        """
        _check_integers("values", values)
        if values.shape[-1:] != (self.digits,):
            raise ConfigError(
                f"`values` has shape {tuple(values.shape)}; wanted {self.digits} entries on the last axis"
            )
        low, high = -self.shift, self.base - 1 - self.shift
        bad = (values < low) | (values > high)
        if bool(bad.any()):
            raise ConfigError(f"`values` holds {int(values[bad][0])}; wanted {low} to {high}")
        return self.tree.number(values.long() + self.shift)

    def valuation_between(self, i: Int[Tensor, ...], j: Int[Tensor, ...]) -> Int8[Tensor, ...]:
        """v(i - j) from the table of levels; the number of digits where i = j."""
        return self.levels[(i - j).abs()]

    def level_members(self, index: Int64[Tensor, " n"], level: int) -> Int64[Tensor, " m"]:
        """Those of the operations that have a level."""
        return index[self.levels[index] == level]


def _check_integers(name: str, values: Tensor) -> None:
    if values.dtype.is_floating_point or values.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise ConfigError(f"`{name}` has dtype {values.dtype}; wanted whole numbers, such as int64")


def holdout(
    space: OperationSpace, fraction: float, *, seed: int = 0, always_train: tuple[int, ...] = (0,)
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " m"]]:
    """Training and withheld operations, each rising.

    Args:
        space: all operations.
        fraction: share that is withheld, in [0, 1).
        seed: which ones.
        always_train: operations that are never withheld; 0 has a level of its own.

    Raises:
        ConfigError: the share leaves nothing to train on, or an operation does not exist.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"`fraction` is {fraction}; wanted a share in [0, 1)")
    kept = torch.tensor(always_train, dtype=torch.int64)
    space.tree.check(kept)
    free = np.setdiff1d(np.arange(space.size), kept.numpy())
    count = min(round(fraction * space.size), len(free))
    withheld = np.random.default_rng([seed, space.size]).permutation(free)[:count]
    train = np.setdiff1d(np.arange(space.size), withheld)
    if not len(train):
        raise ConfigError(f"`fraction` = {fraction} withholds every operation; lower it, or name some in always_train")
    device = space.index.device
    return torch.from_numpy(train).to(device), torch.from_numpy(np.sort(withheld)).to(device)


@dataclass(frozen=True)
class OperationBatch:
    """Operations of one update.

    Attributes:
        index: their numbers, [B].
        unbias: how much each counts so that oversampling cancels, mean about 1, [B].
        count: operations of the batch.
    """

    index: Int64[Tensor, " B"]
    unbias: Float[Tensor, " B"]
    count: int


class StratifiedBatches:
    """Endless batches: each epoch is one permutation of the training operations, with draws from the deep levels added.

    The draws keep the few operations of high valuation in every batch. Everything follows from (seed, number of the
    batch), so that number is the whole state.

    Args:
        space: all operations.
        train: numbers of the training operations.
        batch_size: operations of an epoch's permutation per batch; the last batch of an epoch may have fewer.
        extra_per_level: draws with replacement per deep level and batch.
        extra_from_level: the first deep level.
        high_budget: instead of `extra_per_level`, the share of each batch that is drawn from the deep levels, evenly.
        siblings: most last digits in which operations differ that a permutation keeps together; 0 for none.
        seed: start of the random order.
        part: (number, of how many): only this part of each batch is given; `batch_size` counts all parts.

    Raises:
        ConfigError: no deep level has members, though draws from them are asked for.
    """

    def __init__(
        self,
        space: OperationSpace,
        train: Int64[Tensor, " n"],
        *,
        batch_size: int = 1024,
        extra_per_level: int = 8,
        extra_from_level: int = 4,
        high_budget: float | None = None,
        siblings: int = 0,
        seed: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.space, self.train, self.seed, self.part = space, train, seed, part
        self.siblings = siblings
        found = ((k, space.level_members(train, k)) for k in range(extra_from_level, space.digits + 1))
        self.deep = {k: members for k, members in found if len(members)}
        wanted = extra_per_level if high_budget is None else high_budget
        if wanted and not self.deep:
            raise ConfigError(
                f"`extra_from_level` is {extra_from_level}, and no training operation of {space!r} lies that deep; "
                "lower it, or set extra_per_level to 0"
            )
        self.extra = extra_per_level
        self.permuted = batch_size
        if high_budget is not None:
            self.extra = round(high_budget * batch_size / max(1, len(self.deep)))
            self.permuted = batch_size - self.extra * len(self.deep)
            if self.permuted < 1:
                raise ConfigError(f"`high_budget` is {high_budget}; it leaves no room for the permutation, lower it")
        self.per_epoch = -(-len(train) // self.permuted)
        self._drawn = 0
        self._order = lru_cache(maxsize=2)(self._permutation)
        factors = torch.tensor(self.oversampling(), device=train.device)
        self._unbias = (1 / factors)[space.levels.long()]

    def _permutation(self, epoch: int) -> Tensor:
        random, digits = np.random.default_rng([self.seed, epoch]), self.space.digits
        if self.siblings:
            # Every node `siblings` above the leaves is taken apart into blocks of one size, and blocks are shuffled.
            numbers, powers = self.train.cpu().numpy(), np.array(self.space.tree.powers)
            nodes = powers[digits - self.siblings]
            depth = digits - random.integers(0, self.siblings + 1, nodes)[numbers % nodes]
            order = np.argsort(random.random(self.space.size)[numbers % powers[depth]], kind="stable")
        else:
            order = random.permutation(len(self.train))
        return self.train[torch.from_numpy(order).to(self.train.device)]

    def oversampling(self) -> list[float]:
        """By level, how often an operation is seen per epoch on average; 1 without oversampling."""
        counts = {k: len(members) for k, members in self.deep.items()}
        return [
            1.0 + (self.per_epoch * self.extra / counts[k] if k in counts else 0.0)
            for k in range(self.space.digits + 1)
        ]

    def next(self) -> OperationBatch:
        """The next batch."""
        epoch, at = divmod(self._drawn, self.per_epoch)
        parts = [self._order(epoch)[at * self.permuted : (at + 1) * self.permuted]]
        if self.extra:
            random = np.random.default_rng([self.seed, epoch, at + 1])
            places = random.random((len(self.deep), self.extra))
            for members, row in zip(self.deep.values(), places, strict=True):
                parts.append(members[torch.from_numpy((row * len(members)).astype(np.int64)).to(members.device)])
        self._drawn += 1
        number, of = self.part
        index = torch.cat(parts)[number::of]
        return OperationBatch(index, self._unbias[index], len(index))

    def state(self) -> dict[str, Json]:
        """How many batches were given, and what the rest follows from."""
        return {"drawn": self._drawn, "seed": self.seed, "train": len(self.train), "batch": self.permuted}

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Continues after another source of the same batches.

        Raises:
            CheckpointError: it gave other batches.
        """
        mine = self.state()
        drawn = state.get("drawn")
        if state.keys() != mine.keys() or not isinstance(drawn, int) or isinstance(drawn, bool) or drawn < 0:
            raise CheckpointError(f"the stored state of the batches is {dict(state)}; wanted the keys {sorted(mine)}")
        for name in ("seed", "train", "batch"):
            if state[name] != mine[name]:
                raise CheckpointError(f"the stored batches have `{name}` {state[name]}, these have {mine[name]}")
        self._drawn = drawn
