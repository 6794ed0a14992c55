"""Which coordinates of hyperbolic space hold which distances in float32?

    python examples/hyperbolic_charts.py

Pairs at one distance from the origin, far apart or next to each other, are measured in three charts. A formula is
judged by itself in float64 at the same rounded points, and rounding by the distance of the points as they were.
"""

from __future__ import annotations

import torch
from torch import Tensor

from holonomy.geometry import Lorentz, Poincare, lorentz, normal

RADII = (1.0, 4.0, 8.0, 12.0)
K = torch.tensor(-1.0, dtype=torch.float64)


def pairs(radius: float, apart: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Normal coordinates of 256 pairs at `radius`, whose directions differ by about `apart`."""
    e = torch.randn(256, 4, generator=generator, dtype=torch.float64)
    f = e / e.norm(dim=-1, keepdim=True) + apart * torch.randn(256, 4, generator=generator, dtype=torch.float64)
    return radius * e / e.norm(dim=-1, keepdim=True), radius * f / f.norm(dim=-1, keepdim=True)


def error(found: Tensor, wanted: Tensor) -> float:
    """Largest relative error."""
    return float(((found - wanted) / wanted).abs().max())


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    print("largest relative error of a distance in float32: what the formula loses / what rounding the points loses")
    print(f"{'radius':>6} {'pairs':>5}" + "".join(f"{name:>18}" for name in ("normal", "hyperboloid", "ball")))
    for radius in RADII:
        for name, apart in (("far", 1.0), ("near", 1e-3)):
            u, v = pairs(radius, apart, generator)
            exact = normal.dist(u, v, K)
            row = []
            for chart, dist in (
                (lambda p: p, lambda x, y: normal.dist(x, y, K.to(x.dtype))),
                (lambda p: lorentz.from_normal(p, K), Lorentz().dist),
                (lambda p: normal.to_ball(p, K), Poincare().dist),
            ):
                x, y = chart(u).float(), chart(v).float()
                rounded = dist(x.double(), y.double())
                row.append(f"{error(dist(x, y), rounded):8.0e} /{error(rounded, exact):8.0e}")
            print(f"{radius:6g} {name:>5}" + "".join(row))


if __name__ == "__main__":
    main()
