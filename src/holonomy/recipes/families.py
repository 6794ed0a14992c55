"""The model families that recipes, checkpoints and commands know. Free of torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from holonomy.core.config import Config
from holonomy.core.registry import Registry
from holonomy.models.holographic.config import HolographicRunConfig
from holonomy.models.lior.config import LiorConfig
from holonomy.models.ternary.config import TernaryConfig
from holonomy.recipes.mixture_config import MixtureRunConfig

if TYPE_CHECKING:
    from holonomy.recipes.work import FamilyParts


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
        name: value of the key `family` of its configurations.
        config: type of its configurations.
        module: where its `PARTS` are, imported when something is trained or evaluated.
        speaks: whether its models are language models, for generation and chat.
        unit: what its speed counts, in words.
        loss: what `train/loss` is measured in.
        score: what `val/loss` is measured in; the same words where both belong into one picture.
        figures: held-out metrics from -1 to 1 that are worth a curve.
        instead: of keys that other families have, why this one has not, and what to set instead.
    """

    name: str
    config: type[Config]
    module: str
    speaks: bool
    unit: str
    loss: str
    score: str
    figures: tuple[str, ...] = ()
    instead: Mapping[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> FamilyParts:
        """What the family says."""
        return cast("FamilyParts", importlib.import_module(self.module).PARTS)


FAMILIES: Registry[Family] = Registry("model family")
for _family in (
    Family(
        "lior",
        LiorConfig,
        "holonomy.recipes.lior",
        speaks=True,
        unit="token",
        loss="nats per token",
        score="nats per token",
    ),
    Family(
        "holographic",
        HolographicRunConfig,
        "holonomy.recipes.holographic",
        speaks=True,
        unit="token",
        loss="nats per token",
        score="nats per token",
        instead={
            "train.budget": "it learns its text once, to the end; set train.share, or train.words of a stream",
            "train.device": "it learns on the CPU; set train.threads",
            "train.strict_cuda": "it learns on the CPU; set train.threads",
        },
    ),
    Family(
        "mixture",
        MixtureRunConfig,
        "holonomy.recipes.mixture",
        speaks=True,
        unit="token",
        loss="nats per token",
        score="nats per token",
    ),
    Family(
        "ternary",
        TernaryConfig,
        "holonomy.recipes.ternary",
        speaks=False,
        unit="op",
        loss="weighted sum of losses",
        score="faulty operations",
        figures=("val/coverage", "val/hierarchy", "val/triplet_concordance"),
    ),
):
    FAMILIES.register(_family.name, _family)
