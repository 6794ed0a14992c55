"""What holographic runs keep between two evaluations: where the store stood, and the course of the held-out loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from holonomy.core.errors import CheckpointError
from holonomy.core.learner import Json
from holonomy.models.holographic.drift import Sleeper
from holonomy.models.holographic.model import HolographicModel
from holonomy.train.callbacks import Action, Callback


class Watch(Callback):
    """Measures how far the witness of the store moves from one evaluation to the next, and tells when losses drift.

    Args:
        model: what learns.
        sleeper: told of every evaluation, if runs sleep.
    """

    name = "memories"

    def __init__(self, model: HolographicModel, sleeper: Sleeper | None = None) -> None:
        self.model, self.sleeper = model, sleeper
        self._before: list[float] | None = None
        self._now: list[float] | None = None

    def _witness(self) -> list[float] | None:
        mirror = self.model.mirror
        return None if mirror is None else mirror.tower.mean_witness().tolist()

    def churn(self) -> dict[str, float]:
        """|u - u'| with the witness u of the mean stored pair, u' that of the last evaluation; empty without either."""
        self._now = self._witness()
        if self._now is None or self._before is None:
            return {}
        return {"memory/witness_churn": float((torch.tensor(self._now) - torch.tensor(self._before)).norm())}

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Action:
        """Keeps the witness that `churn` found, and lets the sleeper hear the loss."""
        self._before = self._now
        if self.sleeper is not None and step:
            self.sleeper.heard(self.model.memories.learned, metrics["val/loss"])
        return Action.NONE

    def state(self) -> dict[str, Json]:
        """Witness at the last evaluation, and what the sleeper keeps."""
        before: list[Json] | None = None if self._before is None else [*self._before]
        return {"witness": before, "sleeper": None if self.sleeper is None else self.sleeper.state()}

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Takes them back.

        Raises:
            CheckpointError: they are not such.
        """
        before, sleeper = state.get("witness"), state.get("sleeper")
        if before is not None and not (isinstance(before, list) and all(isinstance(n, float) for n in before)):
            raise CheckpointError(f"the stored state of `{self.name}` is {dict(state)}; wanted a witness and a sleeper")
        self._before = None if before is None else [n for n in before if isinstance(n, float)]
        if self.sleeper is not None and isinstance(sleeper, dict):
            self.sleeper.load_state(sleeper)
