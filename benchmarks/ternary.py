"""Figures of the ternary family: seeds, held-out operations, dimensions beside a flat twin, larger spaces, switches.

Run as `python benchmarks/ternary.py TABLE [--seeds N]`; CPU-seconds are those of the updates on one thread, without
evaluation, and the last column is the whole process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

from holonomy.cli.process import tune_process
from holonomy.models.ternary.config import TernaryConfig
from holonomy.recipes import configure, launch
from holonomy.recipes.ternary import Steering

SHOWN = {
    "faults": "{:.0f}",
    "coverage_heldout": "{:.5f}",
    "hierarchy": "{:.5f}",
    "monotone": "{:.0f}",
    "triplet_concordance": "{:.5f}",
    "triplet_concordance_stratified": "{:.4f}",
    "triplet_concordance_deep": "{:.4f}",
    "pair_spearman": "{:.4f}",
    "richness": "{:.4f}",
}

TABLES = ("fast", "default", "small", "heldout", "dimension", "spaces", "switches")
Row = tuple[str, str, tuple[str, ...]]
"""Label, recipe and overrides of a run."""


def rows(table: str, seeds: int) -> Iterator[Row]:
    """The runs of a table."""
    if table in ("fast", "default", "small"):
        recipe = {"fast": "ternary-fast", "default": "ternary", "small": "ternary-small"}[table]
        yield from ((f"seed {s}", recipe, (f"train.seed={s}",)) for s in range(seeds))
    elif table == "heldout":
        for s in range(seeds):
            yield f"seed {s}", "ternary-heldout", (f"train.seed={s}", f"data.holdout_seed={s}")
    elif table == "dimension":
        for dim in (16, 9, 6):
            for geometry in ("hyperbolic", "euclidean"):
                yield f"{dim}, {geometry}", "ternary-small", (f"model.latent_dim={dim}", f"model.geometry={geometry}")
    elif table == "spaces":
        for base, digits, batch in ((3, 9, 1024), (2, 16, 2048), (3, 12, 4096)):
            shape = (f"data.base={base}", f"data.digits={digits}", f"data.batch={batch}")
            yield f"{base}^{digits}", "ternary", shape
    else:
        changes: dict[str, tuple[str, ...]] = {
            "as it is": (),
            "controller": ("weighting.kind=controller",),
            "learnt deviations": ("weighting.kind=uncertainty",),
            "curriculum": ("curriculum.enabled=true",),
            "homeostasis": ("homeostasis.enabled=true",),
            "no tree triples": ("loss.padic_triplet.tree=0",),
            "distances, not logarithms": ("loss.padic_triplet.measure=linear",),
            "decoder without scales": ("model.decoder_scales=1",),
            "variance 1 at the start": ("model.logvar_init=0.0",),
            "entries as numbers": ("model.input=centred",),
            "learnt curvature": ("model.curvature.learnable=true",),
            "wrapped normal": (
                "model.posterior=wrapped_normal", "loss.kl.weight=0", "loss.wrapped_kl.weight=1.0e-4",
            ),
        }  # fmt: skip
        yield from ((label, "ternary-fast", change) for label, change in changes.items())


def train(config: TernaryConfig) -> tuple[dict[str, float], float]:
    """Trains in memory; gives the figures and the CPU-seconds of the updates."""
    work = launch._prepare(config)
    steered = config.homeostasis.enabled or config.curriculum.enabled
    callbacks = [Steering(config, work.learner)] if steered else []
    steps, cadence, cpu = config.train.budget.steps or 0, config.train.cadence.eval_every, 0.0
    for at in range(steps):
        begin = time.process_time()
        work.learner.train_step(work.sampler.next(), progress=at / steps)
        cpu += time.process_time() - begin
        if callbacks and (at + 1) % cadence == 0:
            found = work.evaluate(lambda: False)
            for callback in callbacks:
                callback.evaluated(at + 1, found or {})
    metrics = work.evaluate(lambda: False)
    assert metrics is not None
    return metrics, cpu


def main() -> None:
    """Prints one table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    tune_process(threads=1)
    print(f"| {arguments.table} | CPU-s | {' | '.join(SHOWN)} | process CPU-s |")
    print(f"|{'---|' * (len(SHOWN) + 3)}")
    spent = []
    for label, recipe, overrides in rows(arguments.table, arguments.seeds):
        begin = time.process_time()
        config = configure(recipe, overrides=overrides).config
        metrics, cpu = train(config)
        cells = [
            form.format(metrics[f"val/{name}"]) if f"val/{name}" in metrics else "" for name, form in SHOWN.items()
        ]
        whole = time.process_time() - begin
        spent.append(cpu)
        print(f"| {label} | {cpu:.1f} | {' | '.join(cells)} | {whole:.1f} |", flush=True)
    print(f"\nmedian CPU-seconds of the updates: {statistics.median(spent):.1f}")


if __name__ == "__main__":
    main()
