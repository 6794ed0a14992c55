"""Symmetric positive-definite matrices with the affine-invariant metric <U, V>_X = tr(X^-1 U X^-1 V).

Sources: Pennec, Fillard & Ayache (2006), section 3, for distance, exp and log; Sra & Hosseini (2015), section 2, for
parallel transport. Our convention: points are vectors of n (n + 1) / 2 coordinates in a basis of the symmetric
matrices that is orthonormal for tr(U V): the diagonal, then the entries below it times sqrt 2, row by row. With
X = L L^T and S = L^-1 Y L^-T everything follows from functions of the eigenvalues of S.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.numerics import artanhc, log_sinhc, safe_norm, sinhc
from holonomy.geometry.manifold import Manifold, check_same

Scalar = Callable[[Tensor], Tensor]
Divided = Callable[[Tensor, Tensor], Tensor]
"""(f(a) - f(b)) / (a - b) in a form without cancellation; f'(a) where they are equal."""


def divided_exp(a: Float[Tensor, "*rest n 1"], b: Float[Tensor, "*rest 1 n"]) -> Float[Tensor, "*rest n n"]:
    """exp((a + b) / 2) sinh(h) / h with h = (a - b) / 2."""
    return ((a + b) / 2).exp() * sinhc(((a - b) / 2).square())


def divided_log(a: Float[Tensor, "*rest n 1"], b: Float[Tensor, "*rest 1 n"]) -> Float[Tensor, "*rest n n"]:
    """2 artanh(x) / (x (a + b)) with x = (a - b) / (a + b)."""
    return artanhc(((a - b) / (a + b)).square()) * 2 / (a + b)


def divided_sqrt(a: Float[Tensor, "*rest n 1"], b: Float[Tensor, "*rest 1 n"]) -> Float[Tensor, "*rest n n"]:
    """1 / (sqrt(a) + sqrt(b))."""
    return 1 / (a.sqrt() + b.sqrt())


