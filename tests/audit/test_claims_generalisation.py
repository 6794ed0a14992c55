"""Claims that learning is real: true of the code, and red for each broken double."""

from __future__ import annotations

import pytest
import torch
from mutants import Mutant

from holonomy.models.holographic.model import HolographicModel
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.models.ternary.learner import TernaryLearner
from holonomy.models.ternary.model import TernaryVAE
from holonomy.optim.contrastive import AdamW


def updates_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = AdamW.update
    monkeypatch.setattr(AdamW, "update", lambda self, stats, *, lr, loss: plain(self, stats, lr=0.0, loss=loss))


def next_token_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LiorLanguageModel.log_probs

    def log_probs(self, ids):
        found = plain(self, ids)
        ahead = torch.zeros_like(found).scatter_(-1, ids.roll(-1, 1).unsqueeze(-1), 2.0)
        return (found + ahead).log_softmax(-1)

    monkeypatch.setattr(LiorLanguageModel, "log_probs", log_probs)


def words_are_all_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = HolographicModel.distributions
    monkeypatch.setattr(HolographicModel, "distributions", lambda self, c: (0 * plain(self, c)).log_softmax(-1))


def targets_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = HolographicModel.score
    monkeypatch.setattr(HolographicModel, "score", lambda self, tokens, positions: plain(self, tokens, positions) / 2)


def nothing_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    def train_step(self, batch, *, progress):
        return self.eval_step(batch)

    monkeypatch.setattr(TernaryLearner, "train_step", train_step)


def tables_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TernaryVAE, "reconstruct", lambda self, index, generator=None: index)


MUTANTS = [
    Mutant("lior.learning-is-real", "updates are lost", updates_are_lost),
    Mutant("lior.learning-is-real", "the next token leaks into the input", next_token_leaks),
    Mutant("holographic.learning-is-real", "all words are alike", words_are_all_alike),
    Mutant("holographic.learning-is-real", "the word that comes leaks", targets_leak),
    Mutant("ternary.learning-is-real", "nothing is updated", nothing_is_updated),
    Mutant("ternary.learning-is-real", "tables are copied past the space", tables_are_copied),
]
