"""Configurations of three earlier programs for the same operations, as configurations of this package.

Each program is recognised by keys that only it had. A table says for every key that has a counterpart what it is called
here and how its value changes; a key without a row is dropped, and the notes say why. Radii in the ball become geodesic
lengths: 2 artanh(m) at curvature -1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holonomy.core.errors import ConfigError

OPERATIONS = 3**9
NO_COUNTERPART = "no counterpart"
Change = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _geodesic(radius: Any) -> float:
    if not isinstance(radius, int | float) or not 0 <= radius < 1:
        raise ConfigError(f"a radius in the ball is {radius!r}; wanted a number from 0 to below 1, such as 0.95")
    return 2 * math.atanh(radius)


@dataclass(frozen=True)
class KeySet:
    """The keys of one program.

    Attributes:
        name: what it is called in notes.
        signs: keys and nodes that only it had; one is enough.
        rows: old dotted key to (key here, change of the value).
        dropped: old dotted key, or node, to the reason why it has no counterpart.
        fixed: keys that make this package do what the program always did.
    """

    name: str
    signs: tuple[str, ...]
    rows: Mapping[str, tuple[str, Change]]
    dropped: Mapping[str, str]
    fixed: Mapping[str, Any]


_SHARED: dict[str, tuple[str, Change]] = {
    "seed": ("train.seed", _same),
    "latent_dim": ("model.latent_dim", _same),
    "batch_size": ("data.batch", _same),
    "grad_clip": ("train.optim.clip", _same),
    "optimizer.lr_start": ("train.optim.lr", _same),
    "optimizer.weight_decay": ("train.optim.decay", _same),
    "model.latent_dim": ("model.latent_dim", _same),
    "training.seed": ("train.seed", _same),
    "training.batch_size": ("data.batch", _same),
    "training.lr": ("train.optim.lr", _same),
    "training.weight_decay": ("train.optim.decay", _same),
    "training.grad_clip": ("train.optim.clip", _same),
    "training.patience": ("train.guard.patience", _same),
}
_MACHINE = dict.fromkeys(
    [
        f"{node}{key}"
        for node in ("", "training.")
        for key in (
            "riemannian", "manifold_aware", "use_amp", "cudnn_benchmark", "empty_cache_freq", "checkpoint_name",
        )
    ],
    "set by the package itself",
)  # fmt: skip

FLAT = KeySet(
    "two autoencoders in one flat file",
    signs=("vae_a", "vae_b", "phase_transitions"),
    rows=_SHARED
    | {
        "ranking_hyperbolic.weight": ("loss.padic_triplet.weight", _same),
        "ranking_hyperbolic.margin": ("loss.padic_triplet.margin", _same),
        "controller.enabled": ("weighting.kind", lambda on: "controller" if on else "fixed"),
        "max_radius": ("model.projection.max_radius", _geodesic),
    },
    dropped=_MACHINE
    | {
        "vae_a": "the weight of the divergence does not change in time: loss.kl.weight",
        "vae_b": "the weight of the divergence does not change in time: loss.kl.weight",
        "optimizer.lr_schedule": "train.schedule counts shares of the budget, not epochs",
        "phase_transitions": "phases.geometry_start is the one transition",
        "controller": "the controller learns from held-out gradients",
    },
    fixed={"model.sharing": "separate"},
)

FROZEN = KeySet(
    "a projection on a frozen checkpoint",
    signs=("frozen_checkpoint",),
    rows=_SHARED
    | {
        "frozen_checkpoint.path": ("frozen.decoder", _same),
        "projection.hidden_dim": ("model.projection.hidden", _same),
        "projection.max_radius": ("model.projection.max_radius", _geodesic),
        "use_dual_projection": ("model.sharing", lambda dual: "separate" if dual else "tied"),
    },
    dropped=_MACHINE
    | {
        "frozen_checkpoint.encoder_to_load": "an encoder comes with its projection, which is what is to learn",
        "frozen_checkpoint.decoder_to_load": "a run has one decoder",
    },
    fixed={},
)

HOMEOSTATIC = KeySet(
    "homeostasis over a nested file",
    signs=("option_c", "model.encoder_type", "loss.rank", "loss.radial", "loss.geodesic"),
    rows=_SHARED
    | {
        "frozen_checkpoint.path": ("frozen.decoder", _same),
        "model.encoder_type": ("model.encoder", lambda kind: "gated" if kind == "improved" else "relu"),
        "model.decoder_type": ("model.decoder", lambda kind: "gated" if kind == "improved" else "relu"),
        "model.max_radius": ("model.projection.max_radius", _geodesic),
        "model.hidden_dim": ("model.projection.hidden", _same),
        "model.learnable_curvature": ("model.curvature.learnable", _same),
        "model.curvature": ("model.curvature.value", _same),
        "model.use_dual_projection": ("model.sharing", lambda dual: "separate" if dual else "tied"),
        "loss.rich_hierarchy.weight": ("loss.rich_hierarchy.weight", _same),
        "loss.rich_hierarchy.hierarchy_weight": ("loss.rich_hierarchy.hierarchy", _same),
        "loss.rich_hierarchy.richness_weight": ("loss.rich_hierarchy.richness", _same),
        "loss.rich_hierarchy.separation_weight": ("loss.rich_hierarchy.separation", _same),
        "loss.radial.weight": ("loss.radial_stratification.weight", _same),
        "loss.radial.inner_radius": ("loss.radial_stratification.inner", _geodesic),
        "loss.radial.outer_radius": ("loss.radial_stratification.outer", _geodesic),
        "loss.rank.weight": ("loss.global_rank.weight", _same),
        "loss.rank.n_pairs": ("loss.global_rank.pairs", _same),
        "loss.geodesic.weight": ("loss.padic_geodesic.weight", _same),
        "loss.geodesic.n_pairs": ("loss.padic_geodesic.pairs", _same),
        "loss.zero_structure.weight": ("loss.zero_structure.weight", _same),
        "option_c.encoder_a_lr_scale": ("train.optim.encoder_scale", _same),
        "training.high_v_budget_ratio": ("data.high_budget", _same),
        **{
            f"homeostasis.{old}": (f"homeostasis.{key}", _same)
            for old, key in {
                "enabled": "enabled",
                "warmup_epochs": "warmup",
                "hysteresis_epochs": "hysteresis",
                "coverage_freeze_threshold": "coverage_freeze",
                "coverage_unfreeze_threshold": "coverage_unfreeze",
                "coverage_floor": "coverage_floor",
                "enable_annealing": "annealing",
                "annealing_step": "annealing_step",
                "hierarchy_plateau_threshold": "plateau",
                "hierarchy_plateau_patience": "patience",
            }.items()
        },
    },
    dropped=_MACHINE
    | {
        "scheduler": "train.schedule counts shares of the budget, not epochs",
        "training.use_stratified": "batches always hold deep levels; data.high_budget is their share",
        "loss.geodesic.phase_start_epoch": "phases.geometry_start, where training.epochs is given",
    },
    # What a program had no name for it did not have.
    fixed={"loss.radial_bands.weight": 0.0, "loss.padic_triplet.weight": 0.0},
)

KEY_SETS = (FLAT, HOMEOSTATIC, FROZEN)
"""The last is asked last: the homeostatic program knew frozen checkpoints, too."""


def recognise(tree: Mapping[str, Any]) -> KeySet | None:
    """Whose keys a tree has, or None for those of this package."""
    nodes = {node for key, _ in _ends(tree) for node in _prefixes(key)}
    return next((keys for keys in KEY_SETS if nodes.intersection(keys.signs)), None)


def convert(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A tree of this package from one of an earlier program; one of this package stays as it is.

    Returns:
        The tree, and a note for every key that was renamed, changed or dropped.

    Raises:
        ConfigError: a radius is not one of the ball.
    """
    keys = recognise(tree)
    if keys is None:
        return dict(tree), []
    found: dict[str, Any] = dict(keys.fixed)
    notes = [f"`{key}` is {value!r}: so did {keys.name}" for key, value in keys.fixed.items()]
    old = dict(_ends(tree))
    for key, value in old.items():
        if key in keys.rows and value is None:
            notes.append(f"`{key}` is dropped: it was empty")
        elif key in keys.rows:
            new, change = keys.rows[key]
            found[new] = change(value)
            notes.append(f"`{key}` = {value!r} is now `{new}` = {found[new]!r}")
    _epochs(old, found, notes)
    for key in old:
        if key not in keys.rows and not (key in _EPOCHS and "train.budget.steps" in found):
            reasons = (keys.dropped[k] for k in _prefixes(key) if k in keys.dropped)
            notes.append(f"`{key}` is dropped: {next(reasons, NO_COUNTERPART)}")
    _settle(found, notes)
    nested: dict[str, Any] = {}
    for key, value in found.items():
        *parents, last = key.split(".")
        node = nested
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return nested, notes


