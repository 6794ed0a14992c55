"""`holonomy train`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holonomy.cli import options
from holonomy.cli.console import ConsoleProgress, err, figure_table, loss_table, out, print_json, print_words
from holonomy.core.config import leaves
from holonomy.core.errors import ConfigError, Interrupted, TrainingDiverged
from holonomy.recipes import RECIPES, configure
from holonomy.recipes.families import FAMILIES
from holonomy.recipes.results import token_unit
from holonomy.train.signals import leaving

if TYPE_CHECKING:
    from holonomy.train.monitor import Progress
    from holonomy.train.report import FitReport


def train(
    recipe: Annotated[str | None, typer.Argument(help="Name of a recipe; `holonomy recipes` lists them.")] = None,
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    data: Annotated[str | None, typer.Option("--data", help="Known name or path of a UTF-8 text.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Name of the run directory.")] = None,
    root: options.Root = options.ROOT,
    steps: Annotated[int | None, typer.Option("--steps", help="Stop after N updates.")] = None,
    cpu_seconds: Annotated[float | None, typer.Option("--cpu-seconds", help="Stop after this CPU time.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Stop after this wall time.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed of weights and data order, or of what a fit takes.")
    ] = None,
    threads: options.Threads = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")] = None,
    strict_cuda: Annotated[bool, typer.Option("--strict-cuda", help="Refuse to train without a GPU.")] = False,
    resume: Annotated[str | None, typer.Option("--resume", metavar="RUN", help="Continue a run.")] = None,
    init_from: Annotated[
        str | None, typer.Option("--init-from", metavar="RUN", help="Start from the weights of a run.")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a recipe, or continue a run exactly where it stopped.

    Example: holonomy train lior --cpu-seconds 60 --run first

    --steps, --cpu-seconds and --seconds replace the budget of the recipe; of those given, the first one reached
    stops the training. Ctrl-C saves a checkpoint and leaves. A finished holographic run learns a further text with
    --resume RUN --data TEXT; `holonomy forget` takes one out again.
    """
    given = {
        "RECIPE": recipe,
        "--config": config,
        "--set": overrides,
        "--data": data,
        "--run": run,
        "--steps": steps,
        "--cpu-seconds": cpu_seconds,
        "--seconds": seconds,
        "--seed": seed,
        "--device": device,
        "--strict-cuda": strict_cuda,
        "--init-from": init_from,
    }
    if resume is not None:
        odd = [name for name, value in given.items() if value and name != "--data"]
        if odd:
            raise ConfigError(
                f"`--resume` continues a run with its own configuration; drop {', '.join(odd)}, "
                "or start a new run with --init-from"
            )
        report = reported(lambda: _resume(resume, root, threads, quiet or as_json, data))
    elif recipe is None:
        raise ConfigError("`RECIPE` is missing; name one (`holonomy recipes` lists them) or give --resume RUN")
    else:
        settings: dict[str, tuple[str, object]] = {}
        known = leaves(RECIPES.get(recipe).config())
        budget = {"steps": steps, "tokens": None, "cpu_s": cpu_seconds, "seconds": seconds}
        if any(v is not None for v in budget.values()):
            names = ("--steps", "--cpu-seconds", "--seconds")
            settings["train.budget"] = (" ".join(n for n in names if given[n] is not None), budget)
        for key, option, value in (
            ("data.source", "--data", data),
            ("train.seed" if "train.seed" in known else "model.seed", "--seed", seed),
            ("train.threads", "--threads", options.thread_count(threads)),
            ("train.device", "--device", device),
            ("train.strict_cuda", "--strict-cuda", strict_cuda or None),
        ):
            if value is not None:
                settings[key] = (option, value)
        _check_options(recipe, settings, known)
        resolved = configure(recipe, file=config, overrides=overrides or (), options=settings).config
        report = reported(lambda: _train(resolved, recipe, run, root, init_from, quiet or as_json))
    if _follows():
        return
    if as_json:
        print_json(report.to_json())
    elif not quiet:
        print_report(report)


