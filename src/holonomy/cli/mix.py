"""`holonomy mix`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from holonomy.cli import options
from holonomy.cli.console import ConsoleProgress, loss_table, out, print_json, print_words, token_unit
from holonomy.cli.train import reported


def mix(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run of a language model.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another one over the same tokens.")],
    run: Annotated[str, typer.Option("--run", help="Name of the run directory to make.")],
    data: Annotated[
        str | None,
        typer.Option("--data", help="A text that neither learned; by default the end of the training text of both."),
    ] = None,
    pool: Annotated[
        Literal["linear", "geometric"],
        typer.Option(
            "--pool", help="linear: members are added; geometric: their sum is multiplied with powers of them."
        ),
    ] = "geometric",
    threads: options.Threads = None,
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fit a mixture of two language models, and save it as a run of its own.

    Example: holonomy mix network memory --run both

    Members that count unlearn the text that the weights are fitted on while they are asked about it. No held-out text
    is used; half of a text named with --data fits, the other half is held out.
    """
    from holonomy.cli.process import tune_process
    from holonomy.recipes import launch, mixture

    tune_process(threads=options.thread_count(threads) or "auto")
    progress = ConsoleProgress(quiet=quiet or as_json, unit="token")
    report = reported(
        lambda: mixture.mix(
            (run_a, run_b),
            run=run,
            root=root,
            read=lambda name: launch.read_checkpoint(name, root),
            progress=progress,
            data=data,
            pool=pool,
        )
    )
    if as_json:
        print_json(report.to_json())
    elif not quiet:
        out().print(loss_table(report.metrics, "Held-out loss of the mixture, nothing learned from the text"))
        if token_unit(report.metrics) == "word":
            print_words(report.metrics)
        out().print(f"{'talk to it:':<17}holonomy chat {run}")
        out().print(f"{'evaluate it:':<17}holonomy eval {run} --baselines --mode online")
