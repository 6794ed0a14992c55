"""Processes that are killed, for tests of what the next start finds: nothing of this is in the package."""

from __future__ import annotations

import ctypes
import gzip
import itertools
import json
import os
import random
import signal
import struct
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from holonomy.audit.claims.resuming import MEASURED, RUNS, write_text
from holonomy.core.config import LEFTOVER
from holonomy.core.errors import HolonomyError
from holonomy.recipes import configure, launch
from holonomy.train import checkpoint
from holonomy.train.monitor import SilentProgress
from holonomy.train.writer import BackgroundWriter

PHASES = ("loading", "training", "saving", "evaluating")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Countdown:
    """Kills this process at the n-th call."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            die()


RAISED = 99
"""Exit code of a child that raised what no test expects."""


def in_child(work: Callable[[], int | None]) -> int:
    """Runs a function in a forked process.

    Returns:
        The code that it returned or that the error of the package has, or minus the signal that killed it.
    """
    pid = os.fork()
    if pid == 0:
        try:
            code = work() or 0
        except HolonomyError as error:
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(error.exit_code)
        except BaseException:  # noqa: BLE001 - a child of a test must never return into the test
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(RAISED)
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code != RAISED
    return code


WORDS = {
    "model.batch_size": "500",
    "model.counts.classes": "[20]",
    "model.similarity.dim": "16",
    "model.mixture.product": "none",
    "model.mixture.em_steps": "10",
    "model.replay": "3000",
    "model.memory": "192",
    "data.documents.first": "100",
    "data.documents.held_out": "0.1",
    "data.documents.apart": "0.1",
    "data.documents.shuffle": "16",
    "data.documents.least": "1",
    "data.documents.skip_bad": "true",
    "train.cadence.log_every": "1",
    "train.cadence.eval_every": "5",
    "train.cadence.save_every": "3",
    "train.cadence.keep": "2",
    "train.positions": "100",
}
"""Settings of a short run of `holographic-openwebtext`."""


def small_run(family: str, folder: Path) -> tuple[str, list[str]]:
    """Recipe and settings `key=value` of a run that takes a fraction of a second.

    Args:
        family: of the model; `stream` is lior and `words` is holographic on documents that come as they are read.
        folder: gets the data.
    """
    if family == "words":
        write_documents(folder / "documents" / "a.jsonl")
        write_documents(folder / "documents" / "b.jsonl.gz", first=400)
        return "holographic-openwebtext", [
            f"data.source={folder / 'documents'}",
            *(f"{k}={v}" for k, v in WORDS.items()),
        ]
    recipe, overrides = RUNS["lior" if family == "stream" else family]
    chosen = dict(overrides)
    if family == "stream":
        chosen |= {"data.stream": "true", "data.source": str(folder / "documents.jsonl"), "data.shuffle": "40"}
        chosen |= {"data.skip_bad": "true"}
        write_documents(folder / "documents.jsonl")
    elif family != "ternary":
        chosen["data.source"] = str(folder / "text.txt")
        if not (folder / "text.txt").exists():
            write_text(folder / "text.txt", 0)
    if family == "holographic":
        chosen["train.share"] = "0.99"
    return recipe, [f"{k}={v}" for k, v in chosen.items()]


def write_documents(path: Path, *, first: int = 0, count: int = 400) -> None:
    """JSON lines with a text each, and a bad one after every seventh, where the file is not there yet."""
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    texts = (f"Document {n} says that {n * n} is {n} times {n}.\n" * (1 + n % 5) for n in range(first, first + count))
    lines = (json.dumps({"text": text}) + "\n" + "{broken\n" * (n % 7 == 6) for n, text in enumerate(texts))
    content = "".join(lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def start(family: str, path: Path) -> None:
    """What a user does: trains, or continues a run where there is one."""
    if (path / "checkpoints").is_dir():
        launch.resume(path.name, root=path.parent, progress=SilentProgress())
        return
    recipe, settings = small_run(family, path.parent)
    config = configure(recipe, overrides=settings).config
    launch.train(config, recipe=recipe, run=path.name, root=path.parent, progress=SilentProgress())


@dataclass(frozen=True)
class Outcome:
    """What a run ends with.

    Attributes:
        records: of the log, every number that was learned in hexadecimal.
        result: the metrics of result.json likewise.
        tensors: of the last checkpoint.
    """

    records: list[dict[str, str]]
    result: dict[str, str]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> Outcome:
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        last = checkpoint.find(path / "checkpoints", "latest")
        assert last is not None
        result = json.loads((path / "result.json").read_text())["metrics"]
        return cls([exact(line) for line in lines], exact(result), checkpoint.read(last).tensors)


def exact(record: dict[str, float]) -> dict[str, str]:
    return {k: float(v).hex() for k, v in record.items() if not k.startswith(MEASURED)}


def check_continues(family: str, path: Path, whole: Outcome) -> None:
    """Every checkpoint there is whole; the next start ends as the run left alone did, and leaves nothing behind."""
    folder = path / "checkpoints"
    for step in checkpoint.steps(folder):
        checkpoint.read(folder / f"step-{step}")
    start(family, path)
    found = Outcome.read(path)
    assert found.records == whole.records
    assert found.result == whole.result
    assert found.tensors.keys() == whole.tensors.keys()
    for name, tensor in whole.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    left = [p for p in path.rglob("*") if p.name.startswith(checkpoint.TEMPORARY) or LEFTOVER.fullmatch(p.name)]
    assert left == []


@contextmanager
def told(tell: Callable[[str, bool], None]) -> Iterator[None]:
    """Tells of the begin and the end of every phase of the runs that are started while it is open."""
    patch = pytest.MonkeyPatch()
    prepare, timed = launch._prepare, BackgroundWriter._timed
    loading = [True]

    def during(phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if phase == "training" and loading:
                loading.clear()
                tell("loading", False)
            tell(phase, True)
            made = work(*args, **options)
            tell(phase, False)
            return made

        return call

    def prepared(*args: Any, **options: Any) -> Any:
        work = prepare(*args, **options)
        work.learner.train_step = during("training", work.learner.train_step)
        return replace(work, evaluate=during("evaluating", work.evaluate))

    patch.setattr(launch, "_prepare", prepared)
    patch.setattr(BackgroundWriter, "_timed", lambda self, job: during("saving", timed)(self, job))
    tell("loading", True)
    try:
        yield
    finally:
        patch.undo()


def durations(family: str, path: Path) -> dict[str, list[float]]:
    """Trains undisturbed; how long each stay in each phase took."""
    begun, found = dict[str, float](), defaultdict[str, list[float]](list)

    def tell(phase: str, begins: bool) -> None:
        if begins:
            begun[phase] = time.perf_counter()
        else:
            found[phase].append(time.perf_counter() - begun[phase])

    with told(tell):
        start(family, path)
    return dict(found)


def kill_after(delay: float) -> None:
    """Lets the kernel send SIGKILL to this process after some seconds, whatever it does then."""
    # An event that asks for a signal: a value of 8 bytes, the signal, and 0 for sending it; then the timer's number,
    # and when it rings: never again, and in so many seconds and nanoseconds.
    event, timer = struct.pack("qii48x", 0, signal.SIGKILL, 0), ctypes.c_void_p()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.timer_create(time.CLOCK_MONOTONIC, event, ctypes.byref(timer)) == 0
    when = struct.pack("qqqq", 0, 0, int(delay), max(1, int(delay % 1 * 1e9)))
    assert libc.timer_settime(timer, 0, when, None) == 0


def killed_at(family: str, path: Path, phase: str, number: int, delay: float) -> set[str]:
    """Starts a run that is killed some seconds after it entered a phase for the n-th time.

    Returns:
        The phases it died in; none if it ended before.
    """
    reading, writing = os.pipe()
    seen = itertools.count(1)

    def tell(name: str, begins: bool) -> None:
        os.write(writing, f"{name} {int(begins)}\n".encode())
        if name == phase and begins and next(seen) == number:
            kill_after(delay)

    def work() -> None:
        with told(tell):
            start(family, path)

    died = in_child(work) == -signal.SIGKILL
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = [line.split() for line in pipe]
    open_phases = set[str]()
    for name, begins in said:
        (open_phases.add if begins == "1" else open_phases.discard)(name)
    return open_phases if died else set()


def kill_all_phases(
    family: str, folder: Path, *, each: int, seed: int, report: Callable[[str], None] = lambda text: None
) -> dict[str, int]:
    """Kills runs of a family until each phase was hit often enough; after one or two kills a run must end well.

    Returns:
        Kills by phase; a kill while a checkpoint was written beside an update counts for the saving.
    """
    chance, hits = random.Random(seed), dict.fromkeys(PHASES, 0)
    # The first run imports and compiles, which the children inherit.
    _, lengths = durations(family, folder / "first"), durations(family, folder / "whole")
    whole, number = Outcome.read(folder / "whole"), 0
    while min(hits.values()) < each:
        path = folder / f"run-{number}"
        number += 1
        assert number < 10 * each * len(PHASES), f"kills miss their phase: {hits}"
        for _ in range(chance.randint(1, 2)):
            phase = min(PHASES, key=lambda p: hits[p])
            nth = chance.randint(1, len(lengths[phase]))
            found = killed_at(family, path, phase, nth, chance.uniform(0, lengths[phase][nth - 1]))
            # The rarest first: writing goes on beside everything else.
            for name in ("saving", "evaluating", "loading", "training"):
                if name in found:
                    hits[name] += 1
                    break
        check_continues(family, path, whole)
        report(f"{family}: {hits} in {number} runs")
    return hits
