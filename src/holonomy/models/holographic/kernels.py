"""Compiled integer kernels: tries of counts in open addressing, their Kneser-Ney probabilities, and cleaning up.

A trie node is one n-gram: its parent is the n-gram without the last symbol. Nodes above the highest order are rows of
`inner`, those of the highest order rows of `leaf`; both are found through a table of row numbers with linear probing,
verified against parent and symbol, so no two grams are ever mixed up. Row 0 of `inner` is the empty gram.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from holonomy.geometry.compiled import compiled
from holonomy.models.holographic.addressing import probing
from holonomy.models.holographic.standing import access, continuing, standing

PARENT, SYMBOL, RAW, NEXT, PRECEDED, FIRST, TOTAL, ONES, TWOS, MORE, RELEASED = range(11)
"""Columns of `inner`; `leaf` has the first four. TOTAL to RELEASED speak of the gram as a context."""
ALONE = -2
"""NEXT of a gram that is a context only: no distribution walks over it."""
LEAF_WIDTH, INNER_WIDTH = 4, 11
INNER_USED, LEAF_USED, STEPS, LOOKUPS = range(4)
"""Entries of `sizes`: rows in use, and how many probes how many searches took."""
TOGETHER = 128
"""Pairs that are looked up together: what they touch stays in the cache until they are counted."""


class TrieKernels(NamedTuple):
    """Compiled functions; see the functions of the same name in the factories below."""

    rehash: Callable[..., None]
    learn: Callable[..., Any]
    masses: Callable[..., None]
    heights: Callable[..., None]
    contexts: Callable[..., None]
    score: Callable[..., None]
    spread: Callable[..., None]
    ladder: Callable[..., None]
    locate: Callable[..., None]
    frequent: Callable[..., None]
    single: Callable[..., None]


@lru_cache(maxsize=1)
def counting() -> tuple[Any, Any, Any, Any]:
    """`join(inner, row)`, `enter(inner, table, parent, symbol, sizes)`, `enter_leaf(...)` and `recount(...)`.

    Only a gram that follows its context joins the others that do: contexts of skips and classes have longer contexts
    below them, often many more than words follow. Arrays are never chosen between: that would count references.
    """
    find, _, _ = probing()

    def join(inner, row):
        if inner[row, 3] == ALONE:
            parent = inner[row, 0]
            inner[row, 3] = inner[parent, 5]
            inner[parent, 5] = row

    def enter(inner, table, parent, symbol, sizes):
        row = find(inner, table, parent, symbol, sizes)
        if row < 0:
            slot, row = ~row, sizes[0]
            sizes[0] += 1
            table[slot] = row
            for column in range(2, 11):
                inner[row, column] = 0
            inner[row, 0], inner[row, 1], inner[row, 3], inner[row, 5] = parent, symbol, ALONE, -1
        return row

    def enter_leaf(inner, leaf, table, parent, symbol, sizes):
        row = find(leaf, table, parent, symbol, sizes)
        if row < 0:
            slot, row = ~row, sizes[1]
            sizes[1] += 1
            table[slot] = row
            leaf[row, 0], leaf[row, 1], leaf[row, 2], leaf[row, 3] = parent, symbol, 0, inner[parent, 5]
            inner[parent, 5] = row
        return row

    def recount(inner, tally, m, context, old, fresh):
        # A follower of `context` had the count `old` and now has `fresh`.
        inner[context, 6] += fresh - old
        if 1 <= old <= 4:
            tally[m, old] -= 1
        if 1 <= fresh <= 4:
            tally[m, fresh] += 1
        if min(old, 3) == min(fresh, 3):
            return
        if old > 0:
            inner[context, 6 + min(old, 3)] -= 1
        if fresh > 0:
            inner[context, 6 + min(fresh, 3)] += 1

    return tuple(compiled(f, exact=True) for f in (join, enter, enter_leaf, recount))


@lru_cache(maxsize=1)
def discounting() -> Any:
    """`discount(tally, taken)`: discounts of every order from how many grams have counts 1 to 4, behind a column."""
    from holonomy.data.kneser_ney import discounts_of

    of = compiled(discounts_of, exact=True)

    def discount(tally, taken):
        for m in range(len(tally)):
            taken[m, 0], taken[m, 1], taken[m, 2], taken[m, 3] = of(tally[m, 1], tally[m, 2], tally[m, 3], tally[m, 4])

    return compiled(discount, exact=True)


@lru_cache(maxsize=1)
def knowing() -> Any:
    """`known(view, targets, follows, context, gram)`: rows of the grams of pairs, -1 for none, from their contexts'."""
    import numpy as np

    _, find_each, _ = probing()

    def known(view, targets, follows, context, gram):
        inner, leaf, inner_table, leaf_table, sizes = view
        batch, top = context.shape[0], context.shape[1] - 1
        alone = np.empty(batch, dtype=np.int64)
        count = 0
        for b in range(batch):
            # Where the next pair goes on, its contexts are the grams of this one.
            if b + 1 < batch and follows[b + 1]:
                for m in range(top):
                    gram[b, m] = context[b + 1, m + 1]
            else:
                alone[count] = b
                count += 1
        alone = alone[:count]
        places, symbols = np.empty(batch, dtype=np.int64), targets[alone]
        for m in range(top):
            for k in range(count):
                places[k] = context[alone[k], m]
            find_each(inner, inner_table, places[:count], symbols, sizes)
            for k in range(count):
                gram[alone[k], m] = places[k]
        places[:] = context[:, top]
        find_each(leaf, leaf_table, places, targets, sizes)
        gram[:batch, top] = places

    return compiled(known, exact=True)


