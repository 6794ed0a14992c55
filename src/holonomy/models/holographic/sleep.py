"""Sleep: rare long grams are forgotten, if that costs next to nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from holonomy.core.errors import ConfigError, DataError
from holonomy.models.holographic.contexts import of_text
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
        lowest: order of the shortest of them, 0 if nothing was kept.
    """

    kept: bool
    loss_before: float
    loss_after: float
    bytes_before: int
    bytes_after: int
    dropped: int
    lowest: int


def sleep(
    model: HolographicModel,
    tokens: np.ndarray,
    *,
    starts: np.ndarray | None = None,
    least: int = 2,
    lowest: int = 3,
    bound: float = 0.01,
    share: float = 0.05,
) -> SleepReport:
    """Forgets long grams that occurred fewer than `least` times, if that costs next to nothing.

    The end of the text decides: it is unlearned, and predicted before and after on trial. What then goes from the
    whole model goes to shorter contexts, as cut-offs of Kneser-Ney models do; see `CountTrie.prune`.

    Args:
        model: has learned `tokens`.
        tokens: documents end to end.
        starts: where documents begin; one document by default.
        least: occurrences that a gram needs to stay, up to 3.
        lowest: order below which no gram is forgotten; where that costs too much, higher ones are tried.
        bound: largest relative rise of the perplexity of that end; a larger one leaves the model as it was.
        share: of the text at its end.

    Raises:
        ConfigError: a bound below zero, a text too short to hold anything out, or a cut-off out of range.
    """
    first = int(len(tokens) * (1 - share))
    if bound < 0 or not 1 < first < len(tokens):
        raise ConfigError(f"`bound` is {bound} and `tokens` holds {len(tokens)}; wanted 0 or more, and a longer text")
    begins = np.zeros(1, dtype=np.int64) if starts is None else starts
    held, places = of_text(tokens, begins, np.arange(first, len(tokens))), np.arange(first, len(tokens))
    saved, size = state_of(model), _bytes(model)
    try:
        model.change(held, tokens[first:], sign=-1)
        unlearned = True
    except DataError:
        # Some of it went in an earlier sleep: then it is predicted as it is.
        load_into(model, saved)
        unlearned = False
    if unlearned:
        # Vectors and classes must not know the held-out end either.
        model.consolidate(tokens[:first], begins[begins < first])
    before = float(predict(model, tokens, places, starts=begins).losses.mean())
    rested, after = state_of(model), before
    for order in range(lowest, model.memories.counts.order + 1):
        dropped = _prune(model, least, order)
        after = float(predict(model, tokens, places, starts=begins).losses.mean())
        if after <= before + np.log1p(bound):
            break
        load_into(model, rested)
    else:
        load_into(model, saved)
        return SleepReport(False, before, after, size, size, 0, 0)
    if unlearned:
        # The trial was on counts without that end: what it holds may have occurred before, and then it stays.
        load_into(model, saved)
        dropped = _prune(model, least, order)
    return SleepReport(True, before, after, size, _bytes(model), dropped, order)


def _prune(model: HolographicModel, least: int, lowest: int) -> int:
    # Where the longest grams are shorter, they are what is pruned first.
    tries = [gram.trie for gram in [*model.memories.grams, *model.memories.classes]]
    return sum(trie.prune(least, lowest=min(lowest, trie.order)) for trie in tries)


def _bytes(model: HolographicModel) -> int:
    memories = model.memories
    return sum(gram.trie.nbytes for gram in [*memories.grams, memories.apart, *memories.classes])
