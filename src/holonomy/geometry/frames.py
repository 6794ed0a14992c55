"""Orthogonal frames: products of Givens rotors, eigenframes of a covariance, and low-rank columns.

A rotor applies its layers in order to the rows of the identity; in the plane (i, j) with angle theta

    row_i <- cos(theta) row_i - sin(theta) row_j,    row_j <- sin(theta) row_i + cos(theta) row_j.

Planes are int64 [layers, planes, 2]; planes of one layer share no axis. Sources: Golub & Van Loan (2013), section
5.1.8, for the rotations and section 5.2.5 for the factorisation; Clements et al. (2016) for the brickwork, Cooley &
Tukey (1965) for the butterfly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import ConfigError


def brickwork(n: int, layers: int | None = None) -> Int[Tensor, "layers half 2"]:
    """Planes ((2p + l) mod n, (2p + l + 1) mod n) of layer l; n layers, the default, reach all of SO(n).

    Raises:
        ConfigError: n is odd or below 2, or there is no layer.
    """
    if n < 2 or n % 2:
        raise ConfigError(f"`n` is {n}; a brickwork pairs all axes, so it wants an even number of them")
    layers = n if layers is None else layers
    if layers < 1:
        raise ConfigError(f"`layers` is {layers}; wanted 1 or more")
    first = (torch.arange(0, n, 2) + torch.arange(layers)[:, None]) % n
    return torch.stack((first, (first + 1) % n), -1)


def butterfly(n: int) -> Int[Tensor, "stages half 2"]:
    """Planes (i, i + 2^s) of stage s = 0 .. log2(n) - 1: every axis meets every other in log2(n) stages.

    Raises:
        ConfigError: n is not a power of two, or below 2.
    """
    if n < 2 or n & (n - 1):
        raise ConfigError(f"`n` is {n}; a butterfly wants a power of two, 2 or more")
    axes = torch.arange(n)
    stages = [axes[(axes >> s) % 2 == 0] for s in range(n.bit_length() - 1)]
    return torch.stack([torch.stack((i, i + 2**s), -1) for s, i in enumerate(stages)])


def wrap_angles(theta: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """The same angles in [-pi, pi); those that lie there come back bit by bit."""
    turned = torch.remainder(theta + math.pi, 2 * math.pi) - math.pi
    turned = torch.where(turned >= math.pi, -math.pi, turned)
    return torch.where((theta >= -math.pi) & (theta < math.pi), theta, turned)


def _turns(n: int, planes: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each layer does to each row, row <- cos row + sin partner; cos and sin are [*heads, layers, n, 1].

    Axes in no plane are their own partners and stay.
    """
    flat = planes.flatten(1)
    partner = torch.arange(n, device=planes.device).repeat(len(planes), 1).scatter(1, flat, planes.flip(-1).flatten(1))
    index = flat.expand(*theta.shape[:-2], -1, -1)
    sin = theta.sin()
    cosines = theta.new_ones(*theta.shape[:-1], n).scatter(-1, index, theta.cos().repeat_interleave(2, -1))
    sines = theta.new_zeros(*theta.shape[:-1], n).scatter(-1, index, torch.stack((-sin, sin), -1).flatten(-2))
    return partner, cosines.unsqueeze(-1), sines.unsqueeze(-1)


def _product(n: int, planes: Tensor, theta: Tensor) -> Tensor:
    rows = torch.eye(n, dtype=theta.dtype, device=theta.device).expand(*theta.shape[:-2], -1, -1)
    partner, cos, sin = _turns(n, planes, theta)
    for layer in range(len(planes)):
        rows = torch.addcmul(cos[..., layer, :, :] * rows, sin[..., layer, :, :], rows.index_select(-2, partner[layer]))
    return rows


