"""What stands at the top of the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import holonomy
import holonomy.geometry
from holonomy.core.errors import ConfigError
from holonomy.recipes import configure

TINY = {"data.digits": 4, "data.batch": 16, "train.budget": {"steps": 3}, "train.threads": 1}


def test_training_by_name_leaves_a_run_that_can_be_loaded(tmp_path: Path) -> None:
    report = holonomy.train("ternary-smoke", TINY, run="a", root=tmp_path)
    assert report.run == tmp_path / "a" and report.steps == 3
    assert holonomy.evaluate("a", root=tmp_path)["val/loss"] == report.metrics["val/loss"]
    assert holonomy.load("a", root=str(tmp_path)) is not None
    # Everything of the subpackage has been imported by now, and its name still trains.
    again = holonomy.train(
        configure("ternary-smoke", options={k: ("", v) for k, v in TINY.items()}).config, root=tmp_path
    )
    assert again.metrics["val/loss"] == report.metrics["val/loss"]
    assert again.run.name.startswith("ternary-")


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data.digit`; did you mean `data.digits"):
        holonomy.train("ternary-smoke", {"data.digit": 4}, root=tmp_path)
    with pytest.raises(ConfigError, match="settings"):
        holonomy.train(configure("ternary-smoke").config, {"data.digits": 4}, root=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("first", ["holonomy.train.loop", "holonomy.recipes.launch", "json"])
def test_train_is_function_and_subpackage_in_any_order(first: str) -> None:
    program = (
        f"import {first}, holonomy\nassert callable(holonomy.train)\nimport holonomy.train.loop\n"
        "assert callable(holonomy.train) and holonomy.train.loop.fit"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", holonomy.geometry.__all__)
def test_classes_of_geometry_are_at_hand(name: str) -> None:
    found = getattr(holonomy.geometry, name)
    assert found.__name__ == name and found.__module__.startswith("holonomy.geometry.")
