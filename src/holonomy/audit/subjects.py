"""What claims are tried on: runs that are trained for an audit, and the models and configurations of runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from holonomy.audit.claim import DoesNotApply, Setting
from holonomy.recipes import configure, launch
from holonomy.train.checkpoint import Checkpoint
from holonomy.train.monitor import SilentProgress
from holonomy.train.report import FitReport


def tune(setting: Setting) -> None:
    """Threads, denormals and seed of the process that runs a check."""
    torch.set_num_threads(setting.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(setting.seed)


def train_run(recipe: str, where: Path, overrides: Mapping[str, str]) -> FitReport:
    """Trains a recipe as the run directory `where`.

    Args:
        recipe: its name.
        where: directory of the run; its parent exists or can be made.
        overrides: dotted key -> value, as on the command line.
    """
    config = configure(recipe, overrides=[f"{key}={value}" for key, value in overrides.items()]).config
    return launch.train(config, recipe=recipe, run=where.name, root=where.parent, progress=SilentProgress())


def checkpoint(setting: Setting, family: str) -> Checkpoint:
    """The newest checkpoint of the run of a family that the audit looks at."""
    if family not in setting.runs:
        raise DoesNotApply(f"no run of the family {family} is audited")
    return launch.read_checkpoint(str(setting.runs[family]), setting.runs[family].parent)


def model(setting: Setting, family: str) -> Any:
    """The model of that checkpoint, as generation and serving load it."""
    return launch.family_of(saved := checkpoint(setting, family)).parts.load(saved)
