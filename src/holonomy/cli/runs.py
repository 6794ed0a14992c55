"""`holonomy runs`: the catalogue of run directories."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from holonomy.cli import options
from holonomy.cli.console import err, out, print_json
from holonomy.core.errors import CheckpointError
from holonomy.recipes.results import without_parts

if TYPE_CHECKING:
    from holonomy.train.catalogue import RunRecord

runs_commands = typer.Typer(help="The catalogue of run directories.", no_args_is_help=True)
TOLERANCE = 1e-3
"""Difference between a stored and a measured loss, nats per token, beyond which a run counts as invalid."""


def _records(root: Path) -> list[RunRecord]:
    from holonomy.train.catalogue import Catalogue

    return Catalogue(root).records()


def _table(records: list[RunRecord]) -> Table:
    table = Table(
        Column("run", overflow="fold"), "family", "data", "state", "steps", "CPU-s", "held-out", "best", "flags"
    )
    for r in records:
        losses = ["-" if v is None else f"{v:.4f}" for v in (r.loss, r.best)]
        table.add_row(r.name, r.family, r.data, r.state, f"{r.step:,}", f"{r.cpu_s:.0f}", *losses, r.flags)
    return table


def _named(root: Path, names: list[str]) -> list[RunRecord]:
    known = {r.name: r for r in _records(root)}
    missing = [n for n in names if n not in known]
    if missing:
        raise CheckpointError(f"`{missing[0]}` is not a run in {root}; there are: {', '.join(known) or 'none'}")
    return [known[n] for n in names]


@runs_commands.command("list")
def list_runs(root: options.Root = options.ROOT, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List all runs, broken ones too.

    Example: holonomy runs list
    """
    records = _records(root)
    if as_json:
        print_json({"runs": [asdict(r) for r in records]})
    elif not quiet:
        out().print(_table(records))


@runs_commands.command("show")
def show_run(
    run: options.Run,
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show everything about one run: state, metrics, checkpoints, configuration, environment.

    Example: holonomy runs show first
    """
    from holonomy.recipes import launch

    directory = launch.RunDirectory.open(run, root)
    (record,) = _named(directory.path.parent, [directory.path.name])
    detail = launch.describe_run(directory)
    if as_json:
        print_json({**asdict(record), **detail})
    if as_json or quiet:
        return
    console, whole = out(), without_parts(detail["metrics"])
    console.print(_table([record]))
    hidden = len(detail["metrics"]) - len(whole)
    detail["metrics"] = {**whole, **({"of parts of the model": f"{hidden} more, see --json"} if hidden else {})}
    for title in ("metrics", "checkpoints", "changed", "environment"):
        table = Table("configuration, where it differs from the defaults" if title == "changed" else title, "")
        for name, value in detail[title].items():
            table.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value))
        console.print(table)


@runs_commands.command("compare")
def compare(
    runs: Annotated[list[str], typer.Argument(help="Names of runs.")],
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show some runs side by side, best first.

    Example: holonomy runs compare first second
    """
    records = sorted(_named(root, runs), key=lambda r: (r.best is None, r.best))
    if as_json:
        print_json({"runs": [asdict(r) for r in records]})
    elif not quiet:
        out().print(_table(records))


@runs_commands.command("best")
def best(root: options.Root = options.ROOT, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Show the run with the lowest held-out loss.

    Example: holonomy runs best
    """
    from holonomy.train.catalogue import Catalogue

    record = Catalogue(root).best()
    if record is None:
        raise CheckpointError(f"no run in {root} has been evaluated yet; train one with `holonomy train`")
    if as_json:
        print_json(asdict(record))
    elif not quiet:
        out().print(_table([record]))


@runs_commands.command("verify")
def verify(
    runs: Annotated[list[str], typer.Argument(help="Names of runs.")],
    threads: options.Threads = None,
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate runs again; one whose stored loss is off by more than 0.001 is invalid, and the exit code 1.

    Example: holonomy runs verify first
    """
    from holonomy.cli.process import tune_process
    from holonomy.recipes import launch

    tune_process(threads=options.thread_count(threads) or "auto")
    results = []
    for run in runs:
        stored, measured = launch.verify(run, root=root)
        valid = abs(stored - measured) <= TOLERANCE
        results.append({"run": run, "stored": stored, "measured": measured, "valid": valid})
    if as_json:
        print_json({"runs": results})
    elif not quiet:
        table = Table("run", "stored", "measured", "verdict")
        for r in results:
            verdict = "valid" if r["valid"] else "INVALID"
            table.add_row(r["run"], f"{r['stored']:.5f}", f"{r['measured']:.5f}", verdict)
        out().print(table)
    if not all(r["valid"] for r in results):
        raise typer.Exit(1)


@runs_commands.command("plot")
def plot(
    run: options.Run,
    pictures: Annotated[
        Path | None, typer.Option("--out", help="Directory of the pictures (default: in the run).")
    ] = None,
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw the points, radii and losses of a ternary run.

    Example: holonomy runs plot first --out pictures
    """
    from holonomy.recipes import launch
    from holonomy.recipes.plots import plot_run

    where = pictures or launch.RunDirectory.open(run, root).path / "plots"
    files = [str(path) for path in plot_run(run, root=root, out=where)]
    if as_json:
        print_json({"run": run, "files": files})
    elif not quiet:
        out().print("\n".join(files))


@runs_commands.command("report")
def report(
    run: options.Run,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="File of the page (default: report.html in the run).")
    ] = None,
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a page about a run: results, curves, pictures of the model, samples, configuration. Opens without network.

    Example: holonomy runs report first
    """
    from holonomy.audit.run_report import write_report

    written = write_report(run, root=root, out=out_file)
    if as_json:
        size = written.path.stat().st_size
        print_json({"run": run, "report": str(written.path), "bytes": size, "faults": list(written.faults)})
        return
    if not quiet:
        out().print(str(written.path))
    for fault in written.faults:
        err().print(f"warning: the report lacks a part: {fault}")


@runs_commands.command("prune")
def prune(
    runs: Annotated[list[str], typer.Argument(help="Names of runs.")],
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove all checkpoints of runs but the newest and the best one.

    Example: holonomy runs prune first
    """
    from holonomy.train.catalogue import Catalogue

    busy = [r.name for r in _named(root, runs) if r.state == "running"]
    if busy:
        raise CheckpointError(f"`{busy[0]}` is being trained; wait for it, or stop it first")
    freed = Catalogue(root).prune(runs)
    if as_json:
        print_json({"runs": runs, "freed_bytes": freed})
    elif not quiet:
        out().print(f"freed {freed / 2**20:.1f} MB")
