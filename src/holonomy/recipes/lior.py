"""The lior family: texts, their tokens, and what a run of it is measured by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from holonomy.core.config import from_json, to_json
from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.core.layer import EchoLayer
from holonomy.data.bpe import BytePairTokenizer, read_tokenizer
from holonomy.data.feed import StreamSampler, open_documents, read_beginning
from holonomy.data.kneser_ney import baselines
from holonomy.data.splits import is_held_out, split_text
from holonomy.data.store import is_store, open_store
from holonomy.data.stream import DocumentStream
from holonomy.data.text import load_text
from holonomy.data.tokenizer import CharTokenizer
from holonomy.data.tokens import PassageSampler, TokenBatch, WindowSampler
from holonomy.infer.evaluation import evaluate_tokens, loss_metrics, stream_loss
from holonomy.infer.language_model import LanguageModel
from holonomy.infer.memory import RecallingModel
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import generate
from holonomy.learn.echo import EchoLearner, check_tensors
from holonomy.models.lior.config import DataConfig, LiorConfig
from holonomy.models.lior.cost import check_fits
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.models.lior.learner import build_learner
from holonomy.models.lior.model import build_network, count_parameters
from holonomy.models.lior.moving import MovingField, field_of
from holonomy.models.lior.pictures import lior_pictures
from holonomy.nn.containers import Chain
from holonomy.nn.embedding import Embedding
from holonomy.recipes.work import Texts, Work, choose_device, no_targets, online_baseline
from holonomy.train.callbacks import Callback, Samples
from holonomy.train.checkpoint import Checkpoint
from holonomy.train.distributed import World
from holonomy.train.run import RunDirectory

TextTokenizer: TypeAlias = CharTokenizer | BytePairTokenizer
TOKENIZER_FILE = "tokenizer.json"
PROTOCOLS = ("windows", "carried", "memory", "field")
"""Ways to evaluate; their losses never stand in one column."""
BLOCK = 64
"""Tokens that plain baselines learn at a time, beside a model that learns while it reads."""


@dataclass(frozen=True)
class Corpus:
    """A text, cut and encoded.

    Attributes:
        tokenizer: made from the training part.
        train: token ids of the training part.
        validation: token ids of the held-out part.
        digest: sha256 of the whole text, so that a run never continues on another one.
    """

    tokenizer: TextTokenizer
    train: np.ndarray
    validation: np.ndarray
    digest: str


def read_corpus(config: DataConfig, tokenizer: TextTokenizer | None = None, *, digest: str | None = None) -> Corpus:
    """Loads, splits and encodes the text of a configuration.

    Args:
        config: what to load and how to cut it.
        tokenizer: use this one instead of building one from the training part.
        digest: sha256 that the text must have.

    Raises:
        DataError: the text cannot be loaded or encoded, or is another one.
    """
    if config.stream:
        return _streamed_corpus(config, tokenizer, digest)
    if is_store(Path(config.source)):
        return _stored_corpus(config, tokenizer, digest)
    source = load_text(config.source)
    found = hashlib.sha256(source.text.encode("utf-8", "surrogatepass")).hexdigest()
    _check_digest(config, digest, found)
    train, held_out = split_text(source.text, config.train_share)
    tokenizer = tokenizer or _tokenizer_from(train, config)
    if isinstance(tokenizer, BytePairTokenizer):
        return Corpus(tokenizer, tokenizer.encode(train), tokenizer.encode(held_out), found)
    ids = tokenizer.encode(source.text)
    return Corpus(tokenizer, ids[: len(train)], ids[len(train) :], found)


def _tokenizer_from(text: str, config: DataConfig) -> TextTokenizer:
    if config.tokenizer == "bpe":
        return BytePairTokenizer.from_text(text, vocab_size=config.bpe_vocab)
    return CharTokenizer.from_text(text, unk=config.unk)


def _streamed_corpus(config: DataConfig, tokenizer: TextTokenizer | None, digest: str | None) -> Corpus:
    """The beginning of a stream, which tokens and baselines are made from, and its first held-out documents."""
    if is_store(Path(config.source)):
        raise ConfigError(f"`data.stream`: `data.source` {config.source} is prepared already; drop data.stream")
    read = read_beginning(
        open_documents(config.source, field=config.field, skip_bad=config.skip_bad),
        held_share=1 - config.train_share,
        characters=config.first,
        held_characters=config.held_out,
    )
    _check_digest(config, digest, read.digest)
    if not read.train or not read.held_out:
        raise DataError(
            f"no document of `data.source` {config.source} fell to the {'held-out' if read.train else 'training'} "
            "part: each goes whole to one of both; part texts by empty lines, give more documents, or drop data.stream"
        )
    tokenizer = tokenizer or _tokenizer_from(read.train, config)
    found = Corpus(tokenizer, tokenizer.encode(read.train), tokenizer.encode(read.held_out), read.digest)
    needed = config.batch * config.seq_len + 1
    if len(found.train) < needed:
        raise DataError(
            f"the beginning of `data.source` {config.source} has {len(found.train):,} tokens to train on, one batch "
            f"needs {needed:,}; give more documents, raise `data.first`, or lower `data.batch` or `data.seq_len`"
        )
    return found


def _by_character(metrics: dict[str, float], tokenizer: TextTokenizer, ids: np.ndarray) -> dict[str, float]:
    """Bits a character instead of bits a token, where they differ."""
    if isinstance(tokenizer, CharTokenizer):
        return metrics
    characters = len(tokenizer.decode(ids[1:]))
    share = metrics["val/tokens"] / max(characters, 1)
    return metrics | {"val/bits_per_char": metrics["val/bits_per_char"] * share, "val/characters": float(characters)}


def _check_digest(config: DataConfig, wanted: str | None, found: str) -> None:
    if wanted not in (None, found):
        raise DataError(
            f"`data.source` {config.source} is not the text that the run was trained on; "
            "bring the old text back, or start a run with --init-from"
        )


def _stored_corpus(config: DataConfig, tokenizer: TextTokenizer | None, digest: str | None) -> Corpus:
    """A corpus whose training part stays on disk."""
    if config.tokenizer == "bpe":
        raise ConfigError(
            f"`data.tokenizer` is bpe, but `data.source` {config.source} is prepared already, in characters; "
            "name the text itself"
        )
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


def _prepare(config: LiorConfig, *, start: Checkpoint | None, saved: Checkpoint | None, world: World) -> Work:
    """Everything a run needs before it has a directory."""
    device = choose_device(config.train.device, strict_cuda=config.train.strict_cuda or config.train.cuda_graphs)
    if config.train.precision == "tf32" and device.type == "cpu":
        raise ConfigError("`train.precision` is tf32, which only GPUs have; set float32 or bfloat16")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if config.train.precision == "tf32" else "highest")
    if world.size > 1 and (config.field.enabled or config.geometry.frame_mode == "derived" or config.data.carried > 1):
        raise ConfigError(
            f"torchrun started {world.size} processes, but `field.enabled`, `geometry.frame_mode` derived and "
            "`data.carried` follow the batches of one; turn them off, or train in one process"
        )
    origin = saved or start
    tokenizer = None if origin is None else tokenizer_of(origin)
    if start is not None and tokenizer is not None:
        _check_tokens(config.data, tokenizer)
    corpus = read_corpus(config.data, tokenizer, digest=saved.state["text_sha256"] if saved else None)
    if len(corpus.validation) < 2:
        raise DataError(
            f"the held-out part has {len(corpus.validation)} characters; give a longer text or lower `data.train_share`"
        )
    if device.type == "cpu":
        check_fits(config, vocab_size=corpus.tokenizer.vocab_size)
    sampler = choose_sampler(config, corpus, device, world)
    replicas = world if world.size > 1 else None
    learner = build_learner(config, vocab_size=corpus.tokenizer.vocab_size, device=device, replicas=replicas)
    held_out = torch.from_numpy(corpus.validation).to(device)

    def loss_of(batch: TokenBatch) -> Tensor:
        return learner.eval_step(batch).loss

    def evaluate(stop: Callable[[], bool]) -> dict[str, float] | None:
        found = evaluate_tokens(loss_of, held_out, config.data.seq_len, stop)
        if found is None:
            return None
        return _by_character(found, corpus.tokenizer, corpus.validation) | _field_figures(learner.net)

    return Work(
        config=config,
        learner=learner,
        sampler=sampler,
        evaluate=evaluate,
        header={
            "data": config.data.source,
            f"{'first ' if config.data.stream else ''}training tokens": len(corpus.train),
            "held-out tokens": len(corpus.validation),
            "vocabulary": corpus.tokenizer.vocab_size,
            "parameters": count_parameters(learner.net),
            "device": str(device),
        },
        files={TOKENIZER_FILE: corpus.tokenizer.to_json()},
        facts={"config": to_json(config), "text_sha256": corpus.digest},
        callbacks=lambda directory: _callbacks(config, learner, corpus, directory),
        closing=lambda: baselines(corpus.train, corpus.validation, corpus.tokenizer.vocab_size),
    )


def _check_tokens(config: DataConfig, tokenizer: TextTokenizer) -> None:
    """Refuses to begin from weights whose tokens are not those of the configuration."""
    if isinstance(tokenizer, BytePairTokenizer):
        found = {"tokenizer": "bpe", "bpe_vocab": tokenizer.vocab_size, "unk": False}
    else:
        found = {"tokenizer": "char", "bpe_vocab": config.bpe_vocab, "unk": tokenizer.unk}
    odd = {name: value for name, value in found.items() if getattr(config, name) != value}
    if odd:
        fixes = " ".join(f"--set data.{name}={str(value).lower()}" for name, value in odd.items())
        raise ConfigError(f"`--init-from` brings its own tokens, which are not those of the configuration; add {fixes}")


def choose_sampler(
    config: LiorConfig, corpus: Corpus, device: torch.device, world: World | None = None
) -> WindowSampler | PassageSampler | StreamSampler:
    """Windows of the training part, in the order of the configuration's seed, or passages of them."""
    world, data = world or World(), config.data
    if data.stream:
        held = 1 - data.train_share
        documents = DocumentStream(
            open_documents(data.source, field=data.field, skip_bad=data.skip_bad),
            buffer=data.shuffle,
            seed=config.train.seed,
            keep=lambda document: not is_held_out(document, held),
        )
        return StreamSampler(
            documents,
            corpus.tokenizer.encode,
            seq_len=data.seq_len,
            batch=data.batch * world.size,
            seed=config.train.seed,
            part=(world.rank, world.size),
            device=device,
        )
    tokens = torch.from_numpy(corpus.train).to(device)
    common = {"seq_len": data.seq_len, "seed": config.train.seed, "workers": data.workers}
    if data.carried > 1:
        return PassageSampler(tokens, windows=data.carried, batch=data.batch, **common)
    return WindowSampler(tokens, batch=data.batch * world.size, part=(world.rank, world.size), **common)


