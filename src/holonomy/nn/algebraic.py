"""Layers from products of hypercomplex numbers, eight channels a number.

Biquaternions: h_t = a L(W_t) h_{t-1} + s L(W_i) q_t, y = alpha q + (1 - alpha) L(W_o) h, one set of W a number, L the
matrix of multiplication from the left. The recurrence is linear but not symmetric: its echo is driven by the transpose.
Octonions: J = (x y) z - x (y z), which is local in time; since <a b, c> = <b, a* c> = <a, c b*>, its echo is made of
products too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holonomy.core.errors import ConfigError
from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer, PointwiseLayer
from holonomy.core.tape import Tape
from holonomy.geometry.hypercomplex import associator, biquaternion_left, conjugate_octonion, octonion_product
from holonomy.nn.oscillator import log_spaced

EIGHT = 8
"""Real channels of a number."""


def _groups(channels: int, name: str) -> int:
    if channels % EIGHT:
        raise ConfigError(f"`{name}` is {channels}; hypercomplex numbers want a multiple of {EIGHT}")
    return channels // EIGHT


class BiquaternionState(NamedTuple):
    """What the bank carries from token to token.

    Attributes:
        h: one number a group, [groups, 8, batch].
        turn, drive, read: a L(W_t), s L(W_i) and (1 - alpha) L(W_o); computed once, not every token.
    """

    h: Float[Tensor, "groups 8 batch"]
    turn: Float[Tensor, "groups 8 8"]
    drive: Float[Tensor, "groups 8 8"]
    read: Float[Tensor, "groups 8 8"]


class BiquaternionBank(EchoLayer):
    """Recurrence of biquaternions that cannot grow: W_t is divided by |Re W_t| + |Im W_t|, which bounds |L(W_t)| by 1.

    Args:
        channels: a multiple of 8.
        gamma_range: weakest and strongest initial damping per token, a = exp(-gamma), log-spaced over the numbers.
        generator: source of the initial numbers.
    """

    def __init__(
        self, channels: int, *, gamma_range: tuple[float, float] = (0.01, 1.0), generator: torch.Generator
    ) -> None:
        super().__init__()
        groups = _groups(channels, "channels")

        def drawn() -> nn.Parameter:
            w = torch.randn(groups, EIGHT, generator=generator)
            return nn.Parameter(w / torch.linalg.vector_norm(w, dim=1, keepdim=True))

        self.transition, self.inward, self.outward = drawn(), drawn(), drawn()
        a = torch.exp(-log_spaced(gamma_range, groups)[torch.randperm(groups, generator=generator)])
        self.keep = nn.Parameter(torch.logit(a).float())
        # The variance of h is then about that of q.
        self.gain = nn.Parameter((1 - a.square()).sqrt().float())
        self.direct = nn.Parameter(torch.zeros(groups))

    def _size(self) -> Tensor:
        return torch.linalg.vector_norm(self.transition.view(-1, 2, 4), dim=-1)

    def _matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """a L(W_t), s L(W_i), (1 - alpha) L(W_o)."""
        bounded = self.transition / self._size().sum(-1, keepdim=True)
        scales = torch.sigmoid(self.keep), self.gain, torch.sigmoid(-self.direct)
        numbers = bounded, self.inward, self.outward
        turn, drive, read = (s[:, None, None] * biquaternion_left(w) for s, w in zip(scales, numbers, strict=True))
        return turn, drive, read

    def free(self, x: Float[Tensor, "D batch time"], tape: Tape | None) -> Float[Tensor, "D batch time"]:
        """Runs from rest; the record is the input, the states and the matrices."""
        return self._run(x, None, tape)[0]

    def _run(self, x: Tensor, before: BiquaternionState | None, tape: Tape | None) -> tuple[Tensor, BiquaternionState]:
        turn, drive, read = self._matrices()
        q = x.reshape(-1, EIGHT, *x.shape[1:])
        u = _times(drive, q)
        rest = torch.zeros_like(u[..., 0]) if before is None else before.h
        h = _linear_scan(turn, u, rest)
        if tape is not None:
            tape.push(self, q, h, rest, turn, drive, read)
        y = torch.sigmoid(self.direct)[:, None, None, None] * q + _times(read, h)
        return y.view(x.shape), BiquaternionState(h[..., -1], turn, drive, read)

    def resume(
        self, x: Float[Tensor, "D batch time"], state: BiquaternionState, tape: Tape | None
    ) -> tuple[Float[Tensor, "D batch time"], BiquaternionState]:
        """Runs from a carried state."""
        return self._run(x, state, tape)

    def echo(self, tape: Tape, g: Float[Tensor, "D batch time"], acc: StatBuffer) -> Float[Tensor, "D batch time"]:
        """With mu the nudges driven backwards by the transpose, d turn = sum_t mu_t h_{t-1}^T."""
        return self.echo_segment(tape, g, None, acc)[0]

    def echo_segment(
        self, tape: Tape, g: Float[Tensor, "D batch time"], carry: Tensor | None, acc: StatBuffer
    ) -> tuple[Float[Tensor, "D batch time"], Tensor]:
        """Echo of a segment; what is carried is the nudge on the state before it."""
        q, h, rest, turn, drive, read = tape.pop(self)
        shape, g = g.shape, g.reshape(q.shape)
        above = _times(read.mT, g)
        if carry is not None:
            above[..., -1] += carry
        mu = _linear_scan(turn.mT, above.flip(-1), torch.zeros_like(rest)).flip(-1)
        lagged = torch.cat([rest.unsqueeze(-1), h[..., :-1]], -1)
        direct = torch.sigmoid(self.direct)
        acc[self.direct].add_((g * q).sum((1, 2, 3)) * direct * (1 - direct))
        found = zip((self.keep, self.gain, self.direct), (mu, mu, g), (lagged, q, h), strict=True)
        keep, numbers = torch.sigmoid(self.keep), (self.transition, self.inward, self.outward)
        size = self._size().sum(-1)
        scales = (keep / size, self.gain, 1 - direct)
        # How each scale moves with its own parameter, relative to itself.
        slopes = (1 - keep, 1 / self.gain, -direct)
        basis = biquaternion_left(torch.eye(EIGHT, dtype=g.dtype, device=g.device))
        for (param, left, right), w, scale, slope in zip(found, numbers, scales, slopes, strict=True):
            dmatrix = left.flatten(2) @ right.flatten(2).mT
            dw = torch.einsum("kab,gab->gk", basis, dmatrix) * scale[:, None]
            along = (dw * w).sum(1)
            acc[param].add_(along * slope)
            if param is self.keep:
                halves = w.view(-1, 2, 4) / self._size().unsqueeze(-1)
                dw = dw - (along / size)[:, None] * halves.flatten(1)
            acc[w].add_(dw)
        below = torch.sigmoid(self.direct)[:, None, None, None] * g + _times(drive.mT, mu)
        return below.view(shape), torch.bmm(turn.mT, mu[..., 0])

    def project(self) -> None:
        """Keeps a below 1 and the gains away from zero, where a relative slope means nothing."""
        self.keep.data.clamp_(-8, 8)
        self.gain.data.clamp_min_(1e-3)

    def start(self, batch: int) -> BiquaternionState:
        """All numbers zero."""
        matrices = self._matrices()
        return BiquaternionState(self.keep.new_zeros(len(self.keep), EIGHT, batch), *matrices)

    def advance(
        self, x: Float[Tensor, "D batch time"], state: BiquaternionState
    ) -> tuple[Float[Tensor, "D batch time"], BiquaternionState]:
        """Runs from a carried state."""
        return self._run(x, state, None)

    def step(
        self, x: Float[Tensor, "D batch"], state: BiquaternionState
    ) -> tuple[Float[Tensor, "D batch"], BiquaternionState]:
        """One token of the recurrence."""
        q = x.reshape(-1, EIGHT, x.shape[1])
        h = torch.bmm(state.drive, q).baddbmm_(state.turn, state.h)
        y = torch.sigmoid(self.direct)[:, None, None] * q + torch.bmm(state.read, h)
        return y.view(x.shape), state._replace(h=h)


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    """One matrix a group on [groups, 8, batch, time]."""
    return torch.bmm(matrix, x.flatten(2)).view_as(x)


def _linear_scan(turn: Tensor, u: Tensor, before: Tensor) -> Tensor:
    """All h_t = turn h_{t-1} + u_t of [groups, 8, batch, time], by doubling: log2(time) passes."""
    first = u[..., :1] + torch.bmm(turn, before).unsqueeze(-1)
    h, power, span = torch.cat([first, u[..., 1:]], -1), turn, 1
    while span < h.shape[-1]:
        h = torch.cat([h[..., :span], h[..., span:] + _times(power, h[..., :-span])], -1)
        power, span = power @ power, 2 * span
    return h


class Associator(PointwiseLayer):
    """J = (x y) z - x (y z) of octonions: the three thirds of the channels are x, y and z, eight channels a number.

    Zero where the three lie in one quaternion algebra, and without real part everywhere.
    """

    def free(self, x: Float[Tensor, "triple ..."], tape: Tape | None) -> Float[Tensor, "third ..."]:
        """Multiplies token by token; the record is the input."""
        if tape is not None:
            tape.push(self, x)
        return _channels(associator(*_octonions(x, 3)))

    def echo(self, tape: Tape, g: Float[Tensor, "third ..."], acc: StatBuffer) -> Float[Tensor, "triple ..."]:
        """Product rule with the adjoint of a multiplication, which is that by the conjugate."""
        (whole,) = tape.pop(self)
        mul, bar = octonion_product, conjugate_octonion
        x, y, z = _octonions(whole, 3)
        (g,) = _octonions(g, 1)
        inner, outer = mul(g, bar(z)), mul(bar(x), g)
        dx = mul(inner, bar(y)) - mul(g, bar(mul(y, z)))
        dy = mul(bar(x), inner) - mul(outer, bar(z))
        dz = mul(bar(mul(x, y)), g) - mul(bar(y), outer)
        return torch.cat([_channels(d) for d in (dx, dy, dz)])


def _octonions(x: Tensor, parts: int) -> Tensor:
    """[parts * groups * 8, ...] as [parts, groups, ..., 8]."""
    return x.reshape(parts, _groups(x.shape[0] // parts, "channels"), EIGHT, *x.shape[1:]).movedim(2, -1)


def _channels(x: Tensor) -> Tensor:
    """[groups, ..., 8] as [groups * 8, ...]."""
    return x.movedim(-1, 1).flatten(0, 1)
