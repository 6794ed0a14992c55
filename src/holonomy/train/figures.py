"""Pictures of models as figures of matplotlib, for TensorBoard."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING

from holonomy.core.errors import ConfigError
from holonomy.core.picture import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_matplotlib() -> None:
    """Refuses to go on without matplotlib.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("figures want the matplotlib package; install it with `pip install 'holonomy[log]'`")


def figure_of(picture: Picture) -> Figure:
    """Draws a picture; numbers that are not finite leave gaps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    count = len(picture.series)
    for place, series in enumerate(picture.series):
        x = [float(v) for v in series.x]
        y = [float(v) if math.isfinite(v) else math.nan for v in series.y]
        if picture.mark == "bar":
            share = picture.width * 0.9 / count
            axes.bar([v + (place - (count - 1) / 2) * share for v in x], y, width=share, label=series.name)
        else:
            line, dot = ("-", "") if picture.mark == "line" else ("", ".")
            axes.plot(x, y, label=series.name, linestyle=line, marker=dot, markersize=3)
    if picture.circle is not None:
        turns = [math.tau * n / 200 for n in range(201)]
        axes.plot(*([picture.circle * f(t) for t in turns] for f in (math.cos, math.sin)), color="grey", linewidth=0.7)
    axes.set(title=picture.title, xlabel=picture.x.label, ylabel=picture.y.label)
    axes.set_xscale("log" if picture.x.log else "linear")
    axes.set_yscale("log" if picture.y.log else "linear")
    if picture.labels:
        axes.set_xticks(range(len(picture.labels)), picture.labels, rotation=45, ha="right")
    if picture.square:
        axes.set_aspect("equal")
    if count > 1:
        axes.legend(fontsize="small")
    return figure
