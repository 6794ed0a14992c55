"""Contexts of characters as the words and lines they are in: symbols that a trie of counts can hold.

A symbol is a hash of a source and its place, so two contexts share one by chance only: 2^31 of them for some hundred
thousand words of a text. Everything is a pure function of the last `REACH` characters.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """`spell(tokens, begins, ends, letters, breaks, sources, places, out)`: symbols of contexts, a column each."""

    def spell(tokens, begins, ends, letters, breaks, sources, places, out):
        words, needed, columns = np.zeros(WORDS, dtype=np.int64), 0, False
        for source in sources:
            needed = max(needed, source + 1) if source < WORDS else needed
            columns = columns or source == WORDS
        for b in range(len(ends)):
            end = ends[b]
            begin = max(begins[b], end - REACH)
            column, start, starts = end - begin if columns else 0, end, 0
            for at in range(end - 1, begin - 1, -1) if columns else range(0):
                if breaks[tokens[at]]:
                    column = end - 1 - at
                    break
            while start > begin and starts < needed:
                start -= 1
                starts += letters[tokens[start]] > 0 and (start == begin or letters[tokens[start - 1]] == 0)
            words[:] = 0
            # Forward, since the sum of a word is that of its beginning and a character more.
            inside = False
            for at in range(start, end):
                letter = letters[tokens[at]]
                if letter and not inside:
                    for k in range(needed - 1, 0, -1):
                        words[k] = words[k - 1]
                    words[0] = 0
                inside = letter > 0
                # What stands behind a word belongs to it.
                value = letter if letter else 1_000_000 + tokens[at]
                words[0] = (words[0] * 1_000_003 + value * 7919 + 12_345) % MODULUS
            for j in range(len(sources)):
                source = sources[j]
                if source < WORDS:
                    value = words[source]
                elif source == WORDS:
                    value = column
                else:
                    back = end - (source - WORDS)
                    value = tokens[back] + 1 if back >= begin else 0
                # The place counts, so that what follows a symbol as target and as next symbol stay apart.
                out[b, j] = (value * 48_271 + places[j] * 1_000_000_007) % MODULUS

    return compiled(spell, exact=True)


def spelled(contexts: Contexts, spelling: Spelling, sources: Sequence[tuple[str, ...]]) -> list[np.ndarray]:
    """Symbols of contexts for each of some kinds, [B, sources of the kind] int64, the first source nearest: last."""
    found = [SOURCES[source] for kind in sources for source in kind[::-1]]
    places = [place for kind in sources for place in range(len(kind), 0, -1)]
    out = np.empty((len(contexts.ends), len(found)), dtype=np.int64)
    tokens, begins, ends = (np.ascontiguousarray(a, dtype=np.int64) for a in contexts)
    spelling_kernel()(tokens, begins, ends, spelling.letters, spelling.breaks, np.array(found), np.array(places), out)
    ends = np.cumsum([len(kind) for kind in sources]).tolist()
    return [np.ascontiguousarray(out[:, end - len(kind) : end]) for kind, end in zip(sources, ends, strict=True)]
