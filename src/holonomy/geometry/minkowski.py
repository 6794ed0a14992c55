"""Cl(3,1) as the algebra of real 4 x 4 matrices, and what is read off a multivector besides its coefficients.

With s1 = [[0, 1], [1, 0]], s3 = diag(1, -1), J = [[0, -1], [1, 0]] and Kronecker products, the basis vectors are
s3 x 1, s1 x s3, s1 x s1 (squares +1) and s1 x J (square -1) (Lounesto 2001, chapter 16, up to the choice of basis).
The sixteen blades are orthogonal, tr(B_i^T B_j) = 4 if i = j, so coefficients are c_k = tr(B_k^T M) / 4. In matrix
form the product is a matrix product of 64 terms instead of 256: keep multivectors there while multiplying.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.numerics import GOLDEN
from holonomy.geometry.clifford import Algebra, check_multivectors, geometric
from holonomy.geometry.products import compiled_product, matrix_kernels, suits_products

SPACETIME = Algebra(3, 1)
GOLDEN_SCALES = (1.0, GOLDEN, GOLDEN**2, GOLDEN**3, GOLDEN)
"""By grade; the pseudoscalar is damped like a vector."""


@lru_cache(maxsize=8)
def blade_matrices(dtype: torch.dtype, device: torch.device) -> Float[Tensor, "16 4 4"]:
    """The matrices of the blades of Cl(3,1), in the order of their bit masks."""
    one, s1, s3 = torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    vectors = [torch.kron(s3, one), torch.kron(s1, s3), torch.kron(s1, s1), torch.kron(s1, turn)]
    blades = []
    for mask in range(SPACETIME.size):
        blade = torch.eye(4)
        for i, vector in enumerate(vectors):
            if mask >> i & 1:
                blade = blade @ vector
        blades.append(blade)
    return torch.stack(blades).to(dtype).to(device)


def matrix_of(a: Float[Tensor, "... 16"]) -> Float[Tensor, "... 4 4"]:
    """The matrix of a multivector of Cl(3,1)."""
    check_multivectors(SPACETIME, a=a)
    return (a @ blade_matrices(a.dtype, a.device).flatten(1)).unflatten(-1, (4, 4))


def multivector_of(m: Float[Tensor, "... 4 4"]) -> Float[Tensor, "... 16"]:
    """Coefficients of the multivector with this matrix: tr(B_k^T M) / 4."""
    return m.flatten(-2) @ blade_matrices(m.dtype, m.device).flatten(1).T / 4


def matrix_product(a: Float[Tensor, "... 4 4"], b: Float[Tensor, "... 4 4"]) -> Float[Tensor, "... 4 4"]:
    """a b, the geometric product in matrix form; compiled for many matrices on the CPU."""
    left, right = a.flatten(-2), b.flatten(-2)
    if not suits_products(left, right):
        return a @ b

    def twin(x: Tensor, y: Tensor) -> Tensor:
        return (x.unflatten(-1, (4, 4)) @ y.unflatten(-1, (4, 4))).flatten(-2)

    return compiled_product(twin, matrix_kernels(4), left, right).unflatten(-1, (4, 4))


def reverse_matrix(m: Float[Tensor, "... 4 4"]) -> Float[Tensor, "... 4 4"]:
    """The reverse: e012 M^T e012^-1."""
    turn = blade_matrices(m.dtype, m.device)[0b0111]
    return turn @ m.mT @ turn.T


def conjugate_matrix(m: Float[Tensor, "... 4 4"]) -> Float[Tensor, "... 4 4"]:
    """Clifford conjugation: e3 M^T e3^-1."""
    turn = blade_matrices(m.dtype, m.device)[0b1000]
    return turn @ m.mT @ turn.T


def grade_filter(
    algebra: Algebra, a: Float[Tensor, "... size"], scales: Sequence[float] = GOLDEN_SCALES, *, steps: float = 1.0
) -> Float[Tensor, "... size"]:
    """Each grade times its scale to the power of `steps`; a negative number of steps undoes as many.

    Linear: what it tends to is the scalar part, whatever else the multivector holds.

    Raises:
        ConfigError: the number of scales is not that of the grades, or one is not above zero.
    """
    check_multivectors(algebra, a=a)
    if len(scales) != algebra.dim + 1 or not min(scales) > 0:
        raise ConfigError(f"`scales` is {tuple(scales)}; {algebra} wants {algebra.dim + 1} numbers above zero")
    by_blade = torch.tensor([scales[g] for g in algebra.grades], dtype=a.dtype, device=a.device)
    return a * by_blade**steps


def witness(a: Float[Tensor, "... size"]) -> Float[Tensor, "... 2"]:
    """Scalar and pseudoscalar: the part that no rotation of the basis changes."""
    return a[..., [0, -1]]


def stability(a: Float[Tensor, "... size"]) -> Float[Tensor, ...]:
    """Share of the squared coefficients that the witness holds, 0 to 1; 0 for zero, 2 / size on average for noise."""
    total = a.square().sum(-1)
    return torch.where(total > 0, witness(a).square().sum(-1) / torch.where(total > 0, total, 1), 0)


def vorticity(algebra: Algebra, a: Float[Tensor, "... size"], b: Float[Tensor, "... size"]) -> Float[Tensor, ...]:
    """How much the order of a product matters: |a b - b a| / (|a b| + |b a|), 0 if they commute, 1 if they anticommute.

    0 where both products vanish.
    """
    left, right = geometric(algebra, a, b), geometric(algebra, b, a)
    total = left.norm(dim=-1) + right.norm(dim=-1)
    return torch.where(total > 0, (left - right).norm(dim=-1) / torch.where(total > 0, total, 1), 0)
