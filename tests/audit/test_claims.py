"""The registry of claims as a whole: every one has a broken double, and bounds that can be broken."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import test_claims_checkpoints
import test_claims_configuration
import test_claims_dynamics
import test_claims_generalisation
import test_claims_geometry
import test_claims_holographic
import test_claims_language
import test_claims_learning
import test_claims_performance
import test_claims_resuming
import test_claims_spectral
import test_claims_ternary
from mutants import CLAIMS, Mutant, assert_refuted, assert_stands

from holonomy.audit.claim import Claim, DoesNotApply, Evidence, Figure, Setting, judge
from holonomy.core.errors import ConfigError

ON_THE_PACKAGE = [
    *test_claims_geometry.MUTANTS,
    *test_claims_dynamics.MUTANTS,
    *test_claims_holographic.MUTANTS,
    *test_claims_learning.MUTANTS,
    *test_claims_generalisation.MUTANTS,
]
"""Mutants of claims that look at no trained run; those of the others are tried where their runs are."""
LONG = ("holographic.one-path",)
"""Claims that take so long that only they themselves are tried each time."""
MUTANTS: list[Mutant] = [
    *ON_THE_PACKAGE,
    *test_claims_checkpoints.MUTANTS,
    *test_claims_configuration.MUTANTS,
    *test_claims_language.MUTANTS,
    *test_claims_performance.MUTANTS,
    *test_claims_resuming.MUTANTS,
    *test_claims_spectral.MUTANTS,
    *test_claims_ternary.MUTANTS,
]


@pytest.mark.parametrize("name", sorted({m.claim for m in ON_THE_PACKAGE}))
def test_claims_stand(name: str, tmp_path: Path) -> None:
    assert_stands(name, tmp_path)


@pytest.mark.parametrize(
    "mutant", [pytest.param(m, marks=pytest.mark.slow if m.claim in LONG else ()) for m in ON_THE_PACKAGE], ids=str
)
def test_mutants_are_caught(mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refuted(mutant, monkeypatch, tmp_path)


def test_every_claim_has_a_mutant() -> None:
    assert {c.id for c in CLAIMS} == {m.claim for m in MUTANTS}


@pytest.mark.parametrize(
    ("value", "relation", "bound", "holds"),
    [
        (1.0, "<=", 1.0, True),
        (1.0, "<", 1.0, False),
        (1.0, ">=", 1.0, True),
        (1.0, ">", 1.0, False),
        (0.0, "==", 0.0, True),
        (math.nan, "<=", 1.0, False),
        (math.nan, "==", math.nan, False),
        (math.nan, "", math.nan, True),
    ],
)
def test_a_figure_holds_as_its_relation_says(value: float, relation, bound: float, holds: bool) -> None:
    assert Figure("x", value, relation, bound).holds is holds


def test_evidence_without_a_bound_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot fail"):
        Evidence((Figure("x", 1.0),))
    with pytest.raises(ConfigError, match="`relation` is '~'"):
        Figure("x", 1.0, "~", 2.0)  # type: ignore[arg-type]


def nothing_to_say(setting: Setting) -> Evidence:
    raise DoesNotApply("the run has no field")


def an_assertion(setting: Setting) -> Evidence:
    raise AssertionError("off by 2")


def a_small_figure(setting: Setting) -> Evidence:
    return Evidence((Figure("x", 2.0, "<=", 1.0, "m"), Figure("y", math.nan)))


@pytest.mark.parametrize(
    ("check", "status", "detail"),
    [
        (nothing_to_say, "skip", "the run has no field"),
        (an_assertion, "fail", "off by 2"),
        (a_small_figure, "fail", ""),
    ],
)
def test_verdicts_say_what_was_found(check, status: str, detail: str, tmp_path: Path) -> None:
    found = judge(Claim("a.b", "A is B.", "here", check), Setting(tmp_path, seed=3, full=True, audited="first"))
    assert (found.status, found.detail) == (status, detail)
    assert found.command == "holonomy audit first --claim a.b --seed 3 --full"
    assert found.stands is (status == "skip")
    values = found.to_json()
    if status == "fail" and not detail:
        assert str(found.figures[0]) == "x 2 m (wanted <= 1)"
        assert values["figures"][1]["value"] is None
