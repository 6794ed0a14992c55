"""The map from what the holographic family must show to where it is shown names nothing that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def rows() -> list[list[str]]:
    text = (ROOT / "docs" / "holographic.md").read_text(encoding="utf-8").partition("## What is shown where")[2]
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if re.match(r"\| \d", line)]


def test_every_number_has_a_row() -> None:
    assert [row[0] for row in rows()] == [str(n) for n in range(1, 21)]
    # Some test, or a command, or a word about what is not there.
    assert all("`" in row[2] or row[3] for row in rows())


def test_named_tests_and_files_exist() -> None:
    named = re.findall(r"`([a-z_/]+\.py)(?:::([\w, ]+))?`", "|".join("|".join(row[1:]) for row in rows()))
    assert len(named) > 30
    for file, functions in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in filter(None, functions.split(", ")):
            assert f"def {name}(" in source, f"{file} has no {name}"
