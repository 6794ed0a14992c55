"""Claims that a run which was interrupted ends as one that was left alone."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holonomy.audit.claim import DoesNotApply, Evidence, Figure, Setting, claim
from holonomy.core.errors import HolonomyError, Interrupted
from holonomy.data.text import load_text
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import generate
from holonomy.recipes import configure, launch
from holonomy.train.monitor import SilentProgress

MEASURED = ("perf/", "train/cpu_s", "memory/bytes", "memory/probes")
"""Beginnings of metrics that a clock or the layout of tables in memory decides, not what was learned."""
RUNS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "lior": (
        "lior-smoke",
        {
            "model.d": "16",
            "model.n_osc": "32",
            "model.hidden": "16",
            "model.heads": "2",
            "model.blocks": "2",
            "model.dropout": "0.1",
            "data.seq_len": "32",
            "data.batch": "4",
            "train.budget.steps": "12",
            "train.optim.ema": "0.9",
            "train.cadence.log_every": "1",
            "train.cadence.eval_every": "4",
            "train.cadence.save_every": "5",
        },
    ),
    "holographic": (
        "holographic-smoke",
        {
            "model.batch_size": "300",
            "model.mixture.product": "none",
            "model.mixture.blocks": "1",
            "model.mixture.em_steps": "10",
            "train.cadence.save_every": "3",
        },
    ),
    "ternary": (
        "ternary-smoke",
        {
            "data.digits": "5",
            "data.batch": "64",
            "train.budget.steps": "12",
            "train.cadence.log_every": "1",
            "train.cadence.eval_every": "4",
            "train.cadence.save_every": "5",
        },
    ),
}
"""Family -> recipe and overrides of runs that take a second or two."""
VARIANTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "lior, selective": ("lior", {"model.bank": "selective", "data.workers": "2"}),
    "lior, field": ("lior", {"field.enabled": "true", "field.dim": "4", "field.collapse_every": "3"}),
    "lior, derived frame": (
        "lior",
        {
            "geometry.chart": "per_head",
            "geometry.frame_mode": "derived",
            "geometry.rotor_mode": "off",
            "geometry.frame_every": "3",
        },
    ),
    "ternary, controller": ("ternary", {"weighting.kind": "controller"}),
    "ternary, steered": ("ternary", {"homeostasis.enabled": "true", "curriculum.enabled": "true"}),
}
"""Name -> family and overrides on top, for the larger setting."""
WORDS = ("the", "of", "a", "to", "and", "in", "is", "it", "that", "for", "one", "all", "when", "from", "by", "with")


def write_text(path: Path, seed: int) -> Path:
    """A text of frequent and rare words in sentences, made from the seed."""
    random = np.random.default_rng(seed)
    made = ["".join(random.choice(list("abdeilnorstu"), random.integers(3, 8))) for _ in range(60)]
    words = [*WORDS, *made]
    share = 1 / np.arange(1, len(words) + 1)
    drawn = random.choice(words, 4_000, p=share / share.sum())
    path.write_text(". ".join(" ".join(drawn[n : n + 12]) for n in range(0, len(drawn), 12)), encoding="utf-8")
    return path


class Stopper(SilentProgress):
    """Asks the process to end, as a batch system does, when a run reaches a step.

    Args:
        step: the step.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, step: int, fraction: float, metrics: Mapping[str, float]) -> None:
        """Sends the signal once."""
        if step == self.step:
            self.step = -1
            os.kill(os.getpid(), signal.SIGTERM)


def _records(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(MEASURED)} for line in lines]


