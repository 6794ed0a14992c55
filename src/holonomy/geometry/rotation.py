"""Rotations of three and four dimensions by unit quaternions.

x -> l x r* runs over all of SO(4) as l and r run over unit quaternions, each rotation twice: (l, r) and (-l, -r)
(Conway & Smith 2003, chapter 4). Vectors of R^4 are quaternions (w, x, y, z); SO(3) is the case l = r on (x, y, z).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.numerics import safe_norm, sinc, square_norm
from holonomy.geometry.hypercomplex import conjugate_quaternion, quaternion_left, quaternion_product


def normalise(q: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """The unit quaternion in the direction of q."""
    return q / safe_norm(q)


def rotate_vector(q: Float[Tensor, "... 4"], v: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """q v q* for a unit quaternion, as v + 2 w (u x v) + 2 u x (u x v), u the imaginary part of q."""
    u = q[..., 1:].expand_as(v)
    once = 2 * torch.linalg.cross(u, v)
    return v + q[..., :1] * once + torch.linalg.cross(u, once)


def exp_rotation(v: Float[Tensor, "... 3"]) -> Float[Tensor, "... 4"]:
    """The unit quaternion that turns by |v| radians about v."""
    s = square_norm(v) / 4
    # cos(a) = 1 - 2 sin(a / 2)^2, by functions of squares that are smooth at zero.
    return torch.cat([1 - (s / 2) * sinc(s / 4).square(), sinc(s) * v / 2], -1)


def pair_matrix(left: Float[Tensor, "... 4"], right: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4 4"]:
    """The rotation matrix of x -> left x right*, for unit quaternions."""
    basis = torch.eye(4, dtype=left.dtype, device=left.device)
    right_matrix = quaternion_product(basis, conjugate_quaternion(right).unsqueeze(-2)).mT
    return quaternion_left(left) @ right_matrix


def pair_of(matrix: Float[Tensor, "... 4 4"]) -> tuple[Float[Tensor, "... 4"], Float[Tensor, "... 4"]]:
    """Unit quaternions (l, r) with matrix = pair_matrix(l, r); reads the determinant.

    The sixteen matrices of x -> e_a x e_b* are orthogonal, so the coefficients of the matrix in them are the outer
    product l r^T (van Elfrinkhof's associate matrix, Mebius 2005): its leading singular vectors are l and r.

    Raises:
        ConfigError: a matrix is not a rotation.
    """
    n = matrix.shape[-1]
    off = float((matrix @ matrix.mT - torch.eye(n, dtype=matrix.dtype, device=matrix.device)).abs().max())
    if not off < 100 * torch.finfo(matrix.dtype).eps or float(torch.linalg.det(matrix).min()) < 0:
        raise ConfigError(f"`matrix` is not a rotation: M M^T - 1 reaches {off:.1e}, or its determinant is -1")
    units = torch.eye(4, dtype=matrix.dtype, device=matrix.device)
    basis = pair_matrix(units[:, None].expand(4, 4, 4), units.expand(4, 4, 4))
    outer = torch.einsum("abij,...ij->...ab", basis, matrix) / 4
    u, s, vh = torch.linalg.svd(outer)
    scale = s[..., :1].sqrt()
    return normalise(u[..., :, 0] * scale), normalise(vh[..., 0, :] * scale)


def haar_pairs(
    *shape: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> tuple[Float[Tensor, "... 4"], Float[Tensor, "... 4"]]:
    """Pairs of unit quaternions whose rotations are uniform on SO(4): each normal, then normalised."""
    drawn = torch.randn(2, *shape, 4, generator=generator, dtype=torch.float64)
    left, right = normalise(drawn).to(dtype)
    return left, right


def splitmix(x: Int[Tensor, ...]) -> Int[Tensor, ...]:
    """One step of splitmix64 (Steele et al. 2014) from the state x: a hash of 64 bits, kept in int64."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _unsigned_shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _unsigned_shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _unsigned_shift(x, 31)


def _signed(x: int) -> int:
    return (x + 2**63) % 2**64 - 2**63


def _unsigned_shift(x: Tensor, bits: int) -> Tensor:
    # The shift of int64 copies the sign; the copies are masked away.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def counter_haar(seed: int, tag: int, index: Int[Tensor, "*n"]) -> Float[Tensor, "*n 4 4"]:
    """Rotations that are uniform on SO(4) and follow from three numbers alone, float64, whatever the batch.

    Sixteen hashes of (seed, tag, index) make eight normal numbers by Box and Muller's formula, those two quaternions
    (q, p), and those the matrix of x -> q x p.
    """
    stream = splitmix(torch.tensor(_signed(seed * 1000003 + tag), device=index.device))
    places = torch.arange(16, device=index.device)
    uniform = (_unsigned_shift(splitmix((index[..., None] * 64 + places) ^ stream), 11).double() + 0.5) / 2**53
    normal = (-2 * uniform[..., :8].log()).sqrt() * (2 * math.pi * uniform[..., 8:]).cos()
    return pair_matrix(normalise(normal[..., :4]), conjugate_quaternion(normalise(normal[..., 4:])))
