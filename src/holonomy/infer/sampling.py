"""Choosing the next token from its distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holonomy.core.config import from_json
from holonomy.core.inference import InferConfig
from holonomy.core.numerics import GOLDEN

RECENT = 64
"""Tokens that gibbsmax looks back on."""
INHIBITED, FADING = 16, 3.0
"""Places that inhibition looks back on, and the time constant of its release."""
MANY_TOKENS = 32_768
"""With more of them one random number is drawn for a sequence, where torch draws one for each token."""
LOWEST, HALF_ENTROPY = 0.3, 0.5
"""The gate lowers the temperature to this share of it at most, with the entropy in units of this share of ln V."""


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn.

    Attributes:
        temperature: divides the log probabilities; 0 takes the most probable token.
        top_k: keeps the k most probable tokens; 0 keeps all.
        top_p: keeps the smallest set of most probable tokens whose mass reaches this share.
        gate: lowers the temperature the more, the larger the entropy is, see `gated_temperature`.
        selector: softmax, or gibbsmax: each time a token was said lately costs it `repetition`, or inhibition: what
            the model itself just wrote is held back, see `inhibition_energy`; punctuation only where it follows itself.
        repetition: cost in nats of one earlier mention, for gibbsmax.
        inhibition: cost in nats of a token just written, for inhibition.
        kernel: calibrated takes `temperature`, phi that of the golden section instead.
        abstain: share of predictions, the least sure ones, to which the model does not commit itself; see
            `least_confidence`.
        least_prob: it does not either where no token is as probable.
        doubt: what happens then: hold ends the text, fallback takes the most probable token instead of drawing one.

    Ranges and choices are those of `InferConfig`.

    Raises:
        ConfigError: a value is outside its range, or two exclude each other.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    gate: bool = False
    selector: str = "softmax"
    repetition: float = 0.5
    inhibition: float = 0.96
    kernel: str = "calibrated"
    abstain: float = 0.0
    least_prob: float = 0.0
    doubt: str = "hold"

    def __post_init__(self) -> None:
        from_json(InferConfig, asdict(self), origin="sampling")


def gated_temperature(log_probs: Float[Tensor, "B V"], temperature: float) -> Float[Tensor, "B 1"]:
    """tau (0.3 + 0.7 exp(-H / H0)), H the entropy at temperature tau and H0 = ln(V) / 2: doubt sharpens."""
    scaled = (log_probs / temperature).log_softmax(1)
    entropy = -(scaled.exp() * scaled.clamp_min(torch.finfo(scaled.dtype).min)).sum(1, keepdim=True)
    half = HALF_ENTROPY * math.log(max(log_probs.shape[1], 2))
    return temperature * (LOWEST + (1 - LOWEST) * torch.exp(-entropy / half))


def gibbs_energy(recent: Int[Tensor, "B n"], vocabulary: int, repetition: float) -> Float[Tensor, "B V"]:
    """Cost of each token: `repetition` for every time it is among the recent ones."""
    counts = torch.zeros(len(recent), vocabulary)
    return repetition * counts.scatter_add_(1, recent, torch.ones(recent.shape))


@dataclass(frozen=True)
class Recent:
    """The last tokens of several sequences.

    Attributes:
        ids: at most `RECENT`, nearest last, [B, n] int64.
        held: which of them the model wrote itself and inhibition holds back, [B, n].
    """

    ids: Int[Tensor, "B n"]
    held: Bool[Tensor, "B n"]

    @classmethod
    def none(cls, batch: int) -> Recent:
        """Before the first token."""
        return cls(torch.zeros(batch, 0, dtype=torch.int64), torch.zeros(batch, 0, dtype=torch.bool))

    def take(self, ids: Int[Tensor, "B n"], held: Bool[Tensor, "B n"] | None = None) -> Recent:
        """With further tokens; without `held`, none of these is held back."""
        held = torch.zeros_like(ids, dtype=torch.bool) if held is None else held
        return Recent(torch.cat([self.ids, ids], 1)[:, -RECENT:], torch.cat([self.held, held], 1)[:, -RECENT:])

    def part(self, rows: slice) -> Recent:
        """Of some sequences."""
        return Recent(self.ids[rows], self.held[rows])


def inhibition_energy(recent: Recent, vocabulary: int, inhibition: float) -> Float[Tensor, "B V"]:
    """Cost of each token: the sum over its places among the last 16 of `inhibition` exp(-age / 3), the last of age 0.

    Inhibition of return: what was just looked at is not looked at again at once (Posner & Cohen 1984).
    """
    ids, held = recent.ids[:, -INHIBITED:], recent.held[:, -INHIBITED:]
    age = torch.arange(ids.shape[1] - 1, -1, -1, dtype=torch.float32)
    costs = inhibition * torch.exp(-age / FADING) * held
    return torch.zeros(len(ids), vocabulary).scatter_add_(1, ids, costs)


def punctuation(symbols: Sequence[str]) -> Bool[Tensor, " V"]:
    """Which tokens have neither letter nor digit."""
    return torch.tensor([not any(c.isalnum() for c in symbol) for symbol in symbols])


def bornmax(
    log_probs: Float[Tensor, "S B V"], weights: Float[Tensor, "S B"], phases: Float[Tensor, " S"]
) -> Float[Tensor, "B V"]:
    """Distribution of the squared modulus of a sum of amplitudes sqrt(weight p) e^(i phase), normalised.

    One source gives its own distribution back; two interfere, so that equal phases favour what both expect.
    """
    size = (0.5 * (log_probs + weights.log().unsqueeze(-1))).exp()
    amplitude = (torch.polar(torch.ones_like(phases), phases)[:, None, None] * size).sum(0)
    square = amplitude.real.square() + amplitude.imag.square()
    return square / square.sum(-1, keepdim=True)


def sharpen(log_probs: Float[Tensor, "B V"], sampling: Sampling, recent: Recent | None = None) -> Float[Tensor, "B V"]:
    """Probabilities after selector, temperature, top-k and top-p, in that order, normalised.

    Args:
        log_probs: of the model.
        sampling: what to do with them.
        recent: the last tokens, for gibbsmax and inhibition.
    """
    if sampling.selector == "gibbsmax" and recent is not None:
        log_probs = log_probs - gibbs_energy(recent.ids, log_probs.shape[1], sampling.repetition)
    elif sampling.selector == "inhibition" and recent is not None:
        log_probs = log_probs - inhibition_energy(recent, log_probs.shape[1], sampling.inhibition)
    # q^phi, normalised.
    temperature = GOLDEN if sampling.kernel == "phi" else sampling.temperature
    if sampling.temperature == 0:
        return torch.zeros_like(log_probs).scatter_(1, log_probs.argmax(1, keepdim=True), 1.0)
    scaled = log_probs / (gated_temperature(log_probs, temperature) if sampling.gate else temperature)
    if 0 < sampling.top_k < log_probs.shape[1]:
        least = scaled.topk(sampling.top_k, 1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    probs = scaled.softmax(1)
    if sampling.top_p < 1:
        ordered, index = probs.sort(1, descending=True)
        before = ordered.cumsum(1) - ordered
        beyond = before >= sampling.top_p
        # The most probable one stays, however small the share: as float32 it may be zero.
        beyond[:, 0] = False
        probs = probs.masked_fill(beyond.gather(1, index.argsort(1)), 0.0)
        probs = probs / probs.sum(1, keepdim=True)
    return probs


def silenced(log_probs: Float[Tensor, "B V"], unspoken: Sequence[int]) -> Float[Tensor, "B V"]:
    """Log probabilities with none for what is never said; not normalised again."""
    if not unspoken:
        return log_probs
    return log_probs.index_fill(1, torch.tensor(unspoken, device=log_probs.device), -torch.inf)


def draw(
    log_probs: Float[Tensor, "B V"],
    sampling: Sampling,
    generator: torch.Generator,
    recent: Recent | None = None,
    unspoken: Sequence[int] = (),
) -> Int[Tensor, " B"]:
    """Draws one token a sequence, none of those `unspoken`; equal generators give equal tokens."""
    probs = sharpen(silenced(log_probs, unspoken), sampling, recent)
    if sampling.temperature == 0:
        return probs.argmax(1)
    if probs.shape[1] > MANY_TOKENS:
        below = probs.cumsum(1, dtype=torch.float64)
        at = below[:, -1:] * torch.rand(len(probs), 1, dtype=below.dtype, device=below.device, generator=generator)
        return torch.searchsorted(below, at, right=True).squeeze(1).clamp_(max=probs.shape[1] - 1)
    return torch.multinomial(probs, 1, generator=generator).squeeze(1)
