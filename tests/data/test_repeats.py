"""Documents that come again: found by brute force, too, in any pieces, and after an interruption."""

from __future__ import annotations

import json

import numpy as np
import pytest

from holonomy.core.errors import CheckpointError
from holonomy.data.repeats import LENGTH, Repeats, run_hashes

RANDOM = np.random.default_rng(3)


def documents(count: int, size: int) -> list[np.ndarray]:
    return [RANDOM.integers(0, 50, size) for _ in range(count)]


def in_a_row(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate(parts), np.cumsum([0, *(len(p) for p in parts[:-1])])


def by_brute_force(held: list[np.ndarray], learned: list[np.ndarray]) -> list[bool]:
    def runs(words: np.ndarray) -> list[tuple[int, ...]]:
        return [tuple(words[i : i + LENGTH].tolist()) for i in range(len(words) - LENGTH + 1)]

    known = {run for words in learned for run in runs(words)}
    found = [[run in known for run in runs(words)] for words in held]
    return [bool(inside) and sum(inside) * 2 >= len(inside) for inside in found]


def test_repeats_are_those_of_brute_force() -> None:
    held = documents(40, 60) + documents(3, LENGTH) + documents(3, LENGTH - 1)
    learned = documents(30, 80)
    for n, words in enumerate(held):
        # Ever longer pieces of the held-out documents stand in what is learned.
        learned.append(np.concatenate([RANDOM.integers(0, 50, 7), words[: len(words) * n // len(held)]]))
    learned.append(held[41].copy())
    repeats = Repeats(*in_a_row(held))
    for words in learned:
        repeats.see(words)
    wanted = by_brute_force(held, learned)
    assert repeats.repeated().tolist() == wanted and 5 < sum(wanted) < len(held) - 5
    assert [w.tolist() for w in repeats.rest()] == [
        w.tolist() for w, again in zip(held, wanted, strict=True) if not again
    ]


def test_runs_that_differ_have_other_hashes() -> None:
    base = np.arange(LENGTH)
    others = [
        base,
        base[::-1],
        base + 1,
        np.roll(base, 1),
        np.zeros(LENGTH, dtype=np.int64),
        np.ones(LENGTH, dtype=np.int64),
    ]
    for place in range(LENGTH):
        changed = base.copy()
        changed[place] += 1
        others.append(changed)
    assert len({int(run_hashes(words)[0]) for words in others}) == len(others)
    text = RANDOM.integers(0, 9, 100)
    assert run_hashes(text).tolist() == [int(run_hashes(text[i : i + LENGTH])[0]) for i in range(100 - LENGTH + 1)]


def test_what_was_seen_is_kept() -> None:
    held = documents(9, 40)
    one, other = Repeats(*in_a_row(held)), Repeats(*in_a_row(held))
    one.see(held[2])
    other.load_state(json.loads(json.dumps(one.state())))
    other.see(held[5])
    one.see(held[5])
    assert one.state() == other.state() and one.repeated().tolist() == [n in (2, 5) for n in range(9)]
    for damaged in (None, 3, "zz", one.state()[2:], ""):
        with pytest.raises(CheckpointError, match="held-out documents"):
            other.load_state(damaged)


def test_short_documents_have_nothing_to_repeat() -> None:
    repeats = Repeats(*in_a_row(documents(4, LENGTH - 1)))
    repeats.see(RANDOM.integers(0, 50, 100))
    assert not repeats.repeated().any() and len(repeats.rest()) == 4
