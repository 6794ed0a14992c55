"""Turning a configuration of any family into a trained run, and a run into metrics or a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holonomy.core.config import Config, from_json, leaves, read_yaml
from holonomy.core.errors import CheckpointError, ConfigError, Interrupted, StorageError, TrainingDiverged
from holonomy.core.inference import InferConfig
from holonomy.core.learner import State
from holonomy.infer.session import generate
from holonomy.learn.echo import check_tensors
from holonomy.recipes import configure
from holonomy.recipes.families import FAMILIES, Family
from holonomy.recipes.work import Work, sampling_of
from holonomy.train.checkpoint import Checkpoint, find, newest_valid, read, read_state, steps
from holonomy.train.distributed import World, joined
from holonomy.train.loop import fit
from holonomy.train.monitor import Progress, SilentProgress
from holonomy.train.report import FitReport, Plan
from holonomy.train.run import RunDirectory

RUNS = Path("runs")
"""Where run directories live unless told otherwise."""
SAMPLE_TOKENS = 300
SAMPLE_START = "The "
"""A sample begins with these words where the model knows their letters, else with a new line."""
MODES = ("static", "online")
"""Whether a text is learned while it is evaluated; losses of both never stand in one column."""


def train(
    config: Config | str,
    settings: Mapping[str, object] | None = None,
    *,
    recipe: str | None = None,
    run: str | None = None,
    root: str | Path = RUNS,
    progress: Progress | None = None,
    init_from: str | None = None,
) -> FitReport:
    """Trains a configuration as a new run.

    Example: `holonomy.train("lior", {"data.source": "my.txt", "train.budget": {"steps": 100}}, run="mine")`

    Args:
        config: what to train: a configuration, or the name of a recipe.
        settings: dotted keys of the recipe and their values; a whole section, such as `train.budget`, is replaced.
        recipe: what the run directory is called after, with date and time, where `run` is None.
        run: name of the run directory, or None.
        root: where run directories live.
        progress: told about the run; None tells nobody.
        init_from: run of the same family whose weights to start from.

    Returns:
        The directory of the run and its figures.

    Raises:
        ConfigError, DataError, CheckpointError, StorageError: before anything is trained.
        TrainingDiverged, Interrupted: while training.
    """
    if not isinstance(config, str) and settings:
        raise ConfigError("`settings` belong to the name of a recipe; a whole configuration is given: change that")
    wanted = _resolved(config, settings or {}) if isinstance(config, str) else config
    named = config if isinstance(config, str) else next(f.name for f in FAMILIES if f.config is type(config))
    root, progress, recipe = Path(root), progress or SilentProgress(), recipe or named
    with joined() as world:
        if world.size > 1 and run is None:
            raise ConfigError("`--run` is missing; processes that train together need one name for their run")
        if world.restarts and run is not None and (root / run).exists():
            return _resume(run, root, progress, world)
        return _start(wanted, recipe, run, root, progress, init_from, world)


def _resolved(recipe: str, settings: Mapping[str, object]) -> Config:
    return configure(recipe, options={key: ("settings", value) for key, value in settings.items()}).config


def _start(
    config: Config,
    recipe: str,
    run: str | None,
    root: Path,
    progress: Progress,
    init_from: str | None,
    world: World,
) -> FitReport:
    weights = None if init_from is None else read_checkpoint(init_from, root)
    if weights is not None and family_of(weights).config is not type(config):
        raise ConfigError(
            f"`--init-from` {init_from} is a run of the family {family_of(weights).name}; wanted one of the same family"
        )
    work = _prepare(config, start=weights, world=world)
    if weights is not None:
        work.learner.load_state({**work.learner.state(), **_weights_of(weights, work.learner.state())})
    if world.leads:
        with RunDirectory.create(root, run, prefix=recipe, config=config) as directory:
            world.barrier()
            return _fit(work, directory, progress, None, world)
    world.barrier()
    return _fit(work, RunDirectory(root / (run or recipe)), progress, None, world)


def _weights_of(saved: Checkpoint, state: State) -> dict[str, Tensor]:
    """The weights that a checkpoint was evaluated with, under every name that a fresh state has for them."""
    kind = "average." if any(k.startswith("average.") for k in saved.tensors) else "model."
    found = {f"model.{k.removeprefix(kind)}": v for k, v in saved.tensors.items() if k.startswith(kind)}
    found |= {k: v for k, v in saved.tensors.items() if k.startswith("buffer.")}
    mine = {k: v for k, v in state.items() if k.startswith(("model.", "buffer.")) and isinstance(v, Tensor)}
    check_tensors(mine, found)
    averages = {k: found[f"model.{k.removeprefix('average.')}"] for k in state if k.startswith("average.")}
    return found | averages


def resume(
    run: str, *, root: str | Path = RUNS, progress: Progress | None = None, data: str | None = None
) -> FitReport:
    """Continues a run from its newest whole checkpoint, or from the start when it has none.

    Args:
        run: name or directory of the run.
        root: where run directories live.
        progress: told about the run; None tells nobody.
        data: a further text that a holographic run learns after those it has learned.

    Raises:
        ConfigError, DataError, CheckpointError, StorageError: before anything is trained.
        TrainingDiverged, Interrupted: while training.
    """
    with joined() as world:
        return _resume(run, Path(root), progress or SilentProgress(), world, data)


def _resume(run: str, root: Path, progress: Progress, world: World, data: str | None = None) -> FitReport:
    directory = RunDirectory.open(run, root)
    with directory if world.leads else nullcontext():
        if not steps(directory.checkpoints):
            if data is not None:
                raise ConfigError(f"`--data`: `{run}` has learned nothing yet; continue it without --data first")
            work, saved = _prepare(config_of_run(run, root), world=world), None
        else:
            saved, faults = newest_valid(directory.checkpoints)
            for fault in faults:
                progress.notice(f"passed over a damaged checkpoint: {fault}")
            if data is not None:
                from holonomy.recipes.holographic_runs import extended

                saved = extended(saved, data)
            work = _prepare(config_of(saved), saved=saved, world=world)
            progress.notice(f"continuing {directory.path} at step {saved.step}")
        # Nobody may prune checkpoints while another process still reads them.
        world.barrier()
        return _fit(work, directory, progress, saved, world)


def _prepare(
    config: Any, *, start: Checkpoint | None = None, saved: Checkpoint | None = None, world: World | None = None
) -> Work:
    return FAMILIES.get(config.family).parts.prepare(config, start=start, saved=saved, world=world or World())


def _fit(work: Work, directory: RunDirectory, progress: Progress, saved: Checkpoint | None, world: World) -> FitReport:
    train = work.config.train
    if world.leads:
        directory.keep_result(None)
    progress.start({"run": str(directory.path), **work.header, "threads": torch.get_num_threads()})
    try:
        report = fit(
            work.learner,
            work.sampler,
            run=directory,
            plan=Plan(work.budget or train.budget, train.cadence, train.guard, lean=work.lean),
            callbacks=work.callbacks(directory) if world.leads else (),
            world=world,
            evaluate=work.evaluate,
            progress=progress,
            family=work.config.family,
            files=work.files,
            facts=work.facts,
            restored=saved,
        )
    except (TrainingDiverged, Interrupted) as error:
        error.run = directory.path
        _keep(directory, {"family": work.config.family, "ended": str(error)}, progress, world)
        raise
    finally:
        progress.stop()
    try:
        report = replace(report, metrics={**report.metrics, **work.closing()})
    except Interrupted as error:
        raise Interrupted(error.signum, report.checkpoint) from error
    _keep(directory, report.to_json(), progress, world)
    return report


def _keep(directory: RunDirectory, result: dict[str, object], progress: Progress, world: World) -> None:
    """Keeps how a run ended; a full disk must not take the result from who waits for it."""
    if world.leads:
        try:
            directory.keep_result(result)
        except StorageError as error:
            progress.notice(str(error))


def read_checkpoint(run: str, root: Path) -> Checkpoint:
    """The checkpoint that a run's name, its directory or a checkpoint directory means.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    directory = RunDirectory.open(run, root)
    for exact in (Path(run), root / run):
        if exact.parent.name == directory.checkpoints.name and exact.is_dir():
            return read(exact)
    path = find(directory.checkpoints, "latest")
    if path is None:
        raise CheckpointError(f"`{directory.path}` has no checkpoint yet; train it with --resume {run}")
    return read(path)


