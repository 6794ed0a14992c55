"""Bank of oscillators whose damping and turn depend on the input.

    h_t = exp(-gamma_t + i theta_t) h_{t-1} + sqrt(2 (1 - exp(-2 gamma_t))) f_t,    y_t = Im(exp(i theta_n) h_t),
    gamma_t = gamma_min + softplus(r_t + damping_n),    theta_t = theta_n + phi_t,

with drive f, and r, phi linear in the layer's input: the bank chooses at every token what it keeps. The echo is exact
for any damping, since the recurrence is linear in the state: with lambda the nudges driven backwards through the
conjugate factors, dL/dgamma_t is minus the symmetric (dot) and dL/dtheta_t the antisymmetric (wedge) correlation of
lambda_t with exp(-gamma_t + i theta_t) h_{t-1}. Related: LRU (Orvieto et al. 2023), Mamba (Gu & Dao 2023), RG-LRU (De
et al. 2024); those are trained through a graph.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer
from holonomy.core.tape import Tape
from holonomy.geometry.compiled import compiled, over_rows, rows
from holonomy.nn.oscillator import GAMMA_BOUNDS, THETA_MARGIN, log_spaced

COMPILED_FROM = 4096
"""Fewer numbers than this are scanned by tensor operations: a kernel takes a second to compile."""


class SelectiveState(NamedTuple):
    """What the bank carries from token to token: real and imaginary part, [N, batch] each."""

    real: Float[Tensor, "N batch"]
    imag: Float[Tensor, "N batch"]


class SelectiveBank(EchoLayer):
    """Input-dependent oscillators: three inputs a mode (drive, damping, turn), one output.

    Args:
        modes: number of oscillators.
        theta_range: slowest and fastest turn where the input says nothing, radians per token.
        gamma_range: weakest and strongest damping there, per token.
        generator: permutes turns and dampings independently.
    """

    inputs = 3

    def __init__(
        self,
        modes: int,
        *,
        theta_range: tuple[float, float],
        gamma_range: tuple[float, float],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        theta = log_spaced(theta_range, modes)[torch.randperm(modes, generator=generator)]
        gamma = log_spaced(gamma_range, modes)[torch.randperm(modes, generator=generator)]
        self.turn = nn.Parameter(torch.logit(theta / math.pi).float())
        self.damping = nn.Parameter((gamma - GAMMA_BOUNDS[0]).clamp_min(1e-6).expm1().log().float())

    def _angle(self) -> Float[Tensor, " N"]:
        return math.pi * torch.sigmoid(self.turn)

    def poles(self) -> Complex[Tensor, " N"]:
        """What a token multiplies each mode by where the input says nothing."""
        return torch.polar(torch.exp(-GAMMA_BOUNDS[0] - F.softplus(self.damping)), self._angle())

    def _factors(self, r: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Real and imaginary part of exp(-gamma_t + i theta_t), the gain of the drive, and softplus' slope."""
        lift = r + self.damping.view(-1, *(1,) * (r.dim() - 1))
        gamma = GAMMA_BOUNDS[0] + F.softplus(lift)
        theta = phi + self._angle().view(-1, *(1,) * (r.dim() - 1))
        rho = torch.exp(-gamma)
        gain = (-2 * torch.expm1(-2 * gamma)).sqrt()
        return rho * torch.cos(theta), rho * torch.sin(theta), gain, torch.sigmoid(lift)

    def _read(self, h: SelectiveState) -> Tensor:
        """Im(exp(i theta_n) h)."""
        theta = self._angle().view(-1, *(1,) * (h.real.dim() - 1))
        return torch.addcmul(torch.sin(theta) * h.real, torch.cos(theta), h.imag)

    def free(self, x: Float[Tensor, "triple batch time"], tape: Tape | None) -> Float[Tensor, "N batch time"]:
        """Drives the bank from rest; the record is what the input chose, and all states."""
        return self._run(x, None, tape)[0]

    def _run(
        self, x: Tensor, before: SelectiveState | None, tape: Tape | None
    ) -> tuple[Float[Tensor, "N batch time"], SelectiveState]:
        f, r, phi = x.chunk(3)
        real, imag, gain, slope = self._factors(r, phi)
        h = selective_scan(real, imag, gain * f, before)
        if tape is not None:
            tape.push(self, f, real, imag, gain, slope, h.real, h.imag)
        return self._read(h), SelectiveState(h.real[..., -1], h.imag[..., -1])

    def echo(self, tape: Tape, g: Float[Tensor, "N batch time"], acc: StatBuffer) -> Float[Tensor, "triple batch time"]:
        """Drives the nudges backwards; dgamma and dtheta are dot and wedge with what the state was carried to."""
        return self.echo_segment(tape, g, None, acc)[0]

    def echo_segment(
        self, tape: Tape, g: Float[Tensor, "N batch time"], carry: SelectiveState | None, acc: StatBuffer
    ) -> tuple[Float[Tensor, "triple batch time"], SelectiveState]:
        """Echo of a segment; what is carried is the nudge on the state."""
        f, real, imag, gain, slope, h_real, h_imag = tape.pop(self)
        theta = self._angle()[:, None, None]
        sin, cos = torch.sin(theta), torch.cos(theta)
        g_real, g_imag = sin * g, cos * g
        if carry is not None:
            g_real[..., -1] += carry.real
            g_imag[..., -1] += carry.imag
        back_real, back_imag = selective_mirror(real, imag, g_real, g_imag)
        # What the state was carried to is the state without its drive; the first was carried from rest.
        carried_real, carried_imag = torch.addcmul(h_real, gain, f, value=-1), h_imag
        below = torch.empty(3, *f.shape, dtype=g.dtype, device=g.device)
        torch.mul(back_real, gain, out=below[0])
        dtheta = torch.mul(back_imag, carried_real, out=below[2]).addcmul_(back_real, carried_imag, value=-1)
        dgamma = torch.mul(back_real, carried_real, out=below[1]).addcmul_(back_imag, carried_imag).neg_()
        # d gain / d gamma = 2 rho^2 / gain.
        dgamma.add_((real.square() + imag.square()).mul_(2).div_(gain).mul_(back_real).mul_(f)).mul_(slope)
        acc[self.damping].add_(dgamma.sum((1, 2)))
        out = (g * (cos * h_real - sin * h_imag)).sum((1, 2))
        angle = self._angle()
        acc[self.turn].add_((dtheta.sum((1, 2)) + out) * angle * (1 - angle / math.pi))
        a, b, x, y = real[..., 0], imag[..., 0], back_real[..., 0], back_imag[..., 0]
        return below.flatten(0, 1), SelectiveState(a * x + b * y, a * y - b * x)

    def resume(
        self, x: Float[Tensor, "triple batch time"], state: SelectiveState, tape: Tape | None
    ) -> tuple[Float[Tensor, "N batch time"], SelectiveState]:
        """Drives the bank from a carried state; the record is as for `free`."""
        return self._run(x, state, tape)

    def project(self) -> None:
        """Keeps theta_n in [1e-3, pi - 1e-3] and the free damping in a sane range."""
        edge = math.log((math.pi - THETA_MARGIN) / THETA_MARGIN)
        self.turn.data.clamp_(-edge, edge)
        self.damping.data.clamp_(math.log(GAMMA_BOUNDS[0]), GAMMA_BOUNDS[1])

    def start(self, batch: int) -> SelectiveState:
        """All oscillators at rest."""
        rest = self.turn.new_zeros(len(self.turn), batch)
        return SelectiveState(rest, rest)

    def advance(
        self, x: Float[Tensor, "triple batch time"], state: SelectiveState
    ) -> tuple[Float[Tensor, "N batch time"], SelectiveState]:
        """Drives the bank from a carried state."""
        return self._run(x, state, None)

    def step(
        self, x: Float[Tensor, "triple batch"], state: SelectiveState
    ) -> tuple[Float[Tensor, "N batch"], SelectiveState]:
        """One token of the recurrence."""
        f, r, phi = x.chunk(3)
        real, imag, gain, _ = self._factors(r, phi)
        after = SelectiveState(
            torch.addcmul(gain * f, real, state.real).addcmul_(imag, state.imag, value=-1),
            (real * state.imag).addcmul_(imag, state.real),
        )
        return self._read(after), after


