"""The ternary family on the command line: train, eval, verify, and what refuses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TINY = [
    "--set", "data.digits=5", "--set", "data.batch=81", "--set", "data.extra_from_level=3",
    "--set", "model.latent_dim=6", "--set", "model.hidden=[32]", "--threads", "1",
]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch, holonomy) -> Path:
    monkeypatch.chdir(tmp_path)
    code, out, err = holonomy("train", "ternary-smoke", *TINY, "--run", "a", "--steps", "20", "--json")
    assert code == 0, err
    (tmp_path / "report.json").write_text(out)
    return tmp_path


def test_a_run_from_training_to_its_figures(here: Path, holonomy) -> None:
    report = json.loads((here / "report.json").read_text())
    assert report["family"] == "ternary"
    assert report["tokens_or_samples"] > 20 * 81
    assert {"val/coverage", "baseline/coverage", "untrained/coverage"} <= set(report["metrics"])
    code, out, _ = holonomy("eval", "a", "--baselines")
    assert code == 0
    assert "closed form" in out
    assert "triplet concordance" in out
    code, out, err = holonomy("eval", "a", "--check", "--json")
    assert code == 1
    assert json.loads(out)["metrics"]["val/coverage"] == report["metrics"]["val/coverage"]
    assert json.loads(out)["missed"]
    assert "missed: coverage" in err
    code, out, _ = holonomy("eval", "a", "--protocol", "doubt")
    assert code == 0
    assert "set coverage" in out
    code, _, err = holonomy("eval", "a", "--protocol", "carried")
    assert code == 2
    assert "knows doubt" in err
    code, out, _ = holonomy("eval", "a", "--protocol", "doubt", "--with", "a", "--json")
    assert code == 0
    together = json.loads(out)["metrics"]
    assert together["val/ensemble_coverage"] == together["val/coverage"]
    assert together["val/ensemble_disagreement"] == pytest.approx(0, abs=1e-6)
    code, _, err = holonomy("eval", "a", "--with", "a")
    assert code == 2
    assert "add --protocol doubt" in err
    code, _, err = holonomy("eval", "a", "--protocol", "grokking")
    assert code == 2
    assert "data.holdout above 0" in err
    code, out, _ = holonomy("runs", "verify", "a", "--json", "--threads", "1")
    assert code == 0
    assert json.loads(out)["runs"][0]["valid"]
    code, out, _ = holonomy("runs", "show", "a", "--json")
    assert code == 0
    assert json.loads(out)["changed"]["data.digits"] == 5
    for command, words in (("chat", "writes no text"), ("generate", "writes no text")):
        code, _, err = holonomy(command, "a")
        assert code == 2
        assert words in err
    code, out, err = holonomy("train", "--resume", "a", "--quiet")
    assert code == 0
    code, out, err = holonomy("train", "ternary", *TINY, "--steps", "3", "--run", "b")
    assert code == 0
    assert "holonomy eval b --baselines" in out


def test_mistakes_exit_with_their_codes(monkeypatch, tmp_path: Path, holonomy) -> None:
    monkeypatch.chdir(tmp_path)
    for words, wanted in (
        (["train", "ternary", "--data", "pydoc"], "operations"),
        (["train", "ternary", "--set", "model.latent_dims=3"], "did you mean `model.latent_dim`"),
        (["train", "ternary", "--set", "loss.entropy.structure=3"], "loss.entropy.weight is 0"),
    ):
        code, _, err = holonomy(*words)
        assert code == 2
        assert wanted in err.replace("\n", " ")
    code, out, _ = holonomy("config", "show", "ternary-heldout", "--json")
    assert code == 0
    assert json.loads(out)["origins"]["data.holdout"] == "recipe ternary-heldout"
    code, out, _ = holonomy("recipes")
    assert "ternary-dual" in out