def family_of(saved: Checkpoint) -> Family:
    """The family that a checkpoint belongs to.

    Raises:
        ConfigError: this package does not know it.
    """
    return FAMILIES.get(str(saved.state["config"].get("family")))


def config_of(saved: Checkpoint) -> Any:
    """The configuration that a checkpoint was trained with."""
    return from_json(family_of(saved).config, saved.state["config"], origin=str(saved.path))


def load(run: str | Path, *, root: str | Path = RUNS) -> Any:
    """Loads a trained model: a language model, or what else the run's family makes.

    Args:
        run: a run directory, its name under `root`, or a checkpoint directory inside it.
        root: where run directories live.

    Raises:
        CheckpointError: there is none, it is damaged, or it does not fit its own configuration.
    """
    saved = read_checkpoint(str(run), Path(root))
    return family_of(saved).parts.load(saved)


def load_speaker(run: str | Path, *, root: Path = RUNS) -> tuple[Any, InferConfig]:
    """Loads a trained language model, and the defaults of its generation.

    Raises:
        ConfigError: models of the run's family write no text.
        CheckpointError: as for `load`.
    """
    saved = read_checkpoint(str(run), root)
    family = family_of(saved)
    if not family.speaks:
        raise ConfigError(
            f"`{run}` is a run of the family {family.name}, which writes no text; look at it with `holonomy eval {run}`"
        )
    return family.parts.load(saved), config_of(saved).infer