def selective_scan(
    real: Float[Tensor, "N batch time"],
    imag: Float[Tensor, "N batch time"],
    drive: Float[Tensor, "N batch time"],
    before: SelectiveState | None,
) -> SelectiveState:
    """All states of h_t = (real_t + i imag_t) h_{t-1} + drive_t, h_{-1} = `before` or rest; [N, batch, time] each.

    On the CPU by a compiled kernel, else (and where a graph is wanted) by doubling: log2(time) passes.
    """
    if _compiles(drive):
        start = before or SelectiveState(drive.new_zeros(drive.shape[:2]), drive.new_zeros(drive.shape[:2]))
        out = SelectiveState(torch.empty_like(drive), torch.empty_like(drive))
        arrays = [rows(t) for t in (real, imag, drive)]
        begin = [t.contiguous().view(-1).numpy() for t in start]
        results = [t.view(-1, drive.shape[-1]).numpy() for t in out]
        over_rows(_kernels()[0], *arrays, *begin, *results, per_row=drive.shape[-1])
        return out
    h = torch.complex(drive, torch.zeros_like(drive))
    a = torch.complex(real, imag)
    if before is not None:
        first = h[..., :1] + a[..., :1] * torch.complex(before.real, before.imag).unsqueeze(-1)
        h = torch.cat([first, h[..., 1:]], -1)
    span = 1
    while span < h.shape[-1]:
        h = torch.cat([h[..., :span], h[..., span:] + a[..., span:] * h[..., :-span]], -1)
        a = torch.cat([a[..., :span], a[..., span:] * a[..., :-span]], -1)
        span *= 2
    return SelectiveState(h.real, h.imag)


