"""Claims that learning is real: held-out figures get better with data, and do not where there is nothing to learn."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from holonomy.audit.claim import Evidence, Figure, Setting, claim, curve
from holonomy.audit.claims.language import count_losses
from holonomy.data.ternary_ops import OperationBatch, OperationSpace, StratifiedBatches, holdout
from holonomy.data.text import load_text
from holonomy.data.tokenizer import CharTokenizer
from holonomy.data.tokens import TokenBatch, WindowSampler
from holonomy.data.words import split_words
from holonomy.models.holographic.config import (
    CountsConfig,
    HolographicConfig,
    MixtureConfig,
    RecencyConfig,
    SimilarityConfig,
    TowerConfig,
)
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.lior.config import DataConfig, LiorConfig, ModelConfig, OptimConfig, TrainConfig
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.models.lior.learner import build_learner
from holonomy.models.ternary.config import (
    Divergence,
    Losses,
    Reconstruction,
    TernaryConfig,
    TernaryDataConfig,
    TernaryModelConfig,
    TernaryTrainConfig,
    Triplet,
)
from holonomy.models.ternary.learner import TernaryLearner
from holonomy.models.ternary.losses import LossContext
from holonomy.models.ternary.model import TernaryOutput
from holonomy.nn.containers import Chain

SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
FEW_SHARES = (0.01, 0.1, 1.0)
SLACK = 0.02
"""Nats by which a curve may rise, and a model without anything to learn may be better than single counts."""


def rises(values: list[float]) -> float:
    """By how much a curve that should fall rises at worst from one point to the next; negative where it falls."""
    return max(b - a for a, b in pairwise(values))


def single_entropy(tokens: np.ndarray) -> float:
    """Nats a token of its own single counts: less no guess that ignores the context can lose."""
    share = np.unique(tokens, return_counts=True)[1] / len(tokens)
    return float(-(share * np.log(share)).sum())


class LiorTrial:
    """Small lior models trained for the same number of updates.

    Args:
        train: training tokens.
        held_out: tokens to predict.
        tokenizer: of both.
        steps: updates.
        seed: of weights and order.
    """

    def __init__(
        self, train: np.ndarray, held_out: np.ndarray, tokenizer: CharTokenizer, *, steps: int, seed: int
    ) -> None:
        self.train, self.held_out, self.tokenizer, self.steps = train, held_out, tokenizer, steps
        model = ModelConfig(d=48, n_osc=64, hidden=64, heads=2, blocks=2)
        self.config = LiorConfig(
            model=model,
            data=DataConfig(seq_len=64, batch=8),
            train=TrainConfig(seed=seed, optim=OptimConfig(lr=8e-3)),
        )

    def loss(self, train: np.ndarray, *, permuted: bool = False) -> float:
        """Held-out loss after training on some tokens, with targets of other places if `permuted`."""
        vocabulary, seed = self.tokenizer.vocab_size, self.config.train.seed
        learner = build_learner(self.config, vocab_size=vocabulary)
        sampler, mix = (
            WindowSampler(torch.from_numpy(train), seq_len=64, batch=8, seed=seed),
            np.random.default_rng(seed),
        )
        for n in range(self.steps):
            batch = sampler.next()
            if permuted:
                order = torch.from_numpy(mix.permutation(batch.targets.numel()))
                batch = TokenBatch(batch.inputs, batch.targets.flatten()[order].view_as(batch.targets), batch.count)
            learner.train_step(batch, progress=n / self.steps)
        net = learner.net
        assert isinstance(net, Chain)
        model = LiorLanguageModel(net, self.tokenizer, self.config)
        windows = torch.from_numpy(self.held_out[: len(self.held_out) // 65 * 65].reshape(-1, 65))
        found = model.log_probs(windows[:, :-1]).gather(-1, windows[:, 1:, None])
        return -float(found.double().mean())


@claim(
    "lior.learning-is-real",
    statement="Lior predicts held-out text the better, the more it saw, and learns nothing where there is nothing.",
    source="README.md",
    limit_s=300.0,
)
def lior_learning(setting: Setting) -> Evidence:
    """Equal updates on shares of a text, on permuted targets and on a shuffled text; counts beside them."""
    text = load_text("pydoc").text
    size, steps = (400_000, 400) if setting.full else (150_000, 70)
    tokenizer = CharTokenizer.from_text(text)
    ids = tokenizer.encode(text[: size + 8_000])
    train, held_out = ids[:size], ids[size:]
    trial = LiorTrial(train, held_out, tokenizer, steps=steps, seed=setting.seed + 1)
    shares = SHARES if setting.full else FEW_SHARES
    sizes = [int(share * size) for share in shares]
    losses = [trial.loss(train[:n]) for n in sizes]
    counted = [count_losses(train[:n], held_out, tokenizer.vocab_size) for n in sizes]
    permuted = trial.loss(train, permuted=True)
    shuffled = trial.loss(np.random.default_rng(setting.seed).permutation(train))
    floor = single_entropy(held_out)
    lines = {
        "lior": list(zip(map(float, sizes), losses, strict=True)),
        "single counts": [(float(n), c[0]) for n, c in zip(sizes, counted, strict=True)],
        "counts of pairs": [(float(n), c[1]) for n, c in zip(sizes, counted, strict=True)],
        "permuted targets": [(float(size), permuted)],
        "shuffled text": [(float(size), shuffled)],
    }
    return Evidence(
        (
            Figure("held-out loss, all of the text", losses[-1], "<", floor - 0.3, "nats"),
            Figure("largest rise from one share to the next", rises(losses), "<", SLACK, "nats"),
            Figure("fall from the smallest share to all", losses[0] - losses[-1], ">", 0.2, "nats"),
            Figure("held-out loss, permuted targets", permuted, ">=", floor - SLACK, "nats"),
            Figure("held-out loss, shuffled text", shuffled, ">=", floor - SLACK, "nats"),
            Figure("loss by counts of pairs", counted[-1][1], unit="nats"),
        ),
        (curve("held-out loss by training text", "characters", "nats a character", lines, log_x=True),),
    )


def _counting_model(tokenizer, *, recency: bool) -> HolographicModel:
    """Exact counts with or without working memory, and their mixture."""
    # Something must be asked for: 32 words in a row that match, one word back, never do.
    traces = RecencyConfig().traces if recency else ((32, 1, 1.0),)
    config = HolographicConfig(
        tower=TowerConfig(role="off"),
        counts=CountsConfig(classes=()),
        recency=RecencyConfig(traces=traces),
        similarity=SimilarityConfig(dim=16),
        mixture=MixtureConfig(product="none", blocks=2, positions=2_000, em_steps=40),
    )
    return HolographicModel(config, tokenizer)


@claim(
    "holographic.learning-is-real",
    statement="One pass predicts held-out text the better, the more text it saw, and nothing where there is nothing.",
    source="docs/holographic.md",
    limit_s=300.0,
)
def holographic_learning(setting: Setting) -> Evidence:
    """One pass over shares of a text, over pairs with permuted targets and over a shuffled text."""
    text, random = load_text("pydoc").text, np.random.default_rng(setting.seed)
    # Later the reference repeats whole pages, which would make the held-out part easy.
    split = split_words(text[:150_000])
    words, held_out, vocabulary = split.train, split.test[:2_000], split.tokenizer.vocab_size

    def loss_on(model: HolographicModel, tokens: np.ndarray) -> float:
        positions = np.arange(len(tokens) - len(held_out), len(tokens))
        return -float(model.score(tokens, positions).double().mean())

    shares = SHARES if setting.full else FEW_SHARES
    sizes = [int(share * len(words)) for share in shares]
    losses, counted = [], []
    for size in sizes:
        # The text just before the held-out part, so that working memory sees the same in every case.
        part = words[-size:]
        model = _counting_model(split.tokenizer, recency=True)
        model.learn_text(part)
        model.fit(part)
        losses.append(loss_on(model, np.concatenate([part, held_out])))
        counted.append(count_losses(part, held_out, vocabulary))
    mixed = random.permutation(np.concatenate([words, held_out]))
    shuffled = _counting_model(split.tokenizer, recency=True)
    shuffled.learn_text(mixed[: len(words)])
    shuffled.fit(mixed[: len(words)])
    order = shuffled.memories.counts.order
    windows = np.lib.stride_tricks.sliding_window_view(words[:-1], order)
    targets = random.permutation(words[order:])
    # Working memory reads the context itself, whatever was learned: it is left out here.
    permuted = _counting_model(split.tokenizer, recency=False)
    permuted.learn_batch(np.ascontiguousarray(windows), targets)
    nothing = [loss_on(shuffled, mixed), loss_on(permuted, np.concatenate([words, held_out]))]
    floors = [single_entropy(mixed[-len(held_out) :]), single_entropy(held_out)]
    lines = {
        "holographic": list(zip(map(float, sizes), losses, strict=True)),
        "single counts": [(float(n), c[0]) for n, c in zip(sizes, counted, strict=True)],
        "counts of pairs": [(float(n), c[1]) for n, c in zip(sizes, counted, strict=True)],
        "shuffled text": [(float(len(words)), nothing[0])],
        "permuted targets": [(float(len(words)), nothing[1])],
    }
    return Evidence(
        (
            Figure("held-out loss, all of the text", losses[-1], "<", counted[-1][1], "nats"),
            Figure("largest rise from one share to the next", rises(losses), "<", SLACK, "nats"),
            Figure("fall from the smallest share to all", losses[0] - losses[-1], ">", 0.2, "nats"),
            Figure("held-out loss, shuffled text", nothing[0], ">=", floors[0] - SLACK, "nats"),
            Figure("held-out loss, permuted targets", nothing[1], ">=", floors[1] - SLACK, "nats"),
        ),
        (curve("held-out loss by training text", "words", "nats a word", lines, log_x=True),),
    )


class PermutedLearner(TernaryLearner):
    """Is asked for the table of another operation, always the same one, instead of that which it sees."""

    order: torch.Tensor

    def outputs(self, batch: OperationBatch, generator: torch.Generator) -> tuple[TernaryOutput, LossContext]:
        """The output for the operations, and the losses of others."""
        out, _ = super().outputs(batch, generator)
        return out, self.context(OperationBatch(self.order[batch.index], batch.unbias, batch.count), generator)


@claim(
    "ternary.learning-is-real",
    statement="Operations that were never seen come back right the more often, the more others were.",
    source="docs/ternary.md",
    limit_s=300.0,
)
def ternary_learning(setting: Setting) -> Evidence:
    """Coverage of withheld operations by the share that was trained on, and with the tables of others as targets."""
    digits, steps = (7, 600) if setting.full else (6, 150)
    space = OperationSpace(3, digits)
    shares = (0.01, 0.03, 0.1, 0.3, 0.5) if setting.full else (0.01, 0.1, 0.5)
    _, withheld = holdout(space, 0.5, seed=setting.seed, always_train=(0,))

    def trained_on(share: float, *, permuted: bool = False) -> tuple[float, float]:
        config = TernaryConfig(
            model=TernaryModelConfig(input="centred", logvar_init=-1.0, decoder_scales=1, decoder_copies="direction"),
            loss=Losses(
                reconstruction=Reconstruction(weight=1.0), kl=Divergence(weight=1e-3), padic_triplet=Triplet(weight=0.0)
            ),
            data=TernaryDataConfig(digits=digits),
            train=TernaryTrainConfig(seed=setting.seed),
        )
        known = np.setdiff1d(space.index.numpy(), withheld.numpy())
        drawn = np.random.default_rng(setting.seed).permutation(known)[: max(8, int(share * len(space.index)))]
        batches = StratifiedBatches(
            space,
            torch.from_numpy(np.sort(drawn)),
            batch_size=256,
            extra_per_level=0,
            extra_from_level=digits,
            high_budget=None,
            seed=setting.seed,
        )
        learner = (PermutedLearner if permuted else TernaryLearner)(config, space)
        if isinstance(learner, PermutedLearner):
            learner.order = torch.from_numpy(np.random.default_rng(setting.seed + 1).permutation(len(space.index)))
        for n in range(steps):
            learner.train_step(batches.next(), progress=n / steps)
        learner.module.eval()
        found = learner.vae.reconstruct(withheld)
        entries = (space.table[found] == space.table[withheld]).double().mean()
        return float((found == withheld).double().mean()), float(entries)

    results = [trained_on(share) for share in shares]
    permuted = trained_on(0.5, permuted=True)
    seen = [float(share * len(space.index)) for share in shares]
    lines = {
        "whole tables": [(n, r[0]) for n, r in zip(seen, results, strict=True)],
        "single entries": [(n, r[1]) for n, r in zip(seen, results, strict=True)],
        "whole tables, permuted": [(seen[-1], permuted[0])],
        "single entries, permuted": [(seen[-1], permuted[1])],
        "single entries by chance": [(n, 1 / 3) for n in seen],
    }
    covered = [r[0] for r in results]
    return Evidence(
        (
            Figure("withheld operations that come back, half of all seen", covered[-1], ">=", 0.9),
            Figure("largest fall from one share to the next", rises([-c for c in covered]), "<", SLACK),
            Figure("rise from the smallest share to the largest", covered[-1] - covered[0], ">=", 0.3),
            Figure("withheld operations that come back, permuted targets", permuted[0], "<=", 0.02),
            Figure("of their entries, permuted targets", permuted[1], "<=", 0.4),
        ),
        (curve("withheld operations by those that were seen", "operations", "share right", lines, log_x=True),),
    )
