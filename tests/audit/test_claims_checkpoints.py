"""Claims about stored runs: true of small runs, and red for each broken double."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mutants import Mutant, assert_refuted, assert_stands, verdict_on
from small_runs import SMALL_HOLOGRAPHIC, SMALL_LIOR, trained

from holonomy.data.text import load_text
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.recipes.holographic_runs import sleep_run
from holonomy.recipes.launch import evaluate, read_checkpoint
from holonomy.train import catalogue, checkpoint


def nothing_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_read_verified", lambda path, entry, body: path.read_bytes())


def newer_schemas_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SCHEMA", 99)


def foreign_files_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(path: Path) -> checkpoint.Checkpoint:
        body = checkpoint.read_state(path)
        contents = {n: checkpoint._read_verified(path / n, entry, body) for n, entry in body["files"].items()}
        tensors = checkpoint.load_tensors(contents.pop(checkpoint.TENSORS))
        files = {name: content.decode() for name, content in contents.items()}
        return checkpoint.Checkpoint(body["step"], tensors, body["state"], files, path)

    monkeypatch.setattr("holonomy.audit.claims.checkpoints.read", careless)


def losses_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LiorLanguageModel.loss
    monkeypatch.setattr(LiorLanguageModel, "loss", lambda self, batch: plain(self, batch) + torch.tensor(0.01))


def steps_miscounted(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = catalogue.read_record
    monkeypatch.setattr(catalogue, "read_record", lambda run: replace(plain(run), step=plain(run).step + 1))


MUTANTS = [
    Mutant("checkpoint.safety", "digests of files are not looked at", nothing_verified),
    Mutant("checkpoint.safety", "newer schemas are read", newer_schemas_read),
    Mutant("checkpoint.safety", "foreign files are not noticed", foreign_files_kept),
    Mutant("run.metrics-verify", "losses are 0.01 higher than while training", losses_drift),
    Mutant("run.metrics-verify", "the catalogue counts a step too many", steps_miscounted),
]


@pytest.mark.parametrize("name", sorted({m.claim for m in MUTANTS}))
def test_claims_stand(name: str, small_runs: dict[str, Path], tmp_path: Path) -> None:
    assert_stands(name, tmp_path, **small_runs)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_mutants_are_caught(mutant: Mutant, lior_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refuted(mutant, monkeypatch, tmp_path, lior=lior_run)


def test_a_checkpoint_of_a_run_is_as_good_as_the_run(lior_run: Path, tmp_path: Path) -> None:
    first, *_ = sorted((lior_run / "checkpoints").glob("step-*"))
    assert_stands("checkpoint.safety", tmp_path, lior=first)


def test_a_run_whose_text_is_gone_is_not_judged(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a small text about nothing. " * 400, encoding="utf-8")
    run = trained("lior-smoke", tmp_path, {**SMALL_LIOR, "data.source": str(text)})
    text.unlink()
    (tmp_path / "scratch").mkdir()
    found = verdict_on("run.metrics-verify", tmp_path / "scratch", lior=run)
    assert found.status == "skip"
    assert "cannot be read" in found.detail


def test_a_run_that_slept_stands(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    # What is held out occurred once: the sleep drops just that.
    text.write_text(2 * load_text("pydoc").text[:6_000])
    run = trained("holographic", tmp_path, {**SMALL_HOLOGRAPHIC, "data.source": str(text)})
    before = evaluate(run.name, root=tmp_path)["val/loss"]
    sleep_run(run.name, root=tmp_path, read=lambda name: read_checkpoint(name, tmp_path), bound=100, least=2)
    assert evaluate(run.name, root=tmp_path)["val/loss"] > before
    (tmp_path / "scratch").mkdir()
    assert_stands("run.metrics-verify", tmp_path / "scratch", holographic=run)
