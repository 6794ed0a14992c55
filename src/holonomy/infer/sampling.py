"""Choosing the next token from its distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import ConfigError

SELECTORS = ("softmax", "gibbsmax")
RECENT = 64
"""Tokens that gibbsmax looks back on."""
MANY_TOKENS = 32_768
"""With more of them one random number is drawn for a sequence, where torch draws one for each token."""
COLDEST = 1e-6
"""Lowest temperature above zero: log probabilities divided by it are still numbers."""
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
        selector: softmax, or gibbsmax: each time a token was said lately costs it `repetition`.
        repetition: cost in nats of one earlier mention, for gibbsmax.

    Raises:
        ConfigError: a value is outside its range.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    gate: bool = False
    selector: str = "softmax"
    repetition: float = 0.5

    def __post_init__(self) -> None:
        if self.selector not in SELECTORS:
            raise ConfigError(f"`selector` is {self.selector}; wanted one of {', '.join(SELECTORS)}")
        if not 0 < self.repetition <= 100:
            raise ConfigError(f"`repetition` is {self.repetition}; wanted a number above 0, up to 100 nats")
        if self.temperature != 0 and not COLDEST <= self.temperature <= 100:
            raise ConfigError(f"`temperature` is {self.temperature}; wanted a number in [{COLDEST:g}, 100], or 0")
        if self.top_k < 0:
            raise ConfigError(f"`top_k` is {self.top_k}; wanted 0 (keep all) or a positive number")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"`top_p` is {self.top_p}; wanted a number in (0, 1]")


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


def sharpen(
    log_probs: Float[Tensor, "B V"], sampling: Sampling, recent: Int[Tensor, "B n"] | None = None
) -> Float[Tensor, "B V"]:
    """Probabilities after selector, temperature, top-k and top-p, in that order, normalised.

    Args:
        log_probs: of the model.
        sampling: what to do with them.
        recent: the last tokens, for gibbsmax.
    """
    if sampling.selector == "gibbsmax" and recent is not None:
        log_probs = log_probs - gibbs_energy(recent, log_probs.shape[1], sampling.repetition)
    if sampling.temperature == 0:
        return torch.zeros_like(log_probs).scatter_(1, log_probs.argmax(1, keepdim=True), 1.0)
    gated = sampling.gate
    scaled = log_probs / (gated_temperature(log_probs, sampling.temperature) if gated else sampling.temperature)
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


def draw(
    log_probs: Float[Tensor, "B V"],
    sampling: Sampling,
    generator: torch.Generator,
    recent: Int[Tensor, "B n"] | None = None,
    unspoken: Sequence[int] = (),
) -> Int[Tensor, " B"]:
    """Draws one token a sequence, none of those `unspoken`; equal generators give equal tokens."""
    if unspoken:
        log_probs = log_probs.index_fill(1, torch.tensor(unspoken, device=log_probs.device), -torch.inf)
    probs = sharpen(log_probs, sampling, recent)
    if sampling.temperature == 0:
        return probs.argmax(1)
    if probs.shape[1] > MANY_TOKENS:
        below = probs.cumsum(1, dtype=torch.float64)
        at = below[:, -1:] * torch.rand(len(probs), 1, dtype=below.dtype, device=below.device, generator=generator)
        return torch.searchsorted(below, at, right=True).squeeze(1).clamp_(max=probs.shape[1] - 1)
    return torch.multinomial(probs, 1, generator=generator).squeeze(1)
