"""Named, complete configurations: what `holonomy train NAME` runs. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holonomy.core.budget import Budget, Cadence
from holonomy.core.config import Resolved, resolve
from holonomy.core.registry import Registry
from holonomy.models.lior.config import DataConfig, LiorConfig, TrainConfig


@dataclass(frozen=True)
class Recipe:
    """A named configuration.

    Attributes:
        name: what the command line calls it.
        family: model family.
        trains: what it trains, in one line.
        data: known name of its text.
        expect: time and metric to expect, in words.
        config: builds the configuration.
    """

    name: str
    family: str
    trains: str
    data: str
    expect: str
    config: Callable[[], LiorConfig]


def lior() -> LiorConfig:
    """Hybrid oscillator and retrieval model on the reference text of Python, two CPU minutes."""
    return LiorConfig(
        data=DataConfig(source="pydoc", unk=True),
        train=TrainConfig(budget=Budget(cpu_s=100.0)),
    )


def lior_shakespeare() -> LiorConfig:
    """The same model on tinyshakespeare, 150 CPU-seconds."""
    return LiorConfig(
        data=DataConfig(source="tinyshakespeare"),
        train=TrainConfig(budget=Budget(cpu_s=150.0)),
    )


def lior_smoke() -> LiorConfig:
    """The default model for 200 updates: a check that everything works."""
    return LiorConfig(
        data=DataConfig(source="pydoc", unk=True),
        train=TrainConfig(budget=Budget(steps=200), cadence=Cadence(log_every=10, eval_every=100, save_every=100)),
    )


RECIPES: Registry[Recipe] = Registry("recipe")
for _recipe in (
    Recipe(
        "lior",
        "lior",
        "oscillators and retrieval, no autograd, on the reference text of Python",
        "pydoc",
        "about 2 minutes",
        lior,
    ),
    Recipe(
        "lior-shakespeare",
        "lior",
        "the same model on tinyshakespeare",
        "tinyshakespeare",
        "150 CPU-seconds",
        lior_shakespeare,
    ),
    Recipe("lior-smoke", "lior", "the same model for 200 updates", "pydoc", "about 20 seconds", lior_smoke),
):
    RECIPES.register(_recipe.name, _recipe)


def configure(
    recipe: str,
    *,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, tuple[str, object]] = {},
) -> Resolved:
    """Resolves a recipe, a YAML file, the environment, `a.b=value` overrides and command-line options, in that order.

    Args:
        recipe: name of the recipe.
        file: YAML file with some of the recipe's keys.
        overrides: texts `dotted.key=value`, the value in YAML.
        options: dotted key to (name of the option, value).

    Raises:
        ConfigError: unknown recipe or key, wrong type or range; all mistakes at once.
    """
    return resolve(
        LiorConfig,
        base=RECIPES.get(recipe).config(),
        base_origin=f"recipe {recipe}",
        file=file,
        environment=os.environ,
        overrides=overrides,
        options=options,
    )
