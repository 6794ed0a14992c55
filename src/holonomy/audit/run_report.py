"""The report of a run: everything that its directory knows, on one page that needs nothing else.

Every part is made on its own: one that cannot be read leaves a notice in its place, and the others stand.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from holonomy.audit.charts import chart
from holonomy.audit.page import Page, folded, grid, notice, preformatted, table
from holonomy.audit.verdicts import tally, verdict_table
from holonomy.core.config import FILE_LIMIT, replace_text
from holonomy.core.errors import DataError, HolonomyError
from holonomy.core.picture import Axis, Picture, Series
from holonomy.recipes import launch
from holonomy.recipes.families import FAMILIES, Family
from holonomy.recipes.results import figure_rows, loss_rows, token_unit
from holonomy.train.catalogue import RunRecord, read_record
from holonomy.train.checkpoint import Checkpoint, find, read_state
from holonomy.train.monitor import Curves, read_curves
from holonomy.train.run import AUDIT, REPORT, RunDirectory

MOST_SAMPLES, MOST_LETTERS = 5, 4000
"""Samples of a run that are shown, and letters of each."""
FAULTS = (
    HolonomyError, OSError, ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
"""What reading files that anybody may have changed can raise."""


@dataclass(frozen=True)
class RunReport:
    """A written report.

    Attributes:
        path: of the page.
        faults: parts that could not be made, and why.
    """

    path: Path
    faults: tuple[str, ...]


def write_report(run: str | Path, *, root: Path = Path("runs"), out: Path | None = None) -> RunReport:
    """Writes the report of a run into its directory; equal directories give equal bytes.

    Args:
        run: a run directory, its name under `root`, or a checkpoint directory inside it.
        root: where run directories live.
        out: file to write instead of the one in the directory.

    Raises:
        CheckpointError: there is no such run.
        StorageError: the page cannot be written.
    """
    source = _Source(RunDirectory.open(run, root))
    page = source.page()
    path = out or source.directory.path / REPORT
    replace_text(path, page.render())
    return RunReport(path, tuple(source.faults))


@dataclass
class _Source:
    """A run directory, read once."""

    directory: RunDirectory
    faults: list[str] = field(default_factory=list)

    @cached_property
    def curves(self) -> Curves:
        return read_curves(self.directory.path / "metrics.jsonl")

    @cached_property
    def record(self) -> RunRecord:
        return read_record(self.directory.path)

    @cached_property
    def config(self) -> Any:
        return launch.config_of_run(str(self.directory.path), self.directory.path.parent)

    @cached_property
    def family(self) -> Family:
        # A damaged config.yaml does not take the curves with it while the training itself has said what it was.
        named = self.record.family if self.record.family in {f.name for f in FAMILIES} else None
        return FAMILIES.get(named or str(self.directory.result().get("family", self.record.family)))

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return launch.read_checkpoint(str(self.directory.path), self.directory.path.parent)

    @cached_property
    def model(self) -> Any:
        return self.family.parts.load(self.checkpoint)

    @cached_property
    def counters(self) -> Mapping[str, Any]:
        """Counters of the last checkpoint; empty where there is none."""
        path = find(self.directory.checkpoints, "latest")
        return {} if path is None else read_state(path)["state"]["counters"]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Last value of every metric: as the training reported it, else as it was logged."""
        reported = self.directory.result().get("metrics")
        found = {**self.curves.last, **(reported if isinstance(reported, dict) else {})}
        return {name: value for name, value in found.items() if isinstance(value, int | float)}

    def page(self) -> Page:
        """All sections."""
        name = self.directory.path.resolve().name
        page = Page(f"Run {name}", "Report of a training run of holonomy; one file, nothing is loaded from elsewhere.")
        sections: list[tuple[str, Callable[[], list[str]]]] = [
            ("Summary", self._summary),
            ("Results", self._results),
            ("Curves", self._curves),
            ("Inside the model", self._pictures),
            ("Samples", self._samples),
            ("Configuration", self._configuration),
            ("Environment", self._environment),
        ]
        if (self.directory.path / AUDIT).exists():
            sections.insert(5, ("Audit", self._audit))
        for heading, make in sections:
            page.section(heading, *self._guarded(heading, make))
        return page

    def _guarded(self, part: str, make: Callable[[], list[str]]) -> list[str]:
        """Blocks of a part, or why there are none."""
        try:
            return make()
        except FAULTS as error:
            reason = str(error) if isinstance(error, HolonomyError) else f"{type(error).__name__}: {error}"
            self.faults.append(f"{part}: {reason}")
            return [notice(f"This part could not be made: {reason}", "bad")]

    def _summary(self) -> list[str]:
        record, result = self.record, self.directory.result()
        rows: list[list[str | int | float | None]] = [
            ["family", record.family],
            ["data", record.data],
            ["state", record.state],
            ["ended", str(result.get("ended", "not known: the process left no result"))],
        ]
        # A damaged checkpoint is told of where its model is looked at; the state above says it too.
        counters = {} if record.state == "damaged" else self.counters
        shown = (("updates", "step"), ("tokens or samples", "tokens"), ("CPU-seconds", "cpu_s"), ("seconds", "seconds"))
        rows += [[label, counters[key]] for label, key in shown if key in counters]
        best = counters.get("best") or {}
        if "value" in best:
            rows += [["best val/loss", best["value"]], ["at update", int(best["step"])]]
        return [table(["", ""], rows)]

    def _results(self) -> list[str]:
        metrics = self.metrics
        if not metrics:
            return [notice("Nothing was measured: metrics.jsonl is missing or holds no records.")]
        blocks: list[str] = []
        if not any(name.startswith("baseline/") for name in metrics):
            blocks.append(notice("Plain baselines are measured when a run uses up its budget; this one has none."))
        if self.family.speaks:
            unit = token_unit(metrics)
            header = ["model", f"nats/{unit}", f"bits/{unit}"]
            blocks.append(table(header, loss_rows(metrics), caption="Held-out loss"))
        else:
            labels, rows = figure_rows(metrics)
            blocks.append(table(["figure", *labels], [[name, *values] for name, values in rows]))
        every = [[name, value] for name, value in sorted(metrics.items())]
        return [*blocks, folded("every metric, last value", table(["metric", "value"], every))]

    def _curves(self) -> list[str]:
        curves = self.curves
        blocks: list[str] = []
        if curves.damaged:
            lines = ", ".join(map(str, curves.damaged[:5])) + (", ..." if len(curves.damaged) > 5 else "")
            blocks.append(notice(f"{len(curves.damaged):,} lines of metrics.jsonl are damaged and left out: {lines}."))
        if not curves.records:
            return [*blocks, notice("metrics.jsonl is missing or holds no records.")]
        drawn = [chart(picture) for picture in _curve_pictures(curves, self.family)]
        rows = [[name, len(y), *_extent(y)] for name, (_, y) in sorted(curves.values.items())]
        header = ["metric", "values", "first", "lowest", "highest", "last"]
        return [*blocks, grid(*drawn), folded("course of every metric", table(header, rows))]

    def _pictures(self) -> list[str]:
        pictures = self.family.parts.pictures(self.model)
        return [f"After update {self.checkpoint.step:,}.", grid(*map(chart, pictures))]

    def _samples(self) -> list[str]:
        files = {
            int(m[1]): p
            for p in self.directory.path.glob("samples/*.txt")
            if (m := re.fullmatch(r"step-(\d+)\.txt", p.name))
        }
        blocks: list[str] = []
        if self.family.speaks:
            blocks += self._guarded("Sample of the last checkpoint", self._last_sample)
        elif not files:
            blocks.append(f"Models of the family {self.family.name} write no text.")
        chosen = sorted(files)[-MOST_SAMPLES:]
        if len(chosen) < len(files):
            blocks.append(f"The last {len(chosen)} of {len(files):,} samples that were written while training:")
        for step in chosen:
            text = files[step].read_bytes()[: 4 * MOST_LETTERS].decode("utf-8", "replace")
            blocks.append(folded(f"after update {step:,}", preformatted(text[:MOST_LETTERS])))
        return blocks

    def _last_sample(self) -> list[str]:
        text = launch.sample_text(self.model, launch.config_of(self.checkpoint).infer)
        return [f"Written after update {self.checkpoint.step:,}, with the defaults of the run:", preformatted(text)]

    def _audit(self) -> list[str]:
        found = json.loads((self.directory.path / AUDIT).read_text(encoding="utf-8"))
        verdicts = found.get("verdicts") if isinstance(found, dict) else None
        if not isinstance(verdicts, list) or not all(isinstance(v, dict) for v in verdicts):
            raise DataError("audit.json holds no list of `verdicts`; write it anew with `holonomy audit`")
        return [f"{tally(verdicts)}.", verdict_table(verdicts)]

    def _configuration(self) -> list[str]:
        parts = (("Values that differ from the defaults", self._changed), ("The whole configuration", self._whole))
        return [block for part, make in parts for block in self._guarded(part, make)]

    def _whole(self) -> list[str]:
        with (self.directory.path / "config.yaml").open("rb") as file:
            text = file.read(FILE_LIMIT).decode("utf-8", "replace")
        return [folded("the whole configuration, config.yaml", preformatted(text))]

    def _changed(self) -> list[str]:
        found = launch.changed(self.config)
        if not found:
            return ["Every value is the default of its family."]
        rows = [[key, str(value), str(default)] for key, (value, default) in found.items()]
        return [table(["key", "value", "default"], rows, caption="Values that differ from the defaults")]

    def _environment(self) -> list[str]:
        found = self.directory.environment()
        if not found:
            return [notice("env.json is missing or damaged.")]
        rows = [[key, value if isinstance(value, str | int) else json.dumps(value)] for key, value in found.items()]
        return [table(["", ""], rows)]


