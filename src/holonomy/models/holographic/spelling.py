"""Contexts of characters as the words and lines they are in: symbols that a trie of counts can hold.

A symbol is a hash of a source and its place, so two contexts share one by chance only: 2^31 of them for some hundred
thousand words of a text. Everything is a pure function of the last `REACH` characters.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from holonomy.data.tokenizer import Spelling
from holonomy.geometry.compiled import compiled
from holonomy.models.holographic.contexts import Contexts

REACH = 64
"""Characters that are looked back on."""
WORDS = 4
"""The word that the target is in, as far as it goes, and those before it."""
SOURCES = {**{f"word{k}": k for k in range(WORDS)}, "column": WORDS}
SOURCES |= {f"char{k}": WORDS + k for k in range(1, 9)}
"""Where symbols come from: words, characters since the last line break, and single characters, 1 the last."""
MODULUS = 2**31 - 1


@lru_cache(maxsize=1)
def spelling_kernel() -> Any:
    """`spell(tokens, begins, ends, letters, breaks, sources, out)`: symbols of contexts, nearest last."""

    def spell(tokens, begins, ends, letters, breaks, sources, out):
        words = np.zeros(WORDS, dtype=np.int64)
        for b in range(len(ends)):
            end = ends[b]
            begin = max(begins[b], end - REACH)
            words[:] = 0
            # Forward, since the sum of a word is that of its beginning and a character more.
            column, inside = 0, False
            for at in range(begin, end):
                letter = letters[tokens[at]]
                if letter and not inside:
                    for k in range(WORDS - 1, 0, -1):
                        words[k] = words[k - 1]
                    words[0] = 0
                inside = letter > 0
                # What stands behind a word belongs to it.
                value = letter if letter else 1_000_000 + tokens[at]
                words[0] = (words[0] * 1_000_003 + value * 7919 + 12_345) % MODULUS
                column = 0 if breaks[tokens[at]] else column + 1
            for j in range(len(sources)):
                source = sources[len(sources) - 1 - j]
                if source < WORDS:
                    value = words[source]
                elif source == WORDS:
                    value = column
                else:
                    back = end - (source - WORDS)
                    value = tokens[back] + 1 if back >= begin else 0
                # The place counts, so that what follows a symbol as target and as next symbol stay apart.
                out[b, j] = (value * 48_271 + (len(sources) - j) * 1_000_000_007) % MODULUS

    return compiled(spell, exact=True)


def spelled(contexts: Contexts, spelling: Spelling, sources: tuple[str, ...]) -> np.ndarray:
    """Symbols of contexts, [B, sources] int64, the first source nearest, that is last."""
    out = np.empty((len(contexts.ends), len(sources)), dtype=np.int64)
    places = np.array([SOURCES[source] for source in sources], dtype=np.int64)
    tokens, begins, ends = (np.ascontiguousarray(a, dtype=np.int64) for a in contexts)
    spelling_kernel()(tokens, begins, ends, spelling.letters, spelling.breaks, places, out)
    return out
