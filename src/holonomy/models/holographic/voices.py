"""Voices multiplied as they are read: sums of weighted log probabilities, without ever storing a voice.

What a pool needs of a voice is its logarithm times a weight, up to a number that is the same for every symbol. So one
pass over the orders of a trie keeps a distribution in the nearest cache, adds its logarithm wherever the next order
changes it, and lets orders that know nothing add their weight to the one below. Distributions after the last symbol
or two come back all the time: they are kept while a batch is read.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import numpy as np

from holonomy.geometry.compiled import compiled
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.kernels import walking
from holonomy.models.holographic.standing import access

LANES = 16
"""Rows of distributions are as long as a multiple of this many float32, so that loops over them have no rest."""
TOUCHED = 64
"""Contexts whose followers are fetched together."""
SHARED, SLOTS = 2, 128
"""Orders whose distributions are kept, and how many of each."""


def padded(size: int) -> int:
    """Length of the row of a distribution."""
    return -(-size // LANES) * LANES


class _Spaces(threading.local):
    """Room that readers of one thread use again: fresh room is as dear as what a small batch does with it."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[np.ndarray, ...]] = {}

    def of(self, width: int) -> tuple[np.ndarray, ...]:
        """Room for distributions of a padded width; see `weighing`."""
        if width not in self._made:
            rows = 2 + SHARED * SLOTS
            probs, logs = np.empty((2, rows, width), dtype=np.float32)
            keys, whole = np.empty(rows, dtype=np.int64), np.empty(width, dtype=np.int32)
            self._made = {width: (keys, probs, probs.view(np.int32), logs, whole, whole.view(np.float32))}
        return self._made[width]


_SPACES = _Spaces()


class Voices:
    """Weighted log probabilities of several tries and of the text itself, summed up for a batch of contexts.

    Args:
        batch: number of contexts.
        size: number of words.
        panel: what each voice says is written there as well, [batch, voices, size], up to a number of each voice.
    """

    def __init__(self, batch: int, size: int, panel: np.ndarray | None = None) -> None:
        self._panel = np.empty((0, 0, 0), dtype=np.float32) if panel is None else panel
        self._column, self.size = 0, size
        self.sums = np.zeros((batch, padded(size)), dtype=np.float32)
        """Up to a number of each context; what stands past the last word means nothing."""
        self.middle = np.empty_like(self.sums)
        """The distributions of a middle order."""
        self._space = _SPACES.of(padded(size))

    def add(self, trie: CountTrie, found: np.ndarray, weights: np.ndarray, lowest: int, middle: int = 0) -> None:
        """Adds what a trie says.

        Args:
            trie: the counts.
            found: its contexts, [B, order].
            weights: of the orders from `lowest` on, [B, order + 1 - lowest].
            lowest: order of the first voice.
            middle: order whose distributions are kept in `middle`; 0 is none.
        """
        view, _ = trie.view()
        kernel = weighing(trie.packed)
        out = self._panel, self._column, self.sums, self.middle
        kernel(view, trie.taken, found, lowest, middle, weights, self.size, *self._space, *out)
        self._column += weights.shape[1]

    def recall(self, followed: np.ndarray, weights: np.ndarray, smoothing: float) -> None:
        """Adds the logarithm of each trace, smoothed with the middle distributions, relative to these.

        Args:
            followed: mass of each trace by word, [B, traces, V].
            weights: [B, traces].
            smoothing: weight of the distributions, in occurrences.
        """
        recalling()(followed, weights, smoothing, self.middle, self._panel, self._column, self.sums)
        self._column += weights.shape[1]

    def normalised(self) -> np.ndarray:
        """What the sums say as log probabilities, [B, V] float32."""
        out = np.empty((len(self.sums), self.size), dtype=np.float32)
        self.sums[:, self.size :] = -np.inf
        normalising()(self.sums, *self._space[-2:], out)
        return out


