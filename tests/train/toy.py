"""A small learner, source and run for the loop's tests; run as a program it trains in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from holonomy.core.budget import Budget, Cadence, Guard
from holonomy.core.config import Config
from holonomy.core.errors import HolonomyError
from holonomy.core.learner import Json, Metrics, State
from holonomy.train.callbacks import Callback
from holonomy.train.checkpoint import newest_valid, steps
from holonomy.train.loop import fit
from holonomy.train.monitor import Progress, SilentProgress
from holonomy.train.report import FitReport, Plan
from holonomy.train.run import RunDirectory


class ToyConfig(Config):
    """Nothing to configure."""

    steps: int = 60


class Regression:
    """Least squares by momentum: loss and update depend on everything that a checkpoint must hold."""

    def __init__(self, pause: float = 0.0) -> None:
        self.weight, self.momentum = torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
        self.target = torch.linspace(-1, 1, 5, dtype=torch.float64)
        self.calls, self.pause, self.rate = 0, pause, 1.0
        self.spoil_at: int | None = None
        self.spoil_once: int | None = None

    def setup(self, example_batch: Tensor) -> None:
        """Nothing depends on the batch."""

    def train_step(self, batch: Tensor, *, progress: float) -> Metrics:
        time.sleep(self.pause)
        self.calls += 1
        error = batch @ (self.weight - self.target)
        loss = error.square().mean()
        self.momentum = 0.9 * self.momentum + batch.T @ error / len(batch)
        rate = 0.05 * (1 - 0.5 * progress) * self.rate
        self.weight = self.weight - rate * self.momentum
        if self.calls in (self.spoil_at, self.spoil_once):
            loss, self.spoil_once = loss * float("nan"), None
        return Metrics(loss, len(batch), {"train/lr": rate})

    def eval_step(self, batch: Tensor) -> Metrics:
        return Metrics((batch @ (self.weight - self.target)).square().mean(), len(batch))

    def scale_rate(self, factor: float) -> None:
        self.rate *= factor

    def state(self) -> State:
        return {"weight": self.weight, "momentum": self.momentum, "calls": self.calls, "rate": self.rate}

    def load_state(self, state: Mapping[str, Tensor | Json]) -> None:
        weight, momentum, calls = state["weight"], state["momentum"], state["calls"]
        assert isinstance(weight, Tensor)
        assert isinstance(momentum, Tensor)
        assert isinstance(calls, int)
        rate = state["rate"]
        assert isinstance(rate, float)
        self.weight, self.momentum, self.calls, self.rate = weight.clone(), momentum.clone(), calls, rate


class Rows:
    """Random rows; batch number n follows from n alone."""

    def __init__(self) -> None:
        self.drawn = 0

    def next(self) -> Tensor:
        self.drawn += 1
        generator = torch.Generator().manual_seed(self.drawn)
        return torch.randn(4, 5, generator=generator, dtype=torch.float64)

    def state(self) -> dict[str, Json]:
        return {"drawn": self.drawn}

    def load_state(self, state: Mapping[str, Json]) -> None:
        assert isinstance(state["drawn"], int)
        self.drawn = state["drawn"]


def train_toy(
    directory: RunDirectory,
    learner: Regression,
    *,
    num_steps: int = 60,
    cadence: Cadence | None = None,
    on_evaluate: Callable[[], None] = lambda: None,
    guard: Guard | None = None,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
) -> FitReport:
    """Trains, or continues from the newest checkpoint."""
    restored = newest_valid(directory.checkpoints)[0] if steps(directory.checkpoints) else None

    def evaluate(should_stop: Callable[[], bool]) -> dict[str, float] | None:
        on_evaluate()
        if should_stop():
            return None
        return {"val/loss": float((learner.weight - learner.target).square().sum())}

    return fit(
        learner,
        Rows(),
        run=directory,
        plan=Plan(
            Budget(steps=num_steps),
            cadence or Cadence(log_every=4, eval_every=15, save_every=7, keep=2),
            guard or Guard(),
        ),
        callbacks=callbacks,
        evaluate=evaluate,
        progress=progress or SilentProgress(),
        family="toy",
        files={"note.txt": "kept"},
        facts={"kind": "toy"},
        restored=restored,
    )


def open_or_create(path: Path) -> RunDirectory:
    """The run directory, made if it is not there."""
    if path.exists():
        return RunDirectory(path)
    return RunDirectory.create(path.parent, path.name, prefix="toy", config=ToyConfig())


def main() -> int:
    """`toy.py DIRECTORY PAUSE`: trains with a pause in each step; prints the final weights as hexadecimal."""
    learner = Regression(float(sys.argv[2]))
    try:
        with open_or_create(Path(sys.argv[1])) as directory:
            print("ready", flush=True)
            train_toy(directory, learner)
    except HolonomyError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps([w.hex() for w in learner.weight.tolist()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
