"""Sleep: rare long grams are forgotten and everything made from counts is made again, if that costs next to nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from holonomy.core.errors import ConfigError
from holonomy.models.holographic.metrics import predict
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.storage import load_into, state_of


@dataclass(frozen=True)
class SleepReport:
    """What a sleep did.

    Attributes:
        kept: whether its result was kept; otherwise the model is as before.
        loss_before, loss_after: on held-out words, in nats.
        bytes_before, bytes_after: of the exact counts.
        dropped: grams forgotten.
    """

    kept: bool
    loss_before: float
    loss_after: float
    bytes_before: int
    bytes_after: int
    dropped: int


def sleep(
    model: HolographicModel,
    replay: np.ndarray,
    held_out: np.ndarray,
    *,
    starts: np.ndarray | None = None,
    least: int = 2,
    lowest: int = 4,
    bound: float = 0.01,
) -> SleepReport:
    """Forgets long grams that occurred fewer than `least` times, consolidates, and looks back.

    Args:
        model: learned `replay`, not `held_out`.
        replay: text that vectors, classes and what hangs on them are made from again.
        held_out: words that decide whether the sleep is kept.
        starts: where documents of `replay` begin; one document by default.
        least: occurrences that a gram needs to stay.
        lowest: order below which no gram is forgotten.
        bound: largest relative rise of the held-out perplexity.

    Raises:
        ConfigError: no held-out word, or a bound below zero.
    """
    if len(held_out) < 2 or bound < 0:
        raise ConfigError(f"`held_out` has {len(held_out)} words and `bound` is {bound}; wanted 2 or more, 0 or more")
    positions = np.arange(len(held_out))
    before, size = float(predict(model, held_out, positions).losses.mean()), _bytes(model)
    saved = state_of(model)
    tries = [gram.trie for gram in model.memories.grams]
    dropped = sum(trie.prune(least, lowest=lowest) for trie in tries)
    model.consolidate(replay, starts)
    for gram in model.memories.classes:
        dropped += gram.trie.prune(least, lowest=lowest)
    after, rest = float(predict(model, held_out, positions).losses.mean()), _bytes(model)
    kept = after <= before + np.log1p(bound)
    if not kept:
        load_into(model, saved)
    return SleepReport(bool(kept), before, after, size, rest, dropped)


def _bytes(model: HolographicModel) -> int:
    memories = model.memories
    return sum(gram.trie.nbytes for gram in [*memories.grams, memories.apart, *memories.classes])
