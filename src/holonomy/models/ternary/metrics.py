"""What is measured of an embedding, each figure with one definition; deterministic, float64, on the trained path.

Every embedding offers `space`, `k`, `embed(index, stream=...)` in normal coordinates and `reconstruct(index)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holonomy.data.ternary_ops import OperationSpace
from holonomy.geometry.normal import dist as normal_dist
from holonomy.geometry.normal import polar_half_chord
from holonomy.geometry.padic import spearman_ceiling

TRIPLE_COUNT, TRIPLE_SEED = 50_000, 2
PAIR_OPERATIONS, PAIR_SEED = 1_000, 1
QUERIES, NEIGHBOURS = 2_000, 8
GENERATED, BOOTSTRAPS = 20_000, 1_000
LEAST_COVERAGE, LEAST_VARIANCE = 0.5, 1e-6
"""Coverage and variance of the radii below which an embedding counts as degenerate."""
DEEP_LEVEL = 4
"""Triples of the deep figure compare valuations from here on."""


class OperationEmbedding(Protocol):
    """An embedding of all operations, learnt or not."""

    space: OperationSpace

    @property
    def k(self) -> Tensor: ...

    def embed(self, index: Tensor, *, stream: str = "B") -> Tensor: ...

    def reconstruct(self, index: Tensor) -> Tensor: ...


def mid_ranks(x: Tensor) -> Float[Tensor, " n"]:
    """Ranks from 1; ties share their mean."""
    _, place, counts = torch.unique(x, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts - 1) / 2)[place]


def spearman(x: Tensor, y: Tensor) -> float:
    """Rank correlation with mid-ranks; 0 where either is constant."""
    a, b = mid_ranks(x), mid_ranks(y)
    a, b = a - a.mean(), b - b.mean()
    size = a.norm() * b.norm()
    return float((a * b).sum() / size) if float(size) > 0 else 0.0


def has_ties(levels: Tensor, radii: Tensor) -> bool:
    """Whether two operations of one level have exactly the same radius: the mark of a collapse."""
    order = torch.argsort(radii)
    order = order[torch.argsort(levels[order], stable=True)]
    r, v = radii[order], levels[order]
    return bool(((r[1:] == r[:-1]) & (v[1:] == v[:-1])).any())


def level_auc(levels: Tensor, radii: Tensor) -> float:
    """P(r_i > r_j | v_i < v_j) over all pairs, ties half; one search a level."""
    won = pairs = 0.0
    for v in range(int(levels.max())):
        outer, inner = radii[levels == v], radii[levels > v].sort().values
        ends = [torch.searchsorted(inner, outer, right=right).double().sum() for right in (False, True)]
        won += float(ends[0] + ends[1]) / 2
        pairs += len(outer) * len(inner)
    return won / pairs if pairs else math.nan


def level_overlap(levels: Tensor, radii: Tensor) -> list[float]:
    """P(r_k < r_{k+1}) of a member of each level and one of the next."""
    found = []
    for v in range(int(levels.max())):
        outer, inner = radii[levels == v].sort().values, radii[levels == v + 1]
        below = torch.searchsorted(outer, inner, right=False).double().sum()
        found.append(float(below) / max(1, len(outer) * len(inner)))
    return found


class _Points:
    """Points of all operations in polar form, and distances between them."""

    def __init__(self, space: OperationSpace, u: Tensor, k: Tensor) -> None:
        self.space, self.k = space, k.detach().double()
        self.u = u.double()
        self.rho = self.u.norm(dim=-1)
        self.e = self.u / self.rho.clamp_min(torch.finfo(torch.float64).tiny).unsqueeze(-1)

    def order(self, i: Tensor, j: Tensor) -> Float[Tensor, " n"]:
        """sinh^2(sqrt(c) d / 2) / c: in the order of distances, at a fraction of the cost."""
        return polar_half_chord(self.rho[i], self.rho[j], (self.e[i] - self.e[j]).square().sum(-1), self.k)

    def dist(self, i: Tensor, j: Tensor) -> Float[Tensor, " n"]:
        """Geodesic distances."""
        if float(self.k) == 0:
            return (self.u[i] - self.u[j]).norm(dim=-1)
        return normal_dist(self.u[i], self.u[j], self.k)


def uniform_triples(space: OperationSpace) -> tuple[Int[Tensor, "3 n"], Bool[Tensor, " n"]]:
    """The seeded triples (i, j, l) whose tree distances differ, and whether j is the nearer one."""
    generator = torch.Generator().manual_seed(TRIPLE_SEED)
    rows = torch.randint(space.size, (3, TRIPLE_COUNT), generator=generator).to(space.index.device)
    i, j, other = rows
    near, far = space.valuation_between(i, j), space.valuation_between(i, other)
    keep = (near != far) & (near < space.digits) & (far < space.digits)
    return rows[:, keep], (near > far)[keep]


def stratified_triples(space: OperationSpace) -> tuple[Int[Tensor, "3 n"], Bool[Tensor, " n"]]:
    """Seeded triples in which every pair of different valuations is equally likely."""
    generator = torch.Generator().manual_seed(TRIPLE_SEED)
    i, j, other, label = space.tree.triplets(TRIPLE_COUNT, generator)
    device = space.index.device
    return torch.stack([i, j, other]).to(device), (label > 0).to(device)


def _in_order(points: _Points, triples: tuple[Tensor, Tensor]) -> Tensor:
    (i, j, other), nearer = triples
    a, b = points.order(i, j), points.order(i, other)
    return torch.where(a == b, 0.5, (a < b).eq(nearer).double())


def bootstrap_interval(values: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Bounds that hold 95 % of the means of samples with replacement."""
    generator = torch.Generator().manual_seed(seed)
    size, held = len(values), values.cpu()
    means = torch.stack(
        [held[torch.randint(size, (size,), generator=generator)].mean() for _ in range(BOOTSTRAPS)]
    ).double()
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)


