"""How many directions a matrix really uses: measure first, compress second, validate always.

Singular values s_1 >= s_2 >= ... on the last axis; energies e = s^2. Sources: Roy & Vetterli (2007) for the entropy
rank, Halko, Martinsson & Tropp (2011), algorithms 4.3 and 4.4, for the randomised factorisation, Eckart & Young (1936)
for the error of truncation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import ConfigError


def effective_rank(s: Float[Tensor, "... n"], share: float) -> Int[Tensor, ...]:
    """Number of singular values above `share` of the largest."""
    return (s > share * s[..., :1]).sum(-1)


def energy_rank(s: Float[Tensor, "... n"], share: float) -> Int[Tensor, ...]:
    """Smallest number of leading singular values that hold this share of the energy; 0 for a zero matrix."""
    energy = s.double().square()
    rest = energy.flip(-1).cumsum(-1).flip(-1)
    # The tail after k values must not exceed what may be lost; sums of the tail keep the digits that 1 - share has.
    return (rest > (1 - share) * rest[..., :1]).sum(-1)


def _shares(s: Tensor) -> Tensor:
    """Energies over their sum; scaled first, so that squares of squares neither overflow nor vanish."""
    energy = (s / s.amax(-1, keepdim=True)).square()
    return energy / energy.sum(-1, keepdim=True)


def participation_ratio(s: Float[Tensor, "... n"]) -> Float[Tensor, ...]:
    """(sum e)^2 / sum e^2: n equal energies give n; 0 for a zero matrix."""
    return torch.where(s.amax(-1) == 0, 0, 1 / _shares(s).square().sum(-1))


def entropy_rank(s: Float[Tensor, "... n"]) -> Float[Tensor, ...]:
    """exp of the entropy of the energies as a distribution; 0 for a zero matrix (Roy & Vetterli 2007, on s itself)."""
    return torch.where(s.amax(-1) == 0, 0, torch.special.entr(_shares(s)).sum(-1).exp())


@dataclass(frozen=True)
class LowRank:
    """A factorisation u diag(s) v^T with a bound on what it leaves out.

    Attributes:
        u, s, v: [m, r], [r], [n, r].
        error: Frobenius norm of what is left out, measured, not estimated.
    """

    u: Float[Tensor, "m r"]
    s: Float[Tensor, " r"]
    v: Float[Tensor, "n r"]
    error: float

    def matrix(self) -> Float[Tensor, "m n"]:
        """The matrix that the factors stand for."""
        return (self.u * self.s) @ self.v.T


def _check_rank(a: Tensor, rank: int) -> None:
    if not 1 <= rank <= min(a.shape):
        raise ConfigError(f"`rank` is {rank}; a matrix of shape {tuple(a.shape)} wants 1 to {min(a.shape)}")


def truncated_svd(a: Float[Tensor, "m n"], rank: int) -> LowRank:
    """The best approximation of this rank; its error is the norm of the singular values left out (Eckart & Young).

    Raises:
        ConfigError: the rank is out of range.
    """
    _check_rank(a, rank)
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    error = float(torch.linalg.vector_norm(s[rank:].double())) if rank < len(s) else 0.0
    return LowRank(u[:, :rank], s[:rank], vh[:rank].T, error)


def randomized_svd(
    a: Float[Tensor, "m n"], rank: int, *, oversample: int = 8, power: int = 2, generator: torch.Generator
) -> LowRank:
    """A near-best approximation from a few products with a; its error is measured on the whole matrix.

    Args:
        a: the matrix.
        rank: rank of the result.
        oversample: random directions beyond the rank.
        power: rounds of subspace iteration; more for spectra that fall slowly.
        generator: source of the random directions.

    Raises:
        ConfigError: the rank is out of range.
    """
    _check_rank(a, rank)
    width = min(rank + oversample, min(a.shape))
    sketch = a @ torch.randn(a.shape[1], width, generator=generator, dtype=a.dtype).to(a.device)
    q, _ = torch.linalg.qr(sketch)
    for _ in range(power):
        q, _ = torch.linalg.qr(a.T @ q)
        q, _ = torch.linalg.qr(a @ q)
    small, s, vh = torch.linalg.svd(q.T @ a, full_matrices=False)
    u, s, v = (q @ small)[:, :rank], s[:rank], vh[:rank].T
    error = float(torch.linalg.matrix_norm(a.double() - (u * s).double() @ v.T.double()))
    return LowRank(u, s, v, error)


def compress(a: Float[Tensor, "m n"], rank: int, *, tolerance: float) -> LowRank:
    """The best approximation of this rank, if it keeps all but `tolerance` of the norm.

    Raises:
        ConfigError: it does not; says which rank would.
    """
    low = truncated_svd(a, rank)
    whole = float(torch.linalg.matrix_norm(a.double()))
    if low.error > tolerance * whole:
        s = torch.linalg.svdvals(a.double())
        needed = int(energy_rank(s, 1 - tolerance**2))
        raise ConfigError(
            f"`rank` {rank} leaves out {low.error / whole:.2e} of the norm, `tolerance` allows {tolerance:.2e}; "
            f"rank {needed} would do"
        )
    return low
