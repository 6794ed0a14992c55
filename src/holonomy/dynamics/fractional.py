"""Fractional integrals and derivatives in time, and a memory that costs O(1) a step.

Sources: Diethelm (2010), chapters 2 to 4, for the Riemann-Liouville integral and the Caputo derivative; Oldham &
Spanier (1974) and Lin & Xu (2007) for the L1 scheme; Gorenflo & Mainardi (1997, equation 3.23) for the integral that
gives the Mittag-Leffler function. Orders alpha are between 0 and 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.dynamics.kernels import exponential_sum


def _check_order(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ConfigError(f"`alpha` is {alpha}; wanted an order between 0 and 1")


def _power_steps(j: Tensor, order: float) -> Tensor:
    """(j + 1)^order - j^order without cancellation for large j."""
    positive = j.clamp_min(1)
    return torch.where(j > 0, positive**order * torch.expm1(order * torch.log1p(1 / positive)), 1)


def integral_weights(alpha: float, dt: float, count: int) -> Float[Tensor, " count"]:
    """Weights w_j of the values of age j, newest first, in the Riemann-Liouville integral of order alpha.

    w_j = ((j + 1)^alpha - j^alpha) dt^alpha / Gamma(alpha + 1): exact for functions constant on each step.

    Raises:
        ConfigError: alpha is not between 0 and 1.
    """
    _check_order(alpha)
    ages = torch.arange(count, dtype=torch.float64)
    return _power_steps(ages, alpha) * (dt**alpha / math.gamma(alpha + 1))


def caputo_l1(values: Float[Tensor, "... T"], dt: float, alpha: float) -> Float[Tensor, "... T"]:
    """Caputo derivative of order alpha of samples at 0, dt, 2 dt, ..., by the L1 scheme, of order 2 - alpha in dt.

    D f(t_n) = dt^-alpha / Gamma(2 - alpha) sum_j b_j (f_{n-j} - f_{n-j-1}), b_j = (j + 1)^(1-alpha) - j^(1-alpha);
    zero at the first sample. As a convolution by Fourier transforms, in float64 inside.

    Raises:
        ConfigError: alpha is not between 0 and 1.
    """
    _check_order(alpha)
    steps = values.double().diff()
    count = steps.shape[-1]
    b = _power_steps(torch.arange(count, dtype=torch.float64, device=values.device), 1 - alpha)
    size = max(1, 2 * count)
    convolved = torch.fft.irfft(torch.fft.rfft(steps, size) * torch.fft.rfft(b, size), size)[..., :count]
    scaled = convolved * (dt**-alpha / math.gamma(2 - alpha))
    return torch.nn.functional.pad(scaled, (1, 0)).to(values.dtype)


def mittag_leffler(z: Float[Tensor, ...], alpha: float) -> Float[Tensor, ...]:
    """E_alpha(z) for z <= 0 and 0 < alpha <= 1, to about 1e-14: how fractional relaxation decays.

    E_alpha(-t^alpha) = sin(pi alpha) / pi times the integral over r of r^(alpha - 1) e^(-r t) / (r^(2 alpha) +
    2 r^alpha cos(pi alpha) + 1). In u = log r the trapezoidal rule converges geometrically.

    Raises:
        ConfigError: an argument is outside its range.
    """
    if not 0 < alpha <= 1 or bool((z > 0).any()):
        raise ConfigError(f"`z` and `alpha` = {alpha}: wanted z <= 0 and alpha above 0 and at most 1")
    if alpha == 1:
        return z.exp()
    # The integrand is analytic up to this distance from the real line.
    strip = 0.99 * min(math.pi / 2, math.pi * (1 - alpha) / alpha)
    step, reach = 2 * math.pi * strip / 38, 40 / alpha
    time = (-z.double()).pow(1 / alpha).unsqueeze(-1)
    # Moved to where e^(-r t) lets the integral end, so that long times lose no digits.
    v = torch.arange(-reach, reach + step, step, dtype=torch.float64, device=z.device)
    u = v - time.clamp_min(1).log()
    power = (alpha * u).exp()
    density = power / (power * power + 2 * math.cos(math.pi * alpha) * power + 1)
    total = (density * torch.exp(-v.exp() * time.clamp_max(1))).sum(-1) * step
    return (total * math.sin(math.pi * alpha) / math.pi).to(z.dtype)


@dataclass(frozen=True)
class FractionalMemory:
    """The Riemann-Liouville integral as a recurrence: the newest value exactly, older ones by exponential modes.

    Args:
        alpha: order, between 0 and 1.
        dt: length of a step.
        t_max: steps that the modes must reach.
        terms: number of modes.

    Raises:
        ConfigError: an argument is out of range.
    """

    alpha: float
    dt: float
    t_max: int = 1024
    terms: int = 12

    def __post_init__(self) -> None:
        _check_order(self.alpha)
        if not self.dt > 0 or self.t_max < 2 or self.terms < 2:
            raise ConfigError(
                f"`dt`, `t_max`, `terms` are {self.dt}, {self.t_max}, {self.terms}; wanted dt above 0, the others 2 "
                "or more"
            )

    @cached_property
    def _modes(self) -> tuple[Tensor, Tensor, float]:
        rates, weights, error = exponential_sum(lambda t: _power_steps(t, self.alpha), self.t_max, self.terms)
        return torch.exp(-rates), weights * self.newest, error

    @property
    def newest(self) -> float:
        """Weight of the newest value."""
        return self.dt**self.alpha / math.gamma(self.alpha + 1)

    @property
    def error(self) -> float:
        """Largest relative error of an older weight, up to `t_max`, as measured."""
        return self._modes[2]

    def start(self, like: Tensor) -> Tensor:
        """Modes before the first value, [terms, *shape]."""
        return torch.zeros(self.terms, *like.shape, dtype=like.dtype, device=like.device)

    def _along(self, values: Tensor, x: Tensor) -> Tensor:
        return values.to(x.device).to(x.real.dtype).view(-1, *[1] * x.dim())

    def recall(self, x: Float[Tensor, ...] | Complex[Tensor, ...], modes: Tensor) -> Tensor:
        """sum_j w_j x_(n-j), x the newest value, the modes from before it."""
        return self.newest * x + (self._along(self._modes[1], x) * modes).sum(0)

    def step(self, x: Float[Tensor, ...] | Complex[Tensor, ...], modes: Tensor) -> tuple[Tensor, Tensor]:
        """The integral up to x, and the modes after it."""
        return self.recall(x, modes), self._along(self._modes[0], x) * (modes + x)
