"""The seam between training runs and model families: what a family says, and what a run needs of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch

from holonomy.core.budget import Budget
from holonomy.core.errors import ConfigError
from holonomy.core.inference import InferConfig
from holonomy.core.learner import Json, Learner
from holonomy.core.picture import Picture
from holonomy.data.tokenizer import CharTokenizer
from holonomy.infer.sampling import Sampling
from holonomy.models.holographic.metrics import Report, online_kneser_ney
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
        lean: whether nothing may be copied for a checkpoint.
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
    lean: bool = False


@dataclass(frozen=True)
class Texts:
    """A text as the run of a language model cuts and encodes it.

    Attributes:
        tokenizer: of the run.
        train: tokens that the run learns, or would learn.
        held_out: the others.
        digest: sha256 of the text.
        learned: gives the tokens of all texts that it has learned.
    """

    tokenizer: Any
    train: np.ndarray
    held_out: np.ndarray
    digest: str
    learned: Callable[[], np.ndarray]


class FamilyParts(Protocol):
    """What a family says: `PARTS` of a module that `holonomy.recipes.families` names.

    `prepare` builds a run that begins, from the weights of `start` where it is given, or that continues `saved`.
    `load` gives the model of a checkpoint, `evaluate` its metrics, `missed` says which targets of the configuration
    they miss, `check_data` refuses data that is not what the checkpoint was trained on, `pictures` shows what a model
    looks like inside, and `texts`, of families that speak, gives its text, or another one in its tokens.
    """

    def prepare(self, config: Any, *, start: Checkpoint | None, saved: Checkpoint | None, world: World) -> Work: ...

    def load(self, saved: Checkpoint) -> Any: ...

    def evaluate(
        self,
        saved: Checkpoint,
        *,
        data: str | None,
        split: str | None,
        with_baselines: bool,
        protocol: str | None,
        mode: str,
    ) -> dict[str, float]: ...

    def missed(self, config: Any, metrics: dict[str, float]) -> list[str]: ...

    def check_data(self, saved: Checkpoint) -> None: ...

    def pictures(self, model: Any) -> list[Picture]: ...
    def texts(self, saved: Checkpoint, *, data: str | None) -> Texts: ...


FIGURES = {
    "nats": "loss",
    "perplexity": "perplexity",
    "perplexity_known": "perplexity_known",
    "top1": "top1",
    "top5": "top5",
    "reciprocal_rank": "mrr",
    "calibration": "ece",
    "floor": "ece_floor",
    "separation": "separation",
    "unknown": "unknown_share",
    "words": "tokens",
    "calibrated": "calibrated",
}
"""Names of the figures of a report among the metrics."""


def figures(report: Report, tokenizer: Any, *, online: bool = False, lift: float | None = None) -> dict[str, float]:
    """A report as metrics; those of learning while reading have names of their own, so nothing mixes them up.

    `lift` is that of `similarity_lift`, where there is one.
    """
    values, suffix = report.values(), "_online" if online else ""
    found = {f"val/{name}{suffix}": float(values[key]) for key, name in FIGURES.items() if np.isfinite(values[key])}
    if isinstance(tokenizer, CharTokenizer):
        del found[f"val/perplexity_known{suffix}"]
        found[f"val/bits_per_char{suffix}"] = float(values["nats"]) / math.log(2)
    return found if lift is None else found | {"val/similarity_lift": lift}


def sampling_of(infer: InferConfig) -> Sampling:
    """How tokens are drawn with the defaults of a run."""
    return Sampling(**{f.name: getattr(infer, f.name) for f in fields(Sampling)})


def online_baseline(learned: np.ndarray, tokens: np.ndarray, tokenizer: Any, *, block: int) -> dict[str, float]:
    """The Kneser-Ney model that `baselines` would print, learning each block of a text after it has predicted it."""
    order = 7 if isinstance(tokenizer, CharTokenizer) else 5
    text = np.concatenate([learned, tokens])
    places = np.arange(len(learned), len(text))
    found = online_kneser_ney(learned, text, places, order=order, vocab_size=tokenizer.vocab_size, block=block)
    return {f"baseline/kn{order}_online": float(found.mean())}


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
            "a CUDA device is wanted (`train.device`, `train.strict_cuda`, `train.cuda_graphs`), but torch sees none; "
            "use --device cpu without the others, or install a CUDA build of torch and check `nvidia-smi`"
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
