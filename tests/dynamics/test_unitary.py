"""Unitary evolution against the matrix exponential, plane waves, and its own norm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.dynamics.unitary import Schroedinger, laplacian, laplacian_spectrum
from holonomy.testing import assert_convergence_order

SHAPE = (6, 5)


def field(*more: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(*SHAPE, *more, generator=torch.Generator().manual_seed(0), dtype=torch.complex128).to(dtype)


def potential(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def dense(system: Schroedinger) -> Tensor:
    size = SHAPE[0] * SHAPE[1]
    return system.hamiltonian(torch.eye(size, dtype=torch.complex128).view(*SHAPE, size)).view(size, size)


METRICS = [(1.0, 1.0, 0.0), (2.0, 0.5, 0.0), (1.5, 0.8, -0.9)]


@pytest.mark.parametrize("metric", METRICS)
def test_laplacian_mode_by_mode_on_both_axes(metric: tuple[float, float, float]) -> None:
    spectrum = laplacian_spectrum(*SHAPE, torch.float64, metric)
    assert float(spectrum.max()) <= 1e-15
    for mx in range(SHAPE[0]):
        for my in range(SHAPE[1]):
            x = torch.arange(SHAPE[0], dtype=torch.float64)[:, None] * (2 * math.pi * mx / SHAPE[0])
            y = torch.arange(SHAPE[1], dtype=torch.float64) * (2 * math.pi * my / SHAPE[1])
            wave = torch.polar(torch.ones(SHAPE, dtype=torch.float64), x + y)
            assert (laplacian(wave, metric) - spectrum[mx, my] * wave).abs().max() < 1e-13


def test_hamiltonian_is_hermitian_and_acts_on_every_component_alike() -> None:
    system = Schroedinger(potential(), dt=0.1, hbar=0.7, mass=1.3)
    matrix = dense(system)
    assert (matrix - matrix.conj().T).abs().max() < 1e-14
    many = field(2, 3)
    each = torch.stack([system.hamiltonian(many[..., i, j]) for i in range(2) for j in range(3)], -1)
    assert (system.hamiltonian(many).reshape(*SHAPE, 6) - each).abs().max() < 1e-14


@pytest.mark.parametrize("method", ["split_step", "crank_nicolson"])
def test_order_two_against_the_matrix_exponential(method: str) -> None:
    start = field()
    whole = torch.linalg.matrix_exp(-1j / 0.7 * dense(Schroedinger(potential(), dt=1.0, hbar=0.7)))
    exact = (whole @ start.view(-1)).view(SHAPE)

    def error(dt: float) -> float:
        system, t = Schroedinger(potential(), dt=dt, hbar=0.7), start
        for _ in range(round(1 / dt)):
            t = getattr(system, method)(t)
        return float((t - exact).norm())

    assert_convergence_order(error, [1 / 16, 1 / 32, 1 / 64, 1 / 128], order=2.0, tolerance=0.05)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.complex128, 1e-10), (torch.complex64, 1e-5)])
@pytest.mark.parametrize("method", ["split_step", "crank_nicolson"])
def test_norm_stays(method: str, dtype: torch.dtype, limit: float) -> None:
    real = torch.float64 if dtype is torch.complex128 else torch.float32
    system, t = Schroedinger(potential(real), dt=0.05), field(2, dtype=dtype)
    norm, energy = float(t.norm()), float(system.energy(t))
    for _ in range(2000):
        t = getattr(system, method)(t)
    assert abs(float(t.norm()) / norm - 1) < limit
    if method == "crank_nicolson":
        assert abs(float(system.energy(t)) / energy - 1) < 10 * limit


@pytest.mark.parametrize("metric", METRICS)
def test_laplacian_of_functions_of_one_axis(metric: tuple[float, float, float]) -> None:
    """Second differences by hand: along one axis only that entry of the metric acts."""
    rng = torch.Generator().manual_seed(3)
    for axis, entry in ((0, metric[0]), (1, metric[1])):
        line = torch.randn(SHAPE[axis], generator=rng, dtype=torch.complex128)
        second = torch.stack([line[(i + 1) % len(line)] + line[i - 1] - 2 * line[i] for i in range(len(line))])
        spread = (lambda v: v[:, None].expand(SHAPE)) if axis == 0 else (lambda v: v.expand(SHAPE))
        assert (laplacian(spread(line), metric) - entry * spread(second)).abs().max() < 1e-13


def test_crank_nicolson_without_a_potential_equals_the_dense_solution() -> None:
    free = Schroedinger(torch.zeros(SHAPE, dtype=torch.float64), dt=0.3, hbar=0.7, metric=METRICS[2])
    half = 0.5j * 0.3 / 0.7 * dense(free)
    identity = torch.eye(len(half), dtype=torch.complex128)
    exact = torch.linalg.solve(identity + half, (identity - half) @ field().view(-1)).view(SHAPE)
    assert (free.crank_nicolson(field()) - exact).abs().max() < 1e-13


def test_free_waves_turn_by_their_energy() -> None:
    system = Schroedinger(torch.zeros(SHAPE, dtype=torch.float64), dt=0.3, hbar=0.5, mass=2.0)
    x = torch.arange(SHAPE[0], dtype=torch.float64)[:, None].expand(SHAPE) * (2 * math.pi / SHAPE[0])
    wave = torch.polar(torch.ones(SHAPE, dtype=torch.float64), x)
    energy = 0.5**2 / (2 * 2.0) * 4 * math.sin(math.pi / SHAPE[0]) ** 2
    turned = wave * torch.exp(torch.tensor(-1j * energy * 0.3 / 0.5))
    assert (system.split_step(wave) - turned).abs().max() < 1e-7


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="hbar"):
        Schroedinger(potential(), dt=0.1, hbar=0.0)
    with pytest.raises(ConfigError, match="`metric`"):
        Schroedinger(potential(), dt=0.1, metric=(1.0, 1.0, 1.5))
    with pytest.raises(ConfigError, match="split_step"):
        Schroedinger(torch.ones(65, 64), dt=0.1).crank_nicolson(torch.zeros(65, 64, dtype=torch.complex64))
