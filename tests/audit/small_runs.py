"""Training of the small runs that claims are tried on."""

from __future__ import annotations

from pathlib import Path

from holonomy.audit.subjects import train_run

SMALL_LIOR = {
    "train.budget.steps": "20", "train.cadence.eval_every": "10", "train.cadence.save_every": "10",
    "model.d": "32", "model.n_osc": "32", "model.hidden": "32", "model.blocks": "2", "data.seq_len": "64",
}  # fmt: skip
SMALL_HOLOGRAPHIC = {
    "model.counts.classes": "[20]", "model.similarity.dim": "16", "model.mixture.product_steps": "5",
    "model.mixture.em_steps": "20", "model.tower.role": "off",
}  # fmt: skip


def trained(recipe: str, root: Path, overrides: dict[str, str]) -> Path:
    return train_run(recipe, root / recipe, overrides).run
