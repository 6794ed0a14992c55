"""Sleep: a model takes as little memory as reading needs; rare long grams may go besides, if that costs little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from holonomy.core.errors import ConfigError, DataError
from holonomy.core.learner import State
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.metrics import predict
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.storage import load_into, state_of

PIECES = 16
"""Of the text, spread over all of it: texts repeat themselves in some places and not in others."""
NEAR = (0.8, 0.9, 0.95)
"""Least cosines of the keys of neighbours that are united, one after the other while that costs too much."""


@dataclass(frozen=True)
class SleepReport:
    """What a sleep did.

    Attributes:
        kept: False if something cost more than allowed and was undone: then grams that were to be dropped, or
            neighbours that were to be united, are as before, and after a `nap` everything is.
        loss_before, loss_after: on unlearned pieces of the text, in nats, the latter that of the trial where all was
            undone; None where nothing was to be lost.
        bytes_before, bytes_after: of everything.
        dropped: grams forgotten.
        lowest: order of the shortest of them, 0 if there are none.
        united: basins of hashed neighbours that others took in.
    """

    kept: bool
    loss_before: float | None
    loss_after: float | None
    bytes_before: int
    bytes_after: int
    dropped: int
    lowest: int
    united: int


def sleep(
    model: HolographicModel,
    tokens: np.ndarray,
    *,
    starts: np.ndarray | None = None,
    least: int = 1,
    lowest: int = 3,
    alike: float = 0.02,
    bound: float = 0.01,
    share: float = 0.1,
) -> SleepReport:
    """Packs counts and bindings, which loses nothing; see `HolographicModel.pack`.

    With `least` above one, long grams that occurred less often are forgotten first, if that costs next to nothing.
    Pieces from all over the text decide: they are unlearned, and predicted before and after on trial. What then goes
    from the whole model goes to shorter contexts, as cut-offs of Kneser-Ney models do; see `CountTrie.prune`. Hashed
    neighbours, where there are any, are united on the same condition; see `Basins.unite`.

    Args:
        model: has learned `tokens`.
        tokens: documents end to end.
        starts: where documents begin; one document by default.
        least: occurrences that a long gram needs to stay; 1 forgets none.
        lowest: order below which no gram is forgotten; where that costs too much, higher ones are tried.
        alike: divergence of what follows neighbours, in nats, below which they are united; 0 unites none.
        bound: largest relative rise of the perplexity of those pieces; a larger one keeps everything.
        share: of the text that they make up.

    Raises:
        ConfigError: a bound below zero, an order that no gram has, a text too short to hold anything out.
    """
    if not 2 <= lowest <= model.memories.counts.order:
        raise ConfigError(f"`lowest` is {lowest}; wanted 2 to {model.memories.counts.order}, the longest grams")
    if not alike >= 0:
        raise ConfigError(f"`alike` is {alike}; wanted 0 or more")
    places, size = _places(tokens, least, bound, share), _bytes(model)
    begins = np.zeros(1, dtype=np.int64) if starts is None else starts
    before = after = None
    dropped = shortest = united = 0
    kept = True
    if least > 1:
        before, after, dropped, shortest = _forget(model, tokens, begins, places, bound, least, lowest)
        kept = shortest > 0
    if alike > 0 and model.memories.basins is not None:
        ways = [partial(_unite, model, alike, near) for near in NEAR]
        first, tried, united, chosen = _tried(model, tokens, begins, places, bound, ways)
        before = first if before is None else before
        if chosen is not None or not shortest:
            after = tried
        kept = kept and chosen is not None
    model.pack()
    return SleepReport(kept, before, after, size, _bytes(model), dropped, shortest, united)


def nap(
    model: HolographicModel,
    tokens: np.ndarray,
    *,
    starts: np.ndarray,
    least: int = 1,
    lowest: int = 3,
    bound: float = 0.01,
    share: float = 0.1,
) -> SleepReport:
    """A sleep between two batches: everything that the end of a pass makes is made of what was learned so far.

    That is word vectors, classes, topics and the mixture; then grams are dropped as in `sleep`, if `least` says so. The
    same pieces decide: unlearned, they are predicted by the model as it was and as it is now, with vectors that do not
    know them either, if it had any. Where the perplexity is higher by more than `bound`, everything is as before.
    Nothing is packed and no neighbours are united, since learning goes on.

    Args:
        model: has learned `tokens`.
        tokens, starts, least, lowest, bound, share: as of `sleep`.

    Raises:
        ConfigError: as there.
        DataError: the text is too short to fit a mixture.
    """
    places, size = _places(tokens, least, bound, share), _bytes(model)
    saved = state_of(model)
    (_take_out if model.memories.readout is None else _refreshed_without)(model, saved, tokens, starts, places)
    before = _loss(model, tokens, starts, places)
    load_into(model, saved)
    if model.memories.counts.cut_off:
        # What was dropped cannot be unlearned for a fit.
        model.consolidate(tokens, starts)
    else:
        model.fit(tokens, starts)
    dropped = shortest = 0
    if least > 1:
        after, pruned, dropped, shortest = _forget(model, tokens, starts, places, bound, least, lowest)
        after = pruned if shortest else after
    else:
        fitted = state_of(model)
        _refreshed_without(model, fitted, tokens, starts, places)
        after = _loss(model, tokens, starts, places)
        load_into(model, fitted)
    if after <= before + np.log1p(bound):
        return SleepReport(True, before, after, size, _bytes(model), dropped, shortest, 0)
    load_into(model, saved)
    return SleepReport(False, before, after, size, _bytes(model), 0, 0, 0)


def _places(tokens: np.ndarray, least: int, bound: float, share: float) -> np.ndarray:
    """Words of the pieces that decide."""
    size = int(len(tokens) * share / PIECES)
    if not bound >= 0 or size < 1 or least < 1:
        raise ConfigError(
            f"`bound` is {bound}, `least` {least} and `tokens` holds {len(tokens)}; wanted 0 or more, 1 or more, and a "
            "longer text"
        )
    # As far apart as they can be; one that follows its own beginning would be too easy.
    firsts = np.linspace(0, len(tokens), PIECES, endpoint=False).astype(int) + (len(tokens) // PIECES - size)
    return (firsts[:, None] + np.arange(size)).reshape(-1)


def _loss(model: HolographicModel, tokens: np.ndarray, begins: np.ndarray, places: np.ndarray) -> float:
    return float(predict(model, tokens, places, starts=begins).losses.mean())


def _take_out(
    model: HolographicModel, saved: State, tokens: np.ndarray, begins: np.ndarray, places: np.ndarray
) -> bool:
    """Unlearns words; where some of it went in an earlier sleep, the model stays as it was `saved`, and knows them."""
    try:
        model.change(of_text(tokens, begins, places), tokens[places], sign=-1)
    except DataError:
        load_into(model, saved)
        return False
    return True


def _refreshed_without(
    model: HolographicModel, saved: State, tokens: np.ndarray, begins: np.ndarray, places: np.ndarray
) -> bool:
    """Unlearns words, and makes vectors and classes anew, which must not know them either."""
    if not _take_out(model, saved, tokens, begins, places):
        return False
    rest = np.setdiff1d(np.arange(len(tokens)), places)
    model.memories.refresh(of_text(tokens, begins, rest), tokens[rest])
    return True


def _tried(
    model: HolographicModel,
    tokens: np.ndarray,
    begins: np.ndarray,
    places: np.ndarray,
    bound: float,
    ways: Sequence[Callable[[], int]],
) -> tuple[float, float, int, int | None]:
    """Takes the first way to lose something that the words at `places` allow.

    Returns:
        Losses before and after, what the way returned for the whole model, and its place; 0 and None without one.
    """
    saved = state_of(model)
    unlearned = _refreshed_without(model, saved, tokens, begins, places)
    before = _loss(model, tokens, begins, places)
    rested, after = state_of(model), before
    for place, way in enumerate(ways):
        chosen, lost, after = place, way(), _loss(model, tokens, begins, places)
        if after <= before + np.log1p(bound):
            break
        load_into(model, rested)
    else:
        load_into(model, saved)
        return before, after, 0, None
    if unlearned:
        # The trial was on counts without the pieces: what they hold may have occurred elsewhere, and then it stays.
        load_into(model, saved)
        lost = way()
    return before, after, lost, chosen


def _forget(
    model: HolographicModel,
    tokens: np.ndarray,
    begins: np.ndarray,
    places: np.ndarray,
    bound: float,
    least: int,
    lowest: int,
) -> tuple[float, float, int, int]:
    """Drops grams if that may be; losses before and after, how many, and their lowest order."""
    orders = range(lowest, model.memories.counts.order + 1)
    ways = [partial(_prune, model, least, order) for order in orders]
    before, after, dropped, chosen = _tried(model, tokens, begins, places, bound, ways)
    return before, after, dropped, 0 if chosen is None else orders[chosen]


def _unite(model: HolographicModel, alike: float, near: float) -> int:
    basins = model.memories.basins
    return 0 if basins is None else basins.unite(alike=alike, near=near)


def _prune(model: HolographicModel, least: int, lowest: int) -> int:
    # Where the longest grams are shorter, they are what is pruned first.
    tries = [gram.trie for gram in [*model.memories.grams, *model.memories.classes]]
    return sum(trie.prune(least, lowest=min(lowest, trie.order)) for trie in tries)


def _bytes(model: HolographicModel) -> int:
    return sum(model.stats().values())
