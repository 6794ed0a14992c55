"""Claims about spectra: true of small runs, and red for each broken double."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mutants import Mutant, assert_refuted, assert_stands

from holonomy.audit.claims import spectral as claims
from holonomy.geometry import spectral


def energies_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "_shares", lambda s: s / s.sum(-1, keepdim=True))


def one_rank_less(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = spectral.energy_rank
    monkeypatch.setattr(spectral, "energy_rank", lambda s, share: plain(s, share) - 1)


def error_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = spectral.truncated_svd
    monkeypatch.setattr(spectral, "truncated_svd", lambda a, r: replace(plain(a, r), error=plain(a, r).error / 2))


def everything_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "compress", lambda a, rank, tolerance: spectral.truncated_svd(a, rank))


MUTANTS = [
    Mutant("spectral.diagnostics", "shares of singular values instead of energies", energies_forgotten),
    Mutant("spectral.diagnostics", "ranks of energy are one too small", one_rank_less),
    Mutant("spectral.diagnostics", "the stated error is half the true one", error_halved),
    Mutant("spectral.diagnostics", "compression ignores its tolerance", everything_compressed),
]


@pytest.mark.parametrize("name", sorted({m.claim for m in MUTANTS}))
def test_claims_stand(name: str, lior_run: Path, ternary_run: Path, tmp_path: Path) -> None:
    assert_stands(name, tmp_path, lior=lior_run, ternary=ternary_run)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_mutants_are_caught(mutant: Mutant, lior_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refuted(mutant, monkeypatch, tmp_path, lior=lior_run)


def test_fields_and_averages_are_measured_and_moments_are_not() -> None:
    ones = torch.ones(2, 3, 4)
    found = claims.matrices_of({
        "buffer.field": ones, "average.a": ones[0], "optimiser.first": ones, "model.bias": torch.ones(3),
        "model.zero": 0 * ones,
    })  # fmt: skip
    assert {name: tuple(a.shape) for name, a in found.items()} == {"buffer.field": (6, 4), "average.a": (3, 4)}
