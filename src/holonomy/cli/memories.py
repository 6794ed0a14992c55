"""`holonomy merge`, `forget` and `sleep`: what can be done to holographic runs after their pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holonomy.cli import options
from holonomy.cli.console import loss_table, out, print_json, print_words, token_unit
from holonomy.cli.train import leave_report

if TYPE_CHECKING:
    from holonomy.train.checkpoint import Checkpoint


def _reader(root: Path, threads: str | None) -> Callable[[str], Checkpoint]:
    from holonomy.cli.process import tune_process
    from holonomy.recipes import launch

    tune_process(threads=options.thread_count(threads) or "auto")
    return lambda name: launch.read_checkpoint(name, root)


def _print(run: str, metrics: dict[str, float], title: str, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json({"run": run, "metrics": metrics})
    elif not quiet:
        out().print(loss_table(metrics, title))
        if token_unit(metrics) == "word":
            print_words(metrics)


def merge(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Two or more runs of one vocabulary.")],
    run: Annotated[str, typer.Option("--run", help="Name of the run directory to make.")],
    threads: options.Threads = None,
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Add what holographic runs have learned into one run, that of a single pass over all their texts.

    Example: holonomy merge part1 part2 --run whole

    Runs need one vocabulary: train them with --set data.vocabulary=TEXT, the same text for all of them.
    """
    from holonomy.recipes.holographic_runs import merge as merged

    metrics = merged(runs, run=run, root=root, read=_reader(root, threads))
    leave_report(root / run)
    _print(run, metrics, "Held-out loss on the text of the first run", as_json=as_json, quiet=quiet)


def forget(
    run: options.Run,
    data: Annotated[str, typer.Option("--data", help="The learned text: known name or path.")],
    threads: options.Threads = None,
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Take a text out of a holographic run, as if it had never learned it, and remove its older checkpoints.

    Example: holonomy forget words --data letters.txt

    Words that only a text before another one brought stay in the vocabulary; nothing is known of them any more.
    """
    from holonomy.recipes.holographic_runs import forget as forgotten
    from holonomy.train.run import RunDirectory

    metrics = forgotten(run, data, root=root, read=_reader(root, threads))
    leave_report(RunDirectory.open(run, root).path)
    _print(run, metrics, "Held-out loss without it", as_json=as_json, quiet=quiet)


def sleep(
    run: options.Run,
    least: Annotated[
        int, typer.Option("--least", min=1, help="Drop long grams that occurred less often; 1 drops none.")
    ] = 1,
    lowest: Annotated[int, typer.Option("--lowest", min=2, help="Order of the shortest grams that may go.")] = 3,
    alike: Annotated[
        float,
        typer.Option("--alike", min=0.0, help="Unite hashed neighbours that differ less in what follows; 0 is none."),
    ] = 0.02,
    bound: Annotated[
        float,
        typer.Option("--bound", min=0.0, help="Largest rise of the perplexity, relative, that dropping may cost."),
    ] = 0.01,
    threads: options.Threads = None,
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Pack a holographic run into as little memory as reading needs: every probability stays as it is.

    Example: holonomy sleep words

    A packed run can learn and forget as before; it then takes as much memory as before, until it sleeps again. Only
    --least above 1, and --alike where the run keeps hashed neighbours (model.basins), give something up, on trial.
    """
    from holonomy.recipes.holographic_runs import sleep_run
    from holonomy.train.run import RunDirectory

    reader = _reader(root, threads)
    report = sleep_run(run, root=root, read=reader, least=least, lowest=lowest, alike=alike, bound=bound)
    if report.bytes_after < report.bytes_before or report.dropped:
        leave_report(RunDirectory.open(run, root).path)
    if as_json:
        print_json({"run": run, **asdict(report)})
        return
    if quiet:
        return
    said = f"{report.bytes_before:,} bytes to {report.bytes_after:,}"
    if report.loss_before is not None and report.loss_after is not None:
        united = f", {report.united:,} hashed neighbours united" if report.united else ""
        said += f", {report.dropped:,} grams dropped{united}, loss on unlearned pieces {report.loss_before:.4f} to "
        said += f"{report.loss_after:.4f}" + ("" if report.kept else "; what costs more than --bound allows stays")
    out().print(said)
