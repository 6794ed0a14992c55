"""What a context brings to mind, where it comes from, and whether counts and bindings disagree about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from holonomy.core.errors import ConfigError
from holonomy.models.holographic.contexts import Contexts
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.settle import Settled

SURE, APART = 0.3, 0.2
"""A conflict: both are surer of their words than the first, and their divergence in nats is above the second."""
PRIOR = "prior"


@dataclass(frozen=True)
class Recollection:
    """Answers to contexts.

    Attributes:
        tokens: the word with the highest probability, the lowest id among equals, [B] int64.
        probs: that probability, [B].
        shares: part of it that each expert brought, [B, C]; in the order of `experts`.
        said: probability of the word from each expert, [B, C]: the exact counts as similarity sharpens them where it
            sharpens them alone, and zero from an expert that knows nothing.
        experts: their names.
        sources: the expert with the largest part, or `prior` where no word of the context is known, [B].
        order: last words that the counts know as a context, [B].
        recalled: the one word that ever followed the longest context that anything followed, [B] int64; -1 where
            several did, or something was dropped there. It need not be the most probable one: what was seen once is
            discounted.
        bound: probability of the word from the bindings, [B]; nan without bindings. The mixture does not ask them, so
            they bring no part.
        divergence: of counts and bindings in nats, 0 to ln 2, [B]; zero without bindings.
        conflict: whether both are sure of different words, [B] bool.
        sd: standard deviation of the noise of a count, once all words that stand out at the address of the longest
            bound order are explained, [B]; nan where no order is bound, or nothing stands.
        coherence: of what stands at that address with the word, 0 to 1, [B]; sign-blind.
        wrong_coherence: the same for the best other word.
    """

    tokens: np.ndarray
    probs: np.ndarray
    shares: np.ndarray
    said: np.ndarray
    experts: list[str]
    sources: list[str]
    order: np.ndarray
    recalled: np.ndarray
    bound: np.ndarray
    divergence: np.ndarray
    conflict: np.ndarray
    sd: np.ndarray
    coherence: np.ndarray
    wrong_coherence: np.ndarray


def retrieve_batch(model: HolographicModel, ids: np.ndarray, lengths: np.ndarray | None = None) -> Recollection:
    """Answers to contexts, arguments as of `learn_batch`."""
    contexts, rows = model.contexts(ids, lengths), model.rows
    # No contexts are one empty part.
    begins = range(0, max(1, len(contexts.ends)), rows)
    parts = [_retrieved(model, contexts.part(slice(begin, begin + rows))) for begin in begins]
    experts, sources = parts[0].experts, [source for part in parts for source in part.sources]
    arrays = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts])
        for f in fields(Recollection)
        if f.name not in ("experts", "sources")
    }
    return Recollection(experts=experts, sources=sources, **arrays)


def _retrieved(model: HolographicModel, contexts: Contexts) -> Recollection:
    memories, mixture = model.memories, model.mixture
    reading = memories.read(contexts)
    logs = model.said(reading)
    tokens = logs.argmax(1).numpy()
    said, known = mixture.experts_at(memories, reading, tokens)
    shares = shares_brought(mixture.weights(reading, known), said)
    order = (reading.found[0] >= 0).sum(1) - 1
    nothing = (order == 0) & (reading.mass.sum(1) == 0)
    sources = [PRIOR if none else memories.experts[i] for none, i in zip(nothing, shares.argmax(1), strict=True)]
    zeros, nan = np.zeros(len(tokens)), np.full(len(tokens), np.nan)
    bound, divergence, conflict, sd, right, wrong = nan, zeros, zeros > 0, nan, zeros, zeros
    if model.mirror is not None:
        whole, sd = model.mirror.said(contexts, memories.counts, memories.settling(contexts, reading))
        bound = whole[np.arange(len(tokens)), tokens]
        divergence, conflict = _conflict(memories.counts.dense(reading.found[0]).astype(np.float64), whole)
        right, wrong = model.mirror.coherence(contexts, with_rivals(tokens, logs)).T
    return Recollection(
        tokens=tokens,
        probs=logs.exp().gather(1, torch.from_numpy(tokens)[:, None]).squeeze(1).numpy(),
        shares=shares,
        said=said,
        experts=memories.experts,
        sources=sources,
        order=order,
        recalled=_recalled(model, contexts),
        bound=bound,
        divergence=divergence,
        conflict=conflict,
        sd=sd,
        coherence=right,
        wrong_coherence=wrong,
    )


def _recalled(model: HolographicModel, contexts: Contexts) -> np.ndarray:
    counts, out = model.memories.counts, np.empty(len(contexts.ends), dtype=np.int64)
    # A context of a document's beginning alone is known as well, though it counts in no distribution.
    found = counts.find(*contexts.symbols(counts.order - 1), followed=False)
    view, kernels = counts.view()
    kernels.single(view, found, out)
    return out


def retrieve(model: HolographicModel, context: Sequence[int]) -> Recollection:
    """The answer to one context: a batch of one."""
    return retrieve_batch(model, np.array([context], dtype=np.int64).reshape(1, -1))


def divergence_of(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of rows, in nats."""
    middle = (p + q) / 2

    def relative(a: np.ndarray) -> np.ndarray:
        return np.where(a > 0, a * np.log(np.maximum(a, 1e-300) / np.maximum(middle, 1e-300)), 0.0).sum(1)

    return (relative(p) + relative(q)) / 2


def _conflict(exact: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    divergence = divergence_of(exact, bound)
    sure = np.minimum(exact.max(1), bound.max(1)) >= SURE
    return divergence, (exact.argmax(1) != bound.argmax(1)) & sure & (divergence >= APART)


def shares_brought(weights: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Part of the probability of one word that each expert brought, [B, C].

    Args:
        weights: of the experts, zero where one knows nothing, [B, C].
        probs: what they give the word, [B, C].
    """
    shares = weights * probs
    return shares / np.maximum(shares.sum(1, keepdims=True), 1e-300)


def with_rivals(words: np.ndarray, logs: torch.Tensor) -> np.ndarray:
    """Words [B] and the most probable other one of each distribution [B, V], [B, 2] int64."""
    own = torch.from_numpy(words)[:, None]
    return torch.cat([own, logs.scatter(1, own, -torch.inf).argmax(1, keepdim=True)], 1).numpy()


def settled_states(model: HolographicModel, ids: np.ndarray, order: int, lengths: np.ndarray | None = None) -> Settled:
    """The settled states that the bindings' distribution is made of at one order.

    Raises:
        ConfigError: the model binds nothing, or not at this order.
    """
    mirror = model.mirror
    if mirror is None or order not in mirror.tower.orders:
        known = "none, tower.role is off" if mirror is None else str(mirror.tower.orders)
        raise ConfigError(f"`order` is {order}; bound orders: {known}")
    contexts = model.contexts(ids, lengths)
    return mirror.settled(contexts, order, model.memories.settling(contexts))[0]
