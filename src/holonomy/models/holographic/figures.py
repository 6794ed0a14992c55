"""What an evaluation says about the parts of a model: its experts or voices, its bindings, and the bytes of all."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from holonomy.models.holographic.contexts import Contexts, of_text
from holonomy.models.holographic.cues import Reading
from holonomy.models.holographic.fit import Block
from holonomy.models.holographic.mixture import FLOOR
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.retrieval import shares_brought, with_rivals
from holonomy.models.holographic.tower import Tower

EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128)
"""Lowest loads of the classes that satellites are counted in; the last one has no end."""
LEAST_LEVEL = 3
"""Lowest level that a tower can be folded to."""
LENT = 0.01
"""Weight of the counts beside a trace of the text alone, which gives nothing to words that it does not remember."""


def metric_name(part: str) -> str:
    """The name of an expert, a voice or a structure as the end of a metric's name."""
    return re.sub(r"[^0-9A-Za-z]+", "_", part)


def _named(prefix: str, parts: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {f"{prefix}_{metric_name(p)}": float(v) for p, v in zip(parts, values, strict=True)}


def load_shares(loads: Int[Tensor, " addresses"]) -> dict[int, float]:
    """Share of satellites by class of their load, named by the lowest one."""
    bounds = torch.tensor(EDGES[1:], device=loads.device)
    found = torch.bincount(torch.bucketize(loads, bounds, right=True), minlength=len(EDGES))
    return dict(zip(EDGES, (found.double() / len(loads)).tolist(), strict=True))


def _tower_figures(tower: Tower) -> dict[str, float]:
    (energy, still), used = tower.energies().T, int((tower.load > 0).sum())
    cells = 16 * tower.signatures.channels
    found = {
        "memory/load": float(tower.load.max()),
        "memory/stability": float(still.sum()) / max(1, used),
        "memory/f2_per_cell": float(energy.mean()) / cells,
    }
    found |= {f"memory/f2_per_cell_{n}": float(energy[part].mean()) / cells for n, part in tower.parts.items()}
    for level in range(LEAST_LEVEL, tower.levels + 1):
        name = "memory/load" if level == tower.levels else f"memory/load_level{level}"
        found |= {f"{name}_{edge}": share for edge, share in load_shares(tower.loads(level)).items()}
    return found


def store_figures(model: HolographicModel) -> dict[str, float]:
    """Bytes of every structure; of a tower also how full it is, how clean, and how loud its noise: F2 / M by order."""
    sizes = model.stats()
    found = {"memory/bytes": float(sum(sizes.values()))}
    found |= {f"memory/bytes_{metric_name(name)}": float(size) for name, size in sizes.items()}
    return found if model.mirror is None else found | _tower_figures(model.mirror.tower)


def _voice_rows(model: HolographicModel, reading: Reading, targets: np.ndarray) -> dict[str, np.ndarray]:
    memories, pool = model.memories, model.mixture.pool
    losses = -memories.panel(reading)[np.arange(len(targets)), :, targets].astype(np.float64)
    traces = len(memories.recency.traces)
    # What a trace says is told relative to the order that smooths it.
    losses[:, losses.shape[1] - traces :] += losses[:, memories.middle, None]
    found = {"val/loss": losses}
    return found if pool is None else found | {"val/exponent": pool.exponents(reading.numbers)}


def _expert_rows(model: HolographicModel, reading: Reading, targets: np.ndarray) -> dict[str, np.ndarray]:
    memories, mixture = model.memories, model.mixture
    probs, known = mixture.experts_at(memories, reading, targets)
    weights = mixture.weights(reading, known)
    alone = Block(probs, known, reading.numbers, targets).filled()
    first = len(memories.grams) + len(memories.config.counts.classes)
    traces = slice(first, first + len(memories.recency.traces))
    alone[:, traces] += LENT * (alone[:, :1] - alone[:, traces])
    return {"val/share": shares_brought(weights, probs), "val/loss": -np.log(np.maximum(alone, FLOOR))}


def _rows(model: HolographicModel, contexts: Contexts, targets: np.ndarray) -> dict[str, np.ndarray]:
    cues = model.memories.cues(contexts, traces=True, targets=targets)
    reading, found = model.memories.read_cued(cues), dict[str, np.ndarray]()
    if model.mirror is not None:
        words = with_rivals(targets, model.said(reading))
        found["val/coherence"] = model.mirror.coherence(contexts, words)
    told = _voice_rows if model.memories.pooled else _expert_rows
    return found | told(model, reading, targets)


def part_figures(
    model: HolographicModel, tokens: np.ndarray, positions: np.ndarray, *, starts: np.ndarray | None = None
) -> dict[str, float]:
    """What each part makes of the words at some positions of a text, as means, by the names of metrics.

    Of experts that are added the share of each in the probability of the word, and its own loss: that of the first
    where another knows nothing, and of a hundredth of the first beside each trace of the text. Of voices that are
    multiplied the loss of each and, once they are fitted, its exponent. Of a tower how clearly what stands at the
    address of the longest order is the word that came, and the most probable other word.

    Args:
        model: what predicts; nothing of it changes.
        tokens: documents end to end.
        positions: the places.
        starts: where each document begins; one document by default.
    """
    if not len(positions):
        return {}
    tokens = np.ascontiguousarray(tokens, dtype=np.int64)
    contexts = of_text(tokens, np.zeros(1, np.int64) if starts is None else starts, positions)
    targets, rows = tokens[positions], model.rows
    cuts = [slice(begin, begin + rows) for begin in range(0, len(targets), rows)]
    told = [_rows(model, contexts.part(cut), targets[cut]) for cut in cuts]
    means = {name: np.concatenate([part[name] for part in told]).mean(0, dtype=np.float64) for name in told[0]}
    found = dict[str, float]()
    if "val/coherence" in means:
        found["val/coherence"], found["val/coherence_wrong"] = means.pop("val/coherence").tolist()
    names = model.memories.voices if model.memories.pooled else model.memories.experts
    for name, values in means.items():
        found |= _named(name, names, values)
    return found