@lru_cache(maxsize=1)
def logarithm() -> Any:
    """`logs(bits, whole, mantissa, out)`: natural logarithms of normal float32 numbers to one ulp.

    The polynomial and the way to it are those of fdlibm's `logf`, with nothing that branches: the numbers are
    2^k m, m from 0.707 to 1.414, and log m = 2 artanh(f / (2 + f)), f = m - 1. `bits` are the numbers as
    integers, `mantissa` is `whole` as floats.
    """
    f32 = np.float32
    base, shift, mask, root = np.int32(0x3F800000), np.int32(0x3F800000 - 0x3F3504F3), np.int32(0x7FFFFF), 0x3F3504F3
    high, low = f32(6.9313812256e-01), f32(9.0580006145e-06)
    one, two, three, four = f32(0.66666662693), f32(0.40000972152), f32(0.28498786688), f32(0.24279078841)
    unit, double, half = f32(1), f32(2), f32(0.5)
    exponent = int(base >> 23)

    def logs(bits, whole, mantissa, out):
        size = len(out)
        for v in range(size):
            moved = bits[v] + shift
            out[v] = f32((moved >> 23) - exponent)
            whole[v] = (moved & mask) + root
        for v in range(size):
            f = mantissa[v] - unit
            s = f / (double + f)
            z = s * s
            w = z * z
            r = w * (two + w * four) + z * (one + w * three)
            h = half * f * f
            k = out[v]
            out[v] = s * (h + r) + k * low - h + f + k * high

    return compiled(logs, exact=True)


@lru_cache(maxsize=2)
def touching(packed: bool) -> Any:
    """`touch(view, found)`: fetches what follows contexts before it is walked."""
    _, _, _, count_of, _, first, _, _, _, ahead = access(packed)

    def touch(view, found):
        # What follows is fetched for many contexts at the same time: the first of it, where the sum only keeps that
        # from being left out, and then what lies beside.
        order, held = found.shape[1], np.int64(0)
        for b in range(len(found)):
            for m in range(1, order):
                row = first(view, found[b, m]) if found[b, m] >= 0 else np.int64(-1)
                held += count_of(view, row, m == order - 1) if row >= 0 else 0
        for b in range(len(found)):
            for m in range(1, order):
                if found[b, m] >= 0:
                    ahead(view, found[b, m], m == order - 1)
        return held

    return compiled(touch, exact=True)


@lru_cache(maxsize=2)
def weighing(packed: bool) -> Any:
    """`weigh(view, taken, found, lowest, middle, weights, space..., panel, column, sums, base)`: adds a trie's voices.

    sums[b, v] += sum over orders n from `lowest` on of weights[b, n - lowest] * log p_n(v | context b), up to a number
    of each context. Where `middle` is one of the orders, base[b] is p of it. A panel that holds anything is given
    log p_n(v | context b) at [b, column + n - lowest, v].
    """
    mass, touch = access(packed).mass, touching(packed)
    walk, logs_of, f32 = walking(packed), logarithm(), np.float32

    def weigh(view, taken, found, lowest, middle, weights, size, *arrays):
        keys, probs, bits, logs, whole, mantissa, panel, column, sums, base = arrays
        order, width, work = found.shape[1], probs.shape[1], probs.shape[0] - 1
        keys[:] = -1
        # Most voices want the logarithm of the highest order alone: it is taken where it is wanted.
        spoken = np.zeros(len(keys), dtype=np.bool_)
        # Past the last word stand ones, so that there are logarithms.
        probs[0] = 1
        total, ones, twos, more, gone = mass(view, 0, order == 1)
        rest = taken[0, 1] * ones + taken[0, 2] * twos + taken[0, 3] * more + gone
        probs[0, :size] = (rest / total if total > 0 else 1.0) / size
        if total > 0:
            walk(view, 0, order == 1, taken, 0, 1.0 / total, probs, 0)
        held = np.int64(0)
        for b in range(len(found)):
            if b % TOUCHED == 0:
                held += touch(view, found[b : b + TOUCHED])
            at, share = 0, f32(0)
            for m in range(order):
                row, top = found[b, m], m == order - 1
                total = ones = twos = more = gone = 0
                if m > 0 and row >= 0:
                    total, ones, twos, more, gone = mass(view, row, top)
                if total > 0:
                    if share != 0:
                        if not spoken[at]:
                            logs_of(bits[at], whole, mantissa, logs[at])
                            spoken[at] = True
                        for v in range(width):
                            sums[b, v] += share * logs[at, v]
                        share = f32(0)
                    to = 1 + (m - 1) * SLOTS + row % SLOTS if m <= SHARED else work
                    if to == work or keys[to] != row:
                        rest = taken[m, 1] * ones + taken[m, 2] * twos + taken[m, 3] * more + gone
                        left = f32(rest / total)
                        for v in range(width):
                            probs[to, v] = probs[at, v] * left
                        walk(view, row, top, taken, m, 1.0 / total, probs, to)
                        keys[to], spoken[to] = row, False
                    at = to
                if m + 1 >= lowest:
                    share += weights[b, m + 1 - lowest]
                    if len(panel):
                        if not spoken[at]:
                            logs_of(bits[at], whole, mantissa, logs[at])
                            spoken[at] = True
                        voice = column + m + 1 - lowest
                        for v in range(size):
                            panel[b, voice, v] = logs[at, v]
                if m + 1 == middle:
                    base[b] = probs[at]
            if not spoken[at]:
                logs_of(bits[at], whole, mantissa, logs[at])
                spoken[at] = True
            for v in range(width):
                sums[b, v] += share * logs[at, v]
        return held

    return compiled(weigh, exact=True)