def _extent(values: Any) -> list[float | None]:
    """First, lowest, highest and last value; the middle two of those that are finite."""
    sound = [v for v in values if math.isfinite(v)]
    return [values[0], *((min(sound), max(sound)) if sound else (None, None)), values[-1]]


def _curve_pictures(curves: Curves, family: Family) -> list[Picture]:
    """Losses, rate, speed and memory over the updates, and the figures of the family."""
    step = Axis("update")

    def series(*names: str) -> list[Series]:
        return [Series(n, *curves.values[n]) for n in names if n in curves.values]

    train, held_out = series("train/loss"), series("val/loss")
    blank = Picture("", "", step, step, ())
    found = [
        replace(blank, title="Loss", words="Training since the last record.", y=Axis(family.loss), series=train),
        replace(
            blank, title="Held-out loss", words="It chooses the best checkpoint.", y=Axis(family.score), series=held_out
        ),
    ]
    if family.loss == family.score:
        words = "Training since the last record, and held-out data."
        found = [replace(found[0], words=words, series=[*train, *held_out])]
    terms = sorted(n for n in curves.values if re.fullmatch(r"train/\w+/loss", n))
    speed = f"{family.unit}s per CPU-second"
    found += [
        replace(
            blank, title="Terms of the loss", words="Before their weights.", y=Axis("loss", True), series=series(*terms)
        ),
        replace(
            blank, title="Held-out figures", words="As evaluated.", y=Axis("figure"), series=series(*family.figures)
        ),
        replace(blank, title="Learning rate", y=Axis("rate"), series=series("train/lr")),
        replace(blank, title="Throughput", y=Axis(speed), series=series("perf/tokens_per_cpu_second")),
        replace(
            blank, title="Memory", words="Peak of the process so far.", y=Axis("MiB"), series=series("perf/peak_rss_mb")
        ),
    ]
    return [p for p in found if p.series]
