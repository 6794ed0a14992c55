"""Losses of the radius: where a level of the tree lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holonomy.core.config import Config
from holonomy.data.ternary_ops import OperationSpace
from holonomy.models.ternary.config import MAX_RADIUS
from holonomy.models.ternary.losses import LossContext, LossResult, LossTerm, register
from holonomy.models.ternary.model import TernaryOutput

if TYPE_CHECKING:
    from holonomy.models.ternary.config import PairTerm, RadialBands, RadialStratification, RichHierarchy

EDGES = (3.60, 2.30, 1.80, 1.40, 1.10, 0.85, 0.62, 0.44, 0.28, 0.14, 0.02)
"""Radii between the levels of 3^9 for the default largest radius, outermost first: level v lies below EDGES[v]."""
SHRINK = 0.06
"""Share of a band that is left free at either side."""
DIGITS_INSIDE = 4
"""Digits that order the operations of a level inside its band."""
REFERENCE_FLOOR = 1e-4
"""Lowest variance of a level that spread is compared with."""
KEPT_SPREAD = 0.5
"""Share of its reference spread that a level should keep."""
OUTER, INNER = 2.94, 0.16
"""Radii of level 0 and of the deepest level, for the default largest radius, that gaps between means are taken from."""
SEPARATION = 0.01
QUANTILES = (0.05, 0.95)


def band_edges(digits: int, max_radius: float) -> Float[Tensor, " edges"]:
    """Radii between the levels of a space, outermost first, [digits + 2]; those of 3^9 stretched to its depth."""
    known = torch.tensor(EDGES, dtype=torch.float64)
    place = torch.linspace(0, len(EDGES) - 1, digits + 2, dtype=torch.float64)
    low = place.floor().long().clamp_max(len(EDGES) - 2)
    share = place - low
    return (known[low] * (1 - share) + known[low + 1] * share) * max_radius / MAX_RADIUS


def band_targets(space: OperationSpace, max_radius: float) -> Float[Tensor, " N"]:
    """Radius of every operation: the band of its level, and inside it the order of the next digits."""
    edges = band_edges(space.digits, max_radius).to(space.index.device)
    levels, base = space.levels.long(), space.base
    padded = F.pad(space.table, (0, DIGITS_INSIDE))
    share = torch.zeros(space.size, dtype=torch.float64, device=space.index.device)
    for j in range(DIGITS_INSIDE):
        digit = padded.gather(1, (levels + j).unsqueeze(1)).squeeze(1)
        share += digit.double() * float(base) ** -(j + 1)
    # The first digit of an operation above its zeros is never 0.
    share = ((share - 1 / base) / (1 - 1 / base)).clamp(0, 1)
    high, low = edges[levels], edges[levels + 1]
    free = SHRINK * (high - low)
    radius = low + free + (high - low - 2 * free) * share
    radius[0] = edges[-1] + (edges[-2] - edges[-1]) / 4
    return radius


def level_targets(digits: int, inner: float, outer: float) -> Float[Tensor, " levels"]:
    """R_v = outer - (v / D)(outer - inner)."""
    return outer - torch.arange(digits + 1, dtype=torch.float64) / digits * (outer - inner)


def level_sums(values: Tensor, levels: Tensor, count: int) -> Float[Tensor, " count"]:
    """Sum of the values of each level."""
    return values.new_zeros(count).index_add(0, levels, values)


def level_means(values: Tensor, levels: Tensor, count: int) -> tuple[Float[Tensor, " count"], Float[Tensor, " count"]]:
    """Mean of each level, 0 where it has no member, and how many members it has."""
    sizes = level_sums(torch.ones_like(values), levels, count)
    return level_sums(values, levels, count) / sizes.clamp_min(1), sizes


def level_variances(
    values: Tensor, levels: Tensor, count: int
) -> tuple[Float[Tensor, " count"], Float[Tensor, " count"]]:
    """Population variance of each level, and how many members it has."""
    means, sizes = level_means(values, levels, count)
    return level_sums((values - means[levels]).square(), levels, count) / sizes.clamp_min(1), sizes


def level_quantile(values: Tensor, levels: Tensor, count: int, share: float) -> Float[Tensor, " count"]:
    """Quantile of each level by linear interpolation, differentiable; meaningless where a level has no member."""
    order = torch.argsort(values.detach())
    order = order[torch.argsort(levels[order], stable=True)]
    ordered = values[order]
    sizes = level_sums(torch.ones_like(values), levels, count)
    start = sizes.cumsum(0) - sizes
    place = start + share * (sizes - 1).clamp_min(0)
    low = place.floor().clamp_max(len(values) - 1)
    high = place.ceil().clamp_max(len(values) - 1)
    return torch.lerp(ordered[low.long()], ordered[high.long()], place - low)


@register("radial_bands")
class RadialBandsTerm(LossTerm):
    """sum w smoothL1(r - R_n) / sum w with w = 1 + v."""

    config: RadialBands
    radii: Tensor

    def __init__(self, config: Config, space: OperationSpace, *, max_radius: float, latent_dim: int) -> None:
        super().__init__(config, space, max_radius=max_radius, latent_dim=latent_dim)
        self.register_buffer("radii", band_targets(space, max_radius).float(), persistent=False)

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Weighted mean over the batch."""
        weight = 1.0 + context.levels
        wanted = self.radii[context.index].to(out.B.rho.dtype)
        off = F.smooth_l1_loss(out.B.rho, wanted, beta=self.config.beta, reduction="none")
        return LossResult((weight * off).sum() / weight.sum())


