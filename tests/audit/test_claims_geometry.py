"""Claims about geometry: true of the code, and red for each broken double."""

from __future__ import annotations

import pytest
import torch
from mutants import Mutant

from holonomy.audit.claims import geometry as claims
from holonomy.geometry import padic, poincare
from holonomy.geometry.poincare import Poincare


def half_as_far(monkeypatch: pytest.MonkeyPatch) -> None:
    straight = Poincare.exp0
    monkeypatch.setattr(Poincare, "exp0", lambda self, v: straight(self, v / 2))


def careless_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Poincare, "transport", lambda self, x, y, v: v)


def curvature_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = poincare.dist
    monkeypatch.setattr(poincare, "dist", lambda x, y, k: plain(x, y, k.detach()) + 0.0 * k)


def ceiling_without_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "spearman_ceiling", lambda counts: 1.0)


def valuation_of_zero_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = padic.PadicTree.valuation
    monkeypatch.setattr(padic.PadicTree, "valuation", lambda self, n: torch.where(n == 0, 0, plain(self, n)))


MUTANTS = [
    Mutant("geometry.axioms", "transport leaves vectors as they are", careless_transport),
    Mutant("geometry.radius-is-geodesic", "exp0 measures vectors by their coordinates", half_as_far),
    Mutant("geometry.curvature-learns", "the curvature is detached", curvature_cut_off),
    Mutant("geometry.hierarchy-ceiling", "ties are left out of the ceiling", ceiling_without_ties),
    Mutant("geometry.hierarchy-ceiling", "zero gets valuation 0", valuation_of_zero_forgotten),
]
