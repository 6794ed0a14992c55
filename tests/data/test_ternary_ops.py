"""Operation tables and their batches: exact counts, exact covers, and nothing withheld ever drawn."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.data.ternary_ops import OperationSpace, StratifiedBatches, holdout
from holonomy.geometry.padic import operation_values

SPACES = [(3, 9), (3, 12), (2, 16), (5, 4)]


@pytest.mark.parametrize(("base", "digits"), SPACES)
def test_round_trip_and_levels_by_brute_force(base: int, digits: int) -> None:
    space = OperationSpace(base, digits)
    values = space.to_digits(space.index)
    assert torch.equal(space.to_index(values), space.index)
    assert values.dtype == torch.int8
    assert int(values.min()) == -((base - 1) // 2)
    for n in range(0, space.size, max(1, space.size // 97)):
        rest, table, level = n, [], 0
        for _ in range(digits):
            table.append(rest % base)
            rest //= base
        while level < digits and n % base ** (level + 1) == 0:
            level += 1
        assert (values[n] + (base - 1) // 2).tolist() == table
        assert int(space.levels[n]) == level
        assert int(space.rank[n]) == int("".join(map(str, table)), base)


def test_the_default_space_is_that_of_the_binary_operations() -> None:
    space = OperationSpace()
    assert torch.equal(space.to_digits(space.index), operation_values(space.index))
    assert Counter(space.levels.tolist()) == dict(enumerate([13122, 4374, 1458, 486, 162, 54, 18, 6, 2, 1]))
    i, j = torch.randint(space.size, (2, 10_000), generator=torch.Generator().manual_seed(0))
    between = space.valuation_between(i, j)
    for k in range(10):
        assert torch.equal(space.tree.prefix(i, k) == space.tree.prefix(j, k), between >= k)


def test_neighbours_in_rank_share_the_longest_prefix() -> None:
    space = OperationSpace(3, 5)
    order = space.rank.argsort()
    beside = space.valuation_between(order[:-1], order[1:])
    # Of 243 leaves in the order of the tree, 162 steps stay below the deepest node, 54 below the next, and so on.
    assert Counter(beside.tolist()) == {4: 162, 3: 54, 2: 18, 1: 6, 0: 2}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.to_digits(torch.tensor([19683])), "`n` holds 19683"),
        (lambda s: s.to_digits(torch.tensor([-1])), "`n` holds -1"),
        (lambda s: s.to_digits(torch.tensor([1.0])), "`index` has dtype torch.float32"),
        (lambda s: s.to_index(torch.full((9,), 2)), "`values` holds 2"),
        (lambda s: s.to_index(torch.zeros(8, dtype=torch.int8)), "wanted 9 entries"),
        (lambda s: OperationSpace(4, 3), "wanted a prime"),
        (lambda s: OperationSpace(3, 20), "are held in memory"),
        (lambda s: holdout(s, 1.0), "`fraction` is 1.0"),
        (lambda s: holdout(s, 0.5, always_train=(20000,)), "20000"),
        (lambda s: StratifiedBatches(s, torch.arange(1, 9)), "`extra_from_level` is 4"),
        (lambda s: StratifiedBatches(s, s.index, batch_size=6, high_budget=0.99), "`high_budget` is 0.99"),
    ],
)
def test_mistakes_are_named(call, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call(OperationSpace())
    assert words in str(caught.value)


def test_holdout_parts_are_disjoint_complete_and_seeded() -> None:
    space = OperationSpace()
    train, withheld = holdout(space, 0.9, seed=3)
    assert len(withheld) == round(0.9 * space.size)
    assert torch.equal(torch.cat([train, withheld]).sort().values, space.index)
    assert 0 in train
    assert not torch.equal(withheld, holdout(space, 0.9, seed=4)[1])
    assert torch.equal(withheld, holdout(space, 0.9, seed=3)[1])


def test_an_epoch_covers_exactly_and_never_draws_what_is_withheld() -> None:
    space = OperationSpace()
    train, withheld = holdout(space, 0.5, seed=1)
    batches = StratifiedBatches(space, train, batch_size=1000, seed=5)
    seen: Counter[int] = Counter()
    for at in range(batches.per_epoch):
        batch = batches.next()
        own = 1000 if at < batches.per_epoch - 1 else len(train) % 1000
        assert batch.count == len(batch.index) == own + 8 * len(batches.deep)
        seen.update(batch.index[:own].tolist())
        assert not torch.isin(batch.index, withheld).any()
        assert (space.levels[batch.index[own:]] >= 4).all()
    assert seen == Counter(train.tolist())


@pytest.mark.parametrize("settings", [{"extra_per_level": 8}, {"high_budget": 0.25}])
def test_reported_oversampling_is_what_happens(settings: dict) -> None:
    space = OperationSpace()
    batches = StratifiedBatches(space, space.index, batch_size=1024, seed=2, **settings)
    epochs, seen, weight = 20, torch.zeros(space.size), torch.zeros(space.size)
    for _ in range(epochs * batches.per_epoch):
        batch = batches.next()
        seen += torch.bincount(batch.index, minlength=space.size)
        weight.index_add_(0, batch.index, batch.unbias)
    for level, factor in enumerate(batches.oversampling()):
        members = space.levels == level
        found = float(seen[members].mean()) / epochs
        assert found == pytest.approx(factor, rel=0.02), level
        # Weighted by the inverse, every level counts once per operation and epoch again.
        assert float(weight[members].mean()) / epochs == pytest.approx(1, rel=0.02), level


def test_batches_continue_and_split_exactly() -> None:
    space = OperationSpace(3, 6)
    settings = {"batch_size": 100, "extra_per_level": 3, "seed": 9}
    whole, later = (StratifiedBatches(space, space.index, **settings) for _ in range(2))
    halves = [StratifiedBatches(space, space.index, part=(n, 2), **settings) for n in range(2)]
    for _ in range(11):
        batch = whole.next()
        both = torch.cat([h.next().index for h in halves])
        assert torch.equal(both.sort().values, batch.index.sort().values)
    later.load_state(whole.state())
    for _ in range(10):
        assert torch.equal(later.next().index, whole.next().index)
    for wrong in ({}, {**whole.state(), "seed": 1}, {**whole.state(), "drawn": -1}):
        with pytest.raises(CheckpointError, match="stored"):
            later.load_state(wrong)


def test_siblings_stay_together_and_an_epoch_still_covers_exactly() -> None:
    space = OperationSpace(3, 6)
    plain, grouped = (
        StratifiedBatches(space, space.index, batch_size=81, extra_per_level=0, siblings=s) for s in (0, 2)
    )

    def share(batches: StratifiedBatches) -> float:
        """Share of neighbours in a batch that differ in the last two digits alone."""
        drawn = [batches.next().index for _ in range(batches.per_epoch)]
        assert sorted(torch.cat(drawn).tolist()) == list(range(729))
        near = [space.valuation_between(x[1:], x[:-1]) >= 4 for x in drawn]
        return float(torch.cat(near).double().mean())

    # A third each stands alone, in threes with two near neighbours, and in nines with eight.
    assert share(plain) < 0.05
    assert share(grouped) == pytest.approx((2 / 3 + 8 / 9) / 3, abs=0.06)
    assert grouped.next().index.tolist() != plain.next().index.tolist()
    again = StratifiedBatches(space, space.index, batch_size=81, extra_per_level=0, siblings=2)
    again.load_state(grouped.state())
    assert torch.equal(again.next().index, grouped.next().index)
    train, withheld = holdout(space, 0.5, seed=1)
    half = StratifiedBatches(space, train, batch_size=81, extra_per_level=0, siblings=3)
    seen = torch.cat([half.next().index for _ in range(half.per_epoch)])
    assert sorted(seen.tolist()) == train.tolist()
    assert not set(seen.tolist()) & set(withheld.tolist())
