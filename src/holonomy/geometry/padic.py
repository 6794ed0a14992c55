"""p-adic numbers to a finite depth: the integers modulo p^depth as leaves of a tree.

Digits count from the least significant one: numbers are near when their low digits agree. Valuation v(n) is the
largest k with p^k | n, and v(0) = depth inside the space; the distance is p^-v(i - j), an ultrametric.
Source: Gouvea (2020), chapters 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Int8, Int64
from torch import Tensor

from holonomy.core.errors import ConfigError


def check_prime(p: int) -> None:
    """Refuses what is not a prime.

    Raises:
        ConfigError: p is below 2 or has a divisor.
    """
    if p < 2 or any(p % d == 0 for d in range(2, int(p**0.5) + 1)):
        raise ConfigError(f"`p` is {p}; wanted a prime, such as 2 or 3")


class PadicTree:
    """The integers 0 to p^depth - 1 with their p-adic structure.

    Args:
        p: prime.
        depth: number of digits; p^depth must fit 62 bits.

    Raises:
        ConfigError: p is not prime, or the depth is out of range.
    """

    def __init__(self, p: int = 3, depth: int = 9) -> None:
        check_prime(p)
        if depth < 1 or p**depth >= 2**62:
            raise ConfigError(f"`depth` is {depth}; wanted 1 or more, with {p}^depth below 2^62")
        self.p, self.depth = p, depth
        self.powers = [p**k for k in range(depth + 1)]

    def __repr__(self) -> str:
        return f"PadicTree({self.p}, {self.depth})"

    @property
    def size(self) -> int:
        """Number of leaves, p^depth."""
        return self.powers[-1]

    def check(self, n: Int[Tensor, ...]) -> None:
        """Refuses numbers outside the space; reads the values.

        Raises:
            ConfigError: names the first bad value.
        """
        bad = (n < 0) | (n >= self.size)
        if bool(bad.any()):
            raise ConfigError(f"`n` holds {int(n[bad][0])}; {self!r} has numbers 0 to {self.size - 1}")

    def valuation(self, n: Int[Tensor, ...]) -> Int[Tensor, ...]:
        """Largest k with p^k | n, at most depth: in constant memory, one pass a level."""
        total = torch.zeros_like(n)
        for power in self.powers[1:]:
            total += n % power == 0
        return total

    def dist(self, i: Int[Tensor, ...], j: Int[Tensor, ...]) -> Float[Tensor, ...]:
        """p^-v(i - j), zero where i = j; float64."""
        v = self.valuation(i - j)
        return torch.where(i == j, 0.0, torch.pow(float(self.p), -v.double()))

    def prefix(self, n: Int[Tensor, ...], k: int) -> Int[Tensor, ...]:
        """The lowest k digits: the ancestor of n at depth k. Equal exactly where v(i - j) >= k."""
        return n % self.powers[k]

    def digits(self, n: Int[Tensor, ...]) -> Int[Tensor, "... depth"]:
        """The digits, least significant first."""
        powers = torch.tensor(self.powers[:-1], device=n.device)
        return n.unsqueeze(-1) // powers % self.p

    def number(self, digits: Int[Tensor, "... depth"]) -> Int[Tensor, ...]:
        """Inverse of `digits`."""
        return (digits * torch.tensor(self.powers[:-1], device=digits.device)).sum(-1)

    def level_counts(self) -> list[int]:
        """How many numbers have valuation 0, 1, ..., depth."""
        return [self.powers[self.depth - k] - self.powers[self.depth - k - 1] for k in range(self.depth)] + [1]

    def pairs(
        self, count: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, " count"], Int[Tensor, " count"], Int[Tensor, " count"]]:
        """Pairs stratified by distance: (i, j, k) with k uniform over 0..depth-1 and v(i - j) = k exactly."""
        i = torch.randint(self.size, (count,), generator=generator)
        k = torch.randint(self.depth, (count,), generator=generator)
        return i, self._at_valuation(i, k, generator), k

    def triplets(
        self, count: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, " count"], Int[Tensor, " count"], Int[Tensor, " count"], Int[Tensor, " count"]]:
        """(i, j, l, label) with v(i - j) and v(i - l) distinct and uniform; label 1 where j is nearer, else -1.

        Raises:
            ConfigError: the tree has one level, where all distances are equal.
        """
        if self.depth < 2:
            raise ConfigError(f"`depth` is {self.depth}; triplets want 2 or more, to have two different distances")
        i = torch.randint(self.size, (count,), generator=generator)
        first = torch.randint(self.depth, (count,), generator=generator)
        other = (first + torch.randint(1, self.depth, (count,), generator=generator)) % self.depth
        j, far = self._at_valuation(i, first, generator), self._at_valuation(i, other, generator)
        return i, j, far, (first - other).sign()

    def _at_valuation(self, i: Tensor, k: Tensor, generator: torch.Generator) -> Tensor:
        """A number at valuation k from i: i + m p^k, m uniform over the units modulo p^(depth - k)."""
        powers = torch.tensor(self.powers)
        block = powers[self.depth - k - 1]
        m = (torch.rand(k.shape, generator=generator, dtype=torch.float64) * block).long().clamp_max(block - 1)
        unit = m * self.p + torch.randint(1, self.p, k.shape, generator=generator)
        return (i + unit * powers[k]) % self.size


OPERATIONS = PadicTree(3, 9)
"""The 19,683 binary operations on {-1, 0, 1}: digit k = 3 (a + 1) + (b + 1) of a number is 1 + the value at (a, b)."""


def operation_values(index: Int[Tensor, ...]) -> Int8[Tensor, "... 9"]:
    """Tables of binary operations on {-1, 0, 1}: 0 is constantly -1, 9841 constantly 0, 19682 constantly 1.

    Raises:
        ConfigError: an index is not one of 0 to 19682.
    """
    OPERATIONS.check(index)
    return (OPERATIONS.digits(index) - 1).to(torch.int8)


def operation_index(values: Int[Tensor, ...]) -> Int64[Tensor, ...]:
    """Inverse of `operation_values`; the table is on the last axis.

    Raises:
        ConfigError: a table has not 9 entries, or one of them is not -1, 0 or 1.
    """
    if values.shape[-1:] != (9,):
        raise ConfigError(
            f"`values` has shape {tuple(values.shape)}; a table of an operation has 9 entries, on the last axis"
        )
    bad = values.abs() > 1
    if bool(bad.any()):
        raise ConfigError(f"`values` holds {int(values[bad][0])}; wanted -1, 0 and 1")
    return OPERATIONS.number(values.long() + 1)


def apply_operation(index: Int[Tensor, ...], a: Int[Tensor, ...], b: Int[Tensor, ...]) -> Int8[Tensor, ...]:
    """The value of an operation at (a, b), elementwise; composes by feeding results in again."""
    position = 3 * (a.long() + 1) + b.long() + 1
    table = operation_values(index)
    shape = torch.broadcast_shapes(position.shape, index.shape)
    return table.expand(*shape, 9).gather(-1, position.expand(shape).unsqueeze(-1)).squeeze(-1)


def spearman_ceiling(counts: Sequence[int]) -> float:
    """Largest Spearman correlation that any ordering can have with a variable of this many ties.

    sqrt(1 - T) with T = sum (t^3 - t) / (n^3 - n) over the sizes t of the groups of ties (Kendall 1962, chapter 3).

    Raises:
        ConfigError: fewer than two values.
    """
    n = sum(counts)
    if n < 2:
        raise ConfigError(f"`counts` holds {n} values; a correlation wants at least 2")
    ties = sum(t**3 - t for t in counts)
    return (1 - ties / (n**3 - n)) ** 0.5
