"""Curvature of metric fields, collapsed to what retrieval needs without a tensor of rank four.

Signs: on the unit sphere Riem_abcd = g_ac g_bd - g_ad g_bc, Ric = (n - 1) g and the scalar is n (n - 1). A metric
field is a function from one point [n] to g [n, n]; functions take points [*batch, n]. Sources: Lee (2018), Riemannian
Manifolds, chapters 5 and 7; Misner, Thorne & Wheeler (1973), section 14.2; Besse (1987), theorem 1.159.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jvp, vmap

from holonomy.core.errors import ConfigError
from holonomy.geometry.metric import MetricBase

Field = Callable[[Tensor], Tensor]
"""From a point [n] to a metric [n, n] or a scalar []."""


def _pointwise(function: Field, x: Tensor) -> Tensor:
    """Applies a function of one point to all points of a batch."""
    found = vmap(function)(x.reshape(-1, x.shape[-1]))
    return found.reshape(x.shape[:-1] + found.shape[1:])


def _christoffel(metric: Field, x: Tensor) -> Tensor:
    slope = jacfwd(metric)(x)  # d_c g_ab as [a, b, c]
    lowered = (slope.permute(0, 2, 1) + slope - slope.permute(2, 0, 1)) / 2
    return torch.linalg.solve(metric(x), lowered.flatten(1)).unflatten(1, lowered.shape[1:])


def christoffel(metric: Field, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n n"]:
    """Gamma^a_bc = g^ad (d_c g_db + d_b g_dc - d_d g_bc) / 2, first index raised."""
    return _pointwise(partial(_christoffel, metric), x)


def _ricci(metric: Field, x: Tensor) -> Tensor:
    gamma = _christoffel(metric, x)
    trace = torch.einsum("kki->i", gamma)
    directions = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    total = torch.einsum("l,lij->ij", trace, gamma) - torch.einsum("kjl,lik->ij", gamma, gamma)
    # One direction at a time: a jacobian of Gamma would hold n^4 numbers to sum n^3 of them.
    for k, direction in enumerate(directions):
        total = total + jvp(lambda y, k=k: _christoffel(metric, y)[k], (x,), (direction,))[1]
    # By Cholesky: second derivatives of slogdet are wrong under vmap in torch 2.13.
    return total - hessian(lambda y: torch.linalg.cholesky(metric(y)).diagonal().log().sum())(x)


def ricci(metric: Field, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n"]:
    """Ric_ij = d_k Gamma^k_ij - d_i d_j log sqrt(det g) + Gamma^k_kl Gamma^l_ij - Gamma^k_jl Gamma^l_ik.

    Memory n^3 a point: no rank-four tensor is formed.
    """
    return _pointwise(partial(_ricci, metric), x)


def scalar_curvature(metric: Field, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """g^ij Ric_ij."""

    def at(point: Tensor) -> Tensor:
        return torch.linalg.solve(metric(point), _ricci(metric, point)).trace()

    return _pointwise(at, x)


def _assemble(g: Tensor, slope: Tensor, bend: Tensor) -> Tensor:
    """Riem_abcd from g, d_c g_ab as [a, b, c] and d_c d_d g_ab as [a, b, c, d]."""
    second = (
        torch.einsum("adbc->abcd", bend)
        + torch.einsum("bcad->abcd", bend)
        - torch.einsum("bdac->abcd", bend)
        - torch.einsum("acbd->abcd", bend)
    ) / 2
    lowered = (slope.permute(0, 2, 1) + slope - slope.permute(2, 0, 1)) / 2
    raised = torch.linalg.solve(g, lowered.flatten(1)).unflatten(1, lowered.shape[1:])
    return second + torch.einsum("ebc,ead->abcd", lowered, raised) - torch.einsum("ebd,eac->abcd", lowered, raised)


def riemann(metric: Field, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n n n"]:
    """The full tensor Riem_abcd by automatic differentiation: for tests and small n."""
    return _pointwise(lambda y: _assemble(metric(y), jacfwd(metric)(y), jacfwd(jacfwd(metric))(y)), x)


def riemann_by_differences(metric: Field, x: Float[Tensor, " n"], *, step: float = 1e-3) -> Float[Tensor, "n n n n"]:
    """The same at one point from central differences of g: works for any function, error of order step^2."""
    n = x.shape[-1]
    moves = step * torch.eye(n, dtype=x.dtype, device=x.device)
    slope = torch.stack([(metric(x + e) - metric(x - e)) / (2 * step) for e in moves], -1)
    rows = [
        torch.stack([metric(x + e + f) - metric(x + e - f) - metric(x - e + f) + metric(x - e - f) for f in moves], -1)
        for e in moves
    ]
    return _assemble(metric(x), slope, torch.stack(rows, -1) / (4 * step**2))


def bivector_operator(riemann: Float[Tensor, "*batch n n n n"]) -> Float[Tensor, "*batch pairs pairs"]:
    """Riem as a symmetric matrix over index pairs a < b, in the order of `torch.triu_indices`."""
    n = riemann.shape[-1]
    a, b = torch.triu_indices(n, n, 1, device=riemann.device)
    return riemann[..., a, b, :, :][..., a, b]


def collapse_scalar(scalar: Float[Tensor, "*batch"], n: int, *, eps: float = 1e-8) -> Float[Tensor, "*batch"]:
    """sqrt(|scalar| / n^2 + eps): sqrt((n - 1) / n) on the unit sphere, sqrt(eps) where flat."""
    return (scalar.abs() / n**2 + eps).sqrt()


def collapse_riemann(
    base: MetricBase, riemann: Float[Tensor, "*batch n n n n"], *, eps: float = 1e-8
) -> Float[Tensor, "*batch"]:
    """sqrt(|K : Riem| + eps) with the contraction kernel of the base metric."""
    return (base.contract(riemann).abs() + eps).sqrt()


def conformal_scalar(
    f: Float[Tensor, "*batch"],
    gradient_square: Float[Tensor, "*batch"],
    laplacian: Float[Tensor, "*batch"],
    n: int,
    *,
    scalar: Float[Tensor, "*batch"] | float = 0.0,
) -> Float[Tensor, "*batch"]:
    """Scalar curvature of e^(2f) g: e^(-2f) [R - 2 (n - 1) Lap f - (n - 2) (n - 1) |grad f|^2], derivatives in g."""
    return torch.exp(-2 * f) * (scalar - 2 * (n - 1) * laplacian - (n - 2) * (n - 1) * gradient_square)


def conformal_curvature(f: Field, base: MetricBase, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Scalar curvature of e^(2 f(x)) g0 for any smooth function f of one point."""

    def at(point: Tensor) -> Tensor:
        slope = grad(f)(point)
        laplacian = (base.g0_inv * hessian(f)(point)).sum()
        return conformal_scalar(f(point), slope @ base.g0_inv @ slope, laplacian, base.n)

    return _pointwise(at, x)


