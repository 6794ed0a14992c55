"""Clifford algebras against anticommuting matrices, axioms and known groups."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.geometry import clifford as cl
from holonomy.geometry.clifford import Algebra
from holonomy.geometry.products import suits_products

SIGNATURES = [
    (1, 0, 0),
    (0, 1, 0),
    (2, 0, 0),
    (3, 0, 0),
    (0, 2, 0),
    (3, 1, 0),
    (1, 3, 0),
    (2, 2, 1),
    (3, 0, 1),
    (4, 1, 1),
]
signatures = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 2)).filter(lambda s: 1 <= sum(s) <= 6)


def multivectors(algebra: Algebra, count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, algebra.size, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def gammas(algebra: Algebra) -> list[Tensor]:
    """Second road: anticommuting complex matrices by Jordan and Wigner, scaled to the right squares; no null ones."""
    x, y, z = (
        torch.tensor(m, dtype=torch.complex128) for m in ([[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]])
    )
    found = []
    for i in range(algebra.dim):
        matrix = torch.ones(1, 1, dtype=torch.complex128)
        for site in range((algebra.dim + 1) // 2):
            here = z if site < i // 2 else (torch.eye(2, dtype=torch.complex128) if site > i // 2 else (x, y)[i % 2])
            matrix = torch.kron(matrix, here)
        found.append(matrix if algebra.squares[i] == 1 else 1j * matrix)
    return found


def as_matrix(algebra: Algebra, a: Tensor) -> Tensor:
    basis = gammas(algebra)
    total = torch.zeros(*a.shape[:-1], *basis[0].shape, dtype=torch.complex128)
    for blade in range(algebra.size):
        matrix = torch.eye(basis[0].shape[0], dtype=torch.complex128)
        for i in range(algebra.dim):
            if blade >> i & 1:
                matrix = matrix @ basis[i]
        total = total + a[..., blade, None, None] * matrix
    return total


@pytest.mark.parametrize("signature", [s for s in SIGNATURES if s[2] == 0])
def test_the_product_is_that_of_matrices(signature: tuple[int, int, int], dtype: torch.dtype) -> None:
    algebra = Algebra(*signature)
    a, b = multivectors(algebra, 2, dtype)
    found = as_matrix(algebra, cl.geometric(algebra, a, b).double())
    expected = as_matrix(algebra, a.double()) @ as_matrix(algebra, b.double())
    assert (found - expected).abs().max() < {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]


@given(signatures, st.integers(0, 1000))
def test_associative_distributive_and_unital(signature: tuple[int, int, int], seed: int) -> None:
    algebra = Algebra(*signature)
    a, b, c = multivectors(algebra, 3, seed=seed)
    one = algebra.scalar(torch.ones(5, dtype=torch.float64))
    mul = partial(cl.geometric, algebra)
    scale = algebra.size
    assert (mul(mul(a, b), c) - mul(a, mul(b, c))).abs().max() < 1e-12 * scale
    assert (mul(a, b + c) - mul(a, b) - mul(a, c)).abs().max() < 1e-12 * scale
    assert torch.equal(mul(one, a), a)
    assert torch.equal(mul(a, one), a)
    assert (
        cl.reverse(algebra, mul(a, b)) - mul(cl.reverse(algebra, b), cl.reverse(algebra, a))
    ).abs().max() < 1e-12 * scale
    assert (
        cl.involution(algebra, mul(a, b)) - mul(cl.involution(algebra, a), cl.involution(algebra, b))
    ).abs().max() < 1e-12 * scale
    assert torch.equal(cl.conjugate(algebra, a), cl.reverse(algebra, cl.involution(algebra, a)))


@given(signatures)
def test_basis_vectors_anticommute_and_square(signature: tuple[int, int, int]) -> None:
    algebra = Algebra(*signature)
    basis = algebra.vector(torch.eye(algebra.dim, dtype=torch.float64))
    for i, j in itertools.product(range(algebra.dim), repeat=2):
        both = cl.geometric(algebra, basis[i], basis[j]) + cl.geometric(algebra, basis[j], basis[i])
        expected = torch.zeros(algebra.size, dtype=torch.float64)
        expected[0] = 2 * algebra.squares[i] if i == j else 0
        assert torch.equal(both, expected)


@given(signatures, st.integers(0, 1000))
def test_products_of_grades(signature: tuple[int, int, int], seed: int) -> None:
    algebra = Algebra(*signature)
    a, b, c = multivectors(algebra, 3, seed=seed)
    for g, h in itertools.product(range(algebra.dim + 1), repeat=2):
        ag, bh = cl.grade(algebra, a, g), cl.grade(algebra, b, h)
        whole = cl.geometric(algebra, ag, bh)
        for product, part in (
            (cl.wedge, g + h),
            (cl.left_contraction, h - g),
            (cl.right_contraction, g - h),
            (cl.inner, abs(g - h) if g * h else -1),
        ):
            wanted = cl.grade(algebra, whole, part) if 0 <= part <= algebra.dim else torch.zeros_like(whole)
            assert (product(algebra, ag, bh) - wanted).abs().max() < 1e-12
    wedge = partial(cl.wedge, algebra)
    assert (wedge(wedge(a, b), c) - wedge(a, wedge(b, c))).abs().max() < 1e-12 * algebra.size
    vector = cl.grade(algebra, a, 1)
    split = cl.left_contraction(algebra, vector, b) + cl.wedge(algebra, vector, b)
    assert (split - cl.geometric(algebra, vector, b)).abs().max() < 1e-12


@pytest.mark.parametrize("signature", [(3, 1, 0), (3, 0, 0), (2, 1, 1)])
def test_compiled_products_equal_the_plain_twin(signature: tuple[int, int, int], dtype: torch.dtype) -> None:
    algebra, generator = Algebra(*signature), torch.Generator().manual_seed(0)
    a, b, g = (torch.randn(70, 80, algebra.size, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))
    assert suits_products(a, b)
    assert not suits_products(a[:2], b[:2])
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-13}[dtype]
    for kind, product in (("geometric", cl.geometric), ("wedge", cl.wedge), ("left", cl.left_contraction)):
        found = []
        for function in (product, lambda _, x, y, kind=kind: cl.plain_product(algebra, x, y, kind)):
            x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
            result = function(algebra, x, y)
            result.backward(g)
            found.append((result.detach(), x.grad, y.grad))
        for mine, plain in zip(*found, strict=True):
            assert (mine - plain).abs().max() < tolerance  # type: ignore[operator]


def test_second_derivatives_of_compiled_products() -> None:
    algebra, generator = Algebra(2), torch.Generator().manual_seed(0)
    a, b = (torch.randn(5000, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    found = []
    for function in (cl.geometric, cl.plain_product):
        (slope,) = torch.autograd.grad(function(algebra, a, b).square().sum(), a, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), (a, b)))
    for mine, plain in zip(*found, strict=True):
        assert torch.allclose(mine, plain, rtol=1e-10)


def test_left_matrix_multiplies() -> None:
    algebra = Algebra(3, 1)
    a, b = multivectors(algebra, 2)
    by_matrix = (cl.left_matrix(algebra, a) @ b.unsqueeze(-1)).squeeze(-1)
    assert (by_matrix - cl.geometric(algebra, a, b)).abs().max() < 1e-13


@pytest.mark.parametrize(
    "signature", [(2, 0, 0), (3, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 0), (1, 3, 0), (4, 0, 0), (3, 0, 1)]
)
def test_exponential_of_bivectors(signature: tuple[int, int, int], dtype: torch.dtype) -> None:
    algebra = Algebra(*signature)
    (a,) = multivectors(algebra, 1, torch.float64)
    b = cl.grade(algebra, a, 2)
    # Second road: the matrix exponential of multiplication from the left, applied to 1.
    expected = torch.linalg.matrix_exp(cl.left_matrix(algebra, b))[..., :, 0]
    found = cl.exp_bivector(algebra, b.to(dtype)).double()
    assert (found - expected).abs().max() < {torch.float32: 2e-4, torch.float64: 1e-11}[dtype]
    rotor = cl.exp_bivector(algebra, b)
    one = algebra.scalar(torch.ones(5, dtype=torch.float64))
    assert (cl.geometric(algebra, rotor, cl.reverse(algebra, rotor)) - one).abs().max() < 1e-10


def test_rotor_of_a_plane_turns_by_twice_its_angle() -> None:
    algebra = Algebra(3)
    plane = torch.zeros(8, dtype=torch.float64)
    plane[0b011] = -0.35
    turned = cl.sandwich(algebra, cl.exp_bivector(algebra, plane), algebra.vector(torch.eye(3, dtype=torch.float64)[0]))
    expected = torch.tensor([math.cos(0.7), math.sin(0.7), 0.0], dtype=torch.float64)
    assert (turned - algebra.vector(expected)).abs().max() < 1e-15


@pytest.mark.parametrize("signature", [(3, 0, 0), (3, 1, 0), (1, 2, 0)])
def test_versors_act_by_isometries(signature: tuple[int, int, int]) -> None:
    algebra = Algebra(*signature)
    generator = torch.Generator().manual_seed(1)
    u, v, w = (torch.randn(5, algebra.dim, generator=generator, dtype=torch.float64) + 2 for _ in range(3))
    metric = torch.diag(torch.tensor(algebra.squares, dtype=torch.float64))
    for versor in (algebra.vector(u), cl.geometric(algebra, algebra.vector(u), algebra.vector(v))):
        moved = cl.sandwich(algebra, versor, algebra.vector(w))
        assert (moved - cl.grade(algebra, moved, 1)).abs().max() < 1e-10
        before = cl.scalar_product(algebra, algebra.vector(w), algebra.vector(w))
        assert torch.allclose(cl.scalar_product(algebra, moved, moved), before, rtol=1e-9)
    # A vector reflects: w - 2 (w.u) / (u.u) u.
    along = ((w @ metric) * u).sum(-1, keepdim=True) / ((u @ metric) * u).sum(-1, keepdim=True)
    assert torch.allclose(cl.sandwich(algebra, algebra.vector(u), algebra.vector(w)), algebra.vector(w - 2 * along * u))
    rotor = cl.geometric(algebra, algebra.vector(u), algebra.vector(v))
    a, b = multivectors(algebra, 2)
    turn = partial(cl.sandwich, algebra, rotor)
    assert torch.allclose(
        turn(cl.geometric(algebra, a, b)), cl.geometric(algebra, turn(a), turn(b)), rtol=1e-8, atol=1e-8
    )


def test_dual_of_the_cross_product() -> None:
    algebra = Algebra(3)
    u, v = (torch.randn(4, 3, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (1, 2))
    wedge = cl.wedge(algebra, algebra.vector(u), algebra.vector(v))
    assert (cl.dual(algebra, wedge) - algebra.vector(torch.linalg.cross(u, v))).abs().max() < 1e-14
    top = torch.zeros(8, dtype=torch.float64)
    top[-1] = 1
    assert torch.equal(
        cl.geometric(algebra, cl.dual(algebra, top), top),
        cl.geometric(algebra, top, algebra.scalar(torch.tensor(1.0).double())),
    )


def test_gradients_by_finite_differences() -> None:
    algebra = Algebra(2, 1)
    a, b = (m.requires_grad_() for m in multivectors(algebra, 2))
    assert torch.autograd.gradcheck(lambda x, y: cl.geometric(algebra, x, y), (a, b))
    bivector = cl.grade(algebra, a.detach(), 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cl.exp_bivector(algebra, cl.grade(algebra, x, 2)), (bivector,))
    zero = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    cl.exp_bivector(algebra, zero).sum().backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()


def test_values_names_and_refusals() -> None:
    assert Algebra(3, 1) == Algebra(3, 1, 0)
    assert str(Algebra(3, 1)) == "Cl(3,1)"
    assert str(Algebra(3, 0, 1)) == "Cl(3,0,1)"
    assert [Algebra(2).name(b) for b in range(4)] == ["1", "e0", "e1", "e01"]
    for act, words in (
        (lambda: Algebra(0), "wanted 1 to 6"),
        (lambda: Algebra(-1, 2), "negative"),
        (lambda: Algebra(5, 2), "7 basis vectors"),
        (lambda: cl.geometric(Algebra(2), torch.zeros(8), torch.zeros(8)), "`a` has 8 coefficients"),
        (lambda: cl.wedge(Algebra(2), torch.zeros(4), torch.zeros(4).double()), "float64"),
        (lambda: cl.grade(Algebra(2), torch.zeros(4), 3), "grades 0 to 2"),
        (lambda: Algebra(2).vector(torch.zeros(3)), "wants 2"),
        (lambda: cl.dual(Algebra(2, 0, 1), torch.zeros(8)), "singular"),
    ):
        with pytest.raises(ConfigError, match=words):
            act()


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverses_of_mixed_multivectors(signature: tuple[int, int, int], dtype: torch.dtype) -> None:
    """From both sides, and as numpy inverts the matrix of the product, made column by column."""
    algebra = Algebra(*signature)
    (a,) = multivectors(algebra, 1, dtype)
    # A scalar that outweighs the rest keeps matrices far from singular; all grades are there.
    a = a / a.norm(dim=1, keepdim=True) / 2
    a[:, 0] += 1.0
    x, close = cl.inverse(algebra, a), 1e-5 if dtype == torch.float32 else 1e-12
    one = algebra.scalar(torch.ones(len(a), dtype=dtype))
    assert torch.allclose(cl.plain_product(algebra, a, x), one, atol=close)
    assert torch.allclose(cl.plain_product(algebra, x, a), one, atol=close)
    blades = torch.eye(algebra.size, dtype=torch.float64)
    for own, found in zip(a.double(), x.double(), strict=True):
        columns = torch.stack([cl.plain_product(algebra, own, blade) for blade in blades], 1)
        assert np.allclose(np.linalg.inv(columns.numpy())[:, 0], found.numpy(), atol=100 * close)


def test_the_inverse_of_a_versor_is_its_reverse_over_a_number() -> None:
    algebra = Algebra(3, 1)
    u, v = (algebra.vector(torch.randn(4, dtype=torch.float64)) for _ in range(2))
    versor = cl.geometric(algebra, u, v)
    back = cl.reverse(algebra, versor)
    assert torch.allclose(cl.inverse(algebra, versor), back / cl.geometric(algebra, versor, back)[0], atol=1e-10)


def test_the_inverse_has_derivatives() -> None:
    algebra = Algebra(2, 1)
    a = (0.2 * torch.arange(8, dtype=torch.float64) + 1).requires_grad_()
    assert torch.autograd.gradcheck(partial(cl.inverse, algebra), (a,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_has_no_inverse_is_refused(dtype: torch.dtype) -> None:
    """Null vectors, exact or rounded, zero, one plus a blade that squares to one, and what has a null factor."""
    space = Algebra(3, 1)
    null = torch.tensor([[3.0, 4.0, 0.0, 5.0], [0.6, 0.8, 0.0, 1.0], [0.48, 0.64, 0.6, 1.0]], dtype=dtype)
    idempotent = torch.zeros(1, space.size, dtype=dtype)
    idempotent[0, 0] = idempotent[0, 1] = 0.5
    sound = space.vector(torch.tensor([[1.0, 2.0, 0.0, 0.5]], dtype=dtype))
    (mixed,) = multivectors(space, 1, dtype)
    bad = [*space.vector(null), *idempotent, *torch.zeros(1, space.size, dtype=dtype)]
    bad += [*cl.plain_product(space, space.vector(null[:1]), mixed)]
    for a in bad:
        with pytest.raises(ConfigError, match=r"`a` has no inverse in Cl\(3,1\) at \[1\] \(1 of 2\)"):
            cl.inverse(space, torch.stack([sound[0], a]))
    degenerate = Algebra(2, 0, 1)
    with pytest.raises(ConfigError, match=r"Cl\(2,0,1\)"):
        cl.inverse(degenerate, degenerate.vector(torch.tensor([0.0, 0.0, 1.0], dtype=dtype)))
    with pytest.raises(ConfigError, match="wants 16"):
        cl.inverse(space, torch.ones(8, dtype=dtype))
