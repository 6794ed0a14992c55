"""Counts that stay within a number of bytes: the rarest grams of the highest orders go, contexts keep their totals.

What is dropped follows from the counts alone, so a pass that was interrupted goes on exactly. Counts of what stays are
too small by as often as it was dropped before, which is less than the threshold at each eviction (lossy counting;
Manku & Motwani 2002).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from holonomy.geometry.compiled import compiled
from holonomy.models.holographic.growth import FULL
from holonomy.models.holographic.kernels import ALONE, INNER_WIDTH, LEAF_WIDTH

SLACK = 0.25
"""Share of the room that an eviction empties, so that the next one is some way off."""
RAREST = 16
"""Counts from this on are told apart no further."""
WORK = 6
"""Bytes for each row that an eviction takes beside the rows: its place, depth, and whether it is needed."""
FIRST_SLOTS = 128
NOTED = 2**18
"""Grams that are told of at an eviction, at most."""


def slots(rows: int) -> int:
    """Places of a table for so many rows."""
    size = FIRST_SLOTS
    while rows > FULL * size:
        size *= 2
    return size


def trie_bytes(inner: int, leaf: int) -> int:
    """Bytes of so many rows and of their tables, and of the work space of an eviction."""
    return inner * (4 * INNER_WIDTH + WORK) + leaf * 4 * LEAF_WIDTH + 4 * (slots(inner) + slots(leaf))


@lru_cache(maxsize=1)
def surveying() -> tuple[Callable[..., None], Callable[..., None], Callable[..., int]]:
    """`measure(inner, sizes, depth)`, `tally(inner, leaf, sizes, depth, found)` and `reach(rows, used, ...)`.

    `measure` writes the number of symbols of each row, `tally` how many rows of each order have which count, `reach`
    finds the row up to which so many of one order have one count.
    """

    def measure(inner, sizes, depth):
        depth[0] = 0
        for row in range(1, sizes[0]):
            depth[row] = depth[inner[row, 0]] + 1

    def tally(inner, leaf, sizes, depth, found):
        order = found.shape[0] - 1
        for row in range(1, sizes[0]):
            found[depth[row], min(inner[row, 2], found.shape[1] - 1)] += 1
        for row in range(sizes[1]):
            found[order, min(leaf[row, 2], found.shape[1] - 1)] += 1

    def reach(rows, used, depth, order, longest, count, wanted):
        for row in range(used):
            if rows[row, 2] == count and (longest or depth[row] == order):
                wanted -= 1
                if wanted < 0:
                    return row
        return used

    return compiled(measure, exact=True), compiled(tally, exact=True), compiled(reach, exact=True)


@lru_cache(maxsize=1)
def evicting() -> Callable[..., int]:
    """`purge(inner, leaf, sizes, depth, needed, place, order, least, lowest, upto, below, gone, lost)`.

    Drops what occurred fewer than `least` times at orders above `lowest`, at that order as well up to the row `upto`,
    and fewer than `below` times elsewhere, unless a longer gram needs it; puts the others together, in their order,
    within the same arrays. Of the grams that go below the highest order, as many as there is room for are noted in
    `gone`, behind -1, and `lost`; returns how many.
    """

    def release(inner, context, count):
        if count > 0:
            inner[context, 10] += count
            inner[context, 6 + min(count, 3)] -= 1

    release = compiled(release, exact=True)

    def purge(inner, leaf, sizes, depth, needed, place, order, least, lowest, upto, below, gone, lost):
        used, end, noted = sizes[0], 0, 0
        needed[:used] = 0
        for row in range(sizes[1]):
            bound = least if lowest < order or row < upto else below
            if leaf[row, 2] < bound:
                release(inner, leaf[row, 0], leaf[row, 2])
                continue
            needed[leaf[row, 0]] = 1
            leaf[end, 0], leaf[end, 1], leaf[end, 2] = leaf[row, 0], leaf[row, 1], leaf[row, 2]
            end += 1
        sizes[1] = end
        # A parent stands before its children: backwards, a row is needed or not before it is looked at.
        for row in range(used - 1, 0, -1):
            bound = least if depth[row] > lowest or (depth[row] == lowest and row < upto) else below
            if depth[row] < 2 or needed[row] == 1 or inner[row, 2] >= bound:
                needed[row] = needed[inner[row, 0]] = 1
        for row in range(1, used):
            if needed[row] == 0 and inner[row, 2] > 0 and depth[row] <= gone.shape[1] and noted < len(lost):
                lost[noted], at = inner[row, 2], row
                gone[noted, :] = -1
                for back in range(depth[row]):
                    gone[noted, gone.shape[1] - 1 - back], at = inner[at, 1], inner[at, 0]
                noted += 1
        end, place[0], inner[0, 5] = 1, 0, -1
        for row in range(1, used):
            # The parent has its place already; a row that goes leaves its count to a context that stays.
            parent = place[inner[row, 0]]
            if needed[row] == 0:
                if parent >= 0:
                    release(inner, parent, inner[row, 4])
                place[row] = -1
                continue
            place[row] = end
            for column in range(inner.shape[1]):
                inner[end, column] = inner[row, column]
            depth[end] = depth[row]
            inner[end, 0], inner[end, 5] = parent, -1
            if inner[end, 2] > 0:
                inner[end, 3], inner[parent, 5] = inner[parent, 5], end
            else:
                inner[end, 3] = ALONE
            end += 1
        sizes[0] = end
        for row in range(sizes[1]):
            parent = place[leaf[row, 0]]
            leaf[row, 0], leaf[row, 3], inner[parent, 5] = parent, inner[parent, 5], row
        return noted

    return compiled(purge, exact=True)


def row_depths(inner: np.ndarray) -> np.ndarray:
    """Number of symbols of each row of `inner`, [rows] uint8."""
    depth = np.empty(len(inner), dtype=np.uint8)
    surveying()[0](inner, np.array([len(inner)]), depth)
    return depth


def _enough(found: np.ndarray, least: int, lowest: int, fits: Callable[[int, int], bool]) -> int | None:
    """How many of the last kind must go until the rows fit, None if all of it is too little."""
    rows = found.copy()
    rows[lowest + 1 :, :least] = 0
    rows[2:, : least - 1] = 0
    kind = int(rows[lowest, least - 1])

    def fit(gone: int) -> bool:
        rows[lowest, least - 1] = kind - gone
        return fits(int(rows[:-1].sum()) + 1, int(rows[-1].sum()))

    if not fit(kind):
        return None
    low, high = 0, kind
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fit(middle) else (middle + 1, high)
    return low


def drop(inner: np.ndarray, leaf: np.ndarray, sizes: np.ndarray, order: int, *, least: int, lowest: int) -> None:
    """Drops grams of order `lowest` and more that occurred fewer than `least` times, unless a longer one needs them.

    Tables are to be made anew; arguments otherwise as of `evict`.
    """
    used = int(sizes[0])
    depth, needed = row_depths(inner[:used]), np.empty(used, dtype=np.uint8)
    place = np.empty(used, dtype=np.int32)
    evicting()(inner, leaf, sizes, depth, needed, place, order, least, lowest - 1, 0, 1, *_notes(0, 0))


def _notes(number: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    return np.empty((number, longest), dtype=np.int32), np.empty(number, dtype=np.int32)


def evict(
    inner: np.ndarray,
    leaf: np.ndarray,
    sizes: np.ndarray,
    order: int,
    fits: Callable[[int, int], bool],
    spill: Callable[[np.ndarray, np.ndarray], None] | None = None,
    longest: int = 0,
) -> None:
    """Drops grams until the numbers of rows fit: the rarest first, of these the longest, of these the oldest.

    Tables are to be made anew.

    Args:
        inner, leaf, sizes: of a trie; changed.
        order: its longest gram.
        fits: whether so many rows of both kinds are few enough.
        spill: told of the grams that go, up to the order `longest`, nearest symbol last behind -1, and of how often
            each occurred; of the first `NOTED` of each kind.
    """
    gone_grams, lost = _notes(NOTED if spill else 0, longest)

    def note(number: int) -> None:
        if spill is not None and number:
            spill(gone_grams[:number], lost[:number])

    (_, tally, reach), purge = surveying(), evicting()
    used = int(sizes[0])
    depth, needed = row_depths(inner[:used]), np.empty(used, dtype=np.uint8)
    place = np.empty(used, dtype=np.int32)
    found, least, lowest = np.zeros((order + 1, RAREST), dtype=np.int64), 2, order
    tally(inner, leaf, sizes, depth, found)
    while not fits(int(sizes[0]), int(sizes[1])) and least < RAREST:
        # Some of what is counted may be needed by longer grams: then this is too little, and the next kind follows.
        gone = _enough(found, least, lowest, fits)
        if gone is not None:
            rows = leaf if lowest == order else inner
            upto = reach(rows, int(sizes[int(lowest == order)]), depth, lowest, lowest == order, least - 1, gone)
            limits = order, least, lowest, upto, least - 1
            note(purge(inner, leaf, sizes, depth, needed, place, *limits, gone_grams, lost))
            found[:] = 0
            tally(inner, leaf, sizes, depth, found)
        lowest, least = (lowest - 1, least) if lowest > 2 else (order, least + 1)
    if not fits(int(sizes[0]), int(sizes[1])):
        # Whatever stays occurred often; then the longest grams go altogether.
        note(purge(inner, leaf, sizes, depth, needed, place, order, 2**31 - 1, 1, 0, 1, gone_grams, lost))
