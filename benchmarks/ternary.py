"""Figures of the ternary family: seeds, held-out operations, dimensions beside a flat twin, larger spaces, switches.

Run as `python benchmarks/ternary.py TABLE [--seeds N]`; CPU-seconds are those of the updates on one thread, without
evaluation, and the last column is the whole process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from holonomy.cli.process import tune_process
from holonomy.models.ternary.config import TernaryConfig
from holonomy.models.ternary.learner import TernaryLearner
from holonomy.models.ternary.model import Stream, TernaryOutput, TernaryVAE
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

TABLES = ("fast", "default", "small", "heldout", "dimension", "spaces", "switches", "geoopt")
COMPARED_UPDATES = 60
"""Updates by our operations and by geoopt's, in turn."""
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
        for dim in (16, 12, 9, 6, 4, 3):
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
            "gradient norms": ("weighting.kind=gradnorm", "weighting.every=10", "weighting.lr=0.025"),
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
    assert isinstance(work.learner, TernaryLearner)
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


def compare_geoopt() -> None:
    """One update of the default model with our operations and with geoopt's in place of them, from equal weights."""
    import geoopt  # pyright: ignore[reportMissingImports]

    ball = geoopt.PoincareBall(c=1.0)

    class BallOutput(TernaryOutput):
        """Distances between points of geoopt's ball."""

        def dist(self, i: Tensor, j: Tensor) -> Tensor:
            z = ball.expmap0(self.B.u / 2)
            return ball.dist(z.index_select(0, i), z.index_select(0, j))

        def half_chord(self, i: Tensor, j: Tensor) -> Tensor:
            return torch.sinh(self.dist(i, j) / 2).square()

    class BallVAE(TernaryVAE):
        """The point is one of geoopt's ball; radius, direction and the decoder's input are read from it."""

        def stream(self, table: Tensor, name: str, generator: torch.Generator | None) -> Stream:
            found = super().stream(table, name, generator)
            z = ball.expmap0(found.u / 2)
            rho, u = ball.dist0(z), 2 * ball.logmap0(z)
            return Stream(found.mean, found.logvar, u / u.norm(dim=-1, keepdim=True), rho)

        def forward(
            self, table: Tensor, *, generator: torch.Generator | None = None, decode_B: bool = False
        ) -> TernaryOutput:
            out = super().forward(table, generator=generator, decode_B=decode_B)
            return BallOutput(out.A, out.B, out.logits, out.k, out.max_radius)

    config = configure("ternary").config
    works = {"ours": launch._prepare(config), "geoopt": launch._prepare(config)}
    theirs = works["geoopt"].learner
    assert isinstance(theirs, TernaryLearner)
    theirs.vae.__class__ = BallVAE
    spent: dict[str, list[float]] = {label: [] for label in works}
    losses: dict[str, list[float]] = {label: [] for label in works}
    for at in range(COMPARED_UPDATES):
        for label, work in works.items():
            batch, begin = work.sampler.next(), time.process_time()
            losses[label].append(float(work.learner.train_step(batch, progress=at / 1500).loss))
            spent[label].append(time.process_time() - begin)
    print("| operations | ms of an update, median | loss before the first | loss before the last |\n|---|---|---|---|")
    for label in works:
        middle = 1000 * statistics.median(spent[label][10:])
        print(f"| {label} | {middle:.2f} | {losses[label][0]:.6f} | {losses[label][-1]:.6f} |")


def main() -> None:
    """Prints one table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    tune_process(threads=1)
    if arguments.table == "geoopt":
        compare_geoopt()
        return
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
