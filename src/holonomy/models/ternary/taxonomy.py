"""Points for the things of a taxonomy, so that what is above a thing is nearer to it than anything else.

`horocyclic_layout` needs no training. Seen from a point at infinity, nearness is the Busemann function, and those
points from which a node at radius r is nearer than the origin fill a cone of half-angle a with tanh(r / 2) = cos a.
So give every node a cone inside that of its parent, put it on the cone's axis at that radius and the leaves far out:
for a leaf, exactly what is above it is nearer than the origin. Nodes between are left to `embed_relations`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.data.relations import Relations
from holonomy.geometry.normal import to_ball
from holonomy.geometry.poincare import pairwise_dist
from holonomy.optim.riemannian import NormalAdam

CANDIDATES = 128
"""Random places among which a child takes the one farthest from its siblings."""
WIDEST = 1.2
"""Largest half-angle of a cone around a child of the origin."""
FILLED = 0.9
"""Share of a cone that the cones of its children reach."""
AT_ONCE = 2**22
"""Distances held at once where not all are needed."""


def horocyclic_layout(relations: Relations, dim: int, *, seed: int = 0) -> Float[Tensor, "n dim"]:
    """Normal coordinates, in curvature -1, of every thing: see the head of this module. Takes a second for 10,000.

    A thing with several parents stands below the deepest. One thing without anything above it is the origin.

    Args:
        relations: what is above what; need not hold indirect pairs.
        dim: dimension of the space, at least 2.
        seed: of the candidates.

    Raises:
        ConfigError: fewer than two dimensions.
        DataError: the relations have a cycle.
    """
    if dim < 2:
        raise ConfigError(f"`dim` is {dim}; a cone has an inside from 2 dimensions on")
    above = relations.ancestors()
    tops = [u for u, a in enumerate(above) if not a]
    origin = tops[0] if len(tops) == 1 else len(above)
    children: list[list[int]] = [[] for _ in range(len(above) + 1)]
    for u, a in enumerate(above):
        if u != origin:
            children[max(a, key=lambda v: (len(above[v]), v)) if a else origin].append(u)
    order = [origin, *(u for u in sorted(range(len(above)), key=lambda u: len(above[u])) if u != origin)]
    size = np.ones(len(above) + 1)
    for u in reversed(order):
        size[u] += sum(size[c] for c in children[u])
    axis, angle = np.zeros((len(above) + 1, dim)), np.zeros(len(above) + 1)
    random = np.random.default_rng(seed)
    for u in order:
        # Cones as wide as their content: dim - 1 dimensions of directions are shared out.
        below = sorted(children[u], key=lambda c: -size[c])
        share = size[below] ** (1 / (dim - 1))
        if u == origin:
            axis[below], fit = _spread(share, dim, random, sphere=True)
            angle[below] = np.minimum(fit * share, WIDEST)
        elif below:
            places, fit = _spread(share, dim - 1, random, sphere=False)
            scale = FILLED * angle[u] / (np.linalg.norm(places, axis=1) + fit * share).max()
            axis[below] = _turned(axis[u], places * scale)
            angle[below] = fit * share * scale
    leaves = [u for u in range(len(above)) if not children[u]]
    radius = 2 * np.arctanh(np.clip(np.cos(angle), 0, 1 - 1e-15))
    # Two leaves at radius R with an angle t between them are 2 R + 2 log sin(t / 2) apart: here at least R.
    radius[leaves] = 2 * math.log(2 / math.sin(angle[leaves].min()))
    radius[origin] = 0
    return torch.from_numpy((radius[:, None] * axis)[: len(above)])


def _spread(share: np.ndarray, dim: int, random: np.random.Generator, *, sphere: bool) -> tuple[np.ndarray, float]:
    """Places for balls of sizes `share` on the sphere or in the ball, and the factor at which they touch."""
    places, fit = np.zeros((len(share), dim)), math.inf
    for at in range(len(share)):
        candidates = random.normal(size=(CANDIDATES, dim))
        candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
        if not sphere:
            candidates *= random.random((CANDIDATES, 1)) ** (1 / dim)
        if at:
            room = (np.linalg.norm(candidates[:, None] - places[:at], axis=2) / (share[at] + share[:at])).min(1)
            places[at], fit = candidates[room.argmax()], min(fit, room.max())
        elif sphere or len(share) > 1:
            places[at] = candidates[np.linalg.norm(candidates, axis=1).argmax()]
    return places, fit if len(share) > 1 else 0.7 / share[0]


def _turned(axis: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Directions at the angles |p| from an axis, towards p in an orthonormal frame across it."""
    frame = np.linalg.qr(np.column_stack([axis, np.eye(len(axis))]))[0][:, 1:]
    angle = np.linalg.norm(places, axis=1, keepdims=True)
    return np.cos(angle) * axis + np.sinc(angle / math.pi) * places @ frame.T


