"""Broken doubles of claims: each breaks the code that a claim is about, and has to turn the claim red."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from holonomy.audit import claims
from holonomy.audit.claim import CLAIMS, Setting, Verdict, judge

claims.register_claims()


@dataclass(frozen=True)
class Mutant:
    """A change of the code that a claim has to notice.

    Attributes:
        claim: id of the claim.
        what: what is broken, in words.
        breaks: makes the change for the length of a test.
    """

    claim: str
    what: str
    breaks: Callable[[pytest.MonkeyPatch], None]

    def __str__(self) -> str:
        return f"{self.claim}: {self.what}"


def verdict_on(name: str, scratch: Path, **runs: Path) -> Verdict:
    return judge(CLAIMS.get(name), Setting(scratch, runs))


def assert_stands(name: str, scratch: Path, **runs: Path) -> None:
    found = verdict_on(name, scratch, **runs)
    assert found.status == "pass", ([str(f) for f in found.figures], found.detail)
    assert found.figures


def assert_refuted(mutant: Mutant, monkeypatch: pytest.MonkeyPatch, scratch: Path, **runs: Path) -> None:
    mutant.breaks(monkeypatch)
    found = verdict_on(mutant.claim, scratch, **runs)
    assert found.status == "fail", f"{mutant} was not noticed: {[str(f) for f in found.figures]}"
