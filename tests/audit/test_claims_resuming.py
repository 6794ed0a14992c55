"""Claims about interrupted runs: true of the code, and red for each broken double."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mutants import Mutant, assert_refuted, assert_stands

from holonomy.audit.claims import resuming
from holonomy.data.tokens import WindowSampler
from holonomy.learn.autograd import GradientLearner
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.learner import OnePass
from holonomy.models.ternary.learner import TernaryLearner
from holonomy.optim.contrastive import AdamW

FORGETFUL = Path(__file__).parent / "fixtures" / "forgetful"


def text_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WindowSampler, "load_state", lambda self, state: None)


def moments_are_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = AdamW.state
    monkeypatch.setattr(AdamW, "state", lambda self: {k: v.clone() for k, v in plain(self).items()})


def noise_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TernaryLearner.load_state

    def load_state(self, state):
        plain(self, state)
        self.steps = 0

    monkeypatch.setattr(TernaryLearner, "load_state", load_state)


def rate_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = GradientLearner.load_state

    def load_state(self, state):
        plain(self, state)
        self.rate_scale = 0.5

    monkeypatch.setattr(GradientLearner, "load_state", load_state)


def a_batch_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = OnePass.load_state

    def load_state(self, state):
        drawn = state["drawn"]
        plain(self, {"drawn": max(0, drawn - 1)})

    monkeypatch.setattr(OnePass, "load_state", load_state)


def counts_are_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CountTrie.load_state

    def load_state(self, state):
        plain(self, state)
        self.prune(2**30)

    monkeypatch.setattr(CountTrie, "load_state", load_state)


def processes_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FORGETFUL), *os.environ.get("PYTHONPATH", "").split(":")]))


MUTANTS = [
    Mutant("train.resume-exact", "the text starts again", text_starts_again),
    Mutant("train.resume-exact", "moments of the optimiser are not restored", moments_are_not_saved),
    Mutant("train.resume-exact", "noise starts again", noise_starts_again),
    Mutant("train.resume-exact", "a learning rate is forgotten", rate_is_forgotten),
    Mutant("train.resume-exact", "a pass reads a batch twice", a_batch_comes_twice),
    Mutant("holographic.end-to-end", "exact counts are not saved", counts_are_not_saved),
    Mutant("train.end-to-end", "the text starts again after SIGTERM", processes_forget),
]
SLOW = ("holographic.end-to-end", "train.end-to-end")


def named(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())


@pytest.mark.parametrize("name", [named(n) for n in sorted({m.claim for m in MUTANTS})])
def test_claims_stand(name: str, tmp_path: Path) -> None:
    assert_stands(name, tmp_path)


@pytest.mark.parametrize(
    "mutant", [pytest.param(m, marks=pytest.mark.slow if m.claim in SLOW else ()) for m in MUTANTS], ids=str
)
def test_mutants_are_caught(mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refuted(mutant, monkeypatch, tmp_path)


def test_a_log_that_lacks_records_differs() -> None:
    first, second = {"step": 1.0}, {"step": 2.0}
    assert resuming._records_apart([first, second], [first, second]) == 0
    assert resuming._records_apart([first], [first, second]) == 1
    assert resuming._records_apart([first, first], [first]) == 1
