"""Where output goes: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from holonomy.recipes.results import figure_rows, loss_rows, loss_suffix, token_unit

PLAIN_SECONDS = 10.0
"""Time between lines of progress where there is no terminal."""


def make_streams_tolerant() -> None:
    """Lets terminals that cannot show a character print an escape instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def out() -> Console:
    """Console of results; names and texts of others are printed as they are, whatever looks like markup in them."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def err() -> Console:
    """Console of progress, notices and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def loss_table(metrics: Mapping[str, float], title: str) -> Table:
    """Held-out loss of the model beside the plain baselines, a row each; per token, which may be a character."""
    table, unit = Table(title=title, title_justify="left"), token_unit(metrics)
    for name in ("model", f"nats/{unit}", f"bits/{unit}"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for label, nats, bits in loss_rows(metrics):
        table.add_row(label, f"{nats:.4f}", f"{bits:.4f}")
    return table


def print_words(metrics: Mapping[str, float]) -> None:
    """What a loss over words needs beside it: how many are unknown, ranks, and how honest the confidence is."""
    suffix = loss_suffix(metrics)
    of = {name.removeprefix("val/").removesuffix(suffix): value for name, value in metrics.items()}
    out().print(
        f"perplexity {of['perplexity']:.1f}, without unknown words ({of['unknown_share']:.2%}) "
        f"{of['perplexity_known']:.1f}; first choice right {of['top1']:.1%}, among five "
        f"{of['top5']:.1%}; calibration error {of['ece']:.3f} (chance {of['ece_floor']:.3f})"
    )


def figure_table(metrics: Mapping[str, float], title: str) -> Table:
    """Figures of the model, beside those of the closed form and of the untrained model where they were measured."""
    table, (labels, rows) = Table(title=title, title_justify="left"), figure_rows(metrics)
    table.add_column("figure")
    for label in labels:
        table.add_column(label, justify="right")
    for name, values in rows:
        table.add_row(name, *("" if v is None else f"{v:.6g}" for v in values))
    return table


class _Remaining(ProgressColumn):
    """Time left, from the share of the budget and the time so far."""

    def render(self, task: Task) -> Text:
        done, elapsed = task.completed, task.elapsed or 0.0
        if done <= 0.005:
            return Text("-:--")
        left = round(elapsed * (1 - done) / done)
        return Text(f"{left // 60}:{left % 60:02d} left")


class ConsoleProgress:
    """Shows training on stderr: a live bar on a terminal, else a line every ten seconds.

    Args:
        quiet: shows notices only.
        unit: what the speed counts.
    """

    def __init__(self, *, quiet: bool, unit: str = "char") -> None:
        self.quiet, self.unit = quiet, unit
        self.console = err()
        self._bar: Progress | None = None
        self._task = None
        self._spoke = 0.0

    def start(self, header: Mapping[str, str | int | float]) -> None:
        """Prints what is trained on what, and opens the bar."""
        if self.quiet:
            return
        shown = ", ".join(f"{k} {v:,}" if isinstance(v, int) else f"{k} {v}" for k, v in header.items())
        self.console.print(shown)
        self._spoke = time.monotonic()
        if self.console.is_terminal:
            self._bar = Progress(
                BarColumn(bar_width=30),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                _Remaining(),
                console=self.console,
                transient=False,
            )
            self._task = self._bar.add_task("starting", total=1.0)
            self._bar.start()

    def update(self, step: int, fraction: float, metrics: Mapping[str, float]) -> None:
        """Moves the bar, or prints a line when it is time."""
        if self.quiet:
            return
        words = [f"step {step}"]
        if "train/loss" in metrics:
            words.append(f"loss {metrics['train/loss']:.3f}")
        if "val/loss" in metrics:
            words.append(f"held-out {metrics['val/loss']:.3f}")
        if "perf/tokens_per_cpu_second" in metrics:
            words.append(f"{metrics['perf/tokens_per_cpu_second']:,.0f} {self.unit}s/CPU-s")
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=fraction, description=", ".join(words))
        elif time.monotonic() - self._spoke >= PLAIN_SECONDS:
            self._spoke = time.monotonic()
            self.console.print(f"{fraction:4.0%} {', '.join(words)}")

    def notice(self, text: str) -> None:
        """Prints a notice, also when quiet."""
        self.console.print(f"note: {text}")

    def stop(self) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
