"""A store of superposed bindings: each pair of context and word is added, once, at an address of its context.

An address is K real multivectors of Cl(3,1) in matrix form, 64 bytes each. Its digits in base 16 are levels of a tower:
the first carries the order of the context, the others come from a hash. Adding up groups of sixteen neighbours gives
the tower with one level less, bit for bit. Everything is an integer: sums do not depend on their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.geometry.minkowski import multivector_of, stability, witness
from holonomy.geometry.rotation import splitmix
from holonomy.models.holographic.binding import binding
from holonomy.models.holographic.signatures import Signatures

SCALE = 4096
"""Bindings are stored as multiples of 1 / 4096."""
LARGEST_LOAD = 2**18
"""More items at one address could overflow its integers."""
ORDER_STEP, PLACE_STEP = 0x9E3779B97F4A7C15 - 2**64, 0xD1B54A32D192ED03 - 2**64
LOW = 2**32 - 1
SMALL = 2**15 - 1
READ = 4096
"""Addresses that are looked at together."""


class Bindings(NamedTuple):
    """Pairs to be written.

    Attributes:
        symbols: contexts, nearest last, [B, places] int64.
        lengths: how many of the symbols count, [B] int64.
        targets: [B] int64.
        weights: how often, by order, [B, orders] int64; negative takes away.
    """

    symbols: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


class Rest(NamedTuple):
    """A store that is only read.

    Attributes:
        number: of each address, int32: from 1 up in `small`, from -1 down in `large`, 0 where it is empty.
        small: addresses whose numbers fit in 16 bits, [S, K, 4, 4] int16.
        large: the others, [L, K, 4, 4] int32.
    """

    number: Tensor
    small: Tensor
    large: Tensor


class Tower:
    """The store.

    Args:
        signatures: rotations of words and places.
        levels: L from 3 to 10; 16^L multivectors when `top_digits` add up to 16 and K is 16.
        top_digits: how many first digits each order has, for orders 2, 3, ... without a gap.
        seed: of the addresses.

    Raises:
        ConfigError: levels or digits out of range, or fewer places than the orders need.
    """

    def __init__(self, signatures: Signatures, *, levels: int, top_digits: Mapping[int, int], seed: int) -> None:
        orders = sorted(top_digits)
        if not 3 <= levels <= 10 or orders != list(range(2, 2 + len(orders))) or not orders:
            raise ConfigError(
                f"`levels` is {levels} and `top_digits` {dict(top_digits)}; wanted 3 to 10, orders from 2 on"
            )
        if min(top_digits.values()) < 1 or sum(top_digits.values()) > 16 or len(signatures.places) < len(orders):
            raise ConfigError(
                f"`top_digits` is {dict(top_digits)}; wanted 1 or more each, 16 together, a place for each"
            )
        self.signatures, self.levels, self.seed = signatures, levels, seed
        self.top_digits = {n: top_digits[n] for n in orders}
        self.orders = orders
        shape = (sum(top_digits.values()) * 16 ** (levels - 2), signatures.channels, 4, 4)
        self._store = torch.zeros(shape, dtype=torch.int32, device=signatures.words.device)
        self._rest: Rest | None = None
        self.load = torch.zeros(shape[0], dtype=torch.int32, device=signatures.words.device)

    @property
    def nbytes(self) -> int:
        """Bytes of store and loads."""
        return self._store.nbytes + self.load.nbytes + (0 if self._rest is None else sum(t.nbytes for t in self._rest))

    @property
    def store(self) -> Int[Tensor, "addresses K 4 4"]:
        """What stands at all addresses; a copy where the store is packed."""
        return self._store if self._rest is None else self._at(torch.arange(len(self.load), device=self.load.device))

    @property
    def parts(self) -> dict[int, slice]:
        """The addresses of each order."""
        ends = np.cumsum([0, *self.top_digits.values()]) * 16 ** (self.levels - 2)
        return {n: slice(int(a), int(b)) for n, a, b in zip(self.orders, ends[:-1], ends[1:], strict=True)}

    def loads(self, level: int) -> Int[Tensor, " addresses"]:
        """Items at each address of the tower that is folded to a level, 3 to `levels`."""
        return self.load.unflatten(0, (-1, 16 ** (self.levels - level))).sum(1, dtype=torch.int32)

    def _at(self, rows: Int[Tensor, " B"]) -> Int[Tensor, "B K 4 4"]:
        if self._rest is None:
            return self._store[rows]
        number = self._rest.number[rows]
        shape = (len(rows), self.signatures.channels, 4, 4)
        found = torch.zeros(shape, dtype=torch.int32, device=self._store.device)
        # Small numbers count up from one, large ones down from minus one.
        for chosen, part in ((number > 0, self._rest.small), (number < 0, self._rest.large)):
            found[chosen] = part[number[chosen].abs().long() - 1].int()
        return found

    def pack(self) -> None:
        """Keeps only addresses that hold something, in 16 bits where that is enough; nothing is lost."""
        if self._rest is not None:
            return
        largest = torch.stack([part.flatten(1).abs().amax(1) for part in self._store.split(READ)]).flatten()
        small, large = (largest > 0) & (largest <= SMALL), largest > SMALL
        self._rest = Rest(_numbered(small, large), self._store[small].short(), self._store[large].clone())
        self._store = self._store[:0].clone()

    def unpack(self) -> None:
        """Makes room for writing again."""
        self._store, self._rest = self.store, None

    def addresses(self, symbols: Int[Tensor, "B places"], order: int) -> Int[Tensor, " B"]:
        """Addresses of contexts of `order` - 1 words, nearest last."""
        start = torch.tensor(self.seed, device=symbols.device) ^ (order * ORDER_STEP + 2**63) % 2**64 - 2**63
        h = splitmix(start).expand(len(symbols))
        for j in range(1, order):
            h = splitmix(h ^ (symbols[:, -j] + (j * PLACE_STEP + 2**63) % 2**64 - 2**63))
        digits = self.top_digits[order]
        top = sum(m for n, m in self.top_digits.items() if n < order) + ((((h >> 32) & LOW) * digits) >> 32)
        below = 4 * (self.levels - 2)
        return (top << below) + ((h & LOW) >> (32 - below))

    def _rows(self, pairs: Bindings) -> Int[Tensor, "B orders"]:
        symbols, lengths = torch.from_numpy(pairs.symbols), torch.from_numpy(pairs.lengths)
        rows = [torch.where(lengths >= n - 1, self.addresses(symbols, n), -1) for n in self.orders]
        return torch.stack(rows, 1)

    def write(self, pairs: Bindings) -> None:
        """Adds pairs; negative weights take them away again, exactly.

        Raises:
            DataError: an address would hold more than 2^18 items, or fewer than none; nothing has changed.
        """
        rows = self._rows(pairs)
        weights = torch.from_numpy(np.ascontiguousarray(pairs.weights, dtype=np.int32))
        there = rows >= 0
        change = torch.zeros_like(self.load).index_add_(0, rows[there].to(self.load.device), weights[there])
        after = self.load + change
        if len(after) and not 0 <= int(after.min()) <= int(after.max()) <= LARGEST_LOAD:
            raise DataError(
                f"`weights` would leave {int(after.min())} to {int(after.max())} items at an address; wanted 0 to "
                f"{LARGEST_LOAD}: take more levels, or unlearn only what was learned"
            )
        self.unpack()
        if self._store.device.type != "cpu":
            self._write_tensors(pairs, rows, weights)
            self.load = after
            return
        placed, symbols = self.signatures.placed_of(pairs.symbols)
        tables = self.signatures.words.flatten(2).numpy(), placed.flatten(3).numpy()
        pairs_in = rows.numpy(), symbols, pairs.targets, weights.numpy()
        binding()(self._store.flatten(2).numpy(), self.load.numpy(), *tables, *pairs_in)

    def _write_tensors(self, pairs: Bindings, rows: Tensor, weights: Tensor) -> None:
        device = self._store.device
        symbols, words = torch.from_numpy(pairs.symbols).to(device), self.signatures.words
        words = words[torch.from_numpy(pairs.targets).to(device)]
        for column, order in enumerate(self.orders):
            bound = self.bound(self.signatures.keys(symbols[:, symbols.shape[1] - order + 1 :]), words)
            there = (rows[:, column] >= 0).to(device)
            items = bound * weights[:, column].to(device)[:, None, None, None]
            self._store.index_add_(0, rows[:, column].to(device)[there], items[there])

    @staticmethod
    def bound(keys: Float[Tensor, "B K 4 4"], words: Float[Tensor, "B K 4 4"]) -> Int[Tensor, "B K 4 4"]:
        """What one pair adds: the key times the word, in whole numbers."""
        return (SCALE * (keys @ words)).round().int()

    def read(self, symbols: Int[Tensor, "B places"], order: int) -> Float[Tensor, "B K 4 4"]:
        """What stands at the addresses of contexts, turned back by their keys: the sum of what followed, and noise."""
        keys = self.signatures.keys(symbols[:, symbols.shape[1] - order + 1 :])
        return keys.mT @ (self._at(self.addresses(symbols, order)).float() / SCALE)

    def fold(self) -> Tower:
        """The tower with one level less.

        Raises:
            ConfigError: it has three levels.
        """
        if self.levels == 3:
            raise ConfigError("`levels` is 3; a tower of three levels cannot be folded")
        folded = Tower.__new__(Tower)
        folded.__dict__.update(self.__dict__)
        folded.levels = self.levels - 1
        folded._store, folded._rest = self.store.unflatten(0, (-1, 16)).sum(1, dtype=torch.int32), None
        folded.load = self.loads(folded.levels)
        return folded

    def addable(self, other: Tower) -> Tower:
        """Another tower as `merge` adds it; a higher one is folded.

        Raises:
            ConfigError: another seed, other digits or channels, or fewer levels.
            DataError: an address would overflow.
        """
        if other.levels < self.levels:
            raise ConfigError(
                f"`other` has a tower of {other.levels} levels, this one {self.levels}; merge into the lower one"
            )
        while other.levels > self.levels:
            other = other.fold()
        mine, theirs = ((t.seed, t.signatures.seed, t.signatures.channels, t.top_digits) for t in (self, other))
        if mine != theirs:
            raise ConfigError(f"`other` has seeds, channels and digits {theirs}; wanted {mine}")
        if int((self.load + other.load).max()) > LARGEST_LOAD:
            raise DataError(f"`other` would leave more than {LARGEST_LOAD} items at an address; take more levels")
        return other

    def merge(self, other: Tower) -> None:
        """Adds what another tower holds.

        Raises:
            ConfigError, DataError: it cannot be added, see `addable`; nothing has changed.
        """
        other = self.addable(other)
        self.unpack()
        self._store += other.store
        self.load += other.load

    def energies(self) -> Float[Tensor, "addresses 2"]:
        """Of each address |S|^2 / (4 K), an estimate of its sum of squared counts, and its channels' mean stability."""
        out = torch.zeros(len(self.load), 2, dtype=torch.float64, device=self.load.device)
        for rows in self.load.nonzero().squeeze(1).split(READ):
            found = multivector_of(self._at(rows).float() / SCALE)
            # |M|^2 is four times the squared coefficients.
            out[rows, 0] = found.square().sum((1, 2)).double() / self.signatures.channels
            out[rows, 1] = stability(found).mean(1).double()
        return out

    def crosstalk(self) -> float:
        """Estimate of the sum of squared counts of all stored pairs."""
        return float(self.energies()[:, 0].sum())

    def mean_witness(self) -> Float[Tensor, " 2"]:
        """Witness of the mean of all stored pairs, averaged over channels; as n grows it changes like 1 / n."""
        held = (self._store,) if self._rest is None else (self._rest.small, self._rest.large)
        total = torch.stack([part.sum(0, dtype=torch.int64) for part in held]).sum(0).double()
        mean = total / SCALE / self.load.sum().clamp(min=1).double()
        return witness(multivector_of(mean)).mean(0).cpu()

    def state(self) -> dict[str, Tensor]:
        """What `load_state` reads back."""
        return {"load": self.load, **({"store": self._store} if self._rest is None else self._rest._asdict())}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a stored tower.

        Raises:
            CheckpointError: a tensor is missing, foreign or of another shape.
        """
        at, places = tuple(self.load.shape), (self.signatures.channels, 4, 4)
        wanted = {"load": (at, torch.int32), "store": ((*at, *places), torch.int32)}
        if "store" not in state:
            number = state.get("number", torch.empty(0))
            sizes = int((number > 0).sum()), int((number < 0).sum())
            wanted = {"load": wanted["load"], "number": (at, torch.int32)}
            wanted |= {"small": ((sizes[0], *places), torch.int16), "large": ((sizes[1], *places), torch.int32)}
        for name, (shape, kind) in wanted.items():
            found = state.get(name)
            if len(state) != len(wanted) or found is None or found.shape != shape or found.dtype != kind:
                raise CheckpointError(f"`{name}` of the tower is missing or foreign; wanted {kind} {shape}")
        held = {name: state[name].to(self.load.device).clone() for name in wanted}
        if "store" in held:
            self._store, self._rest = held["store"], None
        else:
            rest = Rest(held["number"], held["small"], held["large"])
            if not torch.equal(rest.number, _numbered(rest.number > 0, rest.number < 0)):
                raise CheckpointError("`number` of the tower does not count its addresses; the checkpoint is damaged")
            self._store, self._rest = torch.zeros((0, *places), dtype=torch.int32, device=self.load.device), rest
        self.load = held["load"]


def _numbered(small: Tensor, large: Tensor) -> Tensor:
    return torch.where(small, small.cumsum(0), -large.cumsum(0) * large).int()
