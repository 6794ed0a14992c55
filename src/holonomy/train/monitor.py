"""What a run writes while it trains, and who else is told."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from array import array
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from holonomy.core.config import replace_text, room
from holonomy.core.errors import StorageError


class Progress(Protocol):
    """Told about a run as it goes; the command line shows it."""

    def start(self, header: Mapping[str, str | int | float]) -> None:
        """Training begins; `header` describes the run."""
        ...

    def update(self, step: int, fraction: float, metrics: Mapping[str, float]) -> None:
        """A log point or an evaluation; `metrics` are the newest values."""
        ...

    def notice(self, text: str) -> None:
        """Something the user should know."""
        ...

    def stop(self) -> None:
        """Training ended, whatever the reason."""
        ...


class SilentProgress:
    """Tells nobody."""

    def start(self, header: Mapping[str, str | int | float]) -> None:
        """Ignores the header."""

    def update(self, step: int, fraction: float, metrics: Mapping[str, float]) -> None:
        """Ignores the metrics."""

    def notice(self, text: str) -> None:
        """Ignores the text."""

    def stop(self) -> None:
        """Nothing to end."""


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # The kernel's `ru_maxrss` begins with the peak of the process that started this one; VmHWM does not.
        found = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(found.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class MetricsLog:
    """JSON lines, one record a log point; each step appears once, also after a crash and a resume.

    Args:
        path: the file; created when the first record comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def truncate_after(self, step: int) -> None:
        """Drops records of later steps and a half-written last line.

        Raises:
            StorageError: the file cannot be read or written.
        """
        try:
            if not self.path.exists():
                return
            content = self.path.read_bytes()
            kept = b"".join(line + b"\n" for line in content.splitlines() if _step_of(line) <= step)
            # Never emptied and written again: who dies between the two loses the whole log.
            if content.startswith(kept):
                os.truncate(self.path, len(kept))
            else:
                replace_text(self.path, kept.decode())
        except OSError as error:
            raise StorageError(f"cannot repair `{self.path}`: {error.strerror}") from error

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one record.

        Raises:
            StorageError: no space or no permission; nothing of the record is left.
        """
        record = json.dumps({"step": step, **metrics})
        before = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(record + "\n")
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.path, before)
            lacking = room(self.path, len(record) + 1)
            raise StorageError(f"cannot write `{self.path}`: {error.strerror}; {lacking}") from error


@dataclass(frozen=True)
class Curves:
    """What a metrics log holds, by metric.

    Attributes:
        values: by name, the steps of its records and its values there, both in the order of the file.
        records: lines that were read.
        damaged: numbers of the lines that are no records.
    """

    values: dict[str, tuple[array[float], array[float]]]
    records: int
    damaged: tuple[int, ...]

    @property
    def last(self) -> dict[str, float]:
        """The last value of each metric."""
        return {name: values[-1] for name, (_, values) in self.values.items()}


def read_curves(path: Path) -> Curves:
    """Reads a metrics log; damaged lines are counted and left out, and a missing file is an empty one.

    Raises:
        StorageError: the file cannot be read.
    """
    values: dict[str, tuple[array[float], array[float]]] = {}
    records, damaged = 0, list[int]()
    if not path.exists():
        return Curves(values, records, ())
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                record = _record(line)
                if record is None:
                    damaged.append(number)
                    continue
                records += 1
                for name, value in record.items():
                    if name != "step":
                        steps, found = values.setdefault(name, (array("d"), array("d")))
                        steps.append(record["step"])
                        found.append(value)
    except OSError as error:
        raise StorageError(f"cannot read `{path}`: {error.strerror}") from error
    return Curves(values, records, tuple(damaged))


def _record(line: bytes) -> dict[str, float] | None:
    """The numbers of a record, its step among them; None for a damaged line."""
    try:
        found = json.loads(line)
        numbers = {k: float(v) for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    except (ValueError, AttributeError, OverflowError, RecursionError):
        return None
    return numbers if math.isfinite(numbers.get("step", math.nan)) else None


def _step_of(line: bytes) -> float:
    """Step of a record; infinite for a damaged line."""
    record = _record(line)
    return math.inf if record is None else record["step"]
