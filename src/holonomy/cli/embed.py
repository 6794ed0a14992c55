"""`holonomy embed`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from holonomy.cli import options
from holonomy.cli.console import out, print_json


def embed(
    source: Annotated[
        str, typer.Argument(help="wordnet-mammals, or a file with a pair (below, tab, above) on each line.")
    ],
    points: Annotated[Path, typer.Option("--out", help="File to write: a name and its ball coordinates on each line.")],
    dim: Annotated[int, typer.Option("--dim", min=2, max=1024, help="Dimension of the space.")] = 5,
    steps: Annotated[int, typer.Option("--steps", min=0, help="Updates; 0 is the layout in closed form.")] = 60,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the layout.")] = 0,
    judged: Annotated[
        int | None, typer.Option("--judge", min=1, help="Judge so many things instead of all of a large taxonomy.")
    ] = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Place the things of a taxonomy in hyperbolic space: what is above a thing is nearer than all else.

    Example: holonomy embed wordnet-mammals --dim 5 --out mammals.points
    """
    from holonomy.cli.process import tune_process
    from holonomy.core.config import replace_text
    from holonomy.data.relations import load_relations

    relations = load_relations(source)
    tune_process(threads=options.thread_count(threads) or "auto")
    import torch

    from holonomy.geometry.normal import to_ball
    from holonomy.models.ternary.taxonomy import embed_relations, reconstruction

    begin = time.process_time()
    v = embed_relations(relations, dim, steps=steps, seed=seed)
    spent = time.process_time() - begin
    ball = to_ball(v, torch.tensor(-1.0, dtype=v.dtype)).tolist()
    lines = ("\t".join([name, *map(repr, row)]) for name, row in zip(relations.names, ball, strict=True))
    replace_text(points, "\n".join(lines) + "\n")
    figures = reconstruction(v, relations, judged=judged)
    if as_json:
        names, pairs = len(relations.names), len(relations.pairs)
        print_json({"out": str(points), "things": names, "relations": pairs, "cpu_seconds": spent, **figures})
    if as_json or quiet:
        return
    out().print(
        f"{points}: {len(relations.names):,} things in {dim} dimensions, MAP {figures['map']:.4f}, mean rank "
        f"{figures['mean_rank']:.3f} over {f'{judged:,} of them' if judged else 'all'}, {spent:.1f} CPU-seconds",
    )
