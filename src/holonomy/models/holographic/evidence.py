"""Numbers that a context gives away, which decide what experts weigh: what is known of it, and how often it came."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from holonomy.geometry.compiled import compiled

PRESENT = 1e-9
"""A trace with less mass than this holds nothing."""
HEIGHTS = 6
"""Numbers that `heights` has for a context."""


@lru_cache(maxsize=1)
def gathering() -> Any:
    """`gather(held, order, symbols, lengths, unigram, mass, matched, out)`: fills a row of `out` for each context.

    Columns: one; whether 1, 2, ... symbols of the context are known to the counts; how often something followed it,
    how many words, the same of its last word, how often something followed the last two, and how often the last word
    occurred; for each trace that matches anything, whether there is such a place, and its mass; for each spelled
    context, how many symbols are known, and how often something followed. Counts and masses m stand as log(1 + m).
    """

    def gather(held, order, symbols, lengths, unigram, mass, matched, out):
        for b in range(len(out)):
            out[b, 0] = 1.0
            for m in range(1, order):
                out[b, m] = 1.0 if held[0, b, 0] >= m else 0.0
            for k in range(1, HEIGHTS):
                out[b, order - 1 + k] = np.log1p(held[0, b, k])
            last = unigram[symbols[b, symbols.shape[1] - 1]] if lengths[b] > 0 else 0
            out[b, order - 1 + HEIGHTS] = np.log1p(np.float64(last))
            at = order + HEIGHTS
            for k in matched:
                out[b, at] = 1.0 if mass[b, k] > PRESENT else 0.0
                out[b, at + 1] = np.log1p(mass[b, k])
                at += 2
            for k in range(1, len(held)):
                out[b, at], out[b, at + 1] = held[k, b, 0], np.log1p(held[k, b, 1])
                at += 2

    return compiled(gather, exact=True)
