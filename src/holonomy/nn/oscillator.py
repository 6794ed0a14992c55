"""Bank of damped oscillators, and the gated mixer around it.

Mode n turns by theta and shrinks by rho a token: y_t = 2 rho cos(theta) y_{t-1} - rho^2 y_{t-2} + f_t, output
q = b y with b = s sin(theta), s = sqrt(2 (1 - rho^2)), so that the impulse response
k(tau) = s rho^tau sin(theta (tau + 1)) has about unit energy. One-token form with complex z:
z <- rho e^{i theta} z + f_t, q = s Im(e^{i theta} z).

Echo by reciprocity: the bank is linear and symmetric, so the nudges reversed in time drive the same bank,
mu = reverse(bank(reverse(g))) = dL/df. Damping makes the state irreversible, which does not matter: the free
outputs are kept, never retraced.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from holonomy.core.errors import IllegalMix
from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer
from holonomy.core.tape import Tape
from holonomy.nn.scan import Propagator, mirror, scan
from holonomy.nn.static import CausalFIR, FIRState, Linear, silu_product

THETA_MARGIN = 1e-3
"""theta stays in [margin, pi - margin]: outside, b = s sin(theta) vanishes and the statistics lose precision."""
GAMMA_BOUNDS = (1e-4, 4.0)
CONTROL_SCALE = 0.1
"""Of the rows that control a bank, at the start: it begins close to a bank that does not listen."""
DECAY_LIMIT = 80.0
"""exp(-80) is the last factor worth keeping; below it float32 would only produce denormals."""


class BankState(NamedTuple):
    """What a bank carries from token to token.

    Attributes:
        z: two numbers a mode, complex [N, batch].
        pole: rho e^{i theta}, complex [N, 1]; computed once, not every token.
        gain: s e^{i theta}, complex [N, 1].
    """

    z: Complex[Tensor, "N batch"]
    pole: Complex[Tensor, "N 1"]
    gain: Complex[Tensor, "N 1"]


class OscillatorBank(EchoLayer):
    """Diagonal bank of damped oscillators, O(time) by a chunked scan.

    Args:
        modes: number of oscillators, one a channel.
        theta_range: slowest and fastest initial turn, radians per token, log-spaced over the modes.
        gamma_range: weakest and strongest initial damping (rho = exp(-gamma)), per token, log-spaced.
        chunk: length of a chunk; the cost grows with it, the number of sequential steps falls.
        generator: permutes turns and dampings independently.
    """

    def __init__(
        self,
        modes: int,
        *,
        theta_range: tuple[float, float],
        gamma_range: tuple[float, float],
        chunk: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.chunk = chunk
        theta = log_spaced(theta_range, modes)[torch.randperm(modes, generator=generator)]
        gamma = log_spaced(gamma_range, modes)[torch.randperm(modes, generator=generator)]
        self.turn = nn.Parameter(torch.logit(theta / math.pi).float())
        self.damping = nn.Parameter(gamma.log().float())

    def angles(self) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Returns (theta, gamma): theta = pi sigmoid(turn), gamma = exp(damping)."""
        return math.pi * torch.sigmoid(self.turn), self.damping.exp()

    def poles(self) -> Complex[Tensor, " N"]:
        """What a token multiplies each mode by, rho e^{i theta}; its conjugate is the other pole of the pair."""
        theta, gamma = self.angles()
        return torch.polar(torch.exp(-gamma), theta)

    def propagator(self) -> Propagator:
        """Builds the chunk propagator from the parameters."""
        return chunk_propagator(*self.angles(), self.chunk)

    def free(self, x: Float[Tensor, "N batch time"], tape: Tape | None) -> Float[Tensor, "N batch time"]:
        """Drives the bank from rest; the record is the output, the propagator, and the state before."""
        return self._run(x, None, tape)[0]

    def _run(
        self, x: Float[Tensor, "N batch time"], z: Tensor | None, tape: Tape | None
    ) -> tuple[Float[Tensor, "N batch time"], Tensor]:
        prop = self.propagator()
        q, after = scan(x, prop, z)
        if tape is not None:
            tape.push(self, q, *prop, *(() if z is None else (z, after)))
        return q, after

    def resume(
        self, x: Float[Tensor, "N batch time"], state: BankState, tape: Tape | None
    ) -> tuple[Float[Tensor, "N batch time"], BankState]:
        """Drives the bank from a carried state."""
        q, z = self._run(x, state.z, tape)
        return q, state._replace(z=z)

    def echo(self, tape: Tape, g: Float[Tensor, "N batch time"], acc: StatBuffer) -> Float[Tensor, "N batch time"]:
        """Drives the bank with the reversed nudges; statistics are correlations of echo and free output.

        With y = q / b: cA = sum mu_t y_{t-1}, cB = sum mu_t y_{t-2}, cb = sum g_t y_t;
        dtheta = -2 rho sin(theta) cA + cb s cos(theta),
        dgamma = -2 rho (cos(theta) cA - rho cB) + cb sin(theta) 2 rho^2 / s.
        """
        return self.echo_segment(tape, g, None, acc)[0]

    def echo_segment(
        self, tape: Tape, g: Float[Tensor, "N batch time"], carry: Tensor | None, acc: StatBuffer
    ) -> tuple[Float[Tensor, "N batch time"], Tensor]:
        """Echo of a segment; what is carried is the nudge on the complex state."""
        q, within, collect, emit, factor, *ends = tape.pop(self)
        if carry is not None and g.shape[-1] % self.chunk:
            raise IllegalMix(
                f"a segment of {g.shape[-1]} tokens that another one follows is no multiple of the chunk {self.chunk}; "
                "set train.echo.segment to a multiple of model.chunk"
            )
        later = carry
        mu, carry = mirror(g, Propagator(within, collect, emit, factor), later)
        theta, gamma = self.angles()
        rho, sin, cos = torch.exp(-gamma), torch.sin(theta), torch.cos(theta)
        s = (-2 * torch.expm1(-2 * gamma)).sqrt()
        b = s * sin
        by_one, by_two, by_output = (
            lagged_dot(mu, q, 1) / b,
            lagged_dot(mu, q, 2) / b,
            lagged_dot(g, q, 0) / b,
        )
        dtheta = -2 * rho * sin * by_one + by_output * cos * s
        dgamma = -2 * rho * (cos * by_one - rho * by_two) + by_output * sin * 2 * rho.square() / s
        if ends:
            # The two outputs before the segment follow from its state: Im(e^{i theta} z) = sin(theta) y_{-1},
            # Im z = rho sin(theta) y_{-2}.
            z, z_after = ends
            first = (torch.polar(torch.ones_like(theta), theta)[:, None] * z).imag / sin[:, None]
            second = z.imag / (rho * sin)[:, None]
            by_one = (mu[..., 0] * first).sum(1)
            by_two = (mu[..., 0] * second).sum(1)
            if mu.shape[-1] > 1:
                by_two = by_two + (mu[..., 1] * first).sum(1)
            dtheta = dtheta - 2 * rho * sin * by_one
            dgamma = dgamma - 2 * rho * (cos * by_one - rho * by_two)
            # So far the outputs at both ends were held; but it is z that is handed over, and at given outputs it moves
            # with the parameters: dz/dtheta = i e^{-i theta} Im z / sin(theta), dz/dgamma = -i dz/dtheta.
            held = torch.polar(1 / sin, -theta) * (carry.conj() * z.imag).sum(1)
            if later is not None:
                held = held - torch.polar(1 / sin, -theta) * (later.conj() * z_after.imag).sum(1)
            dtheta, dgamma = dtheta + held.imag, dgamma - held.real
        acc[self.turn].add_(dtheta * theta * (1 - theta / math.pi))
        acc[self.damping].add_(dgamma * gamma)
        return mu, carry

    def project(self) -> None:
        """Keeps theta in [1e-3, pi - 1e-3] and gamma in [1e-4, 4]."""
        edge = math.log((math.pi - THETA_MARGIN) / THETA_MARGIN)
        self.turn.data.clamp_(-edge, edge)
        self.damping.data.clamp_(math.log(GAMMA_BOUNDS[0]), math.log(GAMMA_BOUNDS[1]))

    def start(self, batch: int) -> BankState:
        """All oscillators at rest."""
        theta, gamma = self.angles()
        pole = torch.polar(torch.exp(-gamma), theta)[:, None]
        gain = torch.polar((-2 * torch.expm1(-2 * gamma)).sqrt(), theta)[:, None]
        return BankState(torch.zeros_like(pole.expand(-1, batch)), pole, gain)

    def advance(
        self, x: Float[Tensor, "N batch time"], state: BankState
    ) -> tuple[Float[Tensor, "N batch time"], BankState]:
        """Drives the bank from a carried state."""
        return self.resume(x, state, None)

    def step(self, x: Float[Tensor, "N batch"], state: BankState) -> tuple[Float[Tensor, "N batch"], BankState]:
        """z <- rho e^{i theta} z + f, q = s Im(e^{i theta} z)."""
        z = state.z * state.pole + x
        return (state.gain * z).imag, BankState(z, state.pole, state.gain)