def _pair_figures(points: _Points) -> dict[str, float]:
    space = points.space
    generator = torch.Generator().manual_seed(PAIR_SEED)
    count = min(PAIR_OPERATIONS, space.size)
    chosen = torch.randperm(space.size, generator=generator)[:count].to(space.index.device)
    a, b = torch.triu_indices(count, count, 1, device=chosen.device)
    i, j = chosen[a], chosen[b]
    shared = space.valuation_between(i, j).long()
    rank = spearman(points.order(i, j), -shared)
    apart = (space.levels[i] - space.levels[j]).abs()
    return {
        "pair_spearman": rank,
        "pair_spearman_norm": rank / spearman_ceiling(torch.bincount(shared).tolist()),
        "euclidean_pair_spearman": spearman((points.u[i] - points.u[j]).norm(dim=-1), apart),
        "ultrametric_violation": _ultrametric_violation(points, chosen, generator),
    }


def _ultrametric_violation(points: _Points, chosen: Tensor, generator: torch.Generator) -> float:
    rows = chosen[torch.randint(len(chosen), (3, TRIPLE_COUNT), generator=generator).to(chosen.device)]
    ij, jk, ik = (points.dist(rows[a], rows[b]) for a, b in ((0, 1), (1, 2), (0, 2)))
    largest = ij.maximum(jk)
    keep = largest > 0
    return float((torch.relu(ik - largest)[keep] / largest[keep]).mean())