class _OfEigenvalues(torch.autograd.Function):
    """U f(lambda) U^T, with the derivative of Daleckii and Krein, which repeated eigenvalues do not disturb."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, function: Scalar, divided: Divided) -> Tensor:
        values, vectors = torch.linalg.eigh(s)
        ctx.save_for_backward(values, vectors)
        ctx.divided = divided
        return (vectors * function(values).unsqueeze(-2)) @ vectors.mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, vectors = ctx.saved_tensors
        divided = ctx.divided(values.unsqueeze(-1), values.unsqueeze(-2))
        inner = vectors.mT @ ((slopes[0] + slopes[0].mT) / 2) @ vectors
        return vectors @ (divided * inner) @ vectors.mT, None, None


def of_eigenvalues(s: Float[Tensor, "*rest n n"], function: Scalar, divided: Divided) -> Float[Tensor, "*rest n n"]:
    """A function of a symmetric matrix, once differentiable.

    Args:
        s: symmetric matrices.
        function: acts on eigenvalues.
        divided: its divided difference.
    """
    result = _OfEigenvalues.apply(s, function, divided)
    assert isinstance(result, Tensor)
    return result


def _log(s: Tensor) -> Tensor:
    return of_eigenvalues(s, torch.log, divided_log)


def _size(count: int) -> int:
    """n with n (n + 1) / 2 = count."""
    n = (math.isqrt(8 * count + 1) - 1) // 2
    if n * (n + 1) // 2 != count or n < 1:
        raise ConfigError(f"`x` has {count} coordinates; symmetric n x n matrices have n (n + 1) / 2: 1, 3, 6, 10, ...")
    return n


@lru_cache(maxsize=32)
def _basis(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The basis, [n (n + 1) / 2, n, n]."""
    rows, columns = torch.tril_indices(n, n, -1)
    basis = torch.zeros(n * (n + 1) // 2, n, n, dtype=dtype)
    diagonal, below = torch.arange(n), torch.arange(n, len(basis))
    basis[diagonal, diagonal, diagonal] = 1
    basis[below, rows, columns] = basis[below, columns, rows] = 0.5**0.5
    return basis.to(device)


def to_matrix(x: Float[Tensor, "... d"]) -> Float[Tensor, "... n n"]:
    """The symmetric matrix with these coordinates.

    Raises:
        ConfigError: their number is not that of a symmetric matrix.
    """
    return torch.einsum("...d,dij->...ij", x, _basis(_size(x.shape[-1]), x.dtype, x.device))


def from_matrix(s: Float[Tensor, "... n n"]) -> Float[Tensor, "... d"]:
    """Coordinates of the symmetric part of a matrix."""
    return torch.einsum("...ij,dij->...d", s, _basis(s.shape[-1], s.dtype, s.device))


class SPD(Manifold):
    """Symmetric positive-definite matrices; `to_matrix` and `from_matrix` lead to coordinates and back.

    A symmetric space of curvature between -1/2 and 0; congruences X -> A X A^T are isometries.
    """

    def __repr__(self) -> str:
        return "SPD()"

    @staticmethod
    def _seen_from(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """L with X = L L^T, and L^-1 Y L^-T."""
        check_same(x=x, y=y)
        factor = torch.linalg.cholesky(to_matrix(x))
        half = torch.linalg.solve_triangular(factor, to_matrix(y), upper=False)
        seen = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        return factor, (seen + seen.mT) / 2

    def project(self, x: Tensor) -> Tensor:
        """Raises eigenvalues to rounding of the largest."""
        values, vectors = torch.linalg.eigh(to_matrix(x))
        floor = values[..., -1:].clamp_min(torch.finfo(x.dtype).tiny) * torch.finfo(x.dtype).eps
        raised = from_matrix((vectors * values.maximum(floor).unsqueeze(-2)) @ vectors.mT)
        return torch.where(values[..., :1] < floor, raised, x)

    def project_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Every symmetric matrix is tangent."""
        return v

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """tr(X^-1 U X^-1 V)."""
        _, a = self._seen_from(x, u)
        _, b = self._seen_from(x, v)
        return (a * b).sum((-2, -1))

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """|log(X^-1/2 Y X^-1/2)|, the Frobenius norm."""
        _, seen = self._seen_from(x, y)
        return safe_norm(_log(seen).flatten(-2)).squeeze(-1)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """L exp(L^-1 V L^-T) L^T."""
        factor, seen = self._seen_from(x, v)
        return from_matrix(factor @ of_eigenvalues(seen, torch.exp, divided_exp) @ factor.mT)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """L log(L^-1 Y L^-T) L^T."""
        factor, seen = self._seen_from(x, y)
        return from_matrix(factor @ _log(seen) @ factor.mT)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """E V E^T with E = (Y X^-1)^(1/2) = L (L^-1 Y L^-T)^(1/2) L^-1."""
        check_same(x=x, y=y, v=v)
        factor, seen = self._seen_from(x, y)
        root = of_eigenvalues(seen, torch.sqrt, divided_sqrt)
        moved = factor @ torch.linalg.solve_triangular(factor, root, upper=False, left=False)
        return from_matrix(moved @ to_matrix(v) @ moved.mT)

    def origin(self, dim: int, *, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        """The identity; `dim` is n (n + 1) / 2."""
        return from_matrix(torch.eye(_size(dim), dtype=dtype, device=device))

    def gradient(self, x: Tensor, slope: Tensor) -> Tensor:
        """X S X."""
        matrix = to_matrix(x)
        return from_matrix(matrix @ to_matrix(slope) @ matrix)

    def from_frame(self, a: Tensor) -> Tensor:
        """The coordinates are orthonormal at the identity."""
        return a

    def to_frame(self, v: Tensor) -> Tensor:
        """The coordinates are orthonormal at the identity."""
        return v

    def log_volume(self, a: Tensor) -> Tensor:
        """Sum over pairs of eigenvalues of log(sinh(d / 2) / (d / 2)), d their difference (Said et al. 2017)."""
        values = torch.linalg.eigvalsh(to_matrix(a))
        rows, columns = torch.tril_indices(values.shape[-1], values.shape[-1], -1)
        return log_sinhc(((values[..., rows] - values[..., columns]) / 2).square()).sum(-1)

    def fault(self, x: Tensor) -> str | None:
        """Matrices must be finite, their eigenvalues above zero."""
        if not bool(torch.isfinite(x).all()):
            return "a coordinate is not finite"
        least = float(torch.linalg.eigvalsh(to_matrix(x))[..., 0].min())
        return None if least > 0 else f"the least eigenvalue is {least:.3g}, wanted above zero"
