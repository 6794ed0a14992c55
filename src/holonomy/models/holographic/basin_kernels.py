"""Loops of the hashed neighbours: keys of contexts, their places in the tables, the nearest of them, what followed.

A row of a key is made by sums in one order, whatever stands in other rows, so that a context has one key however it
comes. Keys are whole numbers of 16 bits: their products are exact, whatever the order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from holonomy.geometry.compiled import compiled

UNIT = 32767.0
"""Length of a key; no sum of products of two leaves 32 bits (Cauchy and Schwarz)."""
BEFORE, BUNDLE = 0.6, 0.5
"""Lengths of the parts of the last word but one and of the superposition; those of the others are one."""
SHARPNESS = 12.0
"""What the cosine of a neighbour is multiplied with in the exponent of its weight."""
BLOCK = 8
"""Contexts whose keys are made together, so that a row of a matrix is read once for all of them."""
WORD, COUNT, LATER, OWNER = range(4)
"""Columns of what followed: the word, how often, the next of the same context, the context."""
FOLLOWED, BASIN, SIBLING = -3, -2, -1
"""Last columns of a context: the newest of what followed, its basin, the next context of the basin."""
HEAD, TOTAL = range(2)
"""Columns of a basin: its first context, and how often anything followed."""


class BasinKernels(NamedTuple):
    """Compiled loops."""

    keys: Any
    project: Any
    enter: Any
    take: Any
    link: Any
    hang: Any
    trim: Any
    chain: Any
    nearest: Any
    shares: Any
    spread: Any
    unite: Any


@lru_cache(maxsize=1)
def basin_kernels() -> BasinKernels:
    """All loops; what they take and give stands at the methods of `Basins` that call them."""
    keys, project = _key_loops()
    slot_of, code_of = _slots(), _codes()
    return BasinKernels(
        keys,
        project,
        *_counting_loops(slot_of),
        *_linking_loops(slot_of, code_of),
        _nearest_loop(code_of),
        *_reading_loops(),
        _uniting_loop(),
    )


def _key_loops() -> tuple[Any, Any]:
    f32 = np.float32

    def unit(row, begin, end, length):
        total = f32(0)
        for j in range(begin, end):
            total += row[j] * row[j]
        scale = length / np.sqrt(total) if total > 1e-12 else f32(0)
        for j in range(begin, end):
            row[j] *= scale

    unit = compiled(unit, exact=True)

    def keys(ids, vectors, turns, first, towards, out):
        dim, places = vectors.shape[1], ids.shape[1]
        features, parts = np.zeros((BLOCK, 4 * dim + 1), f32), np.zeros((BLOCK, 4 * dim), f32)
        turned = np.zeros(16, f32)
        for start in range(0, len(ids), BLOCK):
            here = min(BLOCK, len(ids) - start)
            features[:], parts[:] = 0, 0
            for r in range(here):
                f = features[r]
                f[4 * dim] = 1
                for p in range(places):
                    word = ids[start + r, places - 1 - p]
                    if word < 0:
                        break
                    if p < 2:
                        f[p * dim : (p + 1) * dim] = vectors[word]
                    for channel in range(0, dim, 16):
                        for i in range(16):
                            x = vectors[word, channel + i]
                            for j in range(16):
                                f[2 * dim + channel + j] += x * turns[16 * p + i, j]
                for channel in range(0, dim, 16):
                    last, before, product = channel, dim + channel, 3 * dim + channel
                    turned[:] = 0
                    for i in range(4):
                        for k in range(4):
                            for j in range(4):
                                turned[4 * i + j] += first[i, k] * f[before + 4 * k + j]
                    for i in range(4):
                        for k in range(4):
                            for j in range(4):
                                f[product + 4 * i + j] += turned[4 * i + k] * f[last + 4 * k + j]
                parts[r, : 3 * dim] = f[: 3 * dim]
            for i in range(4 * dim + 1):
                for r in range(here):
                    x = features[r, i]
                    for j in range(dim):
                        parts[r, 3 * dim + j] += x * towards[i, j]
            for r in range(here):
                row = parts[r]
                for j in range(dim, 2 * dim):
                    row[j] *= f32(BEFORE)
                unit(row, 2 * dim, 3 * dim, f32(BUNDLE))
                unit(row, 3 * dim, 4 * dim, f32(1))
                unit(row, 0, 4 * dim, f32(UNIT))
                for j in range(4 * dim):
                    out[start + r, j] = np.int16(np.rint(row[j]))

    def project(rows, planes, out):
        for start in range(0, len(rows), BLOCK):
            stop = min(start + BLOCK, len(rows))
            out[start:stop] = 0
            for i in range(len(planes)):
                for r in range(start, stop):
                    x = f32(rows[r, i])
                    for j in range(planes.shape[1]):
                        out[r, j] += x * planes[i, j]

    return compiled(keys, exact=True), compiled(project, exact=True)


def _codes() -> Any:
    def code_of(margins, table, bits):
        code = np.int64(0)
        for bit in range(bits):
            code |= np.int64(margins[table * bits + bit] > 0) << bit
        return code

    return compiled(code_of, exact=True)


def _slots() -> Any:
    def slot_of(contexts, table, ids):
        # Where a context stands, or the empty place where it would.
        place = np.uint64(0)
        for p in range(len(ids)):
            place = (place + np.uint64(ids[p] + 1)) * np.uint64(0x9E3779B97F4A7C15)
            place ^= place >> np.uint64(29)
        slot = np.int64(place & np.uint64(len(table) - 1))
        while table[slot] >= 0:
            same = True
            for p in range(len(ids)):
                same = same and contexts[table[slot], p] == ids[p]
            if same:
                break
            slot = (slot + 1) & (len(table) - 1)
        return slot

    return compiled(slot_of, exact=True)


def _counting_loops(slot_of: Any) -> tuple[Any, Any]:
    def following(contexts, follows, row, word):
        at = contexts[row, FOLLOWED]
        while at >= 0 and follows[at, WORD] != word:
            at = follows[at, LATER]
        return at

    following = compiled(following, exact=True)

    def enter(ids, targets, weights, contexts, follows, table, used, basins):
        # used: contexts, what followed, basins. A new context has a basin of its own.
        for b in range(len(ids)):
            slot = slot_of(contexts, table, ids[b])
            row = table[slot]
            if row < 0:
                row = used[0]
                table[slot] = row
                contexts[row, : ids.shape[1]] = ids[b]
                contexts[row, FOLLOWED], contexts[row, BASIN], contexts[row, SIBLING] = -1, used[2], -1
                basins[used[2], HEAD], basins[used[2], TOTAL] = row, 0
                used[0] += 1
                used[2] += 1
            at = following(contexts, follows, row, targets[b])
            if at < 0:
                at = used[1]
                follows[at, WORD], follows[at, COUNT], follows[at, OWNER] = targets[b], 0, row
                follows[at, LATER] = contexts[row, FOLLOWED]
                contexts[row, FOLLOWED] = at
                used[1] += 1
            follows[at, COUNT] += weights[b]
            basins[contexts[row, BASIN], TOTAL] += weights[b]

    def take(ids, targets, weights, contexts, follows, table, basins):
        # The first pair that is not there as often, everything else put back; the number of pairs if there is none.
        for b in range(len(ids)):
            row = table[slot_of(contexts, table, ids[b])]
            at = following(contexts, follows, row, targets[b]) if row >= 0 else -1
            if at < 0 or follows[at, COUNT] < weights[b]:
                for back in range(b):
                    row = table[slot_of(contexts, table, ids[back])]
                    follows[following(contexts, follows, row, targets[back]), COUNT] += weights[back]
                    basins[contexts[row, BASIN], TOTAL] += weights[back]
                return b
            follows[at, COUNT] -= weights[b]
            basins[contexts[row, BASIN], TOTAL] -= weights[b]
        return len(ids)

    return compiled(enter, exact=True), compiled(take, exact=True)


def _linking_loops(slot_of: Any, code_of: Any) -> tuple[Any, Any, Any, Any]:
    def link(contexts, end, table):
        for row in range(end):
            table[slot_of(contexts, table, contexts[row, :FOLLOWED])] = row

    def hang(margins, begin, heads, links):
        # The newest basin of a bucket comes first.
        bits = margins.shape[1] // heads.shape[0]
        for b in range(len(margins)):
            for t in range(heads.shape[0]):
                code = code_of(margins[b], t, bits)
                links[begin + b, t] = heads[t, code]
                heads[t, code] = begin + b

    def trim(margins, begin, contexts, follows, table, used, basins, heads, links):
        # Takes what came last and is no more off the ends: it stands first in every chain. Margins are those of the
        # basins from `begin` on.
        bits = margins.shape[1] // heads.shape[0]
        while used[0] > 0:
            while used[1] > 0 and follows[used[1] - 1, COUNT] == 0:
                used[1] -= 1
                contexts[follows[used[1], OWNER], FOLLOWED] = follows[used[1], LATER]
            row, basin = used[0] - 1, used[2] - 1
            alone = basins[basin, HEAD] == row and contexts[row, SIBLING] < 0
            if contexts[row, FOLLOWED] >= 0 or not alone or basin < begin:
                break
            table[slot_of(contexts, table, contexts[row, :FOLLOWED])] = -1
            for t in range(heads.shape[0]):
                heads[t, code_of(margins[basin - begin], t, bits)] = links[basin, t]
            used[0], used[2] = row, basin

    def chain(first, contexts, follows, basins):
        for row in range(len(first)):
            if first[row] != row:
                contexts[row, SIBLING] = contexts[first[row], SIBLING]
                contexts[first[row], SIBLING] = row
        for at in range(len(follows)):
            row = follows[at, OWNER]
            follows[at, LATER] = contexts[row, FOLLOWED]
            contexts[row, FOLLOWED] = at
            basins[contexts[row, BASIN], TOTAL] += follows[at, COUNT]

    return tuple(compiled(f, exact=True) for f in (link, hang, trim, chain))


def _nearest_loop(code_of: Any) -> Any:
    i32 = np.int32

    def flips(margins, sums, masks):
        # The sets of hyperplanes with the least squared distances: those of the first ones, and with each one more.
        count, most = 1, len(sums)
        sums[0], masks[0] = 0.0, 0
        old_sums, old_masks = np.empty(most), np.empty(most, np.int64)
        for bit in range(len(margins)):
            old_sums[:count], old_masks[:count] = sums[:count], masks[:count]
            price, i, j, total = np.float64(margins[bit]) ** 2, 0, 0, min(most, 2 * count)
            for k in range(total):
                if j >= count or (i < count and old_sums[i] <= old_sums[j] + price):
                    sums[k], masks[k], i = old_sums[i], old_masks[i], i + 1
                else:
                    sums[k], masks[k], j = old_sums[j] + price, old_masks[j] | (1 << bit), j + 1
            count = total
        return count

    flips = compiled(flips, exact=True)

    def dot(a, b):
        total = i32(0)
        for j in range(len(a)):
            total = i32(total + i32(i32(a[j]) * i32(b[j])))
        return total

    dot = compiled(dot, exact=True)

    def after(contexts, basins, one, other):
        # Equal cosines are ranked by the words, so that the order in which they came does not matter.
        a, b = contexts[basins[one, HEAD]], contexts[basins[other, HEAD]]
        for p in range(len(a) + FOLLOWED):
            if a[p] != b[p]:
                return a[p] > b[p]
        return False

    after = compiled(after, exact=True)

    def nearest(queries, margins, heads, links, keys, contexts, basins, probes, rows, dots, seen, pile):
        # Returns the number of candidates. They are piled up first, so that keys are read one after the other.
        most, tables, bits = rows.shape[1], heads.shape[0], margins.shape[1] // heads.shape[0]
        sums, masks, candidates = np.empty(probes), np.empty(probes, np.int64), 0
        for b in range(len(queries)):
            count = found = 0
            for t in range(tables):
                own = margins[b, t * bits : (t + 1) * bits]
                code = code_of(own, 0, bits)
                for k in range(flips(own, sums, masks)):
                    at = heads[t, code ^ masks[k]]
                    while at >= 0:
                        if seen[at] != b:
                            seen[at] = b
                            pile[count] = at
                            count += 1
                        at = links[at, t]
            candidates += count
            for k in range(count):
                at, value, place = pile[k], dot(queries[b], keys[pile[k]]), found
                if (found == most and value < dots[b, most - 1]) or basins[at, TOTAL] <= 0:
                    continue
                while place > 0 and (
                    dots[b, place - 1] < value
                    or (dots[b, place - 1] == value and after(contexts, basins, rows[b, place - 1], at))
                ):
                    place -= 1
                if place < most:
                    found = min(found + 1, most)
                    for moved in range(found - 1, place, -1):
                        rows[b, moved], dots[b, moved] = rows[b, moved - 1], dots[b, moved - 1]
                    rows[b, place], dots[b, place] = at, value
        return candidates

    return compiled(nearest, exact=True)


def _reading_loops() -> tuple[Any, Any]:
    def shares(rows, dots, targets, contexts, follows, basins, own, mass):
        # Weight of all that followed the neighbours, the nearest of weight one, and of the targets.
        for b in range(len(rows)):
            for k in range(rows.shape[1]):
                if rows[b, k] < 0:
                    break
                weight = np.exp(SHARPNESS * (dots[b, k] - dots[b, 0]) / UNIT**2)
                row = basins[rows[b, k], HEAD]
                while row >= 0:
                    at = contexts[row, FOLLOWED]
                    while at >= 0:
                        mass[b] += weight * follows[at, COUNT]
                        if follows[at, WORD] == targets[b]:
                            own[b] += weight * follows[at, COUNT]
                        at = follows[at, LATER]
                    row = contexts[row, SIBLING]

    def spread(rows, dots, weights, contexts, follows, basins, out):
        for b in range(len(rows)):
            for k in range(rows.shape[1]):
                if rows[b, k] < 0:
                    break
                weight = weights[b] * np.exp(SHARPNESS * (dots[b, k] - dots[b, 0]) / UNIT**2)
                row = basins[rows[b, k], HEAD]
                while row >= 0:
                    at = contexts[row, FOLLOWED]
                    while at >= 0:
                        out[b, follows[at, WORD]] += weight * follows[at, COUNT]
                        at = follows[at, LATER]
                    row = contexts[row, SIBLING]

    return compiled(shares, exact=True), compiled(spread, exact=True)


def _uniting_loop() -> Any:
    def gather(basin, sign, contexts, follows, basins, counts):
        row = basins[basin, HEAD]
        while row >= 0:
            at = contexts[row, FOLLOWED]
            while at >= 0:
                counts[follows[at, WORD]] += sign * follows[at, COUNT]
                at = follows[at, LATER]
            row = contexts[row, SIBLING]

    gather = compiled(gather, exact=True)

    def relative(basin, other, contexts, follows, basins, own, others):
        # Half of the relative entropy of a basin and the mean of both; entries of one word add up to its share.
        size, size_of_other, total = basins[basin, TOTAL], basins[other, TOTAL], 0.0
        row = basins[basin, HEAD]
        while row >= 0:
            at = contexts[row, FOLLOWED]
            while at >= 0:
                if follows[at, COUNT] > 0:
                    p, q = own[follows[at, WORD]] / size, others[follows[at, WORD]] / size_of_other
                    total += follows[at, COUNT] / size * np.log(2 * p / (p + q)) / 2
                at = follows[at, LATER]
            row = contexts[row, SIBLING]
        return total

    relative = compiled(relative, exact=True)

    def unite(begin, rows, dots, least, most, contexts, follows, basins, into, mine, theirs):
        # rows, dots: the nearest of the basins from `begin` on. One that is still by itself takes in those that lie
        # further on, are near and are followed by much the same.
        for b in range(len(rows)):
            one = begin + b
            if into[one] != one or basins[one, TOTAL] <= 0:
                continue
            gather(one, 1, contexts, follows, basins, mine)
            for k in range(rows.shape[1]):
                other = rows[b, k]
                if other < 0 or dots[b, k] < least:
                    break
                if other > one and into[other] == other:
                    gather(other, 1, contexts, follows, basins, theirs)
                    apart = relative(one, other, contexts, follows, basins, mine, theirs)
                    apart += relative(other, one, contexts, follows, basins, theirs, mine)
                    gather(other, -1, contexts, follows, basins, theirs)
                    if apart < most:
                        into[other] = one
            gather(one, -1, contexts, follows, basins, mine)

    return compiled(unite, exact=True)
