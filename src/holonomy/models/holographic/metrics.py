"""How good and how honest predictions are: loss, ranks, calibration, and whether confidence tells right from wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.following import following_of
from holonomy.models.holographic.memories import PART
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.pairs import Pairs

RESAMPLES = 20
COMPARED = 4096
"""Contexts whose expected vectors exist at a time."""


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over bins of equal mass."""
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, max(1, len(order))))
    return float(sum(abs(confidence[p].mean() - right[p].mean()) * len(p) for p in parts if len(p)) / len(order))


def calibration_floor(confidence: np.ndarray, bins: int = 15, *, seed: int = 0) -> float:
    """The error that perfectly calibrated predictions of this many words would show by chance."""
    random = np.random.default_rng(seed)
    drawn = (random.random((RESAMPLES, len(confidence))) < confidence).astype(np.float64)
    return float(np.mean([calibration_error(confidence, right, bins) for right in drawn]))


def separation(score: np.ndarray, right: np.ndarray) -> float:
    """Chance that a right prediction has a higher score than a wrong one, ties a half; NaN without both kinds."""
    good = int(right.sum())
    if not 0 < good < len(right):
        return float("nan")
    _, number, count = np.unique(score, return_inverse=True, return_counts=True)
    # Mean rank of each value, from one.
    rank = (np.cumsum(count) - (count - 1) / 2)[number.reshape(-1)]
    return float((rank[right.astype(bool)].sum() - good * (good + 1) / 2) / (good * (len(right) - good)))


