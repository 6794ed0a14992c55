"""The page of an audit, the list of claims, and the command that makes them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from mutants import CLAIMS

from holonomy.audit.claim import Claim, Evidence, Figure, Setting, Verdict, curve, judge
from holonomy.audit.report import audit_page, claims_page
from holonomy.cli import main

ROOT = Path(__file__).parents[2]


def verdicts(scratch: Path) -> list[Verdict]:
    line = curve("distance", "step", "nats", {"<b>model</b>": [(0.0, 1.0), (1.0, 0.5)]})

    def good(setting: Setting) -> Evidence:
        return Evidence((Figure("error", 0.125, "<=", 0.5, "nats"),), (line,))

    def bad(setting: Setting) -> Evidence:
        return Evidence((Figure("share", 0.25, ">=", 0.75),), detail="<script>alert(1)</script>")

    claims = [Claim("a.good", "It holds.", "here", good), Claim("a.bad", "It does not.", "here", bad)]
    return [judge(c, Setting(scratch)) for c in claims]


def test_the_page_shows_every_verdict_with_its_figures_and_escapes_what_it_shows(tmp_path: Path) -> None:
    page = audit_page(verdicts(tmp_path), "<i>first</i>")
    for text in (
        "1 pass, 1 fail",
        "a.good",
        "a.bad",
        "0.125",
        "0.75",
        "&lt;script&gt;",
        "holonomy audit --claim a.bad",
    ):
        assert text in page, text
    assert "<script" not in page and "<b>model" not in page and "<i>first" not in page
    assert not re.search(r"https?:(?!//www.w3.org)|src=|@import|url\(", page)
    # What does not stand comes first.
    assert page.index("<strong>a.bad") < page.index("<strong>a.good")


def test_the_list_of_claims_in_docs_is_that_of_the_registry() -> None:
    assert (ROOT / "docs" / "claims.md").read_text(encoding="utf-8") == claims_page(list(CLAIMS)), (
        "write it again: holonomy audit --list --markdown > docs/claims.md"
    )


def test_every_claim_names_the_document_that_makes_it() -> None:
    for subject in CLAIMS:
        named = re.findall(r"[\w/.-]+\.md", subject.source)
        assert named, subject.id
        assert all((ROOT / name).is_file() for name in named), (subject.id, subject.source)


def audited(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["holonomy", "audit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.run()
    return int(ended.value.code or 0)


def test_the_command_prints_verdicts_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "audit.html"
    arguments = ["--claim", "geometry.hierarchy", "--json", "--jobs", "1", "--report", str(page)]
    assert audited(arguments, monkeypatch) == 0
    content = json.loads(capfd.readouterr().out)
    assert content["passed"] is True
    (found,) = content["verdicts"]
    assert (found["id"], found["status"], found["seed"]) == ("geometry.hierarchy-ceiling", "pass", 0)
    assert {"name", "value", "relation", "bound", "unit"} <= set(found["figures"][0])
    assert "geometry.hierarchy-ceiling" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--claim", "geometri"], 2, "did you mean `geometry"),
        (["--markdown"], 2, "goes with --list"),
        (["--report", "nowhere/a.html", "--claim", "geometry.axioms"], 2, "does not exist"),
        (["--report", ".", "--claim", "geometry.axioms"], 2, "that is a folder"),
        (["missing"], 4, "not a run directory"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert audited(arguments, monkeypatch) == code
    assert words in capfd.readouterr().err