def neighbour_purity(points: _Points) -> float:
    """Share of the 8 nearest points that lie among the 8 nearest in the tree, where ties of the tree count as near."""
    space = points.space
    generator = torch.Generator().manual_seed(PAIR_SEED)
    queries = torch.randperm(space.size, generator=generator)[:QUERIES].to(space.index.device)
    # The smallest node that holds a query and its 8 nearest: what lies in it is among them, or ties with one of them.
    above = next(a for a in range(space.digits + 1) if space.base**a > NEIGHBOURS or a == space.digits)
    hits = 0.0
    for part in queries.split(max(1, 2**22 // space.size)):
        chord = (2 - 2 * points.e[part] @ points.e.T).clamp_min(0)
        near = polar_half_chord(points.rho[part, None], points.rho[None], chord, points.k)
        near.scatter_(1, part[:, None], torch.inf)
        found = near.topk(min(NEIGHBOURS, space.size - 1), largest=False).indices
        hits += float((space.valuation_between(part[:, None], found) >= space.digits - above).double().mean(1).sum())
    return hits / len(queries)


def _radius_figures(space: OperationSpace, rho: Tensor) -> dict[str, float]:
    levels, depth = space.levels.long(), space.digits
    counts = torch.bincount(levels, minlength=depth + 1).double()

    def mean(x: Tensor) -> Tensor:
        return torch.zeros(depth + 1, dtype=torch.float64, device=rho.device).index_add(0, levels, x) / counts

    means = mean(rho)
    variances = mean((rho - means[levels]).square())
    gaps, spread = means[:-1] - means[1:], float(rho.var(unbiased=False))
    # Negative is right: deep operations lie near the centre.
    found = spearman(levels, rho)
    return {
        "hierarchy": found,
        "hierarchy_norm": -found / spearman_ceiling(space.tree.level_counts()),
        "ties": float(has_ties(levels, rho)),
        "level_auc": level_auc(levels, rho),
        "monotone": float((gaps > 0).all()),
        "min_gap": float(gaps.min()),
        "richness": float(variances[:-1].sum() / (depth + 1)),
        "richness_weighted": float((counts * variances).sum() / counts.sum()) / spread if spread else 0.0,
        "radius_variance": spread,
        **{f"radius/level_{v}": float(m) for v, m in enumerate(means)},
        **{f"overlap/level_{v}": o for v, o in enumerate(level_overlap(levels, rho))},
    }


def measure_points(space: OperationSpace, u: Tensor, k: Tensor, *, neighbours: bool = True) -> dict[str, float]:
    """Every figure of the points alone.

    Args:
        space: the operations.
        u: normal coordinates of all of them, [N, d].
        k: curvature, 0 where space is flat.
        neighbours: also the purity of neighbours, which costs the most.
    """
    points = _Points(space, u, k)
    triples = stratified_triples(space)
    stratified = _in_order(points, triples)
    i, j, other = triples[0]
    deep = torch.minimum(space.valuation_between(i, j), space.valuation_between(i, other)) >= DEEP_LEVEL
    metrics = {
        **_radius_figures(space, points.rho),
        "triplet_concordance": float(_in_order(points, uniform_triples(space)).mean()),
        "triplet_concordance_stratified": float(stratified.mean()),
        **_pair_figures(points),
    }
    if bool(deep.any()):
        metrics["triplet_concordance_deep"] = float(stratified[deep].mean())
    metrics["Q"] = metrics["pair_spearman"] - 1.5 * metrics["hierarchy"]
    # A figure of older work, for comparison only: Euclidean distances against differences of levels.
    metrics["Q_legacy"] = metrics.pop("euclidean_pair_spearman") + 1.5 * abs(metrics["hierarchy"])
    if neighbours:
        metrics[f"neighbour_purity_{NEIGHBOURS}"] = neighbour_purity(points)
    return metrics


def coverage(index: Tensor, decoded: Callable[[Tensor], Tensor]) -> float:
    """Share of operations that come back without a fault."""
    return float((decoded(index) == index).double().mean())


def concordance_interval(space: OperationSpace, u: Tensor, k: Tensor) -> tuple[float, float]:
    """95 % bounds of the concordance of uniform triples."""
    return bootstrap_interval(_in_order(_Points(space, u, k), uniform_triples(space)))


def selection(metrics: dict[str, float]) -> float:
    """One number in the order (coverage, concordance, -hierarchy), the lower the better.

    Faults of the coverage are whole numbers, discordance is a multiple of 1 / 100,000 below 1, and the hierarchy
    gets less than that: so none of them can outweigh one before it.
    """
    return metrics["faults"] + 0.999 * (1 - metrics["triplet_concordance"]) + 2.5e-6 * (1 + metrics["hierarchy"])


def warnings_of(metrics: dict[str, float]) -> dict[str, float]:
    """1 where a good hierarchy must not be believed, else 0.

    Degenerate is an embedding that loses most operations, or whose radii are equal within a level or everywhere, since
    radii that only say the level need no points; inverted is one whose deep operations lie outside.
    """
    fallen = metrics["coverage"] < LEAST_COVERAGE or metrics["ties"] or metrics["radius_variance"] < LEAST_VARIANCE
    return {"flag/degenerate": float(bool(fallen)), "flag/inverted": float(metrics["hierarchy"] > 0)}


def measure(
    embedding: OperationEmbedding, *, withheld: Tensor | None = None, neighbours: bool = True
) -> dict[str, float]:
    """Every deterministic figure of an embedding.

    Args:
        embedding: what is measured.
        withheld: operations that were never trained on, if any.
        neighbours: also the purity of neighbours.
    """
    space = embedding.space
    share = coverage(space.index, embedding.reconstruct)
    metrics = {"coverage": share, "faults": float(round((1 - share) * space.size))}
    if withheld is not None and len(withheld):
        metrics["coverage_heldout"] = coverage(withheld, embedding.reconstruct)
    metrics.update(measure_points(space, embedding.embed(space.index, stream="B"), embedding.k, neighbours=neighbours))
    return metrics
