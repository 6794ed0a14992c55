"""When a run should sleep: where its held-out loss leaves the course it was on, or every so many words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from holonomy.core.errors import CheckpointError
from holonomy.core.learner import Json
from holonomy.models.holographic.config import SleepConfig
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.sleep import nap

SLACK, LIMIT = 0.5, 5.0
"""Of the control chart, in standard deviations: what is ignored each time, and the sum that is too much."""
LEAST = 3
"""Values that tell how far values spread, at least."""
SHORTEST = 2000
"""Words that must have been learned before anything can be fitted to parts of them."""
LINE = 3
"""Last evaluations that say what the next loss should be."""


class ControlChart:
    """Cumulative sums of how far each value lies from those before it, on both sides.

    The chart starts itself (Hawkins 1987, Self-starting CUSUM charts): z_n = g_{n-2}(sqrt((n - 1) / n) (x_n - m) / s)
    with mean m and deviation s of the n - 1 values before it, where g takes Student's t to a standard normal number,
    g_v(t) = sign(t) (8 v + 1) / (8 v + 3) sqrt(v ln(1 + t^2 / v)) (Wallace 1959). Then
    high = max(0, high + z - 1/2), low = max(0, low - z - 1/2); a sum above 5 is an alarm. Independent normal values
    give one false alarm in 465 on average.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.high = self.low = 0.0

    @property
    def height(self) -> float:
        """The larger of both sums, in standard deviations."""
        return max(self.high, self.low)

    def add(self, value: float) -> bool:
        """Takes the next value; whether it is an alarm."""
        if self.count >= LEAST and self.squares > 0:
            free = self.count - 1
            spread = math.sqrt(self.squares / free)
            t = math.sqrt(self.count / (self.count + 1)) * (value - self.mean) / spread
            z = math.copysign((8 * free + 1) / (8 * free + 3) * math.sqrt(free * math.log1p(t * t / free)), t)
            self.high, self.low = max(0.0, self.high + z - SLACK), max(0.0, self.low - z - SLACK)
        self.count += 1
        away = value - self.mean
        self.mean += away / self.count
        self.squares += away * (value - self.mean)
        return self.height > LIMIT


class Course:
    """The course of a loss while words are learned: a line over their logarithm, as far as the last evaluations go.

    Each loss is compared with the line through the three before it; the difference is divided by the square root of the
    step in the logarithm, since what is learned at random adds up along it. A loss that falls as it did, or ever more
    slowly, stays on course; one that turns up, or suddenly down, leaves it.
    """

    def __init__(self) -> None:
        self.chart = ControlChart()
        self.last: list[tuple[float, float]] = []
        """Logarithm of the words, and loss, of the last evaluations."""

    def add(self, words: int, loss: float) -> bool:
        """Takes an evaluation after so many words; whether the loss has left its course. Words must have come."""
        at, alarm = math.log(max(1, words)), False
        if self.last and at <= self.last[-1][0]:
            return False
        if len(self.last) == LINE:
            x, y = np.array(self.last).T
            slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
            expected = float(y.mean()) + slope * (at - float(x.mean()))
            alarm = self.chart.add((loss - expected) / math.sqrt(at - self.last[-1][0]))
        self.last = [*self.last, (at, loss)][-LINE:]
        return alarm

    def state(self) -> dict[str, Json]:
        """What `load_state` reads back."""
        return {**vars(self.chart), "last": [list(pair) for pair in self.last]}

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Takes over a stored course.

        Raises:
            CheckpointError: it is none.
        """
        chart, last = ControlChart(), state.get("last")
        values = {name: state.get(name) for name in vars(chart)}
        sound = all(isinstance(v, int | float) and math.isfinite(v) for v in values.values())
        pairs = [tuple(p) for p in last if isinstance(p, list)] if isinstance(last, list) else []
        if not sound or not isinstance(last, list) or len(pairs) != len(last) or any(len(p) != 2 for p in pairs):
            raise CheckpointError(
                f"the stored course of the held-out loss is {dict(state)}; wanted sums and evaluations"
            )
        vars(chart).update(values)
        self.chart, self.last = chart, [(float(str(a)), float(str(b))) for a, b in pairs]


class Sleeper:
    """Decides when a run sleeps, lets it, and remembers what came of it.

    Args:
        config: when, and what may be dropped.
        text: gives the words learned so far, given how many they are, and where their documents begin.
    """

    def __init__(self, config: SleepConfig, text: Callable[[int], tuple[np.ndarray, np.ndarray]]) -> None:
        self.config, self._text = config, text
        self.course, self.alarm = Course(), False
        self.last = self.kept = self.undone = 0
        """Words at the last sleep, and how many sleeps were kept or undone."""

    def heard(self, words: int, loss: float) -> None:
        """Takes an evaluation after so many words."""
        if self.config.drift:
            self.alarm = self.course.add(words, loss) or self.alarm

    def due(self, words: int) -> bool:
        """Whether to sleep now that so many words were learned."""
        every = self.config.every
        return words >= SHORTEST and (self.alarm or (every is not None and words - self.last >= every))

    def fitted(self) -> None:
        """Everything was made anew, so the loss begins another course."""
        self.course, self.alarm = Course(), False

    def sleep(self, model: HolographicModel, words: int) -> str:
        """Lets the model sleep; what to say of it."""
        why = "the held-out loss has left its course" if self.alarm else f"{words - self.last:,} words came"
        tokens, starts = self._text(words)
        config = self.config
        report = nap(model, tokens, starts=starts, least=config.least, lowest=config.lowest, bound=config.bound)
        self.fitted()
        self.last, self.kept, self.undone = words, self.kept + report.kept, self.undone + (not report.kept)
        said = f"asleep after {words:,} words, since {why}: loss on unlearned pieces {report.loss_before:.4f} to "
        dropped = f"; {report.dropped:,} grams dropped" if report.dropped else ""
        return f"{said}{report.loss_after:.4f}" + (dropped if report.kept else "; undone, it would have cost too much")

    def figures(self) -> dict[str, float]:
        """What is logged."""
        found = {"memory/sleeps": float(self.kept), "memory/sleeps_undone": float(self.undone)}
        return found | ({"memory/drift": self.course.chart.height} if self.config.drift else {})

    def state(self) -> dict[str, Json]:
        """What `load_state` reads back."""
        numbers = {"last": self.last, "kept": self.kept, "undone": self.undone}
        return {**numbers, "alarm": self.alarm, "course": self.course.state()}

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Takes over a stored state.

        Raises:
            CheckpointError: it is none.
        """
        numbers, alarm = [state.get(name) for name in ("last", "kept", "undone")], state.get("alarm")
        course = state.get("course")
        if not all(isinstance(n, int) for n in numbers) or not isinstance(alarm, bool) or not isinstance(course, dict):
            raise CheckpointError(
                f"the stored state of sleeping is {dict(state)}; wanted counts, an alarm and a course"
            )
        self.course.load_state(course)
        self.alarm = alarm
        self.last, self.kept, self.undone = (n for n in numbers if isinstance(n, int))
