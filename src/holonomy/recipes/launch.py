"""Turning a configuration into a trained run, and a run into metrics or a language model."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holonomy.core.config import from_json, leaves, read_yaml, to_json
from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.core.layer import EchoLayer
from holonomy.data.kneser_ney import baselines
from holonomy.data.splits import split_text
from holonomy.data.store import is_store, open_store
from holonomy.data.text import load_text
from holonomy.data.tokenizer import CharTokenizer
from holonomy.data.tokens import TokenBatch, WindowSampler
from holonomy.infer.evaluation import evaluate_tokens, loss_metrics, stream_loss
from holonomy.infer.memory import RecallingModel
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import generate
from holonomy.learn.echo import EchoLearner, check_tensors
from holonomy.models.lior.config import DataConfig, LiorConfig
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.models.lior.learner import build_learner
from holonomy.models.lior.model import build_network, count_parameters
from holonomy.nn.containers import Chain
from holonomy.nn.embedding import Embedding
from holonomy.train.callbacks import Callback, Samples
from holonomy.train.checkpoint import Checkpoint, find, newest_valid, read, read_state, steps
from holonomy.train.distributed import World, joined
from holonomy.train.loop import fit
from holonomy.train.monitor import Progress
from holonomy.train.report import FitReport, Plan
from holonomy.train.run import RunDirectory

TOKENIZER_FILE = "tokenizer.json"
SAMPLE_START = "\n"
PROTOCOLS = ("windows", "carried", "memory")
"""Ways to evaluate; their losses never stand in one column."""


@dataclass(frozen=True)
class Corpus:
    """A text, cut and encoded.

    Attributes:
        tokenizer: characters of the training part.
        train: token ids of the training part.
        validation: token ids of the held-out part.
        digest: sha256 of the whole text, so that a run never continues on another one.
    """

    tokenizer: CharTokenizer
    train: np.ndarray
    validation: np.ndarray
    digest: str


def read_corpus(config: DataConfig, tokenizer: CharTokenizer | None = None, *, digest: str | None = None) -> Corpus:
    """Loads, splits and encodes the text of a configuration.

    Args:
        config: what to load and how to cut it.
        tokenizer: use this one instead of building one from the training part.
        digest: sha256 that the text must have.

    Raises:
        DataError: the text cannot be loaded or encoded, or is another one.
    """
    if is_store(Path(config.source)):
        return _stored_corpus(config, tokenizer, digest)
    source = load_text(config.source)
    found = hashlib.sha256(source.text.encode("utf-8", "surrogatepass")).hexdigest()
    _check_digest(config, digest, found)
    train, _ = split_text(source.text, config.train_share)
    tokenizer = tokenizer or CharTokenizer.from_text(train, unk=config.unk)
    ids = tokenizer.encode(source.text)
    return Corpus(tokenizer, ids[: len(train)], ids[len(train) :], found)


def _check_digest(config: DataConfig, wanted: str | None, found: str) -> None:
    if wanted not in (None, found):
        raise DataError(
            f"`data.source` {config.source} is not the text that the run was trained on; "
            "bring the old text back, or start a run with --init-from"
        )


def _stored_corpus(config: DataConfig, tokenizer: CharTokenizer | None, digest: str | None) -> Corpus:
    """A corpus whose training part stays on disk."""
    store = open_store(Path(config.source))
    _check_digest(config, digest, store.digest)
    own = CharTokenizer.from_json(store.tokenizer_json)
    if tokenizer is not None and tokenizer.symbols != own.symbols:
        raise DataError(
            f"`data.source` {config.source} was prepared with another tokenizer than the run has; "
            "prepare the text anew, or name the text itself"
        )
    cut = int(len(store.tokens) * config.train_share)
    return Corpus(tokenizer or own, store.tokens[:cut], store.tokens[cut:].astype(np.int64), store.digest)


def choose_device(name: str, *, strict_cuda: bool = False) -> torch.device:
    """Device of a configuration: `auto` takes a GPU where torch sees one.

    Raises:
        ConfigError: CUDA is wanted and torch sees none.
    """
    if (name == "cuda" or strict_cuda) and not torch.cuda.is_available():
        raise ConfigError(
            "a CUDA device is wanted (`train.device`, `train.strict_cuda`), but torch sees none; "
            "use --device cpu, or install a CUDA build of torch and check `nvidia-smi`"
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def train(
    config: LiorConfig,
    *,
    recipe: str,
    run: str | None,
    root: Path,
    progress: Progress,
    init_from: str | None = None,
) -> FitReport:
    """Trains a configuration as a new run.

    Args:
        config: what to train.
        recipe: name that the run directory gets by default, with date and time.
        run: name of the run directory, or None.
        root: where run directories live.
        progress: told about the run.
        init_from: run whose weights to start from; its tokenizer is used.

    Raises:
        ConfigError, DataError, CheckpointError, StorageError: before anything is trained.
        TrainingDiverged, Interrupted: while training.
    """
    with joined() as world:
        if world.size > 1 and run is None:
            raise ConfigError("`--run` is missing; processes that train together need one name for their run")
        if world.restarts and run is not None and (root / run).exists():
            return _resume(run, root, progress, world)
        return _start(config, recipe, run, root, progress, init_from, world)


def _start(
    config: LiorConfig,
    recipe: str,
    run: str | None,
    root: Path,
    progress: Progress,
    init_from: str | None,
    world: World,
) -> FitReport:
    weights = None if init_from is None else read_checkpoint(init_from, root)
    work = _prepare(config, tokenizer_of(weights) if weights else None, world=world)
    if weights is not None:
        kinds = ("model.", "buffer.")
        mine = {k: v for k, v in work.learner.state().items() if k.startswith(kinds)}
        found = {k: v for k, v in weights.tensors.items() if k.startswith(kinds)}
        check_tensors({k: v for k, v in mine.items() if isinstance(v, Tensor)}, found)
        work.learner.load_state({**work.learner.state(), **found})
    if world.leads:
        with RunDirectory.create(root, run, prefix=recipe, config=config) as directory:
            world.barrier()
            return _fit(work, directory, progress, None, world)
    world.barrier()
    return _fit(work, RunDirectory(root / (run or recipe)), progress, None, world)


def resume(run: str, *, root: Path, progress: Progress) -> FitReport:
    """Continues a run from its newest whole checkpoint, or from the start when it has none.

    Raises:
        ConfigError, DataError, CheckpointError, StorageError: before anything is trained.
        TrainingDiverged, Interrupted: while training.
    """
    with joined() as world:
        return _resume(run, root, progress, world)


def _resume(run: str, root: Path, progress: Progress, world: World) -> FitReport:
    directory = RunDirectory.open(run, root)
    with directory if world.leads else nullcontext():
        if not steps(directory.checkpoints):
            work, saved = _prepare(config_of_run(run, root), world=world), None
        else:
            saved, faults = newest_valid(directory.checkpoints)
            for fault in faults:
                progress.notice(f"passed over a damaged checkpoint: {fault}")
            work = _prepare(config_of(saved), tokenizer_of(saved), digest=saved.state["text_sha256"], world=world)
            progress.notice(f"continuing {directory.path} at step {saved.step}")
        # Nobody may prune checkpoints while another process still reads them.
        world.barrier()
        return _fit(work, directory, progress, saved, world)


@dataclass(frozen=True)
class _Work:
    """Everything a run needs before it has a directory."""

    config: LiorConfig
    corpus: Corpus
    sampler: WindowSampler
    learner: EchoLearner
    device: torch.device


def _prepare(
    config: LiorConfig,
    tokenizer: CharTokenizer | None = None,
    *,
    digest: str | None = None,
    world: World | None = None,
) -> _Work:
    world = world or World()
    device = choose_device(config.train.device, strict_cuda=config.train.strict_cuda)
    corpus = read_corpus(config.data, tokenizer, digest=digest)
    if len(corpus.validation) < 2:
        raise DataError(
            f"the held-out part has {len(corpus.validation)} characters; give a longer text or lower `data.train_share`"
        )
    sampler = WindowSampler(
        torch.from_numpy(corpus.train).to(device),
        seq_len=config.data.seq_len,
        batch=config.data.batch * world.size,
        seed=config.train.seed,
        part=(world.rank, world.size),
        workers=config.data.workers,
    )
    replicas = world if world.size > 1 else None
    learner = build_learner(config, vocab_size=corpus.tokenizer.vocab_size, device=device, replicas=replicas)
    return _Work(config, corpus, sampler, learner, device)


def _fit(work: _Work, directory: RunDirectory, progress: Progress, saved: Checkpoint | None, world: World) -> FitReport:
    config, corpus = work.config, work.corpus
    held_out = torch.from_numpy(corpus.validation).to(work.device)

    def loss_of(batch: TokenBatch) -> Tensor:
        return work.learner.eval_step(batch).loss

    progress.start(
        {
            "run": str(directory.path),
            "data": config.data.source,
            "training characters": len(corpus.train),
            "held-out characters": len(corpus.validation),
            "vocabulary": corpus.tokenizer.vocab_size,
            "parameters": count_parameters(work.learner.net),
            "device": str(work.device),
            "threads": torch.get_num_threads(),
        }
    )
    try:
        report = fit(
            work.learner,
            work.sampler,
            run=directory,
            plan=Plan(config.train.budget, config.train.cadence, config.train.guard),
            callbacks=_callbacks(work, directory) if world.leads else (),
            world=world,
            evaluate=lambda stop: evaluate_tokens(loss_of, held_out, config.data.seq_len, stop),
            progress=progress,
            family=config.family,
            files={TOKENIZER_FILE: corpus.tokenizer.to_json()},
            facts={"config": to_json(config), "text_sha256": corpus.digest},
            restored=saved,
        )
    finally:
        progress.stop()
    plain = baselines(corpus.train, corpus.validation, corpus.tokenizer.vocab_size)
    return replace(report, metrics={**report.metrics, **plain})


def token_vectors(net: EchoLayer) -> Tensor:
    """The vectors of all tokens, a row each."""
    (found,) = (m for m in net.modules() if isinstance(m, Embedding))
    return found.weight.T


def _callbacks(work: _Work, directory: RunDirectory) -> list[Callback]:
    config, found = work.config, list[Callback]()
    length = config.train.cadence.samples

    def sample(step: int) -> str:
        net = work.learner.net
        assert isinstance(net, Chain)
        model = LiorLanguageModel(net, work.corpus.tokenizer, config)
        with work.learner.averaged():
            return "".join(generate(model, SAMPLE_START, sampling=Sampling(), max_tokens=length, seed=step))

    if length:
        found.append(Samples(directory.path / "samples", sample))
    if config.train.tensorboard:
        from holonomy.train.tensorboard import TensorBoard

        found.append(
            TensorBoard(
                directory.path / "tensorboard",
                tensors=lambda: dict(work.learner.net.named_parameters()),
                sample=sample if length else None,
                embedding=lambda: (token_vectors(work.learner.net), [repr(s) for s in work.corpus.tokenizer.symbols]),
            )
        )
    return found


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


def config_of(saved: Checkpoint) -> LiorConfig:
    """The configuration that a checkpoint was trained with."""
    return from_json(LiorConfig, saved.state["config"], origin=str(saved.path))


def tokenizer_of(saved: Checkpoint) -> CharTokenizer:
    """The tokenizer that a checkpoint was trained with.

    Raises:
        CheckpointError: it holds none.
    """
    if TOKENIZER_FILE not in saved.files:
        raise CheckpointError(f"`{saved.path}` holds no {TOKENIZER_FILE}")
    return CharTokenizer.from_json(saved.files[TOKENIZER_FILE])


def load(run: str | Path, *, root: Path = Path("runs")) -> LiorLanguageModel:
    """Loads a trained language model.

    Args:
        run: a run directory, its name under `root`, or a checkpoint directory inside it.
        root: where run directories live.

    Raises:
        CheckpointError: there is none, it is damaged, or it does not fit its own configuration.
    """
    saved = read_checkpoint(str(run), root)
    config, tokenizer = config_of(saved), tokenizer_of(saved)
    net = build_network(config, vocab_size=tokenizer.vocab_size)
    # Averaged weights are what was evaluated, where there are any.
    kind = "average." if any(k.startswith("average.") for k in saved.tensors) else "model."
    found = {k.removeprefix(kind): v for k, v in saved.tensors.items() if k.startswith(kind)}
    found |= {k.removeprefix("buffer."): v for k, v in saved.tensors.items() if k.startswith("buffer.")}
    check_tensors(net.state_dict(), found)
    net.load_state_dict(found)
    net.requires_grad_(False)
    return LiorLanguageModel(net.to(choose_device("auto")), tokenizer, config)


def remembering(model: LiorLanguageModel) -> RecallingModel:
    """The model with the associative memory of its configuration."""
    memory = model.config.memory
    return RecallingModel(
        model,
        window=memory.window,
        capacity=memory.capacity,
        k=memory.k,
        threshold=memory.threshold,
        share=memory.share,
        prior=memory.prior,
    )


def evaluate(
    run: str,
    *,
    root: Path,
    data: str | None = None,
    split: str | None = None,
    with_baselines: bool = False,
    protocol: str = "windows",
) -> dict[str, float]:
    """Held-out metrics of a run.

    Args:
        run: as for `load`.
        root: where run directories live.
        data: another text, known name or path; None is the text of the run.
        split: train, validation or all; None is validation for the run's own text and all for another one.
        with_baselines: adds plain n-gram models trained on the same characters as the run.
        protocol: windows, each from rest; carried, the text as one stream; memory, a stream with associative memory.

    Raises:
        ConfigError, DataError, CheckpointError.
    """
    model = load(run, root=root)
    own = model.config.data
    split = split or ("validation" if data is None else "all")
    corpus = read_corpus(own if data is None else own.model_copy(update={"source": data}), model.tokenizer)
    parts = {
        "train": corpus.train,
        "validation": corpus.validation,
        "all": np.concatenate([corpus.train, corpus.validation]),
    }
    if split not in parts:
        raise ConfigError(f"`--split` is {split}; wanted one of {', '.join(parts)}")
    if protocol not in PROTOCOLS:
        raise ConfigError(f"`--protocol` is {protocol}; wanted one of {', '.join(PROTOCOLS)}")
    tokens = torch.from_numpy(parts[split]).to(model.device)
    if protocol == "windows":
        metrics = evaluate_tokens(model.loss, tokens, own.seq_len)
    else:
        found = stream_loss(model if protocol == "carried" else remembering(model), tokens.cpu())
        metrics = None if found is None else loss_metrics(*found)
    assert metrics is not None
    if model.tokenizer.unk:
        metrics["val/unknown"] = float((tokens == model.tokenizer.unknown_id).sum())
    if with_baselines:
        trained = corpus.train if data is None else read_corpus(own, model.tokenizer).train
        metrics.update(baselines(trained, parts[split], model.tokenizer.vocab_size))
    return metrics


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
    read_corpus(config_of(saved).data, tokenizer_of(saved), digest=saved.state["text_sha256"])
    return counters["metrics"]["val/loss"], evaluate(str(saved.path), root=root)["val/loss"]


def describe_run(directory: RunDirectory) -> dict[str, dict[str, object]]:
    """What a run directory holds: last metrics, checkpoints, changed keys, and where it was made.

    Raises:
        CheckpointError: its last checkpoint is damaged.
        ConfigError: its config.yaml is damaged.
    """
    path = find(directory.checkpoints, "latest")
    defaults, chosen = leaves(LiorConfig()), leaves(config_of_run(str(directory.path), directory.path.parent))
    sizes = {
        f"step-{s}": f"{sum(f.stat().st_size for f in (directory.checkpoints / f'step-{s}').iterdir()):,} bytes"
        for s in steps(directory.checkpoints)
    }
    return {
        "metrics": {} if path is None else read_state(path)["state"]["counters"]["metrics"],
        "checkpoints": dict(sizes),
        "changed": {key: value for key, value in chosen.items() if value != defaults[key]},
        "environment": directory.environment(),
    }


def config_of_run(run: str, root: Path) -> LiorConfig:
    """The configuration in a run directory.

    Raises:
        CheckpointError: there is no such run.
        ConfigError: its config.yaml is damaged.
    """
    path = RunDirectory.open(run, root).path / "config.yaml"
    return from_json(LiorConfig, read_yaml(path)[0], origin=str(path))
