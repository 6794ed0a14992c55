"""Taxonomies in hyperbolic space: the layout keeps its promise, learning keeps the rest, and figures are true."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from holonomy.core.errors import ConfigError, DataError
from holonomy.data.relations import Relations, relations_of
from holonomy.geometry import normal
from holonomy.models.ternary.taxonomy import _Pairs, _ranking_loss, embed_relations, horocyclic_layout, reconstruction

K = torch.tensor(-1.0, dtype=torch.float64)


def tree(count: int = 60, seed: int = 0) -> Relations:
    """Every thing below an earlier one, early ones having more children, and all that is above.

    Sixty things: so few distances are not worth compiled kernels, which other tests hold to their twins.
    """
    draw = random.Random(seed)
    above: list[list[int]] = [[]]
    for _ in range(1, count):
        parent = int(len(above) * draw.random() ** 2)
        above.append([parent, *above[parent]])
    return relations_of((f"{u:03}", f"{v:03}") for u, a in enumerate(above) for v in a)


def leaves(relations: Relations) -> list[int]:
    return sorted(set(range(len(relations.names))) - set(relations.pairs[:, 1].tolist()))


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_only_what_is_above_a_leaf_is_nearer_than_the_origin(dim: int) -> None:
    """The promise of the cones, by the accurate distance; near the edge of a cone the leaf is not far enough."""
    relations = tree()
    v = horocyclic_layout(relations, dim)
    above = relations.ancestors()
    top = next(u for u, a in enumerate(above) if not a)
    assert v[top].norm() == 0
    kept = 0
    for u in leaves(relations):
        nearer = normal.dist(v[u].expand_as(v), v, K) < v[u].norm() - 1e-9
        kept += set(nearer.nonzero().flatten().tolist()) - {u} == above[u] - {top}
    assert kept >= 0.98 * len(leaves(relations))
    # The broken double: the same radii, other directions.
    turned = v[torch.randperm(len(v), generator=torch.Generator().manual_seed(0))]
    turned = turned / turned.norm(dim=1, keepdim=True).clamp_min(1e-9) * v.norm(dim=1, keepdim=True)
    assert reconstruction(turned, relations)["map"] < 0.5 < 0.85 < reconstruction(v, relations)["map"]


def test_several_tops_and_several_parents() -> None:
    relations = relations_of([("b", "a"), ("c", "b"), ("c", "x"), ("y", "x"), ("z", "y"), ("q", "p")])
    v = horocyclic_layout(relations, 2)
    assert v.isfinite().all()
    assert (v.norm(dim=1) > 0).all()
    found = reconstruction(embed_relations(relations, 2, steps=40), relations)
    assert found == {"map": 1.0, "mean_rank": 1.0}


def test_figures_by_brute_force() -> None:
    relations = tree(40)
    v = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)).double()
    v[7] = v[3]  # A tie.
    ranks, precisions = [], []
    for u in range(40):
        above = {int(b) for a, b in relations.pairs if a == u}
        d = [float(normal.dist(v[u], v[w], K)) if w != u else math.inf for w in range(40)]
        others = [d[w] for w in range(40) if w != u and w not in above]
        if not above:
            continue
        mine = sorted(1 + sum(other <= d[w] * (1 + 1e-12) for other in others) for w in above)
        ranks += mine
        precisions.append(np.mean([(at + 1) / (rank + at) for at, rank in enumerate(mine)]))
    found = reconstruction(v, relations)
    assert found["mean_rank"] == pytest.approx(np.mean(ranks))
    assert found["map"] == pytest.approx(np.mean(precisions))
    assert reconstruction(v, relations, judged=39) == pytest.approx(found)
    drawn = torch.randperm(39, generator=torch.Generator().manual_seed(0))[:10]
    some = np.mean([precisions[at] for at in drawn])
    assert reconstruction(v, relations, judged=10)["map"] == pytest.approx(some)


def test_the_loss_by_its_sum() -> None:
    relations = tree(30)
    v = torch.randn(30, 3, generator=torch.Generator().manual_seed(1)).double()
    pairs = _Pairs(relations)
    rows = pairs.rows(torch.tensor([4, 2, 20]))
    total = 0.0
    for u in pairs.things[[4, 2, 20]].tolist():
        above = [int(b) for a, b in relations.pairs if a == u]
        d = {w: float(normal.dist(v[u], v[w], K)) for w in range(30) if w != u}
        for a in above:
            total += math.log1p(sum(math.exp((d[a] - d[w]) / 0.7) for w in d if w not in above)) / len(above) / 3
    assert float(_ranking_loss(normal.to_ball(v, K), rows, 0.7, K)) == pytest.approx(total, rel=1e-5)


def test_learning_gives_every_relation_back() -> None:
    relations = tree()
    start = reconstruction(horocyclic_layout(relations, 3), relations)
    v = embed_relations(relations, 3, steps=80)
    assert reconstruction(v, relations)["map"] > 0.999 > start["map"]
    assert torch.equal(v, embed_relations(relations, 3, steps=80))
    some = embed_relations(relations, 3, steps=80, rows=50)
    assert not torch.equal(v, some)
    assert reconstruction(some, relations)["map"] > start["map"]
    near = embed_relations(relations, 3, steps=80, max_radius=6.0)
    assert float(near.norm(dim=1).max()) <= 6 + 1e-9
    # Flat space has no room for it.
    assert reconstruction(embed_relations(relations, 3, steps=80, k=-1e-9), relations, k=-1e-9)["map"] < 0.9


def test_taxonomy_refusals() -> None:
    relations = tree(10)
    with pytest.raises(ConfigError, match="`dim` is 1"):
        embed_relations(relations, 1)
    with pytest.raises(ConfigError, match="`k` is 0"):
        embed_relations(relations, 2, k=0.0)
    with pytest.raises(ConfigError, match=r"`start` has shape \(3, 2\)"):
        embed_relations(relations, 2, start=torch.zeros(3, 2))
    with pytest.raises(DataError, match="above itself"):
        embed_relations(relations_of([("a", "b"), ("b", "a")]), 2)
