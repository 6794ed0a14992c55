"""Figures against scipy and brute force, and figures that must not be fooled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.data.ternary_ops import OperationSpace
from holonomy.geometry import normal
from holonomy.geometry.padic import spearman_ceiling
from holonomy.models.ternary import metrics
from holonomy.models.ternary.baseline import ClosedForm

SPACE = OperationSpace(3, 5)


class Given:
    """An embedding that is given."""

    def __init__(self, u: Tensor, space: OperationSpace = SPACE, k: float = -1.0) -> None:
        self.space, self.u, self.k = space, u, torch.tensor(k)

    def embed(self, index: Tensor, *, stream: str = "B") -> Tensor:
        return self.u[index]

    def reconstruct(self, index: Tensor) -> Tensor:
        return index.clamp_max(120)


@pytest.fixture(scope="module")
def u() -> Tensor:
    return torch.randn(243, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_rank_figures_by_scipy_and_by_all_pairs(u: Tensor) -> None:
    levels, rho = SPACE.levels.long(), u.norm(dim=-1).round(decimals=1)
    assert torch.equal(metrics.mid_ranks(rho), torch.from_numpy(stats.rankdata(rho.numpy())))
    assert metrics.spearman(levels, rho) == pytest.approx(stats.spearmanr(levels, rho)[0], abs=1e-12)
    v, r = levels.numpy(), rho.numpy()
    i, j = np.nonzero(v[:, None] < v[None])
    auc = np.mean((r[i] > r[j]) + 0.5 * (r[i] == r[j]))
    assert metrics.level_auc(levels, rho) == pytest.approx(auc, abs=1e-12)
    for k, found in enumerate(metrics.level_overlap(levels, rho)):
        outer, inner = r[v == k], r[v == k + 1]
        assert found == pytest.approx((outer[:, None] < inner[None]).mean(), abs=1e-12)
    assert metrics.has_ties(levels, rho)
    assert not metrics.has_ties(levels, u.norm(dim=-1))


def test_figures_of_points_by_brute_force(u: Tensor) -> None:
    found = metrics.measure(Given(u))
    v, r = SPACE.levels.numpy(), u.norm(dim=-1).numpy()
    k = torch.tensor(-1.0, dtype=torch.float64)
    d = normal.dist(u[:, None], u[None], k).numpy()
    assert found["coverage"] == 121 / 243
    assert found["faults"] == 122
    variances = [r[v == a].var() for a in range(5)]
    assert found["richness"] == pytest.approx(sum(variances) / 6)
    weighted = sum((v == a).sum() * r[v == a].var() for a in range(6)) / 243 / r.var()
    assert found["richness_weighted"] == pytest.approx(weighted)
    for a in range(6):
        assert found[f"radius/level_{a}"] == pytest.approx(r[v == a].mean())
    (i, j, other), nearer = metrics.uniform_triples(SPACE)
    assert len(i) > 20_000
    assert ((SPACE.tree.dist(i, j) < SPACE.tree.dist(i, other)) == nearer).all()
    assert found["triplet_concordance"] == pytest.approx(((d[i, j] < d[i, other]) == nearer.numpy()).mean())
    tree = SPACE.tree.dist(SPACE.index[:, None], SPACE.index[None]).numpy()
    upper = np.triu_indices(243, 1)
    assert found["pair_spearman"] == pytest.approx(stats.spearmanr(d[upper], tree[upper])[0], abs=1e-9)
    assert found["Q"] == pytest.approx(found["pair_spearman"] - 1.5 * stats.spearmanr(v, r)[0])
    np.fill_diagonal(d, np.inf)
    np.fill_diagonal(tree, np.inf)
    hits = []
    for q in range(243):
        farthest = np.sort(tree[q])[7]
        hits.append((tree[q][np.argsort(d[q])[:8]] <= farthest).mean())
    assert found["neighbour_purity_8"] == pytest.approx(np.mean(hits))


@pytest.mark.parametrize(("scale", "richness", "concordance"), [(1.0, 0.0059, 1.0), (2.0, 0.0235, 0.9945)])
def test_closed_form_has_its_reference_figures(scale: float, richness: float, concordance: float) -> None:
    space = OperationSpace()
    found = metrics.measure(ClosedForm(space, scale=scale), neighbours=False)
    assert found["coverage"] == 1
    assert found["hierarchy"] == pytest.approx(-0.8320502954, abs=1e-9)
    assert found["hierarchy_norm"] == pytest.approx(1)
    assert found["monotone"] == found["level_auc"] == 1
    assert found["richness"] == pytest.approx(richness, abs=5e-5)
    assert found["triplet_concordance"] == pytest.approx(concordance, abs=5e-5)
    assert found["triplet_concordance_deep"] == 1
    longest = ClosedForm(space, scale=scale).embed(space.index).norm(dim=-1).max()
    assert float(longest) == pytest.approx(scale)
    for settings, words in (
        ({"ratio": 1.0}, "`ratio`"),
        ({"scale": 0.0}, "`scale`"),
        ({"dimension": 10}, "`dimension`"),
    ):
        with pytest.raises(ConfigError, match=words):
            ClosedForm(space, **settings)


@pytest.mark.parametrize(("dimension", "ratio"), [(6, 0.3), (3, 0.3), (1, 0.19)])
def test_the_closed_form_needs_one_dimension(dimension: int, ratio: float) -> None:
    closed = ClosedForm(OperationSpace(), ratio=ratio, dimension=dimension)
    assert closed.embed(closed.space.index).shape == (19_683, dimension)
    found = metrics.measure(closed, neighbours=False)
    assert found["coverage"] == found["triplet_concordance"] == found["triplet_concordance_deep"] == 1
    assert found["hierarchy"] == pytest.approx(-0.8320502954, abs=1e-9)
    assert found["pair_spearman"] > 0.8315
    # Too slow a fall, and digits on one axis run into each other.
    broken = metrics.measure(ClosedForm(OperationSpace(), ratio=0.45, dimension=1), neighbours=False)
    assert broken["triplet_concordance_deep"] < 0.95


def test_nearly_ultrametric_points_have_no_violation_and_full_purity() -> None:
    # With so steep a ratio, and two values a digit, the first digit that differs is all there is to a distance.
    found = metrics.measure(ClosedForm(OperationSpace(2, 8), ratio=0.005))
    assert found["ultrametric_violation"] < 0.01
    assert found["neighbour_purity_8"] == 1
    assert found["pair_spearman_norm"] == pytest.approx(1, abs=1e-4)


def test_equal_radii_are_flagged_though_their_correlation_is_perfect() -> None:
    space = SPACE
    radii = 3.0 - 0.5 * space.levels.double()
    exact = torch.zeros(243, 4, dtype=torch.float64)
    exact[:, 0] = radii
    found = metrics.measure(Given(exact))
    assert found["hierarchy"] == pytest.approx(-1)
    assert found["ties"] == 1
    e = torch.nn.functional.normalize(torch.randn(243, 4, generator=torch.Generator().manual_seed(1)).double(), dim=-1)
    ordered = metrics.measure(Given((radii + 1e-3 * torch.rand(243).double())[:, None] * e))
    assert ordered["hierarchy"] == pytest.approx(-spearman_ceiling(space.tree.level_counts()), abs=1e-12)
    assert ordered["ties"] == 0


def test_selection_is_lexicographic() -> None:
    def value(faults: float, triples: float, hierarchy: float) -> float:
        return metrics.selection({"faults": faults, "triplet_concordance": triples, "hierarchy": hierarchy})

    ranked = [
        value(0, 1, -0.83),
        value(0, 1, -0.5),
        value(0, 1, 1),
        value(0, 1 - 1e-5, -1),
        value(0, 0, 1),
        value(1, 1, -1),
    ]
    assert ranked == sorted(ranked)
    assert len(set(ranked)) == len(ranked)


def test_bootstrap_bounds_hold_the_mean() -> None:
    values = (torch.rand(5_000, generator=torch.Generator().manual_seed(0)) < 0.9).double()
    low, high = metrics.bootstrap_interval(values)
    half = 1.96 * math.sqrt(0.09 / 5_000)
    assert low == pytest.approx(float(values.mean()) - half, abs=half / 5)
    assert high == pytest.approx(float(values.mean()) + half, abs=half / 5)


@pytest.mark.parametrize(
    ("change", "flags"),
    [
        ({}, []),
        # The hierarchy at its ceiling does not help where a thousandth of the operations comes back.
        ({"coverage": 0.001, "hierarchy": -0.8320}, ["degenerate"]),
        ({"ties": 1.0}, ["degenerate"]),
        ({"radius_variance": 1e-7}, ["degenerate"]),
        ({"hierarchy": 0.5}, ["inverted"]),
        ({"hierarchy": 0.5, "coverage": 0.0}, ["degenerate", "inverted"]),
    ],
    ids=str,
)
def test_figures_that_must_not_be_believed_are_flagged(change: dict[str, float], flags: list[str]) -> None:
    sound = metrics.measure(ClosedForm(OperationSpace(3, 5)), neighbours=False)
    found = metrics.warnings_of({**sound, **change})
    assert [name.removeprefix("flag/") for name, value in found.items() if value] == flags
