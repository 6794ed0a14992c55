"""Learned metrics that are positive by construction: a diagonal in a frame plus low rank.

    g = Omega^2 L Q Lambda Q^T L^T + U diag(D) U^T,    g0 = L L^T (Cholesky),

with Lambda diagonal (diag_rot) or made of blocks C_k C_k^T (block_rot). Everything follows from the map

    A = [Omega Lambda^(1/2) Q^T L^T ; D^(1/2) U^T],    g(v, v) = |A v|^2,

so distances are Euclidean after `embed`. Inverse: Woodbury (1950); determinant: matrix determinant lemma (Harville
1997, theorem 18.1.1). The rows of vectors are on the axis before the last; heads come first everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from holonomy.core.errors import ConfigError

LIMITS = (1e-2, 1e2)
"""Bounds of every positive parameter of a metric: its condition number stays below 1e4 per factor."""

DIAGONAL_FLOOR = 1e-2
LARGEST_STORED_CONTRACTION = 8


def bounded_exp(log: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """exp, held to `LIMITS`; the gradient is zero outside, so optimisers clamp the logarithm after each step."""
    return log.clamp(*map(math.log, LIMITS)).exp()


def block_factor(raw: Float[Tensor, "*heads blocks b b"]) -> Float[Tensor, "*heads blocks b b"]:
    """Lower-triangular factors with diagonal softplus(raw) + 0.01: C C^T is positive for every raw."""
    return raw.tril(-1) + torch.diag_embed(softplus(raw.diagonal(dim1=-2, dim2=-1)) + DIAGONAL_FLOOR)


def check_spd(name: str, g: Float[Tensor, ...]) -> None:
    """Refuses what is not symmetric and positive definite; reads the values.

    Raises:
        ConfigError: names the argument and what is wrong with it.
    """
    if g.dim() < 2 or g.shape[-1] != g.shape[-2]:
        raise ConfigError(f"`{name}` has shape {tuple(g.shape)}; wanted square matrices")
    off = float((g - g.mT).abs().max() / g.abs().max())
    if not off <= 8 * torch.finfo(g.dtype).eps:
        raise ConfigError(f"`{name}` is not symmetric: off by {off:.1e} of its largest entry; use (g + g^T) / 2")
    least = float(torch.linalg.eigvalsh(g.double()).min())
    if not least > 0:
        raise ConfigError(
            f"`{name}` is not positive definite: its smallest eigenvalue is {least:.3e}; add a multiple of the identity"
        )


class MetricBase:
    """A fixed metric g0 with what is computed from it once, in float64.

    Args:
        g0: symmetric and positive definite, [n, n].

    Attributes:
        g0, g0_inv: the matrix and its inverse.
        factor, factor_inv_t: L with g0 = L L^T, and L^-T.
        K: contraction kernel K_abcd = g0_inv^ac g0_inv^bd / n^2, [n, n, n, n]; None above n = 8.

    Raises:
        ConfigError: g0 is not symmetric and positive definite.
    """

    def __init__(self, g0: Float[Tensor, ...]) -> None:
        check_spd("g0", g0)
        factor = torch.linalg.cholesky(g0.double())
        inverse = torch.cholesky_inverse(factor)
        self.n = g0.shape[-1]
        self.g0, self.g0_inv = g0, inverse.to(g0)
        self.factor = factor.to(g0)
        eye = torch.eye(self.n, dtype=torch.float64, device=g0.device)
        self.factor_inv_t = torch.linalg.solve_triangular(factor, eye, upper=False).mT.to(g0)
        small = self.n <= LARGEST_STORED_CONTRACTION
        self.K = torch.einsum("ac,bd->abcd", inverse, inverse).div(self.n**2).to(g0) if small else None

    @classmethod
    def identity(cls, n: int, dtype: torch.dtype = torch.float32) -> MetricBase:
        """The Euclidean base."""
        return cls(torch.eye(n, dtype=dtype))

    def contract(self, riemann: Float[Tensor, "*batch n n n n"]) -> Float[Tensor, "*batch"]:
        """K : Riem, first with third and second with fourth index: scalar curvature over n^2, if g0 is the metric."""
        if self.K is not None:
            return riemann.flatten(-4) @ self.K.flatten()
        ricci = torch.einsum("...abcd,ac->...bd", riemann, self.g0_inv)
        return (ricci * self.g0_inv).sum((-2, -1)) / self.n**2


@dataclass(frozen=True, eq=False)
class Metric:
    """One metric for each head, from values that are positive already (see `bounded_exp`, `block_factor`).

    Attributes:
        base: the fixed part g0.
        lam_local: Lambda as a diagonal, [*heads, n]; give this or `blocks`.
        blocks: lower-triangular factors C_k of the blocks of Lambda, [*heads, n / b, b, b].
        omega: scale, [*heads]; 1 if None.
        frame: orthogonal Q, [*heads, n, n]; the identity if None.
        U: low-rank columns, [*heads, n, r], or None.
        D: weights of the columns, [*heads, r], together with U.
        lam_mem: a second diagonal for candidates that are memories, see `memory`.

    Raises:
        ConfigError: shapes, dtypes or devices do not fit together; both or neither of `lam_local` and `blocks`.
    """

    base: MetricBase
    lam_local: Float[Tensor, ...] | None = None
    blocks: Float[Tensor, ...] | None = None
    omega: Float[Tensor, ...] | None = None
    frame: Float[Tensor, ...] | None = None
    U: Float[Tensor, ...] | None = None
    D: Float[Tensor, ...] | None = None
    lam_mem: Float[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        if (self.lam_local is None) == (self.blocks is None):
            raise ConfigError("`lam_local` and `blocks` are two forms of one matrix; give exactly one of them")
        if (self.U is None) != (self.D is None):
            raise ConfigError("`U` and `D` belong together; give both or neither")
        n, heads = self.base.n, self.heads
        wanted: dict[str, tuple[int, ...]] = {"lam_local": (n,), "lam_mem": (n,), "omega": (), "frame": (n, n)}
        if self.blocks is not None:
            b = self.blocks.shape[-1]
            if n % b:
                raise ConfigError(f"`blocks` have width {b}, which does not divide the {n} dimensions of the base")
            wanted["blocks"] = (n // b, b, b)
        if self.D is not None:
            r = self.D.shape[-1]
            wanted |= {"D": (r,), "U": (n, r)}
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is None:
                continue
            if value.shape != heads + shape:
                raise ConfigError(f"`{name}` has shape {tuple(value.shape)}; wanted {tuple(heads + shape)}")
            if value.dtype != self.base.g0.dtype or value.device != self.base.g0.device:
                raise ConfigError(
                    f"`{name}` is {value.dtype} on {value.device}, the base {self.base.g0.dtype} on "
                    f"{self.base.g0.device}; convert one of them"
                )

    @property
    def heads(self) -> torch.Size:
        """Leading dimensions of every parameter."""
        return self.lam_local.shape[:-1] if self.lam_local is not None else self._blocks.shape[:-3]

    @property
    def _blocks(self) -> Tensor:
        """Lambda as factors of blocks; a diagonal has blocks of one."""
        if self.blocks is not None:
            return self.blocks
        assert self.lam_local is not None
        return self.lam_local.sqrt()[..., None, None]

    def check(self) -> None:
        """Refuses values that do not make a metric; reads them, so not for hot paths.

        Raises:
            ConfigError: names what is not positive, or a frame that is not orthogonal.
        """
        diagonal = None if self.blocks is None else self.blocks.diagonal(dim1=-2, dim2=-1)
        for name, value in (
            ("lam_local", self.lam_local),
            ("lam_mem", self.lam_mem),
            ("omega", self.omega),
            ("D", self.D),
            ("blocks", diagonal),
        ):
            if value is not None and not bool((value > 0).all()):
                raise ConfigError(
                    f"`{name}` holds {float(value.min()):.3e}; wanted positive numbers: use `bounded_exp`"
                )
        if self.blocks is not None and bool(self.blocks.triu(1).any()):
            raise ConfigError("`blocks` are not lower triangular; use `block_factor`")
        if self.frame is not None:
            off = float((self.frame.mT @ self.frame - torch.eye(self.base.n).to(self.frame)).abs().max())
            if not off <= 100 * self.base.n * torch.finfo(self.frame.dtype).eps:
                raise ConfigError(f"`frame` is off an orthogonal matrix by {off:.1e}; take one from `frames`")

    def _scale(self) -> Tensor:
        """Omega, ready to multiply matrices."""
        return self.base.g0.new_ones(1, 1) if self.omega is None else self.omega[..., None, None]

    def _root(self) -> Tensor:
        """R = Omega Lambda^(1/2) Q^T L^T, so that the full-rank part of g is R^T R."""
        turned = self.base.factor.mT if self.frame is None else self.frame.mT @ self.base.factor.mT
        if self.lam_local is not None:
            return self._scale() * self.lam_local.sqrt().unsqueeze(-1) * turned
        blocks = self._blocks
        parts = turned.unflatten(-2, blocks.shape[-3:-1])
        return self._scale() * (blocks.mT @ parts).flatten(-3, -2)

    def _root_inverse(self) -> Tensor:
        """R^-1 = L^-T Q Lambda^(-1/2) / Omega."""
        turned = self.base.factor_inv_t if self.frame is None else self.base.factor_inv_t @ self.frame
        if self.lam_local is not None:
            return turned / (self._scale() * self.lam_local.sqrt().unsqueeze(-2))
        blocks = self._blocks
        parts = turned.unflatten(-1, blocks.shape[-3:-1]).transpose(-3, -2)
        solved = torch.linalg.solve_triangular(blocks.mT, parts, upper=True, left=False)
        return solved.transpose(-3, -2).flatten(-2) / self._scale()

    def _whitened(self, root_inverse: Tensor) -> Tensor | None:
        """W = R^-T U D^(1/2): g = R^T (1 + W W^T) R."""
        if self.U is None or self.D is None:
            return None
        return root_inverse.mT @ (self.U * self.D.sqrt().unsqueeze(-2))

    def map(self) -> Float[Tensor, "*heads rows n"]:
        """A with g(v, v) = |A v|^2; n + r rows."""
        root = self._root().expand(*self.heads, -1, -1)
        if self.U is None or self.D is None:
            return root
        return torch.cat((root, (self.U * self.D.sqrt().unsqueeze(-2)).mT), -2)

    def embed(self, v: Float[Tensor, "*rest n"]) -> Float[Tensor, "*rest rows"]:
        """A v: Euclidean distances of the results are distances in g. v: [*heads, m, n]."""
        return v @ self.map().mT

    def quad(self, v: Float[Tensor, "*rest n"]) -> Float[Tensor, "*rest"]:
        """g(v, v), never negative. v: [*heads, m, n]."""
        return self.embed(v).square().sum(-1)

    def matrix(self) -> Float[Tensor, "*heads n n"]:
        """g itself."""
        a = self.map()
        return a.mT @ a

    def inverse(self) -> Float[Tensor, "*heads n n"]:
        """g^-1 = R^-1 (1 - W (1 + W^T W)^-1 W^T) R^-T, by a Cholesky factor of the r x r matrix."""
        inverse = self._root_inverse().expand(*self.heads, -1, -1)
        whitened = self._whitened(inverse)
        full = inverse @ inverse.mT
        if whitened is None:
            return full
        small = torch.linalg.cholesky(torch.eye(whitened.shape[-1]).to(whitened) + whitened.mT @ whitened)
        lost = torch.linalg.solve_triangular(small, (inverse @ whitened).mT, upper=False)
        return full - lost.mT @ lost

    def logdet(self) -> Float[Tensor, "*heads"]:
        """log det g = 2 n log Omega + log det Lambda + log det g0 + log det (1 + W^T W)."""
        diagonal = self._blocks.diagonal(dim1=-2, dim2=-1).flatten(-2)
        total = 2 * (diagonal.log().sum(-1) + self.base.factor.diagonal().log().sum())
        if self.omega is not None:
            total = total + 2 * self.base.n * self.omega.log()
        whitened = self._whitened(self._root_inverse())
        if whitened is None:
            return total
        small = torch.eye(whitened.shape[-1]).to(whitened) + whitened.mT @ whitened
        return total + 2 * torch.linalg.cholesky(small).diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def memory(self) -> Metric:
        """The metric for memories: `lam_mem` instead of `lam_local`, all else the same.

        Raises:
            ConfigError: there is no `lam_mem`.
        """
        if self.lam_mem is None:
            raise ConfigError("`lam_mem` is None; give a second diagonal to measure memories with")
        return replace(self, lam_local=self.lam_mem, blocks=None, lam_mem=None)

    def stat(self, s: Float[Tensor, "*heads n n"]) -> dict[str, Tensor]:
        """Derivatives of a loss by the parameters, from S with dloss = sum_ab S_ab dg_ab, S symmetric.

        With S' = L^T S L and T = Q^T S' Q: dLambda = Omega^2 diag T; dC_k = 2 Omega^2 T_kk C_k, lower triangle;
        dOmega = 2 Omega tr(Lambda T); dQ = 2 Omega^2 S' Q Lambda; dU = 2 S U D; dD = diag(U^T S U).

        Returns:
            By attribute name, for the parameters that are there; `frame` is the derivative by Q, as `Rotor.stat` takes.
        """
        blocks, scale = self._blocks, self._scale()
        count, b = blocks.shape[-3:-1]
        based = self.base.factor.mT @ s @ self.base.factor
        turned = based if self.frame is None else self.frame.mT @ based @ self.frame
        on_diagonal = torch.diagonal(turned.unflatten(-1, (count, b)).unflatten(-3, (count, b)), dim1=-4, dim2=-2)
        on_diagonal = on_diagonal.movedim(-1, -3)
        found: dict[str, Tensor] = {}
        if self.blocks is None:
            found["lam_local"] = scale.square().squeeze(-1) * turned.diagonal(dim1=-2, dim2=-1)
        else:
            found["blocks"] = 2 * scale.square().unsqueeze(-1) * (on_diagonal @ blocks).tril()
        if self.omega is not None:
            found["omega"] = 2 * self.omega * ((on_diagonal @ blocks) * blocks).sum((-3, -2, -1))
        if self.frame is not None:
            parts = (based @ self.frame).unflatten(-1, (count, b)).transpose(-3, -2)
            found["frame"] = 2 * scale.square() * (parts @ blocks @ blocks.mT).transpose(-3, -2).flatten(-2)
        if self.U is not None and self.D is not None:
            pulled = s @ self.U
            found["U"] = 2 * pulled * self.D.unsqueeze(-2)
            found["D"] = (self.U * pulled).sum(-2)
        return found

    def pull(self, da: Float[Tensor, "*heads rows n"]) -> dict[str, Tensor]:
        """Derivatives of a loss by the parameters, from its derivative by A (see `map`), as `stat` returns them.

        With the rows T = Q^T L^T: dlambda_i = Omega dA_i . T_i / (2 sqrt(lambda_i)); dC_k = Omega T_k dA_k^T, lower
        triangle; dOmega = dA . A / Omega; dQ = L^T dT^T; dU = dA_r^T sqrt(D); dD_r = dA_r . U_r / (2 sqrt(D_r)).
        """
        n, scale = self.base.n, self._scale()
        droot = da[..., :n, :]
        turned = self.base.factor.mT if self.frame is None else self.frame.mT @ self.base.factor.mT
        found: dict[str, Tensor] = {}
        if self.lam_local is not None:
            root = self.lam_local.sqrt().unsqueeze(-1)
            found["lam_local"] = (scale * droot * turned / (2 * root)).sum(-1)
            dturned = scale * root * droot
        else:
            blocks = self._blocks
            shape = blocks.shape[-3:-1]
            found["blocks"] = scale.unsqueeze(-1) * (turned.unflatten(-2, shape) @ droot.unflatten(-2, shape).mT).tril()
            dturned = scale * (blocks @ droot.unflatten(-2, shape)).flatten(-3, -2)
        if self.omega is not None:
            found["omega"] = (droot * self._root()).sum((-2, -1)) / self.omega
        if self.frame is not None:
            found["frame"] = self.base.factor.mT @ dturned.mT
        if self.U is not None and self.D is not None:
            lower = da[..., n:, :].mT
            found["U"] = lower * self.D.sqrt().unsqueeze(-2)
            found["D"] = (lower * self.U).sum(-2) / (2 * self.D.sqrt())
        return found
