"""What a picture shows, as plain numbers: families make them, whoever can draw draws them. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Axis:
    """A direction of a picture.

    Attributes:
        label: what is measured, with its unit.
        log: whether equal factors have equal lengths.
    """

    label: str
    log: bool = False


@dataclass(frozen=True)
class Series:
    """Numbers that belong together; those that are not finite are told of, not drawn.

    Attributes:
        name: in the legend.
        x, y: as many of the one as of the other.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Picture:
    """A picture of some series over one pair of axes.

    Attributes:
        title: a few words.
        words: what is seen, for readers and for those who cannot see it.
        x, y: the axes.
        series: what is drawn.
        mark: lines, points, or bars of height y about x.
        labels: names of the places 0, 1, ... of x; bars then lie on their side.
        width: of a bar, in units of x.
        ordered: the series are steps of a scale, not kinds of things.
        square: both axes have one scale.
        circle: radius of a circle about the origin, or None.
        table: header and rows for those who want numbers; None is the series themselves.
    """

    title: str
    words: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    mark: Literal["line", "point", "bar"] = "line"
    labels: Sequence[str] = ()
    width: float = 1.0
    ordered: bool = False
    square: bool = False
    circle: float | None = None
    table: tuple[Sequence[str], Sequence[Sequence[str | float]]] | None = None


def counted(name: str, values: Sequence[float], *, start: float, width: float) -> Series:
    """A histogram: how many values lie in each bin of a width from a start on, drawn at the middle of the bin.

    Args:
        name: of the series.
        values: finite numbers from `start` on.
        start: where the first bin begins.
        width: of a bin.
    """
    found: dict[int, int] = {}
    for value in values:
        place = int((value - start) // width)
        found[place] = found.get(place, 0) + 1
    bins = range(max(found, default=-1) + 1)
    return Series(name, [start + (place + 0.5) * width for place in bins], [found.get(place, 0) for place in bins])
