"""Contexts of characters as the words and lines they are in: symbols that a trie of counts can hold.

A symbol is a hash of a source and its place, so two contexts share one by chance only: 2^31 of them for some hundred
thousand words of a text. Everything is a pure function of the last `REACH` characters, or of the last `FAR` where
sources say what stands further back: in which line, under which first line of a part, and what followed before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from holonomy.data.tokenizer import Spelling
from holonomy.geometry.compiled import compiled
from holonomy.models.holographic.contexts import Contexts

REACH, FAR = 64, 3000
"""Characters that are looked back on, and by sources that look further."""
WORDS, FLOWS, LONGEST = 4, 3, 40
"""The word that the target is in, as far as it goes, and those before it; how many of them over the ends of lines; and
lengths of lines that are told apart."""
SOURCES = {**{f"word{k}": k for k in range(WORDS)}, "column": WORDS}
SOURCES |= {f"char{k}": WORDS + k for k in range(1, 9)}
SOURCES |= {f"flow{k}": len(SOURCES) + k for k in range(FLOWS)}
DISTANT = ("line", "length", "head1", "head2", "after2", "after3", "after4")
SOURCES |= {name: len(SOURCES) + k for k, name in enumerate(DISTANT)}
"""Where symbols come from: words, characters since the last line break, and single characters, 1 the last; words where
a break is a space; the line as far as it goes, and whether an empty one stands before it; how long the line before is;
the last whole line that follows an empty one, and the one before; what followed the last two, three and four characters
when they came before."""
MODULUS = 2**31 - 1


def _asked(kinds: Sequence[tuple[str, ...]]) -> set[str]:
    return {source for kind in kinds for symbol in kind for source in symbol.split("+")}


def reach_of(sources: Sequence[tuple[str, ...]]) -> int:
    """Characters that these sources look back on."""
    asked = _asked(sources)
    return FAR if asked & {*DISTANT} else REACH if asked else 0


@lru_cache(maxsize=1)
def scouting() -> Any:
    """`scout(tokens, begins, ends, breaks, reach, most, out)`: values of `DISTANT` sources, [B, 7], 0 for nothing.

    Contexts that follow each other are passed over together; only what lies within the `reach` of each counts. What
    followed is looked for as far as the first `most` of these sources.
    """

    def emit(tokens, begin, end, limit, before, low, lines, most, out):
        line, start, empty, last, head1, at1, head2, at2 = lines
        # What an empty line stands before is known where that line is known, too.
        least = limit if limit == begin else limit + 2
        out[:] = 0
        if start >= least:
            out[0] = line * 2 + empty + 1
        if last > limit or last == limit == begin:
            out[1] = 1 + min(start - 1 - last, LONGEST)
        if at1 >= least:
            out[2] = head1
        if at2 >= least:
            out[3] = head2
        at, found = before[end - low] if end - 2 >= limit else np.int64(-1), 0
        while found < most and at - 2 - found >= limit:
            same = 0
            while same < 4 and at - 1 - same >= limit and tokens[at - 1 - same] == tokens[end - 1 - same]:
                same += 1
            while found < most and same >= 2 + found:
                out[4 + found] = tokens[at] + 1
                found += 1
            at = before[at - low]

    emit = compiled(emit, exact=True)

    def scout(tokens, begins, ends, breaks, reach, most, out):
        first = 0
        while first < len(ends):
            last, begin = first, begins[first]
            while last + 1 < len(ends) and begins[last + 1] == begin and 0 <= ends[last + 1] - ends[last] <= reach:
                last += 1
            low, high = max(begin, ends[first] - reach), ends[last]
            size = 1024
            while size < high - low and size < 1 << 16:
                size *= 2
            heads, before = np.full(size, -1, dtype=np.int64), np.full(high + 1 - low, -1, dtype=np.int64)
            start, empty = (begin, 1) if low == begin else (np.int64(-1), 0)
            line = head1 = head2 = np.int64(0)
            at1 = at2 = previous = np.int64(-1)
            b = first
            for at in range(low, high + 1):
                if at - 2 >= low:
                    slot = (tokens[at - 1] * 40_503 + tokens[at - 2] * 31) & (size - 1)
                    before[at - low] = heads[slot]
                    heads[slot] = at
                while b <= last and ends[b] == at:
                    lines = (line, start, empty, previous, head1, at1, head2, at2)
                    emit(tokens, begin, at, max(begin, at - reach), before, low, lines, most, out[b])
                    b += 1
                if at == high:
                    break
                if breaks[tokens[at]]:
                    if start >= 0 and empty == 1 and at > start:
                        head2, at2, head1, at1 = head1, at1, line, start
                    empty = 1 if start >= 0 and at == start else 0
                    line, previous, start = np.int64(0), start, at + 1
                else:
                    line = (line * 1_000_003 + (tokens[at] + 1) * 7919 + 12_345) % MODULUS
            first = last + 1

    return compiled(scout, exact=True)


@lru_cache(maxsize=1)
def spelling_kernel() -> Any:
    """`spell(tokens, begins, ends, spelling..., sources, columns, places, distant, out)`: symbols of contexts.

    Sources of one column, which stand together, make one symbol; it has one place.
    """
    flow, nearest = SOURCES["flow0"], SOURCES[DISTANT[0]]

    def spell(tokens, begins, ends, letters, breaks, blank, sources, columns, places, distant, out):
        words, flows = np.zeros(WORDS, dtype=np.int64), np.zeros(WORDS, dtype=np.int64)
        needed, lined = 0, False
        for source in sources:
            needed = max(needed, source + 1) if source < WORDS else needed
            needed = max(needed, source + 1 - flow) if flow <= source < nearest else needed
            lined = lined or source == WORDS
        for b in range(len(ends)):
            end = ends[b]
            begin = max(begins[b], end - REACH)
            column, start, starts = end - begin if lined else 0, end, 0
            for at in range(end - 1, begin - 1, -1) if lined else range(0):
                if breaks[tokens[at]]:
                    column = end - 1 - at
                    break
            while start > begin and starts < needed:
                start -= 1
                starts += letters[tokens[start]] > 0 and (start == begin or letters[tokens[start - 1]] == 0)
            words[:] = flows[:] = 0
            # Forward, since the sum of a word is that of its beginning and a character more.
            inside = False
            for at in range(start, end):
                letter = letters[tokens[at]]
                if letter and not inside:
                    for k in range(needed - 1, 0, -1):
                        words[k], flows[k] = words[k - 1], flows[k - 1]
                    words[0] = flows[0] = 0
                inside = letter > 0
                # What stands behind a word belongs to it.
                value = letter if letter else 1_000_000 + tokens[at]
                words[0] = (words[0] * 1_000_003 + value * 7919 + 12_345) % MODULUS
                value = 1_000_000 + blank if breaks[tokens[at]] else value
                flows[0] = (flows[0] * 1_000_003 + value * 7919 + 12_345) % MODULUS
            total = 0
            for j in range(len(sources)):
                source, at = sources[j], columns[j]
                if source < WORDS:
                    value = words[source]
                elif source == WORDS:
                    value = column
                elif source >= nearest:
                    value = distant[b, source - nearest]
                elif source >= flow:
                    value = flows[source - flow]
                else:
                    back = end - (source - WORDS)
                    value = tokens[back] + 1 if back >= begin else 0
                total = (total * 1_000_003 + value + 1) % MODULUS if j > 0 and columns[j - 1] == at else value
                # The place counts, so that what follows a symbol as target and as next symbol stay apart.
                out[b, at] = (total * 48_271 + places[at] * 1_000_000_007) % MODULUS

    return compiled(spell, exact=True)


def spelled(contexts: Contexts, spelling: Spelling, sources: Sequence[tuple[str, ...]]) -> list[np.ndarray]:
    """Symbols of contexts for each of some kinds, [B, symbols of the kind] int64, the first nearest: last.

    A symbol is a source, or several joined by plus signs.
    """
    symbols = [symbol.split("+") for kind in sources for symbol in kind[::-1]]
    found = [SOURCES[source] for symbol in symbols for source in symbol]
    columns = [at for at, symbol in enumerate(symbols) for _ in symbol]
    places = [place for kind in sources for place in range(len(kind), 0, -1)]
    out = np.empty((len(contexts.ends), len(symbols)), dtype=np.int64)
    tokens, begins, ends = (np.ascontiguousarray(a, dtype=np.int64) for a in contexts)
    distant = np.empty((len(ends), len(DISTANT)), dtype=np.int64)
    if reach_of(sources) == FAR:
        after = [name for name in DISTANT if name.startswith("after")]
        most = max((k for k, name in enumerate(after, 1) if name in _asked(sources)), default=0)
        scouting()(tokens, begins, ends, spelling.breaks, FAR, most, distant)
    spelling_kernel()(tokens, begins, ends, *spelling, *map(np.array, (found, columns, places)), distant, out)
    ends = np.cumsum([len(kind) for kind in sources]).tolist()
    return [np.ascontiguousarray(out[:, end - len(kind) : end]) for kind, end in zip(sources, ends, strict=True)]