def sample_text(model: Any, infer: InferConfig) -> str:
    """What a language model writes with the defaults of its run, from a usual start; always the same."""
    start = "" if model.tokenizer.unknown(SAMPLE_START) else SAMPLE_START
    return start + "".join(generate(model, start, sampling=sampling_of(infer), max_tokens=SAMPLE_TOKENS, seed=1))


def evaluate(
    run: str,
    *,
    root: str | Path = RUNS,
    data: str | None = None,
    split: str | None = None,
    with_baselines: bool = False,
    protocol: str | None = None,
    mode: str = "static",
) -> dict[str, float]:
    """Held-out metrics of a run.

    Args:
        run: as for `load`.
        root: where run directories live.
        data: another text, known name or path; None is the data of the run.
        split: which part of it; None is what was held out of the run's own data, and all of another text.
        with_baselines: adds plain baselines on the same data.
        protocol: how the data is read, in the words of the family; None is as while training.
        mode: static, or online: each block of a text is learned after it was predicted.

    Raises:
        ConfigError, DataError, CheckpointError.
    """
    if mode not in MODES:
        raise ConfigError(f"`--mode` is {mode}; wanted one of {', '.join(MODES)}")
    saved = read_checkpoint(run, Path(root))
    how = {"data": data, "split": split, "with_baselines": with_baselines, "protocol": protocol, "mode": mode}
    return family_of(saved).parts.evaluate(saved, **how)


def evaluate_together(runs: Sequence[str], *, root: Path) -> dict[str, float]:
    """What several ternary runs say together; see `holonomy.recipes.ternary.ensemble_metrics`.

    Raises:
        ConfigError: one is of another family, or they do not fit together.
        CheckpointError: there is no such run.
    """
    found = [read_checkpoint(run, root) for run in runs]
    for run, saved in zip(runs, found, strict=True):
        if (name := family_of(saved).name) != "ternary":
            raise ConfigError(f"`--with` puts ternary runs together, and `{run}` is of the family {name}")
    from holonomy.recipes.ternary import ensemble_metrics

    return ensemble_metrics(found)


def missed_targets(run: str, metrics: dict[str, float], *, root: Path) -> list[str]:
    """Which targets of its configuration a run misses, in words.

    Raises:
        ConfigError: runs of its family have no targets.
        CheckpointError: there is no such run.
    """
    saved = read_checkpoint(run, root)
    return family_of(saved).parts.missed(config_of(saved), metrics)


def verify(run: str, *, root: Path) -> tuple[float, float]:
    """Evaluates a run again, as it is evaluated today.

    Returns:
        The held-out loss in the checkpoint, and the one measured now.

    Raises:
        CheckpointError: the checkpoint is damaged, or was saved before its first evaluation.
        DataError: the text is not there, or has changed.
    """
    saved = read_checkpoint(run, root)
    counters = saved.state["counters"]
    if counters["evaluated"] != saved.step:
        raise CheckpointError(f"`{saved.path}` was saved before it was evaluated; continue it with --resume {run}")
    family_of(saved).parts.check_data(saved)
    return counters["metrics"]["val/loss"], evaluate(str(saved.path), root=root)["val/loss"]


def describe_run(directory: RunDirectory) -> dict[str, dict[str, object]]:
    """What a run directory holds: last metrics, checkpoints, changed keys, and where it was made.

    Raises:
        CheckpointError: its last checkpoint is damaged.
        ConfigError: its config.yaml is damaged.
    """
    path = find(directory.checkpoints, "latest")
    sizes = {
        f"step-{s}": f"{sum(f.stat().st_size for f in (directory.checkpoints / f'step-{s}').iterdir()):,} bytes"
        for s in steps(directory.checkpoints)
    }
    return {
        "metrics": {} if path is None else read_state(path)["state"]["counters"]["metrics"],
        "checkpoints": dict(sizes),
        "changed": {k: v for k, (v, _) in changed(config_of_run(str(directory.path), directory.path.parent)).items()},
        "environment": directory.environment(),
    }


def changed(config: Config) -> dict[str, tuple[object, object]]:
    """Keys of a configuration that differ from the defaults of its family: value and default."""
    defaults = leaves(type(config)())
    return {key: (value, defaults[key]) for key, value in leaves(config).items() if value != defaults[key]}


def config_of_run(run: str, root: Path) -> Any:
    """The configuration in a run directory.

    Raises:
        CheckpointError: there is no such run.
        ConfigError: its config.yaml is damaged.
    """
    path = RunDirectory.open(run, root).path / "config.yaml"
    tree = read_yaml(path)[0]
    return from_json(FAMILIES.get(str(tree.get("family"))).config, tree, origin=str(path))