def angle_sweep(
    planes: Int[Tensor, "layers planes 2"],
    theta: Float[Tensor, "*heads layers planes"],
    q: Float[Tensor, "*heads n n"],
    dq: Float[Tensor, "*heads n n"],
) -> Float[Tensor, "*heads layers planes"]:
    """Derivative of a loss by the angles, from its derivative by the matrix.

    Undoes the layers one by one, so that nothing but the product is stored: with G the derivative by the rows after a
    layer, dtheta = sum over columns (G_j Q_i - G_i Q_j). Cost: two products.

    Args:
        planes: the planes.
        theta: the angles.
        q: the product at these angles.
        dq: derivative by q.
    """
    both = torch.stack((q, dq))
    partner, cos, sin = _turns(q.shape[-1], planes, theta)
    crossed = []
    for layer in reversed(range(len(planes))):
        swapped = both.index_select(-2, partner[layer])
        crossed.append((both[1] * swapped[0]).sum(-1))
        both = torch.addcmul(cos[..., layer, :, :] * both, sin[..., layer, :, :], swapped, value=-1)
    found = torch.stack(crossed[::-1], -2)
    i, j = planes.expand(*theta.shape, 2).unbind(-1)
    return found.gather(-1, j) - found.gather(-1, i)


class _RotorProduct(torch.autograd.Function):
    """The product of the layers, with the angle sweep for its backward pass."""

    @staticmethod
    def forward(ctx, theta: Tensor, planes: Tensor, n: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        q = _product(n, planes, theta)
        ctx.save_for_backward(theta, planes, q)
        return q

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dq: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        theta, planes, q = ctx.saved_tensors
        return angle_sweep(planes, theta, q, dq), None, None


@dataclass(frozen=True, eq=False)
class Rotor:
    """A product of layers of Givens rotations: an element of SO(n) for each head.

    Attributes:
        n: number of axes.
        planes: int64 [layers, planes, 2], from `brickwork`, `butterfly` or `givens_angles`.
        theta: angles, [*heads, layers, planes].

    Raises:
        ConfigError: the angles do not fit the planes.
    """

    n: int
    planes: Int[Tensor, "layers planes 2"]
    theta: Float[Tensor, ...]

    def __post_init__(self) -> None:
        if self.theta.shape[-2:] != self.planes.shape[:2]:
            raise ConfigError(
                f"`theta` has shape {tuple(self.theta.shape)}; these planes want {tuple(self.planes.shape[:2])} last"
            )

    def matrix(self) -> Float[Tensor, "*heads n n"]:
        """The product; differentiable once by the angles."""
        return _RotorProduct.apply(self.theta, self.planes, self.n)  # pyright: ignore[reportReturnType]

    def apply(self, v: Float[Tensor, "*heads m n"], *, inverse: bool = False) -> Float[Tensor, "*heads m n"]:
        """Turns vectors on the last axis: Q v, or Q^T v."""
        q = self.matrix()
        return v @ (q if inverse else q.mT)

    def stat(self, dq: Float[Tensor, "*heads n n"]) -> Float[Tensor, "*heads layers planes"]:
        """Derivative by the angles from the derivative by the matrix, without a graph."""
        return angle_sweep(self.planes, self.theta, _product(self.n, self.planes, self.theta), dq)


def givens_angles(
    q: Float[Tensor, "*heads n n"],
) -> tuple[Int[Tensor, "layers 1 2"], Float[Tensor, "*heads layers 1"]]:
    """Planes and angles of n(n-1)/2 rotations whose product is q.

    Where det q = -1 the last column is turned round first, which leaves Q diag(lambda) Q^T as it was.
    """
    n = q.shape[-1]
    rows = q.clone()
    rows[..., -1] *= torch.linalg.det(q).sign().unsqueeze(-1)
    planes, angles = [], []
    for i in range(n - 1):
        for j in range(i + 1, n):
            planes.append((i, j))
            angles.append(torch.atan2(rows[..., j, i], rows[..., i, i]).unsqueeze(-1))
            a, b = rows[..., i, :], rows[..., j, :]
            cos, sin = angles[-1].cos(), angles[-1].sin()
            rows[..., i, :], rows[..., j, :] = cos * a + sin * b, cos * b - sin * a
    return torch.tensor(planes[::-1], device=q.device)[:, None], torch.stack(angles[::-1], -2)


def covariance_step(
    c: Float[Tensor, "*heads n n"], z: Float[Tensor, "*heads m n"], *, decay: float = 0.99
) -> Float[Tensor, "*heads n n"]:
    """Moving average of the covariance: decay c + (1 - decay) E[z z^T], z centred over its m rows."""
    z = z - z.mean(-2, keepdim=True)
    return decay * c + (1 - decay) / z.shape[-2] * (z.mT @ z)


def derived_frame(
    c: Float[Tensor, "*heads n n"], previous: Float[Tensor, "*heads n n"] | None = None
) -> Float[Tensor, "*heads n n"]:
    """Eigenvectors of a covariance as columns, with signs and an order that do not jump.

    The largest component of each axis is positive (the first of them where several are equally large up to rounding).
    Without a previous frame the largest variance comes first; with one, axes are paired by largest overlap, greedily,
    so that a parameter on an axis keeps its axis.
    """
    _, q = torch.linalg.eigh(c)
    q = q.flip(-1) if previous is None else _match(q, previous)
    size = q.abs()
    largest = (
        (size >= (1 - torch.finfo(q.dtype).eps ** 0.5) * size.amax(-2, keepdim=True)).int().argmax(-2, keepdim=True)
    )
    return q * q.gather(-2, largest).sign()


def _match(q: Tensor, previous: Tensor) -> Tensor:
    """The columns of q in the order of the columns of `previous` that they overlap most."""
    n = q.shape[-1]
    overlap = (previous.mT @ q).abs()
    order = torch.zeros(q.shape[:-1], dtype=torch.int64, device=q.device)
    axes = torch.arange(n, device=q.device)
    for _ in range(n):
        best = overlap.flatten(-2).argmax(-1, keepdim=True)
        old, new = best // n, best % n
        order.scatter_(-1, old, new)
        taken = (axes == old).unsqueeze(-1) | (axes == new).unsqueeze(-2)
        overlap = overlap.masked_fill(taken, -1)
    return q.gather(-1, order.unsqueeze(-2).expand_as(q))


def condition_number(u: Float[Tensor, "*heads n r"]) -> Float[Tensor, "*heads"]:
    """Largest over smallest singular value; infinite where the columns are dependent."""
    s = torch.linalg.svdvals(u)
    return s[..., 0] / s[..., -1]


def orthogonal_columns(
    u: Float[Tensor, "*heads n r"], d: Float[Tensor, "*heads r"], *, weight: float = 1.0
) -> tuple[Float[Tensor, "*heads n r"], Float[Tensor, "*heads r"]]:
    """Columns that are orthogonal and weights that are equal, with the same U diag(d) U^T.

    From U = Q R and R diag(d) R^T = V diag(e) V^T: U' = Q V diag(sqrt(e / weight)), d' = weight.

    Raises:
        ConfigError: more columns than axes.
    """
    if u.shape[-1] > u.shape[-2]:
        raise ConfigError(f"`u` has {u.shape[-1]} columns; {u.shape[-2]} axes have room for as many at most")
    q, r = torch.linalg.qr(u)
    e, v = torch.linalg.eigh((r * d.unsqueeze(-2)) @ r.mT)
    return (q @ v) * (e.clamp_min(0) / weight).sqrt().unsqueeze(-2), torch.full_like(d, weight)


def framed(
    q: Float[Tensor, "*heads n n"],
    values: Float[Tensor, "*heads n"],
    u: Float[Tensor, "*heads n r"],
    d: Float[Tensor, "*heads r"],
) -> Float[Tensor, "*heads n n"]:
    """Q diag(values) Q^T + U diag(d) U^T: a symmetric matrix in a frame, with low rank."""
    return (q * values.unsqueeze(-2)) @ q.mT + (u * d.unsqueeze(-2)) @ u.mT


def framed_pull(
    dk: Float[Tensor, "*heads n n"],
    q: Float[Tensor, "*heads n n"],
    values: Float[Tensor, "*heads n"],
    u: Float[Tensor, "*heads n r"],
    d: Float[Tensor, "*heads r"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of a loss by the arguments of `framed`, from that by its result, dk symmetric.

    dQ = 2 dK Q diag(values), dvalues = diag(Q^T dK Q), dU = 2 dK U diag(d), dd = diag(U^T dK U).
    """
    turned, pulled = dk @ q, dk @ u
    return (
        2 * turned * values.unsqueeze(-2),
        (q * turned).sum(-2),
        2 * pulled * d.unsqueeze(-2),
        (u * pulled).sum(-2),
    )