def _records_apart(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> int:
    """Records of two logs that differ, or that one lacks."""
    return sum(x != y for x, y in zip_longest(a, b))


def _differing(a: dict[str, Any], b: dict[str, Any]) -> int:
    """Tensors of two states that differ in a bit, or that one lacks."""
    both = a.keys() & b.keys()
    return len(a.keys() ^ b.keys()) + sum(
        a[k].dtype != b[k].dtype or a[k].numpy().tobytes() != b[k].numpy().tobytes() for k in both
    )


def _last(run: Path) -> Path:
    """The newest checkpoint, by its number."""
    return max((run / "checkpoints").glob("step-*"), key=lambda p: int(p.name.removeprefix("step-")))


@claim(
    "train.resume-exact",
    statement="A run that was interrupted and continued ends with the same bits as one that was left alone.",
    source="README.md; docs/holographic.md",
    limit_s=300.0,
)
def resume_exact(setting: Setting) -> Evidence:
    """Runs of all families, straight and stopped by SIGTERM: tensors, log and held-out figures."""
    if threading.current_thread() is not threading.main_thread():
        raise DoesNotApply("signals reach the main thread of a process only")
    text = write_text(setting.scratch / "text.txt", setting.seed)
    trials = {family: (family, {}) for family in RUNS} | (dict(VARIANTS) if setting.full else {})
    stops = range(1, 12, 2) if setting.full else (7,)
    figures = []
    for name, (family, further) in trials.items():
        recipe, overrides = RUNS[family]
        data = {} if family == "ternary" else {"data.source": str(text)}
        if family == "holographic":
            data["train.share"] = "0.99"
        chosen = {**overrides, **further, **data}
        config = configure(recipe, overrides=[f"{k}={v}" for k, v in chosen.items()]).config

        def begin(run: str, progress: SilentProgress, config: Any = config, recipe: str = recipe) -> None:
            launch.train(config, recipe=recipe, run=run, root=setting.scratch, progress=progress)

        whole = setting.scratch / f"{name} whole"
        begin(whole.name, SilentProgress())
        wanted, log = launch.read_checkpoint(str(whole), setting.scratch), _records(whole)
        tensors = lines = stopped = 0
        for stop in stops:
            broken = setting.scratch / f"{name} {stop}"
            try:
                begin(broken.name, Stopper(stop))
            except Interrupted:
                stopped += 1
                torch.manual_seed(stop)
                launch.resume(str(broken), root=setting.scratch, progress=SilentProgress())
            found = launch.read_checkpoint(str(broken), setting.scratch)
            tensors += _differing(found.tensors, wanted.tensors)
            lines += _records_apart(_records(broken), log)
            lines += found.state["learner"] != wanted.state["learner"] or found.step != wanted.step
        figures += [
            Figure(f"{name}: runs that were stopped", stopped, "==", len(stops)),
            Figure(f"{name}: tensors that differ", tensors, "==", 0),
            Figure(f"{name}: records that differ", lines, "==", 0),
        ]
    return Evidence(tuple(figures))


class Shell:
    """The command line in processes of its own.

    Args:
        root: where runs go.
        setting: of the check.
    """

    def __init__(self, root: Path, setting: Setting) -> None:
        self.root = root
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(setting.threads)}
        self.threads = ["--threads", str(setting.threads)]

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Starts `holonomy` with some arguments."""
        command = [sys.executable, "-m", "holonomy", *words, "--root", str(self.root)]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.root,
        )

    def ask(self, *words: str) -> str:
        """What it prints.

        Raises:
            AssertionError: it fails.
        """
        process = self.begin(*words)
        printed, errors = process.communicate()
        assert process.returncode == 0, f"holonomy {' '.join(words)} ended with {process.returncode}: {errors.strip()}"
        return printed


@claim(
    "train.end-to-end",
    statement="Train, SIGTERM, --resume, eval and generate give what an undisturbed run gives.",
    source="README.md",
    limit_s=300.0,
)
def end_to_end(setting: Setting) -> Evidence:
    """The commands of the README in processes of their own, beside a run of this process that nobody stops."""
    text = write_text(setting.scratch / "text.txt", setting.seed)
    shell = Shell(setting.scratch, setting)
    recipe, overrides = RUNS["lior"]
    chosen = {**overrides, "data.source": str(text), "train.budget.steps": "300", "train.cadence.eval_every": "100"}
    settings = [w for k, v in chosen.items() for w in ("--set", f"{k}={v}")]
    config = configure(recipe, overrides=[f"{k}={v}" for k, v in chosen.items()]).config
    whole, stopped = setting.scratch / "whole", setting.scratch / "stopped"
    report = launch.train(config, recipe=recipe, run=whole.name, root=setting.scratch, progress=SilentProgress())
    process = shell.begin("train", recipe, "--run", stopped.name, *settings, *shell.threads, "--quiet")
    log = stopped / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 20):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, f"train ended with {process.returncode}: {errors.strip()}"
    at = int(_last(stopped).name.removeprefix("step-"))
    told = json.loads(shell.ask("train", "--resume", stopped.name, *shell.threads, "--json"))["metrics"]
    judged = json.loads(shell.ask("eval", stopped.name, *shell.threads, "--json"))["metrics"]
    words = ["--prompt", "the ", "--max-tokens", "24", "--temperature", "0"]
    printed = json.loads(shell.ask("generate", stopped.name, *words, *shell.threads, "--json"))["text"]
    model, sampling = launch.load(whole), Sampling(temperature=0)
    written = "".join(generate(model, "the ", sampling=sampling, max_tokens=24, seed=0))
    wanted = {k: v for k, v in report.metrics.items() if not k.startswith(MEASURED)}
    first, second = (launch.read_checkpoint(str(run), setting.scratch) for run in (whole, stopped))
    return Evidence(
        (
            Figure("updates before SIGTERM", at, ">=", 20),
            Figure("updates before SIGTERM, below all", at, "<", 300),
            Figure("metrics that differ", sum(told.get(k) != v for k, v in wanted.items()), "==", 0),
            Figure("metrics", len(wanted), ">=", 5),
            Figure("tensors that differ", _differing(first.tensors, second.tensors), "==", 0),
            Figure("records that differ", _records_apart(_records(whole), _records(stopped)), "==", 0),
            Figure("loss by eval differs by", abs(judged["val/loss"] - report.metrics["val/loss"]), "<=", 1e-9),
            Figure("characters generated", len(printed), ">=", 10),
            Figure("texts generated", len({printed, written}), "==", 1),
        )
    )


ONE_PASS = {
    "train.cadence.log_every": "1",
    "model.batch_size": "400",
    "model.counts.classes": "[20]",
    "model.similarity.dim": "16",
    "model.mixture.product_steps": "5",
    "model.mixture.em_steps": "20",
    "model.tower.role": "mirror",
    "model.tower.levels": "3",
    "model.tower.channels": "4",
    "train.cadence.save_every": "3",
    "train.cadence.eval_every": "100000",
    "train.cadence.samples": "0",
}
ONE_PASS_RUNS: Mapping[str, tuple[str, int, Mapping[str, str]]] = {
    "stream": (
        "holographic-openwebtext",
        60_000,
        {
            "model.replay": "4000",
            "model.memory": "192",
            "data.documents.first": "200",
            "data.documents.held_out": "0.1",
            "data.documents.apart": "0.1",
            "data.documents.shuffle": "16",
        },
    ),
    # A stream keeps no text to sleep on.
    "text with sleeps": (
        "holographic",
        30_000,
        {"model.mixture.blocks": "2", "train.sleep.every": "2000", "train.sleep.least": "2"},
    ),
}
"""Name -> recipe, characters of the reference text of Python, and further overrides."""
OF_KNESER_NEY = 0.80
"""Of the perplexity of Kneser-Ney of order 5 on the same words: what a pass has to reach."""


@claim(
    "holographic.end-to-end",
    statement="Read, learn, sleep, SIGTERM at half, resume, evaluate and write: as undisturbed, and below Kneser-Ney.",
    source="README.md; docs/holographic.md",
    limit_s=600.0,
)
def holographic_end_to_end(setting: Setting) -> Evidence:
    """A stream whose token ids are kept, and a text with sleeps, each straight and stopped at half of its batches."""
    if threading.current_thread() is not threading.main_thread():
        raise DoesNotApply("signals reach the main thread of a process only")
    figures, whole_text = [], load_text("pydoc").text
    for name, (recipe, size, further) in ONE_PASS_RUNS.items():
        text, source = whole_text[:size], setting.scratch / f"{name}.txt"
        chosen = {**ONE_PASS, **further, "model.seed": str(setting.seed)}
        if name == "stream":
            source = source.with_suffix(".jsonl")
            parts = (text[at : at + 2000] for at in range(0, size, 2000))
            source.write_text("".join(json.dumps({"text": part}) + "\n" for part in parts), encoding="utf-8")
            chosen["data.documents.cache"] = str(setting.scratch / "ids")
        else:
            source.write_text(text, encoding="utf-8")
        settings = [f"{k}={v}" for k, v in {**chosen, "data.source": str(source)}.items()]
        config = configure(recipe, overrides=settings).config
        whole, cut = setting.scratch / f"{name} whole", setting.scratch / f"{name} cut"
        report = launch.train(config, recipe=recipe, run=whole.name, root=setting.scratch, progress=SilentProgress())
        stopped = 0
        try:
            launch.train(config, recipe=recipe, run=cut.name, root=setting.scratch, progress=Stopper(report.steps // 2))
        except Interrupted:
            stopped = 1
            torch.manual_seed(stopped)
            try:
                launch.resume(str(cut), root=setting.scratch, progress=SilentProgress())
            except HolonomyError as error:
                raise AssertionError(f"{name}: what was stopped cannot go on: {error}") from error
        wanted, found = (launch.read_checkpoint(str(run), setting.scratch) for run in (whole, cut))
        final = [{k: v for k, v in _records(run)[-1].items() if k != "time"} for run in (whole, cut)]
        judged = [launch.evaluate(str(run), root=setting.scratch) for run in (whole, cut)]
        sampling = Sampling(temperature=0)
        written = [
            "".join(generate(launch.load(r), "the ", sampling=sampling, max_tokens=16, seed=0)) for r in (whole, cut)
        ]
        loss, plain = report.metrics["val/loss"], report.metrics["baseline/kn5"]
        figures += [
            Figure(f"{name}: runs that were stopped", stopped, "==", 1),
            Figure(f"{name}: tensors that differ", _differing(found.tensors, wanted.tensors), "==", 0),
            Figure(f"{name}: final metrics", len(final[0]), ">=", 10),
            Figure(
                f"{name}: final metrics that differ", sum(final[1].get(k) != v for k, v in final[0].items()), "==", 0
            ),
            Figure(f"{name}: loss by eval differs by", max(abs(j["val/loss"] - loss) for j in judged), "<=", 1e-6),
            Figure(f"{name}: characters written", min(map(len, written)), ">=", 10),
            Figure(f"{name}: texts written", len(set(written)), "==", 1),
            Figure(f"{name}: perplexity over that of KN-5", math.exp(loss - plain), "<=", OF_KNESER_NEY),
        ]
        if "train.sleep.every" in further:
            figures.append(Figure(f"{name}: sleeps", report.metrics["memory/sleeps"], ">=", 1))
    return Evidence(tuple(figures))
