"""Bank of memory kernels with three modes: a relaxation, a power law and a damped wave.

    K(tau) = a e^{-b tau} + g P(tau + 1) e^{-xi tau} + h cos(omega tau + phi) e^{-zeta tau},    y = w f + (1 - w) K * f,

P(t) the sum of exponentials that stands for t^-delta (`dynamics.kernels.power_law`). Every term is a pole, so that the
kernel is a recurrence with one state a pole, run a chunk at a time: its memory does not grow. Echo: the transposed
recurrence of the nudges, and dK(tau) = sum_t g_t f_{t - tau} times the derivatives of K by its parameters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer
from holonomy.core.tape import Tape
from holonomy.dynamics.kernels import power_law
from holonomy.nn.oscillator import log_spaced
from holonomy.nn.scan import Propagator, mirror, scan

RATE_BOUNDS = (1e-4, 4.0)
CHUNK = 32
EXPONENTS = (0.25, 0.5, 0.75)
"""Of the power law, channel by channel in turn; fixed."""


class KernelState(NamedTuple):
    """What the bank carries from token to token.

    Attributes:
        s: one number a pole, complex [N, batch, J].
        poles, weights: of each channel, complex [N, 1, J]; computed once, not every token.
    """

    s: Complex[Tensor, "N batch J"]
    poles: Complex[Tensor, "N 1 J"]
    weights: Complex[Tensor, "N 1 J"]


class KernelBank(EchoLayer):
    """One kernel a channel.

    Args:
        modes: number of channels.
        reach: tokens over which the power law holds.
        terms: exponentials that stand for it.
        sign: of the power law at the start.
        generator: source of the initial frequencies and rates.
    """

    rates: Tensor
    shares: Tensor

    def __init__(
        self, modes: int, *, reach: int = 1024, terms: int = 12, sign: int = -1, generator: torch.Generator
    ) -> None:
        super().__init__()

        def spread(low: float, high: float) -> Tensor:
            return log_spaced((low, high), modes)[torch.randperm(modes, generator=generator)].float()

        self.relaxation = nn.Parameter(torch.full((modes,), 0.3))
        self.relaxation_rate = nn.Parameter(spread(0.01, 1.0).log())
        self.power = nn.Parameter(torch.full((modes,), 0.1 * sign))
        self.power_rate = nn.Parameter(spread(1e-3, 0.1).log())
        self.wave = nn.Parameter(torch.full((modes,), 0.3))
        self.wave_rate = nn.Parameter(spread(0.01, 1.0).log())
        self.turn = nn.Parameter(torch.logit(spread(0.02, 3.0) / math.pi))
        self.phase = nn.Parameter(torch.full((modes,), -math.pi / 2))
        self.direct = nn.Parameter(torch.zeros(modes))
        fits = [power_law(EXPONENTS[n % len(EXPONENTS)], reach, terms) for n in range(modes)]
        self.register_buffer("rates", torch.stack([rate for rate, _, _ in fits]).float())
        self.register_buffer("shares", torch.stack([share * torch.exp(-rate) for rate, share, _ in fits]).float())

    def _parts(self, tau: Tensor) -> dict[str, Tensor]:
        """Relaxation, power law and the two quadratures of the wave at times tau, [N, T] each, without amplitudes."""
        relaxation = torch.exp(-self.relaxation_rate.exp()[:, None] * tau)
        fading = torch.exp(-(self.rates.unsqueeze(-1) + self.power_rate.exp()[:, None, None]) * tau)
        power = (self.shares.unsqueeze(-1) * fading).sum(1)
        envelope = torch.exp(-self.wave_rate.exp()[:, None] * tau)
        angle = (math.pi * torch.sigmoid(self.turn))[:, None] * tau + self.phase[:, None]
        return {
            "relaxation": relaxation,
            "power": power,
            "cos": envelope * torch.cos(angle),
            "sin": envelope * torch.sin(angle),
        }

    def kernel(self, length: int) -> Float[Tensor, "N length"]:
        """K(0), K(1), ..."""
        return self._mix(self._parts(self._times(length)))

    def _mix(self, parts: dict[str, Tensor]) -> Tensor:
        return (
            self.relaxation[:, None] * parts["relaxation"]
            + self.power[:, None] * parts["power"]
            + self.wave[:, None] * parts["cos"]
        )

    def _times(self, length: int) -> Tensor:
        return torch.arange(length, dtype=self.turn.dtype, device=self.turn.device)

    def _poles(self) -> tuple[Complex[Tensor, "N J"], Complex[Tensor, "N J"]]:
        """Poles and weights of each channel."""
        slow = torch.exp(-(self.rates + self.power_rate.exp()[:, None]))
        real = torch.cat([torch.exp(-self.relaxation_rate.exp())[:, None], slow], 1)
        wave = torch.polar(torch.exp(-self.wave_rate.exp()), math.pi * torch.sigmoid(self.turn))
        poles = torch.cat([torch.complex(real, torch.zeros_like(real)), wave[:, None]], 1)
        flat = torch.cat([self.relaxation[:, None], self.power[:, None] * self.shares], 1)
        turned = torch.polar(torch.ones_like(self.phase), self.phase) * self.wave
        return poles, torch.cat([torch.complex(flat, torch.zeros_like(flat)), turned[:, None]], 1)

    def poles(self) -> Complex[Tensor, "N J"]:
        """What a token multiplies each part of a channel's kernel by: the decays are real, the wave is not."""
        return self._poles()[0]

    def _propagator(self) -> Propagator:
        """What a chunk does."""
        poles, weights = self._poles()
        within = F.pad(self.kernel(CHUNK), (CHUNK - 1, 0)).unfold(1, CHUNK, 1).flip(1)
        powers = poles.unsqueeze(1) ** torch.arange(CHUNK + 1, device=poles.device)[:, None]
        collect = torch.view_as_real(powers[:, :CHUNK].flip(1)).flatten(2)
        ahead = weights.unsqueeze(1) * powers[:, 1:]
        emit = torch.stack([ahead.real, -ahead.imag], -1).flatten(2).mT
        return Propagator(within, collect, emit, powers[:, -1:])

    def free(self, x: Float[Tensor, "N batch time"], tape: Tape | None) -> Float[Tensor, "N batch time"]:
        """Convolves from a zero past; the record is the input, its convolution and the propagator."""
        prop = self._propagator()
        mixed, _ = scan(x, prop, None)
        if tape is not None:
            tape.push(self, x, mixed, *prop)
        return self._beside(x, mixed)

    def _beside(self, x: Tensor, mixed: Tensor) -> Tensor:
        w = torch.sigmoid(self.direct)[:, None, None]
        return w * x + (1 - w) * mixed

    def echo(self, tape: Tape, g: Float[Tensor, "N batch time"], acc: StatBuffer) -> Float[Tensor, "N batch time"]:
        """Correlates nudges with the kernel and with the inputs."""
        x, mixed, *prop = tape.pop(self)
        length = x.shape[-1]
        size = 2 * length
        w = torch.sigmoid(self.direct)
        acc[self.direct].add_((g * (x - mixed)).sum((1, 2)) * w * (1 - w))
        mixed_g = g * (1 - w)[:, None, None]
        below = mirror(mixed_g, Propagator(*prop))[0] + w[:, None, None] * g
        g_spectrum = torch.fft.rfft(mixed_g, size)
        dk = torch.fft.irfft((g_spectrum * torch.fft.rfft(x, size).conj()).sum(1), size)[..., :length]
        tau, parts = self._times(length), self._parts(self._times(length))
        late = dk * tau

        def summed(a: Tensor, b: Tensor) -> Tensor:
            return (a * b).sum(-1)

        acc[self.relaxation].add_(summed(dk, parts["relaxation"]))
        acc[self.power].add_(summed(dk, parts["power"]))
        acc[self.wave].add_(summed(dk, parts["cos"]))
        acc[self.phase].sub_(self.wave * summed(dk, parts["sin"]))
        acc[self.relaxation_rate].sub_(self.relaxation * self.relaxation_rate.exp() * summed(late, parts["relaxation"]))
        acc[self.power_rate].sub_(self.power * self.power_rate.exp() * summed(late, parts["power"]))
        acc[self.wave_rate].sub_(self.wave * self.wave_rate.exp() * summed(late, parts["cos"]))
        sigma = torch.sigmoid(self.turn)
        acc[self.turn].sub_(self.wave * summed(late, parts["sin"]) * math.pi * sigma * (1 - sigma))
        return below

    def project(self) -> None:
        """Holds the rates in [1e-4, 4] and the frequency inside (0, pi)."""
        for rate in (self.relaxation_rate, self.power_rate, self.wave_rate):
            rate.data.clamp_(math.log(RATE_BOUNDS[0]), math.log(RATE_BOUNDS[1]))
        self.turn.data.clamp_(-8, 8)

    def start(self, batch: int) -> KernelState:
        """A zero past."""
        poles, weights = self._poles()
        s = torch.zeros(len(poles), batch, poles.shape[1], dtype=poles.dtype, device=poles.device)
        return KernelState(s, poles.unsqueeze(1), weights.unsqueeze(1))

    def advance(
        self, x: Float[Tensor, "N batch time"], state: KernelState
    ) -> tuple[Float[Tensor, "N batch time"], KernelState]:
        """Convolves with what came before in the poles' states."""
        mixed, s = scan(x, self._propagator(), state.s)
        return self._beside(x, mixed), state._replace(s=s)

    def step(self, x: Float[Tensor, "N batch"], state: KernelState) -> tuple[Float[Tensor, "N batch"], KernelState]:
        """One token: s <- z s + x, y = Re sum c s."""
        s = state.s * state.poles + x.unsqueeze(-1)
        w = torch.sigmoid(self.direct)[:, None]
        return w * x + (1 - w) * (s * state.weights).sum(-1).real, state._replace(s=s)
