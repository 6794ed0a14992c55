"""A loss that leaves its course is noticed, one that goes on as it did is not; what a sleep between batches costs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats
import torch

from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.data.text import load_text
from holonomy.data.words import WordSplit, split_words
from holonomy.models.holographic.config import HolographicConfig, SleepConfig
from holonomy.models.holographic.drift import LIMIT, ControlChart, Course, Sleeper
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.sleep import nap
from holonomy.models.holographic.storage import state_of

START = np.zeros(1, dtype=np.int64)
CONFIG = {
    "tower": {"levels": 3, "channels": 4, "top_digits": {2: 4, 3: 4, 4: 4}},
    "counts": {"classes": []},
    "similarity": {"dim": 32},
    "mixture": {"blocks": 2, "product_steps": 8, "em_steps": 50},
}


def learned(words: int) -> tuple[HolographicModel, WordSplit]:
    split = split_words(" ".join(load_text("pydoc").text.split()[:words]))
    model = HolographicModel(HolographicConfig.model_validate(CONFIG), split.tokenizer)
    model.learn_text(split.train)
    return model, split


def same(one: HolographicModel, state: dict[str, object]) -> bool:
    now = state_of(one)
    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    found = {k: v for k, v in now.items() if isinstance(v, torch.Tensor)}
    return found.keys() == tensors.keys() and all(torch.equal(found[k], v) for k, v in tensors.items())


def by_hand(values: np.ndarray) -> list[tuple[float, float]]:
    """Both sums after each value: every z from all values before it, every sum as the best stretch that ends there."""
    z, out = np.zeros(len(values)), []
    for n, value in enumerate(values):
        if n >= 3:
            t = math.sqrt(n / (n + 1)) * (value - values[:n].mean()) / values[:n].std(ddof=1)
            z[n] = math.copysign(scipy.stats.norm.isf(scipy.stats.t.sf(abs(t), n - 1)), t)
        stretches = [(z[k : n + 1] - 0.5, -z[k : n + 1] - 0.5) for k in range(3, n + 1)]
        out.append(tuple(max([0.0, *(float(s[side].sum()) for s in stretches)]) for side in (0, 1)))
    return out


def test_a_chart_adds_up_what_an_exact_one_does() -> None:
    """Student's t is turned into a normal number by a formula; here by both distributions."""
    random = np.random.default_rng(0)
    for shift in (0.0, 1.5, -1.5):
        values = random.normal(3.0, 0.2, 60)
        values[30:] += 0.2 * shift
        chart = ControlChart()
        for value, (high, low) in zip(values, by_hand(values), strict=True):
            assert chart.add(float(value)) == (max(chart.high, chart.low) > LIMIT)
            assert chart.high == pytest.approx(high, abs=0.03) and chart.low == pytest.approx(low, abs=0.03)


def alarms(values: np.ndarray) -> list[int]:
    chart = ControlChart()
    return [n for n, value in enumerate(values.tolist()) if chart.add(value)]


def test_chance_seldom_raises_an_alarm_and_a_shift_soon_does() -> None:
    false = [bool(alarms(np.random.default_rng(seed).normal(size=50))) for seed in range(200)]
    # One false alarm in 465 values, fewer at the beginning, where both sums are zero: at most 50 / 465 of the runs.
    assert 0.03 <= np.mean(false) <= 50 / 465
    for sign in (-1, 1):
        found = []
        for seed in range(100):
            values = np.random.default_rng(seed).normal(size=60)
            values[30:] += 2 * sign
            found.append(next((n for n in alarms(values) if n >= 30), 99))
        # Five deviations at one and a half each, and what the start has to learn.
        assert np.mean(np.array(found) < 60) >= 0.95 and np.median(found) <= 35


