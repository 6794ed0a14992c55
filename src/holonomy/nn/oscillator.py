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
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer
from holonomy.core.tape import Tape
from holonomy.nn.static import CausalFIR, FIRState, Linear, silu_product

THETA_MARGIN = 1e-3
"""theta stays in [margin, pi - margin]: outside, b = s sin(theta) vanishes and the statistics lose precision."""
GAMMA_BOUNDS = (1e-4, 4.0)
DECAY_LIMIT = 80.0
"""exp(-80) is the last factor worth keeping; below it float32 would only produce denormals."""


@dataclass
class Propagator:
    """What a chunk of length C does to the bank: built once per update.

    Attributes:
        within: response inside a chunk, [N, C, C], indexed (source, target).
        collect: drive of a chunk to its final state (real, imaginary), [N, C, 2].
        emit: state before a chunk to the outputs of the chunk, [N, 2, C].
        carry: factor of the state over a chunk, complex [N, 1].
    """

    within: Float[Tensor, "N C C"]
    collect: Float[Tensor, "N C 2"]
    emit: Float[Tensor, "N 2 C"]
    carry: Complex[Tensor, "N 1"]


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

    def propagator(self) -> Propagator:
        """Builds the chunk propagator from the parameters."""
        theta, gamma = self.angles()
        size = self.chunk
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

    def free(self, x: Float[Tensor, "N batch time"], tape: Tape | None) -> Float[Tensor, "N batch time"]:
        """Drives the bank from rest; the record is the output and the propagator."""
        prop = self.propagator()
        q, _ = scan(x, prop, None)
        if tape is not None:
            tape.push(self, q, prop.within, prop.collect, prop.emit, prop.carry)
        return q

    def echo(self, tape: Tape, g: Float[Tensor, "N batch time"], acc: StatBuffer) -> Float[Tensor, "N batch time"]:
        """Drives the bank with the reversed nudges; statistics are correlations of echo and free output.

        With y = q / b: cA = sum mu_t y_{t-1}, cB = sum mu_t y_{t-2}, cb = sum g_t y_t;
        dtheta = -2 rho sin(theta) cA + cb s cos(theta),
        dgamma = -2 rho (cos(theta) cA - rho cB) + cb sin(theta) 2 rho^2 / s.
        """
        q, *prop = tape.pop(self)
        mu = mirror(g, Propagator(*prop))
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
        acc[self.turn].add_(dtheta * theta * (1 - theta / math.pi))
        acc[self.damping].add_(dgamma * gamma)
        return mu

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
        """Drives the bank from a carried state: whole chunks at once, the rest token by token."""
        length = x.shape[-1]
        whole = length - length % self.chunk
        parts = []
        if whole:
            q, z = scan(x[..., :whole], self.propagator(), state.z)
            state = state._replace(z=z)
            parts.append(q)
        for t in range(whole, length):
            q, state = self.step(x[..., t], state)
            parts.append(q.unsqueeze(-1))
        return torch.cat(parts, -1), state

    def step(self, x: Float[Tensor, "N batch"], state: BankState) -> tuple[Float[Tensor, "N batch"], BankState]:
        """z <- rho e^{i theta} z + f, q = s Im(e^{i theta} z)."""
        z = state.z * state.pole + x
        return (state.gain * z).imag, BankState(z, state.pole, state.gain)


def log_spaced(bounds: tuple[float, float], count: int) -> Float[Tensor, " count"]:
    """Values from the first to the second bound, evenly spaced in the logarithm, float64."""
    return torch.logspace(math.log10(bounds[0]), math.log10(bounds[1]), count, dtype=torch.float64)


