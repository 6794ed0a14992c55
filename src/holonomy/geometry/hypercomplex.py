"""Quaternions, biquaternions and octonions as real coefficient vectors.

Quaternions are (1, i, j, k) with i j = k; biquaternions are a real and an imaginary quaternion side by side, eight
numbers; octonions are (1, e1, ..., e7) with e_i^2 = -1 and the oriented triples of `TRIPLES` (Baez 2002, section 2).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

TRIPLES = ((1, 2, 3), (1, 4, 5), (1, 7, 6), (2, 4, 6), (2, 5, 7), (3, 4, 7), (3, 6, 5))
"""e_a e_b = e_c for (a, b, c) and its rotations, with the opposite sign for the reversed order."""


def quaternion_product(a: Float[Tensor, "... 4"], b: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Hamilton's product."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def conjugate_quaternion(a: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """The imaginary part turned round."""
    return torch.cat([a[..., :1], -a[..., 1:]], -1)


def quaternion_left(a: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4 4"]:
    """The matrix L(a) with L(a) b = a b."""
    w, x, y, z = a.unbind(-1)
    rows = [[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def biquaternion_left(a: Float[Tensor, "... 8"]) -> Float[Tensor, "... 8 8"]:
    """The real matrix of multiplication from the left: [[L(r), -L(i)], [L(i), L(r)]] for a = r + I i."""
    real, imaginary = quaternion_left(a[..., :4]), quaternion_left(a[..., 4:])
    return torch.cat([torch.cat([real, -imaginary], -1), torch.cat([imaginary, real], -1)], -2)


def biquaternion_product(a: Float[Tensor, "... 8"], b: Float[Tensor, "... 8"]) -> Float[Tensor, "... 8"]:
    """(r + I i)(s + I j) = (r s - i j) + I (r j + i s), with I commuting with everything."""
    r, i, s, j = a[..., :4], a[..., 4:], b[..., :4], b[..., 4:]
    mul = quaternion_product
    return torch.cat([mul(r, s) - mul(i, j), mul(r, j) + mul(i, s)], -1)


def adjoint_biquaternion(a: Float[Tensor, "... 8"]) -> Float[Tensor, "... 8"]:
    """Both conjugations at once: its left matrix is the transpose of that of a."""
    return torch.cat([conjugate_quaternion(a[..., :4]), -conjugate_quaternion(a[..., 4:])], -1)


@lru_cache(maxsize=8)
def _octonion_table(dtype: torch.dtype, device: torch.device) -> Tensor:
    """T[c, a, b]: the coefficient of e_c in e_a e_b."""
    table = torch.zeros(8, 8, 8, dtype=dtype)
    for n in range(8):
        table[n, 0, n] = table[n, n, 0] = 1
        if n:
            table[0, n, n] = -1
    for triple in TRIPLES:
        for shift in range(3):
            a, b, c = triple[shift], triple[(shift + 1) % 3], triple[(shift + 2) % 3]
            table[c, a, b], table[c, b, a] = 1, -1
    return table.to(device)


def octonion_product(a: Float[Tensor, "... 8"], b: Float[Tensor, "... 8"]) -> Float[Tensor, "... 8"]:
    """The product of octonions: alternative, not associative."""
    table = _octonion_table(a.dtype, a.device)
    return torch.einsum("cab,...a,...b->...c", table, a, b)


def conjugate_octonion(a: Float[Tensor, "... 8"]) -> Float[Tensor, "... 8"]:
    """The imaginary part turned round."""
    return torch.cat([a[..., :1], -a[..., 1:]], -1)


def associator(
    a: Float[Tensor, "... 8"], b: Float[Tensor, "... 8"], c: Float[Tensor, "... 8"]
) -> Float[Tensor, "... 8"]:
    """(a b) c - a (b c): alternating, zero when two of them are equal."""
    mul = octonion_product
    return mul(mul(a, b), c) - mul(a, mul(b, c))
