"""The learning rate at its boundaries."""

from __future__ import annotations

import itertools
import math

import pytest

from holonomy.optim.schedules import warmup_cosine

SHAPE = {"peak": 4e-3, "warmup": 0.03, "floor": 0.05}


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 0.0), (0.015, 2e-3), (0.03, 4e-3), (0.515, 4e-3 * 0.525), (1.0, 4e-3 * 0.05)],
)
def test_boundaries(progress: float, expected: float) -> None:
    assert math.isclose(warmup_cosine(progress, **SHAPE), expected, rel_tol=1e-12, abs_tol=1e-18)


def test_no_warmup_starts_at_the_peak() -> None:
    assert warmup_cosine(0.0, peak=1.0, warmup=0.0, floor=0.0) == 1.0


def test_falls_after_the_warmup() -> None:
    rates = [warmup_cosine(0.03 + 0.97 * i / 50, **SHAPE) for i in range(51)]
    assert all(a > b for a, b in itertools.pairwise(rates))