@dataclass(frozen=True, eq=False)
class GaussianConformal:
    """The metric field e^(2f) g0 with f(x) = sum_k a_k exp(-|x - mu_k|^2 / (2 s^2)), |.| Euclidean.

    Attributes:
        base: g0.
        height: a, [k].
        centre: mu, [k, n].
        width: s, positive.

    Raises:
        ConfigError: shapes do not fit, or the width is not positive.
    """

    base: MetricBase
    height: Float[Tensor, ...]
    centre: Float[Tensor, ...]
    width: float

    def __post_init__(self) -> None:
        wanted = (len(self.height), self.base.n)
        if self.centre.shape != wanted:
            raise ConfigError(f"`centre` has shape {tuple(self.centre.shape)}; wanted {wanted}")
        if not self.width > 0:
            raise ConfigError(f"`width` is {self.width}; wanted a positive number")

    def exponent(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """f(x)."""
        square = (x.unsqueeze(-2) - self.centre).square().sum(-1)
        return (self.height * torch.exp(-square / (2 * self.width**2))).sum(-1)

    def scalar_curvature(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """In closed form: no derivative is taken at run time."""
        away = (x.unsqueeze(-2) - self.centre) / self.width
        lifted = away @ self.base.g0_inv
        share = self.height * torch.exp(away.square().sum(-1) / -2)
        f = share.sum(-1)
        slope = (share.unsqueeze(-1) * away).sum(-2)
        gradient_square = (slope @ self.base.g0_inv * slope).sum(-1) / self.width**2
        laplacian = (share * ((lifted * away).sum(-1) - self.base.g0_inv.trace())).sum(-1) / self.width**2
        return conformal_scalar(f, gradient_square, laplacian, self.base.n)

    def collapse(self, x: Float[Tensor, "*batch n"], *, eps: float = 1e-8) -> Float[Tensor, "*batch"]:
        """The resistance that the curvature gives a point: sqrt(|scalar| / n^2 + eps)."""
        return collapse_scalar(self.scalar_curvature(x), self.base.n, eps=eps)
