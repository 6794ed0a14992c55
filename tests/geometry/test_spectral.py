"""Ranks of spectra that are known, and errors of approximations that are measured."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.geometry import spectral


def with_spectrum(s: Tensor, m: int, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(m, len(s), generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(n, len(s), generator=generator, dtype=torch.float64))
    return (u * s) @ v.T


def test_ranks_of_known_spectra(dtype: torch.dtype) -> None:
    equal = torch.full((6,), 2.0, dtype=dtype)
    assert math.isclose(float(spectral.participation_ratio(equal)), 6, rel_tol=1e-6)
    assert math.isclose(float(spectral.entropy_rank(equal)), 6, rel_tol=1e-6)
    assert int(spectral.effective_rank(equal, 0.01)) == 6
    assert int(spectral.energy_rank(equal, 0.99)) == 6
    assert int(spectral.energy_rank(equal, 0.5)) == 3
    falling = torch.tensor([1.0, 0.1, 0.01, 0.0], dtype=dtype)
    assert [int(spectral.effective_rank(falling, t)) for t in (0.5, 0.05, 0.005)] == [1, 2, 3]
    assert [int(spectral.energy_rank(falling, t)) for t in (0.9, 0.995, 0.99999, 1.0)] == [1, 2, 3, 3]
    zero = torch.zeros(3, dtype=dtype)
    assert int(spectral.energy_rank(zero, 0.9)) == 0
    assert float(spectral.participation_ratio(zero)) == float(spectral.entropy_rank(zero)) == 0
    for scale in (1e-12, 1e12):
        assert math.isclose(float(spectral.participation_ratio(scale * equal)), 6, rel_tol=1e-6)
        assert math.isclose(float(spectral.entropy_rank(scale * equal)), 6, rel_tol=1e-6)
    energies = falling.double().square()
    p = (energies / energies.sum())[:3]
    assert math.isclose(float(spectral.entropy_rank(falling)), math.exp(-float((p * p.log()).sum())), rel_tol=1e-5)
    assert math.isclose(
        float(spectral.participation_ratio(falling)),
        float(energies.sum()) ** 2 / float(energies.square().sum()),
        rel_tol=1e-5,
    )


def test_truncation_has_the_error_of_eckart_and_young() -> None:
    s = torch.tensor([5.0, 3.0, 1.0, 0.3, 0.01], dtype=torch.float64)
    a = with_spectrum(s, 12, 9)
    for rank in range(1, 6):
        low = spectral.truncated_svd(a, rank)
        assert math.isclose(low.error, float(s[rank:].norm()), rel_tol=1e-9, abs_tol=1e-12)
        assert math.isclose(low.error, float((a - low.matrix()).norm()), rel_tol=1e-6, abs_tol=1e-12)
        assert (low.u.T @ low.u - torch.eye(rank)).abs().max() < 1e-12


def test_randomised_factorisation_is_near_the_best_and_knows_its_error() -> None:
    s = torch.logspace(0, -6, 60, dtype=torch.float64)
    a = with_spectrum(s, 200, 150)
    for rank in (5, 20):
        low = spectral.randomized_svd(a, rank, generator=torch.Generator().manual_seed(1))
        assert math.isclose(low.error, float((a - low.matrix()).norm()), rel_tol=1e-9)
        assert low.error <= 1.05 * float(s[rank:].norm())
        assert (low.s - s[:rank]).abs().max() < 1e-3 * s[0]


def test_compression_refuses_what_it_cannot_keep() -> None:
    s = torch.tensor([1.0, 0.5, 0.1, 0.001], dtype=torch.float64)
    a = with_spectrum(s, 8, 8)
    assert spectral.compress(a, 3, tolerance=0.01).error < 0.01 * float(s.norm())
    with pytest.raises(ConfigError, match="rank 3 would do"):
        spectral.compress(a, 2, tolerance=0.01)
    for rank in (0, 9):
        with pytest.raises(ConfigError, match="wants 1 to 8"):
            spectral.truncated_svd(a, rank)
