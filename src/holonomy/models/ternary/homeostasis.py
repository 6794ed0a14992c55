"""When parts of the model are frozen and let go again, by what evaluations say; no gradients here.

Units are evaluations. Freezing the coverage path also asks for its last good weights back: a freeze alone cannot undo
damage. Thresholds loosen after a cycle that helped and tighten after one that hurt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holonomy.core.errors import CheckpointError
from holonomy.core.learner import Json
from holonomy.models.ternary.config import HomeostasisConfig

WINDOW = 5
STALL = 5
"""Evaluations of standstill of the hierarchy after which a frozen coverage path may learn again."""
WORSE = 0.01
"""By how much the hierarchy must have worsened for a frozen hierarchy path to learn again."""
HURT = -0.05
"""Change of Q over a cycle below which it hurt."""
FREEZE_CAP, UNFREEZE_CAP, GAP = 0.995, 1.0, 0.005
PATIENCE_FLOOR = 5
PARTS = ("encoder_A", "encoder_B")


@dataclass(frozen=True)
class Transition:
    """A change of one part, and why."""

    part: str
    frozen: bool
    reason: str


@dataclass
class _Memory:
    """Everything that is saved."""

    evaluations: int = 0
    frozen: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(PARTS, False))
    changed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, -(10**6)))
    hierarchy: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    stalled: int = 0
    without_gain: int = 0
    best: float = 2.0
    cycle_start: float | None = None
    freeze_at: float = FREEZE_CAP
    unfreeze_at: float = UNFREEZE_CAP
    patience: int = PATIENCE_FLOOR


class Homeostasis:
    """The state machine of both parts.

    Args:
        config: its part of the configuration.
        tied: the parts are one: freezing either freezes both, and coverage is asked first.
    """

    def __init__(self, config: HomeostasisConfig, *, tied: bool) -> None:
        self.config, self.tied = config, tied
        self.now = _Memory(
            freeze_at=config.coverage_freeze, unfreeze_at=config.coverage_unfreeze, patience=config.patience
        )

    def frozen(self, part: str) -> bool:
        """Whether a part is frozen."""
        return self.now.frozen[part]

    def good(self, coverage: float) -> bool:
        """Whether the weights of the coverage path are worth keeping."""
        return coverage >= self.now.freeze_at

    def update(self, *, coverage: float, hierarchy: float, q: float) -> list[Transition]:
        """Takes one evaluation; gives what changes."""
        now = self.now
        now.evaluations += 1
        if now.cycle_start is None:
            now.cycle_start = q
        now.hierarchy.append(hierarchy)
        full = len(now.hierarchy) == WINDOW
        spread = max(now.hierarchy) - min(now.hierarchy)
        now.stalled = now.stalled + 1 if full and spread < self.config.plateau else 0
        now.without_gain = 0 if hierarchy < now.best - self.config.plateau else now.without_gain + 1
        now.best = min(now.best, hierarchy)
        if now.evaluations <= self.config.warmup:
            return []
        found = [t for t in (self._coverage_path(coverage), self._hierarchy_path(hierarchy)) if t is not None]
        found = found[:1] if self.tied else found
        for change in found:
            for part in PARTS if self.tied else (change.part,):
                now.frozen[part], now.changed[part] = change.frozen, now.evaluations
            now.without_gain = now.stalled = 0
            if change.frozen and self.config.annealing:
                self._anneal(q - now.cycle_start)
            if change.frozen:
                now.cycle_start = q
        return found

    def _may_change(self, part: str) -> bool:
        return self.now.evaluations - self.now.changed[part] > self.config.hysteresis

    def _coverage_path(self, coverage: float) -> Transition | None:
        now, part = self.now, PARTS[0]
        if not self._may_change(part):
            return None
        if not now.frozen[part] and coverage < now.freeze_at:
            return Transition(part, True, f"coverage {coverage:.4f} fell below {now.freeze_at:.4f}")
        if now.frozen[part] and coverage >= now.unfreeze_at and now.stalled >= STALL:
            return Transition(part, False, f"coverage {coverage:.4f}, and the hierarchy stood still")
        return None

    def _hierarchy_path(self, hierarchy: float) -> Transition | None:
        now, part = self.now, PARTS[1]
        if not self._may_change(part):
            return None
        if not now.frozen[part] and now.without_gain >= now.patience:
            return Transition(part, True, f"no better hierarchy for {now.without_gain} evaluations")
        if now.frozen[part] and hierarchy > min(now.hierarchy) + WORSE:
            return Transition(part, False, f"hierarchy {hierarchy:.4f} is worse than {min(now.hierarchy):.4f}")
        return None

    def _anneal(self, gained: float) -> None:
        """Loosens after a cycle that helped, tightens after one that hurt; within their limits for ever."""
        now, c = self.now, self.config
        if gained > 0:
            now.freeze_at = max(c.coverage_floor, now.freeze_at - c.annealing_step)
            now.unfreeze_at = max(now.freeze_at + GAP, now.unfreeze_at - c.annealing_step)
            now.patience = min(c.patience_ceiling, now.patience + 1)
        elif gained < HURT:
            now.freeze_at = min(FREEZE_CAP, now.freeze_at + c.annealing_step)
            now.unfreeze_at = min(UNFREEZE_CAP, now.unfreeze_at + c.annealing_step)
            now.patience = max(min(PATIENCE_FLOOR, c.patience), now.patience - 1)

    def state(self) -> dict[str, Json]:
        """Everything, as JSON values."""
        return {**vars(self.now), "hierarchy": list(self.now.hierarchy)}

    def load_state(self, state: Json) -> None:
        """Continues where another one was.

        Raises:
            CheckpointError: that is not the state of a homeostasis.
        """
        if not isinstance(state, Mapping) or state.keys() != vars(self.now).keys():
            raise CheckpointError(f"the stored state of the homeostasis is {state!r}; wanted {sorted(vars(self.now))}")
        values: dict[str, Any] = dict(state)
        values["hierarchy"] = deque(values["hierarchy"], maxlen=WINDOW)
        self.now = _Memory(**values)
