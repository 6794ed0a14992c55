"""What a lior model looks like inside: the poles of its oscillators, the spectra of its metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from holonomy.core.layer import EchoLayer
from holonomy.core.picture import Axis, Picture, Series
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.nn.containers import Chain

UNDAMPED = 1e-6
"""Dampings below this are rounding errors of a pole on the unit circle."""


@runtime_checkable
class Resonant(Protocol):
    """A bank whose modes have poles."""

    def poles(self) -> Tensor: ...


@runtime_checkable
class Measured(Protocol):
    """Retrieval whose heads have metrics."""

    def spectra(self) -> dict[str, Tensor]: ...


@torch.no_grad()
def lior_pictures(model: LiorLanguageModel) -> list[Picture]:
    """Poles of every bank in the complex plane, periods against memories, and a spectrum for every metric."""
    banks, found = [], list[Picture]()
    for place, block in enumerate(_blocks(model.net), start=1):
        for layer in block.modules():
            if isinstance(layer, Resonant):
                banks.append((f"block {place}", layer.poles().flatten().cpu().to(torch.complex128)))
            elif isinstance(layer, Measured):
                found += [_spectrum(f"{name}, block {place}", v.cpu()) for name, v in layer.spectra().items()]
    return [*_oscillators(banks), *found]


def _blocks(net: Chain) -> list[EchoLayer]:
    """The layers between embedding and read-out."""
    return list(net)[1:-1]


def _oscillators(banks: Sequence[tuple[str, Tensor]]) -> list[Picture]:
    if not banks:
        return []
    plane, decay, odd, rows = [], [], 0, list[Sequence[str | float]]()
    for name, poles in banks:
        pairs = torch.cat([poles, poles[poles.imag > 0].conj()])
        plane.append(Series(name, pairs.real.tolist(), pairs.imag.tolist()))
        turn, gamma = poles.angle(), -poles.abs().log()
        gamma = torch.where(gamma < UNDAMPED, 0.0, gamma)
        both = (turn > 0) & (gamma > 0)
        odd += int((~both).sum())
        decay.append(Series(name, (2 * math.pi / turn[both]).tolist(), (1 / gamma[both]).tolist()))
        ends = ((t.min(), t.median(), t.max()) for t in (turn, gamma))
        rows.append([name, len(poles), *(float(v) for triple in ends for v in triple)])
    header = [
        "bank",
        "modes",
        *(f"{kind} {what}" for what in ("turn", "damping") for kind in ("least", "median", "most")),
    ]
    found = [
        Picture(
            "Poles of the oscillators",
            "What a token multiplies each mode by, in the complex plane: the angle is its frequency, the distance from "
            "the unit circle its damping, and a mode on the circle forgets nothing. Turns in radians per token.",
            Axis("real part"),
            Axis("imaginary part"),
            plane,
            mark="point",
            square=True,
            circle=1.0,
            table=(header, rows),
        ),
    ]
    if any(series.x for series in decay):
        words = f" {odd:,} that never turn or never fade have no place here." if odd else ""
        found.append(
            Picture(
                "Periods and memories",
                "The same modes: how many tokens a turn takes, and after how many the amplitude is down to 1/e."
                + words,
                Axis("period, tokens", log=True),
                Axis("memory, tokens", log=True),
                decay,
                mark="point",
            )
        )
    return found


def _spectrum(name: str, values: Tensor) -> Picture:
    heads = [
        Series(f"head {n}", range(1, len(row) + 1), row.double().tolist()) for n, row in enumerate(values, start=1)
    ]
    return Picture(
        f"Metric spectrum: {name}",
        "Eigenvalues of the metric of each head, largest first: how differently directions count in its distances.",
        Axis("rank"),
        Axis("eigenvalue", log=True),
        heads,
    )
