"""The seam between training runs and model families: what a family says, and what a run needs of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from holonomy.core.budget import Budget
from holonomy.core.errors import ConfigError
from holonomy.core.learner import Json, Learner
from holonomy.core.picture import Picture
from holonomy.train.callbacks import Callback
from holonomy.train.checkpoint import Checkpoint
from holonomy.train.distributed import World
from holonomy.train.loop import BatchSource, Evaluation
from holonomy.train.run import RunDirectory


@dataclass(frozen=True)
class Work:
    """Everything a run needs before it has a directory.

    Attributes:
        config: the configuration; its `train` holds budget, cadence and guard.
        learner: the learning rule with its model.
        sampler: source of batches.
        evaluate: held-out metrics, `val/loss` among them: the lower the better.
        header: what is trained on what, for the reader.
        files: text files to keep in every checkpoint.
        facts: JSON values to keep in every checkpoint, the configuration under `config` among them.
        callbacks: makes what watches the run, given its directory.
        closing: metrics that are measured once, after training, such as plain baselines.
        budget: when to stop, where the data decide it; None is as configured.
    """

    config: Any
    learner: Learner
    sampler: BatchSource
    evaluate: Evaluation
    header: Mapping[str, str | int | float]
    files: Mapping[str, str]
    facts: Mapping[str, Json]
    callbacks: Callable[[RunDirectory], Sequence[Callback]]
    closing: Callable[[], dict[str, float]]
    budget: Budget | None = None


class FamilyParts(Protocol):
    """What a family says: `PARTS` of a module that `holonomy.recipes.families` names.

    `prepare` builds a run that begins, from the weights of `start` where it is given, or that continues `saved`.
    `load` gives the model of a checkpoint, `evaluate` its metrics, `missed` says which targets of the configuration
    they miss, `check_data` refuses data that is not what the checkpoint was trained on, and `pictures` shows what a
    model looks like inside.
    """

    def prepare(self, config: Any, *, start: Checkpoint | None, saved: Checkpoint | None, world: World) -> Work: ...

    def load(self, saved: Checkpoint) -> Any: ...

    def evaluate(
        self, saved: Checkpoint, *, data: str | None, split: str | None, with_baselines: bool, protocol: str | None
    ) -> dict[str, float]: ...

    def missed(self, config: Any, metrics: dict[str, float]) -> list[str]: ...

    def check_data(self, saved: Checkpoint) -> None: ...

    def pictures(self, model: Any) -> list[Picture]: ...


def no_targets(config: Any, metrics: dict[str, float]) -> list[str]:
    """`missed` of families that learn texts: what a good loss is depends on the text.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(f"`--check`: runs on {config.data.source} have no targets; compare with `--baselines` instead")


def choose_device(name: str, *, strict_cuda: bool = False) -> torch.device:
    """Device of a configuration: `auto` takes a GPU where torch sees one.

    Raises:
        ConfigError: CUDA is wanted and torch sees none.
    """
    if (name == "cuda" or strict_cuda) and not torch.cuda.is_available():
        raise ConfigError(
            "a CUDA device is wanted (`train.device`, `train.strict_cuda`), but torch sees none; "
            "use --device cpu, or install a CUDA build of torch and check `nvidia-smi`"
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