@dataclass(frozen=True)
class _Rows:
    """Some things that have others above them.

    Attributes:
        things: [b] their numbers.
        row, target: [m] a pair's place in `things`, and what is above it.
        place: [m] number of the pair within its row.
        hidden: [b, n] the things themselves, and all that is above them.
    """

    things: Tensor
    row: Tensor
    target: Tensor
    place: Tensor
    hidden: Tensor


class _Pairs:
    """Pairs of relations by thing."""

    def __init__(self, relations: Relations) -> None:
        self.count = len(relations.names)
        lower, self.upper = torch.from_numpy(relations.pairs).unbind(1)
        self.things, self.sizes = lower.unique_consecutive(return_counts=True)
        self.starts = self.sizes.cumsum(0) - self.sizes

    def rows(self, chosen: Tensor) -> _Rows:
        sizes = self.sizes[chosen]
        row = torch.arange(len(chosen)).repeat_interleave(sizes)
        place = torch.arange(len(row)) - (sizes.cumsum(0) - sizes)[row]
        target = self.upper[self.starts[chosen][row] + place]
        hidden = torch.zeros(len(chosen), self.count, dtype=torch.bool)
        hidden[row, target] = True
        hidden[torch.arange(len(chosen)), self.things[chosen]] = True
        return _Rows(self.things[chosen], row, target, place, hidden)

    def blocks(self, chosen: Tensor) -> Iterator[_Rows]:
        yield from map(self.rows, chosen.split(max(1, AT_ONCE // self.count)))


def embed_relations(
    relations: Relations,
    dim: int,
    *,
    start: Float[Tensor, "n dim"] | None = None,
    steps: int = 60,
    lr: float = 0.6,
    temperature: tuple[float, float] = (0.3, 0.05),
    max_radius: float = 24.0,
    rows: int = 2048,
    k: float = -1.0,
    seed: int = 0,
) -> Float[Tensor, "n dim"]:
    """Normal coordinates that rank what is above a thing before all that is not, from a layout by gradient descent.

    The loss of a pair (u, v) is log(1 + sum_w exp((d(u, v) - d(u, w)) / T)) over all w that are neither u nor above it:
    the ranking loss of Nickel and Kiela (2017, equation 6) with every other thing for a negative. For T -> 0 it
    approaches the logarithm of the rank. Pairs weigh 1 over the number of pairs of u, as in mean average precision.

    Args:
        relations: the pairs to rank.
        dim: dimension of the space.
        start: normal coordinates to start from; None is `horocyclic_layout`.
        steps: updates.
        lr: length of the first steps; falls to 0 by a cosine.
        temperature: T at the first and after the last update, geometric between.
        max_radius: no point lies farther out. Float64 distinguishes points to about 30.
        rows: things u in an update; all w are compared.
        k: curvature, below zero; near 0 it is flat space.
        seed: of the layout and of the choice of rows.

    Raises:
        ConfigError: an argument is out of range, or `start` has another shape.
        DataError: the relations have a cycle.
    """
    if not k < 0 or not min(temperature) > 0 or steps < 0 or rows < 1:
        raise ConfigError(
            f"`k` is {k}, `temperature` {temperature}, `steps` {steps}, `rows` {rows}; wanted k < 0, T > 0, "
            "steps >= 0, rows >= 1"
        )
    v = horocyclic_layout(relations, dim, seed=seed) if start is None else start.double().clone()
    if v.shape != (len(relations.names), dim):
        raise ConfigError(f"`start` has shape {tuple(v.shape)}; wanted {(len(relations.names), dim)}")
    pairs, curvature = _Pairs(relations), torch.tensor(k, dtype=torch.float64)
    v.mul_((max_radius / v.norm(dim=1, keepdim=True).clamp_min(1e-9)).clamp_max(1)).requires_grad_()
    optimiser = NormalAdam([v], curvature, lr=lr, max_radius=max_radius, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(seed)
    every = pairs.rows(torch.arange(len(pairs.things))) if len(pairs.things) <= rows else None
    for at in range(steps):
        used = at / steps
        # Five steps of warm-up, since the first second moments are of one gradient.
        optimiser.param_groups[0]["lr"] = lr * min(1, (at + 1) / 5) * (1 + math.cos(math.pi * used)) / 2
        now = temperature[0] * (temperature[1] / temperature[0]) ** used
        batch = every or pairs.rows(torch.randperm(len(pairs.things), generator=generator)[:rows])
        optimiser.zero_grad()
        _ranking_loss(to_ball(v, curvature), batch, now, curvature).backward()
        optimiser.step()
    return v.detach()


def _ranking_loss(x: Tensor, batch: _Rows, temperature: float, k: Tensor) -> Tensor:
    """Mean over things of the mean over their pairs; in float32 from the distances on."""
    near = (pairwise_dist(x[batch.things], x, k) / -temperature).float()
    others = near.masked_fill(batch.hidden, -math.inf).logsumexp(1)
    cost = torch.nn.functional.softplus(others[batch.row] - near[batch.row, batch.target])
    share = torch.bincount(batch.row).float()[batch.row]
    return (cost / share).sum() / len(batch.things)


def reconstruction(
    v: Float[Tensor, "n dim"], relations: Relations, *, k: float = -1.0, judged: int | None = None
) -> dict[str, float]:
    """How well distances give the relations back.

    Args:
        v: normal coordinates.
        relations: what is to be found again.
        k: curvature.
        judged: judge so many things u, drawn with seed 0, against all others; None is every one.

    Returns:
        `mean_rank` over pairs (u, v): 1 and the number of things w, neither u nor above it, with d(u, w) <= d(u, v).
        `map`: mean over things u of the average precision of what is above u in the order of distance. Ties count
        against the relations.
    """
    pairs, curvature = _Pairs(relations), torch.tensor(k, dtype=torch.float64)
    chosen = torch.arange(len(pairs.things))
    if judged is not None:
        chosen = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))[:judged]
    x, ranks, precision = to_ball(v.double(), curvature), list[Tensor](), 0.0
    for batch in pairs.blocks(chosen):
        d = pairwise_dist(x[batch.things], x, curvature)
        own = d.new_full((len(batch.things), int(batch.place.max()) + 1), math.inf)
        own[batch.row, batch.place] = d[batch.row, batch.target]
        own = own.sort(1).values
        before = torch.searchsorted(d.masked_fill(batch.hidden, math.inf).sort(1).values, own, right=True)
        real, at = own.isfinite(), torch.arange(1, own.shape[1] + 1)
        ranks.append((before + 1)[real])
        precision += float(((at / (at + before)) * real).sum(1).div(real.sum(1)).sum())
    return {"map": precision / len(chosen), "mean_rank": float(torch.cat(ranks).double().mean())}
