"""`holonomy quickstart`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from holonomy.cli import options
from holonomy.cli.console import out, print_json
from holonomy.core.errors import ConfigError
from holonomy.core.registry import nearest
from holonomy.recipes import configure

ARCHITECTURES = ("hybrid", "causal_field", "field_transformer")
BUDGETS = {"smoke": 30.0, "short": 180.0, "long": 600.0}


def quickstart(
    data: Annotated[str | None, typer.Option("--data", help="Known name or path of a UTF-8 text.")] = None,
    architecture: Annotated[str | None, typer.Option("--architecture", help=" | ".join(ARCHITECTURES))] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="smoke (30 s), short (3 min), long (10 min) or CPU-seconds.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="Name of the run directory.")] = None,
    chat: Annotated[bool, typer.Option("--chat/--no-chat", help="Talk to the model afterwards.")] = True,
    only_estimate: Annotated[bool, typer.Option("--estimate", help="Show what it would cost, and stop.")] = False,
    threads: options.Threads = None,
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a language model on your text, step by step: asks, estimates, trains, and lets you talk to it.

    Example: holonomy quickstart --data notes.txt --budget smoke

    Every question has an option; without a terminal the defaults answer.
    """
    asks = sys.stdin.isatty() and not (as_json or quiet)
    source = _answer("text: pydoc, tinyshakespeare or a file", data, "pydoc", asks)
    shape = _answer(" | ".join(ARCHITECTURES), architecture, ARCHITECTURES[0], asks)
    _check_known("architecture", shape, ARCHITECTURES)
    seconds = _seconds(_answer("time: smoke, short, long or CPU-seconds", budget, "smoke", asks))
    resolved = configure(
        "lior",
        options={
            "data.source": ("--data", source),
            "data.unk": ("--data", True),
            "model.architecture": ("--architecture", shape),
            "train.budget": ("--budget", {"steps": None, "tokens": None, "cpu_s": seconds, "seconds": None}),
        },
    ).config
    from holonomy.cli.process import tune_process
    from holonomy.recipes.estimate import estimate

    tune_process(threads=options.thread_count(threads) or "auto")
    cost = estimate(resolved)
    if as_json and only_estimate:
        print_json({"estimate": vars(cost)})
        return
    if not (as_json or quiet):
        out().print(
            f"{cost.parameters:,} parameters, {cost.memory_mb:,.0f} MB, "
            f"{cost.tokens_per_cpu_second:,.0f} characters per CPU-second: "
            f"{cost.steps:,} updates in {cost.cpu_seconds:,.0f} CPU-seconds"
        )
    if only_estimate or (asks and not typer.confirm("train?", default=True)):
        return
    _train(resolved, run, root, chat and asks, as_json, quiet, vars(cost))


def _train(
    config: Any, run: str | None, root: Path, talk: bool, as_json: bool, quiet: bool, cost: dict[str, Any]
) -> None:
    from holonomy.cli import chat
    from holonomy.cli.console import ConsoleProgress
    from holonomy.cli.train import print_report, reported
    from holonomy.recipes import launch

    progress = ConsoleProgress(quiet=as_json or quiet)
    report = reported(lambda: launch.train(config, recipe="quickstart", run=run, root=root, progress=progress))
    if as_json:
        print_json({**report.to_json(), "estimate": cost})
        return
    if not quiet:
        print_report(report)
    if talk:
        chat.chat(report.run.name, root=root)


def _answer(question: str, given: str | None, default: str, asks: bool) -> str:
    if given is not None or not asks:
        return given or default
    return str(typer.prompt(question, default=default))


def _check_known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = nearest(value, known)
        raise ConfigError(f"`--{name}` is {value}; {f'did you mean {near}? ' if near else ''}wanted {', '.join(known)}")


def _seconds(text: str) -> float:
    if text in BUDGETS:
        return BUDGETS[text]
    if not re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", text) or float(text) <= 0:
        raise ConfigError(f"`--budget` is {text!r}; wanted {', '.join(BUDGETS)} or a number of CPU-seconds")
    return float(text)
