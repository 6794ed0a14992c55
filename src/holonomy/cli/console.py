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

PLAIN_SECONDS = 10.0
"""Time between lines of progress where there is no terminal."""


def make_streams_tolerant() -> None:
    """Lets terminals that cannot show a character print an escape instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def out() -> Console:
    """Console of results."""
    return Console(highlight=False, soft_wrap=True)


def err() -> Console:
    """Console of progress, notices and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def token_unit(metrics: Mapping[str, float]) -> str:
    """What the losses are per: a character, a word, or a token where characters were counted besides."""
    if any(name in metrics for name in ("val/perplexity_known", "val/perplexity_known_online")):
        return "word"
    return "token" if "val/characters" in metrics else "char"


def loss_table(metrics: Mapping[str, float], title: str) -> Table:
    """Held-out loss of the model beside the plain baselines, a row each; per token, which may be a character."""
    table, unit = Table(title=title, title_justify="left"), token_unit(metrics)
    for name in ("model", f"nats/{unit}", f"bits/{unit}"):
        table.add_column(name, justify="left" if name == "model" else "right")
    rows = {
        "unigram": "baseline/unigram",
        "bigram": "baseline/bigram",
        "Kneser-Ney, order 5": "baseline/kn5",
        "Kneser-Ney, order 7": "baseline/kn7",
        "this model": "val/loss",
        "Kneser-Ney, order 5, learning": "baseline/kn5_online",
        "Kneser-Ney, order 7, learning": "baseline/kn7_online",
        "this model, learning": "val/loss_online",
    }
    for label, key in rows.items():
        if key in metrics:
            table.add_row(label, f"{metrics[key]:.4f}", f"{metrics[key] / 0.6931471805599453:.4f}")
    return table


def print_words(metrics: Mapping[str, float]) -> None:
    """What a loss over words needs beside it: how many are unknown, ranks, and how honest the confidence is."""
    suffix = "_online" if "val/loss_online" in metrics else ""
    of = {name.removeprefix("val/").removesuffix(suffix): value for name, value in metrics.items()}
    out().print(
        f"perplexity {of['perplexity']:.1f}, without unknown words ({of['unknown_share']:.2%}) "
        f"{of['perplexity_known']:.1f}; first choice right {of['top1']:.1%}, among five "
        f"{of['top5']:.1%}; calibration error {of['ece']:.3f} (chance {of['ece_floor']:.3f})"
    )


def figure_table(metrics: Mapping[str, float], title: str) -> Table:
    """Figures of the model, beside those of the closed form and of the untrained model where they were measured."""
    kinds = {"val": "this model", "baseline": "closed form", "untrained": "untrained"}
    shown = {kind: label for kind, label in kinds.items() if any(k.startswith(f"{kind}/") for k in metrics)}
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    for label in shown.values():
        table.add_column(label, justify="right")
    for name in (key.removeprefix("val/") for key in metrics if key.startswith("val/")):
        if "/" not in name:
            values = [metrics.get(f"{kind}/{name}") for kind in shown]
            table.add_row(name.replace("_", " "), *("" if v is None else f"{v:.6g}" for v in values))
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
            words.append(f"{metrics['perf/tokens_per_cpu_second']:,.0f} {self.unit}/CPU-s")
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=fraction, description=", ".join(words))
        elif time.monotonic() - self._spoke >= PLAIN_SECONDS:
            self._spoke = time.monotonic()
            self.console.print(f"{fraction:4.0%} {', '.join(words)}")

    def notice(self, text: str) -> None:
        """Prints a notice, also when quiet."""
        self.console.print(f"note: {text}", markup=False)

    def stop(self) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
