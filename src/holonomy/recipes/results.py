"""What the final metrics of a run say beside plain baselines, as rows for whoever prints them. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping

LOSSES = {
    "unigram": "baseline/unigram",
    "bigram": "baseline/bigram",
    "Kneser-Ney, order 5": "baseline/kn5",
    "Kneser-Ney, order 7": "baseline/kn7",
    "exact counts, rare ones dropped": "baseline/counts",
    "this model": "val/loss",
    "Kneser-Ney, order 5, learning": "baseline/kn5_online",
    "Kneser-Ney, order 7, learning": "baseline/kn7_online",
    "this model, learning": "val/loss_online",
    "this model, with memory": "val/loss_memory",
}
"""Models of a text, plain ones first, and the metrics of their losses."""
PARTS = ("val/share_", "val/loss_", "val/exponent_", "memory/bytes_", "memory/load_", "memory/f2_per_cell_")
"""What the names of figures of a part of a model begin with: too many to read them one by one."""
KINDS = {"val": "this model", "baseline": "closed form", "untrained": "untrained"}
"""Embeddings, and what their metrics begin with."""


def without_parts(metrics: Mapping[str, object]) -> dict[str, object]:
    """Metrics of the whole model alone."""
    return {k: v for k, v in metrics.items() if k in LOSSES.values() or not k.startswith(PARTS)}


def token_unit(metrics: Mapping[str, float]) -> str:
    """What the losses are per: a character, a word, or a token where characters were counted besides."""
    if any(name in metrics for name in ("val/perplexity_known", "val/perplexity_known_online")):
        return "word"
    return "token" if any(name.startswith("val/characters") for name in metrics) else "char"


def loss_suffix(metrics: Mapping[str, float]) -> str:
    """What names of figures end in: nothing, or how the model learned while it read."""
    return next((s for s in ("_online", "_memory") if f"val/loss{s}" in metrics), "")


def loss_rows(metrics: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Held-out loss of the model beside plain baselines: name, nats and bits of each that was measured."""
    return [(n, metrics[key], metrics[key] / 0.6931471805599453) for n, key in LOSSES.items() if key in metrics]


def figure_rows(metrics: Mapping[str, float]) -> tuple[list[str], list[tuple[str, list[float | None]]]]:
    """Figures of the model, beside those of the closed form and of the untrained model where they were measured.

    Returns:
        What is compared, and a row for each figure.
    """
    shown = [kind for kind in KINDS if any(k.startswith(f"{kind}/") for k in metrics)]
    names = [key.removeprefix("val/") for key in metrics if key.startswith("val/")]
    rows = [(n.replace("_", " "), [metrics.get(f"{kind}/{n}") for kind in shown]) for n in names if "/" not in n]
    return [KINDS[kind] for kind in shown], rows
