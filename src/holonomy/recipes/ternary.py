"""The ternary family: all operations, their batches, and what an embedding of them is measured by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from holonomy.core.config import from_json, leaves, to_json
from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.core.learner import Json
from holonomy.core.picture import Picture
from holonomy.data.ternary_ops import OperationSpace, StratifiedBatches, holdout
from holonomy.learn.echo import check_tensors
from holonomy.models.ternary.baseline import ClosedForm
from holonomy.models.ternary.config import TernaryConfig, TernaryDataConfig
from holonomy.models.ternary.grokking import grokking_figures
from holonomy.models.ternary.homeostasis import Homeostasis
from holonomy.models.ternary.learner import TernaryLearner
from holonomy.models.ternary.metrics import (
    GENERATED,
    concordance_interval,
    coverage,
    measure,
    selection,
    warnings_of,
)
from holonomy.models.ternary.model import TernaryVAE, build_model, parameter_counts
from holonomy.models.ternary.pictures import ternary_pictures
from holonomy.models.ternary.uncertainty import doubt, ensemble_doubt
from holonomy.recipes.work import Work, choose_device
from holonomy.train.callbacks import Action, Callback
from holonomy.train.checkpoint import Checkpoint, find, read
from holonomy.train.distributed import World
from holonomy.train.monitor import read_curves
from holonomy.train.run import RunDirectory

SAMPLED_SEED = 0
DOUBT, GROKKING = "doubt", "grokking"
"""Protocols of evaluation besides the usual one."""
COMPARED = (
    "coverage",
    "hierarchy",
    "level_auc",
    "monotone",
    "triplet_concordance",
    "triplet_concordance_stratified",
    "triplet_concordance_deep",
    "pair_spearman",
    "richness",
    "neighbour_purity_8",
)
"""Figures that are printed for the model, the closed form and the untrained model, side by side."""


def space_of(config: TernaryDataConfig, device: torch.device | None = None) -> OperationSpace:
    """The operations of a configuration."""
    return OperationSpace(config.base, config.digits, device=device)


def batches_of(config: TernaryConfig, space: OperationSpace, world: World) -> StratifiedBatches:
    """The training batches of a configuration."""
    data = config.data
    train, _ = holdout(space, data.holdout, seed=data.holdout_seed, always_train=data.always_train)
    return StratifiedBatches(
        space,
        train,
        batch_size=data.batch,
        extra_per_level=data.extra_per_level,
        extra_from_level=data.extra_from_level,
        high_budget=data.high_budget,
        siblings=data.siblings,
        seed=config.train.seed,
        part=(world.rank, world.size),
    )


def _prepare(config: TernaryConfig, *, start: Checkpoint | None, saved: Checkpoint | None, world: World) -> Work:
    """Everything a run needs before it has a directory; see `holonomy.recipes.work.FamilyParts`."""
    if saved is not None:
        _check_data(saved)
    device = choose_device(config.train.device, strict_cuda=config.train.strict_cuda)
    data = config.data
    space = space_of(data, device)
    train, withheld = holdout(space, data.holdout, seed=data.holdout_seed, always_train=data.always_train)
    sampler = batches_of(config, space, world)
    learner = TernaryLearner(config, space, replicas=world if world.size > 1 else None)
    for part, source in frozen_parts(config).items():
        # A run that continues has them in its own checkpoint.
        learner.rest(part, None if saved is not None else _source_tensors(source, part, config))

    def evaluate_now(should_stop: Callable[[], bool]) -> dict[str, float] | None:
        if should_stop():
            return None
        learner.module.eval()
        try:
            return held_out_metrics(learner.vae, withheld, full=False)
        finally:
            learner.module.train()

    return Work(
        config=config,
        learner=learner,
        sampler=sampler,
        evaluate=evaluate_now,
        header={
            "data": f"{space.base}^{space.digits}",
            "training operations": len(train),
            "held-out operations": len(withheld),
            "updates per epoch": sampler.per_epoch,
            "parameters": parameter_counts(learner.module)["total"],
            "device": str(device),
        },
        files={},
        facts={
            "config": to_json(config),
            "parameters": dict(parameter_counts(learner.vae)),
            "oversampling": list(sampler.oversampling()),
            "decode_path": decode_path(config),
            "unit": "geodesic length",
        },
        callbacks=lambda directory: _callbacks(config, learner, directory),
        closing=lambda: {**_full_metrics(learner, withheld), **baseline_metrics(config, space)},
    )


def frozen_parts(config: TernaryConfig) -> dict[str, str]:
    """Parts that come from other runs, and which."""
    named = {part: getattr(config.frozen, part) for part in type(config.frozen).model_fields}
    return {part: source for part, source in named.items() if source is not None}


def _source_tensors(source: str, part: str, config: TernaryConfig) -> dict[str, torch.Tensor]:
    """Tensors of the autoencoder of a run.

    Raises:
        CheckpointError: there is none, or its decoder saw something else.
        ConfigError: the run is of another family.
    """
    directory = RunDirectory.open(source, Path("runs"))
    exact = Path(source)
    path = exact if exact.parent.name == directory.checkpoints.name else find(directory.checkpoints, "latest")
    if path is None:
        raise CheckpointError(f"`frozen.{part}`: `{source}` has no checkpoint yet; train it first")
    saved = read(path)
    theirs = from_json(TernaryConfig, saved.state["config"], origin=str(path)).model
    # What makes the same tensors another function.
    wanted = ("decoder", "decode_from", "latent_dim", "decoder_copies", "geometry")
    if part != "decoder":
        wanted = ("latent_dim", "projection.init", "projection.max_radius")
    mine, other = (leaves(model) for model in (config.model, theirs))
    for key in wanted:
        if mine[key] != other[key]:
            raise CheckpointError(
                f"`frozen.{part}`: `{source}` has model.{key} {other[key]}, this model has {mine[key]}"
            )
    prefix = "model.vae."
    return {n.removeprefix(prefix): t for n, t in saved.tensors.items() if n.startswith(prefix)}


def decode_path(config: TernaryConfig) -> str:
    """The path that coverage is measured along, in words."""
    stream = "A and B" if config.model.decode_from == "concat" else config.model.decode_from
    return f"encoder mean of {stream}, projection, decoder"


def _full_metrics(learner: TernaryLearner, withheld: torch.Tensor) -> dict[str, float]:
    learner.module.eval()
    try:
        return held_out_metrics(learner.vae, withheld, full=True)
    finally:
        learner.module.train()


def held_out_metrics(vae: TernaryVAE, withheld: torch.Tensor, *, full: bool) -> dict[str, float]:
    """Metrics of a model in evaluation mode, with `val/loss` as the number that chooses between models.

    Args:
        vae: the model.
        withheld: operations it never saw.
        full: also what only a finished run is asked: neighbours, bounds, draws of posterior and prior.
    """
    metrics = measure(vae, withheld=withheld, neighbours=full)
    if full:
        space = vae.space
        low, high = concordance_interval(space, vae.embed(space.index), vae.k)
        metrics |= {"triplet_concordance_low": low, "triplet_concordance_high": high}
        if vae.config.posterior != "point":
            drawn = torch.Generator().manual_seed(SAMPLED_SEED)
            metrics["coverage_sampled"] = coverage(space.index, lambda i: vae.reconstruct(i, generator=drawn))
            made = vae.generate(GENERATED, torch.Generator().manual_seed(SAMPLED_SEED))
            metrics["generated_distinct"] = float(len(made.unique()))
    metrics["curvature"] = float(vae.k.detach())
    return {
        "val/loss": selection(metrics),
        **warnings_of(metrics),
        **{f"val/{name}": value for name, value in metrics.items()},
    }


def baseline_metrics(config: TernaryConfig, space: OperationSpace) -> dict[str, float]:
    """The closed form, and the model of this configuration before its first update."""
    untrained = build_model(config, space).eval()
    found = {"baseline": measure(ClosedForm(space)), "untrained": measure(untrained)}
    return {f"{kind}/{name}": m[name] for kind, m in found.items() for name in COMPARED if name in m}


def _callbacks(config: TernaryConfig, learner: TernaryLearner, directory: RunDirectory) -> list[Callback]:
    found: list[Callback] = []
    if config.homeostasis.enabled or config.curriculum.enabled:
        found.append(Steering(config, learner))
    if not config.train.tensorboard:
        return found
    from holonomy.train.tensorboard import TensorBoard

    def points() -> tuple[torch.Tensor, list[str]]:
        space = learner.space
        learner.module.eval()
        u = learner.vae.embed(space.index)
        learner.module.train()
        names = [f"{n} v{v} r{r:.2f}" for n, v, r in zip(space.index, space.levels, u.norm(dim=-1), strict=True)]
        return u, names

    def pictures() -> list[Picture]:
        learner.module.eval()
        drawn = ternary_pictures(learner.vae)
        learner.module.train()
        return drawn

    return [
        *found,
        TensorBoard(
            directory.path / "tensorboard",
            tensors=lambda: dict(learner.vae.named_parameters()),
            embedding=points,
            pictures=pictures,
        ),
    ]


class Steering(Callback):
    """Tells the curriculum of evaluations, and freezes, restores and releases parts as the homeostasis says.

    Args:
        config: the whole configuration.
        learner: what is steered.
    """

    name = "steering"

    def __init__(self, config: TernaryConfig, learner: TernaryLearner) -> None:
        self.learner, self.log = learner, list[Json]()
        tied = config.model.sharing == "tied"
        self.homeostasis = Homeostasis(config.homeostasis, tied=tied) if config.homeostasis.enabled else None
        if self.homeostasis is not None:
            self.homeostasis.now.frozen |= {part: True for part in frozen_parts(config) if part != "decoder"}

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Action:
        """Takes one evaluation."""
        if self.learner.curriculum is not None:
            self.learner.curriculum.told(metrics["val/hierarchy"])
        if self.homeostasis is None:
            return Action.NONE
        if self.homeostasis.good(metrics["val/coverage"]) and not self.homeostasis.frozen("encoder_A"):
            self.learner.keep_coverage()
        changes = self.homeostasis.update(
            coverage=metrics["val/coverage"], hierarchy=metrics["val/hierarchy"], q=metrics["val/Q"]
        )
        for change in changes:
            restored = change.frozen and change.part == "encoder_A" and self.learner.restore_coverage()
            self.learner.set_frozen(change.part, change.frozen)
            words = f"{'frozen' if change.frozen else 'released'}{', restored' if restored else ''}: {change.reason}"
            self.log.append({"step": step, "part": change.part, "change": words})
        return Action.NONE

    def state(self) -> dict[str, Json]:
        """State of the homeostasis and what it did; the curriculum is part of the learner's."""
        return {"homeostasis": None if self.homeostasis is None else self.homeostasis.state(), "log": list(self.log)}

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Takes it back, and freezes what was frozen.

        Raises:
            CheckpointError: it is no such state.
        """
        log = state.get("log")
        self.log = list(log) if isinstance(log, list) else []
        if self.homeostasis is not None:
            self.homeostasis.load_state(state.get("homeostasis"))
            for part in ("encoder_A", "encoder_B"):
                self.learner.set_frozen(part, self.homeostasis.frozen(part))


def _load(saved: Checkpoint) -> TernaryVAE:
    """The autoencoder of a checkpoint, in evaluation mode; see `holonomy.recipes.work.FamilyParts`."""
    config = from_json(TernaryConfig, saved.state["config"], origin=str(saved.path))
    vae = build_model(config, space_of(config.data, choose_device("auto")))
    wanted = vae.state_dict()
    prefix = "model.vae."
    found = {k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)}
    check_tensors(wanted, found)
    vae.load_state_dict(found)
    return vae.requires_grad_(False).eval()


def _evaluate(
    saved: Checkpoint, *, data: str | None, split: str | None, with_baselines: bool, protocol: str | None, mode: str
) -> dict[str, float]:
    """Metrics of a checkpoint; see `holonomy.recipes.work.FamilyParts`."""
    if data is not None or split is not None or mode != "static":
        raise ConfigError(
            "`--data`, `--split` and `--mode` are about texts; a ternary run is evaluated on all operations, "
            "and on those it never saw where `data.holdout` is above 0: drop them"
        )
    if protocol not in (None, DOUBT, GROKKING):
        raise ConfigError(
            f"`--protocol` is {protocol}; a ternary run knows {DOUBT}: how sure it is of its entries, and {GROKKING}: "
            "whether its log shows that it came to know withheld operations long after the others"
        )
    config = from_json(TernaryConfig, saved.state["config"], origin=str(saved.path))
    vae = _load(saved)
    own = config.data
    _, withheld = holdout(vae.space, own.holdout, seed=own.holdout_seed, always_train=own.always_train)
    metrics = held_out_metrics(vae, withheld, full=True)
    if protocol == DOUBT:
        metrics |= {
            f"val/{name}": value for name, value in doubt(vae, withheld if own.holdout else vae.space.index).items()
        }
    if protocol == GROKKING:
        metrics |= {f"val/{name}": value for name, value in _delay(saved, vae.space.size, len(withheld)).items()}
    return {**metrics, **baseline_metrics(config, vae.space)} if with_baselines else metrics


def _delay(saved: Checkpoint, operations: int, withheld: int) -> dict[str, float]:
    """Delayed generalisation in the log of the run that a checkpoint belongs to.

    Raises:
        ConfigError: the run withholds nothing.
    """
    curves = read_curves(saved.path.parent.parent / "metrics.jsonl").values
    empty = ((), ())
    both = [curves.get(f"val/{name}", empty)[1] for name in ("coverage", "coverage_heldout")]
    return grokking_figures(*both, operations=operations, withheld=withheld)


def ensemble_metrics(members: Sequence[Checkpoint]) -> dict[str, float]:
    """What several runs say together, about the operations that none of them was trained on, or about all.

    Raises:
        ConfigError: fewer than two runs, or they know other operations, or some withhold operations, but no operation
            is withheld by all.
    """
    models = [_load(saved) for saved in members]
    data = [from_json(TernaryConfig, saved.state["config"], origin=str(saved.path)).data for saved in members]
    index = models[0].space.index
    if any(own.holdout for own in data):
        for vae, own in zip(models, data, strict=True):
            _, withheld = holdout(vae.space, own.holdout, seed=own.holdout_seed, always_train=own.always_train)
            index = index[torch.isin(index, withheld)]
    if not len(index):
        raise ConfigError("`--with` names runs that between them were trained on every operation; share holdout_seed")
    return {f"val/{name}": value for name, value in ensemble_doubt(models, index).items()}


def _check_data(saved: Checkpoint) -> None:
    """Refuses batches that are not those the checkpoint was trained on.

    Raises:
        DataError: the levels of its operations would be sampled otherwise today.
    """
    config = from_json(TernaryConfig, saved.state["config"], origin=str(saved.path))
    known = saved.state.get("oversampling")
    now = batches_of(config, space_of(config.data), World()).oversampling()
    if known != now:
        raise DataError(
            f"`{saved.path}` sampled its levels {known} times an epoch, this version does so {now} times; "
            "start a run with --init-from"
        )


def _missed(config: TernaryConfig, metrics: dict[str, float]) -> list[str]:
    """Which targets of a configuration the metrics miss, in words."""
    targets = config.targets
    checks = [
        ("coverage", metrics["val/coverage"] >= targets.coverage, targets.coverage),
        ("hierarchy", metrics["val/hierarchy"] <= targets.hierarchy, targets.hierarchy),
        (
            "triplet_concordance",
            metrics["val/triplet_concordance"] >= targets.triplet_concordance,
            targets.triplet_concordance,
        ),
    ]
    return [f"{name} is {metrics[f'val/{name}']:.6f}, wanted {wanted}" for name, fine, wanted in checks if not fine]


class TernaryParts:
    """What the ternary family says; see `holonomy.recipes.work.FamilyParts`."""

    prepare = staticmethod(_prepare)
    load = staticmethod(_load)
    evaluate = staticmethod(_evaluate)
    missed = staticmethod(_missed)
    check_data = staticmethod(_check_data)
    pictures = staticmethod(ternary_pictures)


PARTS = TernaryParts()