_EPOCHS = ("total_epochs", "epochs", "training.epochs")


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _epochs(old: Mapping[str, Any], found: dict[str, Any], notes: list[str]) -> None:
    """Epochs as updates, and the start of a phase as a share of them."""
    epochs = next((old[key] for key in _EPOCHS if _positive(old.get(key))), None)
    batch = found.get("data.batch", 1024)
    if epochs is None or not _positive(batch):
        return
    steps = found["train.budget.steps"] = epochs * math.ceil(OPERATIONS / batch)
    notes.append(f"{epochs} epochs are now `train.budget.steps` = {steps}")
    start = old.get("loss.geodesic.phase_start_epoch")
    if _positive(start) and start < epochs:
        found |= {"phases.geometry_start": start / epochs, "loss.padic_geodesic.structure": 0.0}
        notes.append(f"`loss.geodesic.phase_start_epoch` = {start} is now `phases.geometry_start` = {start / epochs}")


def _settle(found: dict[str, Any], notes: list[str]) -> None:
    """Drops what this package refuses because nothing would read it."""
    losses = {key.split(".")[1] for key in found if key.startswith("loss.")}
    dead = [f"loss.{name}." for name in losses if not found.get(f"loss.{name}.weight")]
    if not found.get("homeostasis.enabled"):
        dead.append("homeostasis.")
    elif found.get("homeostasis.annealing") is False:
        dead += ["homeostasis.annealing_step", "homeostasis.coverage_floor"]
    targets = [f"loss.{n}.weight" for n in ("rich_hierarchy", "radial_stratification")]
    if all(found.get(key) for key in targets):
        dead.append("loss.radial_stratification.")
    if not found.get("loss.padic_geodesic.weight"):
        dead.append("phases.")
    for key in [k for k in found if k.startswith(tuple(dead)) and found[k] != 0]:
        del found[key]
        notes.append(f"`{key}` is dropped: nothing would read it")


def _ends(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _ends(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _prefixes(key: str) -> Iterator[str]:
    """The key, its node, the node of that, and so on."""
    while key:
        yield key
        key = key.rpartition(".")[0]