def token_vectors(net: EchoLayer) -> Tensor:
    """The vectors of all tokens, a row each."""
    (found,) = (m for m in net.modules() if isinstance(m, Embedding))
    return found.weight.T


def _callbacks(config: LiorConfig, learner: EchoLearner, corpus: Corpus, directory: RunDirectory) -> list[Callback]:
    found = list[Callback]()
    length = config.train.cadence.samples

    def model() -> LiorLanguageModel:
        assert isinstance(learner.net, Chain)
        return LiorLanguageModel(learner.net, corpus.tokenizer, config)

    def sample(step: int) -> str:
        with learner.averaged():
            return "".join(generate(model(), "", sampling=Sampling(), max_tokens=length, seed=step))

    if length:
        found.append(Samples(directory.path / "samples", sample))
    if config.train.tensorboard:
        from holonomy.train.tensorboard import TensorBoard

        found.append(
            TensorBoard(
                directory.path / "tensorboard",
                tensors=lambda: dict(learner.net.named_parameters()),
                sample=sample if length else None,
                embedding=lambda: (token_vectors(learner.net), [repr(s) for s in corpus.tokenizer.symbols]),
                pictures=lambda: lior_pictures(model()),
            )
        )
    return found


def tokenizer_of(saved: Checkpoint) -> TextTokenizer:
    """The tokenizer that a checkpoint was trained with.

    Raises:
        CheckpointError: it holds none.
    """
    if TOKENIZER_FILE not in saved.files:
        raise CheckpointError(f"`{saved.path}` holds no {TOKENIZER_FILE}")
    return read_tokenizer(saved.files[TOKENIZER_FILE])


