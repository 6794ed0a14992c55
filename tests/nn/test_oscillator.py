"""The oscillator bank against its recurrence, its kernel and the transpose of its map."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from holonomy.nn.oscillator import OscillatorBank
from holonomy.nn.scan import mirror, scan

LENGTHS = (1, 31, 32, 33, 128, 500)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-12}


def bank(modes: int = 6, chunk: int = 32) -> OscillatorBank:
    generator = torch.Generator().manual_seed(0)
    return OscillatorBank(modes, theta_range=(0.01, 3.0), gamma_range=(0.01, 1.0), chunk=chunk, generator=generator)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def recurrence(layer: OscillatorBank, f: Tensor) -> Tensor:
    """Second road: the two-term recurrence token by token."""
    theta, gamma = (a.detach()[:, None] for a in layer.double().angles())
    rho = torch.exp(-gamma)
    s = torch.sqrt(2 * (1 - rho**2))
    y1 = y2 = torch.zeros_like(f[..., 0])
    outputs = []
    for t in range(f.shape[-1]):
        y = 2 * rho * torch.cos(theta) * y1 - rho**2 * y2 + f[..., t]
        outputs.append(s * torch.sin(theta) * y)
        y1, y2 = y, y1
    return torch.stack(outputs, -1)


def by_fourier(layer: OscillatorBank, f: Tensor) -> Tensor:
    """Third road: convolution with the impulse response through zero-padded Fourier transforms."""
    theta, gamma = (a.detach()[:, None] for a in layer.double().angles())
    lag = torch.arange(f.shape[-1], dtype=torch.float64)
    s = torch.sqrt(2 * (1 - torch.exp(-2 * gamma)))
    kernel = s * torch.exp(-gamma * lag) * torch.sin(theta * (lag + 1))
    size = 2 * f.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(f, size) * torch.fft.rfft(kernel, size)[:, None], size)[..., : f.shape[-1]]


@pytest.mark.parametrize("length", LENGTHS)
def test_scan_equals_recurrence_and_fourier(length: int, dtype: torch.dtype) -> None:
    f = drawn(6, 2, length)
    with torch.no_grad():
        q = bank().to(dtype).free(f.to(dtype), None).double()
        for road in (recurrence(bank(), f), by_fourier(bank(), f)):
            assert (q - road).abs().max() <= TOLERANCE[dtype] * road.abs().max()


def test_chunk_length_changes_nothing() -> None:
    f = drawn(6, 2, 100)
    with torch.no_grad():
        results = [bank(chunk=c).double().free(f, None) for c in (1, 7, 32, 200)]
    for other in results[1:]:
        assert (results[0] - other).abs().max() <= 1e-12


@pytest.mark.parametrize("length", LENGTHS)
def test_mirror_is_the_transpose(length: int) -> None:
    x, y = drawn(6, 2, length), drawn(6, 2, length).flip(-1)
    with torch.no_grad():
        prop = bank().double().propagator()
    forward, backward = (scan(x, prop, None)[0] * y).sum(), (x * mirror(y, prop)[0]).sum()
    assert abs(float(forward - backward)) <= 1e-12 * max(1.0, abs(float(forward)))


def test_impulse_response_has_about_unit_energy() -> None:
    layer = OscillatorBank(50, theta_range=(0.3, 2.8), gamma_range=(0.02, 0.1), chunk=32, generator=torch.Generator())
    pulse = torch.zeros(50, 1, 1000)
    pulse[..., 0] = 1
    with torch.no_grad():
        energy = layer.free(pulse, None).square().sum((1, 2))
    assert (energy - 1).abs().max() < 0.2


def test_projection_bounds_and_is_idempotent() -> None:
    layer = bank()
    with torch.no_grad():
        layer.turn.copy_(torch.linspace(-40, 40, 6))
        layer.damping.copy_(torch.linspace(-40, 40, 6))
    layer.project()
    theta, gamma = layer.angles()
    assert theta.min() >= 1e-3 * 0.999 and theta.max() <= math.pi - 1e-3 * 0.999
    assert gamma.min() >= 1e-4 * 0.999 and gamma.max() <= 4 * 1.001
    once = torch.cat([layer.turn, layer.damping]).clone()
    layer.project()
    assert torch.equal(once, torch.cat([layer.turn, layer.damping]))


def test_initial_ranges_are_covered() -> None:
    theta, gamma = (a.detach() for a in bank(64).angles())
    assert math.isclose(float(theta.min()), 0.01, rel_tol=1e-4)
    assert math.isclose(float(theta.max()), 3.0, rel_tol=1e-4)
    assert math.isclose(float(gamma.min()), 0.01, rel_tol=1e-4)
    assert math.isclose(float(gamma.max()), 1.0, rel_tol=1e-4)
