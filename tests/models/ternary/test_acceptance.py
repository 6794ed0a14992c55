"""The table of acceptance tests in docs/ternary.md names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LAST = 22
"""Number of the last acceptance test of the family."""


def named(text: str) -> dict[int, list[tuple[str, str]]]:
    """Files and tests of the rows that begin with a number."""
    rows = re.findall(r"^\| (\d+) \|(.*)$", text.partition("## Acceptance tests")[2], flags=re.MULTILINE)
    return {int(n): re.findall(r"`([\w/]+\.py)::(\w+)`", rest) for n, rest in rows}


def missing(found: dict[int, list[tuple[str, str]]]) -> list[str]:
    """Tests that are named but not there."""
    return [
        f"{number}: {file}::{name}"
        for number, tests in found.items()
        for file, name in tests
        if not (path := ROOT / "tests" / file).exists()
        or not re.search(rf"^def {name}\(", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]


def test_every_number_names_tests_that_exist() -> None:
    path = ROOT / "docs" / "ternary.md"
    if not path.exists():
        pytest.skip("the documentation is not part of what is tested here")
    text = path.read_text(encoding="utf-8")
    found = named(text)
    assert sorted(found) == list(range(1, LAST + 1))
    assert all(found.values())
    assert missing(found) == []
    assert missing(named(text.replace("::test_", "::test_no_", 1)))