def _load(saved: Checkpoint) -> LiorLanguageModel:
    """The language model of a checkpoint; see `holonomy.recipes.work.FamilyParts`."""
    config = from_json(LiorConfig, saved.state["config"], origin=str(saved.path))
    tokenizer = tokenizer_of(saved)
    net = build_network(config, vocab_size=tokenizer.vocab_size)
    # Averaged weights are what was evaluated, where there are any.
    kind = "average." if any(k.startswith("average.") for k in saved.tensors) else "model."
    found = {k.removeprefix(kind): v for k, v in saved.tensors.items() if k.startswith(kind)}
    found |= {k.removeprefix("buffer."): v for k, v in saved.tensors.items() if k.startswith("buffer.")}
    # By names that stand once: a field that several layers share has several in `state_dict`.
    mine = dict(net.named_parameters()) | dict(net.named_buffers())
    check_tensors(mine, found)
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(found[name])
    net.requires_grad_(False)
    return LiorLanguageModel(net.to(choose_device("auto")), tokenizer, config)


def companion(model: LiorLanguageModel, *, memory: bool = False, field: bool = False) -> LanguageModel:
    """The model with the associative memory of its configuration, its field moving along, both or neither.

    Raises:
        ConfigError: the field is to move, and there is none.
    """
    found = MovingField(model, pace=model.config.field.pace) if field else model
    if not memory:
        return found
    own = model.config.memory
    return RecallingModel(
        found,
        window=own.window,
        capacity=own.capacity,
        k=own.k,
        share=own.share,
        prior=own.prior,
        most=own.most if own.weighting == "entropy" else None,
        born=own.mixing == "born",
    )


