"""A mean of points on a curved space, in two ways, and a test that the space is what it says.

    python examples/mean_on_a_manifold.py [--steps 200]

The space is a product of a hyperbolic ball and a sphere. Its mean minimises the squared distances: once by the
fixed-point iteration of `midpoint`, once by Riemannian Adam on a parameter that never leaves the space.
"""

from __future__ import annotations

import argparse

import torch

from holonomy.geometry import Poincare, Product, Sphere
from holonomy.optim.riemannian import RiemannianAdam
from holonomy.testing import assert_manifold_axioms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    generator = torch.Generator().manual_seed(0)
    # Curvature -1 in three dimensions, and a sphere of radius 1 in three coordinates.
    space = Product([(Poincare(-1.0), 3), (Sphere(1.0), 3)])
    points = space.random(30, dim=5, std=0.4, generator=generator)
    x, y, z = points.view(3, 10, 6)
    u, v = torch.randn(2, 10, 6, generator=generator, dtype=torch.float64)
    assert_manifold_axioms(space, x, y, z, u, v, tolerance=1e-9)
    print("the axioms of a manifold hold to 1e-9")

    mean = points[0].clone().requires_grad_()
    optimiser = RiemannianAdam([mean], space, lr=0.05)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        optimiser.zero_grad()
        space.dist(mean.expand_as(points), points).square().mean().backward()
        optimiser.step()
    settled = space.midpoint(points)
    print(f"mean by descent and by iteration are {float(space.dist(mean.detach(), settled)):.1e} apart")


if __name__ == "__main__":
    main()
