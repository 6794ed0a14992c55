"""Working memory: what followed in the text itself, as a pure function of the last words."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from holonomy.core.errors import ConfigError
from holonomy.geometry.compiled import compiled


class Trace(NamedTuple):
    """One way to remember.

    Attributes:
        match: how many last words must be the same; 0 counts every word.
        window: how many words back.
        tau: time constant of forgetting, in words.
    """

    match: int
    window: int
    tau: float


REFERENCE = (Trace(0, 600, 200.0), Trace(1, 3000, 400.0), Trace(2, 3000, 400.0))


@lru_cache(maxsize=1)
def recency_kernels() -> tuple[Any, Any, Any]:
    """`rate`, `spread` and `scatter`: masses and shares of targets; traces weighted and added; traces one by one."""

    def matched(tokens, begin, end, at, most):
        # How many words before `at` are the same as before `end`.
        length = 0
        while length < most and at - 1 - length >= begin and tokens[at - 1 - length] == tokens[end - 1 - length]:
            length += 1
        return length

    matched = compiled(matched, exact=True)

    def rate(tokens, begins, ends, targets, match, windows, decays, mass, own):
        # Masses of all traces, and how much of them lies on the target.
        most, traces = match.max(), len(match)
        for b in range(len(ends)):
            begin, end = begins[b], ends[b]
            first = max(begin, end - windows.max())
            for at in range(end - 1, first - 1, -1):
                length = matched(tokens, begin, end, at, most)
                age = end - 1 - at
                for k in range(traces):
                    if match[k] <= length and age < windows[k]:
                        mass[b, k] += decays[k, age]
                        if tokens[at] == targets[b]:
                            own[b, k] += decays[k, age]

    def spread(tokens, begins, ends, match, windows, decays, weights, out):
        # Adds weights[b, k] * decay of each match to the word that followed.
        most, traces = match.max(), len(match)
        for b in range(len(ends)):
            begin, end = begins[b], ends[b]
            first = max(begin, end - windows.max())
            for at in range(end - 1, first - 1, -1):
                length = matched(tokens, begin, end, at, most)
                age = end - 1 - at
                for k in range(traces):
                    if match[k] <= length and age < windows[k]:
                        out[b, tokens[at]] += weights[b, k] * decays[k, age]

    def scatter(tokens, begins, ends, match, windows, decays, out):
        # out[b, k, v]: decay of each match of trace k, at the word that followed. Places after equal last words are
        # chained, nearest first, so only they are visited.
        least, most, traces, window = match.min(), match.max(), len(match), windows.max()
        if not len(ends):
            return
        low, high = max(begins.min(), ends.min() - window - least), ends.max()
        size = 1024
        while size < high - low and size < 1 << 20:
            size *= 2
        head, before = np.full(size, -1, dtype=np.int64), np.full(high + 1 - low, -1, dtype=np.int64)
        for at in range(low + least, high + 1):
            place = np.uint64(0)
            for back in range(1, least + 1):
                place = (place + np.uint64(tokens[at - back])) * np.uint64(0x9E3779B97F4A7C15)
                place ^= place >> np.uint64(29)
            slot = np.int64(place & np.uint64(size - 1))
            before[at - low] = head[slot]
            head[slot] = at
        for b in range(len(ends)):
            begin, end = begins[b], ends[b]
            if end - begin <= least:
                continue
            first, at = max(begin + least, end - window), before[end - low]
            while at >= first:
                length = matched(tokens, begin, end, at, most)
                age = end - 1 - at
                for k in range(traces):
                    if match[k] <= length and age < windows[k] and length >= least:
                        out[b, k, tokens[at]] += decays[k, age]
                at = before[at - low]

    return compiled(rate, exact=True), compiled(spread, exact=True), compiled(scatter, exact=True)


class Recency:
    """Several traces over one text.

    Args:
        traces: ways to remember.

    Raises:
        ConfigError: no trace, or one without a window or a time constant.
    """

    def __init__(self, traces: tuple[Trace, ...] = REFERENCE) -> None:
        if not traces or any(t.match < 0 or t.window < 1 or not t.tau > 0 for t in traces):
            raise ConfigError(f"`traces` is {traces}; wanted one or more, match >= 0, window >= 1, tau > 0")
        self.traces = traces
        self.window = max(t.window for t in traces) + max(t.match for t in traces)
        """Words that a context needs at most."""
        self.matched = np.array([k for k, trace in enumerate(traces) if trace.match > 0], dtype=np.int64)
        """Traces that look for anything."""
        self._match = np.array([t.match for t in traces])
        self._windows = np.array([t.window for t in traces])
        ages = np.arange(self._windows.max())
        self._decays = np.exp(-ages / np.array([[t.tau] for t in traces]))

    @property
    def nbytes(self) -> int:
        """Bytes of the tables of forgetting."""
        return self._match.nbytes + self._windows.nbytes + self._decays.nbytes

    def rate(
        self, tokens: np.ndarray, begins: np.ndarray, ends: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Masses of the traces of contexts `tokens[begins:ends]`, and the part on the targets, each [B, traces]."""
        mass, own = np.zeros((2, len(ends), len(self.traces)))
        tables = self._match, self._windows, self._decays
        recency_kernels()[0](*_whole(tokens, begins, ends, targets), *tables, mass, own)
        return mass, own

    def spread(
        self, tokens: np.ndarray, begins: np.ndarray, ends: np.ndarray, weights: np.ndarray, out: np.ndarray
    ) -> None:
        """Adds `weights` [B, traces] times each trace, not normalised, to `out` [B, V]."""
        tables = self._match, self._windows, self._decays
        recency_kernels()[1](*_whole(tokens, begins, ends), *tables, np.ascontiguousarray(weights), out)

    def scatter(self, tokens: np.ndarray, begins: np.ndarray, ends: np.ndarray, vocab_size: int) -> np.ndarray:
        """The traces of contexts by word, not normalised, [B, traces, V] float64."""
        out = np.zeros((len(ends), len(self.traces), vocab_size))
        tables = self._match, self._windows, self._decays
        recency_kernels()[2](*_whole(tokens, begins, ends), *tables, out)
        return out


def _whole(*arrays: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(a, dtype=np.int64) for a in arrays]
