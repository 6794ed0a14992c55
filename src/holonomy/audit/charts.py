"""Pictures as inline SVG: no script, no font and no file besides; colours follow the style of the page.

A chart is made to be read at its own width of 360 units, as wide as a small telephone; a wide page sets several beside
each other instead of stretching one.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from holonomy.audit.page import Cell, Markup, escaped, folded, short_number, table
from holonomy.audit.page_style import KINDS_LIGHT, SCALE_LIGHT
from holonomy.core.errors import ConfigError
from holonomy.core.picture import Picture, Series

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 8, 36
ROW = 18
"""Height of a bar that lies on its side, with its label."""
MOST_KNOTS = 400
"""Points of a line that are drawn; of longer ones the lowest and highest of each of half as many stretches."""
MOST_POINTS = 1500
"""Points of a cloud that are drawn, a series; of larger ones as many that are drawn by lot, always the same."""
MOST_ROWS = 100
"""Rows of a table of values."""
DASHES = ("", "6 3", "2 3", "9 3 2 3")


def chart(picture: Picture) -> Markup:
    """A picture with title, legend, caption and a table of its values.

    Raises:
        ConfigError: a series has more numbers in one direction than in the other.
    """
    for series in picture.series:
        if len(series.x) != len(series.y):
            raise ConfigError(
                f"`series` {series.name} of the picture {picture.title} has {len(series.x)} x and {len(series.y)} y; "
                "wanted as many of the one as of the other"
            )
    sound, notes = _sound(picture)
    drawn, more = _thinned(sound)
    name = f"c{zlib.crc32(repr(picture).encode('utf-8', 'replace')):08x}"
    words = " ".join([picture.words, *notes, *more])
    if any(len(s.x) for s in drawn.series):
        height, body = _lying_bars(drawn) if picture.labels else (_height(picture), _drawing(drawn))
        svg = (
            f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{name}t {name}d">'
            f'<title id="{name}t">{escaped(picture.title)}</title><desc id="{name}d">{escaped(words)}</desc>'
            f"{body}</svg>"
        )
    else:
        svg = f"<p>{escaped('There is nothing to draw.')}</p>"
    caption = "".join(f"<p>{escaped(text)}</p>" for text in (picture.words, *notes, *more) if text)
    return Markup(
        f"<figure><h3>{escaped(picture.title)}</h3>{_legend(picture)}{svg}<figcaption>{caption}</figcaption>"
        f"{folded('values', _values(picture, drawn))}</figure>"
    )


def _height(picture: Picture) -> int:
    return WIDTH - LEFT - RIGHT + TOP + BOTTOM if picture.square else HEIGHT


def _class(picture: Picture, place: int) -> str:
    if not picture.ordered:
        return f"k{place % len(KINDS_LIGHT)}"
    last = max(len(picture.series) - 1, 1)
    return f"q{round(place * (len(SCALE_LIGHT) - 1) / last)}"


def _dash(picture: Picture, place: int) -> str:
    dash = "" if picture.ordered else DASHES[place % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _legend(picture: Picture) -> str:
    if len(picture.series) < 2:
        return ""
    items = []
    for place, series in enumerate(picture.series):
        colour = _class(picture, place)
        if picture.mark == "line":
            sign = f'<path class="line {colour}" d="M0 5h24"{_dash(picture, place)}/>'
        elif picture.mark == "point":
            sign = f'<path class="point {colour}" stroke-width="8" d="M12 5h0"/>'
        else:
            sign = f'<path class="bar {colour}" d="M6 0h12v10h-12z"/>'
        items.append(f'<li><svg viewBox="0 0 24 10" aria-hidden="true">{sign}</svg>{escaped(series.name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _sound(picture: Picture) -> tuple[Picture, list[str]]:
    """The picture with what cannot be drawn as not a number, and what that was, in words."""
    kept, notes = [], []
    for series in picture.series:
        missing, below, y = [], 0, []
        for a, b in zip(series.x, series.y, strict=True):
            fine = math.isfinite(a) and math.isfinite(b)
            off = fine and ((picture.y.log and b <= 0) or (picture.x.log and a <= 0))
            if not fine:
                missing.append(a)
            below += off
            y.append(float(b) if fine and not off else math.nan)
        if missing:
            places = ", ".join(short_number(a) for a in missing[:3]) + (", ..." if len(missing) > 3 else "")
            notes.append(
                f"{series.name}: {len(missing):,} of {len(y):,} values are no finite numbers and are not drawn "
                f"({picture.x.label} {places})."
            )
        if below and picture.mark != "bar":
            notes.append(f"{series.name}: {below:,} of {len(y):,} values are not above zero and are not drawn.")
        x = [float(a) for a in series.x]
        if picture.mark != "line":
            both = [(a, b) for a, b in zip(x, y, strict=True) if not math.isnan(b)]
            x, y = [a for a, _ in both], [b for _, b in both]
        elif all(math.isnan(b) for b in y):
            x, y = [], []
        kept.append(Series(series.name, x, y))
    return replace(picture, series=kept), notes


def _thinned(picture: Picture) -> tuple[Picture, list[str]]:
    thin, notes = [], []
    for series in picture.series:
        most = MOST_KNOTS if picture.mark == "line" else MOST_POINTS
        if picture.mark == "bar" or len(series.x) <= most:
            thin.append(series)
            continue
        if picture.mark == "line":
            chosen = _knots(series.y, most)
            how = f"first, last, lowest and highest of each of {most // 4} stretches"
        else:
            chosen = sorted(random.Random(0).sample(range(len(series.x)), most))
            how = "drawn by lot"
        thin.append(Series(series.name, [series.x[i] for i in chosen], [series.y[i] for i in chosen]))
        notes.append(f"{series.name}: {len(chosen):,} of {len(series.x):,} points, {how}.")
    return replace(picture, series=thin), notes


def _knots(y: Sequence[float], most: int) -> list[int]:
    """Places of the first, last, lowest and highest value of each stretch, and of one that is no number."""
    chosen: set[int] = set()
    stretches = most // 4
    for part in range(stretches):
        places = range(part * len(y) // stretches, (part + 1) * len(y) // stretches)
        sound = [i for i in places if not math.isnan(y[i])]
        chosen.update(next(([i] for i in places if math.isnan(y[i])), []))
        if sound:
            chosen.update((sound[0], sound[-1], min(sound, key=lambda i: y[i]), max(sound, key=lambda i: y[i])))
    return sorted(chosen)


@dataclass(frozen=True)
class Scale:
    """Values of one direction to places in the drawing.

    Attributes:
        place: a value to its place.
        ticks: values that are marked, and their labels.
    """

    place: Callable[[float], float]
    ticks: list[tuple[float, str]]

    @classmethod
    def over(cls, low: float, high: float, begin: float, end: float, *, log: bool, most: int) -> Scale:
        """A scale from `begin` to `end` in the drawing that shows `low` to `high`.

        Args:
            low, high: values, `low` above zero where `log`.
            begin, end: places.
            log: equal factors get equal lengths.
            most: ticks, about.
        """
        if log:
            low, high = (low / 2, high * 2) if low == high else (low, high)
            bottom, top = math.log10(low), math.log10(high)
            span = (end - begin) / (top - bottom)
            return cls(lambda v: begin + (math.log10(v) - bottom) * span, _log_ticks(low, high, most))
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            # Rounding errors of one value are not a course of it.
            room = abs(low) / 10 or 1.0
            low, high = low - room, high + room
        # Of huge numbers the difference may not be finite where both of them are.
        span = high / 2 - low / 2
        ticks = linear_ticks(low, high, most) if math.isfinite(high - low) else [low, high]
        return cls(
            lambda v: begin + (v / 2 - low / 2) / span * (end - begin),
            [(v, _tick(v, high - low)) for v in ticks],
        )


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Round values between two that differ: multiples of 1, 2 or 5 times a power of ten, `most` at most."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    if last - first >= 2:
        step = math.ceil((last - first) / most)
        powers = [10.0**n for n in range(first, last + 1) if n % step == 0]
        found = [v for v in powers if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
    else:
        found = [m * 10.0**n for n in range(first, last + 1) for m in (1, 2, 5)]
        found = [v for v in found if low <= v <= high]
        found = found if len(found) > 1 else linear_ticks(low, high, most)
    return [(v, _tick(v, v)) for v in found]


def _tick(value: float, span: float) -> str:
    """A label no wider than it must be."""
    if abs(value) < abs(span) * 1e-9:
        return "0"
    for size, letter in ((1e12, ""), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value:.0e}" if not letter else f"{value / {'k': 1e3}.get(letter, size):.4g}{letter}"
    return f"{value:.4g}" if abs(span) > abs(value) * 1e-3 else f"{value:.7g}"


def _drawing(picture: Picture) -> str:
    """Axes and marks."""
    xs = [a for s in picture.series for a, b in zip(s.x, s.y, strict=True) if not math.isnan(b)]
    ys = [b for s in picture.series for b in s.y if not math.isnan(b)]
    if picture.mark == "bar":
        xs = [min(xs) - picture.width / 2, max(xs) + picture.width / 2]
        ys = [*ys, *([0.5] if picture.y.log else [0.0])]
    low_x, high_x, low_y, high_y = min(xs), max(xs), min(ys), max(ys)
    if picture.square:
        edge = max(picture.circle or 0.0, *map(abs, (low_x, high_x, low_y, high_y))) * 1.03
        low_x, high_x, low_y, high_y = -edge, edge, -edge, edge
    elif picture.mark != "bar" and not picture.y.log and high_y > low_y:
        room = (high_y / 2 - low_y / 2) / 12
        low_y, high_y = low_y - room, high_y + room
    bottom = _height(picture) - BOTTOM
    across = Scale.over(low_x, high_x, LEFT, WIDTH - RIGHT, log=picture.x.log, most=5)
    up = Scale.over(low_y, high_y, bottom, TOP, log=picture.y.log, most=5)
    parts = [_axes(picture, across, up, bottom)]
    if picture.circle is not None:
        centre, radius = across.place(0.0), across.place(picture.circle) - across.place(0.0)
        parts.append(f'<circle class="axis" cx="{centre:.1f}" cy="{up.place(0.0):.1f}" r="{radius:.1f}"/>')
    for place, series in enumerate(picture.series):
        where = [
            None if math.isnan(b) else (across.place(a), up.place(max(b, low_y) if picture.mark == "bar" else b))
            for a, b in zip(series.x, series.y, strict=True)
        ]
        colour = _class(picture, place)
        if picture.mark == "line":
            parts.append(f'<path class="line {colour}" d="{_path(where)}"{_dash(picture, place)}/>')
        elif picture.mark == "point":
            size = 2.5 if len(where) > 300 else 4 if len(where) > 40 else 6
            dots = "".join(f"M{p[0]:.1f} {p[1]:.1f}h0" for p in where if p)
            parts.append(f'<path class="point {colour}" stroke-width="{size}" d="{dots}"/>')
        else:
            half = max((across.place(picture.width) - across.place(0.0)) / 2 - 0.3, 0.3)
            ends = [p for p, b in zip(where, series.y, strict=True) if p and b > 0]
            bars = "".join(f"M{x - half:.1f} {bottom}V{y:.1f}h{2 * half:.1f}V{bottom}z" for x, y in ends)
            parts.append(f'<path class="bar {colour}" d="{bars}"/>')
    return "".join(parts)


def _path(where: Sequence[tuple[float, float] | None]) -> str:
    """A line with a gap wherever a value is missing; one that stands alone becomes a dot."""
    out, begins = [], True
    for place, point in enumerate(where):
        if point is not None:
            alone = begins and (place + 1 == len(where) or where[place + 1] is None)
            out.append(f"{'M' if begins else 'L'}{point[0]:.1f} {point[1]:.1f}{'h0' if alone else ''}")
        begins = point is None
    return "".join(out)


def _axes(picture: Picture, across: Scale, up: Scale, bottom: float) -> str:
    out = []
    for value, label in up.ticks:
        y = up.place(value)
        out.append(f'<path class="axis" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{escaped(label)}</text>')
    out.append(f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>')
    for value, label in across.ticks:
        x = across.place(value)
        out.append(f'<path class="axis" d="M{x:.1f} {bottom}v4"/>')
        # The last label must not leave the drawing.
        anchor = "end" if x > WIDTH - RIGHT - 8 else "middle"
        out.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="{anchor}">{escaped(label)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text x="{middle}" y="{bottom + 31}" text-anchor="middle">{escaped(picture.x.label)}</text>')
    height = (TOP + bottom) / 2
    out.append(
        f'<text transform="translate(11 {height}) rotate(-90)" text-anchor="middle">{escaped(picture.y.label)}</text>'
    )
    return "".join(out)


def _lying_bars(picture: Picture) -> tuple[int, str]:
    """Bars of named things, one under the other; the names stand above their bars."""
    values = [b for s in picture.series for b in s.y]
    low, high = min(0.0, *values), max(0.0, *values)
    row = ROW + 9 * len(picture.series)
    bottom = row * len(picture.labels) + TOP
    across = Scale.over(low, high, 8, WIDTH - RIGHT - 4, log=False, most=5)
    zero = across.place(0.0)
    out = []
    for value, label in across.ticks:
        x = across.place(value)
        anchor = "end" if x > WIDTH - RIGHT - 12 else "start" if x < 16 else "middle"
        out.append(f'<path class="axis" d="M{x:.1f} {TOP}V{bottom}"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="{anchor}">{escaped(label)}</text>')
    for place, name in enumerate(picture.labels):
        top = TOP + place * row
        out.append(f'<text x="10" y="{top + 13}">{escaped(name)}</text>')
    for number, series in enumerate(picture.series):
        bars = "".join(
            f"M{zero:.1f} {TOP + a * row + ROW - 1 + 9 * number:.1f}H{across.place(b):.1f}v8H{zero:.1f}z"
            for a, b in zip(series.x, series.y, strict=True)
        )
        out.append(f'<path class="bar {_class(picture, number)}" d="{bars}"/>')
    out.append(f'<text x="{WIDTH / 2}" y="{bottom + 29}" text-anchor="middle">{escaped(picture.y.label)}</text>')
    return bottom + BOTTOM, "".join(out)


def _values(picture: Picture, drawn: Picture) -> Markup:
    """The numbers of a picture: its own table, or what was drawn, evenly thinned to a length that can be read."""
    if picture.table is not None:
        return table(*picture.table)
    if picture.mark == "point":
        header = ["series", "points", *(f"{axis} {kind}" for axis in "xy" for kind in ("lowest", "median", "highest"))]
        rows = [[s.name, len(s.x), *_summary(s.x), *_summary(s.y)] for s in picture.series]
        return table(header, rows, caption=f"x: {picture.x.label}; y: {picture.y.label}")
    known = {}
    for column, series in enumerate(picture.series):
        for a, b in zip(series.x, series.y, strict=True):
            known.setdefault(float(a), [None] * len(picture.series))[column] = b
    places = sorted(known, key=lambda a: (math.isnan(a), a))
    step = max(1, math.ceil(len(places) / MOST_ROWS))
    # Counted from the end, so that the last value is always there.
    chosen = places[::-1][::step][::-1]
    rows = [[_label(picture, a), *known[a]] for a in chosen]
    words = f"{len(chosen):,} of {len(places):,} places" if step > 1 else ""
    return table([picture.x.label, *(s.name for s in picture.series)], rows, caption=words)


def _label(picture: Picture, place: float) -> Cell:
    fits = place.is_integer() and 0 <= place < len(picture.labels)
    if fits:
        return picture.labels[int(place)]
    return int(place) if math.isfinite(place) and place.is_integer() else place


def _summary(values: Sequence[float]) -> list[Cell]:
    """Lowest, median and highest of the finite values."""
    found = sorted(v for v in values if math.isfinite(v))
    return [found[0], found[len(found) // 2], found[-1]] if found else [None] * 3
