"""Memory kernels as banks of complex poles: what looks like a convolution with the past costs O(1) a token.

A kernel K(tau) = Re sum_n c_n z_n^tau is run by s_n <- z_n s_n + x, y = Re sum_n c_n s_n. A power law becomes such a
sum by a least-squares fit of exponentials (Beylkin & Monzon 2005), with its largest relative error beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from holonomy.core.errors import ConfigError


@dataclass(frozen=True)
class PoleKernel:
    """A kernel with N poles.

    Attributes:
        poles: z, complex [N], |z| <= 1.
        weights: c, complex [N].
    """

    poles: Complex[Tensor, " N"]
    weights: Complex[Tensor, " N"]

    def __call__(self, tau: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """K(tau) for tau >= 0."""
        return (self.weights * self.poles ** tau.unsqueeze(-1)).sum(-1).real

    def start(self, *shape: int) -> Complex[Tensor, "... N"]:
        """State before the first input."""
        return torch.zeros(*shape, len(self.poles), dtype=self.poles.dtype)

    def step(
        self, x: Float[Tensor, ...], state: Complex[Tensor, "... N"]
    ) -> tuple[Float[Tensor, ...], Complex[Tensor, "... N"]]:
        """One input: s <- z s + x, y = Re sum c s."""
        state = state * self.poles + x.unsqueeze(-1)
        return (state * self.weights).sum(-1).real, state

    def run(
        self, x: Float[Tensor, "... T"], state: Complex[Tensor, "... N"]
    ) -> tuple[Float[Tensor, "... T"], Complex[Tensor, "... N"]]:
        """Any number of inputs at once, as a convolution and the decay of the state; equals `step` on each.

        O(T^2) arithmetic without a loop over time: meant for chunks of up to some hundred inputs.
        """
        length = x.shape[-1]
        tau = torch.arange(length, dtype=x.dtype)
        lag = tau[:, None] - tau
        kernel = torch.where(lag >= 0, self(tau)[lag.long().clamp_min(0)], 0)
        powers = self.poles ** (tau + 1).unsqueeze(-1)
        past = (state.unsqueeze(-2) * powers * self.weights).sum(-1).real
        y = (kernel * x.unsqueeze(-2)).sum(-1) + past
        gathered = (x.unsqueeze(-1) * self.poles ** (length - 1 - tau).unsqueeze(-1)).sum(-2)
        return y, state * self.poles**length + gathered


def exponential_sum(
    function: Callable[[Tensor], Tensor], t_max: int, terms: int
) -> tuple[Float[Tensor, " J"], Float[Tensor, " J"], float]:
    """Rates u_j and weights c_j with f(t) close to sum_j c_j exp(-u_j t) on [1, t_max + 1], for a slowly falling f.

    Rates are log-spaced from 0.3 / t_max to 6; the weights minimise the relative error by least squares.

    Args:
        function: f, on float64 times; above zero.
        t_max: how far the sum must reach, at least 2.
        terms: number of exponentials J, at least 2.

    Returns:
        Rates, weights and the largest relative error at the integers of the range, all measured in float64.
    """
    rates = torch.logspace(math.log10(0.3 / t_max), math.log10(6.0), terms, dtype=torch.float64)
    samples = torch.logspace(0, math.log10(t_max + 1.0), 40 * terms, dtype=torch.float64)
    relative = torch.exp(-samples[:, None] * rates) / function(samples)[:, None]
    weights = torch.linalg.lstsq(relative, torch.ones_like(samples[:, None]), driver="gelsd").solution[:, 0]
    times = torch.arange(1, t_max + 2, dtype=torch.float64)
    fit = (torch.exp(-times[:, None] * rates) * weights).sum(-1) / function(times)
    return rates, weights, float((fit - 1).abs().max())


@lru_cache(maxsize=64)
def power_law(delta: float, t_max: int, terms: int) -> tuple[Float[Tensor, " J"], Float[Tensor, " J"], float]:
    """t^-delta as an `exponential_sum`.

    Args:
        delta: exponent, in (0, 2).
        t_max: how far the sum must reach.
        terms: number of exponentials J.

    Returns:
        Rates, weights and the largest relative error at the integers of the range.

    Raises:
        ConfigError: an argument is out of range.
    """
    if not 0 < delta < 2 or t_max < 2 or terms < 2:
        raise ConfigError(
            f"`delta`, `t_max`, `terms` are {delta}, {t_max}, {terms}; wanted delta in (0, 2), the others 2 or more"
        )
    return exponential_sum(lambda t: t**-delta, t_max, terms)


def three_modes(
    *,
    decay: tuple[float, float],
    power: tuple[float, float, float],
    wave: tuple[float, float, float, float],
    t_max: int = 1024,
    terms: int = 12,
) -> PoleKernel:
    """K(tau) = a e^{-b tau} + g (tau + 1)^-delta e^{-xi tau} + h cos(omega tau + phi) e^{-zeta tau}.

    Args:
        decay: (a, b).
        power: (g, delta, xi); g may be negative.
        wave: (h, omega, phi, zeta).
        t_max: reach of the power law.
        terms: exponentials that stand for it.

    Returns:
        A kernel with `terms` + 2 poles.
    """
    (a, b), (g, delta, xi), (h, omega, phi, zeta) = decay, power, wave
    rates, weights, _ = power_law(delta, t_max, terms)
    wave_pole = torch.polar(torch.tensor(-zeta, dtype=torch.float64).exp(), torch.tensor(omega, dtype=torch.float64))
    wave_weight = torch.polar(torch.tensor(1.0, dtype=torch.float64), torch.tensor(phi, dtype=torch.float64)) * h
    exponential = torch.tensor([-b], dtype=torch.float64).exp()
    poles = torch.cat([exponential, torch.exp(-(rates + xi))]).to(torch.complex128)
    # (tau + 1)^-delta is sum c_j e^{-u_j (tau + 1)}: the first step of the decay goes into the weight.
    real = torch.cat([torch.tensor([a], dtype=torch.float64), g * weights * torch.exp(-rates)]).to(torch.complex128)
    return PoleKernel(torch.cat([poles, wave_pole[None]]), torch.cat([real, wave_weight[None]]))