def reported(training: Callable[[], FitReport]) -> FitReport:
    """Trains, and leaves a page about it in the run directory, also when it ends early."""
    try:
        with leaving():
            report = training()
    except (TrainingDiverged, Interrupted) as error:
        if error.run is not None:
            leave_report(error.run)
        raise
    leave_report(report.run)
    return report


def leave_report(run: Path) -> None:
    """Writes the report of a run; a page that fails is told of, and takes nothing else with it."""
    if _follows():
        return
    from holonomy.audit.run_report import FAULTS, write_report

    try:
        faults = write_report(run).faults
    except FAULTS as error:
        err().print(f"warning: no report of {run} was written: {error}")
        return
    for fault in faults:
        err().print(f"warning: the report of {run} lacks a part: {fault}")


def _check_options(recipe: str, settings: dict[str, tuple[str, object]], known: Collection[str]) -> None:
    """Refuses options that the recipe's family has no key for."""
    family = FAMILIES.get(RECIPES.get(recipe).family)
    for key, (option, _) in settings.items():
        if not any(k == key or k.startswith(f"{key}.") for k in known):
            cure = family.instead.get(key, "drop it")
            raise ConfigError(
                f"`{option}` is not for recipes of the family {family.name}: {cure} "
                f"(`holonomy config show {recipe}` lists what can be set)"
            )


def _follows() -> bool:
    """Whether torchrun started this process behind another one, which speaks for both."""
    return os.environ.get("RANK", "0") != "0"


def _progress(quiet: bool, unit: str) -> Progress:
    from holonomy.train.monitor import SilentProgress

    return SilentProgress() if _follows() else ConsoleProgress(quiet=quiet, unit=unit)


def _train(config: Any, recipe: str, run: str | None, root: Path, init_from: str | None, quiet: bool) -> FitReport:
    from holonomy.cli.process import tune_process
    from holonomy.recipes import launch

    tune_process(threads=config.train.threads)
    progress = _progress(quiet, FAMILIES.get(config.family).unit)
    return launch.train(config, recipe=recipe, run=run, root=root, progress=progress, init_from=init_from)


def _resume(run: str, root: Path, threads: str | None, quiet: bool, data: str | None) -> FitReport:
    from holonomy.cli.process import tune_process
    from holonomy.recipes import launch

    chosen = options.thread_count(threads) or launch.RunDirectory.open(run, root).threads
    tune_process(threads=chosen or "auto")
    family = FAMILIES.get(launch.config_of_run(run, root).family)
    return launch.resume(run, root=root, progress=_progress(quiet, family.unit), data=data)


def print_report(report: FitReport) -> None:
    """Prints what a finished training has to say, and what to do next."""
    from holonomy.recipes import launch

    console, root = out(), report.run.parent
    name = shlex.quote(report.run.name if root == options.ROOT else str(report.run))
    page = ("look at it", str(report.run / "report.html"))
    if not FAMILIES.get(report.family).speaks:
        console.print(figure_table(report.metrics, "All operations, along the path that was trained"))
        console.print(
            f"{report.steps:,} updates, {report.tokens:,} operations, {report.cpu_seconds:.1f} CPU-seconds, "
            f"peak memory {report.peak_rss_mb:.0f} MB"
        )
        for purpose, what in (("evaluate it", f"holonomy eval {name} --baselines"), page):
            console.print(f"{purpose + ':':<17}{what}")
        return
    console.print(loss_table(report.metrics, "Held-out loss, all models trained on the same text"))
    if token_unit(report.metrics) == "word":
        print_words(report.metrics)
    console.print(
        f"{report.steps:,} updates, {report.tokens:,} tokens, {report.cpu_seconds:.0f} CPU-seconds, "
        f"peak memory {report.peak_rss_mb:.0f} MB"
    )
    model, infer = launch.load_speaker(report.run.name, root=root)
    console.rule("sample")
    console.print(launch.sample_text(model, infer))
    console.rule()
    for purpose, command in (
        ("talk to it", f"holonomy chat {name}"),
        ("continue a text", f'holonomy generate {name} --prompt "..."'),
        ("evaluate it", f"holonomy eval {name} --baselines"),
        page,
    ):
        console.print(f"{purpose + ':':<17}{command}")
