"""Small runs that claims are tried on, trained once."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import SMALL_LIOR, trained


@pytest.fixture(scope="session")
def lior_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("lior-smoke", tmp_path_factory.mktemp("lior"), SMALL_LIOR)


@pytest.fixture(scope="session")
def holographic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("holographic-smoke", tmp_path_factory.mktemp("holographic"), {"train.share": "0.03"})


@pytest.fixture(scope="session")
def ternary_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = {"data.digits": "6", "train.budget.steps": "60"}
    return trained("ternary-smoke", tmp_path_factory.mktemp("ternary"), overrides)


@pytest.fixture(scope="session")
def small_runs(lior_run: Path, holographic_run: Path, ternary_run: Path) -> dict[str, Path]:
    """Family -> run."""
    return {"lior": lior_run, "holographic": holographic_run, "ternary": ternary_run}
