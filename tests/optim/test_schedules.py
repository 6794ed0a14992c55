"""The learning rate at its boundaries."""

from __future__ import annotations

import itertools
import math

import pytest
from pydantic import ValidationError

from holonomy.core.budget import Schedule
from holonomy.optim.schedules import learning_rate

PEAK, FLOOR = 4e-3, 0.05
TABLE = ((0.0, 1.0), (0.5, 0.3), (0.8, 0.1))
KINDS = ("cosine", "linear", "constant", "cyclic", "table")


def rate(progress: float, **changes) -> float:
    return learning_rate(progress, Schedule(**{"warmup": 0.03, "floor": FLOOR, **changes}), PEAK)


@pytest.mark.parametrize("kind", KINDS)
def test_warmup_rises_from_zero_to_the_peak(kind: str) -> None:
    for progress, share in ((0.0, 0.0), (0.015, 0.5), (0.03, 1.0)):
        assert math.isclose(rate(progress, kind=kind), PEAK * share, rel_tol=1e-12, abs_tol=1e-18)
    assert rate(0.0, kind=kind, warmup=0.0) == PEAK


@pytest.mark.parametrize(
    ("kind", "progress", "share"),
    [
        ("cosine", 0.515, (1 + FLOOR) / 2),
        ("cosine", 1.0, FLOOR),
        ("linear", 0.515, (1 + FLOOR) / 2),
        ("linear", 0.7575, FLOOR + (1 - FLOOR) / 4),
        ("linear", 1.0, FLOOR),
        ("constant", 1.0, 1.0),
        ("cyclic", 1.0, FLOOR),
        ("cyclic", 0.03 + 0.97 / 8, (1 + FLOOR) / 2),
        ("table", 0.4999999, 1.0),
        ("table", 0.5, 0.3),
        ("table", 0.8, 0.1),
        ("table", 1.0, 0.1),
    ],
)
def test_boundaries(kind: str, progress: float, share: float) -> None:
    assert math.isclose(rate(progress, kind=kind, table=TABLE), PEAK * share, rel_tol=1e-12)


def test_a_cycle_ends_at_the_floor_and_the_next_starts_at_the_peak() -> None:
    for cycle in range(1, 4):
        edge = 0.03 + 0.97 * cycle / 4
        assert math.isclose(rate(edge - 1e-9, kind="cyclic"), PEAK * FLOOR, rel_tol=1e-6)
        assert math.isclose(rate(edge + 1e-9, kind="cyclic"), PEAK, rel_tol=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_falls_after_the_warmup(kind: str) -> None:
    rates = [rate(0.03 + 0.97 * i / 50, kind=kind) for i in range(51)]
    assert all(a > b for a, b in itertools.pairwise(rates))


@pytest.mark.parametrize("table", [((0.1, 1.0),), ((0.0, 1.0), (0.0, 0.5)), ((0.0, 1.0), (1.0, 0.5)), ((0.0, 1.5),)])
def test_tables_that_make_no_sense_are_refused(table: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValidationError, match="table"):
        Schedule(kind="table", table=table)
