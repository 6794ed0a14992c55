"""Losses of pairs and triples: distances that follow the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holonomy.core.config import Config
from holonomy.core.numerics import safe_sqrt
from holonomy.data.ternary_ops import OperationSpace
from holonomy.geometry import normal, poincare
from holonomy.models.ternary.losses import LossContext, LossResult, LossTerm, register
from holonomy.models.ternary.losses_radial import band_targets
from holonomy.models.ternary.model import TernaryOutput

if TYPE_CHECKING:
    from holonomy.models.ternary.config import Geodesic, PairTerm, Temperature, Triplet

CHORD_FLOOR = 1e-7
"""Added to sinh^2(d / 2) under the logarithm: operations that still share a point have no gradient otherwise."""
KARCHER_STEPS = 50
KARCHER_TOLERANCE = 1e-7
CENTROID_LEVELS = 4
"""Depths of the tree whose nodes have a centre; deeper ones have too few members in a batch."""
SLACK = 0.02
"""How far targets keep from the bounds that the triangle inequality sets."""


@register("padic_triplet")
class TripletTerm(LossTerm):
    """tau softplus((s (x_ij - x_il) + m) / tau) over triples, s = sign(v_ij - v_il), x a distance or its logarithm.

    Triples that tie, or repeat an operation, count nothing.
    """

    config: Triplet

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Tree triples, plus uniform ones with their own weight where both are drawn."""
        value, c = out.logits.new_zeros(()), self.config
        metrics = {}
        if c.tree:
            metrics["tree"] = self.hinge(out, context, *context.tree_rows(c.tree, 2))
            value = value + metrics["tree"]
        if c.uniform:
            metrics["uniform"] = self.hinge(out, context, *(context.rows(c.uniform) for _ in range(3)))
            value = value + metrics["uniform"] * (c.uniform_weight if c.tree else 1.0)
        return LossResult(value, metrics)

    def hinge(self, out: TernaryOutput, context: LossContext, i: Tensor, j: Tensor, other: Tensor) -> Float[Tensor, ""]:
        """Mean over the triples that do not tie."""
        near, far = context.shared(i, j), context.shared(i, other)
        depth = self.space.digits
        keep = (near != far) & (near != depth) & (far != depth)
        sign = (near - far).sign().to(out.logits.dtype)
        c = self.config
        if c.measure == "log":
            a, b = ((out.half_chord(i, x) + CHORD_FLOOR).log() / 2 for x in (j, other))
        else:
            a, b = out.dist(i, j), out.dist(i, other)
        cost = c.temperature * F.softplus((sign * (a - b) + c.margin) / c.temperature)
        return (cost * keep).sum() / keep.sum().clamp_min(1)


def reachable_targets(
    shared: Int[Tensor, " n"], a: Tensor, b: Tensor, *, widest: float, rate: float
) -> tuple[Float[Tensor, " n"], Tensor]:
    """Distances D0 exp(-kappa k) kept to what points of radii a and b can have, and which pairs can have any."""
    low, high = (a - b).abs() + SLACK, a + b - SLACK
    wanted = widest * torch.exp(-rate * shared.to(a.dtype))
    return wanted.maximum(low).minimum(high), low <= high


@register("padic_geodesic")
class GeodesicTerm(LossTerm):
    """Smooth-L1 of distances to targets that shrink with every shared digit and that the radii allow."""

    config: Geodesic
    radii: Tensor

    def __init__(self, config: Config, space: OperationSpace, *, max_radius: float, latent_dim: int) -> None:
        super().__init__(config, space, max_radius=max_radius, latent_dim=latent_dim)
        self.register_buffer("radii", band_targets(space, max_radius).float(), persistent=False)

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Mean over pairs near and far in the tree that have a target."""
        i, j = context.tree_rows(self.config.pairs, 1)
        a, b = (self.radii[context.index[x]].to(out.logits.dtype) for x in (i, j))
        shared = context.shared(i, j)
        wanted, there = reachable_targets(shared, a, b, widest=self.config.widest, rate=self.config.rate)
        there = there & (shared != self.space.digits)
        off = F.smooth_l1_loss(out.dist(i, j), wanted, reduction="none")
        return LossResult((off * there).sum() / there.sum().clamp_min(1))


@register("padic_metric")
class MetricTerm(LossTerm):
    """(d(z_i, z_j) - s d_p(i, j))^2 with a learnt s = softplus(theta) > 0."""

    config: PairTerm

    def __init__(self, config: Config, space: OperationSpace, *, max_radius: float, latent_dim: int) -> None:
        super().__init__(config, space, max_radius=max_radius, latent_dim=latent_dim)
        self.theta = nn.Parameter(torch.tensor(1.0))

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Mean over pairs near and far in the tree."""
        i, j = context.tree_rows(self.config.pairs, 1)
        scale = F.softplus(self.theta.to(out.logits.dtype))
        shared = context.shared(i, j)
        wanted = torch.pow(float(self.space.base), -shared.to(out.logits.dtype)) * (shared != self.space.digits)
        return LossResult((out.dist(i, j) - scale * wanted).square().mean(), {"scale": scale})