@register("radial_stratification")
class RadialStratificationTerm(LossTerm):
    """Smooth-L1 to one radius a level, and half a step of margin between members of different levels."""

    config: RadialStratification
    wanted: Tensor

    def __init__(self, config: Config, space: OperationSpace, *, max_radius: float, latent_dim: int) -> None:
        super().__init__(config, space, max_radius=max_radius, latent_dim=latent_dim)
        wanted = level_targets(space.digits, self.config.inner, self.config.outer)
        self.register_buffer("wanted", wanted.float(), persistent=False)

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Weighted mean over the batch, plus the mean margin over pairs of rows."""
        levels, rho = context.levels, out.B.rho
        depth = self.space.digits
        linear = self.config.growth == "linear"
        weight = 1 + levels / depth if linear else 1 + torch.exp(0.4 * levels)
        weight = weight.to(rho.dtype)
        off = F.smooth_l1_loss(rho, self.wanted[levels].to(rho.dtype), reduction="none")
        i, j = context.tree_rows(len(rho), 1)
        apart = levels[i] - levels[j]
        step = (self.config.outer - self.config.inner) / depth
        # The row of the higher level lies further in.
        gap = (rho[j] - rho[i]) * apart.sign()
        margin = torch.relu(0.5 * apart.abs() * step - gap) * (apart != 0)
        return LossResult((weight * off).sum() / weight.sum() + margin.mean())


@register("monotone_levels")
class MonotoneLevels(LossTerm):
    """Soft hinge on the gaps between the means of adjacent levels."""

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Mean of 0.05 softplus((m - gap) / 0.05) over adjacent levels that the batch has."""
        count = self.space.digits + 1
        means, sizes = level_means(out.B.rho, context.levels, count)
        gaps, there = means[:-1] - means[1:], (sizes[:-1] > 0) & (sizes[1:] > 0)
        wanted = max(0.02, (OUTER - INNER) * self.max_radius / MAX_RADIUS / self.space.digits)
        cost = 0.05 * F.softplus((wanted - gaps) / 0.05)
        return LossResult((cost * there).sum() / there.sum().clamp_min(1))