def selective_mirror(
    real: Float[Tensor, "N batch time"],
    imag: Float[Tensor, "N batch time"],
    g_real: Float[Tensor, "N batch time"],
    g_imag: Float[Tensor, "N batch time"],
) -> tuple[Float[Tensor, "N batch time"], Float[Tensor, "N batch time"]]:
    """Transpose of `selective_scan`: lambda_t = g_t + conj(a_{t+1}) lambda_{t+1}."""
    if _compiles(g_real):
        out = torch.empty_like(real), torch.empty_like(real)
        arrays = [rows(t) for t in (real, imag, g_real, g_imag)]
        over_rows(_kernels()[1], *arrays, *(t.view(-1, real.shape[-1]).numpy() for t in out), per_row=real.shape[-1])
        return out
    lam = torch.complex(g_real, g_imag).flip(-1)
    # In reversed time place t is entered through the factor that left place t of the free phase.
    a = torch.complex(real, -imag).flip(-1)
    a = torch.cat([a[..., :1], a[..., :-1]], -1)
    span = 1
    while span < lam.shape[-1]:
        lam = torch.cat([lam[..., :span], lam[..., span:] + a[..., span:] * lam[..., :-span]], -1)
        a = torch.cat([a[..., :span], a[..., span:] * a[..., :-span]], -1)
        span *= 2
    lam = lam.flip(-1)
    return lam.real, lam.imag


def _compiles(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.is_grad_enabled() and x.numel() >= COMPILED_FROM


@lru_cache(maxsize=1)
def _kernels() -> tuple[Any, Any]:
    """The recurrence and its transpose, a row a sequence of one mode."""

    def forwards(real, imag, drive, start_real, start_imag, out_real, out_imag):
        for row in range(len(real)):
            x, y = start_real[row], start_imag[row]
            for t in range(real.shape[1]):
                a, b = real[row, t], imag[row, t]
                x, y = a * x - b * y + drive[row, t], a * y + b * x
                out_real[row, t] = x
                out_imag[row, t] = y

    def backwards(real, imag, g_real, g_imag, out_real, out_imag):
        for row in range(len(real)):
            last = real.shape[1] - 1
            x, y = g_real[row, last], g_imag[row, last]
            out_real[row, last] = x
            out_imag[row, last] = y
            for t in range(last - 1, -1, -1):
                a, b = real[row, t + 1], imag[row, t + 1]
                x, y = a * x + b * y + g_real[row, t], a * y - b * x + g_imag[row, t]
                out_real[row, t] = x
                out_imag[row, t] = y

    return compiled(forwards, exact=True), compiled(backwards, exact=True)
