"""What a holographic model looks like inside: how full its satellites are, and what each path weighs and takes."""

from __future__ import annotations

import math

import numpy as np

from holonomy.core.picture import Axis, Picture, Series, counted
from holonomy.models.holographic.mixture import Gate
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.pooling import Pool
from holonomy.models.holographic.tower import Tower

BINS = 60
"""Bars of the histogram of loads, about."""


def holographic_pictures(model: HolographicModel) -> list[Picture]:
    """Loads of the satellites by order where there is a tower, weights of the paths, and bytes of the structures."""
    memories, mixture = model.memories, model.mixture
    found = [] if model.mirror is None else _loads(model.mirror.tower)
    off = " The tower of satellites is off (`model.tower.role`)." if model.mirror is None else ""
    if not mixture.calibrated:
        words = f"Nothing has been fitted yet.{off}"
    else:
        words = f"At the average context of those that the mixture was fitted on.{off}"
    if mixture.pool is None:
        title, names, kind = "Share of each path", memories.experts, "share of the mixture"
        weights = _average(mixture.gate)
    else:
        title, names, kind = "Exponent of each path", memories.voices, "exponent in the product"
        weights = _average(mixture.pool)
    found.append(
        Picture(
            title,
            words,
            Axis("path"),
            Axis(kind),
            [Series(kind, range(len(names)), weights.tolist())],
            mark="bar",
            labels=names,
        )
    )
    sizes = model.stats()
    found.append(
        Picture(
            "Memory of each path",
            "Bytes that each structure of the learned state takes.",
            Axis("structure"),
            Axis("MiB"),
            [Series("MiB", range(len(sizes)), [size / 2**20 for size in sizes.values()])],
            mark="bar",
            labels=list(sizes),
        )
    )
    return found


def _average(weighting: Gate | Pool) -> np.ndarray:
    """Weights where every number of the context has its mean; the first number is always one."""
    numbers = weighting.mean.copy()
    numbers[0] = 1.0
    return (weighting(numbers[None]) if isinstance(weighting, Gate) else weighting.scores(numbers[None]))[0]


def _loads(tower: Tower) -> list[Picture]:
    """How many pairs the satellites hold, over all addresses and by order."""
    load = tower.load.cpu().numpy()
    by_order = {n: load[part] for n, part in tower.parts.items()}
    width = float(max(1, math.ceil((int(load.max()) + 1) / BINS)))
    rows = [
        [f"order {n}", len(part), float((part > 0).mean()), float(part.mean()), int(part.max()), int(part.sum())]
        for n, part in by_order.items()
    ]
    total = max(1, int(load.sum()))
    return [
        Picture(
            "Load of the satellites",
            f"How many addresses hold how many pairs; each address has {tower.signatures.channels} satellites, read "
            f"together. Bars are {width:.0f} wide.",
            Axis("pairs at an address"),
            Axis("addresses", log=True),
            [counted("addresses", load.tolist(), start=-0.5, width=width)],
            mark="bar",
            width=width,
            table=(["order", "addresses", "share in use", "mean load", "largest load", "pairs"], rows),
        ),
        Picture(
            "Satellites by order",
            "Which orders fill the tower: the share of each order's addresses that hold anything, and the share of all "
            "pairs that each order holds.",
            Axis("order"),
            Axis("share"),
            [
                Series("addresses in use", range(len(rows)), [float((p > 0).mean()) for p in by_order.values()]),
                Series("of all pairs", range(len(rows)), [int(p.sum()) / total for p in by_order.values()]),
            ],
            mark="bar",
            labels=[f"order {n}" for n in by_order],
        ),
    ]
