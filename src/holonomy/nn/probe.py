"""Address probing: a query reads few candidates of its past, those near it and, against them, those that differ most.

The pool of a token are the `window` tokens before it and the mean key and value of each completed block of 32 tokens
before it, all strictly earlier. Of the pool the 32 nearest are taken, then of the rest the 16 of highest cosine, then
of the rest the 16 of lowest; the choice is a constant of the free phase. With queries and candidates in coordinates
where the metric is Euclidean,

    score = q . c / sqrt(n) + sum_a w_a ch_a,    y = softmax(score of the former) v - rho softmax(score of the last) v,

ch the cosine, the sine, sum |q_i c_i| / (|q| |c|), -1 / (d^2 + 1) and the rank by distance over 64: bounded, and not
learned through, while their weights w are. A metric that is the same everywhere transports vectors by leaving them
alone, so that a cosine after transport would be the first of these again.
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
from holonomy.nn.attention import LONG_AGO, MASKED, boltzmann_contrast
from holonomy.nn.chart import Chart
from holonomy.nn.static import Linear

BLOCK = 32
"""Tokens whose mean is a candidate."""
BLOCKS_HELD = 64
"""The newest blocks are candidates, so that the state of a session does not grow."""
NEAREST, ALONG, AGAINST = 32, 16, 16
CHANNELS = 5


class ProbeState(NamedTuple):
    """What earlier tokens left.

    Attributes:
        keys, values: of the last `window` tokens, the newest last, [heads, batch, window, n or d].
        block_keys, block_values: means of the last blocks, the newest last, [heads, batch, blocks, n or d].
        open_keys, open_values: sums over the block that is not complete, [heads, batch, n or d].
        position: number of tokens seen so far.
    """

    keys: Float[Tensor, "heads batch window n"]
    values: Float[Tensor, "heads batch window d"]
    block_keys: Float[Tensor, "heads batch blocks n"]
    block_values: Float[Tensor, "heads batch blocks d"]
    open_keys: Float[Tensor, "heads batch n"]
    open_values: Float[Tensor, "heads batch d"]
    position: int


class AddressProbe(EchoLayer):
    """Multi-head probing of the past; the first token reads nothing.

    Args:
        channels: width of the residual stream, a multiple of `heads`.
        heads: number of heads.
        window: how many tokens before its own a query may choose from, besides the blocks.
        out_scale: standard deviation of the last map is `out_scale / sqrt(channels)`.
        chart: learned metrics of the heads; None is the Euclidean one.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        window: int,
        out_scale: float,
        chart: Chart | None = None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ConfigError(f"`model.heads` = {heads} does not divide `model.d` = {channels}; choose a divisor")
        self.heads, self.window, self.width, self.chart = heads, window, channels // heads, chart
        self.inp = Linear(channels, 3 * channels, std=channels**-0.5, generator=generator)
        self.mix = nn.Parameter(torch.zeros(heads, CHANNELS))
        # sigmoid(-2.2) is about 0.1.
        self.against = nn.Parameter(torch.full((heads,), -2.2))
        self.out = Linear(channels, channels, std=out_scale * channels**-0.5, generator=generator)

    def _mapped(self, x: Tensor, tape: Tape | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [heads, batch, time, n or d]."""
        parts = self.inp.free(x, tape).view(3, self.heads, self.width, *x.shape[1:]).permute(0, 1, 3, 4, 2)
        pair, v = parts[:2], parts[2]
        if self.chart is not None:
            flat = pair.transpose(0, 1).reshape(self.heads, -1, self.width)
            pair = self.chart.free(flat, tape).view(self.heads, 2, *x.shape[1:], -1).transpose(0, 1)
        return pair[0], pair[1], v

    def free(self, x: Float[Tensor, "D batch time"], tape: Tape | None) -> Float[Tensor, "D batch time"]:
        """Probes the past of the same sequence."""
        k, m, v = self._mapped(x, tape)
        time = torch.arange(x.shape[-1], device=x.device)
        keys, values = (torch.cat([_block_means(z), z], 2) for z in (m, v))
        ends = BLOCK * torch.arange(1, x.shape[-1] // BLOCK + 1, device=x.device)
        seen = torch.cat([_blocks_seen(time, ends), _tokens_seen(time, time, self.window)], 1)
        y = self._probed(k, keys, values, seen, tape)
        return self.out.free(self._joined(y), tape)

    def _joined(self, y: Tensor) -> Tensor:
        """[..., heads, batch, time, d] as [channels, batch, time]."""
        return y.movedim(-1, -3).flatten(0, -3).contiguous()

    def _probed(
        self,
        k: Float[Tensor, "heads batch L n"],
        keys: Float[Tensor, "heads batch S n"],
        values: Float[Tensor, "heads batch S d"],
        seen: Tensor,
        tape: Tape | None,
    ) -> Float[Tensor, "heads batch L d"]:
        """What the chosen candidates say; the record is all that the echo needs."""
        inner = k @ keys.mT
        with torch.no_grad():
            channels, near, far = probe_channels(k, keys, inner, seen)
        scale = 1 / math.sqrt(self.width)
        score = scale * inner + torch.einsum("hc,chbls->hbls", self.mix, channels)
        w, w_far = (torch.where(chosen, score, MASKED).softmax(-1) * chosen for chosen in (near, far))
        rho = torch.sigmoid(self.against)[:, None, None, None]
        if tape is not None:
            tape.push(self, k, keys, values, channels, w, w_far)
        return (w - rho * w_far) @ values

    def echo(self, tape: Tape, g: Float[Tensor, "D batch time"], acc: StatBuffer) -> Float[Tensor, "D batch time"]:
        """Contrast of both distributions."""
        g = self.out.echo(tape, g, acc).view(self.heads, self.width, *g.shape[1:]).permute(0, 2, 3, 1)
        k, keys, values, channels, w, w_far = tape.pop(self)
        rho = torch.sigmoid(self.against)
        energy = g @ values.mT
        acc[self.against].sub_((w_far * energy).sum((1, 2, 3)) * rho * (1 - rho))
        rho = rho[:, None, None, None]
        dscore = boltzmann_contrast(w, energy) - rho * boltzmann_contrast(w_far, energy)
        acc[self.mix].add_(torch.einsum("hbls,chbls->hc", dscore, channels))
        dv = (w - rho * w_far).mT @ g
        dinner = dscore / math.sqrt(self.width)
        dk, dm, dv = dinner @ keys, _unfold_means(dinner.mT @ k, k.shape[2]), _unfold_means(dv, k.shape[2])
        pair = torch.stack([dk, dm])
        if self.chart is not None:
            below = self.chart.echo(tape, pair.transpose(0, 1).reshape(self.heads, -1, pair.shape[-1]), acc)
            pair = below.view(self.heads, 2, *dk.shape[1:3], -1).transpose(0, 1)
        return self.inp.echo(tape, self._joined(torch.cat([pair, dv.unsqueeze(0)])), acc)

    def start(self, batch: int) -> ProbeState:
        """Nothing seen yet."""
        _, m, v = self._mapped(self.inp.weight.new_zeros(self.heads * self.width, batch, 1), None)

        def empty(like: Tensor, count: int) -> Tensor:
            return like.new_zeros(*like.shape[:2], count, like.shape[-1])

        return ProbeState(
            empty(m, self.window),
            empty(v, self.window),
            empty(m, BLOCKS_HELD),
            empty(v, BLOCKS_HELD),
            empty(m, 1).squeeze(2),
            empty(v, 1).squeeze(2),
            0,
        )

    def advance(
        self, x: Float[Tensor, "D batch time"], state: ProbeState
    ) -> tuple[Float[Tensor, "D batch time"], ProbeState]:
        """Continues by any number of tokens, one after the other: a block may end between any two."""
        results = []
        for t in range(x.shape[-1]):
            y, state = self.step(x[..., t], state)
            results.append(y)
        return torch.stack(results, -1), state

    def step(self, x: Float[Tensor, "D batch"], state: ProbeState) -> tuple[Float[Tensor, "D batch"], ProbeState]:
        """Continues by one token."""
        k, m, v = self._mapped(x.unsqueeze(-1), None)
        now = torch.tensor([state.position], device=x.device)
        age = torch.arange(self.window, 0, -1, device=x.device)
        time = torch.where(age <= state.position, state.position - age, LONG_AGO)
        done = state.position // BLOCK
        ends = BLOCK * (done - torch.arange(BLOCKS_HELD - 1, -1, -1, device=x.device))
        ends = torch.where(ends > 0, ends, state.position + 1)
        seen = torch.cat([_blocks_seen(now, ends), _tokens_seen(now, time, self.window)], 1)
        keys, values = torch.cat([state.block_keys, state.keys], 2), torch.cat([state.block_values, state.values], 2)
        y = self._probed(k, keys, values, seen, None)
        state = self._after(state, m, v)
        return torch.mm(self.out.weight, self._joined(y).squeeze(-1)), state

    def _after(self, state: ProbeState, m: Tensor, v: Tensor) -> ProbeState:
        """The newest token behind the others; a block that it completes behind the other blocks."""
        keys, values = torch.cat([state.keys[:, :, 1:], m], 2), torch.cat([state.values[:, :, 1:], v], 2)
        sums = state.open_keys + m.squeeze(2), state.open_values + v.squeeze(2)
        blocks, position = (state.block_keys, state.block_values), state.position + 1
        if position % BLOCK == 0:
            pairs = zip(blocks, sums, strict=True)
            blocks = tuple(torch.cat([old[:, :, 1:], z.unsqueeze(2) / BLOCK], 2) for old, z in pairs)
            sums = tuple(torch.zeros_like(z) for z in sums)
        return ProbeState(keys, values, blocks[0], blocks[1], sums[0], sums[1], position)


def _block_means(z: Float[Tensor, "heads batch time n"]) -> Float[Tensor, "heads batch blocks n"]:
    """Means over the complete blocks."""
    whole = z.shape[2] // BLOCK
    return z[:, :, : whole * BLOCK].unflatten(2, (whole, BLOCK)).mean(3)


def _unfold_means(dz: Float[Tensor, "heads batch S n"], time: int) -> Float[Tensor, "heads batch time n"]:
    """Transpose of putting the means of blocks before the tokens."""
    whole = time // BLOCK
    own = dz[:, :, whole:].clone()
    own[:, :, : whole * BLOCK] += dz[:, :, :whole].repeat_interleave(BLOCK, 2) / BLOCK
    return own


def _blocks_seen(now: Int[Tensor, " L"], ends: Int[Tensor, " blocks"]) -> Tensor:
    """Whether a block is complete before a token, and among the newest."""
    behind = now[:, None] // BLOCK - ends // BLOCK
    return (ends <= now[:, None]) & (behind < BLOCKS_HELD)


def _tokens_seen(now: Int[Tensor, " L"], time: Int[Tensor, " S"], window: int) -> Tensor:
    """Whether a token is earlier, but not too much."""
    age = now[:, None] - time
    return (age >= 1) & (age <= window)


def probe_channels(
    k: Float[Tensor, "heads batch L n"],
    keys: Float[Tensor, "heads batch S n"],
    inner: Float[Tensor, "heads batch L S"],
    seen: Tensor,
) -> tuple[Float[Tensor, "5 heads batch L S"], Tensor, Tensor]:
    """Bounded channels of all pairs, and which candidates a query takes: those near or along it, and those against it.

    Args:
        k, keys: queries and candidates, where the metric is Euclidean.
        inner: their products.
        seen: the pool of each query, bool [L, S].
    """
    tiny = torch.finfo(k.dtype).tiny ** 0.5
    lengths = k.norm(dim=-1).unsqueeze(-1) * keys.norm(dim=-1).unsqueeze(-2) + tiny
    cosine = (inner / lengths).clamp(-1, 1)
    square = k.square().sum(-1).unsqueeze(-1) + keys.square().sum(-1).unsqueeze(-2) - 2 * inner
    square = square.clamp_min(0)
    order = torch.where(seen, square, torch.inf).argsort(-1)
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1], device=k.device).expand_as(order))
    near = seen & (rank < NEAREST)
    along = _first(torch.where(seen & ~near, cosine, -torch.inf), ALONG)
    near = near | along
    far = _first(torch.where(seen & ~near, -cosine, -torch.inf), AGAINST)
    overlap = (k.abs() @ keys.abs().mT) / lengths
    share = rank.clamp_max(NEAREST + ALONG + AGAINST).to(k.dtype) / (NEAREST + ALONG + AGAINST)
    channels = torch.stack([cosine, (1 - cosine.square()).sqrt(), overlap, -1 / (square + 1), share])
    return channels, near, far


def _first(value: Tensor, count: int) -> Tensor:
    """Which of the values are the `count` largest, of those that are not -inf."""
    top, index = value.topk(min(count, value.shape[-1]), -1)
    return torch.zeros_like(value, dtype=torch.bool).scatter_(-1, index, top > -torch.inf)
