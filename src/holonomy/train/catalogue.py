"""The catalogue of runs: an SQLite index over run directories, which stay the truth.

The index only saves reading files that did not change. Deleting it, or a run directory, loses nothing else: the next
look rebuilds it from the folders.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from holonomy.core.budget import Budget
from holonomy.core.config import read_yaml
from holonomy.core.errors import CheckpointError, ConfigError, StorageError
from holonomy.train import checkpoint
from holonomy.train.run import CHECKPOINTS, is_text

INDEX = "catalogue.sqlite"
FLAG = "flag/"
"""How metrics begin that are 1 where a family warns of a run, though its loss may look good."""
WAIT_SECONDS = 30.0
"""How long a writer waits for another one before it gives up."""

State = Literal["running", "finished", "stopped", "empty", "damaged"]


@dataclass(frozen=True)
class RunRecord:
    """What the catalogue knows of a run.

    Attributes:
        name: of its directory.
        family: model family.
        data: name or path of its data.
        state: running (its lock is held), finished (its budget is used up), stopped (interrupted or killed),
            empty (no checkpoint yet) or damaged (its newest checkpoint or configuration cannot be read).
        step: updates made.
        cpu_s: CPU-seconds spent in updates.
        loss: last held-out loss, nats per token, or None.
        best: best held-out loss, or None.
        flags: what its family warns of in the newest metrics, as degenerate or inverted, separated by commas.
    """

    name: str
    family: str
    data: str
    state: State
    step: int = 0
    cpu_s: float = 0.0
    loss: float | None = None
    best: float | None = None
    flags: str = ""


def is_locked(run: Path) -> bool:
    """Whether a process is training the run right now."""
    try:
        with (run / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def read_record(run: Path) -> RunRecord:
    """Reads a run directory; damage becomes a state, not an error."""
    family = data = "?"
    try:
        config, _ = read_yaml(run / "config.yaml")
        family, data = str(config["family"]), str(config["data"]["source"])
        newest = checkpoint.find(run / CHECKPOINTS, "latest")
        if newest is None:
            return RunRecord(run.name, family, data, "running" if is_locked(run) else "empty")
        body = checkpoint.read_state(newest)["state"]
        # Where the data decide when to stop, the checkpoint says it.
        counters, budget = body["counters"], Budget(**(body.get("budget") or config["train"]["budget"]))
        used = budget.used(
            **{k if k != "step" else "steps": counters[k] for k in ("step", "tokens", "cpu_s", "seconds")}
        )
    except (CheckpointError, ConfigError, KeyError, TypeError, ValueError):
        return RunRecord(run.name, family, data, "damaged")
    state: State = "running" if is_locked(run) else "finished" if used >= 1 else "stopped"
    return RunRecord(
        run.name,
        family,
        data,
        state,
        counters["step"],
        counters["cpu_s"],
        counters["metrics"].get("val/loss"),
        counters["best"].get("value"),
        ", ".join(
            sorted(n.removeprefix(FLAG) for n, value in counters["metrics"].items() if n.startswith(FLAG) and value)
        ),
    )


class Catalogue:
    """The runs under one root.

    Args:
        root: where run directories live.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        # Runs of somebody else, or on a disk that is mounted to read: every look reads the folders.
        place = self.root / INDEX if os.access(self.root, os.W_OK) else ":memory:"
        try:
            with closing(sqlite3.connect(place, timeout=WAIT_SECONDS)) as index, index:
                index.execute("create table if not exists runs (name text primary key, stamp text, record text)")
                yield index
        except sqlite3.DatabaseError as error:
            raise StorageError(
                f"the index `{self.root / INDEX}` cannot be used ({error}); delete it, it is rebuilt from the runs"
            ) from error

    def _directories(self) -> dict[str, Path]:
        if not self.root.is_dir():
            return {}
        # The index holds texts: a name that is none cannot have been given by this package.
        found = (p for p in sorted(self.root.iterdir()) if is_text(p.name))
        return {p.name: p for p in found if (p / CHECKPOINTS).is_dir()}

    def records(self) -> list[RunRecord]:
        """All runs by name, fresh: only directories that changed are read again.

        Raises:
            StorageError: the index cannot be used.
        """
        directories = self._directories()
        if not directories:
            return []
        found = []
        with self._index() as index:
            known = {name: (stamp, record) for name, stamp, record in index.execute("select * from runs")}
            for name, path in directories.items():
                stamp = _stamp(path)
                if known.get(name, ("",))[0] == stamp:
                    record = RunRecord(**json.loads(known[name][1]))
                else:
                    record = read_record(path)
                    row = (name, stamp, json.dumps(asdict(record)))
                    index.execute("insert or replace into runs values (?, ?, ?)", row)
                found.append(record)
            index.executemany("delete from runs where name = ?", [(n,) for n in known if n not in directories])
        return found

    def best(self) -> RunRecord | None:
        """The run with the lowest held-out loss; runs on other data do not compare, so name the data yourself."""
        scored = [r for r in self.records() if r.best is not None]
        return min(scored, key=lambda r: r.best or 0.0) if scored else None

    def prune(self, names: list[str]) -> int:
        """Removes all checkpoints of the named runs but the newest and the best; returns the bytes freed.

        Raises:
            StorageError: something cannot be removed.
        """
        freed = 0
        for name in names:
            directory = self.root / name / CHECKPOINTS
            before = _size(directory)
            best = checkpoint.find(directory, "best")
            keep = [int(best.name.removeprefix("step-"))] if best else []
            checkpoint.prune(directory, keep_last=1, keep=keep)
            freed += before - _size(directory)
        return freed


def _stamp(run: Path) -> str:
    """Changes whenever something the record depends on may have changed."""
    files = (run / "config.yaml", run / CHECKPOINTS, run / CHECKPOINTS / "latest")
    times = [p.stat().st_mtime_ns if p.exists() else 0 for p in files]
    return json.dumps([*times, is_locked(run)])


def _size(directory: Path) -> int:
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
