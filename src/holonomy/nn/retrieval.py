"""Causal retrieval over past tokens by Boltzmann weights of a geodesic cost.

For query k_i and key m_j of one head, cost_ij = R sqrt(|k_i - m_j|^2 + c^2 (i - j)^2 + 0.01 d), and
w_i = softmax over the past of -cost_ij, out_i = sum_j w_ij v_j. R and c are learned per head.

Echo by contrast: a nudge adds the energy e_ij = g_i . v_j, and the infinitesimal difference of the expected
cost statistics between the nudged and the free Boltzmann distribution is the derivative of the loss:
dL/dcost_ij = -w_ij (e_ij - <e>_i) with <e>_i = sum_j w_ij e_ij.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holonomy.core.errors import ConfigError
from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer
from holonomy.core.tape import Tape
from holonomy.nn.oscillator import log_spaced
from holonomy.nn.static import Linear

LONG_AGO = -(2**31)
"""Position of an empty place: outside every window."""
MASKED = -1e30
"""Score of a place that must not be seen: finite, so that no NaN can come from a difference of masks."""


class RetrievalState(NamedTuple):
    """The last tokens that a query may see; the newest takes the place of the oldest.

    Attributes:
        keys: [batch * heads, window, d].
        values: [batch * heads, window, d].
        time: position of each place's token, [window]; far in the past where there is none yet.
        position: number of tokens seen so far.
        radius: R of each head, [heads, 1, 1]; computed once, not every token.
        interval: c^2 of each head, [heads, 1, 1].
    """

    keys: Float[Tensor, "BH window d"]
    values: Float[Tensor, "BH window d"]
    time: Int[Tensor, " window"]
    position: int
    radius: Float[Tensor, "heads 1 1"]
    interval: Float[Tensor, "heads 1 1"]


class Retrieval(EchoLayer):
    """Multi-head retrieval: queries, keys and values are linear in x, the result returns through a linear map.

    Args:
        channels: width of the residual stream, a multiple of `heads`.
        heads: number of heads.
        window: how many tokens, the current one included, a query sees.
        out_scale: standard deviation of the last map is `out_scale / sqrt(channels)`.
        generator: source of the initial weights.
    """

    def __init__(self, channels: int, heads: int, *, window: int, out_scale: float, generator: torch.Generator) -> None:
        super().__init__()
        if channels % heads:
            raise ConfigError(f"`model.heads` = {heads} does not divide `model.d` = {channels}; choose a divisor")
        self.heads, self.window = heads, window
        self.inp = Linear(channels, 3 * channels, std=channels**-0.5, generator=generator)
        self.log_radius = nn.Parameter(torch.full((heads,), math.log(1.5)))
        self.log_interval = nn.Parameter(log_spaced((0.02, 1.0), heads).log().float())
        self.out = Linear(channels, channels, std=out_scale * channels**-0.5, generator=generator)

    def split(self, x: Float[Tensor, "triple batch time"]) -> tuple[Tensor, Tensor, Tensor]:
        """Splits [3 D, B, T] into queries, keys and values, each [B * heads, T, d]."""
        width = x.shape[0] // (3 * self.heads)
        parts = x.view(3, self.heads, width, *x.shape[1:]).permute(0, 3, 1, 4, 2)
        k, m, v = parts.reshape(3, -1, x.shape[2], width)
        return k, m, v

    def join(self, y: Float[Tensor, "BH time d"], batch: int) -> Float[Tensor, "D batch time"]:
        """Inverse of one part of `split`."""
        heads = y.view(batch, self.heads, *y.shape[1:]).permute(1, 3, 0, 2)
        return heads.reshape(-1, batch, y.shape[1])

    def scales(self) -> tuple[Float[Tensor, "heads 1 1"], Float[Tensor, "heads 1 1"]]:
        """Returns R and c^2 of each head."""
        return self.log_radius.exp()[:, None, None], (2 * self.log_interval).exp()[:, None, None]

    def weights(
        self,
        k: Float[Tensor, "BH L d"],
        m: Float[Tensor, "BH S d"],
        apart: Int[Tensor, "L S"],
        radius: Float[Tensor, "heads 1 1"],
        interval: Float[Tensor, "heads 1 1"],
    ) -> tuple[Float[Tensor, "BH L S"], Float[Tensor, "BH L S"]]:
        """Boltzmann weights and the geodesic lengths sqrt(...) of all pairs.

        Args:
            k: queries.
            m: keys.
            apart: age of each key as seen by each query; places outside [0, window) are not seen.
            radius: R.
            interval: c^2.
        """
        square = torch.baddbmm(k.square().sum(-1, keepdim=True), k, m.mT, alpha=-2)
        square = (square + m.square().sum(-1).unsqueeze(1)).clamp_min(0)
        length = (square.view(-1, self.heads, *apart.shape) + (interval * apart.square() + 0.01 * k.shape[-1])).sqrt()
        seen = (apart >= 0) & (apart < self.window)
        score = torch.where(seen, -radius * length, MASKED)
        return score.softmax(-1).view_as(square), length.view_as(square)

    def free(self, x: Float[Tensor, "D batch time"], tape: Tape | None) -> Float[Tensor, "D batch time"]:
        """Retrieves from the past of the same sequence; the record holds parts, weights and lengths."""
        k, m, v = self.split(self.inp.free(x, tape))
        time = torch.arange(x.shape[-1], device=x.device)
        w, length = self.weights(k, m, time[:, None] - time, *self.scales())
        y = torch.bmm(w, v)
        if tape is not None:
            tape.push(self, k, m, v, w, length)
        return self.out.free(self.join(y, x.shape[1]), tape)

    def echo(self, tape: Tape, g: Float[Tensor, "D batch time"], acc: StatBuffer) -> Float[Tensor, "D batch time"]:
        """Contrast of the nudged and the free distribution.

        With P = dL/d(length^2): dR = sum dcost length, dc^2 = sum P (i - j)^2,
        dk_i = 2 (k_i sum_j P_ij - sum_j P_ij m_j), dm_j = 2 (m_j sum_i P_ij - sum_i P_ij k_i).
        """
        batch, time = g.shape[1:]
        g = self.out.echo(tape, g, acc)
        k, m, v, w, length = tape.pop(self)
        g = g.view(self.heads, -1, batch, time).permute(2, 0, 3, 1).reshape_as(v)
        dv = torch.bmm(w.mT, g)
        energy = torch.bmm(g, v.mT)
        dcost = boltzmann_contrast(w, energy).neg_()
        by_head = (batch, self.heads, -1)
        radius = self.log_radius.exp()
        acc[self.log_radius].add_(radius * (dcost * length).view(by_head).sum((0, 2)))
        p = dcost.div_(length).view(batch, self.heads, time, time).mul_(radius[:, None, None] / 2)
        age = torch.arange(time, device=g.device, dtype=g.dtype)
        by_age = p.sum(0).view(self.heads, -1) @ (age[:, None] - age).square().view(-1)
        acc[self.log_interval].add_(2 * self.log_interval.exp().square() * by_age)
        p = p.view_as(w)
        dk = torch.bmm(p, m).neg_().addcmul_(k, p.sum(2, keepdim=True)).mul_(2)
        dm = torch.bmm(p.mT, k).neg_().addcmul_(m, p.sum(1).unsqueeze(-1)).mul_(2)
        below = torch.stack([dk, dm, dv]).view(3, batch, self.heads, time, -1).permute(0, 2, 4, 1, 3)
        return self.inp.echo(tape, below.reshape(-1, batch, time), acc)

    def start(self, batch: int) -> RetrievalState:
        """Nothing seen yet."""
        weight = self.out.weight
        keys = weight.new_zeros(batch * self.heads, self.window, weight.shape[0] // self.heads)
        time = torch.full((self.window,), LONG_AGO, device=weight.device)
        return RetrievalState(keys, keys.clone(), time, 0, *self.scales())

    def advance(
        self, x: Float[Tensor, "D batch time"], state: RetrievalState
    ) -> tuple[Float[Tensor, "D batch time"], RetrievalState]:
        """Continues by any number of tokens, a window's length at a time."""
        results = []
        for part in x.split(self.window, -1):
            k, m, v = self.split(self.inp.free(part, None))
            end = state.position + part.shape[-1]
            time = torch.arange(state.position, end, device=x.device)
            apart = time[:, None] - torch.cat([state.time, time])
            w, _ = self.weights(k, torch.cat([state.keys, m], 1), apart, state.radius, state.interval)
            y = torch.bmm(w, torch.cat([state.values, v], 1))
            place = time % self.window
            state.keys.index_copy_(1, place, m)
            state.values.index_copy_(1, place, v)
            state.time.index_copy_(0, place, time)
            state = state._replace(position=end)
            results.append(self.out.free(self.join(y, x.shape[1]), None))
        return torch.cat(results, -1), state

    def step(
        self, x: Float[Tensor, "D batch"], state: RetrievalState
    ) -> tuple[Float[Tensor, "D batch"], RetrievalState]:
        """Continues by one token."""
        width = state.keys.shape[-1]
        parts = torch.mm(self.inp.weight, x).view(3, self.heads, width, -1).permute(0, 3, 1, 2)
        k, m, v = parts.reshape(3, -1, 1, width)
        place = state.position % self.window
        state.keys[:, place : place + 1] = m
        state.values[:, place : place + 1] = v
        state.time[place] = state.position
        apart = (state.position - state.time).unsqueeze(0)
        w, _ = self.weights(k, state.keys, apart, state.radius, state.interval)
        y = torch.bmm(w, state.values).view(-1, self.heads * width).T
        return torch.mm(self.out.weight, y), state._replace(position=state.position + 1)


def boltzmann_contrast(w: Float[Tensor, "BH L S"], energy: Float[Tensor, "BH L S"]) -> Float[Tensor, "BH L S"]:
    """w_ij (e_ij - <e>_i): how fast the Boltzmann weights fall as the nudge energy e is switched on."""
    return torch.ops.aten._softmax_backward_data(energy, w, -1, w.dtype)
