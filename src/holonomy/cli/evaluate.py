"""`holonomy eval`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from holonomy.cli import options
from holonomy.cli.console import err, figure_table, loss_table, out, print_json, print_words
from holonomy.core.errors import ConfigError
from holonomy.recipes.results import loss_suffix, token_unit


def evaluate(
    run: options.Run,
    data: Annotated[str | None, typer.Option("--data", help="Another text: known name or path.")] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="train, validation or all (default: validation, all for --data)."),
    ] = None,
    baselines: Annotated[bool, typer.Option("--baselines", help="Add plain baselines on the same data.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if the run misses the targets of its configuration.")
    ] = False,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            help="windows from rest, carried: one stream, memory: a stream with associative memory, "
            "field: a stream that moves the tensor field; "
            "doubt: how sure a ternary run is of its entries, grokking: whether it generalised late.",
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="RUN", help="With --protocol doubt: another ternary run, taken together."),
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", help="static, or online: each block is learned after it was predicted.")
    ] = "static",
    threads: options.Threads = None,
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate a run: on held-out text, or on all operations.

    Example: holonomy eval first --baselines

    Figures of --mode online end in _online and those of --protocol memory in _memory: they never stand beside those of
    a model that learns nothing meanwhile.
    """
    from holonomy.cli.process import tune_process
    from holonomy.recipes import launch

    tune_process(threads=options.thread_count(threads) or "auto")
    metrics = launch.evaluate(
        run, root=root, data=data, split=split, with_baselines=baselines, protocol=protocol, mode=mode
    )
    if beside:
        if protocol != "doubt":
            raise ConfigError("`--with` is about ensembles of ternary runs; add --protocol doubt")
        metrics |= launch.evaluate_together([run, *beside], root=root)
    missed = launch.missed_targets(run, metrics, root=root) if check else None
    if as_json:
        print_json({"run": run, "metrics": metrics, **({} if missed is None else {"missed": missed})})
    elif not quiet:
        _print_metrics(metrics, protocol, mode)
    for fault in missed or ():
        err().print(f"missed: {fault}")
    if missed:
        raise typer.Exit(1)


def _print_metrics(metrics: Mapping[str, float], protocol: str | None, mode: str) -> None:
    if not any(name.startswith("val/perplexity") for name in metrics):
        out().print(figure_table(metrics, "All operations, along the path that was trained"))
    else:
        unit = {"char": "character"}.get(token_unit(metrics), token_unit(metrics))
        suffix = loss_suffix(metrics)
        how = "each block learned after it was predicted" if mode == "online" else f"protocol {protocol or 'windows'}"
        how = how if suffix or "val/top1" not in metrics else "static"
        out().print(loss_table(metrics, f"{metrics[f'val/tokens{suffix}']:,.0f} {unit}s, {how}"))
        if unit == "word":
            print_words(metrics)
        else:
            out().print(f"perplexity {metrics[f'val/perplexity{suffix}']:.3f} per {unit}")
        if unit == "token":
            out().print(f"{metrics[f'val/bits_per_char{suffix}']:.4f} bits per character")
        if metrics.get(f"val/calibrated{suffix}") == 0:
            err().print("note: nothing was fitted yet, so all experts weigh the same; finish with --resume")
        if unknown := metrics.get(f"val/unknown{suffix}"):
            out().print(f"{unknown:,.0f} of the characters were never seen in training")