def chunk_propagator(theta: Float[Tensor, " N"], gamma: Float[Tensor, " N"], size: int) -> Propagator:
    """What a chunk of `size` tokens does to oscillators of turn theta and damping gamma."""
    s = (-2 * torch.expm1(-2 * gamma)).sqrt()
    lag = torch.arange(size, dtype=theta.dtype, device=theta.device)
    decay = torch.exp(-(gamma[:, None] * (lag + 1)).clamp_max(DECAY_LIMIT))
    before = torch.exp(-(gamma[:, None] * lag).clamp_max(DECAY_LIMIT))
    phase = theta[:, None] * (lag + 1)
    kernel = s[:, None] * before * torch.sin(phase)
    within = F.pad(kernel, (size - 1, 0)).unfold(1, size, 1).flip(1)
    back = theta[:, None] * lag
    collect = torch.stack([before * torch.cos(back), before * torch.sin(back)], -1).flip(1)
    ahead = phase + theta[:, None]
    emit = (s[:, None] * decay).unsqueeze(1) * torch.stack([torch.sin(ahead), torch.cos(ahead)], 1)
    carry = torch.polar(decay[:, -1:], phase[:, -1:])
    return Propagator(within, collect, emit, carry)


def log_spaced(bounds: tuple[float, float], count: int) -> Float[Tensor, " count"]:
    """Values from the first to the second bound, evenly spaced in the logarithm, float64."""
    return torch.logspace(math.log10(bounds[0]), math.log10(bounds[1]), count, dtype=torch.float64)


