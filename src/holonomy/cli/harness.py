"""`holonomy lm-eval`."""

from __future__ import annotations

import logging
import math
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from holonomy.cli import options
from holonomy.cli.console import err, out, print_json
from holonomy.core.errors import ConfigError


def lm_eval(
    run: options.Run,
    tasks: Annotated[
        list[str] | None, typer.Option("--tasks", help="Task of the harness or YAML file of one; may be repeated.")
    ] = None,
    texts: Annotated[
        list[str] | None, typer.Option("--text", help="Perplexity of this text: known name or path; may be repeated.")
    ] = None,
    limit: Annotated[float | None, typer.Option("--limit", help="Documents a task at most, below 1 a share.")] = None,
    num_fewshot: Annotated[
        int | None, typer.Option("--num-fewshot", min=0, help="Examples before each document (default: the task's).")
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option("--include-path", metavar="FOLDER", help="Folder with more tasks.")
    ] = None,
    threads: options.Threads = None,
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate a run with tasks of the lm-evaluation-harness (extra: eval).

    Example: holonomy lm-eval first --text my.txt
    """
    if not tasks and not texts:
        raise ConfigError("`--tasks` is missing; name a task or a YAML file, or a text with --text FILE")
    if limit is not None and not 0 < limit < math.inf:
        raise ConfigError(f"`--limit` is {limit}; wanted a number of documents, or a share below 1")
    from holonomy.audit import harness
    from holonomy.cli.process import tune_process

    threaded = options.thread_count(threads) or "auto"
    made = harness.model_class()
    tune_process(threads=threaded)
    logging.getLogger("lm_eval").setLevel(logging.ERROR if quiet else logging.WARNING)
    # The harness and its tasks print as they like; stdout is for results.
    with redirect_stdout(sys.stderr):
        model = made(run, root=str(root))
        found = harness.evaluate_tasks(
            model,
            [*(tasks or ()), *harness.text_tasks(texts or ())],
            limit=limit,
            num_fewshot=num_fewshot,
            include_path=include_path,
        )
    results = {task: _figures(values) for task, values in found["results"].items()}
    info = model.get_model_info()
    if as_json:
        print_json({"run": run, "results": results, "model": info})
    if as_json or quiet:
        return
    table = Table("task", "metric", "value")
    for task, values in results.items():
        for name, value in values.items():
            table.add_row(task, name, f"{value:.6g}" if isinstance(value, float) else str(value))
    out().print(table)
    if info["unknown"]:
        err().print(f"note: {info['unknown']:,} symbols were never seen in training")


def _figures(values: dict[str, Any]) -> dict[str, float | int | str | None]:
    """Metrics without the name of the filter where there is none; what is no number is None."""
    return {
        name.removesuffix(",none"): None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
        if name not in ("alias", "name") and isinstance(value, float | int | str)
    }
