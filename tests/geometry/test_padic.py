"""p-adic structure against plain integer arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from holonomy.core.errors import ConfigError
from holonomy.geometry.padic import PadicTree, apply_operation, operation_index, operation_values, spearman_ceiling

TREE = PadicTree(3, 9)


def slow_valuation(n: int, p: int, depth: int) -> int:
    k = 0
    while k < depth and n % p ** (k + 1) == 0:
        k += 1
    return k


@given(st.sampled_from([2, 3, 5, 7]), st.integers(1, 9), st.integers(0, 10**9))
def test_valuation_digits_and_prefixes(p: int, depth: int, seed: int) -> None:
    tree = PadicTree(p, depth)
    n = seed % tree.size
    found = torch.tensor([n])
    assert int(tree.valuation(found)) == slow_valuation(n, p, depth)
    digits = tree.digits(found)[0].tolist()
    assert digits == [n // p**k % p for k in range(depth)]
    assert int(tree.number(torch.tensor(digits))) == n
    assert [int(tree.prefix(found, k)) for k in range(depth + 1)] == [n % p**k for k in range(depth + 1)]


def test_levels_of_the_ternary_operations() -> None:
    every = torch.arange(TREE.size)
    counts = torch.bincount(TREE.valuation(every), minlength=10).tolist()
    assert counts == TREE.level_counts() == [13122, 4374, 1458, 486, 162, 54, 18, 6, 2, 1]
    assert torch.equal(TREE.number(TREE.digits(every)), every)


def test_distance_is_an_ultrametric() -> None:
    i, j, k = (torch.randint(TREE.size, (100_000,), generator=torch.Generator().manual_seed(s)) for s in (1, 2, 3))
    ij, jk, ik = TREE.dist(i, j), TREE.dist(j, k), TREE.dist(i, k)
    assert bool((ik <= torch.maximum(ij, jk)).all())
    assert torch.equal(ij, TREE.dist(j, i))
    assert float(TREE.dist(torch.tensor(0), torch.tensor(6561))) == 3.0**-8
    assert float(TREE.dist(i, i).abs().max()) == 0.0
    for depth in range(10):
        same = TREE.prefix(i, depth) == TREE.prefix(j, depth)
        assert torch.equal(same, TREE.valuation(i - j) >= depth)


def test_pairs_are_stratified_exactly() -> None:
    i, j, k = TREE.pairs(90_000, torch.Generator().manual_seed(0))
    assert torch.equal(TREE.valuation(i - j), k)
    TREE.check(j)
    assert stats.chisquare(torch.bincount(k).numpy()).pvalue > 1e-3
    at_two = ((j - i) % TREE.size)[k == 7] // 3**7
    assert stats.chisquare(torch.bincount(at_two, minlength=9)[[1, 2, 4, 5, 7, 8]].numpy()).pvalue > 1e-3


def test_triplets_are_labelled() -> None:
    i, j, far, label = TREE.triplets(20_000, torch.Generator().manual_seed(0))
    nearer = TREE.valuation(i - j) - TREE.valuation(i - far)
    assert bool((nearer != 0).all())
    assert torch.equal(nearer.sign(), label)


def test_ceiling_is_reached_and_not_passed() -> None:
    assert math.isclose(spearman_ceiling(TREE.level_counts()), 0.8320502954, abs_tol=1e-10)
    levels = TREE.valuation(torch.arange(TREE.size)).numpy()
    best = stats.spearmanr(levels + torch.linspace(0, 0.5, TREE.size).numpy(), levels).statistic
    assert math.isclose(best, spearman_ceiling(TREE.level_counts()), abs_tol=1e-9)
    assert spearman_ceiling([1] * 50) == 1.0
    assert spearman_ceiling([7]) == 0.0


def test_tables_of_the_operations() -> None:
    every = torch.arange(TREE.size)
    tables = operation_values(every)
    assert tables.dtype == torch.int8
    assert torch.equal(operation_index(tables), every)
    assert len({tuple(row) for row in tables.tolist()}) == TREE.size
    for index, value in ((0, -1), (9841, 0), (19682, 1)):
        assert operation_values(torch.tensor(index)).tolist() == [value] * 9
    inputs = torch.tensor([-1, 0, 1])
    a, b = inputs.repeat_interleave(3), inputs.repeat(3)
    assert torch.equal(apply_operation(every[:, None], a, b), tables)
    smaller = operation_index(torch.minimum(a, b))
    larger = operation_index(torch.maximum(a, b))
    negated = operation_index(-a)
    for x in (-1, 0, 1):
        for y in (-1, 0, 1):
            u, v = torch.tensor(x), torch.tensor(y)
            assert int(apply_operation(smaller, u, v)) == min(x, y)
            # de Morgan: max(x, y) = -min(-x, -y)
            turned = apply_operation(smaller, apply_operation(negated, u, u), apply_operation(negated, v, v))
            assert int(apply_operation(negated, turned, turned)) == int(apply_operation(larger, u, v))


def test_refusals() -> None:
    for act, words in (
        (lambda: PadicTree(4, 2), "prime"),
        (lambda: PadicTree(1, 2), "prime"),
        (lambda: PadicTree(3, 0), "depth"),
        (lambda: PadicTree(2, 62), "2\\^62"),
        (lambda: TREE.check(torch.tensor([3, 19683])), "19683"),
        (lambda: TREE.check(torch.tensor([-1])), "-1"),
        (lambda: spearman_ceiling([1]), "at least 2"),
        (lambda: PadicTree(3, 1).triplets(4, torch.Generator()), "triplets want 2"),
        (lambda: operation_values(torch.tensor([0, 19683])), "19683"),
        (lambda: operation_index(torch.zeros(8, dtype=torch.int8)), "9 entries"),
        (lambda: operation_index(torch.tensor([0, 0, 0, 2, 0, 0, 0, 0, 0])), "holds 2"),
    ):
        with pytest.raises(ConfigError, match=words):
            act()