def lagged_dot(a: Float[Tensor, "N batch time"], b: Float[Tensor, "N batch time"], lag: int) -> Float[Tensor, " N"]:
    """sum over batch and time of a_t b_{t - lag}, with b zero before its start."""
    if lag >= a.shape[-1]:
        return a.new_zeros(a.shape[0])
    return (a[..., lag:] * b[..., : b.shape[-1] - lag]).sum((1, 2))


def _joined(f: Tensor, control: Tensor) -> Tensor:
    return torch.cat([f, control]) if len(control) else f


Echo = Callable[[Tape, Tensor, StatBuffer], Tensor]


class OscillatorMixer(EchoLayer):
    """Gated oscillators: [a; f0; c] = In x, f = FIR(f0), q = bank([f; c]), y = Out(silu(a) (q + skip f)).

    Args:
        channels: width of the residual stream.
        modes: number of oscillators.
        taps: length of the filter before the bank.
        bank: makes the bank from the generator, between the filter and the last map.
        controls: what the bank is told besides its drive, in inputs a mode; they begin near zero.
        out_scale: standard deviation of Out is `out_scale / sqrt(modes)`.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        channels: int,
        modes: int,
        *,
        taps: int,
        bank: Callable[[torch.Generator], EchoLayer],
        controls: int = 0,
        out_scale: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.inp = Linear(channels, (2 + controls) * modes, std=channels**-0.5, generator=generator)
        self.inp.weight.data[2 * modes :] *= CONTROL_SCALE
        self.fir = CausalFIR(modes, taps, generator=generator)
        self.bank = bank(generator)
        self.skip = nn.Parameter(torch.full((modes,), 0.5))
        self.out = Linear(modes, channels, std=out_scale * modes**-0.5, generator=generator)

    def free(self, x: Float[Tensor, "D batch time"], tape: Tape | None) -> Float[Tensor, "D batch time"]:
        """Runs the mixer; the record holds gate input, gate, drive and gated value."""
        a, f0, control = self._split(self.inp.free(x, tape))
        f = self.fir.free(f0, tape)
        return self._gated(a, f, self.bank.free(_joined(f, control), tape), tape)

    def _gated(self, a: Tensor, f: Tensor, q: Tensor, tape: Tape | None) -> Tensor:
        gate = F.silu(a)
        h = torch.addcmul(q, self.skip[:, None, None], f)
        if tape is not None:
            tape.push(self, a, gate, f, h)
        return self.out.free(gate * h, tape)

    def resume(
        self, x: Float[Tensor, "D batch time"], state: tuple[FIRState, Any], tape: Tape | None
    ) -> tuple[Float[Tensor, "D batch time"], tuple[FIRState, Any]]:
        """Free phase of a segment."""
        a, f0, control = self._split(self.inp.free(x, tape))
        f, past = self.fir.resume(f0, state[0], tape)
        q, z = self.bank.resume(_joined(f, control), state[1], tape)
        return self._gated(a, f, q, tape), (past, z)

    def retrace(
        self, x: Float[Tensor, "D batch time"], state: tuple[FIRState, Any], tape: Tape
    ) -> tuple[Float[Tensor, "D batch time"], tuple[FIRState, Any]]:
        """Goes back over a segment, where filter and bank can."""
        a, f0, control = self._split(self.inp.free(x, tape))
        f, past = self.fir.retrace(f0, state[0], tape)
        q, z = self.bank.retrace(_joined(f, control), state[1], tape)
        return self._gated(a, f, q, tape), (past, z)

    def echo(self, tape: Tape, g: Float[Tensor, "D batch time"], acc: StatBuffer) -> Float[Tensor, "D batch time"]:
        """Routes the nudge through gate, skip, bank and filter."""
        return self._route(tape, g, acc, self.fir.echo, self.bank.echo)

    def echo_segment(
        self, tape: Tape, g: Float[Tensor, "D batch time"], carry: tuple[Any, Any] | None, acc: StatBuffer
    ) -> tuple[Float[Tensor, "D batch time"], tuple[Any, Any]]:
        """Echo of a segment; what is carried is that of filter and bank."""
        after = carry or (None, None)
        before: list[Any] = [None, None]

        def fir(tape: Tape, g: Tensor, acc: StatBuffer) -> Tensor:
            below, before[0] = self.fir.echo_segment(tape, g, after[0], acc)
            return below

        def bank(tape: Tape, g: Tensor, acc: StatBuffer) -> Tensor:
            below, before[1] = self.bank.echo_segment(tape, g, after[1], acc)
            return below

        return self._route(tape, g, acc, fir, bank), (before[0], before[1])

    def _route(self, tape: Tape, g: Tensor, acc: StatBuffer, fir: Echo, bank: Echo) -> Tensor:
        g = self.out.echo(tape, g, acc)
        a, gate, f, h = tape.pop(self)
        below = g.new_empty(len(self.inp.weight), *g.shape[1:])
        da, df, dcontrol = self._split(below)
        silu_product(h.mul_(g), a, out=da)
        g.mul_(gate)
        acc[self.skip].add_(lagged_dot(g, f, 0))
        drive = bank(tape, g, acc)
        dcontrol.copy_(drive[len(self.skip) :])
        df.copy_(fir(tape, drive[: len(self.skip)].addcmul_(self.skip[:, None, None], g), acc))
        return self.inp.echo(tape, below, acc)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gate, drive and controls."""
        modes = len(self.skip)
        return x[:modes], x[modes : 2 * modes], x[2 * modes :]

    def start(self, batch: int) -> tuple[FIRState, Any]:
        """Zero past of the filter and a bank at rest."""
        return self.fir.start(batch), self.bank.start(batch)

    def advance(
        self, x: Float[Tensor, "D batch time"], state: tuple[FIRState, Any]
    ) -> tuple[Float[Tensor, "D batch time"], tuple[FIRState, Any]]:
        """Continues by any number of tokens."""
        a, f0, control = self._split(self.inp.free(x, None))
        f, past = self.fir.advance(f0, state[0])
        q, z = self.bank.advance(_joined(f, control), state[1])
        h = torch.addcmul(q, self.skip[:, None, None], f)
        return self.out.free(F.silu(a) * h, None), (past, z)

    def step(
        self, x: Float[Tensor, "D batch"], state: tuple[FIRState, Any]
    ) -> tuple[Float[Tensor, "D batch"], tuple[FIRState, Any]]:
        """Continues by one token."""
        a, f0, control = self._split(torch.mm(self.inp.weight, x))
        f, past = self.fir.step(f0, state[0])
        q, z = self.bank.step(_joined(f, control), state[1])
        h = torch.addcmul(q, self.skip[:, None], f)
        return torch.mm(self.out.weight, F.silu(a).mul_(h)), (past, z)
