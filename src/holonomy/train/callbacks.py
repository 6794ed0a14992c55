"""What may watch a run: each is told of records and evaluations, and may ask for a lower rate or an end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

from holonomy.core.config import room
from holonomy.core.errors import CheckpointError, StorageError
from holonomy.core.learner import Json


class Action(Enum):
    """What a callback asks the loop to do."""

    NONE = "none"
    HALVE = "halve the learning rate"
    STOP = "stop"


class Callback:
    """Does nothing; override what you need. Its state is saved in every checkpoint under its name."""

    name = "callback"

    def start(self, step: int) -> None:
        """Training begins or continues after this step."""

    def recorded(self, step: int, metrics: Mapping[str, float]) -> None:
        """A log point."""

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Action:
        """An evaluation."""
        return Action.NONE

    def state(self) -> dict[str, Json]:
        """What an exact continuation needs, as JSON values."""
        return {}

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Takes a state back."""

    def close(self) -> None:
        """Training ended, whatever the reason."""


class Patience(Callback):
    """Halves the rate, or stops, after evaluations without a new best.

    Args:
        metric: which metric; the lower the better.
        stop_after: evaluations without a new best after which it asks to stop; None never.
        halve_after: likewise for halving the rate; counted anew after each halving.
        min_gain: by how much a new best must be lower.
    """

    name = "patience"

    def __init__(self, metric: str, *, stop_after: int | None, halve_after: int | None, min_gain: float = 0.0) -> None:
        self.metric, self.stop_after, self.halve_after, self.min_gain = metric, stop_after, halve_after, min_gain
        self.best, self.without, self.since_halving = math.inf, 0, 0

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Action:
        """Counts evaluations without a new best."""
        if metrics[self.metric] < self.best - self.min_gain:
            self.best, self.without, self.since_halving = metrics[self.metric], 0, 0
            return Action.NONE
        self.without += 1
        self.since_halving += 1
        if self.stop_after is not None and self.without >= self.stop_after:
            return Action.STOP
        if self.halve_after is not None and self.since_halving >= self.halve_after:
            self.since_halving = 0
            return Action.HALVE
        return Action.NONE

    def state(self) -> dict[str, Json]:
        """Best value and counts."""
        best = None if math.isinf(self.best) else self.best
        return {"best": best, "without": self.without, "since_halving": self.since_halving}

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Takes them back.

        Raises:
            CheckpointError: they are not such numbers.
        """
        best, without, since = state.get("best"), state.get("without"), state.get("since_halving")
        sound = isinstance(without, int) and isinstance(since, int) and (best is None or isinstance(best, float))
        if not sound:
            raise CheckpointError(f"the stored state of `{self.name}` is {dict(state)}, wanted numbers")
        assert isinstance(without, int) and isinstance(since, int)
        self.best = best if isinstance(best, float) else math.inf
        self.without, self.since_halving = without, since


class Samples(Callback):
    """Writes what the model says at each evaluation.

    Args:
        directory: gets a file step-N.txt each time.
        write: makes the text; given the step.
    """

    name = "samples"

    def __init__(self, directory: Path, write: Callable[[int], str]) -> None:
        self.directory, self.write = directory, write

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Action:
        """Writes one sample.

        Raises:
            StorageError: it cannot be written.
        """
        path, text = self.directory / f"step-{step}.txt", self.write(step)
        content = text.encode("utf-8", "surrogatepass")
        try:
            self.directory.mkdir(exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            lacking = room(path, len(content))
            raise StorageError(f"cannot write the sample `{path}`: {error.strerror}; {lacking}") from error
        return Action.NONE