def bootstrap(losses: np.ndarray, *, block: int = 64, resamples: int = 500, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of losses in a row, by resampling blocks of them."""
    parts = [losses[i : i + block] for i in range(0, len(losses), block)]
    sums, sizes = np.array([p.sum() for p in parts]), np.array([len(p) for p in parts])
    drawn = np.random.default_rng(seed).integers(0, len(parts), (resamples, len(parts)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        words: how many were predicted.
        vocab_size: among how many.
        unknown: share of unknown words among them.
        nats: mean loss.
        perplexity, perplexity_known: of all words, and of those that are not unknown.
        top1, top5: share of words that had the highest probability, or one of the five highest.
        reciprocal_rank: mean of 1 / rank.
        calibration, floor: calibration error of the highest probability, and what chance alone would show.
        separation: chance that a right prediction was more confident than a wrong one.
        calibrated: whether the mixture was fitted.
    """

    words: int
    vocab_size: int
    unknown: float
    nats: float
    perplexity: float
    perplexity_known: float
    top1: float
    top5: float
    reciprocal_rank: float
    calibration: float
    floor: float
    separation: float
    calibrated: bool

    def values(self) -> dict[str, float | int | bool]:
        """All figures by name."""
        return asdict(self)


@dataclass(frozen=True)
class Predictions:
    """What was predicted at each place.

    Attributes:
        losses: of the words, in nats.
        confidence: highest probability.
        ranks: of the words, from one; ties count half.
        targets: the words.
    """

    losses: np.ndarray
    confidence: np.ndarray
    ranks: np.ndarray
    targets: np.ndarray

    def report(self, vocab_size: int, unknown: int | None, *, bins: int = 15, calibrated: bool = True) -> Report:
        """The figures.

        Args:
            vocab_size: number of words.
            unknown: id of unknown words, if there is one.
            bins: of the calibration error.
            calibrated: whether what predicted was fitted.
        """
        right = (self.ranks == 1).astype(np.float64)
        known = np.ones(len(right), bool) if unknown is None else self.targets != unknown
        return Report(
            words=len(self.losses),
            vocab_size=vocab_size,
            unknown=float(1 - known.mean()),
            nats=float(self.losses.mean()),
            perplexity=float(np.exp(self.losses.mean())),
            perplexity_known=float(np.exp(self.losses[known].mean())) if known.any() else float("nan"),
            top1=float(right.mean()),
            top5=float((self.ranks <= 5).mean()),
            reciprocal_rank=float((1 / self.ranks).mean()),
            calibration=calibration_error(self.confidence, right, bins),
            floor=calibration_floor(self.confidence, bins),
            separation=separation(self.confidence, right),
            calibrated=calibrated,
        )


def judged(log_probs: Float[Tensor, "B V"], targets: np.ndarray) -> Predictions:
    """What distributions say about the words that came."""
    own = log_probs.gather(1, torch.from_numpy(targets)[:, None])
    # A tie with the word itself counts half, so a flat distribution gets no credit.
    ranks = 1 + (log_probs > own).sum(1) + ((log_probs == own).sum(1) - 1) / 2
    confidence = log_probs.max(1).values.exp().double().numpy()
    return Predictions(-own.squeeze(1).double().numpy(), confidence, ranks.double().numpy(), targets)


def chained(parts: Sequence[Predictions]) -> Predictions:
    """Predictions one after the other."""
    columns = ("losses", "confidence", "ranks", "targets")
    return Predictions(*(np.concatenate([getattr(p, name) for p in parts]) for name in columns))


def report_of(model: HolographicModel, found: Predictions) -> Report:
    """The figures of what a model predicted."""
    return found.report(
        model.vocab_size,
        model.tokenizer.unknown_id,
        bins=model.config.evaluation.bins,
        calibrated=model.mixture.calibrated,
    )


def predict(
    model: HolographicModel,
    tokens: np.ndarray,
    positions: np.ndarray,
    *,
    starts: np.ndarray | None = None,
    online: bool = False,
) -> Predictions:
    """Predicts the words at rising positions of a text, each after all that stand before it in its document.

    Args:
        model: the model.
        tokens: documents end to end.
        positions: the places.
        starts: where each document begins; one document by default.
        online: learn each block of words after it was predicted, and let the mixture follow; all of it is unlearned
            at the end.

    Whatever ends it early, the model has learned nothing then, either.

    Raises:
        ConfigError: no position.
    """
    if not len(positions):
        raise ConfigError("`positions` is empty; name one place or more")
    tokens = np.ascontiguousarray(tokens, dtype=np.int64)
    contexts = of_text(tokens, np.zeros(1, np.int64) if starts is None else starts, positions)
    together = max(1, PART // model.vocab_size)
    block, parts, targets = model.config.evaluation.block, list[Predictions](), tokens[positions]
    mixture = following_of(model.memories, model.mixture) if online else None
    step = max(1, together // block) * block if online else together
    known = model.memories.learned
    try:
        for begin in range(0, len(positions), step):
            cut = slice(begin, begin + step)
            part, words = contexts.part(cut), targets[cut]
            logs = model.follow(part, words, block, mixture) if online else model.distributions(part)
            parts.append(judged(logs, words))
    finally:
        if online:
            read = slice(model.memories.learned - known)
            model.change(contexts.part(read), targets[read], sign=-1)
    return chained(parts)


def similarity_lift(
    model: HolographicModel,
    tokens: np.ndarray,
    positions: np.ndarray,
    *,
    starts: np.ndarray | None = None,
    targets: np.ndarray | None = None,
) -> float | None:
    """How much closer the vector that contexts expect is to that of the word that came than to that of another.

    Mean cosine of f Z and v_w at the targets w, minus the same with the targets in random order, so that expecting the
    frequent words everywhere is worth nothing; None before vectors are made.

    Args:
        model: whose vectors.
        tokens: documents end to end.
        positions: places of the words.
        starts: where each document begins; one document by default.
        targets: words to take for those that came, [positions].
    """
    readout = model.memories.readout
    if readout is None or not len(positions):
        return None
    tokens = np.ascontiguousarray(tokens, dtype=np.int64)
    contexts = of_text(tokens, np.zeros(1, np.int64) if starts is None else starts, positions)
    words = torch.from_numpy(tokens[positions] if targets is None else targets)
    mixed, found = words[torch.from_numpy(np.random.default_rng(0).permutation(len(words)))], list[Tensor]()
    for begin in range(0, len(words), COMPARED):
        cut = slice(begin, begin + COMPARED)
        f = readout.features(*map(torch.from_numpy, contexts.part(cut).symbols(model.memories.near)))
        expected = torch.nn.functional.normalize(f @ readout.towards)
        own, other = (readout.features.vectors[part[cut]] for part in (words, mixed))
        found.append((expected * (own - other)).sum(1))
    return float(torch.cat(found).double().mean())


def online_kneser_ney(
    train: np.ndarray,
    tokens: np.ndarray,
    positions: np.ndarray,
    *,
    order: int,
    vocab_size: int,
    block: int = 64,
    train_starts: np.ndarray | None = None,
    starts: np.ndarray | None = None,
) -> np.ndarray:
    """Losses of a Kneser-Ney model that learns each block of words after it has predicted it, [positions].

    Args:
        train: what it has learned before.
        tokens: documents with the words to predict.
        positions: their places, rising.
        order: longest gram.
        vocab_size: number of words.
        block: words of a block.
        train_starts, starts: where documents begin; one document each by default.
    """
    first = np.zeros(1, dtype=np.int64)
    trie, found = CountTrie(order, vocab_size), list[np.ndarray]()
    learned = of_text(train, first if train_starts is None else train_starts)
    trie.learn(Pairs(*learned.symbols(order - 1), train, np.ones(len(train), dtype=np.int64)))
    contexts = of_text(tokens, first if starts is None else starts, positions)
    for begin in range(0, len(positions), block):
        cut = slice(begin, begin + block)
        pairs, targets = contexts.part(cut).symbols(order - 1), tokens[positions[cut]]
        found.append(trie.score(trie.find(*pairs), targets))
        trie.learn(Pairs(*pairs, targets, np.ones(len(targets), dtype=np.int64)))
    return -np.log(np.concatenate(found))
