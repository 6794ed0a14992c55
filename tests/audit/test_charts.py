"""Charts are read back: what is drawn, by the labels of its own axes, is what was given."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markup import Node, figure, numbers, outside, points, read_page

from holonomy.audit.charts import MOST_KNOTS, MOST_POINTS, chart, linear_ticks
from holonomy.core.errors import ConfigError
from holonomy.core.picture import Axis, Picture, Series, counted

NAN, INF = math.nan, math.inf


def picture(*series: Series, **more) -> Picture:
    given = {"title": "t", "words": "w", "x": Axis("step"), "y": Axis("nats"), **more}
    return Picture(series=series, **given)


def value_of(label: str) -> float:
    factor = {"k": 1e3, "M": 1e6, "G": 1e9}.get(label[-1], 1.0)
    return float(label.rstrip("kMG")) * factor


def rulers(svg: Node, *, log_x: bool = False, log_y: bool = False):
    """Places to values, from the labels of the ticks alone."""
    labels = [n for n in svg.all("text") if "x" in n.attrs and re.fullmatch(r"-?[\d.e+-]+[kMG]?", n.text())]
    side = [n for n in labels if n.attrs["text-anchor"] == "end" and float(n.attrs["x"]) < 50]
    below = [n for n in labels if n not in side]
    marks = [float(n.attrs["d"][1:].split()[0]) for n in svg.all("path", "axis") if n.attrs["d"].endswith("v4")]
    across = list(zip(marks, (value_of(n.text()) for n in below), strict=True))
    up = [(float(n.attrs["y"]) - 3.5, value_of(n.text())) for n in side]

    def ruler(pairs: list[tuple[float, float]], log: bool):
        (p0, v0), (p1, v1) = pairs[0], pairs[-1]
        if log:
            v0, v1 = math.log10(v0), math.log10(v1)

        def value(place: float) -> float:
            found = v0 + (place - p0) / (p1 - p0) * (v1 - v0)
            return 10**found if log else found

        return value

    return ruler(across, log_x), ruler(up, log_y)


@pytest.mark.parametrize(("log_x", "log_y"), [(False, False), (True, False), (False, True), (True, True)])
def test_lines_stand_where_their_values_are(log_x: bool, log_y: bool) -> None:
    x = [1.0 + 7 * n for n in range(60)]
    y = [0.02 + 900 * math.exp(-n / 9) for n in range(60)]
    drawn = read_page(chart(picture(Series("a", x, y), x=Axis("step", log_x), y=Axis("nats", log_y))))
    (line,) = drawn.all("path", "line")
    found = points(line.attrs["d"])
    assert len(found) == 60
    to_x, to_y = rulers(drawn.all("svg")[0], log_x=log_x, log_y=log_y)
    for (px, py), a, b in zip(found, x, y, strict=True):
        # A tenth of a unit of the drawing, twice: the mark and the ruler are rounded.
        assert math.isclose(to_x(px), a, rel_tol=0.01, abs_tol=0 if log_x else 1.0)
        assert math.isclose(to_y(py), b, rel_tol=0.02, abs_tol=0 if log_y else 2.0)
    assert [row[:2] for row in numbers(drawn.all("table")[0])] == [[a, b] for a, b in zip(x, y, strict=True)]


def test_bars_and_points_stand_where_their_values_are() -> None:
    loads = [n % 7 + (n % 11 == 0) * 9 for n in range(500)]
    series = counted("places", loads, start=-0.5, width=1.0)
    assert series.y == [loads.count(n) for n in range(16)]
    drawn = read_page(chart(picture(series, mark="bar")))
    (bars,) = drawn.all("path", "bar")
    _, to_y = rulers(drawn.all("svg")[0])
    heights = [to_y(float(y)) for y in re.findall(r"V([\d.]+)h", bars.attrs["d"])]
    assert heights == pytest.approx([loads.count(n) for n in range(16) if loads.count(n)], abs=1.0)
    cloud = [(math.cos(n) * n / 50, math.sin(n) * n / 60) for n in range(50)]
    square = picture(Series("a", [p[0] for p in cloud], [p[1] for p in cloud]), mark="point", square=True, circle=1.0)
    drawn = read_page(chart(square))
    (dots,) = [n for n in drawn.all("path", "point") if n.attrs["d"].startswith("M")]
    (circle,) = drawn.all("circle")
    centre, radius = (float(circle.attrs["cx"]), float(circle.attrs["cy"])), float(circle.attrs["r"])
    for (px, py), (a, b) in zip(points(dots.attrs["d"]), cloud, strict=True):
        assert (px - centre[0]) / radius == pytest.approx(a, abs=0.002)
        assert (centre[1] - py) / radius == pytest.approx(b, abs=0.002)


def test_lying_bars_are_as_long_as_their_values() -> None:
    shares = [0.5, 0.25, 0.125, 0.0]
    drawn = read_page(chart(picture(Series("a", range(4), shares), mark="bar", labels=["a<b", "c", "d", "e"])))
    (bars,) = drawn.all("path", "bar")
    ends = re.findall(r"M([\d.]+) [\d.]+H([\d.]+)", bars.attrs["d"])
    lengths = [float(b) - float(a) for a, b in ends]
    assert [x / lengths[0] for x in lengths] == pytest.approx([1, 0.5, 0.25, 0], abs=0.002)
    assert "a<b" in [n.text() for n in drawn.all("text")]
    assert [row[0] for row in numbers(drawn.all("table")[0])] == ["a<b", "c", "d", "e"]


def test_what_is_no_number_is_told_and_leaves_a_gap() -> None:
    y = [1.0, 2.0, NAN, 4.0, INF, 6.0, 7.0, -INF]
    drawn = read_page(chart(picture(Series("a", range(8), y))))
    (line,) = drawn.all("path", "line")
    assert line.attrs["d"].count("M") == 3
    assert "h0" in line.attrs["d"], "the value between two gaps must be seen"
    words = drawn.all("figcaption")[0].text()
    assert "3 of 8 values are no finite numbers" in words
    assert "step 2, 4, 7" in words
    drawn = read_page(chart(picture(Series("a", range(3), [0.0, 1.0, 10.0]), y=Axis("rate", log=True))))
    assert "1 of 3 values are not above zero" in drawn.all("figcaption")[0].text()
    assert len(points(drawn.all("path", "line")[0].attrs["d"])) == 2


@pytest.mark.parametrize("mark", ["line", "point", "bar"])
@pytest.mark.parametrize("y", [[], [NAN], [NAN, INF], [0.0], [5.0, 5.0], [1e300, -1e300], [1e-310, 2e-310], [3.0, NAN]])
@pytest.mark.parametrize("log", [False, True])
def test_odd_series_are_drawn_or_said_to_be_empty(mark, y, log) -> None:
    drawn = read_page(chart(picture(Series("a", range(len(y)), y), mark=mark, y=Axis("v", log=log))))
    seen = [n for n in drawn.walk() if n.tag == "path"]
    assert seen or "nothing to draw" in drawn.text()
    assert not any(re.search(r"nan|inf", n.attrs.get("d", "")) for n in seen)


def test_long_series_are_thinned_and_say_so() -> None:
    y = [math.sin(n / 500) for n in range(50_000)]
    y[31_234], y[777] = 9.0, -9.0
    drawn = read_page(chart(picture(Series("a", range(50_000), y))))
    found = points(drawn.all("path", "line")[0].attrs["d"])
    assert len(found) <= MOST_KNOTS
    assert f"{len(found)} of 50,000 points" in drawn.all("figcaption")[0].text()
    _, to_y = rulers(drawn.all("svg")[0])
    heights = [to_y(p[1]) for p in found]
    assert max(heights) == pytest.approx(9, abs=0.1)
    assert min(heights) == pytest.approx(-9, abs=0.1)
    assert numbers(drawn.all("table")[0])[-1] == [49_999, y[-1]]
    cloud = Series("a", [n / 50_000 for n in range(50_000)], y)
    drawn = read_page(chart(picture(cloud, mark="point")))
    assert len(points(drawn.all("path", "point")[0].attrs["d"])) == MOST_POINTS
    assert "1,500 of 50,000 points" in drawn.all("figcaption")[0].text()
    assert numbers(drawn.all("table")[0])[0] == ["a", 50_000, 0.0, 0.5, 0.99998, -9.0, sorted(y)[25_000], 9.0]


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12), st.integers(2, 8))
def test_ticks_are_round_and_inside(low: float, span: float, most: int) -> None:
    high = low + max(span, 1e-8 * abs(low))
    ticks = linear_ticks(low, high, most)
    assert 1 <= len(ticks) <= most + 1
    room = 1e-6 * span + 1e-9 * abs(low)
    assert all(low - room <= v <= high + room for v in ticks)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    if steps and span > 1e-3 * abs(low):
        digits = steps[0] / 10.0 ** math.floor(math.log10(steps[0]) + 1e-9)
        assert min(abs(digits - d) for d in (1, 2, 5, 10)) < 1e-2


def test_texts_are_escaped_and_described() -> None:
    bad = '<script>alert("1")</script>'
    given = picture(Series(bad, [0, 1], [1, 2]), Series("b", [0], [1]), title=bad, words=bad, x=Axis(bad), y=Axis(bad))
    drawn = read_page(chart(given))
    assert outside(drawn) == []
    (svg,) = [n for n in drawn.all("svg") if n.attrs.get("role") == "img"]
    named = svg.attrs["aria-labelledby"].split()
    assert [n.attrs["id"] for n in (*svg.all("title"), *svg.all("desc"))] == named
    assert svg.all("title")[0].text() == bad
    assert [n.text() for n in drawn.all("li")] == [bad, "b"]
    assert figure(drawn, bad).all("details")
    assert chart(given) == chart(given)


def test_series_of_unequal_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 x and 1 y"):
        chart(picture(Series("a", [0, 1], [1])))
