"""Holographic runs on streams of documents: the first of them give the words and what is held out, none is kept."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holonomy.core.budget import ENDLESS, Budget
from holonomy.core.config import to_json
from holonomy.core.errors import ConfigError, DataError
from holonomy.data.cache import CachedDocuments, cached_documents
from holonomy.data.feed import open_documents
from holonomy.data.patterns import token_pattern
from holonomy.data.repeats import Repeats
from holonomy.data.splits import Sides, part_of
from holonomy.data.stream import DocumentFiles, Documents, DocumentStream
from holonomy.data.text import load_text
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.config import HolographicRunConfig, WordsConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.figures import part_figures, store_figures
from holonomy.models.holographic.learner import HolographicLearner
from holonomy.models.holographic.metrics import predict, report_of, similarity_lift
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.plan import plan_for_machine
from holonomy.models.holographic.storage import learned_tensors, merged
from holonomy.models.holographic.streaming import SEEN, Words, WordStream, in_a_row
from holonomy.recipes.holographic_samples import (
    LEAST,
    asked_places,
    check_held_out,
    close_places,
    sample_callbacks,
    sample_writer,
)
from holonomy.recipes.holographic_watch import Watch
from holonomy.recipes.work import Work, figures
from holonomy.train.checkpoint import Checkpoint
from holonomy.train.distributed import World

logger = logging.getLogger(__name__)

REPEATED = "val/repeated_documents"
MOST = 100_000
"""Held-out words that are kept of each kind."""


@dataclass(frozen=True)
class FirstPart:
    """What the first documents of a stream give.

    Attributes:
        tokenizer: words of those that are learned.
        test: words to evaluate on, and where their documents begin.
        apart: words to fit on, and where their documents begin.
        digest: sha256 of all first documents.
        short: how many of them belong to no part, being shorter than `data.documents.least`.
        documents: how many they are.
    """

    tokenizer: WordTokenizer
    test: Words
    apart: Words
    digest: str
    short: int
    documents: int

    @property
    def unknown(self) -> float:
        """Share of unknown words among those to evaluate on."""
        return float((self.test[0] == self.tokenizer.unknown_id).mean())


def documents_of(config: WordsConfig) -> Documents[str]:
    """The documents of a configuration, in their own order.

    Raises:
        ConfigError, DataError: they cannot be opened.
    """
    how = config.documents
    return open_documents(config.source, field=how.field, split=how.split, skip_bad=how.skip_bad)


def sides_of(config: WordsConfig) -> Sides:
    """Says which part a document belongs to."""
    how = config.documents
    return Sides(held_out=how.held_out, apart=how.apart, least=how.least)


def cache_of(config: WordsConfig, tokenizer: WordTokenizer) -> CachedDocuments | None:
    """The documents to learn as token ids on disk, made where they are missing; None where none are kept.

    Raises:
        ConfigError: the documents come from no files.
        DataError, StorageError: the files cannot be read, or the ids not written.
    """
    how = config.documents
    if how.cache is None:
        return None
    files = documents_of(config)
    if not isinstance(files, DocumentFiles):
        raise ConfigError(
            f"`data.documents.cache` keeps ids of text and JSON lines; `data.source` {config.source} is read by "
            "the library datasets, which has a cache of its own: drop the key"
        )
    return cached_documents(files, tokenizer, Path(how.cache), sides=sides_of(config), workers=how.workers)


def training_stream(
    config: WordsConfig, part: tuple[int, int] = (0, 1), cached: CachedDocuments | None = None
) -> DocumentStream[Any]:
    """The documents to learn, or one part of several, shuffled block by block, from the beginning.

    Args:
        config: where they come from.
        part: (number, of how many).
        cached: of that part; read instead of the texts.
    """
    number, parts = part
    sides, how = sides_of(config), config.documents
    if cached is not None:
        return DocumentStream(cached, buffer=how.shuffle, seed=how.seed)

    def learned(text: str) -> bool:
        return sides(text) == "train" and (parts == 1 or part_of(text, parts) == number)

    return DocumentStream(documents_of(config), buffer=how.shuffle, seed=how.seed, keep=learned)


def read_first(config: WordsConfig, tokenizer: WordTokenizer | None = None, *, digest: str | None = None) -> FirstPart:
    """Reads the first documents of a stream.

    Args:
        config: what to read.
        tokenizer: use this one instead of the words of `data.vocabulary`, or of the documents to learn.
        digest: sha256 that the documents must have.

    Raises:
        ConfigError, DataError: they cannot be read, are others, or none of a kind is among them.
    """
    how, kept, counts, whole = (
        config.documents,
        {"test": list[str](), "apart": list[str]()},
        Counter(),
        hashlib.sha256(),
    )
    find, sides, read = token_pattern(config.pattern).findall, sides_of(config), Counter[str]()
    for text, _ in islice(documents_of(config).read(None), how.first):
        raw = text.encode("utf-8", "surrogatepass")
        whole.update(f"{len(raw)} ".encode() + raw)
        side = sides(text)
        read[side] += 1
        if side in kept:
            kept[side].append(text)
        elif side == "train" and tokenizer is None and config.vocabulary is None:
            counts.update(find(text))
    found = whole.hexdigest()
    if digest not in (None, found):
        raise DataError(
            f"`data.source` {config.source} does not begin with the documents that the run was trained on; "
            "bring the old ones back, or start a run of its own"
        )
    if tokenizer is None and config.vocabulary is not None:
        counts.update(find(load_text(config.vocabulary).text))
    if tokenizer is None:
        if not counts:
            raise DataError(f"`data.source` {config.source} has no word among its first {how.first:,} documents")
        tokenizer = WordTokenizer.from_counts(
            counts, vocab_size=how.vocab_size, min_count=config.min_count, pattern=config.pattern
        )
    parts = {side: _words(tokenizer, texts) for side, texts in kept.items()}
    for side, key in (("test", "held_out"), ("apart", "apart")):
        if len(parts[side][0]) < 2:
            raise DataError(
                f"`data.documents.{key}` is {getattr(how, key)}: none of the first {how.first:,} documents of "
                f"{config.source} is among them; raise it or data.documents.first"
            )
    return FirstPart(tokenizer, parts["test"], parts["apart"], found, read["none"], read.total())


def _words(tokenizer: WordTokenizer, texts: list[str]) -> Words:
    found, count = list[np.ndarray](), 0
    for text in texts:
        words = tokenizer.encode(text)[: MOST - count]
        if len(words):
            found.append(words)
            count += len(words)
    return in_a_row(found)


def unrepeated(first: FirstPart, repeats: Repeats) -> tuple[FirstPart, dict[str, float]]:
    """The first part without the documents to evaluate on that were learned almost word for word, and their number.

    Where hardly any word would be left, all stay: the figure says what they are worth.
    """
    rest, told = in_a_row(repeats.rest()), {REPEATED: float(repeats.repeated().sum())}
    return (first, told) if len(rest[0]) < LEAST else (replace(first, test=rest), told)


def _told(first: FirstPart, told: dict[str, float]) -> dict[str, float]:
    if told.get(REPEATED):
        said = int(told[REPEATED]), len(first.test[1])
        logger.warning("%d of %d held-out documents are repeated in what was learned, and left out", *said)
    return told


def stream_figures(
    model: HolographicModel, config: HolographicRunConfig, first: FirstPart, *, some: bool = False
) -> dict[str, float]:
    """Figures of the words that are held out, all or some of them, and of the parts of the model."""
    words, starts = first.test
    places = asked_places(config, len(words)) if some else np.arange(len(words))
    found = predict(model, words, places, starts=starts)
    metrics = figures(
        report_of(model, found), model.tokenizer, lift=similarity_lift(model, words, places, starts=starts)
    )
    closely = part_figures(model, words, close_places(config, len(words)), starts=starts)
    return metrics | closely | store_figures(model)


def saved_stream_figures(
    model: HolographicModel,
    config: HolographicRunConfig,
    first: FirstPart,
    place: Mapping[str, object],
    *,
    with_baselines: bool,
) -> dict[str, float]:
    """Figures of a run, given the stored place in its stream, which says what it saw of the held-out documents."""
    told = dict[str, float]()
    # Older versions did not look for repeats.
    if SEEN in place:
        repeats = Repeats(*first.test)
        repeats.load_state(place[SEEN])
        rest, told = unrepeated(first, repeats)
        first, told = rest, _told(first, told)
    return stream_figures(model, config, first) | told | (stream_baselines(model, first) if with_baselines else {})


def stream_baselines(model: HolographicModel, first: FirstPart) -> dict[str, float]:
    """Losses of the unigram and of the plain counts of the model: nothing else has seen the whole stream.

    Where a memory made them drop grams, they are no longer Kneser-Ney on the same words, and are not called so.
    """
    words, counts = first.test[0], model.memories.counts
    plain = counts.score(counts.find(*of_text(*first.test).symbols(counts.order - 1)), words)
    unigram = model.memories.prior()[words]
    name = "baseline/counts" if counts.cut_off else f"baseline/kn{counts.order}"
    return {"baseline/unigram": -float(np.log(unigram).mean()), name: -float(np.log(plain).mean())}


def prepare_stream(
    config: HolographicRunConfig, tokenizer_file: str, *, saved: Checkpoint | None, world: World
) -> Work:
    """Everything a run on a stream needs before it has a directory; each process learns a part of the documents."""
    if world.size > 1 and saved is not None:
        raise ConfigError("a checkpoint holds what the first process had learned; start runs of several anew")
    share = None if config.train.words is None else -(-config.train.words // world.size)
    tokenizer = None if saved is None else WordTokenizer.from_json(saved.files[tokenizer_file])
    first = read_first(config.data, tokenizer, digest=None if saved is None else saved.state["text_sha256"])
    if saved is None:
        check_held_out(len(first.test[0]), config)
    plan = plan_for_machine(config.model, first.tokenizer.vocab_size)
    model, place = HolographicModel(config.model, first.tokenizer), (world.rank, world.size)
    repeats = Repeats(*first.test)
    # What is given once more at the end comes from the documents of all processes.
    whole = cache_of(config.data, first.tokenizer)
    mine = None if whole is None else CachedDocuments(whole.parts, whole.left_out, place)
    source = WordStream(
        lambda: training_stream(config.data, place, mine),
        first.tokenizer,
        batch=config.model.batch_size,
        reach=model.memories.reach,
        replay=config.model.replay,
        apart=first.apart,
        most=share,
        whole=lambda: training_stream(config.data, cached=whole),
        repeats=repeats,
        agreed=world.all_of,
    )
    # The stream says when it is over: with several processes, later than the first one has learned its share.
    budget = Budget(tokens=ENDLESS if share is None or world.size > 1 else share)

    def gather(learned: HolographicModel) -> None:
        if world.size > 1:
            merged(learned, world.each(learned_tensors(learned)))
            for found in world.each({SEEN: torch.from_numpy(repeats.seen)}):
                np.logical_or(repeats.seen, found[SEEN].numpy(), out=repeats.seen)

    def evaluate(stop: Callable[[], bool]) -> dict[str, float] | None:
        if stop():
            return None
        if not model.mixture.calibrated:
            return stream_figures(model, config, first, some=True) | watch.churn()
        rest, told = unrepeated(first, repeats)
        return stream_figures(model, config, rest) | _told(first, told) | watch.churn()

    watch, write = Watch(model), sample_writer(config, model, first.test)

    return Work(
        config=config,
        learner=HolographicLearner(model, gather=gather),
        sampler=source,
        evaluate=evaluate,
        header={
            "data": config.data.source,
            "training words": config.train.words or "as many as there are",
            "held-out words": len(first.test[0]),
            "vocabulary": model.vocab_size,
            "unknown words": f"{first.unknown:.2%} of those held out",
            "documents skipped": f"{first.short:,} of the first {first.documents:,}, shorter than data.documents.least",
            **plan.header(),
        },
        files={tokenizer_file: first.tokenizer.to_json()},
        facts={
            "config": to_json(config),
            "text_sha256": first.digest,
            "since": 0,
            "budget": budget.model_dump(),
        },
        callbacks=lambda directory: [watch, *sample_callbacks(directory.path, write)],
        closing=lambda: stream_baselines(model, unrepeated(first, repeats)[0]),
        budget=budget,
        lean=config.model.memory is not None,
    )


def refuse_stream(config: HolographicRunConfig, what: str) -> None:
    """Refuses what needs the whole text of a run.

    Raises:
        ConfigError: the run learned a stream.
    """
    if config.data.stream:
        raise ConfigError(f"{what} needs the whole text again; this run learned a stream, which is not kept")