@register("tree_centroid")
class CentroidTerm(LossTerm):
    """sum over depths 1..4 of 0.5^k mean d(z_n, centre of its node)^2, for nodes with two members or more."""

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """The centres are Karcher means and get no gradient."""
        value = out.logits.new_zeros(())
        for depth in range(1, min(CENTROID_LEVELS, self.space.digits) + 1):
            _, node = torch.unique(self.space.tree.prefix(context.index, depth), return_inverse=True)
            centres, sizes = node_means(out.B.u.detach(), node, out.k.detach())
            a, b = out.B.rho, centres.norm(dim=-1)
            e = centres / b.clamp_min(torch.finfo(b.dtype).tiny).unsqueeze(-1)
            chord = (out.B.e - e[node]).square().sum(-1)
            square = normal.polar_dist(a, b[node], chord, out.k).square()
            keep = sizes[node] >= 2
            value = value + 0.5**depth * (square * keep).sum() / keep.sum().clamp_min(1)
        return LossResult(value)


def node_means(
    u: Float[Tensor, "B d"], node: Int[Tensor, " B"], k: Tensor
) -> tuple[Float[Tensor, "nodes d"], Float[Tensor, " nodes"]]:
    """Karcher mean of the points of every node, in normal coordinates, and how many points it has.

    All nodes step together, each along the mean logarithm of its points, until the longest step is short.
    """
    count = int(node.max()) + 1
    sizes = torch.zeros(count, dtype=u.dtype, device=u.device).index_add(0, node, torch.ones_like(u[:, 0]))

    def mean(x: Tensor) -> Tensor:
        return torch.zeros(count, x.shape[-1], dtype=x.dtype, device=x.device).index_add(0, node, x) / sizes[:, None]

    if not bool(k < 0):
        return mean(u), sizes
    points, centres = normal.to_ball(u, k), normal.to_ball(mean(u), k)
    for _ in range(KARCHER_STEPS):
        towards = poincare.log(centres[node], points, k)
        far = (-k).sqrt() * poincare.dist(centres[node], points, k).unsqueeze(-1)
        # x coth x bounds the second derivative of half the squared distance: a full step would overshoot far points.
        bend = torch.where(far > 1e-3, far / torch.tanh(far), torch.ones_like(far))
        step = mean(towards) / mean(bend)
        centres = poincare.project(poincare.exp(centres, step, k), k)
        if float((2 * step / poincare.gap(centres, k)).norm(dim=-1).max()) <= KARCHER_TOLERANCE:
            break
    return normal.from_ball(centres, k), sizes


@register("soft_rank")
class SoftRankTerm(LossTerm):
    """KL of softmax(-d_p / T) to softmax(-d / T), row by row over pairs of the batch."""

    config: Temperature

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Mean over rows; a row does not see itself."""
        size = len(context.index)
        rows = torch.randperm(size, generator=context.generator)[: self.config.rows].to(context.index.device)
        i, j = rows.unsqueeze(1).expand(-1, len(rows)), rows.unsqueeze(0).expand(len(rows), -1)
        shared = context.shared(i, j)
        wanted = torch.pow(float(self.space.base), -shared.to(out.logits.dtype)) * (shared != self.space.digits)
        found = out.dist(i.reshape(-1), j.reshape(-1)).view(len(rows), len(rows))
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        heat = self.config.temperature
        p, q = ((-x / heat).masked_fill(itself, -torch.inf).log_softmax(-1) for x in (wanted, found))
        terms = torch.where(itself, 0, p.exp() * (p.masked_fill(itself, 0) - q.masked_fill(itself, 0)))
        return LossResult(terms.sum(-1).mean())


@register("repulsion")
class Repulsion(LossTerm):
    """Mean exp(-d^2 / (2 * 0.5^2)) over random pairs."""

    config: PairTerm

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Pairs of one operation count nothing."""
        i, j = context.rows(self.config.pairs), context.rows(self.config.pairs)
        keep = context.index[i] != context.index[j]
        near = torch.exp(-2 * out.dist(i, j).square())
        return LossResult((near * keep).sum() / keep.sum().clamp_min(1))


def fisher_rao(
    mean_a: Float[Tensor, "... d"],
    logvar_a: Float[Tensor, "... d"],
    mean_b: Float[Tensor, "... d"],
    logvar_b: Float[Tensor, "... d"],
) -> Float[Tensor, ...]:
    """Fisher-Rao distance between normals of diagonal covariance: the root of the sum of squares over dimensions.

    By dimension sqrt 2 arccosh(1 + [(m1 - m2)^2 / 2 + (s1 - s2)^2] / (2 s1 s2)) (Costa, Santos & Strapasson 2015),
    written as 2 sqrt 2 asinh(sqrt(x / 2)), which keeps its digits for near pairs.
    """
    a, b = (logvar_a / 2).exp(), (logvar_b / 2).exp()
    x = ((mean_a - mean_b).square() / 2 + (a - b).square()) / (2 * a * b)
    by_dimension = 8 * torch.asinh(safe_sqrt(x / 2)).square()
    return safe_sqrt(by_dimension.sum(-1))


@register("fisher_rao")
class FisherRaoTerm(LossTerm):
    """Mean distance of the posteriors to N(0, 1), plus a tenth of how far their pairs differ from those of points."""

    needs = frozenset({"logvar"})
    config: PairTerm

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Pair distances are compared as multiples of their mean."""
        mean, logvar = out.B.mean, out.B.logvar
        assert logvar is not None
        zero = torch.zeros_like(mean)
        prior = fisher_rao(mean, logvar, zero, zero).mean()
        i, j = context.tree_rows(self.config.pairs, 1)
        between = fisher_rao(mean[i], logvar[i], mean[j], logvar[j])
        found = out.dist(i, j)
        tiny = torch.finfo(found.dtype).eps
        kept = (between / (between.mean() + tiny) - found / (found.mean() + tiny)).square().mean()
        return LossResult(prior + 0.1 * kept, {"prior": prior, "pairs": kept})
