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

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer
from holonomy.core.tape import Tape
from holonomy.geometry.compiled import compiled, over_rows, rows, scalars
from holonomy.nn.oscillator import GAMMA_BOUNDS, THETA_MARGIN, log_spaced

COMPILED_FROM = 4096
"""Fewer numbers than this are scanned by tensor operations: a kernel takes a second to compile."""
KEPT, LOST = math.exp(-GAMMA_BOUNDS[0]), -math.expm1(-GAMMA_BOUNDS[0])
"""What the weakest damping leaves, and what it takes."""


class SelectiveState(NamedTuple):
    """What the bank carries from token to token: real and imaginary part, [N, batch] each."""

    real: Float[Tensor, "N batch"]
    imag: Float[Tensor, "N batch"]


class Chosen(NamedTuple):
    """What the input says at every token, [N, batch, time] each.

    Attributes:
        drive: f_t.
        slope: of softplus, sigmoid(r_t + damping_n).
        cos, sin: of theta_t.
    """

    drive: Float[Tensor, "N batch *time"]
    slope: Float[Tensor, "N batch *time"]
    cos: Float[Tensor, "N batch *time"]
    sin: Float[Tensor, "N batch *time"]


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

    def _chosen(self, r: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the input chose: the slope of softplus at r_t + damping_n, and cosine and sine of theta_t."""
        wide = (-1, *(1,) * (r.dim() - 1))
        theta = phi + self._angle().view(wide)
        return torch.sigmoid(r + self.damping.view(wide)), torch.cos(theta), torch.sin(theta)

    def _reading(self) -> tuple[Tensor, Tensor]:
        """sin(theta_n) and cos(theta_n): the output is Im(exp(i theta_n) h)."""
        theta = self._angle()
        return torch.sin(theta), torch.cos(theta)

    def free(self, x: Float[Tensor, "triple batch time"], tape: Tape | None) -> Float[Tensor, "N batch time"]:
        """Drives the bank from rest; the record is what the input chose, and all states."""
        return self._run(x, None, tape)[0]

    def _run(
        self, x: Tensor, before: SelectiveState | None, tape: Tape | None
    ) -> tuple[Float[Tensor, "N batch time"], SelectiveState]:
        f, r, phi = x.chunk(3)
        chosen = Chosen(f, *self._chosen(r, phi))
        scanned = compiled_scan if _compiles(f) else doubled_scan
        h, out = scanned(chosen, self._reading(), before)
        if tape is not None:
            tape.push(self, *chosen, *h)
        return out, SelectiveState(h.real[..., -1], h.imag[..., -1])

    def echo(self, tape: Tape, g: Float[Tensor, "N batch time"], acc: StatBuffer) -> Float[Tensor, "triple batch time"]:
        """Drives the nudges backwards; dgamma and dtheta are dot and wedge with what the state was carried to."""
        return self.echo_segment(tape, g, None, acc)[0]

    def echo_segment(
        self, tape: Tape, g: Float[Tensor, "N batch time"], carry: SelectiveState | None, acc: StatBuffer
    ) -> tuple[Float[Tensor, "triple batch time"], SelectiveState]:
        """Echo of a segment; what is carried is the nudge on the state."""
        *chosen, h_real, h_imag = tape.pop(self)
        mirrored = compiled_mirror if _compiles(g) else doubled_mirror
        below, before, damping, turn = mirrored(
            Chosen(*chosen), SelectiveState(h_real, h_imag), self._reading(), g, carry
        )
        acc[self.damping].add_(damping)
        angle = self._angle()
        acc[self.turn].add_(turn * angle * (1 - angle / math.pi))
        return below.flatten(0, 1), before

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
        real, imag, gain, _ = factors(Chosen(f, *self._chosen(r, phi)))
        h_real = torch.addcmul(gain * f, real, state.real).addcmul_(imag, state.imag, value=-1)
        h_imag = (real * state.imag).addcmul_(imag, state.real)
        sin, cos = self._reading()
        return torch.addcmul(sin[:, None] * h_real, cos[:, None], h_imag), SelectiveState(h_real, h_imag)


def factors(chosen: Chosen) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Real and imaginary part of exp(-gamma_t + i theta_t), the gain of the drive, and exp(-gamma_t).

    With gamma = gamma_min + softplus(lift) and s = sigmoid(lift), exp(-gamma) = exp(-gamma_min) (1 - s).
    """
    rho = KEPT * (1 - chosen.slope)
    gain = (2 * (LOST + KEPT * chosen.slope) * (1 + rho)).sqrt()
    return rho * chosen.cos, rho * chosen.sin, gain, rho


def doubled_scan(
    chosen: Chosen, reading: tuple[Tensor, Tensor], before: SelectiveState | None
) -> tuple[SelectiveState, Float[Tensor, "N batch time"]]:
    """All states of h_t = (real_t + i imag_t) h_{t-1} + gain_t f_t, h_{-1} = `before` or rest, and the outputs.

    In log2(time) passes of tensor operations, which have a graph where one is wanted.
    """
    real, imag, gain, _ = factors(chosen)
    drive = gain * chosen.drive
    h, a = torch.complex(drive, torch.zeros_like(drive)), torch.complex(real, imag)
    if before is not None:
        first = h[..., :1] + a[..., :1] * torch.complex(before.real, before.imag).unsqueeze(-1)
        h = torch.cat([first, h[..., 1:]], -1)
    h = _doubled(h, a)
    sin, cos = (part[:, None, None] for part in reading)
    return SelectiveState(h.real, h.imag), torch.addcmul(sin * h.real, cos, h.imag)


def doubled_mirror(
    chosen: Chosen,
    h: SelectiveState,
    reading: tuple[Tensor, Tensor],
    g: Float[Tensor, "N batch time"],
    after: SelectiveState | None,
) -> tuple[Float[Tensor, "3 N batch time"], SelectiveState, Float[Tensor, " N"], Float[Tensor, " N"]]:
    """The echo: lambda_t = g_t (sin + i cos) + conj(a_{t+1}) lambda_{t+1}, beginning with `after`.

    Returns:
        Nudges on drive, damping and turn; the nudge on the state before; statistics of the free damping and of theta_n.
    """
    real, imag, gain, rho = factors(chosen)
    sin, cos = (part[:, None, None] for part in reading)
    g_real, g_imag = sin * g, cos * g
    if after is not None:
        g_real[..., -1] += after.real
        g_imag[..., -1] += after.imag
    lam = torch.complex(g_real, g_imag).flip(-1)
    # In reversed time place t is entered through the factor that left place t of the free phase.
    a = torch.complex(real, -imag).flip(-1)
    lam = _doubled(lam, torch.cat([a[..., :1], a[..., :-1]], -1)).flip(-1)
    x, y = lam.real, lam.imag
    # What the state was carried to is the state without its drive; the first was carried from rest.
    carried = torch.addcmul(h.real, gain, chosen.drive, value=-1)
    turn = y * carried - x * h.imag
    # d gain / d gamma = 2 rho^2 / gain.
    damping = chosen.slope * (x * (2 * rho.square() / gain * chosen.drive - carried) - y * h.imag)
    read = (g * (cos * h.real - sin * h.imag)).sum((1, 2))
    first, p, q = real[..., 0], x[..., 0], y[..., 0]
    before = SelectiveState(first * p + imag[..., 0] * q, first * q - imag[..., 0] * p)
    return torch.stack([x * gain, damping, turn]), before, damping.sum((1, 2)), turn.sum((1, 2)) + read


def _doubled(h: Tensor, a: Tensor) -> Tensor:
    """h_t + a_t (h_{t-1} + a_{t-1} (...)) for all t."""
    span = 1
    while span < h.shape[-1]:
        h = torch.cat([h[..., :span], h[..., span:] + a[..., span:] * h[..., :-span]], -1)
        a = torch.cat([a[..., :span], a[..., span:] * a[..., :-span]], -1)
        span *= 2
    return h


def compiled_scan(
    chosen: Chosen, reading: tuple[Tensor, Tensor], before: SelectiveState | None
) -> tuple[SelectiveState, Float[Tensor, "N batch time"]]:
    """`doubled_scan` by a kernel that walks along each row."""
    drive = chosen.drive
    h, out = SelectiveState(torch.empty_like(drive), torch.empty_like(drive)), torch.empty_like(drive)
    start = before or _rest(drive)
    arrays = [*map(rows, chosen), *map(scalars, start), *_per_row(reading, drive), *map(rows, h), rows(out)]
    over_rows(_kernels()[0], *arrays, constants=_constants(drive), per_row=drive.shape[-1])
    return h, out


def compiled_mirror(
    chosen: Chosen,
    h: SelectiveState,
    reading: tuple[Tensor, Tensor],
    g: Float[Tensor, "N batch time"],
    after: SelectiveState | None,
) -> tuple[Float[Tensor, "3 N batch time"], SelectiveState, Float[Tensor, " N"], Float[Tensor, " N"]]:
    """`doubled_mirror` by a kernel that walks back along each row."""
    below = torch.empty(3, *g.shape, dtype=g.dtype, device=g.device)
    before, sums = SelectiveState(*g.new_empty(2, *g.shape[:2])), g.new_empty(2, *g.shape[:2])
    ends = [*map(scalars, after or _rest(g)), *_per_row(reading, g), *map(scalars, before), *map(scalars, sums)]
    arrays = [rows(g), *map(rows, chosen), *map(rows, h), *map(rows, below), *ends]
    over_rows(_kernels()[1], *arrays, constants=_constants(g), per_row=g.shape[-1])
    damping, turn = sums.sum(2)
    return below, before, damping, turn


def _rest(like: Tensor) -> SelectiveState:
    zero = like.new_zeros(like.shape[:2])
    return SelectiveState(zero, zero)


def _per_row(parts: tuple[Tensor, Tensor], like: Tensor) -> list[Any]:
    return [scalars(part[:, None].expand(like.shape[:2])) for part in parts]


def _constants(like: Tensor) -> tuple[Any, ...]:
    """Numbers of the kernels in the dtype of their arrays: an integer beside a float32 would make float64 of both."""
    return tuple(torch.tensor([KEPT, LOST, 1.0, 2.0], dtype=like.dtype).numpy())


def _compiles(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.is_grad_enabled() and x.numel() >= COMPILED_FROM


@lru_cache(maxsize=1)
def _kernels() -> tuple[Any, Any]:
    """The recurrence and its transpose, a row a sequence of one mode.

    The loops along a row are many and short: only with few arrays in each do they become vector instructions.
    """

    def forwards(
        f, slope, cos, sin, start_real, start_imag, read_sin, read_cos, h_real, h_imag, out, kept, lost, one, two
    ):
        for row in range(len(f)):
            x, y, u, v = start_real[row], start_imag[row], read_sin[row], read_cos[row]
            for t in range(f.shape[1]):
                rho = kept * (one - slope[row, t])
                a, b = rho * cos[row, t], rho * sin[row, t]
                gain = math.sqrt(two * (lost + kept * slope[row, t]) * (one + rho))
                x, y = a * x - b * y + gain * f[row, t], a * y + b * x
                h_real[row, t], h_imag[row, t] = x, y
                out[row, t] = u * x + v * y

    def backwards(
        g, f, slope, cos, sin, h_real, h_imag, to_drive, to_damping, to_turn, after_real, after_imag,
        read_sin, read_cos, before_real, before_imag, damping, turn, kept, lost, one, two,
    ):  # fmt: skip
        length = g.shape[1]
        lam_real, lam_imag, gain, kick = np.empty((4, length), g.dtype)
        for row in range(len(g)):
            x, y, u, v = after_real[row], after_imag[row], read_sin[row], read_cos[row]
            for t in range(length - 1, -1, -1):
                x, y = x + u * g[row, t], y + v * g[row, t]
                lam_real[t], lam_imag[t] = x, y
                rho = kept * (one - slope[row, t])
                a, b = rho * cos[row, t], rho * sin[row, t]
                x, y = a * x + b * y, a * y - b * x
            before_real[row], before_imag[row] = x, y
            s, drive, real, imag, nudge = slope[row], f[row], h_real[row], h_imag[row], g[row]
            below, lifted, turned = to_drive[row], to_damping[row], to_turn[row]
            for t in range(length):
                gain[t] = math.sqrt(two * (lost + kept * s[t]) * (one + kept * (one - s[t])))
            for t in range(length):
                below[t] = lam_real[t] * gain[t]
            # What the state was carried to is the state without its drive; the first was carried from rest.
            for t in range(length):
                kick[t] = real[t] - gain[t] * drive[t]
            for t in range(length):
                turned[t] = lam_imag[t] * kick[t] - lam_real[t] * imag[t]
            # d gain / d gamma = 2 rho^2 / gain.
            for t in range(length):
                rho = kept * (one - s[t])
                kick[t] = lam_real[t] * (two * rho * rho / gain[t] * drive[t] - kick[t])
            for t in range(length):
                lifted[t] = s[t] * (kick[t] - lam_imag[t] * imag[t])
            sum_damping, sum_turn = one - one, one - one
            for t in range(length):
                sum_damping += lifted[t]
                sum_turn += turned[t] + nudge[t] * (v * real[t] - u * imag[t])
            damping[row], turn[row] = sum_damping, sum_turn

    return compiled(forwards, exact=True), compiled(backwards)
