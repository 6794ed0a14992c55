"""Pictures of a run, and the error where they cannot be drawn."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.recipes import configure, launch
from holonomy.recipes.plots import PICTURES, plot_run
from holonomy.train.monitor import SilentProgress


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    small = [
        "data.digits=4", "data.batch=81", "data.extra_from_level=3", "model.latent_dim=4", "model.hidden=[16]",
        "train.budget.steps=4", "train.cadence.log_every=1",
    ]  # fmt: skip
    for name, more in (("curved", []), ("flat", ["model.geometry=euclidean"])):
        config = configure("ternary", overrides=[*small, *more]).config
        launch.train(config, recipe="ternary", run=name, root=path, progress=SilentProgress())
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_picture_is_drawn(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = plot_run("curved", root=root, out=tmp_path / "pictures")
    assert [f.stem for f in files] == list(PICTURES)
    assert all(f.read_bytes().startswith(b"\x89PNG") and f.stat().st_size > 5_000 for f in files)
    with pytest.raises(ConfigError, match="flat space"):
        plot_run("flat", root=root, out=tmp_path)
    with pytest.raises(CheckpointError, match="not a run"):
        plot_run("none", root=root, out=tmp_path)


def test_without_matplotlib_the_error_says_what_to_install(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'holonomy\[viz\]'"):
        plot_run("curved", root=root, out=tmp_path)
