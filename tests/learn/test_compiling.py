"""Compiled parts of a model: the same results and resumes, or the plain ones with a word about it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from holonomy.core.errors import ConfigError, Interrupted
from holonomy.recipes import configure, launch
from holonomy.train.checkpoint import TENSORS
from holonomy.train.monitor import SilentProgress
from holonomy.train.report import FitReport

SMALL = (
    "data.digits=4", "data.batch=16", "train.budget.steps=12", "train.cadence.log_every=1",
    "train.cadence.eval_every=6", "train.cadence.save_every=4",
)  # fmt: skip
COMPILED = (*SMALL, "train.compile=true")


class Listening(SilentProgress):
    """Keeps notices; ends a run at a step."""

    def __init__(self, stop_at: int = -1) -> None:
        self.said, self.stop_at = list[str](), stop_at

    def notice(self, text: str) -> None:
        self.said.append(text)

    def update(self, step, fraction, metrics) -> None:
        if step == self.stop_at:
            raise Interrupted(15, None)


def trained(root: Path, run: str, settings: tuple[str, ...], progress: Listening) -> FitReport:
    config = configure("ternary-smoke", overrides=settings).config
    return launch.train(config, recipe="ternary", run=run, root=root, progress=progress)


def records(report: FitReport) -> list[dict]:
    lines = [json.loads(line) for line in (report.run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.startswith(("step", "train/loss", "val/"))} for line in lines]


def logged(report: FitReport) -> set[float]:
    lines = [json.loads(line) for line in (report.run / "metrics.jsonl").read_text().splitlines()]
    return {line["perf/compiled"] for line in lines if "perf/compiled" in line}


def check_resumes(root: Path) -> FitReport:
    """A compiled run, and one that is broken off and continues: the same bits, compiled to the end."""
    listening = Listening()
    whole = trained(root, "whole", COMPILED, listening)
    assert logged(whole) == {1.0}, listening.said
    assert [note.split(" in ")[0] for note in listening.said] == ["compiled"]
    with pytest.raises(Interrupted):
        trained(root, "split", COMPILED, Listening(stop_at=7))
    split = launch.resume("split", root=root, progress=Listening())
    assert records(split) == records(whole)
    assert logged(split) == {1.0}
    assert (split.checkpoint / TENSORS).read_bytes() == (whole.checkpoint / TENSORS).read_bytes()
    return whole


def test_compiled_parts_learn_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = set[tuple[int, ...]]()

    def compiler(function, **options):
        def call(*arguments):
            shapes.update(tuple(a.shape) for a in arguments)
            return function(*arguments)

        return call

    monkeypatch.setattr(torch, "compile", compiler)
    whole = check_resumes(tmp_path)
    assert records(whole) == records(trained(tmp_path, "plain", SMALL, Listening()))
    # Evaluation, of all operations at once, is left alone.
    assert max(shape[0] for shape in shapes) < 3**4


@pytest.mark.slow
def test_the_real_compiler(tmp_path: Path) -> None:
    """In a process of its own: checks of annotations, which tests put into every function, cannot be compiled."""
    script = f"""
import sys; sys.path[:0] = {[str(Path(__file__).parent)]}
from pathlib import Path
from test_compiling import Listening, SMALL, check_resumes, records, trained
root = Path({str(tmp_path)!r})
for compiled, plain in zip(records(check_resumes(root)), records(trained(root, "plain", SMALL, Listening()))):
    assert compiled.keys() == plain.keys()
    for name, value in plain.items():
        assert abs(compiled[name] - value) <= 1e-4 * max(1, abs(value)), name
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def failing(message: str, calls: int = 0):
    """A compiler whose product fails after so many calls."""

    def compiler(function, **options):
        count = [0]

        def call(*arguments):
            count[0] += 1
            if count[0] > calls:
                raise RuntimeError(message)
            return function(*arguments)

        return call

    return compiler


@pytest.mark.parametrize("calls", [0, 9])
def test_the_first_error_leaves_the_plain_model(calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", failing("no C++ compiler\nand much more", calls))
    listening = Listening()
    report = trained(tmp_path, "a", COMPILED, listening)
    assert listening.said[-1] == "`train.compile` is given up, training goes on without it: no C++ compiler"
    assert logged(report) == ({0.0} if calls == 0 else {0.0, 1.0})
    plain = trained(tmp_path, "plain", SMALL, Listening())
    assert records(report) == records(plain)


def test_other_results_leave_the_plain_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(function, **options):
        def call(*arguments):
            found = function(*arguments)
            return (found[0] * 1.001, *found[1:]) if isinstance(found, tuple) else found * 1.001

        return call

    monkeypatch.setattr(torch, "compile", compiler)
    listening = Listening()
    report = trained(tmp_path, "a", COMPILED, listening)
    assert len(listening.said) == 1 and "its results differ by" in listening.said[0]
    assert logged(report) == {0.0}
    assert records(report) == records(trained(tmp_path, "plain", SMALL, Listening()))


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.compile would draw other masks"):
        configure("ternary-smoke", overrides=("train.compile=true", "model.encoder_dropout=0.1"))
    with pytest.raises(ConfigError, match=r"train\.compile"):
        configure("lior-smoke", overrides=("train.compile=true",))