@lru_cache(maxsize=1)
def changing() -> Any:
    """`change(inner, leaf, tally, length, weight, context, gram)`: adds `weight` to the grams of one pair."""
    recount = counting()[3]

    def change(inner, leaf, tally, length, weight, context, gram):
        order, change = len(context), 1 if weight > 0 else -1
        for m in range(length + 1):
            if m == order - 1:
                old = leaf[gram[m], 2]
                leaf[gram[m], 2] = old + weight
                recount(inner, tally, m, context[m], old, old + weight)
            else:
                old = inner[gram[m], 2]
                inner[gram[m], 2] = old + weight
            if m > 0 and (old == 0) != (old + weight == 0):
                shorter = inner[gram[m - 1], 4]
                inner[gram[m - 1], 4] = shorter + change
                recount(inner, tally, m - 1, context[m - 1], shorter, shorter + change)

    return compiled(change, exact=True)


@lru_cache(maxsize=1)
def learning() -> Any:
    """`learn(inner, leaf, inner_table, leaf_table, sizes, tally, symbols, lengths, targets, weights, rolling, rows)`.

    Adds `weights` (negative ones take away) to the grams that end in each target; returns the number of the first
    pair that is not there to take away, after which everything before it has been taken, or -1. With `rolling`,
    symbols are words just before the target, so the grams of one pair are the contexts of the next. What is there
    already is looked up for some pairs together, so that their places in memory are fetched at the same time; what is
    not, one pair after the other. `rows` is what `stand` gives of the contexts, or empty where nobody asked yet; a
    context that it misses may have come since.
    """
    import numpy as np

    join, enter, enter_leaf, _ = counting()
    known, change, continues, stand = knowing(), changing(), continuing(), standing(False)

    def learn(inner, leaf, inner_table, leaf_table, sizes, tally, symbols, lengths, targets, weights, rolling, rows):
        order, view = symbols.shape[1] + 1, (inner, leaf, inner_table, leaf_table, sizes)
        places, grams = np.empty((2, TOGETHER, order), dtype=np.int32)
        before, follows = np.zeros(order, dtype=np.int64), np.zeros(len(targets), dtype=np.bool_)
        for b in range(1, len(targets) if rolling else 0):
            follows[b] = continues(symbols, lengths, b) and symbols[b, order - 2] == targets[b - 1]
        for b in range(len(targets)):
            at = b % TOGETHER
            if at == 0:
                end = min(b + TOGETHER, len(targets))
                if len(rows):
                    places[: end - b] = rows[b:end]
                else:
                    stand(view, symbols[b:end], lengths[b:end], places[: end - b])
                known(view, targets[b:end], follows[b:end], places[: end - b], grams)
            context, gram, length, weight = places[at], grams[at], lengths[b], weights[b]
            for m in range(1, length + 1):
                if context[m] < 0 and weight < 0:
                    return b
                if context[m] < 0 and follows[b]:
                    context[m] = before[m - 1]
                elif context[m] < 0:
                    row = np.int64(0)
                    for j in range(order - 1 - m, order - 1):
                        row = enter(inner, inner_table, row, symbols[b, j], sizes)
                    context[m] = row
            for m in range(length + 1):
                top = m == order - 1
                if weight < 0:
                    # In a branch of its own each: arrays that are chosen between have their references counted.
                    if gram[m] < 0 or (leaf[gram[m], 2] if top else inner[gram[m], 2]) + weight < 0:
                        return b
                elif top and gram[m] < 0:
                    gram[m] = enter_leaf(inner, leaf, leaf_table, context[m], targets[b], sizes)
                elif not top:
                    if gram[m] < 0:
                        gram[m] = enter(inner, inner_table, context[m], targets[b], sizes)
                    join(inner, gram[m])
            before[:] = gram
            change(inner, leaf, tally, length, weight, context, gram)
        return -1

    return compiled(learn, exact=True)