def scan(
    f: Float[Tensor, "N batch time"], prop: Propagator, state: Complex[Tensor, "N batch"] | None
) -> tuple[Float[Tensor, "N batch time"], Complex[Tensor, "N batch"]]:
    """Response of the bank, chunk by chunk; a last partial chunk is filled with zeros.

    Returns:
        The outputs and the state after the last chunk (after the zeros, where the chunk was filled).
    """
    modes, batch, length = f.shape
    size = prop.within.shape[1]
    chunks = -(-length // size)
    f = F.pad(f, (0, chunks * size - length)).reshape(modes, batch * chunks, size)
    gathered = torch.view_as_complex(torch.bmm(f, prop.collect)).view(modes, batch, chunks)
    z = torch.zeros_like(gathered[..., 0]) if state is None else state
    entering = []
    for c in range(chunks):
        entering.append(z)
        z = torch.addcmul(gathered[..., c], prop.carry, z)
    before = torch.view_as_real(torch.stack(entering, -1)).view(modes, batch * chunks, 2)
    q = torch.baddbmm(torch.bmm(f, prop.within), before, prop.emit)
    return q.view(modes, batch, -1)[..., :length], z


def mirror(g: Float[Tensor, "N batch time"], prop: Propagator) -> Float[Tensor, "N batch time"]:
    """Transpose of `scan` from rest: the response to the nudges reversed in time."""
    modes, batch, length = g.shape
    size = prop.within.shape[1]
    chunks = -(-length // size)
    g = F.pad(g, (0, chunks * size - length)).reshape(modes, batch * chunks, size)
    emitted = torch.view_as_complex(torch.bmm(g, prop.emit.mT.contiguous())).view(modes, batch, chunks)
    a = torch.zeros_like(emitted[..., 0])
    carry = prop.carry.conj().resolve_conj()
    leaving = []
    for c in reversed(range(chunks)):
        leaving.append(a)
        a = torch.addcmul(emitted[..., c], carry, a)
    after = torch.view_as_real(torch.stack(leaving[::-1], -1)).view(modes, batch * chunks, 2)
    mu = torch.baddbmm(torch.bmm(g, prop.within.mT), after, prop.collect.mT)
    return mu.view(modes, batch, -1)[..., :length]


def lagged_dot(a: Float[Tensor, "N batch time"], b: Float[Tensor, "N batch time"], lag: int) -> Float[Tensor, " N"]:
    """sum over batch and time of a_t b_{t - lag}, with b zero before its start."""
    if lag >= a.shape[-1]:
        return a.new_zeros(a.shape[0])
    return (a[..., lag:] * b[..., : b.shape[-1] - lag]).sum((1, 2))


class OscillatorMixer(EchoLayer):
    """Gated oscillators: [a; f0] = In x, f = FIR(f0), q = bank(f), y = Out(silu(a) (q + skip f)).

    Args:
        channels: width of the residual stream.
        modes: number of oscillators.
        taps: length of the filter before the bank.
        theta_range, gamma_range, chunk: see `OscillatorBank`.
        out_scale: standard deviation of Out is `out_scale / sqrt(modes)`.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        channels: int,
        modes: int,
        *,
        taps: int,
        theta_range: tuple[float, float],
        gamma_range: tuple[float, float],
        chunk: int,
        out_scale: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.inp = Linear(channels, 2 * modes, std=channels**-0.5, generator=generator)
        self.fir = CausalFIR(modes, taps, generator=generator)
        self.bank = OscillatorBank(
            modes, theta_range=theta_range, gamma_range=gamma_range, chunk=chunk, generator=generator
        )
        self.skip = nn.Parameter(torch.full((modes,), 0.5))
        self.out = Linear(modes, channels, std=out_scale * modes**-0.5, generator=generator)

    def free(self, x: Float[Tensor, "D batch time"], tape: Tape | None) -> Float[Tensor, "D batch time"]:
        """Runs the mixer; the record holds gate input, gate, drive and gated value."""
        a, f0 = self.inp.free(x, tape).chunk(2)
        f = self.fir.free(f0, tape)
        q = self.bank.free(f, tape)
        gate = F.silu(a)
        h = torch.addcmul(q, self.skip[:, None, None], f)
        if tape is not None:
            tape.push(self, a, gate, f, h)
        return self.out.free(gate * h, tape)

    def echo(self, tape: Tape, g: Float[Tensor, "D batch time"], acc: StatBuffer) -> Float[Tensor, "D batch time"]:
        """Routes the nudge through gate, skip, bank and filter."""
        g = self.out.echo(tape, g, acc)
        a, gate, f, h = tape.pop(self)
        below = g.new_empty(2 * len(self.skip), *g.shape[1:])
        silu_product(h.mul_(g), a, out=below[: len(self.skip)])
        g.mul_(gate)
        acc[self.skip].add_(lagged_dot(g, f, 0))
        drive = self.bank.echo(tape, g, acc).addcmul_(self.skip[:, None, None], g)
        below[len(self.skip) :] = self.fir.echo(tape, drive, acc)
        return self.inp.echo(tape, below, acc)

    def start(self, batch: int) -> tuple[FIRState, BankState]:
        """Zero past of the filter and oscillators at rest."""
        return self.fir.start(batch), self.bank.start(batch)

    def advance(
        self, x: Float[Tensor, "D batch time"], state: tuple[FIRState, BankState]
    ) -> tuple[Float[Tensor, "D batch time"], tuple[FIRState, BankState]]:
        """Continues by any number of tokens."""
        a, f0 = self.inp.free(x, None).chunk(2)
        f, past = self.fir.advance(f0, state[0])
        q, z = self.bank.advance(f, state[1])
        h = torch.addcmul(q, self.skip[:, None, None], f)
        return self.out.free(F.silu(a) * h, None), (past, z)

    def step(
        self, x: Float[Tensor, "D batch"], state: tuple[FIRState, BankState]
    ) -> tuple[Float[Tensor, "D batch"], tuple[FIRState, BankState]]:
        """Continues by one token."""
        a, f0 = torch.mm(self.inp.weight, x).chunk(2)
        f, past = self.fir.step(f0, state[0])
        q, z = self.bank.step(f, state[1])
        h = torch.addcmul(q, self.skip[:, None], f)
        return torch.mm(self.out.weight, F.silu(a).mul_(h)), (past, z)