def _field_figures(net: EchoLayer) -> dict[str, float]:
    """What there is to say about the field beside a network."""
    sites = field_of(net)
    return {} if sites is None else {f"field/{name}": value for name, value in sites.copy().figures().items()}


def _whole(corpus: Corpus, config: DataConfig) -> np.ndarray:
    """All tokens of a text; byte pairs reach over the border of its parts."""
    if isinstance(corpus.tokenizer, BytePairTokenizer) and not config.stream and not is_store(Path(config.source)):
        return corpus.tokenizer.encode(load_text(config.source).text)
    return np.concatenate([corpus.train, corpus.validation])


def _evaluate(
    saved: Checkpoint, *, data: str | None, split: str | None, with_baselines: bool, protocol: str | None, mode: str
) -> dict[str, float]:
    """Held-out metrics of a checkpoint; see `holonomy.recipes.work.FamilyParts`."""
    if mode != "static":
        raise ConfigError(f"`--mode` is {mode}; a lior run that learns while it reads is `--protocol memory`")
    model = _load(saved)
    own = model.config.data
    split = split or ("validation" if data is None else "all")
    corpus = read_corpus(_of_source(own, data), model.tokenizer)
    parts = {
        "train": corpus.train,
        "validation": corpus.validation,
        "all": _whole(corpus, _of_source(own, data)),
    }
    if split not in parts:
        raise ConfigError(f"`--split` is {split}; wanted one of {', '.join(parts)}")
    protocol = protocol or PROTOCOLS[0]
    if protocol not in PROTOCOLS:
        raise ConfigError(f"`--protocol` is {protocol}; wanted one of {', '.join(PROTOCOLS)}")
    tokens = torch.from_numpy(parts[split]).to(model.device)
    if protocol == "windows":
        metrics = evaluate_tokens(model.loss, tokens, own.seq_len)
    else:
        reader = companion(model, memory=protocol == "memory", field=protocol == "field")
        metrics = loss_metrics(*stream_loss(reader, tokens.cpu()))
    assert metrics is not None
    metrics = _by_character(metrics, model.tokenizer, parts[split]) | _field_figures(model.net)
    if isinstance(model.tokenizer, CharTokenizer) and model.tokenizer.unk:
        metrics["val/unknown"] = float((tokens == model.tokenizer.unknown_id).sum())
    learns = protocol == "memory"
    if learns:
        # What learns while it reads never stands in one column with what does not.
        metrics = {f"{name}_memory": value for name, value in metrics.items()}
    if with_baselines:
        trained = corpus.train if data is None else read_corpus(own, model.tokenizer).train
        if learns:
            return metrics | online_baseline(trained, parts[split], model.tokenizer, block=BLOCK)
        metrics.update(baselines(trained, parts[split], model.tokenizer.vocab_size))
    return metrics


def _of_source(config: DataConfig, data: str | None) -> DataConfig:
    """The configuration of another text, which is read as a whole also after a stream."""
    return config if data is None else config.model_copy(update={"source": data, "stream": False})


def _texts(saved: Checkpoint, *, data: str | None) -> Texts:
    """The text of a checkpoint; see `holonomy.recipes.work.FamilyParts`."""
    config = from_json(LiorConfig, saved.state["config"], origin=str(saved.path))
    found = read_corpus(_of_source(config.data, data), tokenizer_of(saved))

    def learned() -> np.ndarray:
        return np.asarray(read_corpus(config.data, found.tokenizer).train, dtype=np.int64)

    train = np.asarray(found.train, dtype=np.int64)
    return Texts(found.tokenizer, train, found.validation, found.digest, learned)


def _check_data(saved: Checkpoint) -> None:
    """Refuses a text that is not the one a checkpoint was trained on.

    Raises:
        DataError: it is not there, or has changed.
    """
    config = from_json(LiorConfig, saved.state["config"], origin=str(saved.path))
    read_corpus(config.data, tokenizer_of(saved), digest=saved.state["text_sha256"])


class LiorParts:
    """What the lior family says; see `holonomy.recipes.work.FamilyParts`."""

    prepare = staticmethod(_prepare)
    load = staticmethod(_load)
    evaluate = staticmethod(_evaluate)
    missed = staticmethod(no_targets)
    check_data = staticmethod(_check_data)
    pictures = staticmethod(lior_pictures)
    texts = staticmethod(_texts)


PARTS = LiorParts()