def falling(seed: int, count: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """A loss that falls by a power of the words, with what chance adds on the way."""
    words = np.arange(1, count + 1) * 1000
    steps = np.random.default_rng(seed).normal(size=count) * np.sqrt(np.diff(np.log(words), prepend=math.log(500)))
    return words, 4 + 2 * (words / 1000) ** -0.3 + 0.02 * np.cumsum(steps)


def test_a_falling_loss_is_on_course_until_it_turns() -> None:
    false, seen = 0, 0
    for seed in range(20):
        words, losses = falling(seed)
        course = Course()
        false += any(course.add(int(n), float(x)) for n, x in zip(words, losses, strict=True))
        for slope in (-1.0, 1.0):
            turned, course = losses.copy(), Course()
            turned[25:] += slope * np.log(words[25:] / words[24])
            found = [course.add(int(n), float(x)) for n, x in zip(words, turned, strict=True)]
            seen += any(found[25:])
    assert false <= 2 and seen >= 36


def test_a_stored_course_goes_on_exactly() -> None:
    words, losses = falling(3)
    losses[30:] += 0.3
    whole, heights = Course(), []
    for n, loss in zip(words, losses, strict=True):
        whole.add(int(n), float(loss))
        heights.append(whole.chart.height)
    cut, again = Course(), []
    for n, loss in zip(words, losses, strict=True):
        fresh = Course()
        fresh.load_state(json.loads(json.dumps(cut.state())))
        fresh.add(int(n), float(loss))
        again.append(fresh.chart.height)
        cut = fresh
    assert again == heights and max(heights) > LIMIT
    assert not whole.add(int(words[-1]), 99.0)
    for damage in ({"high": None}, {"last": [[1.0]]}, {"last": None}, {"count": "3"}, {"mean": math.nan}):
        with pytest.raises(CheckpointError, match="course"):
            Course().load_state({**whole.state(), **damage})


def test_a_nap_pays_and_the_next_one_changes_little() -> None:
    model, split = learned(6000)
    assert not model.mixture.calibrated
    report = nap(model, split.train, starts=START)
    assert report.kept and report.dropped == 0 and model.mixture.calibrated
    assert report.loss_before is not None and report.loss_after is not None
    assert report.loss_after < report.loss_before - 0.05
    plain = HolographicModel(model.config, split.tokenizer)
    plain.learn_text(split.train)
    plain.fit(split.train)
    probe = split.test[None, :60]
    assert torch.allclose(model.next_log_probs(probe), plain.next_log_probs(probe), atol=1e-5)
    first, again = report.loss_after, nap(model, split.train, starts=START)
    assert again.kept and again.loss_after is not None and abs(again.loss_after / first - 1) < 1e-3
    dropping = nap(model, split.train, starts=START, least=2, bound=5.0)
    assert dropping.kept and dropping.dropped > 1000 and model.memories.counts.cut_off
    # What was dropped cannot be unlearned any more: it goes on with the mixture it has.
    mixture, last = model.mixture, nap(model, split.train, starts=START)
    assert last.kept and model.mixture.power == mixture.power and model.mixture.calibrated


def test_a_nap_that_spoils_the_model_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = learned(6000)
    before = state_of(model)
    honest = HolographicModel.fit

    def sabotaged(self: HolographicModel, tokens: np.ndarray, starts: np.ndarray | None = None) -> None:
        honest(self, tokens, starts)
        random = np.random.default_rng(0)
        self.learn_text(random.integers(2, self.vocab_size, 20 * len(tokens)))

    monkeypatch.setattr(HolographicModel, "fit", sabotaged)
    sleeper = Sleeper(SleepConfig(every=1000), lambda words: (split.train[:words], START))
    assert sleeper.due(2500) and not sleeper.due(1500)
    said = sleeper.sleep(model, len(split.train))
    assert "undone" in said and (sleeper.kept, sleeper.undone) == (0, 1)
    assert same(model, before) and not model.mixture.calibrated
    monkeypatch.setattr(HolographicModel, "fit", honest)
    assert "undone" not in sleeper.sleep(model, len(split.train)) and (sleeper.kept, sleeper.undone) == (1, 1)
    assert sleeper.figures() == {"memory/sleeps": 1.0, "memory/sleeps_undone": 1.0}
    again = Sleeper(SleepConfig(every=1000), lambda words: (split.train[:words], START))
    again.load_state(json.loads(json.dumps(sleeper.state())))
    assert again.state() == sleeper.state() and not again.due(len(split.train) + 999)
    with pytest.raises(CheckpointError, match="sleeping"):
        again.load_state({**sleeper.state(), "kept": None})


def test_keys_of_sleeping_that_nothing_would_read_are_refused() -> None:
    for wrong in ({"least": 2}, {"bound": 0.5}, {"every": 1000, "lowest": 4}):
        with pytest.raises(ValueError, match="has no effect"):
            SleepConfig.model_validate(wrong)
    with pytest.raises(ConfigError, match="longer text"):
        nap(learned(3000)[0], np.arange(2, 9), starts=START)
