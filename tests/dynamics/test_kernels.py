"""Kernels as recurrences against direct convolution, and the certificate of the power law."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.dynamics.kernels import PoleKernel, power_law, three_modes


def kernel(terms: int = 16) -> PoleKernel:
    return three_modes(decay=(0.8, 0.1), power=(-0.4, 0.5, 0.01), wave=(0.6, 0.9, 0.3, 0.05), terms=terms)


def closed_form(tau: Tensor) -> Tensor:
    return (
        0.8 * torch.exp(-0.1 * tau)
        - 0.4 * (tau + 1) ** -0.5 * torch.exp(-0.01 * tau)
        + 0.6 * torch.cos(0.9 * tau + 0.3) * torch.exp(-0.05 * tau)
    )


def convolved(k: Tensor, x: Tensor) -> Tensor:
    return torch.stack([(k[: t + 1].flip(0) * x[..., : t + 1]).sum(-1) for t in range(x.shape[-1])], -1)


def inputs() -> Tensor:
    return torch.randn(3, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_recurrence_equals_convolution() -> None:
    found, x = kernel(), inputs()
    assert len(found.poles) == 18
    state, outputs = found.start(3), []
    for t in range(x.shape[-1]):
        y, state = found.step(x[:, t], state)
        outputs.append(y)
    expected = convolved(found(torch.arange(300.0, dtype=torch.float64)), x)
    assert (torch.stack(outputs, -1) - expected).abs().max() < 1e-12


def test_chunks_equal_steps() -> None:
    found, x = kernel(), inputs()
    whole, _ = found.run(x, found.start(3))
    state, parts = found.start(3), []
    for part in x.split([1, 50, 7, 120, 122], -1):
        y, state = found.run(part, state)
        parts.append(y)
    assert (torch.cat(parts, -1) - whole).abs().max() < 1e-12
    expected = convolved(found(torch.arange(300.0, dtype=torch.float64)), x)
    assert (whole - expected).abs().max() < 1e-12


def test_poles_stand_for_the_three_modes() -> None:
    tau = torch.arange(1024.0, dtype=torch.float64)
    assert (kernel()(tau) - closed_form(tau)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("t_max", "terms", "reference"),
    [(100, 8, 8.8e-4), (100, 12, 2.7e-6), (1000, 12, 6.1e-5), (1000, 16, 1.9e-6), (10_000, 16, 3.4e-5)],
)
def test_certificate_of_the_power_law(t_max: int, terms: int, reference: float) -> None:
    rates, weights, error = power_law(0.5, t_max, terms)
    t = torch.arange(1, t_max + 2, dtype=torch.float64)
    measured = (((torch.exp(-t[:, None] * rates) * weights).sum(-1) * t.sqrt()) - 1).abs().max()
    assert float(measured) == error
    assert error <= 2 * reference


def test_refusals() -> None:
    for arguments in ((0.0, 100, 8), (2.0, 100, 8), (0.5, 1, 8), (0.5, 100, 1)):
        with pytest.raises(ConfigError, match="delta"):
            power_law(*arguments)
