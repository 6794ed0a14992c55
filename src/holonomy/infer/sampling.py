"""Choosing the next token from its distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn.

    Attributes:
        temperature: divides the log probabilities; 0 takes the most probable token.
        top_k: keeps the k most probable tokens; 0 keeps all.
        top_p: keeps the smallest set of most probable tokens whose mass reaches this share.

    Raises:
        ConfigError: a value is outside its range.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise ConfigError(f"`temperature` is {self.temperature}; wanted a number in [0, 100]")
        if self.top_k < 0:
            raise ConfigError(f"`top_k` is {self.top_k}; wanted 0 (keep all) or a positive number")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"`top_p` is {self.top_p}; wanted a number in (0, 1]")


def sharpen(log_probs: Float[Tensor, "B V"], sampling: Sampling) -> Float[Tensor, "B V"]:
    """Probabilities after temperature, top-k and top-p, in that order, normalised."""
    if sampling.temperature == 0:
        return torch.zeros_like(log_probs).scatter_(1, log_probs.argmax(1, keepdim=True), 1.0)
    scaled = log_probs / sampling.temperature
    if 0 < sampling.top_k < log_probs.shape[1]:
        least = scaled.topk(sampling.top_k, 1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    probs = scaled.softmax(1)
    if sampling.top_p < 1:
        ordered, index = probs.sort(1, descending=True)
        before = ordered.cumsum(1) - ordered
        probs = probs.masked_fill((before >= sampling.top_p).gather(1, index.argsort(1)), 0.0)
        probs = probs / probs.sum(1, keepdim=True)
    return probs


def draw(log_probs: Float[Tensor, "B V"], sampling: Sampling, generator: torch.Generator) -> Int[Tensor, " B"]:
    """Draws one token a sequence; equal generators give equal tokens."""
    if sampling.temperature == 0:
        return log_probs.argmax(1)
    return torch.multinomial(sharpen(log_probs, sampling), 1, generator=generator).squeeze(1)
