"""Small trained runs that claims about families look at, one of each family for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from holonomy.audit.subjects import train_run
from holonomy.data.text import load_text

LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz .,\n")


@pytest.fixture(autouse=True)
def steady(request: pytest.FixtureRequest) -> Iterator[None]:
    """Denormals as in commands and audits where claims are tried: they compare runs bit by bit."""
    torch.set_flush_denormal(request.module.__name__.rpartition(".")[2].startswith("test_claims"))
    yield
    torch.set_flush_denormal(False)


def train_small(recipe: str, where: Path, overrides: dict[str, str]) -> Path:
    """Trains a run as commands do, whatever asks for it first."""
    torch.set_flush_denormal(True)
    try:
        return train_run(recipe, where, overrides).run
    finally:
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs live, with the text that they learn: few symbols, so that little training is enough."""
    root = tmp_path_factory.mktemp("runs")
    text = "".join(c for c in load_text("pydoc").text[:150_000].lower() if c in LETTERS)
    (root / "text.txt").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def lior_run(runs: Path) -> Path:
    """A small lior run: two blocks, 160 updates."""
    overrides = {
        "data.source": str(runs / "text.txt"),
        "data.seq_len": "48",
        "data.batch": "8",
        "model.d": "32",
        "model.n_osc": "32",
        "model.hidden": "48",
        "model.heads": "2",
        "model.blocks": "2",
        "train.budget.steps": "160",
        "train.cadence.eval_every": "160",
        "train.optim.lr": "0.01",
    }
    return train_small("lior-smoke", runs / "lior", overrides)


@pytest.fixture(scope="session")
def holographic_run(runs: Path) -> Path:
    """One pass over the same text by words, with counts and working memory only."""
    overrides = {
        "data.source": str(runs / "text.txt"),
        "train.share": "0.5",
        "model.mixture.product": "none",
        "model.mixture.blocks": "2",
        "model.mixture.em_steps": "40",
    }
    return train_small("holographic-smoke", runs / "holographic", overrides)


@pytest.fixture(scope="session")
def ternary_run(runs: Path) -> Path:
    """An embedding of the 729 operations of six digits, 200 updates."""
    overrides = {"data.digits": "6", "data.batch": "128", "train.budget.steps": "200"}
    return train_small("ternary-smoke", runs / "ternary", overrides)


@pytest.fixture(scope="session")
def small_runs(lior_run: Path, holographic_run: Path, ternary_run: Path) -> dict[str, Path]:
    """Family -> run."""
    return {"lior": lior_run, "holographic": holographic_run, "ternary": ternary_run}