@lru_cache(maxsize=2)
def measuring(packed: bool) -> tuple[Any, Any]:
    """`masses(view, found, out)` and `heights(view, found, out)`: what follows contexts, and how far they are known."""
    import numpy as np

    mass = access(packed).mass

    def masses(view, found, out):
        for b in range(found.shape[0]):
            for m in range(found.shape[1]):
                if found[b, m] >= 0:
                    total, ones, twos, more, _ = mass(view, found[b, m], m == found.shape[1] - 1)
                    out[b, m, 0], out[b, m, 1] = total, ones + twos + more

    def heights(view, found, out):
        # How many symbols are known of each context; how often something followed so many, and how many different
        # symbols; the same of the last one, and how often something followed the last two.
        order = found.shape[1]
        for b in range(len(found)):
            level = -1
            for m in range(order):
                level += found[b, m] >= 0
            out[b, 0] = level
            for k, m in enumerate((max(level, 0), min(1, order - 1), min(2, order - 1))):
                total = ones = twos = more = np.int64(0)
                if found[b, m] >= 0:
                    total, ones, twos, more, _ = mass(view, found[b, m], m == order - 1)
                out[b, 1 + 2 * k] = total
                if k < 2:
                    out[b, 2 + 2 * k] = ones + twos + more

    return compiled(masses, exact=True), compiled(heights, exact=True)


@lru_cache(maxsize=2)
def reading(packed: bool) -> tuple[Any, Any]:
    """`contexts` and `score`: where contexts stand, all and those that something follows, and probabilities of targets.

    p_n(w) = max(a - D(a), 0) / T + (sum_v D(a_v) / T) p_{n-1}(w) along the known contexts, p_0 = 1 / V; of followers
    that were dropped, the whole count is taken.
    """
    gram, _, _, count_of, _, _, _, followed_by, mass, _ = access(packed)
    stand = standing(packed)

    def contexts(view, symbols, lengths, rows, found):
        stand(view, symbols, lengths, rows)
        top = rows.shape[1] - 1
        for b in range(len(rows)):
            for m in range(top + 1):
                # A context that nothing follows says nothing.
                said = m == 0 or (rows[b, m] >= 0 and followed_by(view, rows[b, m], m == top))
                found[b, m] = rows[b, m] if said else -1

    def score(view, taken, found, targets, uniform, result):
        order = found.shape[1]
        for b in range(len(targets)):
            p = uniform
            for m in range(order):
                top = m == order - 1
                if found[b, m] < 0:
                    break
                total, ones, twos, more, gone = mass(view, found[b, m], top)
                if total == 0:
                    break
                rest = taken[m, 1] * ones + taken[m, 2] * twos + taken[m, 3] * more + gone
                row = gram(view, found[b, m], targets[b], top)
                count = count_of(view, row, top) if row >= 0 else 0
                p = (count - taken[m, min(count, 3)] + rest * p) / total
            result[b] = p

    return compiled(contexts, exact=True), compiled(score, exact=True)


@lru_cache(maxsize=2)
def walking(packed: bool) -> Any:
    """`walk(view, context, top, taken, m, scale, out, b)`: out[b, v] += scale * (count of v there - its discount)."""
    _, _, symbol, count_of, _, first, after, _, _, _ = access(packed)

    def walk(view, context, top, taken, m, scale, out, b):
        row = first(view, context)
        while row >= 0:
            # Most rows stand beside the one before: while that is so, no load waits for another.
            while True:
                beside = row + 1
                count = count_of(view, row, top)
                if count > 0:
                    out[b, symbol(view, row, top)] += scale * (count - taken[m, min(count, 3)])
                row = after(view, row, context, top)
                if row != beside:
                    break
                row = beside

    return compiled(walk, exact=True)


