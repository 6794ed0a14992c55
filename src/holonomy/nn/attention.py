"""What all layers share that gather values by Boltzmann weights over the past.

w_i = softmax of score_ij over the past j, out_i = sum_j w_ij v_j. Echo by contrast: a nudge adds the energy
e_ij = g_i . v_j, and the infinitesimal difference of the expected score statistics between the nudged and the free
Boltzmann distribution is the derivative of the loss: dL/dscore_ij = w_ij (e_ij - <e>_i), <e>_i = sum_j w_ij e_ij.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer
from holonomy.core.tape import Tape
from holonomy.nn.sites import FieldSites
from holonomy.nn.static import CausalFIR, FIRState, Linear

LONG_AGO = -(2**31)
"""Position of an empty place: outside every window."""
MASKED = -1e30
"""Score of a place that must not be seen: finite, so that no NaN can come from a difference of masks."""


class Past(NamedTuple):
    """The last tokens that a query may see; the newest takes the place of the oldest.

    Attributes:
        keys: what is compared, [batch * heads, window, features].
        values: what is gathered, [batch * heads, window, d].
        time: position of each place's token, [window]; far in the past where there is none yet.
        position: number of tokens seen so far.
        source: factor of each key, [batch, heads, window], or an empty tensor.
        carry: what the factors of the next tokens depend on.
        fixed: keys and values of the sites of a field, [batch * heads, sites, ...]; empty where there is none.
        scales: what the scores need of the parameters; computed once, not every token.
        filtered: the last inputs of the filter before the scores, or None where there is none.
    """

    keys: Float[Tensor, "BH window features"]
    values: Float[Tensor, "BH window d"]
    time: Int[Tensor, " window"]
    position: int
    source: Tensor
    carry: Any
    fixed: tuple[Tensor, ...] = ()
    scales: tuple[Tensor, ...] = ()
    filtered: FIRState | None = None


class Seen(NamedTuple):
    """What the tokens of a sequence leave for later ones.

    Attributes:
        key, value: [batch * heads, T, ...].
        time: position of the last of them that fit into the window.
        source: factor of each key, [batch, heads, T], or an empty tensor.
        carry: what the factors of the next tokens depend on.
        filtered: the last inputs of the filter before the scores, or None where there is none.
    """

    key: Float[Tensor, "BH time features"]
    value: Float[Tensor, "BH time d"]
    time: Int[Tensor, " held"]
    source: Tensor
    carry: Any
    filtered: FIRState | None = None


class Attention(EchoLayer):
    """Multi-head Boltzmann weights over the last `window` tokens; subclasses say how queries and keys score.

    Args:
        channels: width of the residual stream, a multiple of `heads`.
        heads: number of heads.
        window: how many tokens, the current one included, a query sees.
        features: channels that the scores are computed from, before those of the values.
        sites: a field whose sites stand before the tokens, for scores whose keys have the width of a head.
        taps: length of a filter of the channels that the scores are computed from; 1 is none.
        generator: source of the initial weights.

    Attributes:
        out: the last map, made by the subclass.
    """

    out: Linear

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        window: int,
        features: int,
        sites: FieldSites | None = None,
        taps: int = 1,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ConfigError(f"`model.heads` = {heads} does not divide `model.d` = {channels}; choose a divisor")
        self.heads, self.window, self.width = heads, window, channels // heads
        self.inp = Linear(channels, features + channels, std=channels**-0.5, generator=generator)
        self.fir = CausalFIR(features, taps, generator=generator) if taps > 1 else None
        self.sites, self.site_map = sites, None
        if sites is not None:
            inputs = sites.num_features
            self.site_map = Linear(inputs, 2 * channels, std=inputs**-0.5, generator=generator)

    @abstractmethod
    def compared(self, x: Tensor, tape: Tape | None) -> tuple[Tensor, Tensor]:
        """Queries and keys, [B * heads, T, features] each, from the first channels of the input map, [F, B, T]."""

    @abstractmethod
    def pull_compared(self, tape: Tape, dk: Tensor, dm: Tensor, acc: StatBuffer) -> Tensor:
        """From nudges on queries and keys to the nudge on the channels, [F, B, T]."""

    @abstractmethod
    def score(
        self, k: Tensor, m: Tensor, apart: Tensor, source: Tensor, scales: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Scores [B, heads, L, S] of all pairs, and what `pull_score` needs.

        Args:
            k: queries, [B * heads, L, features].
            m: keys, [B * heads, S, features].
            apart: age of each key as seen by each query, [L, S].
            source: factor of each key, [B, heads, S], or empty.
            scales: from `scales`.
        """

    def scales(self) -> tuple[Tensor, ...]:
        """What the scores need of the parameters, computed once for many tokens."""
        return ()

    @abstractmethod
    def pull_score(
        self, dscore: Tensor, apart: Tensor, kept: tuple[Tensor, ...], acc: StatBuffer
    ) -> tuple[Tensor, Tensor]:
        """From derivatives by the scores to nudges on queries and keys; adds the statistics of the parameters."""

    def sources(self, x: Tensor, k: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """Factors of the keys, [B, heads, T], and what the next ones depend on; an empty tensor where all are 1.

        Args:
            x: the layer's input, [D, B, T].
            k: the keys.
            carry: from the tokens before, None at the start.
        """
        return x.new_empty(0), None

    def placed(self, x: Float[Tensor, "BH time features"], time: Int[Tensor, " time"] | int) -> Tensor:
        """Queries or keys as they are compared at their positions; the same everywhere by default."""
        return x

    def pull_placed(self, g: Float[Tensor, "BH time features"], time: Int[Tensor, " time"] | int) -> Tensor:
        """From nudges on what `placed` gave to those on what it was given."""
        return g

    def split(self, x: Float[Tensor, "channels batch time"], parts: int) -> Float[Tensor, "parts BH time d"]:
        """Splits [parts * heads * d, B, T] into [parts, B * heads, T, d]."""
        width = x.shape[0] // (parts * self.heads)
        by_head = x.reshape(parts, self.heads, width, *x.shape[1:]).permute(0, 3, 1, 4, 2)
        return by_head.reshape(parts, -1, x.shape[2], width)

    def join(self, y: Float[Tensor, "parts BH time d"], batch: int) -> Float[Tensor, "channels batch time"]:
        """Inverse of `split`."""
        heads = y.view(len(y), batch, self.heads, *y.shape[2:]).permute(0, 2, 4, 1, 3)
        return heads.reshape(-1, batch, y.shape[2])

    def weights(
        self,
        k: Tensor,
        m: Tensor,
        apart: Tensor,
        source: Tensor,
        scales: tuple[Tensor, ...],
        *,
        all_seen: bool = False,
    ) -> tuple[Float[Tensor, "BH L S"], tuple[Tensor, ...]]:
        """Boltzmann weights of all pairs; places whose age is outside [0, window) are not seen, if there can be any."""
        score, kept = self.score(k, m, apart, source, scales)
        if not all_seen:
            score = torch.where((apart >= 0) & (apart < self.window), score, MASKED)
        return score.softmax(-1).view(len(k), *apart.shape), kept

    def _fixed(self, batch: int, tape: Tape | None) -> tuple[Tensor, ...]:
        """Keys and values of the sites, for every sequence."""
        if self.site_map is None or self.sites is None:
            return ()
        mapped = self.site_map.free(self.sites.features().to(self.inp.weight), tape).unsqueeze(1)
        return tuple(part.repeat(batch, 1, 1) for part in self.split(mapped, 2))

    def reread(self, state: Past, features: Float[Tensor, "features batch sites"]) -> Past:
        """The state after the field has moved, which each sequence may see in a state of its own."""
        assert self.site_map is not None
        mapped = self.site_map.free(features.to(self.inp.weight), None)
        return state._replace(fixed=tuple(self.split(mapped, 2)))

    def _apart(self, queries: Tensor, keys: Tensor, fixed: tuple[Tensor, ...]) -> Tensor:
        """Ages of the keys; the sites of a field are always now."""
        apart = queries[:, None] - keys
        if not fixed:
            return apart
        return torch.cat([apart.new_zeros(len(queries), fixed[0].shape[1]), apart], 1)

    def _features(self) -> int:
        return self.inp.weight.shape[0] - self.heads * self.width

    def free(self, x: Float[Tensor, "D batch time"], tape: Tape | None) -> Float[Tensor, "D batch time"]:
        """Retrieves from the past of the same sequence."""
        return self._retrieve(x, None, tape)[0]

    def _retrieve(
        self, x: Tensor, before: Past | None, tape: Tape | None, *, unchanged: bool = False
    ) -> tuple[Tensor, Seen]:
        """The result, and what of these tokens later ones may see; `unchanged` parameters need not be read anew."""
        mapped, features = self.inp.free(x, tape), self._features()
        first, filtered = mapped[:features], None
        if self.fir is not None:
            past = before.filtered if before is not None else None
            first, filtered = self.fir.resume(first, past or self.fir.start(x.shape[1]), tape)
        k, m = self.compared(first, tape)
        (v,) = self.split(mapped[features:], 1)
        fresh, carry = self.sources(x, m, before and before.carry)
        time = torch.arange(x.shape[-1], device=x.device) + (before.position if before is not None else 0)
        k, m = self.placed(k, time), self.placed(m, time)
        keys, values, ages, source = m, v, time, fresh
        if before is not None:
            keys, values = torch.cat([before.keys, m], 1), torch.cat([before.values, v], 1)
            ages, source = torch.cat([before.time, time]), torch.cat([before.source, fresh], -1)
        fixed = before.fixed if before and unchanged else self._fixed(x.shape[1], tape)
        if fixed:
            keys, values = torch.cat([fixed[0], keys], 1), torch.cat([fixed[1], values], 1)
        apart = self._apart(time, ages, fixed)
        scales = before.scales if before and unchanged else self.scales()
        w, kept = self.weights(k, keys, apart, source, scales)
        y = torch.bmm(w, values)
        latest = time[-self.window :]
        if tape is not None:
            tape.push(self, values, w, apart, time, *kept)
        return self.out.free(self.join(y.unsqueeze(0), x.shape[1]), tape), Seen(m, v, latest, fresh, carry, filtered)

    def resume(
        self, x: Float[Tensor, "D batch time"], state: Past, tape: Tape | None
    ) -> tuple[Float[Tensor, "D batch time"], Past]:
        """Retrieves from the carried keys and values too; the given state stays as it is."""
        y, seen = self._retrieve(x, state, tape)
        return y, self._after(state, seen)

    def _after(self, state: Past, seen: Seen) -> Past:
        """The newest tokens in the places of the oldest."""
        place, held = seen.time % self.window, len(seen.time)
        source = state.source
        return state._replace(
            keys=state.keys.index_copy(1, place, seen.key[:, -held:]),
            values=state.values.index_copy(1, place, seen.value[:, -held:]),
            time=state.time.index_copy(0, place, seen.time),
            position=state.position + seen.key.shape[1],
            source=source.index_copy(2, place, seen.source[..., -held:]) if len(source) else source,
            carry=seen.carry,
            filtered=seen.filtered,
        )

    def echo(self, tape: Tape, g: Float[Tensor, "D batch time"], acc: StatBuffer) -> Float[Tensor, "D batch time"]:
        """Contrast of the nudged and the free distribution."""
        return self.echo_segment(tape, g, None, acc)[0]

    def echo_segment(
        self, tape: Tape, g: Float[Tensor, "D batch time"], carry: tuple[Tensor, Tensor | None] | None, acc: StatBuffer
    ) -> tuple[Float[Tensor, "D batch time"], tuple[Tensor, Tensor | None]]:
        """Echo of a segment; what is carried are the nudges on the keys and values before it, side by side, and those
        on the last inputs of the filter.
        """
        batch, time = g.shape[1:]
        g = self.out.echo(tape, g, acc)
        v, w, apart, now, *kept = tape.pop(self)
        place = now[-self.window :] % self.window
        (g,) = self.split(g, 1)
        dv = torch.bmm(w.mT, g)
        dscore = boltzmann_contrast(w, torch.bmm(g, v.mT)).view(batch, self.heads, time, -1)
        dk, dm = self.pull_score(dscore, apart, tuple(kept), acc)
        if self.sites is not None and self.site_map is not None:
            # Every sequence reads the same sites.
            num_sites = math.prod(self.sites.options.size)
            both = torch.stack([dm[:, :num_sites], dv[:, :num_sites]]).unflatten(1, (batch, self.heads)).sum(1)
            self.site_map.echo(tape, self.join(both, 1).squeeze(1), acc)
            dm, dv = dm[:, num_sites:], dv[:, num_sites:]
        older = dm.shape[1] - time
        before = torch.cat([dm[:, :older], dv[:, :older]], -1)
        dm, dv = dm[:, older:], dv[:, older:]
        if carry is not None:
            later = carry[0].index_select(1, place)
            dm[:, -len(place) :] += later[..., : dm.shape[-1]]
            dv[:, -len(place) :] += later[..., dm.shape[-1] :]
            before += carry[0].index_fill(1, place, 0.0)
        below = self.pull_compared(tape, self.pull_placed(dk, now), self.pull_placed(dm, now), acc)
        lagging = None
        if self.fir is not None:
            below, lagging = self.fir.echo_segment(tape, below, carry[1] if carry else None, acc)
        return self.inp.echo(tape, torch.cat([below, self.join(dv.unsqueeze(0), batch)]), acc), (before, lagging)

    def start(self, batch: int) -> Past:
        """Nothing seen yet."""
        weight = self.inp.weight
        empty = weight.new_zeros(weight.shape[1], batch, 1)
        _, m = self.compared(weight.new_zeros(self._features(), batch, 1), None)
        keys = weight.new_zeros(batch * self.heads, self.window, m.shape[-1])
        values = weight.new_zeros(batch * self.heads, self.window, self.width)
        source = self.sources(empty, m, None)[0].repeat_interleave(self.window, -1)
        time = torch.full((self.window,), LONG_AGO, device=weight.device)
        filtered = None if self.fir is None else self.fir.start(batch)
        return Past(keys, values, time, 0, source, None, self._fixed(batch, None), self.scales(), filtered)

    def advance(self, x: Float[Tensor, "D batch time"], state: Past) -> tuple[Float[Tensor, "D batch time"], Past]:
        """Continues by any number of tokens, a window's length at a time."""
        results = []
        for part in x.split(self.window, -1):
            y, seen = self._retrieve(part, state, None, unchanged=True)
            state = self._after(state, seen)
            results.append(y)
        return torch.cat(results, -1), state

    def step(self, x: Float[Tensor, "D batch"], state: Past) -> tuple[Float[Tensor, "D batch"], Past]:
        """Continues by one token."""
        features, column = self._features(), x.unsqueeze(-1)
        mapped = torch.mm(self.inp.weight, x).unsqueeze(-1)
        first, filtered = mapped[:features], state.filtered
        if self.fir is not None and filtered is not None:
            first, filtered = self.fir.advance(first, filtered)
        k, m = self.compared(first, None)
        (v,) = self.split(mapped[features:], 1)
        fresh, carry = self.sources(column, m, state.carry)
        k, m = self.placed(k, state.position), self.placed(m, state.position)
        place = state.position % self.window
        state.keys[:, place : place + 1] = m
        state.values[:, place : place + 1] = v
        state.time[place] = state.position
        if len(fresh):
            state.source[..., place : place + 1] = fresh
        apart = (state.position - state.time).unsqueeze(0)
        keys, values = state.keys, state.values
        if state.fixed:
            apart = torch.cat([apart.new_zeros(1, state.fixed[0].shape[1]), apart], 1)
            keys, values = (torch.cat(pair, 1) for pair in zip(state.fixed, (keys, values), strict=True))
        full = state.position + 1 >= self.window
        w, _ = self.weights(k, keys, apart, state.source, state.scales, all_seen=full)
        y = torch.bmm(w, values).view(-1, self.heads * self.width).T
        return torch.mm(self.out.weight, y), state._replace(position=state.position + 1, carry=carry, filtered=filtered)


def boltzmann_contrast(w: Float[Tensor, "*B L S"], energy: Float[Tensor, "*B L S"]) -> Float[Tensor, "*B L S"]:
    """w_ij (e_ij - <e>_i): how fast the Boltzmann weights fall as the nudge energy e is switched on."""
    return torch.ops.aten._softmax_backward_data(energy, w, -1, w.dtype)
