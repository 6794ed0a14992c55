"""What a text is about: runs of the learned text that its last words resemble, and the words that those favour.

Words are expected more or less often by the ratio of an adapted to the common unigram distribution, to some power
(Kneser, Peters & Klakow 1997, dynamic marginals; Gildea & Hofmann 1999). There are two adapted distributions: of runs
of the learned text, u(w) = sum_d a_d n_d(w) / N_d with a = softmax(BETA sum_i exp(-age_i / TAU) ln(p_d(c_i) / p(c_i)))
over the last words c_i, and of these words themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.geometry.compiled import compiled
from holonomy.models.holographic.contexts import Contexts
from holonomy.models.holographic.recency import Recency, Trace
from holonomy.models.holographic.similarity import dots_with

SHORTEST, LARGEST_TABLE = 2048, 1 << 22
"""Words of a run at least, and counts of all runs at most."""
WINDOW, TAU = 3000, 1000.0
"""Last words that are looked at, and their time constant of forgetting."""
BETA = 0.02
"""How far words that follow each other speak of one thing: one counts for a fiftieth of an independent one."""
RUN_PRIOR, OWN_PRIOR, COMMON = 500.0, 200.0, 0.1
"""Words of the common distribution in each run and in the last words, and its share beside the runs."""


def topic_runs(words: int, vocab_size: int, most: int) -> int:
    """Into how many runs a text of so many words is cut."""
    return max(1, min(most, words // SHORTEST, LARGEST_TABLE // vocab_size))


@dataclass(frozen=True)
class Topics:
    """Runs of a text.

    Attributes:
        counts: of every word in each run, [runs, V] int32.
        unknown: id of unknown words, which are about nothing.
    """

    counts: np.ndarray
    unknown: int | None

    @cached_property
    def _recency(self) -> Recency:
        return Recency((Trace(0, WINDOW, TAU),))

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        # Common distribution, and of the shares of words in each run ratios to it and their logarithms, [runs, V].
        counts = torch.from_numpy(self.counts).double()
        common = counts.sum(0) + 0.5
        common /= common.sum()
        sizes = counts.sum(1, keepdim=True)
        ratios = ((counts + RUN_PRIOR * common) / ((sizes + RUN_PRIOR) * common)).log_()
        if self.unknown is not None:
            ratios[:, self.unknown] = 0.0
        return common.float(), (counts / (sizes * common)).float(), ratios.float()

    @cached_property
    def _by_word(self) -> tuple[Tensor, Tensor, Tensor]:
        # The same where few words are asked for: what is known of one stands side by side.
        common, shares, ratios = self._tables
        del self.__dict__["_tables"]
        return common, shares.T.contiguous(), ratios.T.contiguous()

    @classmethod
    def of_words(cls, words: np.ndarray, vocab_size: int, unknown: int | None, most: int) -> Topics:
        """Cuts a text into at most `most` runs of one length."""
        runs = topic_runs(len(words), vocab_size, most)
        place = np.arange(len(words)) * runs // max(1, len(words))
        counts = np.bincount(place * vocab_size + words, minlength=runs * vocab_size)
        return cls(counts.reshape(runs, vocab_size).astype(np.int32), unknown)

    @property
    def nbytes(self) -> int:
        """Bytes of counts and of what is made from them as soon as it is read."""
        return 3 * self.counts.nbytes + 4 * self.counts.shape[1]

    def tilts(self, contexts: Contexts) -> list[Float[Tensor, "B V"]]:
        """Log ratios of both adapted distributions to the common one: of runs, and of the last words themselves."""
        common, shares, ratios = self._tables
        own = torch.from_numpy(self._recency.scatter(*contexts, len(common))[:, 0]).float()
        weights = (own @ ratios.T).mul_(BETA).softmax(1)
        mass = own.sum(1, keepdim=True)
        return [_tilt(weights @ shares, 1.0, COMMON), _tilt(own.div_(common), mass, OWN_PRIOR)]

    def tilts_of(self, contexts: Contexts, words: Int[Tensor, "B m"]) -> list[Float[Tensor, "B m"]]:
        """The same for some words of each context."""
        common, shares, ratios = self._by_word
        batch, runs = len(words), shares.shape[1]
        leanings, own = np.zeros((batch, runs)), np.empty(tuple(words.shape), dtype=np.float32)
        decays, reached = _forgetting()
        mass = np.zeros(len(common), dtype=np.float32)
        recalling_some()(*contexts, decays, ratios.numpy(), common.numpy(), words.numpy(), mass, leanings, own)
        weights = torch.from_numpy(leanings).float().mul_(BETA).softmax(1)
        whole = reached[np.minimum(contexts.ends - contexts.begins, WINDOW), None]
        own_tilt = _tilt(torch.from_numpy(own), torch.from_numpy(whole), OWN_PRIOR)
        return [_tilt(dots_with(shares, weights, words), 1.0, COMMON), own_tilt]


def _tilt(ratios: Tensor, mass: Tensor | float, prior: float) -> Tensor:
    # Log ratios of a distribution, `mass` times its ratios to the common one, smoothed with `prior` times that one.
    return ratios.add_(prior).div_(mass + prior).log_()


@lru_cache(maxsize=1)
def _forgetting() -> tuple[np.ndarray, np.ndarray]:
    # Decay of each of the last words, and of so many together.
    decays = np.exp(-np.arange(WINDOW) / TAU)
    return decays, np.append(0.0, np.cumsum(decays)).astype(np.float32)


@lru_cache(maxsize=1)
def recalling_some() -> Any:
    """`recall(tokens, begins, ends, decays, ratios, common, words, mass, leanings, own)`: a trace for some words.

    leanings[b] += decay of each of the last words times its ratios, own[b, j]: decays of the word words[b, j] together
    by its common probability. `mass` is zero for every word, before and after.
    """

    def recall(tokens, begins, ends, decays, ratios, common, words, mass, leanings, own):
        for b in range(len(ends)):
            end = ends[b]
            first = max(begins[b], end - len(decays))
            for at in range(first, end):
                word, decay = tokens[at], decays[end - 1 - at]
                mass[word] += decay
                for k in range(leanings.shape[1]):
                    leanings[b, k] += decay * ratios[word, k]
            for j in range(words.shape[1]):
                word = words[b, j]
                own[b, j] = mass[word] / common[word] if mass[word] > 0 else 0
            for at in range(first, end):
                mass[tokens[at]] = 0.0

    return compiled(recall, exact=True)
