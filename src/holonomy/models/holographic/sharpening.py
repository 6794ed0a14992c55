"""Distributions to a power, times the exponential of what speaks for each word, or for candidates alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from holonomy.models.holographic.candidates import Followers, focused


class Leanings(NamedTuple):
    """What speaks for words besides their counts.

    Attributes:
        words: candidates of each context, [B, m]; None where the terms are about all words.
        terms: similarity, then log ratios of topics, each [B, V], or [B, m] of candidates.
    """

    words: Tensor | None
    terms: list[Tensor]

    def weighted(self, exponents: Sequence[float]) -> Tensor:
        """Terms times their exponents, added up; those without an exponent count nothing."""
        total = self.terms[0] * exponents[0]
        for term, exponent in zip(self.terms[1:], exponents[1:], strict=False):
            total.add_(term, alpha=exponent)
        return total


def sharpened(probs: Tensor, lean: Tensor, power: float, words: Tensor | None = None) -> Tensor:
    """probs^power exp(lean), normalised; with candidates `words` [B, m], the exponential turns these alone.

    They keep together what probs^power gives them, so nothing else changes.
    """
    logits = probs.log().mul_(power)
    if words is None:
        return logits.add_(lean, alpha=1.0).softmax(1)
    whole = logits.softmax(1)
    return whole.scatter_(1, words, focused(whole.gather(1, words), lean))


class Whole(NamedTuple):
    """Distributions [B, V] whose exponents are sought, and the words that came, [B]."""

    probs: Tensor
    targets: Tensor

    def said(self, lean: Tensor, power: float) -> np.ndarray:
        """Entries of `sharpened` at the words that came, [B] float64."""
        logits = self.probs.log().mul_(power).add_(lean)
        own = logits.gather(1, self.targets[:, None]).squeeze(1)
        return (own - logits.logsumexp(1)).exp().double().numpy()


@dataclass(frozen=True)
class Focus:
    """The same with candidates: no row of all words is kept.

    Attributes:
        own: probabilities of candidates, [B, m].
        target: of the words that came, [B].
        place: of these among the candidates, [B]; -1 where they are none.
        totals: sum over all words of the probabilities to a power, [B].
    """

    own: Tensor
    target: Tensor
    place: Tensor
    totals: Callable[[float], Tensor]

    @classmethod
    def of_followers(cls, followers: Followers, words: Tensor, targets: Tensor) -> Focus:
        """Of exact counts."""
        own, target = followers.at(words), followers.at(targets[:, None]).squeeze(1)
        return cls(own, target, _places(words, targets), lambda power: torch.from_numpy(followers.raised(power).totals))

    @classmethod
    def of_rows(cls, probs: Tensor, words: Tensor, targets: Tensor) -> Focus:
        """Of any distributions, [B, V]."""
        own, target = probs.gather(1, words), probs.gather(1, targets[:, None]).squeeze(1)
        return cls(own, target, _places(words, targets), lambda power: probs.pow(power).sum(1, dtype=torch.float64))

    def said(self, lean: Tensor, power: float) -> np.ndarray:
        """Entries of `sharpened` at the words that came, [B] float64."""
        at = self.place.clamp(min=0)[:, None]
        turned = focused(self.own.pow(power), lean).gather(1, at).squeeze(1)
        said = torch.where(self.place >= 0, turned, self.target.pow(power)).double()
        return (said / self.totals(power)).numpy()


def _places(words: Tensor, targets: Tensor) -> Tensor:
    there = words == targets[:, None]
    return torch.where(there.any(1), there.int().argmax(1), -1)
