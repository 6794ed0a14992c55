"""From radii to distances: a shift of weight over the budget that waits while the hierarchy is not there."""

from __future__ import annotations

from collections.abc import Mapping

from holonomy.core.errors import CheckpointError
from holonomy.core.learner import Json
from holonomy.models.ternary.config import CurriculumConfig

GROUPS = {
    "radial": ("radial_bands", "rich_hierarchy", "radial_stratification", "monotone_levels", "global_rank"),
    "pair": ("padic_triplet", "padic_geodesic", "padic_metric", "soft_rank", "tree_centroid"),
    "coding": ("reconstruction", "hyperbolic_reconstruction"),
    "prior": ("kl", "wrapped_kl", "fisher_rao"),
}
"""Losses that are weighed together; the others stay as they are configured."""


class Curriculum:
    """tau rises from 0 to 1 over the first part of the budget, and stands still while the hierarchy is too weak.

    Args:
        config: its part of the configuration.
    """

    def __init__(self, config: CurriculumConfig) -> None:
        self.config = config
        self.tau, self.progress = 0.0, 0.0
        self.held = False

    def told(self, hierarchy: float) -> None:
        """An evaluation found this correlation of level and radius."""
        self.held = hierarchy > self.config.hold

    def factors(self, progress: float) -> dict[str, float]:
        """What the weights of the losses are multiplied with at this share of the budget."""
        if not self.held:
            self.tau = min(1.0, self.tau + max(0.0, progress - self.progress) / self.config.ramp)
        self.progress = progress
        radial, pair = 1 - self.tau + self.config.floor, self.tau + self.config.floor
        return {**dict.fromkeys(GROUPS["radial"], radial), **dict.fromkeys(GROUPS["pair"], pair)}

    def state(self) -> dict[str, Json]:
        """Where it is."""
        return {"tau": self.tau, "progress": self.progress, "held": self.held}

    def load_state(self, state: Json) -> None:
        """Continues where another one was.

        Raises:
            CheckpointError: that is not the state of a curriculum.
        """
        if not isinstance(state, Mapping) or state.keys() != self.state().keys():
            raise CheckpointError(f"the stored state of the curriculum is {state!r}; wanted tau, progress and held")
        tau, progress = state["tau"], state["progress"]
        if not isinstance(tau, int | float) or not isinstance(progress, int | float):
            raise CheckpointError(f"the stored state of the curriculum is {state!r}; wanted numbers")
        self.tau, self.progress, self.held = float(tau), float(progress), bool(state["held"])
