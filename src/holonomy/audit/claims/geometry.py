"""Claims about the geometric core and the 3-adic tree."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor

from holonomy.audit.claim import Evidence, Figure, Setting, claim, curve
from holonomy.geometry import lorentz, poincare
from holonomy.geometry.euclidean import Euclidean
from holonomy.geometry.lorentz import Lorentz
from holonomy.geometry.manifold import Manifold
from holonomy.geometry.padic import OPERATIONS, spearman_ceiling
from holonomy.geometry.poincare import Poincare
from holonomy.geometry.spd import SPD
from holonomy.geometry.sphere import Sphere
from holonomy.testing import assert_manifold_axioms

SPACES: dict[str, Callable[[float], Manifold]] = {
    "euclidean": lambda k: Euclidean(),
    "poincare": Poincare,
    "lorentz": Lorentz,
    "sphere": lambda k: Sphere(-k),
    "spd": lambda k: SPD(),
}
CURVATURES = (-0.3, -1.0, -4.0)
AXIOM_TOLERANCE = 1e-10


@claim(
    "geometry.axioms",
    statement="Every manifold satisfies the axioms: a metric, exp and log inverse, transport an isometry.",
    source="docs/formulas.md, Manifolds",
)
def axioms(setting: Setting) -> Evidence:
    """The public axiom suite on random points of every manifold at several curvatures, in float64."""
    generator = torch.Generator().manual_seed(setting.seed)
    count, broken, faults = (2_000 if setting.full else 200), 0, []
    for (name, make), k in product(SPACES.items(), CURVATURES):
        manifold = make(k)
        start = manifold.origin(3, dtype=torch.float64).expand(count, -1)
        draws = []
        for _ in range(5):
            v = manifold.project_tangent(start, torch.randn(start.shape, generator=generator, dtype=torch.float64))
            length = 1.4 * torch.rand(count, 1, generator=generator, dtype=torch.float64) / max(1.0, math.sqrt(-k))
            draws.append(v / manifold.norm(start, v)[:, None] * length)
        x, y, z = (manifold.exp(start, v) for v in draws[:3])
        u, v = (manifold.transport(start, x, w) for w in draws[3:])
        try:
            assert_manifold_axioms(manifold, x, y, z, u, v, tolerance=AXIOM_TOLERANCE)
        except AssertionError as fault:
            broken += 1
            faults.append(f"{name}, k = {k}: {fault}")
    return Evidence(
        (
            Figure("manifolds tried", len(SPACES) * len(CURVATURES), ">=", 15),
            Figure("of them break an axiom", broken, "==", 0),
        ),
        detail="; ".join(faults),
    )


@claim(
    "geometry.radius-is-geodesic",
    statement="The length of a tangent vector at the origin is the distance of the point that it leads to.",
    source="docs/formulas.md, Manifolds",
)
def radius_is_geodesic(setting: Setting) -> Evidence:
    """Against the arc length of the ray, by the trapezoid rule over the metric of the ball 2 / (1 - c r^2)."""
    generator = torch.Generator().manual_seed(setting.seed)
    points, worst, lines = 20_001, 0.0, {}
    for k in CURVATURES:
        c = -k
        lengths = torch.linspace(0.05, 5.0 / math.sqrt(c), 30, dtype=torch.float64)
        direction = torch.randn(30, 4, generator=generator, dtype=torch.float64)
        # The metric of the ball at the origin measures every vector twice as long as its coordinates say.
        v = direction / direction.norm(dim=-1, keepdim=True) * lengths[:, None] / 2
        x = Poincare(k).exp0(v)
        ends = x.norm(dim=-1).numpy()
        arcs = []
        for end in ends:
            # Steps that shrink towards the boundary, where the metric grows without bound.
            r = np.tanh(np.linspace(0.0, np.arctanh(end * math.sqrt(c)), points)) / math.sqrt(c)
            middle = (r[1:] + r[:-1]) / 2
            arcs.append(float((2 / (1 - c * middle**2) * np.diff(r)).sum()))
        worst = max(worst, float(((torch.tensor(arcs) - lengths).abs() / lengths).max()))
        measured = Poincare(k).dist0(x)
        worst = max(worst, float(((measured - lengths).abs() / lengths).max()))
        lines[f"k = {k}"] = list(zip(lengths.tolist(), arcs, strict=True))
    picture = curve("arc length of the ray to exp0(v)", "length of v", "arc length", lines)
    return Evidence((Figure("worst relative difference", worst, "<=", 1e-6),), (picture,))


@claim(
    "geometry.curvature-learns",
    statement="The curvature receives its true derivative through distances and exponential maps.",
    source="README.md, docs/ternary.md",
)
def curvature_learns(setting: Setting) -> Evidence:
    """Automatic derivatives against central differences, and a curvature found again from distances alone."""
    generator = torch.Generator().manual_seed(setting.seed)
    x, y = 0.4 * torch.rand(2, 64, 3, generator=generator, dtype=torch.float64)
    step, worst = 1e-6, 0.0
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "ball dist": lambda k: poincare.dist(x, y, k).sum(),
        "ball exp0": lambda k: poincare.exp0(x, k)[:, 0].sum(),
        "sheet dist": lambda k: lorentz.dist(lorentz.from_ball(x, k), lorentz.from_ball(y, k), k).sum(),
    }
    for function in functions.values():
        k = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
        (found,) = torch.autograd.grad(function(k), k)
        wanted = (function(k.detach() + step) - function(k.detach() - step)) / (2 * step)
        worst = max(worst, float(((found - wanted) / wanted).abs()))
    k = torch.nn.Parameter(torch.tensor(-0.3, dtype=torch.float64))
    target = poincare.dist(x, y, torch.tensor(-1.0, dtype=torch.float64))
    optimiser = torch.optim.Adam([k], lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        (poincare.dist(x, y, k) - target).square().mean().backward()
        optimiser.step()
    off = abs(float(k.detach()) + 1)
    return Evidence(
        (
            Figure("worst relative difference from central differences", worst, "<=", 1e-6),
            Figure("distance of the learnt curvature from -1", off, "<=", 0.02),
        )
    )


@claim(
    "geometry.hierarchy-ceiling",
    statement="No ordering of the 19,683 operations can have a hierarchy figure beyond -0.8320: ties bound it.",
    source="docs/ternary.md",
)
def hierarchy_ceiling(setting: Setting) -> Evidence:
    """Counts valuations by dividing, and takes Spearman's correlation of the best ordering from its ranks."""
    valuations = []
    for n in range(3**9):
        v, m = 0, n
        while v < 9 and m % 3 == 0:
            v, m = v + 1, m // 3
        valuations.append(v)
    found = OPERATIONS.valuation(torch.arange(3**9)).tolist()
    differing = sum(a != b for a, b in zip(found, valuations, strict=True))
    # The best ordering sorts by valuation; its own ranks have no ties, those of the valuations are means.
    ordered = np.sort(np.array(valuations))
    _, first, counts = np.unique(ordered, return_index=True, return_counts=True)
    mean_ranks = np.repeat(first + (counts - 1) / 2, counts)
    best = float(np.corrcoef(np.arange(3**9), mean_ranks)[0, 1])
    stated = spearman_ceiling(OPERATIONS.level_counts())
    return Evidence(
        (
            Figure("valuations that differ from those by division", differing, "==", 0),
            Figure("difference of the ceiling from that by enumeration", abs(best - stated), "<=", 1e-9),
            Figure("difference of the ceiling from 0.8320", abs(best - 0.8320), "<=", 1e-4),
        ),
        detail=f"the best ordering reaches {best:.6f}",
    )
