"""Cl(3,1) in matrix form against the coefficients, and the diagnostics against what they must be by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.geometry import minkowski
from holonomy.geometry.clifford import Algebra, conjugate, exp_bivector, geometric, grade, plain_product, reverse
from holonomy.geometry.minkowski import (
    SPACETIME,
    grade_filter,
    matrix_of,
    multivector_of,
    stability,
    vorticity,
    witness,
)
from holonomy.geometry.rotation import haar_pairs, pair_matrix

TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-14}


def multivectors(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_blades_are_orthogonal() -> None:
    blades = minkowski.blade_matrices(torch.float64, torch.device("cpu"))
    assert torch.equal(torch.einsum("aij,bij->ab", blades, blades), 4 * torch.eye(16, dtype=torch.float64))


def test_the_matrix_of_a_product_is_the_product_of_matrices(dtype: torch.dtype) -> None:
    a, b = multivectors(50, 1, dtype), multivectors(50, 2, dtype)
    found = multivector_of(matrix_of(a) @ matrix_of(b))
    assert (found - plain_product(SPACETIME, a, b)).abs().max() <= 16 * TOLERANCE[dtype]
    assert (multivector_of(matrix_of(a)) - a).abs().max() <= TOLERANCE[dtype]
    assert (matrix_of(a).square().sum((-2, -1)) / 4 - a.square().sum(-1)).abs().max() <= 16 * TOLERANCE[dtype]


def test_involutions_in_matrix_form() -> None:
    a = multivectors(20, 3)
    assert torch.allclose(multivector_of(minkowski.reverse_matrix(matrix_of(a))), reverse(SPACETIME, a), atol=1e-14)
    assert torch.allclose(multivector_of(minkowski.conjugate_matrix(matrix_of(a))), conjugate(SPACETIME, a), atol=1e-14)


def test_compiled_matrix_product_and_derivatives(dtype: torch.dtype) -> None:
    found = []
    for many in (True, False):
        a, b = (matrix_of(multivectors(5000, s, dtype)).requires_grad_() for s in (4, 5))
        product = minkowski.matrix_product(a, b) if many else a @ b
        weight = torch.linspace(-1, 1, product.numel(), dtype=dtype).view_as(product)
        found.append([product.detach(), *torch.autograd.grad((product * weight).sum(), (a, b))])
    for mine, wanted in zip(*found, strict=True):
        assert (mine - wanted).abs().max() <= 64 * TOLERANCE[dtype]
    assert not minkowski.suits_products(a[:10].flatten(-2), b[:10].flatten(-2))
    assert torch.equal(minkowski.matrix_product(a[:10], b[:10]), a[:10] @ b[:10])


def test_second_derivatives_of_the_compiled_matrix_product() -> None:
    a, b = (matrix_of(multivectors(4096, s)).requires_grad_() for s in (6, 7))
    (slope,) = torch.autograd.grad(minkowski.matrix_product(a, b).square().sum() / 2, a, create_graph=True)
    found = torch.autograd.grad(slope.square().sum(), b)[0]
    (plain,) = torch.autograd.grad((a @ b).square().sum() / 2, a, create_graph=True)
    assert torch.allclose(found, torch.autograd.grad(plain.square().sum(), b)[0], rtol=1e-12)


def test_steps_of_the_filter_are_powers_and_can_be_undone() -> None:
    a = multivectors(10, 8)
    thrice = grade_filter(SPACETIME, grade_filter(SPACETIME, grade_filter(SPACETIME, a)))
    assert torch.allclose(thrice, grade_filter(SPACETIME, a, steps=3.0), rtol=1e-12)
    assert torch.allclose(grade_filter(SPACETIME, thrice, steps=-3.0), a, rtol=1e-12)
    limit = grade_filter(SPACETIME, a, steps=200.0)
    assert torch.allclose(limit, grade(SPACETIME, a, 0), atol=1e-30)
    phi = (1 + 5**0.5) / 2
    vector = SPACETIME.vector(torch.ones(4, dtype=torch.float64))
    assert torch.allclose(grade_filter(SPACETIME, vector), vector / phi)


def test_stability_of_noise_and_of_the_identity() -> None:
    a = torch.zeros(2, 16, dtype=torch.float64)
    a[1, 0], a[1, -1] = 3.0, -4.0
    assert stability(a).tolist() == [0.0, 1.0]
    assert witness(a)[1].tolist() == [3.0, -4.0]
    rotations = pair_matrix(*haar_pairs(20_000, generator=torch.Generator().manual_seed(0)))
    assert abs(float(stability(multivector_of(rotations)).mean()) - 0.125) < 0.01


def test_the_witness_does_not_see_rotations_of_space() -> None:
    b = grade(SPACETIME, multivectors(10, 9), 2)
    rotor, a = exp_bivector(SPACETIME, 0.3 * b), multivectors(10, 10)
    turned = geometric(SPACETIME, geometric(SPACETIME, rotor, a), reverse(SPACETIME, rotor))
    assert torch.allclose(witness(turned), witness(a), atol=1e-12)


def test_vorticity_of_pairs_that_commute_and_anticommute() -> None:
    e = torch.eye(16, dtype=torch.float64)
    assert float(vorticity(SPACETIME, e[1], e[2])) == 1
    assert float(vorticity(SPACETIME, e[0b0011], e[0b1100])) == 0
    assert float(vorticity(SPACETIME, 0 * e[1], e[2])) == 0
    # For unit vectors at angle t the products are cos t +- sin t e01: |sin t|.
    t = torch.tensor(0.4, dtype=torch.float64)
    plane = SPACETIME.vector(torch.stack([t.cos(), t.sin(), 0 * t, 0 * t]))
    assert abs(float(vorticity(SPACETIME, e[1], plane)) - float(t.sin())) < 1e-15


def test_wrong_scales_are_refused() -> None:
    with pytest.raises(ConfigError, match="`scales`.*4 numbers"):
        grade_filter(Algebra(3), torch.zeros(8))
    with pytest.raises(ConfigError, match="above zero"):
        grade_filter(SPACETIME, torch.zeros(16), (1.0, 1.0, 0.0, 1.0, 1.0))
