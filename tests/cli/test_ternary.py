"""The ternary family on the command line: train, eval, verify, and what refuses it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from holonomy.cli.main import run

TINY = [
    "--set", "data.digits=5", "--set", "data.batch=81", "--set", "data.extra_from_level=3",
    "--set", "model.latent_dim=6", "--set", "model.hidden=[32]", "--threads", "1",
]  # fmt: skip


def holonomy(capfd, monkeypatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["holonomy", *words])
    with pytest.raises(SystemExit) as left:
        run()
    out, err = capfd.readouterr()
    return int(left.value.code or 0), out, err


@pytest.fixture
def here(tmp_path: Path, monkeypatch, capfd) -> Path:
    monkeypatch.chdir(tmp_path)
    code, out, err = holonomy(
        capfd, monkeypatch, "train", "ternary-smoke", *TINY, "--run", "a", "--steps", "20", "--json"
    )
    assert code == 0, err
    (tmp_path / "report.json").write_text(out)
    return tmp_path


def test_a_run_from_training_to_its_figures(here: Path, capfd, monkeypatch) -> None:
    report = json.loads((here / "report.json").read_text())
    assert report["family"] == "ternary"
    assert report["tokens_or_samples"] > 20 * 81
    assert {"val/coverage", "baseline/coverage", "untrained/coverage"} <= set(report["metrics"])
    code, out, _ = holonomy(capfd, monkeypatch, "eval", "a", "--baselines")
    assert code == 0
    assert "closed form" in out
    assert "triplet concordance" in out
    code, out, err = holonomy(capfd, monkeypatch, "eval", "a", "--check", "--json")
    assert code == 1
    assert json.loads(out)["metrics"]["val/coverage"] == report["metrics"]["val/coverage"]
    assert json.loads(out)["missed"]
    assert "missed: coverage" in err
    code, out, _ = holonomy(capfd, monkeypatch, "eval", "a", "--protocol", "doubt")
    assert code == 0
    assert "set coverage" in out
    code, _, err = holonomy(capfd, monkeypatch, "eval", "a", "--protocol", "carried")
    assert code == 2
    assert "knows doubt" in err
    code, out, _ = holonomy(capfd, monkeypatch, "eval", "a", "--protocol", "doubt", "--with", "a", "--json")
    assert code == 0
    together = json.loads(out)["metrics"]
    assert together["val/ensemble_coverage"] == together["val/coverage"]
    assert together["val/ensemble_disagreement"] == pytest.approx(0, abs=1e-6)
    code, _, err = holonomy(capfd, monkeypatch, "eval", "a", "--with", "a")
    assert code == 2
    assert "add --protocol doubt" in err
    code, _, err = holonomy(capfd, monkeypatch, "eval", "a", "--protocol", "grokking")
    assert code == 2
    assert "data.holdout above 0" in err
    code, out, _ = holonomy(capfd, monkeypatch, "runs", "verify", "a", "--json", "--threads", "1")
    assert code == 0
    assert json.loads(out)["runs"][0]["valid"]
    code, out, _ = holonomy(capfd, monkeypatch, "runs", "show", "a", "--json")
    assert code == 0
    assert json.loads(out)["changed"]["data.digits"] == 5
    for command, words in (("chat", "writes no text"), ("generate", "writes no text")):
        code, _, err = holonomy(capfd, monkeypatch, command, "a")
        assert code == 2
        assert words in err
    code, out, err = holonomy(capfd, monkeypatch, "train", "--resume", "a", "--quiet")
    assert code == 0
    code, out, err = holonomy(capfd, monkeypatch, "train", "ternary", *TINY, "--steps", "3", "--run", "b")
    assert code == 0
    assert "holonomy eval b --baselines" in out


def test_mistakes_exit_with_their_codes(capfd, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for words, wanted in (
        (["train", "ternary", "--data", "pydoc"], "operations"),
        (["train", "ternary", "--set", "model.latent_dims=3"], "did you mean `model.latent_dim`"),
        (["train", "ternary", "--set", "loss.entropy.structure=3"], "loss.entropy.weight is 0"),
    ):
        code, _, err = holonomy(capfd, monkeypatch, *words)
        assert code == 2
        assert wanted in err.replace("\n", " ")
    code, out, _ = holonomy(capfd, monkeypatch, "config", "show", "ternary-heldout", "--json")
    assert code == 0
    assert json.loads(out)["origins"]["data.holdout"] == "recipe ternary-heldout"
    code, out, _ = holonomy(capfd, monkeypatch, "recipes")
    assert "ternary-dual" in out
