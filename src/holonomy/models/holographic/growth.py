"""Room in the arrays of a trie: rows and tables that grow, and rows put side by side."""

from __future__ import annotations

import mmap

import numpy as np

from holonomy.models.holographic.kernels import ALONE, FIRST, NEXT, PARENT, trie_kernels

GROWTH = 8
"""Arrays grow by an eighth: little memory stands empty."""
FULL = 0.7
"""Largest load of a table."""


def chain(rows: np.ndarray, parents: np.ndarray, contexts: np.ndarray, begin: int, follows: np.ndarray) -> None:
    """Links rows that lie side by side by parent: each that follows leads to the next, the parent to the first."""
    rows[:, PARENT], rows[:, NEXT] = parents, ALONE
    linked = np.flatnonzero(follows)
    if not len(linked):
        return
    first = np.flatnonzero(np.diff(parents[linked], prepend=-1))
    rows[linked[:-1], NEXT] = linked[1:] + begin
    rows[linked[np.append(first[1:], len(linked)) - 1], NEXT] = -1
    contexts[parents[linked[first]], FIRST] = linked[first] + begin


def grown(array: np.ndarray, rows: int) -> np.ndarray:
    """An array with room for so many rows and some more; the same one if it has it."""
    if rows <= len(array):
        return array
    larger = np.empty((rows + rows // GROWTH, array.shape[1]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger


def reached(array: np.ndarray, rows: int) -> np.ndarray:
    """An array of so many rows, of which the operating system gives memory only to those that are written."""
    if rows <= len(array):
        return array
    size = rows * array.shape[1] * array.itemsize
    # Only memory of this process alone can be given back.
    place = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE) if hasattr(mmap, "MAP_PRIVATE") else mmap.mmap(-1, size)
    larger = np.frombuffer(place, dtype=array.dtype).reshape(rows, array.shape[1])
    larger[: len(array)] = array
    return larger


def let_go(array: np.ndarray, used: int) -> None:
    """Gives memory of the rows from `used` on back to the operating system, where `reached` made the array."""
    flat = array.base
    view = flat.base if isinstance(flat, np.ndarray) else None
    place = view.obj if isinstance(view, memoryview) else None
    if isinstance(place, mmap.mmap) and hasattr(place, "madvise"):
        begin = -(-used * array.strides[0] // mmap.PAGESIZE) * mmap.PAGESIZE
        if begin < len(place):
            place.madvise(mmap.MADV_DONTNEED, begin, len(place) - begin)


def table_with_room(
    table: np.ndarray, rows: np.ndarray, begin: int, used: int, wanted: int, *, fresh: bool = False
) -> np.ndarray:
    """A table with room for `wanted` rows, those from `begin` to `used` entered; the same one if it has it."""
    size = len(table)
    while wanted > FULL * size:
        size *= 2
    if size == len(table) and not fresh:
        return table
    table = np.full(size, -1, dtype=np.int32)
    trie_kernels().rehash(rows, table, begin, used)
    return table
