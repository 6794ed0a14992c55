"""Claims about motion in time: true of the code, and red for each broken double."""

from __future__ import annotations

import pytest
import torch
from mutants import Mutant

from holonomy.dynamics import kernels, symplectic
from holonomy.dynamics.unitary import Schroedinger


def rounded_down(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = 2**symplectic.FRACTION_BITS
    monkeypatch.setattr(symplectic, "_add", lambda x, step, name: (x + (step * scale).floor()).to(torch.int32))


def explicit_euler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symplectic, "step", lambda q, p, force, h: (q + h * p, p + h * force(q)))


def heavier(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Schroedinger.kinetic_spectrum
    monkeypatch.setattr(Schroedinger, "kinetic_spectrum", lambda self, dtype: 1.01 * plain(self, dtype))


def lossy(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Schroedinger.crank_nicolson
    monkeypatch.setattr(Schroedinger, "crank_nicolson", lambda self, t: plain(self, t) * (1 - 1e-12))


def understated(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = kernels.power_law

    def proud(delta: float, t_max: int, terms: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        rates, weights, error = plain(delta, t_max, terms)
        return rates, weights, error / 2

    monkeypatch.setattr(kernels, "power_law", proud)


def one_step_late(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(self, x, state):
        return (state * self.weights).sum(-1).real, state * self.poles + x.unsqueeze(-1)

    monkeypatch.setattr(kernels.PoleKernel, "step", late)


MUTANTS = [
    Mutant("dynamics.reversible", "fixed point rounds down", rounded_down),
    Mutant("dynamics.reversible", "steps are explicit Euler's", explicit_euler),
    Mutant("dynamics.unitary", "kinetic energies are 1 % too large", heavier),
    Mutant("dynamics.unitary", "a step loses a part in 10^12", lossy),
    Mutant("dynamics.power-law-kernel", "the certificate is half the error", understated),
    Mutant("dynamics.power-law-kernel", "the newest input comes a step late", one_step_late),
]
