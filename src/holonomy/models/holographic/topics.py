"""What a text is about: runs of the learned text that its last words resemble, and the words that those favour.

Words are expected more or less often by the ratio of an adapted to the common unigram distribution, to some power
(Kneser, Peters & Klakow 1997, dynamic marginals; Gildea & Hofmann 1999). There are two adapted distributions: of runs
of the learned text, u(w) = sum_d a_d n_d(w) / N_d with a = softmax(BETA sum_i exp(-age_i / TAU) ln(p_d(c_i) / p(c_i)))
over the last words c_i, and of these words themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.models.holographic.contexts import Contexts
from holonomy.models.holographic.recency import Recency, Trace

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
    _common: Tensor = field(init=False, repr=False)
    _shares: Tensor = field(init=False, repr=False)
    _ratios: Tensor = field(init=False, repr=False)
    _recency: Recency = field(init=False, repr=False)

    def __post_init__(self) -> None:
        counts = torch.from_numpy(self.counts).double()
        common = counts.sum(0) + 0.5
        common /= common.sum()
        sizes = counts.sum(1, keepdim=True)
        ratios = ((counts + RUN_PRIOR * common) / ((sizes + RUN_PRIOR) * common)).log_()
        if self.unknown is not None:
            ratios[:, self.unknown] = 0.0
        made = {
            "_common": common.float(),
            "_shares": (counts / sizes).float(),
            "_ratios": ratios.float(),
            "_recency": Recency((Trace(0, WINDOW, TAU),)),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of_words(cls, words: np.ndarray, vocab_size: int, unknown: int | None, most: int) -> Topics:
        """Cuts a text into at most `most` runs of one length."""
        runs = topic_runs(len(words), vocab_size, most)
        place = np.arange(len(words)) * runs // max(1, len(words))
        counts = np.bincount(place * vocab_size + words, minlength=runs * vocab_size)
        return cls(counts.reshape(runs, vocab_size).astype(np.int32), unknown)

    @property
    def nbytes(self) -> int:
        """Bytes of counts and of what is made from them."""
        return self.counts.nbytes + 4 * (self._common.numel() + self._shares.numel() + self._ratios.numel())

    def tilts(self, contexts: Contexts) -> list[Float[Tensor, "B V"]]:
        """Log ratios of both adapted distributions to the common one: of runs, and of the last words themselves."""
        own = torch.from_numpy(self._recency.scatter(*contexts, len(self._common))[:, 0]).float()
        weights = (own @ self._ratios.T).mul_(BETA).softmax(1)
        adapted = (weights @ self._shares).div_(self._common).add_(COMMON).div_(1 + COMMON).log_()
        mass = own.sum(1, keepdim=True)
        own.div_(self._common).add_(OWN_PRIOR).div_(mass + OWN_PRIOR).log_()
        return [adapted, own]
