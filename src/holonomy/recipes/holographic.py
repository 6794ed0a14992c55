"""The holographic family: words or characters of a text, learned in one pass, and what a run of it is measured by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from torch import Tensor

from holonomy.core.budget import Budget
from holonomy.core.config import from_json, to_json
from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.data.kneser_ney import baselines
from holonomy.data.text import load_text
from holonomy.data.tokenizer import CharTokenizer
from holonomy.data.words import WordSplit, WordTokenizer, split_characters, split_words, tokenizer_from_json
from holonomy.models.holographic.config import HolographicRunConfig, PassConfig, WordsConfig
from holonomy.models.holographic.drift import LEAST, LINE, Sleeper
from holonomy.models.holographic.figures import part_figures, store_figures
from holonomy.models.holographic.fit import words_held_out
from holonomy.models.holographic.learner import HolographicLearner, OnePass
from holonomy.models.holographic.metrics import predict, report_of, similarity_lift
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.pictures import holographic_pictures
from holonomy.models.holographic.plan import plan_for_machine
from holonomy.models.holographic.storage import load_into, state_of
from holonomy.recipes.holographic_samples import (
    asked_places,
    check_held_out,
    close_places,
    sample_callbacks,
    sample_writer,
)
from holonomy.recipes.holographic_stream import (
    FirstPart,
    prepare_stream,
    read_first,
    refuse_stream,
    saved_stream_figures,
)
from holonomy.recipes.holographic_watch import Watch
from holonomy.recipes.work import Texts, Work, figures, no_targets, online_baseline
from holonomy.train.callbacks import Callback
from holonomy.train.checkpoint import Checkpoint
from holonomy.train.distributed import World
from holonomy.train.run import RunDirectory

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class WordCorpus:
    """A text as words.

    Attributes:
        split: vocabulary, training and held-out words.
        digest: sha256 of the text.
    """

    split: WordSplit
    digest: str


@dataclass(frozen=True)
class LearnedText:
    """A text that a run has learned.

    Attributes:
        source: known name or path.
        sha256: of the whole text.
        vocab_size: words that were known then; later ones were unknown to it.
    """

    source: str
    sha256: str
    vocab_size: int


def learned_texts(saved: Checkpoint) -> list[LearnedText]:
    """The texts of a run, in the order in which they were learned."""
    found = saved.state.get("texts")
    if found is not None:
        return [LearnedText(**text) for text in found]
    # Checkpoints older than second texts have one.
    source, size = str(saved.state["config"]["data"]["source"]), vocabulary_of(saved).vocab_size
    return [LearnedText(source, saved.state["text_sha256"], size)]


def learned_words(
    config: HolographicRunConfig, texts: Sequence[LearnedText], tokenizer: WordTokenizer | CharTokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """What a run has learned of its texts, end to end, and where each begins.

    Raises:
        DataError: a text is not there, or has changed.
    """
    parts = list[np.ndarray]()
    for text in texts:
        source = config.data.model_copy(update={"source": text.source})
        words = read_words(source, tokenizer, digest=text.sha256).split.train
        words = words[: max(1, int(len(words) * config.train.share))]
        if tokenizer.unknown_id is not None:
            words = np.where(words < text.vocab_size, words, tokenizer.unknown_id)
        parts.append(words)
    return np.concatenate(parts), np.cumsum([0, *(len(p) for p in parts[:-1])])


def read_words(
    config: WordsConfig, tokenizer: WordTokenizer | CharTokenizer | None = None, *, digest: str | None = None
) -> WordCorpus:
    """Loads and splits the text of a configuration.

    Args:
        config: what to load and how to cut it.
        tokenizer: use this one instead of the words of the training part.
        digest: sha256 that the text must have.

    Raises:
        DataError: the text cannot be loaded, has no words, or is another one.
    """
    text = load_text(config.source).text
    found = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    if digest not in (None, found):
        raise DataError(
            f"`data.source` {config.source} is not the text that the run was trained on; "
            "bring the old text back, or start a run of its own"
        )
    if tokenizer is None and config.vocabulary is not None:
        tokenizer = _vocabulary(config)
    if config.tokens == "chars":
        split = split_characters(text, train_share=config.train_share, unk=config.unk, tokenizer=tokenizer)
        return WordCorpus(split, found)
    split = split_words(text, train_share=config.train_share, min_count=config.min_count, pattern=config.pattern)
    if tokenizer is not None:
        words = tokenizer.encode(text)
        cut = len(split.train)
        split = WordSplit(tokenizer, words[:cut], words[cut:])
    return WordCorpus(split, found)


def _vocabulary(config: WordsConfig) -> WordTokenizer | CharTokenizer:
    """Words or characters of another text, so that runs on its parts have one vocabulary and can be merged."""
    text = load_text(str(config.vocabulary)).text
    if config.tokens == "chars":
        return CharTokenizer.from_text(text, unk=config.unk)
    return WordTokenizer.train([text], min_count=config.min_count, pattern=config.pattern)


def held_out(
    model: HolographicModel,
    config: HolographicRunConfig,
    split: WordSplit,
    positions: np.ndarray | None = None,
    *,
    online: bool = False,
) -> dict[str, float]:
    """Figures of held-out words, each predicted from everything before it, and, where nothing is learned, of the parts.

    Args:
        model: what predicts.
        config: says which words are looked at closely.
        split: the words.
        positions: places in the held-out part; all by default.
        online: learn each block after it was predicted, and forget all of them in the end.
    """
    whole, begin = np.concatenate([split.train, split.test]), len(split.train)
    places = begin + (np.arange(len(split.test)) if positions is None else positions)
    found = predict(model, whole, places, online=online)
    if online:
        return figures(report_of(model, found), model.tokenizer, online=True)
    metrics = figures(report_of(model, found), model.tokenizer, lift=similarity_lift(model, whole, places))
    return metrics | part_figures(model, whole, begin + close_places(config, len(split.test))) | store_figures(model)


def _callbacks(
    config: HolographicRunConfig, model: HolographicModel, split: WordSplit, directory: RunDirectory
) -> list[Callback]:
    write = sample_writer(config, model, (split.test, np.zeros(1, dtype=np.int64)))
    found: list[Callback] = [*sample_callbacks(directory.path, write)]
    if not config.train.tensorboard:
        return found
    from holonomy.train.tensorboard import TensorBoard

    def tensors() -> dict[str, Tensor]:
        """What is learned, but for the tables of words in a row, whose numbers are hashes and places."""
        found = {n: t for n, t in state_of(model).items() if isinstance(t, Tensor) and t.numel()}
        return {name: tensor for name, tensor in found.items() if not name.startswith(("grams/", "group/"))}

    def vectors() -> tuple[Tensor, Sequence[str]] | None:
        readout, symbols = model.memories.readout, model.tokenizer.symbols
        return None if readout is None else (readout.features.vectors[: len(symbols)], [repr(s) for s in symbols])

    return [
        *found,
        TensorBoard(
            directory.path / "tensorboard",
            tensors=tensors,
            sample=write,
            embedding=vectors,
            pictures=lambda: holographic_pictures(model),
        ),
    ]


def _sleeper(config: PassConfig, sampler: OnePass) -> Sleeper | None:
    """What lets the model sleep between batches, if it is to."""
    if not config.sleep.drift and config.sleep.every is None:
        return None
    cadence, count, least, heard, last = config.cadence, sampler.count, LINE + LEAST + 1, 0, 0
    for step in range(1, count + 1):
        owed = cadence.owed(step, step / count, last=last, last_share=last / count, ends=True)
        if owed or cadence.due(step, last=last):
            heard, last = heard + 1, step
    if config.sleep.drift and heard < least:
        raise ConfigError(
            f"`train.sleep.drift` follows the held-out loss, which {count} batches show {heard} times; wanted "
            f"{least} or more: lower train.cadence.eval_every ({cadence.eval_every}) or model.batch_size, or raise "
            f"train.cadence.eval_least ({cadence.eval_least})"
        )
    return Sleeper(config.sleep, sampler.first)


def _prepare(config: HolographicRunConfig, *, start: Checkpoint | None, saved: Checkpoint | None, world: World) -> Work:
    """Everything a run needs before it has a directory."""
    if start is not None:
        raise ConfigError("`--init-from`: a holographic run learns its text once, from nothing; drop it")
    if config.data.stream:
        return prepare_stream(config, TOKENIZER_FILE, saved=saved, world=world)
    if world.size > 1:
        raise ConfigError(
            f"a holographic run on one text is one process, torchrun started {world.size}; start it alone, or set "
            "data.stream"
        )
    if config.model.memory is not None:
        raise ConfigError(
            "`model.memory` is for streams: what is dropped from a text that is kept could not be fitted; set "
            "data.stream, or model.memory to null"
        )
    if saved is None:
        corpus = read_words(config.data)
        texts = [LearnedText(config.data.source, corpus.digest, corpus.split.tokenizer.vocab_size)]
    else:
        corpus = read_words(config.data, vocabulary_of(saved), digest=saved.state["text_sha256"])
        texts = learned_texts(saved)
    split = corpus.split
    words, starts = learned_words(config, texts, split.tokenizer)
    # Better before anything is written than when all is learned.
    words_held_out(len(words), config.model.mixture.block_share)
    if saved is None:
        check_held_out(len(split.test), config)
    plan = plan_for_machine(config.model, split.tokenizer.vocab_size, len(words))
    model = HolographicModel(config.model, split.tokenizer)
    sampler = OnePass(
        words, batch=config.model.batch_size, reach=model.memories.reach, pad_id=model.pad_id, starts=starts
    )
    # What was forgotten, or slept, took steps without batches.
    extra = 0 if saved is None else saved.step - saved.state["data"]["drawn"]
    budget = Budget(steps=sampler.count + extra)

    def evaluate(stop: Callable[[], bool]) -> dict[str, float] | None:
        places = None if model.mixture.calibrated else asked_places(config, len(split.test))
        return None if stop() else held_out(model, config, split, places) | watch.churn()

    sleeper, symbols = _sleeper(config.train, sampler), "characters" if config.data.tokens == "chars" else "words"
    watch = Watch(model, sleeper)
    return Work(
        config=config,
        learner=HolographicLearner(model, sleeper=sleeper),
        sampler=sampler,
        evaluate=evaluate,
        header={
            "data": ", ".join(text.source for text in texts),
            f"training {symbols}": len(words),
            f"held-out {symbols}": len(split.test),
            "vocabulary": model.vocab_size,
            f"unknown {symbols}": f"{split.unknown_shares[0]:.2%} and {split.unknown_shares[1]:.2%}",
            **plan.header(),
        },
        files={TOKENIZER_FILE: split.tokenizer.to_json()},
        facts={
            "config": to_json(config),
            "text_sha256": corpus.digest,
            "texts": [asdict(text) for text in texts],
            # Losses that were logged before are of a model that knew what it was made to forget.
            "since": 0 if saved is None else saved.state.get("since", 0),
            "budget": {"steps": budget.steps},
        },
        callbacks=lambda directory: [watch, *_callbacks(config, model, split, directory)],
        closing=lambda: baselines(words, split.test, model.vocab_size),
        budget=budget,
    )


def vocabulary_of(saved: Checkpoint) -> WordTokenizer | CharTokenizer:
    """The words or characters of a checkpoint.

    Raises:
        CheckpointError: it holds none.
    """
    if TOKENIZER_FILE not in saved.files:
        raise CheckpointError(f"`{saved.path}` holds no {TOKENIZER_FILE}")
    return tokenizer_from_json(saved.files[TOKENIZER_FILE])


def _load(saved: Checkpoint) -> HolographicModel:
    """The model of a checkpoint; see `holonomy.recipes.work.FamilyParts`."""
    config = from_json(HolographicRunConfig, saved.state["config"], origin=str(saved.path))
    model = HolographicModel(config.model, vocabulary_of(saved))
    load_into(model, {**saved.tensors, **saved.state["learner"]})
    return model


def _evaluate(
    saved: Checkpoint, *, data: str | None, split: str | None, with_baselines: bool, protocol: str | None, mode: str
) -> dict[str, float]:
    """Held-out figures of a checkpoint; see `holonomy.recipes.work.FamilyParts`."""
    if protocol is not None:
        raise ConfigError(f"`--protocol` is {protocol}; a holographic run has --mode static or online instead")
    config, model = from_json(HolographicRunConfig, saved.state["config"], origin=str(saved.path)), _load(saved)
    if config.data.stream and data is None:
        if split not in (None, "validation") or mode == "online":
            raise ConfigError("a run on a stream is evaluated on its held-out documents; drop --split and --mode")
        place = saved.state["data"]
        return saved_stream_figures(model, config, _first(saved, config), place, with_baselines=with_baselines)
    if with_baselines:
        refuse_stream(config, "`--baselines` on another text")
    words = config.data if data is None else config.data.model_copy(update={"source": data})
    found = read_words(words, model.tokenizer).split
    parts = {"train": found.train, "validation": found.test, "all": np.concatenate([found.train, found.test])}
    chosen = split or ("validation" if data is None else "all")
    if chosen not in parts:
        raise ConfigError(f"`--split` is {chosen}; wanted one of {', '.join(parts)}")
    online = mode == "online"
    if online and config.model.memory is not None:
        raise ConfigError(
            "`--mode` online takes back what it learned, which a run that drops grams cannot; drop --mode"
        )
    if chosen == "validation":
        metrics = held_out(model, config, found, online=online)
    else:
        said = predict(model, parts[chosen], np.arange(len(parts[chosen])), online=online)
        metrics = figures(report_of(model, said), model.tokenizer, online=online)
    if not with_baselines:
        return metrics
    learned, _ = learned_words(config, learned_texts(saved), model.tokenizer)
    if not online:
        return metrics | baselines(learned, parts[chosen], model.vocab_size)
    block = config.model.evaluation.block
    return metrics | online_baseline(learned, parts[chosen], model.tokenizer, block=block)


def _first(saved: Checkpoint, config: HolographicRunConfig) -> FirstPart:
    tokenizer = WordTokenizer.from_json(saved.files[TOKENIZER_FILE])
    return read_first(config.data, tokenizer, digest=saved.state["text_sha256"])


def _texts(saved: Checkpoint, *, data: str | None) -> Texts:
    """The text of a checkpoint; see `holonomy.recipes.work.FamilyParts`."""
    config = from_json(HolographicRunConfig, saved.state["config"], origin=str(saved.path))
    refuse_stream(config, "what mixes runs")
    words = config.data if data is None else config.data.model_copy(update={"source": data})
    found, texts = read_words(words, vocabulary_of(saved)), learned_texts(saved)
    tokenizer, train = found.split.tokenizer, found.split.train
    if data is None:
        # As it was learned: what came later was unknown then.
        train, _ = learned_words(config, texts[:1], tokenizer)
    else:
        train = train[: max(1, int(len(train) * config.train.share))]
    return Texts(tokenizer, train, found.split.test, found.digest, lambda: learned_words(config, texts, tokenizer)[0])


def _check_data(saved: Checkpoint) -> None:
    """Refuses a text that is not the one a checkpoint was trained on.

    Raises:
        DataError: it is not there, or has changed.
    """
    config = from_json(HolographicRunConfig, saved.state["config"], origin=str(saved.path))
    if config.data.stream:
        _first(saved, config)
    else:
        read_words(config.data, vocabulary_of(saved), digest=saved.state["text_sha256"])


class HolographicParts:
    """What the holographic family says; see `holonomy.recipes.work.FamilyParts`."""

    prepare = staticmethod(_prepare)
    load = staticmethod(_load)
    evaluate = staticmethod(_evaluate)
    missed = staticmethod(no_targets)
    check_data = staticmethod(_check_data)
    pictures = staticmethod(holographic_pictures)
    texts = staticmethod(_texts)


PARTS = HolographicParts()
