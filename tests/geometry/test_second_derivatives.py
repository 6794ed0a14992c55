"""Derivatives that are differentiated again: compiled operations and plain twins where inputs hang together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from holonomy.geometry import lorentz, poincare
from holonomy.geometry.clifford import Algebra, geometric, plain_product

COUNT = 5000
ALGEBRA = Algebra(3, 0, 0)

Function = Callable[[Tensor, Tensor, Tensor], Tensor]
OPERATIONS: dict[str, tuple[Function, Function]] = {
    "dist": (poincare.dist, poincare.plain_dist),
    "mobius_add": (poincare.mobius_add, poincare.plain_mobius_add),
    "sheet_dist": (lorentz.dist, lorentz.plain_sheet_dist),
    "pairwise": (poincare.pairwise_dist, poincare.plain_pairwise_dist),
    "product": (lambda a, b, k: k * geometric(ALGEBRA, a, b), lambda a, b, k: k * plain_product(ALGEBRA, a, b)),
}


def inputs(name: str, x: Tensor, k: Tensor) -> Tensor:
    """Points of the operation, made of coordinates and the curvature."""
    if name == "sheet_dist":
        return lorentz.from_normal(x, k)
    return x if name == "product" else poincare.plain_exp0(x, k)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("second", ["the same", "made of the first", "another"])
def test_inputs_that_hang_together_are_counted_once(name: str, second: str) -> None:
    generator = torch.Generator().manual_seed(0)
    count, width = (70 if name == "pairwise" else COUNT), (8 if name == "product" else 3)
    start, other = 0.2 * torch.randn(2, count, width, generator=generator, dtype=torch.float64)
    found = []
    for function in OPERATIONS[name]:
        v, k = start.clone().requires_grad_(), torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
        x = inputs(name, v, k)
        y = {"the same": x, "made of the first": inputs(name, v * 0.5 + other, k), "another": inputs(name, other, k)}[
            second
        ]
        if name in ("dist", "sheet_dist", "pairwise") and second == "the same":
            # Where points meet there is no second derivative of a distance.
            y = x.flip(0)
        value = function(x, y, k)
        first = torch.autograd.grad(value.sin().sum(), (v, k), create_graph=True)
        again = torch.autograd.grad(sum(g.square().sum() for g in first), (v, k))
        found.append([g.detach() for g in (*first, *again)])
    for mine, wanted in zip(*found, strict=True):
        assert float((mine - wanted).abs().max()) <= 1e-9 * float(1 + wanted.abs().max())
