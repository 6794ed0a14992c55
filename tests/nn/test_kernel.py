"""Kernel banks against the direct convolution and the poles of `dynamics.kernels`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from holonomy.dynamics.kernels import three_modes
from holonomy.nn.kernel import EXPONENTS, KernelBank


def bank() -> KernelBank:
    found = KernelBank(6, reach=200, terms=10, generator=torch.Generator().manual_seed(0)).double()
    found.phase.data.add_(torch.linspace(-1, 1, 6))
    return found.requires_grad_(False)


def test_kernels_are_those_of_the_formula() -> None:
    layer, tau = bank(), torch.arange(150, dtype=torch.float64)
    found = layer.kernel(150)
    for n in range(6):
        expected = three_modes(
            decay=(float(layer.relaxation[n]), float(layer.relaxation_rate[n].exp())),
            power=(float(layer.power[n]), EXPONENTS[n % 3], float(layer.power_rate[n].exp())),
            wave=(
                float(layer.wave[n]),
                math.pi * float(torch.sigmoid(layer.turn[n])),
                float(layer.phase[n]),
                float(layer.wave_rate[n].exp()),
            ),
            t_max=200,
            terms=10,
        )(tau)
        # The layer keeps its exponentials in float32.
        assert torch.allclose(found[n], expected, rtol=1e-5, atol=1e-5)


def test_recurrence_is_the_convolution() -> None:
    layer = bank()
    x = torch.randn(6, 2, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kernel = layer.kernel(60)
    direct = torch.zeros_like(x)
    for t in range(60):
        for back in range(t + 1):
            direct[..., t] += kernel[:, back, None] * x[..., t - back]
    w = torch.sigmoid(layer.direct)[:, None, None]
    expected = w * x + (1 - w) * direct
    state, ones = layer.start(2), list[Tensor]()
    for t in range(60):
        y, state = layer.step(x[..., t], state)
        ones.append(y)
    assert torch.allclose(layer.free(x, None), expected, rtol=1e-10, atol=1e-10)
    assert torch.allclose(torch.stack(ones, -1), expected, rtol=1e-10, atol=1e-10)
