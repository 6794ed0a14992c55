"""Three signals in five phases of a run, through the command line: what was trained is saved, and continues exactly."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import pytest
from mortal import Outcome, check_continues, in_child, small_run, start

from holonomy.cli import main
from holonomy.data.tokenizer import CharTokenizer
from holonomy.learn.echo import EchoLearner
from holonomy.recipes import launch
from holonomy.train import checkpoint

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
NUMBER = 7
"""Update in which a signal comes."""


def send_in(phase: str, signum: int) -> None:
    """Lets this process get a signal in the middle of a phase."""
    calls = []

    def struck(real: Callable, number: int = 1) -> Callable:
        def call(*arguments, **options):
            calls.append(real)
            if len(calls) == number:
                os.kill(os.getpid(), signum)
            return real(*arguments, **options)

        return call

    prepare = launch._prepare

    def prepared(*arguments, **options):
        work = prepare(*arguments, **options)
        return replace(work, **{phase: struck(getattr(work, phase))})

    if phase in ("evaluate", "closing"):
        launch._prepare = prepared
    else:
        owner, name, number = {
            "tokenizing": (CharTokenizer, "encode", 1),
            "warming up": (EchoLearner, "setup", 1),
            "training": (EchoLearner, "train_step", NUMBER),
            "saving": (checkpoint, "save", 1),
        }[phase]
        setattr(owner, name, struck(getattr(owner, name), number))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    path = tmp_path_factory.mktemp("whole") / "run"
    start("lior", path)
    return Outcome.read(path)


@pytest.mark.parametrize("phase", ["tokenizing", "warming up", "training", "evaluate", "saving", "closing"])
@pytest.mark.parametrize("signum", CODES)
def test_what_was_trained_is_saved(phase: str, signum: signal.Signals, tmp_path: Path, whole: Outcome) -> None:
    path, errors = tmp_path / "run", tmp_path / "errors"
    recipe, settings = small_run("lior", tmp_path)
    options = ["--run", path.name, "--root", str(tmp_path), "--threads", "1", "--quiet"]

    def work() -> int:
        send_in(phase, signum)
        sys.argv = ["holonomy", "train", recipe, *options, *(f"--set={s}" for s in settings)]
        with errors.open("w") as file, redirect_stderr(file), pytest.raises(SystemExit) as ended:
            main.run()
        return int(ended.value.code or 0)

    assert in_child(work) == CODES[signum]
    # An evaluation comes with the fourth update, a save with the first evaluation that is the best.
    latest, said = checkpoint.find(path / "checkpoints", "latest"), " ".join(errors.read_text().split())
    saved = {"training": (NUMBER,), "evaluate": (4,), "saving": (4, 5), "closing": (12,)}.get(phase, ())
    assert f"interrupted by signal {CODES[signum] - 128}; " in said
    if saved:
        assert latest is not None and latest.name in [f"step-{n}" for n in saved]
        assert latest.name in said
    else:
        assert latest is None
        assert "nothing had been trained yet" in said
    check_continues("lior", path, whole)
