"""What can be done to a holographic run after its pass: a further text, forgetting one, sleeping, and merging runs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from holonomy.core.config import from_json, leaves, to_json, to_yaml
from holonomy.core.errors import ConfigError, DataError
from holonomy.core.learner import Json, State
from holonomy.data.kneser_ney import baselines
from holonomy.data.repeats import LENGTH, Repeats
from holonomy.data.text import load_text
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.config import HolographicRunConfig
from holonomy.models.holographic.learner import OnePass
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.sleep import SleepReport, sleep
from holonomy.models.holographic.storage import load_into, merge_into, resized, state_of
from holonomy.models.holographic.transfer import compact_counts
from holonomy.recipes.holographic import (
    PARTS,
    TOKENIZER_FILE,
    LearnedText,
    held_out,
    learned_texts,
    learned_words,
    read_words,
    vocabulary_of,
)
from holonomy.recipes.holographic_stream import refuse_stream
from holonomy.train import checkpoint
from holonomy.train.checkpoint import Checkpoint
from holonomy.train.monitor import MetricsLog, peak_rss_mb
from holonomy.train.report import Counters, FitReport
from holonomy.train.run import RunDirectory

logger = logging.getLogger(__name__)

FREE = ("data.source", "model.tower.levels")
"""Keys that runs to be merged may differ in: their texts, and levels of the store, of which higher ones are folded."""


def _config(saved: Checkpoint) -> HolographicRunConfig:
    if saved.state["config"].get("family") != "holographic":
        raise ConfigError(
            f"`{saved.path}` is of the family {saved.state['config'].get('family')}; "
            "only holographic runs learn further texts, forget, sleep and merge"
        )
    config = from_json(HolographicRunConfig, saved.state["config"], origin=str(saved.path))
    refuse_stream(config, "learning a further text, forgetting, sleeping and merging")
    return config


def _state(saved: Checkpoint) -> State:
    return {**saved.tensors, **saved.state["learner"]}


def _digest(source: str) -> str:
    return hashlib.sha256(load_text(source).text.encode("utf-8", "surrogatepass")).hexdigest()


def _batches(config: HolographicRunConfig, words: np.ndarray, starts: np.ndarray) -> int:
    return OnePass(words, batch=config.model.batch_size, reach=1, pad_id=0, starts=starts).count


def _learned(saved: Checkpoint) -> tuple[HolographicRunConfig, list[LearnedText], np.ndarray, np.ndarray]:
    """Configuration, texts, words and their starts of a run that has learned all of them.

    Raises:
        ConfigError: it has not.
    """
    config, texts = _config(saved), learned_texts(saved)
    words, starts = learned_words(config, texts, vocabulary_of(saved))
    drawn, count = saved.state["data"]["drawn"], _batches(config, words, starts)
    if drawn < count:
        raise ConfigError(
            f"`{saved.path}` has learned {drawn} of {count} batches; let it finish with `holonomy train --resume` first"
        )
    return config, texts, words, starts


def extended(saved: Checkpoint, data: str) -> Checkpoint:
    """A checkpoint that is about to learn a further text; new words get ids behind those it has.

    Args:
        saved: a run that has learned its texts.
        data: known name or path of the further one.

    Raises:
        ConfigError: the run is of another family, has not finished, or knows the text already.
        DataError: the text cannot be read, or has characters that the run cannot.
    """
    config, texts, known, _ = _learned(saved)
    digest = _digest(data)
    if digest in (text.sha256 for text in texts):
        raise ConfigError(f"`--data` {data} is a text that the run has learned; a second time would count it twice")
    tokenizer = vocabulary_of(saved)
    if isinstance(tokenizer, WordTokenizer):
        words = tokenizer.words_of(load_text(data).text)
        learned = words[: int(len(words) * config.data.train_share)]
        tokenizer = tokenizer.extended(learned, min_count=config.data.min_count)
    found = read_words(config.data.model_copy(update={"source": data}), tokenizer).split.train
    if isinstance(tokenizer, WordTokenizer):
        _warn_of_copies(known, found, data)
    state = resized(_state(saved), tokenizer)
    texts = [*texts, LearnedText(data, digest, tokenizer.vocab_size)]
    return replace(
        saved,
        tensors={k: v for k, v in state.items() if isinstance(v, Tensor)},
        state={
            **saved.state,
            "learner": {k: v for k, v in state.items() if not isinstance(v, Tensor)},
            "texts": [asdict(text) for text in texts],
        },
        files={**saved.files, TOKENIZER_FILE: tokenizer.to_json()},
    )


def _warn_of_copies(known: np.ndarray, words: np.ndarray, data: str) -> None:
    """Warns of a text most of which was learned: the fit takes parts of one copy out, and finds them in the other."""
    repeats = Repeats(words, np.zeros(1, dtype=np.int64))
    repeats.see(known)
    if repeats.repeated().any():
        logger.warning(
            "%.0f %% of the runs of %d words of `--data` %s were learned before; the mixture will trust exact counts "
            "too much, since it is fitted to text that they know: `holonomy forget` takes a text out again",
            100 * repeats.seen.mean(),
            LENGTH,
            data,
        )


def _saved_as(
    directory: RunDirectory,
    model: HolographicModel,
    config: HolographicRunConfig,
    texts: Sequence[LearnedText],
    before: Checkpoint,
    *,
    drawn: int,
    ended: str,
    alone: bool = False,
) -> dict[str, float]:
    """Evaluates a changed model and saves it as the newest step; returns its held-out figures beside baselines.

    Where it is `alone`, all older checkpoints go, even if this process dies on the way.
    """
    split = read_words(config.data, model.tokenizer).split
    metrics = held_out(model, config, split)
    words, _ = learned_words(config, texts, model.tokenizer)
    plain = baselines(words, split.test, model.vocab_size)
    # A checkpoint of the same step, left by a crash, would be taken for this one.
    step, state = max([before.step, *checkpoint.steps(directory.checkpoints)]) + 1, state_of(model)
    now = Counters(**before.state["counters"])
    now.step, now.tokens, now.evaluated, now.ended = step, len(words), step, ""
    now.best, now.metrics = {"value": metrics["val/loss"], "step": step}, {**now.metrics, **metrics}
    facts: dict[str, Json] = {
        **before.state,
        "config": to_json(config),
        "text_sha256": texts[0].sha256,
        "texts": [asdict(text) for text in texts],
        "budget": {"steps": step},
        "learner": {k: v for k, v in state.items() if not isinstance(v, Tensor)},
        "data": {"drawn": drawn},
        "since": step,
        "counters": asdict(now),
    }
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    files = {**before.files, TOKENIZER_FILE: model.tokenizer.to_json()}
    if alone:
        directory.supersede(step, to_yaml(config))
    path = checkpoint.save(directory.checkpoints, step=step, tensors=tensors, state=facts, files=files)
    directory.settle()
    # What was reported of the old model is true of it alone.
    directory.keep_result(None)
    for name in ("latest", "best"):
        checkpoint.point(directory.checkpoints, name, step)
    MetricsLog(directory.path / "metrics.jsonl").write(step, metrics)
    report = FitReport(
        run=directory.path,
        family="holographic",
        steps=step,
        tokens=now.tokens,
        seconds=now.seconds,
        cpu_seconds=now.cpu_s,
        peak_rss_mb=peak_rss_mb(),
        metrics={**now.metrics, **plain},
        best={"metric": "val/loss", **now.best},
        checkpoint=path,
        ended=ended,
    )
    directory.keep_result(report.to_json())
    return metrics | plain


def forget(run: str, data: str, *, root: Path, read: Callable[[str], Checkpoint]) -> dict[str, float]:
    """Takes a learned text out of a run again, as if it had never been there.

    Counts and bindings are exact integers; everything made from them is made again from the texts that stay. All older
    checkpoints of the run are removed, since they know the text. Words have ids in the order they came: those of a text
    that a later one follows stay in the vocabulary, though nothing is known of them.

    Args:
        run: name or directory of the run.
        data: known name or path of the text.
        root: where run directories live.
        read: reads the checkpoint of a run.

    Returns:
        Held-out figures of the first text that stays.

    Raises:
        ConfigError: the run is of another family, has slept, has not finished, or would have nothing left.
        DataError: the run never learned the text.
    """
    with RunDirectory.open(run, root) as directory:
        saved = read(str(directory.path))
        config, texts, _, _ = _learned(saved)
        digest = _digest(data)
        gone = [text for text in texts if text.sha256 == digest]
        if not gone:
            known = ", ".join(text.source for text in texts)
            raise DataError(f"`--data` {data} was never learned by `{run}`, or has changed since; it learned {known}")
        if len(texts) == 1:
            raise ConfigError(f"`{run}` learned nothing but {data}; remove the run instead")
        model, tokenizer = PARTS.load(saved), vocabulary_of(saved)
        if model.memories.counts.cut_off:
            raise ConfigError(f"`{run}` has slept: it dropped rare pairs and cannot forget exactly; train it anew")
        model.memories.drop_made()
        model.unlearn_text(learned_words(config, gone, tokenizer)[0])
        for gram in [*model.memories.grams, model.memories.apart]:
            compact_counts(gram.trie)
        stay = [text for text in texts if text.sha256 != digest]
        if isinstance(tokenizer, WordTokenizer):
            tokenizer = tokenizer.shortened(max(text.vocab_size for text in stay))
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": stay[0].source})})
        fresh = HolographicModel(config.model, tokenizer)
        load_into(fresh, resized(state_of(model), tokenizer))
        words, starts = learned_words(config, stay, tokenizer)
        fresh.fit(words, starts)
        drawn = _batches(config, words, starts)
        return _saved_as(directory, fresh, config, stay, saved, drawn=drawn, ended="a text was forgotten", alone=True)


def sleep_run(
    run: str,
    *,
    root: Path,
    read: Callable[[str], Checkpoint],
    least: int = 1,
    lowest: int = 3,
    alike: float = 0.02,
    bound: float = 0.01,
) -> SleepReport:
    """Packs a run, and lets it drop what is rare if that is asked for and costs next to nothing; see `sleep`.

    Raises:
        ConfigError: the run is of another family or has not finished, or a number is out of range.
        DataError, CheckpointError: its texts have changed, or it is damaged.
    """
    with RunDirectory.open(run, root) as directory:
        saved = read(str(directory.path))
        config, texts, words, starts = _learned(saved)
        model = PARTS.load(saved)
        report = sleep(model, words, starts=starts, least=least, lowest=lowest, alike=alike, bound=bound)
        if report.bytes_after < report.bytes_before or report.dropped:
            drawn = saved.state["data"]["drawn"]
            _saved_as(directory, model, config, texts, saved, drawn=drawn, ended="it has slept")
            checkpoint.prune(directory.checkpoints, keep_last=config.train.cadence.keep)
        return report


def merge(runs: Sequence[str], *, run: str, root: Path, read: Callable[[str], Checkpoint]) -> dict[str, float]:
    """Adds what several runs have learned into one run: that of a single pass over all their texts.

    Args:
        runs: two or more names or directories, of one vocabulary and configuration.
        run: name of the run directory to make.
        root: where run directories live.
        read: reads the checkpoint of a run.

    Returns:
        Held-out figures of the first run's text.

    Raises:
        ConfigError: the runs do not go together, or learned a text in common.
        DataError, CheckpointError: texts have changed, or a run is damaged.
    """
    RunDirectory.check_free(root / run)
    if len(runs) < 2:
        raise ConfigError(f"`RUN` names {len(runs)} run; wanted two or more to merge")
    first = read(runs[0])
    config, texts, _, _ = _learned(first)
    model = PARTS.load(first)
    for name in runs[1:]:
        saved = read(name)
        own, further, _, _ = _learned(saved)
        twice = {t.sha256 for t in texts} & {t.sha256 for t in further}
        if twice:
            known = next(t.source for t in further if t.sha256 in twice)
            raise ConfigError(f"`{name}` learned {known}, which a run before it learned too; it would count twice")
        mine, theirs = (
            leaves(c.data, "data.") | leaves(c.model, "model.") | {"train.share": c.train.share} for c in (config, own)
        )
        if odd := [key for key in mine if key not in FREE and mine[key] != theirs[key]]:
            raise ConfigError(
                f"`{name}` has {odd[0]} {theirs[odd[0]]!r} where `{runs[0]}` has {mine[odd[0]]!r}; train both with one"
            )
        other = PARTS.load(saved)
        if model.tokenizer.fingerprint != other.tokenizer.fingerprint:
            sizes = other.tokenizer.vocab_size, model.tokenizer.vocab_size
            raise ConfigError(
                f"`{name}` has another vocabulary than `{runs[0]}` ({sizes[0]:,} and {sizes[1]:,} entries); train both "
                "with one text as data.vocabulary"
            )
        if model.memories.counts.cut_off or other.memories.counts.cut_off:
            raise ConfigError(f"`{name}` or a run before it has slept: what it dropped cannot be added; merge first")
        merge_into(model, other)
        texts = [*texts, *further]
    words, starts = learned_words(config, texts, model.tokenizer)
    model.fit(words, starts)
    drawn = _batches(config, words, starts)
    with RunDirectory.create(root, run, prefix="merged", config=config, at_once=True) as directory:
        before = replace(first, step=drawn - 1)
        return _saved_as(directory, model, config, texts, before, drawn=drawn, ended="the runs are merged")
