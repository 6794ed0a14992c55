"""What holographic runs write at each evaluation, after prompts of held-out text; and which of its words are asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from holonomy.core.errors import DataError
from holonomy.data.tokenizer import CharTokenizer
from holonomy.infer.session import continue_batch
from holonomy.models.holographic.config import HolographicRunConfig
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.streaming import Words
from holonomy.recipes.work import sampling_of
from holonomy.train.callbacks import Samples

LEAST = 100
"""Held-out words that an evaluation needs: of fewer, figures are chance."""
CLOSELY = 1024
"""Held-out words at most whose predictions are taken apart."""
PROMPTS, SEED = 3, 1
WORDS, CHARACTERS = 8, 48
"""Length of a prompt."""


def check_held_out(count: int, config: HolographicRunConfig) -> None:
    """Refuses a text that leaves too few words to evaluate on.

    Raises:
        DataError: names their number, and the keys that decide it.
    """
    if count >= LEAST:
        return
    data, what = config.data, "characters" if config.data.tokens == "chars" else "words"
    cure = (
        f"raise data.documents.held_out ({data.documents.held_out}) or data.documents.first ({data.documents.first})"
        if data.stream
        else f"lower data.train_share ({data.train_share})"
    )
    raise DataError(
        f"`data.source` {data.source} has {count} held-out {what}, an evaluation needs {LEAST} or more: take a longer "
        f"text, or {cure}"
    )


def asked_places(config: HolographicRunConfig, count: int) -> np.ndarray:
    """Places among `count` held-out words that are evaluated before the end of a pass, the same each time."""
    return _some(np.arange(count), config.train.positions, config.model.seed)


def close_places(config: HolographicRunConfig, count: int) -> np.ndarray:
    """Those of them whose predictions are taken apart, in every evaluation."""
    return _some(asked_places(config, count), CLOSELY, config.model.seed)


def _some(places: np.ndarray, most: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).choice(places, min(most, len(places)), replace=False))


def prompts_of(held_out: Words, length: int) -> list[np.ndarray]:
    """Up to `length` words from three places on, evenly apart, none across the end of a document."""
    words, starts = held_out
    begins = [place * len(words) // PROMPTS for place in range(PROMPTS)]
    ends = [*starts[1:].tolist(), len(words)]
    until = [ends[int(np.searchsorted(starts, begin, side="right")) - 1] for begin in begins]
    return [words[begin : min(begin + length, end)] for begin, end in zip(begins, until, strict=True)]


def continued(model: HolographicModel, config: HolographicRunConfig, prompts: Sequence[np.ndarray]) -> str:
    """Prompts and how the model goes on after each, with the defaults of its generation; always the same."""
    # How sure the model usually is, it knows at the end of its pass only.
    sampling = replace(sampling_of(config.infer), abstain=0.0, least_prob=0.0)
    written = continue_batch(model, prompts, sampling=sampling, max_tokens=config.train.cadence.samples, seed=SEED)
    parts = [(model.tokenizer.decode(ids), found.text) for ids, found in zip(prompts, written, strict=True)]
    return "\n".join(
        f"[held-out text {n}]\n{prompt}\n[written after it]\n{text}\n" for n, (prompt, text) in enumerate(parts, 1)
    )


def sample_writer(
    config: HolographicRunConfig, model: HolographicModel, held_out: Words
) -> Callable[[int], str] | None:
    """Makes the sample of a step, if the run writes any."""
    if not config.train.cadence.samples:
        return None
    length = CHARACTERS if isinstance(model.tokenizer, CharTokenizer) else WORDS
    prompts = prompts_of(held_out, length)
    return lambda step: continued(model, config, prompts)


def sample_callbacks(directory: Path, write: Callable[[int], str] | None) -> list[Samples]:
    """Writes samples into the directory of a run, if there are any."""
    return [] if write is None else [Samples(directory / "samples", write)]
