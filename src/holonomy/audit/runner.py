"""Runs claims in processes of their own: side by side, each within its time, none able to harm another."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from holonomy.audit.claim import CLAIMS, Claim, Setting, Verdict, judge, verdict
from holonomy.core.errors import ConfigError, HolonomyError

FULL_FACTOR = 5.0
"""How many times longer a check may take with `--full`."""
TRAINING_SECONDS = 300.0
PREPARED: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "lior": ("lior-smoke", {"train.budget.steps": "120"}),
    "holographic": ("holographic-smoke", {}),
    "ternary": ("ternary-smoke", {}),
}
"""Family -> recipe and overrides of the small run that claims about families look at."""
SEEDS = {"lior": "train.seed", "holographic": "model.seed", "ternary": "train.seed"}
"""Keys of the seeds of these runs."""

Task = tuple[Literal["train", "judge"], str, Setting]


def select(ids: Sequence[str] | None, *, family: str | None, full: bool) -> list[Claim]:
    """The claims of an audit, in their order.

    Args:
        ids: names of claims, or beginnings of names such as `lior.`; None takes all that belong.
        family: of the run that is audited; None audits the package.
        full: whether claims that are not small belong.

    Raises:
        ConfigError: an unknown name, or nothing left.
    """
    found = [c for c in CLAIMS if family is None or family in c.families]
    if ids is None:
        chosen = [c for c in found if c.small or full]
        if not chosen:
            raise ConfigError(f"no claim says anything about runs of the family {family}; see --list")
        return chosen
    for name in ids:
        if not any(c.id.startswith(name) for c in CLAIMS):
            CLAIMS.get(name)
    chosen = [c for c in found if c.id.startswith(tuple(ids))]
    if not chosen:
        raise ConfigError(f"`--claim` {', '.join(ids)} says nothing about runs of the family {family}; see --list")
    return chosen


def audit(
    claims: Sequence[Claim],
    *,
    run: Path | None = None,
    audited: str = "",
    family: str | None = None,
    seed: int = 0,
    full: bool = False,
    jobs: int = 2,
    watch: Callable[[Verdict], None] = lambda _: None,
) -> list[Verdict]:
    """Judges claims, `jobs` at a time.

    Args:
        claims: what to judge.
        run: directory of the run to audit; None audits the package, with small runs that are trained for it.
        audited: what the run is called in commands.
        family: of the run.
        seed: of everything random.
        full: takes the larger setting of every check.
        jobs: processes.
        watch: told of every verdict when it comes.

    Returns:
        The verdicts, in the order of the claims. What crashed or took too long is an `error`.
    """
    needed = sorted({f for c in claims for f in c.families if f in PREPARED}) if run is None else []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holonomy-audit-")))
        workers = [stack.enter_context(Worker(scratch / f"worker-{n}.log")) for n in range(max(1, jobs))]
        pool = stack.enter_context(ThreadPoolExecutor(len(workers)))
        idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in workers:
            idle.put(worker)

        base = Setting(scratch, {} if run is None else {family or "": run}, seed, full, audited=audited)

        def train(name: str) -> str:
            worker = idle.get()
            try:
                return worker.ask(("train", name, base), TRAINING_SECONDS)[0]
            finally:
                idle.put(worker)

        def ask(subject: Claim) -> Verdict:
            place = scratch / subject.id
            place.mkdir()
            setting = replace(base, scratch=place)
            broken = {f: faults[f] for f in subject.families if faults.get(f)}
            if run is None and broken:
                found = verdict(subject, setting, "error", seconds=0.0, detail="; ".join(broken.values()))
            else:
                if run is None:
                    setting = replace(
                        setting, runs={f: scratch / "runs" / f for f in subject.families if f in PREPARED}
                    )
                found = _judged(subject, setting, idle)
            watch(found)
            return found

        faults = dict(zip(needed, pool.map(train, needed), strict=True))
        return list(pool.map(ask, claims))


def _judged(subject: Claim, setting: Setting, idle: SimpleQueue[Worker]) -> Verdict:
    worker, limit = idle.get(), subject.limit_s * (FULL_FACTOR if setting.full else 1.0)
    begin = time.perf_counter()
    try:
        fault, found = worker.ask(("judge", subject.id, setting), limit)
    finally:
        idle.put(worker)
    if found is not None:
        return found
    return verdict(subject, setting, "error", seconds=time.perf_counter() - begin, detail=fault)


class Worker:
    """A process that trains small runs and judges claims; it is started when needed, and again after a crash.

    Args:
        log: file that what it prints goes to.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def ask(self, task: Task, limit_s: float) -> tuple[str, Verdict | None]:
        """Gives a task to the process and waits.

        Args:
            task: what to do.
            limit_s: wall seconds after which the process is killed.

        Returns:
            What went wrong, empty if nothing did, and the verdict of a claim that was judged.
        """
        if self._pipe is None:
            self._pipe, theirs = self._context.Pipe()
            self._process = self._context.Process(target=_serve, args=(theirs, self.log), daemon=True)
            self._process.start()
            theirs.close()
        try:
            self._pipe.send(task)
            if self._pipe.poll(limit_s):
                return self._pipe.recv()
            fault = f"took more than {limit_s:.0f} s and was stopped"
        except (EOFError, OSError):
            fault = f"the process broke down: {self._last_words()}"
        self._stop()
        return fault, None

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        said = [line.strip() for line in lines if line.strip()]
        return said[-1] if said else "it left no message"

    def _stop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
        self._pipe = self._process = None


def _serve(pipe: Any, log: Path) -> None:
    """Body of a worker: does tasks until the pipe closes."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(handle, sys.stdout.fileno())
    os.dup2(handle, sys.stderr.fileno())
    from holonomy.audit import claims
    from holonomy.audit.subjects import tune

    claims.register_claims()
    while True:
        try:
            kind, name, setting = pipe.recv()
        except EOFError:
            return
        tune(setting)
        try:
            pipe.send(("", judge(CLAIMS.get(name), setting)) if kind == "judge" else (_train(name, setting), None))
        except HolonomyError as error:
            pipe.send((f"{type(error).__name__}: {error}", None))


def _train(family: str, setting: Setting) -> str:
    from holonomy.audit.subjects import train_run

    recipe, overrides = PREPARED[family]
    train_run(recipe, setting.scratch / "runs" / family, {**overrides, SEEDS[family]: str(setting.seed)})
    return ""