@lru_cache(maxsize=2)
def spreading(packed: bool) -> tuple[Any, Any]:
    """`spread` and `ladder`: whole distributions after contexts, added up, and one by order."""
    import numpy as np

    mass, walk = access(packed).mass, walking(packed)

    def spread(view, taken, found, weights, begin, out, base):
        # Adds weights[b] * p(v | context b) to out[b, v], all but the part base[b] of p_begin.
        order = found.shape[1]
        for b in range(len(weights)):
            share = weights[b]
            for m in range(order - 1, begin - 1, -1):
                row, top = found[b, m], m == order - 1
                if row < 0:
                    continue
                total, ones, twos, more, gone = mass(view, row, top)
                if total == 0:
                    continue
                rest = taken[m, 1] * ones + taken[m, 2] * twos + taken[m, 3] * more + gone
                walk(view, row, top, taken, m, share / total, out, b)
                share *= rest / total
            base[b] = share

    def ladder(view, taken, found, sort, start, lowest, out):
        # out[b, k, v] = p_{lowest + k}(v | context b), p_1 = `start`. Contexts come sorted, so that what one shares
        # with the one before it is still there.
        order, size = found.shape[1], len(start)
        p = np.empty((order, size), dtype=np.float64)
        p[0] = start
        before = np.full(order, -2, dtype=np.int64)
        before[0] = 0
        for at in range(len(found)):
            b, same = sort[at], True
            for m in range(order):
                row, top = found[b, m], m == order - 1
                same = same and before[m] == row
                before[m] = row
                total = ones = twos = more = gone = 0
                if not same and row >= 0:
                    total, ones, twos, more, gone = mass(view, row, top)
                if not same and total == 0:
                    p[m] = p[m - 1]
                elif not same:
                    rest = taken[m, 1] * ones + taken[m, 2] * twos + taken[m, 3] * more + gone
                    share, each = rest / total, 1.0 / total
                    for v in range(size):
                        p[m, v] = p[m - 1, v] * share
                    walk(view, row, top, taken, m, each, p, m)
                if m + 1 >= lowest:
                    for v in range(size):
                        out[b, m + 1 - lowest, v] = p[m, v]

    return compiled(spread, exact=True), compiled(ladder, exact=True)


@lru_cache(maxsize=2)
def looking(packed: bool) -> tuple[Any, Any, Any]:
    """`locate(view, contexts, targets, rows)` and `frequent(view, contexts, least, out)`, below the highest order.

    And `single(view, found, out)`: the one symbol that followed the longest context that anything followed, else -1.
    """
    gram, _, symbol, count, raw, first, after, _, mass, _ = access(packed)

    def locate(view, contexts, targets, rows):
        for b in range(len(targets)):
            row = gram(view, contexts[b], targets[b], False) if contexts[b] >= 0 else -1
            rows[b] = row if row >= 0 else -1

    def frequent(view, contexts, least, out):
        for b in range(len(contexts)):
            child = first(view, contexts[b]) if contexts[b] >= 0 else -1
            while child >= 0:
                if raw(view, child) >= least:
                    out[b, symbol(view, child, False)] += raw(view, child)
                child = after(view, child, contexts[b], False)

    def single(view, found, out):
        order = found.shape[1]
        for b in range(len(found)):
            seen, out[b] = 0, -1
            for m in range(order - 1, 0, -1):
                row, top = found[b, m], m == order - 1
                if row < 0 or seen > 0:
                    continue
                child = first(view, row)
                while child >= 0 and seen < 2:
                    # How often it occurred, wherever: what began a document counts in no distribution below the top.
                    if (count(view, child, True) if top else raw(view, child)) > 0:
                        out[b] = symbol(view, child, top)
                        seen += 1
                    child = after(view, child, row, top)
                # What was dropped there may have been another symbol.
                if mass(view, row, top)[4] > 0:
                    seen = 2
            if seen != 1:
                out[b] = -1

    return compiled(locate, exact=True), compiled(frequent, exact=True), compiled(single, exact=True)


@lru_cache(maxsize=2)
def trie_kernels(packed: bool = False) -> TrieKernels:
    """All kernels of a trie of counts; those that read know how it is stored."""
    _, _, rehash = probing()
    return TrieKernels(rehash, learning(), *measuring(packed), *reading(packed), *spreading(packed), *looking(packed))