@lru_cache(maxsize=1)
def normalising() -> Any:
    """`normalise(sums, whole, scale, out)`: out[b, v] = sums[b, v] - log sum_u exp(sums[b, u]).

    Exponentials are 2^k e^r, k whole, |r| <= log(2) / 2, e^r by its Taylor series to one ulp. Rows are added up in as
    many parts as there are lanes. `scale` is `whole` as floats, of the length of a row.
    """
    f32 = np.float32
    # Adding this number leaves the nearest integer in the last bits of a float32.
    magic, magic_bits, least = f32(12582912.0), np.int32(0x4B400000 - 127), f32(-87.0)
    log2_e, high, low, unit = f32(1.4426950216293335), f32(0.693359375), f32(-2.12194440e-4), f32(1)
    third, fourth, fifth, sixth, seventh = f32(1 / 6), f32(1 / 24), f32(1 / 120), f32(1 / 720), f32(1 / 5040)

    def normalise(sums, whole, scale, out):
        width, size = sums.shape[1], out.shape[1]
        part, moved = np.empty(LANES, dtype=np.float32), np.empty(width, dtype=np.float32)
        for b in range(len(sums)):
            part[:] = sums[b, :LANES]
            for begin in range(LANES, width, LANES):
                for lane in range(LANES):
                    part[lane] = max(part[lane], sums[b, begin + lane])
            top = part[0]
            for lane in range(1, LANES):
                top = max(top, part[lane])
            for v in range(width):
                moved[v] = max(sums[b, v] - top, least)
                scale[v] = moved[v] * log2_e + magic
            part[:] = f32(0)
            for v in range(width):
                k = scale[v] - magic
                moved[v] = moved[v] - k * high - k * low
            for v in range(width):
                whole[v] = (whole[v] - magic_bits) << 23
            for v in range(width):
                r = moved[v]
                p = (((seventh * r + sixth) * r + fifth) * r + fourth) * r + third
                moved[v] = (((p * r + f32(0.5)) * r + unit) * r + unit) * scale[v]
            for begin in range(0, width, LANES):
                for lane in range(LANES):
                    part[lane] += moved[begin + lane]
            total = 0.0
            for lane in range(LANES):
                total += part[lane]
            left = f32(np.log(total))
            for v in range(size):
                out[b, v] = (sums[b, v] - top) - left

    return compiled(normalise, exact=True)


@lru_cache(maxsize=1)
def recalling() -> Any:
    """`recall(followed, weights, smoothing, base, panel, column, sums)`: adds log((f + s p) / ((m + s) p)).

    Less what no word changes; a panel that holds anything is given it, too.
    """

    def recall(followed, weights, smoothing, base, panel, column, sums):
        for b in range(len(followed)):
            for k in range(followed.shape[1]):
                weight = weights[b, k]
                if len(panel):
                    for v in range(followed.shape[2]):
                        said = np.float32(0)
                        if followed[b, k, v] > 0:
                            said = np.float32(np.log1p(followed[b, k, v] / (smoothing * base[b, v])))
                        panel[b, column + k, v] = said
                for v in range(followed.shape[2]):
                    if followed[b, k, v] > 0:
                        sums[b, v] += weight * np.log1p(followed[b, k, v] / (smoothing * base[b, v]))

    return compiled(recall, exact=True)
