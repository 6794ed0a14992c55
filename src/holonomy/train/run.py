"""Run directories: one place for everything that belongs to a run, one writer at a time."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shlex
import socket
import sys
import time
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from holonomy.core.config import LEFTOVER, Config, remove_leftovers, replace_text, to_yaml
from holonomy.core.errors import CheckpointError, ConfigError, StorageError
from holonomy.core.registry import nearest
from holonomy.train.checkpoint import point, prune, unborn

CHECKPOINTS = "checkpoints"
LOCK = "lock"
RESULT = "result.json"
REPORT = "report.html"
AUDIT = "audit.json"
SUPERSEDING = "superseding.json"
"""Names the checkpoint that all others make way for, from before it is saved until they have."""


def is_text(name: str) -> bool:
    """Whether a file name can be shown and stored: no zero byte, no line end, nothing that is not UTF-8."""
    return not any(unicodedata.category(c) in ("Cc", "Cs") for c in name)


class RunDirectory:
    """`<root>/<name>/` with config.yaml, env.json, metrics.jsonl, checkpoints/, samples/ and result.json.

    As a context manager it holds the lock of the run: a second writer is refused.

    Args:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @classmethod
    def create(
        cls, root: Path, name: str | None, *, prefix: str, config: Config, at_once: bool = False
    ) -> RunDirectory:
        """Makes a run directory and writes config.yaml and env.json.

        Args:
            root: where runs live.
            name: of the directory; None makes one from `prefix`, date and time, that is not taken.
            prefix: usually the recipe.
            config: the resolved configuration.
            at_once: it is a run only when its first checkpoint is saved: nobody can go on with less.

        Raises:
            ConfigError: the directory holds something already, or its name is no text.
            CheckpointError: another process makes the same directory.
            StorageError: it cannot be written.
        """
        path = root / (name or f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}")
        if not is_text(path.name):
            raise ConfigError(f"`--run` {path.name!r} has a control character or half of one; choose another name")
        try:
            path = _made_apart(path) if name is None else path
            path.mkdir(parents=True, exist_ok=True)
            cls.check_free(path)
            with cls(path):
                # Once more: another process may have made its own since.
                cls.check_free(path)
                replace_text(path / "env.json", json.dumps(_environment(), indent=1))
                replace_text(path / "config.yaml", to_yaml(config))
                if not at_once:
                    # Last, because it makes a run of the directory.
                    (path / CHECKPOINTS).mkdir()
        except OSError as error:
            raise StorageError(f"cannot write the run directory `{path}`: {error.strerror}") from error
        return cls(path)

    @staticmethod
    def check_free(path: Path) -> None:
        """Refuses a directory that holds something already.

        Raises:
            ConfigError: it does.
        """
        if path.is_dir() and not _may_begin(path):
            raise ConfigError(
                f"`--run` {path} holds a run already; "
                f"continue it with --resume {shlex.quote(path.name)}, or choose another name"
            )

    @classmethod
    def open(cls, run: str | Path, root: Path) -> RunDirectory:
        """Finds a run: a directory, its name under `root`, or a checkpoint directory inside it.

        Raises:
            CheckpointError: there is none; the message suggests the nearest name.
        """
        for path in (Path(run), root / run):
            if path.parent.name == CHECKPOINTS and path.is_dir():
                return cls(path.parent.parent)._settled()
            if (path / CHECKPOINTS).is_dir():
                return cls(path)._settled()
        names = sorted(p.name for p in root.iterdir() if (p / CHECKPOINTS).is_dir()) if root.is_dir() else []
        near = nearest(Path(run).name, names)
        hint = f"did you mean `{near}`? " if near else ""
        known = f"there are: {', '.join(names)}" if names else f"there are no runs in {root}"
        raise CheckpointError(f"`{run}` is not a run directory; {hint}{known}")

    def environment(self) -> dict[str, object]:
        """What env.json says about where the run was made; empty if it is missing or damaged."""
        return self._json("env.json")

    def keep_result(self, result: Mapping[str, object] | None) -> None:
        """Writes what a training ended with to result.json, or removes that of an earlier one and what is about it.

        Raises:
            StorageError: it cannot be written.
        """
        if result is not None:
            replace_text(self.path / RESULT, json.dumps(result, indent=1))
            return
        for path in (self.path / RESULT, self.path / REPORT, self.path / AUDIT):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"cannot remove `{path}`: {error.strerror}") from error

    def result(self) -> dict[str, Any]:
        """What result.json says about how the last training ended; empty if it is missing or damaged."""
        return self._json(RESULT)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def supersede(self, step: int, config: str) -> None:
        """Announces a checkpoint that all others are to make way for, before it is saved.

        Whoever dies before they have leaves that to the next one who opens the run.

        Args:
            step: of the checkpoint.
            config: content of config.yaml from then on.

        Raises:
            StorageError: it cannot be written.
        """
        replace_text(self.path / SUPERSEDING, json.dumps({"step": step, "config": config}))

    def settle(self) -> None:
        """Removes what an announced checkpoint makes way for, if it was saved; else the run is as it was.

        Raises:
            StorageError: something cannot be removed or written, or the announcement is damaged.
        """
        announced = self.path / SUPERSEDING
        if not announced.exists():
            return
        told = self._json(SUPERSEDING)
        step, config = told.get("step"), told.get("config")
        if not isinstance(step, int) or not isinstance(config, str):
            raise StorageError(f"`{announced}` is damaged: a text was being forgotten; remove the run, or the file")
        if (self.checkpoints / f"step-{step}").is_dir():
            for name in ("latest", "best"):
                point(self.checkpoints, name, step)
            prune(self.checkpoints, keep_last=0, keep=(step,))
            self.keep_result(None)
            replace_text(self.path / "config.yaml", config)
        try:
            announced.unlink()
        except OSError as error:
            raise StorageError(f"cannot remove `{announced}`: {error.strerror}") from error

    def _settled(self) -> RunDirectory:
        if (self.path / SUPERSEDING).exists():
            # Whoever holds the lock is about to do it.
            with suppress(CheckpointError), self:
                pass
        return self

    @property
    def threads(self) -> int | None:
        """CPU threads the run was started with; other numbers of threads add in another order."""
        threads = self.environment().get("threads")
        return threads if isinstance(threads, int) else None

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints of this run live."""
        return self.path / CHECKPOINTS

    def __enter__(self) -> RunDirectory:
        """Takes the lock.

        Raises:
            CheckpointError: another process holds it; names its pid and host.
        """
        path = self.path / LOCK
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError(f"cannot open `{path}`: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 200).decode("utf-8", "replace").strip() or "another process"
            os.close(handle)
            raise CheckpointError(
                f"`{self.path}` is being trained by {holder}; wait for it, or stop it first"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._lock = handle
        try:
            remove_leftovers(self.path)
            self.settle()
        except StorageError:
            self._unlock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _made_apart(path: Path) -> Path:
    """Makes a directory of this name, or of the first that is free with a number behind it."""
    for end in ("", *(f"-{number}" for number in range(2, 1000))):
        with suppress(FileExistsError):
            found = path.with_name(path.name + end)
            found.mkdir(parents=True)
            return found
    return path


def _may_begin(path: Path) -> bool:
    """Whether a directory is empty, or holds only what a process left that died while it made a run."""
    names = {p.name for p in path.iterdir() if not LEFTOVER.fullmatch(p.name)}
    names -= {LOCK, unborn(path / CHECKPOINTS).name}
    # A configuration alone was put there by hand.
    return names in (set(), {"env.json"}, {"env.json", "config.yaml"})


def _environment() -> dict[str, object]:
    """What a reader needs to know about where a run was made."""
    import torch

    try:
        version = metadata.version("holonomy")
    except metadata.PackageNotFoundError:
        version = "not installed"
    return {
        "holonomy": version,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "load": list(os.getloadavg()),
        "argv": sys.argv,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
