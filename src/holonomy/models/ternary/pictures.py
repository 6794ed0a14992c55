"""What a ternary embedding looks like: points in a disk, and radii against valuations."""

from __future__ import annotations

import torch
from torch import Tensor

from holonomy.core.numerics import GOLDEN
from holonomy.core.picture import Axis, Picture, Series
from holonomy.geometry import normal
from holonomy.models.ternary.model import TernaryVAE

MOST = 1500
"""Operations of one level that a picture shows."""


def principal_plane(u: Tensor, k: Tensor) -> Tensor:
    """Ball coordinates [N, 2] that keep each point's radius, in the direction of its two main components.

    Flat space (k = 0) has no ball: there they are normal coordinates.
    """
    e = u / u.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)
    _, _, axes = torch.linalg.svd(e - e.mean(0), full_matrices=False)
    flat = e @ axes[:2].T
    turned = flat / flat.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)
    plane = turned * u.norm(dim=-1, keepdim=True)
    return plane if float(k) == 0 else normal.to_ball(plane, k)


def _chosen(levels: Tensor) -> Tensor:
    """Operations that are shown, in order of their level: all of a small one, as many by lot of a large one."""
    generator, parts = torch.Generator().manual_seed(0), []
    for level in range(int(levels.max()) + 1):
        members = (levels == level).nonzero().squeeze(1)
        lot = torch.randperm(len(members), generator=generator)[:MOST]
        parts.append(members[lot].sort().values)
    return torch.cat(parts)


@torch.no_grad()
def ternary_pictures(vae: TernaryVAE) -> list[Picture]:
    """The embedding in two directions coloured by valuation, and its radii against the valuations."""
    space = vae.space
    levels = space.levels.cpu().long()
    chosen = _chosen(levels)
    u, k = vae.embed(chosen.to(space.index.device)).double().cpu(), vae.k.double().cpu()
    plane, rho, level = principal_plane(u, k), u.norm(dim=-1), levels[chosen]
    flat = float(k) == 0
    words = f"{len(chosen):,} of {space.size:,} operations: {MOST:,} drawn by lot of each valuation that has more."
    disk, radii, rows = [], [], []
    for v in range(int(levels.max()) + 1):
        here = level == v
        # Steps of this part of a turn spread points evenly, however many there are.
        spread = v + 0.7 * ((torch.arange(int(here.sum())).double() * GOLDEN + 0.5) % 1 - 0.5)
        disk.append(Series(f"valuation {v}", plane[here, 0].tolist(), plane[here, 1].tolist()))
        radii.append(Series(f"valuation {v}", spread.tolist(), rho[here].tolist()))
        r = rho[here]
        rows.append([v, int((levels == v).sum()), len(r), float(r.min()), float(r.mean()), float(r.max())])
    header = ["valuation", "operations", "shown", "smallest radius", "mean radius", "largest radius"]
    main = "the direction is that of the two main components, the radius is kept"
    return [
        Picture(
            "Plane of the embedding" if flat else "Poincare disk of the embedding",
            f"Each point is an operation; {main}. {words}",
            Axis("first main direction"),
            Axis("second main direction"),
            disk,
            mark="point",
            ordered=True,
            square=True,
            circle=None if flat else float((-k).rsqrt()),
            table=(header, rows),
        ),
        Picture(
            "Radius against valuation",
            f"Deep operations belong near the centre: each column is a valuation, its points spread sideways. {words}",
            Axis(f"{space.base}-adic valuation"),
            Axis("geodesic radius"),
            radii,
            mark="point",
            ordered=True,
            table=(header, rows),
        ),
    ]
