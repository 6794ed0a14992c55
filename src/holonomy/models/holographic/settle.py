"""Reading a superposition by explaining it away, and what a settled state says about the next word."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.models.holographic.signatures import Signatures

STEPS = 40
"""Words explained at most."""
LEAST, NOISE = 0.5, 3.3
"""A word is explained if its count exceeds a half, and 3.3 standard deviations of the noise."""
QUIET, LOUD = 0.707, 1.414
"""Bounds between three classes of noise that is left."""
COUNT_CLASSES = 10
BUCKETS = 1 + 3 * COUNT_CLASSES


class Settled(NamedTuple):
    """What was found at addresses.

    Attributes:
        tokens: distinct words in the order of their explanation, -1 after the last, [B, R] int64.
        counts: how often each, [B, R].
        residual: what is not explained, [B, K, 4, 4].
        sd: standard deviation of the noise of a count, [B].
        steps: how often a word was explained, [B] int64.
    """

    tokens: Int[Tensor, "B R"]
    counts: Float[Tensor, "B R"]
    residual: Float[Tensor, "B K 4 4"]
    sd: Float[Tensor, " B"]
    steps: Int[Tensor, " B"]


def noise(x: Float[Tensor, "B K 4 4"]) -> Float[Tensor, " B"]:
    """Standard deviation of a count read from x if x were other items only."""
    channels = x.shape[1]
    return (x.flatten(1).square().sum(1) / (4 * channels) / (16 * channels)).sqrt()


def settle(x: Float[Tensor, "B K 4 4"], signatures: Signatures, *, steps: int = STEPS) -> Settled:
    """Takes the most likely word with its count out of each x, again and again, until only noise is left.

    The energy of the residual falls by 4 K v^2 with each word of count v. Words taken early were read through all the
    others, so counts of several, large ones above all, are exact only nearly.

    Args:
        x: superpositions.
        signatures: of the words.
        steps: words taken out at most.
    """
    residual, batch = x.clone(), len(x)
    tokens = torch.full((batch, steps), -1, device=x.device)
    counts = torch.zeros(batch, steps, device=x.device)
    taken, used = (torch.zeros(batch, dtype=torch.int64, device=x.device) for _ in range(2))
    active = torch.arange(batch, device=x.device)
    for _ in range(steps):
        here = residual[active]
        value, word = signatures.similarities(here).max(1)
        going = value > (NOISE * noise(here)).clamp(min=LEAST)
        active, value, word = active[going], value[going], word[going]
        if not len(active):
            break
        again = tokens[active] == word[:, None]
        slot = torch.where(again.any(1), again.int().argmax(1), used[active])
        tokens[active, slot] = word
        counts[active, slot] += value
        residual[active] -= value[:, None, None, None] * signatures.words[word]
        used[active] = torch.maximum(used[active], slot + 1)
        taken[active] += 1
    longest = max(1, int(used.max())) if batch else 1
    tokens, counts = tokens[:, :longest], counts[:, :longest]
    return Settled(tokens, counts, residual, noise(residual), taken)


def settle_among(x: Float[Tensor, "B K 4 4"], signatures: Signatures, words: Int[Tensor, "B m"] | None) -> Settled:
    """`settle` where each state may hold only some words; None is all of them."""
    if words is None or not len(x):
        return settle(x, signatures)
    found = [settle(x[b : b + 1], signatures.among(some)) for b, some in enumerate(words)]
    longest = max(state.tokens.shape[1] for state in found)
    tokens = [torch.where(s.tokens >= 0, some[s.tokens], -1) for s, some in zip(found, words, strict=True)]
    wide = [[F.pad(part, (0, longest - part.shape[1]), value=value) for part in parts]
            for parts, value in ((tokens, -1), ([s.counts for s in found], 0.0))]  # fmt: skip
    rest = (torch.cat([s[k] for s in found]) for k in (2, 3, 4))
    return Settled(*(torch.cat(parts) for parts in wide), *rest)


def spread_counts(settled: Settled, vocab_size: int) -> Float[Tensor, "B V"]:
    """The counts of a settled state by word."""
    out = torch.zeros(len(settled.tokens), vocab_size, device=settled.counts.device)
    return out.scatter_add_(1, settled.tokens.clamp(min=0), settled.counts)


def bucket_of(totals: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Class of a settled state: nothing found, or ten classes of count times three of noise."""
    size = np.minimum(COUNT_CLASSES - 1, np.floor(np.log2(np.maximum(totals, 1)))).astype(np.int64)
    return np.where(totals > 0, 1 + 3 * size + (sd >= QUIET) + (sd >= LOUD), 0)


def fit_shares(lower: np.ndarray, own: np.ndarray, bucket: np.ndarray, *, steps: int = 30) -> np.ndarray:
    """Share of an order by bucket, by expectation and maximisation on the probabilities of the targets, [BUCKETS].

    Args:
        lower: probability of each target one order lower.
        own: its share of the settled counts.
        bucket: class of each settled state.
        steps: of the iteration.
    """
    cases = np.bincount(bucket, minlength=BUCKETS)
    share = np.full(BUCKETS, 0.5)
    for _ in range(steps):
        mine = share[bucket] * own
        theirs = (1 - share[bucket]) * lower
        blame = np.where(mine + theirs > 0, mine / np.maximum(mine + theirs, 1e-300), 0.0)
        share = (np.bincount(bucket, weights=blame, minlength=BUCKETS) + 0.5) / (cases + 1)
    share[0] = 0.0
    return share
