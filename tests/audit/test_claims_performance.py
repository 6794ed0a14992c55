"""Claims about costs: true of small runs, and red for each broken double."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mutants import Mutant, assert_refuted, assert_stands

from holonomy.models.holographic.memories import Memories
from holonomy.models.lior import cost
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.models.ternary import model as ternary_model


def head_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = cost.parameter_count
    monkeypatch.setattr(
        cost, "parameter_count", lambda c, vocab_size: plain(c, vocab_size=vocab_size) - vocab_size * c.model.d
    )


def read_out_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Memories.nbytes.fget
    assert plain is not None
    monkeypatch.setattr(
        Memories, "nbytes", property(lambda self: {n: b for n, b in plain(self).items() if n != "readout"})
    )


def children_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ternary_model.parameter_counts
    monkeypatch.setattr(ternary_model, "parameter_counts", lambda module: {**plain(module), "decoder": 0})


def token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LiorLanguageModel.log_probs

    def slow(self: LiorLanguageModel, ids: torch.Tensor) -> torch.Tensor:
        # As if a row were read again for every token.
        return torch.stack([torch.stack([plain(self, row[None])[0, t] for t in range(len(row))]) for row in ids])

    monkeypatch.setattr(LiorLanguageModel, "log_probs", slow)
    monkeypatch.setattr("holonomy.audit.claims.performance.ROUNDS", 1)


MUTANTS = [
    Mutant("performance.memory", "the head has no parameters", head_forgotten),
    Mutant("performance.memory", "the read-out takes no memory", read_out_forgotten),
    Mutant("performance.memory", "the decoder has no parameters", children_forgotten),
    Mutant("performance.throughput", "a row is read again for every token", token_by_token),
]
FAMILIES = ("lior", "holographic", "ternary", "lior")


@pytest.mark.parametrize("name", sorted({m.claim for m in MUTANTS}))
def test_claims_stand(name: str, small_runs: dict[str, Path], tmp_path: Path) -> None:
    assert_stands(name, tmp_path, **small_runs)


@pytest.mark.parametrize(("mutant", "family"), list(zip(MUTANTS, FAMILIES, strict=True)), ids=str)
def test_mutants_are_caught(
    mutant: Mutant, family: str, small_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refuted(mutant, monkeypatch, tmp_path, **{family: small_runs[family]})
