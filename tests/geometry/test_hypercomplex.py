"""Quaternions, biquaternions and octonions against their axioms and against matrices."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from holonomy.geometry import hypercomplex as hc
from holonomy.geometry.clifford import Algebra, geometric

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-12}


def drawn(width: int, dtype: torch.dtype, count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(width)
    return [torch.randn(20, width, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= TOLERANCE[a.dtype])


def test_quaternions(dtype: torch.dtype) -> None:
    a, b, c, _ = drawn(4, dtype)
    mul = hc.quaternion_product
    assert close(mul(mul(a, b), c), mul(a, mul(b, c)))
    assert close((hc.quaternion_left(a) @ b.unsqueeze(-1)).squeeze(-1), mul(a, b))
    assert close(mul(a, b).norm(dim=-1), a.norm(dim=-1) * b.norm(dim=-1))
    assert close(hc.conjugate_quaternion(mul(a, b)), mul(hc.conjugate_quaternion(b), hc.conjugate_quaternion(a)))
    one, i, j, k = torch.eye(4, dtype=dtype)
    assert torch.equal(mul(i, j), k)
    assert torch.equal(mul(mul(i, j), k), -one)


def test_quaternions_are_the_even_part_of_three_dimensions(dtype: torch.dtype) -> None:
    a, b, *_ = drawn(4, dtype)
    algebra = Algebra(3)

    def lift(q: Tensor) -> Tensor:
        """i = -e12, j = -e02 up to sign, k = -e01: planes turned against the axes."""
        w, x, y, z = q.unbind(-1)
        zero = torch.zeros_like(w)
        return torch.stack([w, zero, zero, -z, zero, y, -x, zero], -1)

    assert close(geometric(algebra, lift(a), lift(b)), lift(hc.quaternion_product(a, b)))


def test_biquaternions(dtype: torch.dtype) -> None:
    a, b, c, _ = drawn(8, dtype)
    mul = hc.biquaternion_product
    assert close(mul(mul(a, b), c), mul(a, mul(b, c)))
    assert close((hc.biquaternion_left(a) @ b.unsqueeze(-1)).squeeze(-1), mul(a, b))
    assert torch.equal(hc.biquaternion_left(hc.adjoint_biquaternion(a)), hc.biquaternion_left(a).mT)


def test_octonions(dtype: torch.dtype) -> None:
    a, b, c, d = drawn(8, dtype)
    mul = hc.octonion_product
    assert close(mul(a, b).norm(dim=-1), a.norm(dim=-1) * b.norm(dim=-1))
    assert close(mul(a, mul(a, b)), mul(mul(a, a), b))
    assert close(mul(mul(b, a), a), mul(b, mul(a, a)))
    # Moufang: a (b (a c)) = (a b a) c.
    assert (mul(a, mul(b, mul(a, c))) - mul(mul(mul(a, b), a), c)).abs().max() < 10 * TOLERANCE[dtype] * 10
    assert close(hc.conjugate_octonion(mul(a, b)), mul(hc.conjugate_octonion(b), hc.conjugate_octonion(a)))
    assert close(hc.associator(a, b, c), -hc.associator(b, a, c))
    assert hc.associator(a, b, c).abs().max() > 1
    units = torch.eye(8, dtype=dtype)
    found = hc.associator(units[1], units[2], units[4])
    assert float(found.abs().max()) == 2
    assert int(found.abs().argmax()) == 7
    assert d.shape == a.shape


def test_every_pair_of_imaginary_units_has_its_triple() -> None:
    pairs = [frozenset(p) for triple in hc.TRIPLES for p in itertools.combinations(triple, 2)]
    assert len(pairs) == len(set(pairs)) == 21


@pytest.mark.parametrize("width", [4, 8])
def test_gradients(width: int) -> None:
    product = hc.quaternion_product if width == 4 else hc.octonion_product
    a, b, *_ = (x[:2].requires_grad_() for x in drawn(width, torch.float64))
    assert torch.autograd.gradcheck(product, (a, b))