@register("global_rank")
class GlobalRank(LossTerm):
    """|dv| sigmoid(-sign(dv)(r_j - r_i) / 0.1) with dv = v_i - v_j, over pairs near and far in the tree."""

    config: PairTerm

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Mean over the pairs."""
        i, j = context.tree_rows(self.config.pairs, 1)
        apart = context.levels[i] - context.levels[j]
        rho = out.B.rho
        wrong = torch.sigmoid(-apart.sign() * (rho[j] - rho[i]) / 0.1)
        return LossResult((apart.abs() * wrong).mean())


def _first_places(index: Tensor) -> Tensor:
    """Whether a place is the first that holds its number."""
    order = torch.argsort(index, stable=True)
    ordered = index[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(first).scatter(0, order, first)


@register("rich_hierarchy")
class RichHierarchyTerm(LossTerm):
    """Level means at their radius (H), spread inside levels (Rich), and quantiles that do not cross (Sep)."""

    config: RichHierarchy
    wanted: Tensor
    reference: Tensor

    def __init__(self, config: Config, space: OperationSpace, *, max_radius: float, latent_dim: int) -> None:
        super().__init__(config, space, max_radius=max_radius, latent_dim=latent_dim)
        wanted = level_targets(space.digits, self.config.inner, self.config.outer)
        self.register_buffer("wanted", wanted.float(), persistent=False)
        bands = band_targets(space, max_radius)
        spread, _ = level_variances(bands, space.levels.long(), space.digits + 1)
        self.register_buffer("reference", spread.clamp_min(REFERENCE_FLOOR).float(), persistent=False)

    def parts(
        self, rho: Float[Tensor, " B"], index: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        """H, Rich and Sep of operations at these radii."""
        levels = self.space.levels[index].long()
        count = self.space.digits + 1
        variances, sizes = level_variances(rho, levels, count)
        means, _ = level_means(rho, levels, count)
        there = sizes > 0
        height = ((means - self.wanted.to(rho.dtype)).square() * there).sum() / there.sum()
        enough = level_sums(_first_places(index).to(rho.dtype), levels, count) >= 4
        lost = torch.relu(KEPT_SPREAD - variances / self.reference.to(rho.dtype)).square()
        rich = (lost * enough).sum() / enough.sum().clamp_min(1)
        low, high = (level_quantile(rho, levels, count, share) for share in QUANTILES)
        crossing = torch.relu(high[1:] - low[:-1] + SEPARATION)
        adjacent = there[1:] & there[:-1]
        separation = (torch.where(adjacent, crossing, 0)).sum() / adjacent.sum().clamp_min(1)
        return height, rich, separation

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Their weighted sum."""
        height, rich, separation = self.parts(out.B.rho, context.index)
        c = self.config
        value = c.hierarchy * height + c.richness * rich + c.separation * separation
        return LossResult(value, {"means": height, "spread": rich, "crossing": separation})


@register("zero_structure")
class ZeroStructure(LossTerm):
    """A linear read-out of the direction learns how many leading entries are the value 0.

    Not of the radius: that count and the valuation contradict each other as radii for a third of the operations.
    """

    def __init__(self, config: Config, space: OperationSpace, *, max_radius: float, latent_dim: int) -> None:
        super().__init__(config, space, max_radius=max_radius, latent_dim=latent_dim)
        self.read = nn.Linear(latent_dim, 1)

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Smooth-L1 to the share of leading zeros, and a correlation of 0.3 with the number of zeros."""
        zero = context.table == self.space.shift
        leading = zero.long().cumprod(-1).sum(-1) / self.space.digits
        e = out.B.e
        q = torch.sigmoid(F.linear(e, self.read.weight.to(e.dtype), self.read.bias.to(e.dtype)).squeeze(-1))
        near = F.smooth_l1_loss(q, leading.to(q.dtype))
        total = zero.sum(-1).to(q.dtype)
        a, b = total - total.mean(), q - q.mean()
        correlation = (a * b).sum() / (a.norm() * b.norm() + 1e-8)
        return LossResult(near + 0.5 * (correlation - 0.3).square(), {"correlation": correlation})
