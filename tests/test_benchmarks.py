"""Every command with a benchmark that a document names is understood by its script; none of them is run."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARSE = argparse.ArgumentParser.parse_args


def commands(text: str) -> Iterator[str]:
    """What follows `python ` in code of a document: lines of its blocks, and spans, which may go over a line's end."""
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        yield from re.findall(r"^python (benchmarks/\S+\.py.*)$", block, re.MULTILINE)
    for span in re.findall(r"`(python [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        yield from re.findall(r"^python (benchmarks/\S+\.py.*)$", " ".join(span.split()))


DOCUMENTED = sorted(
    {c for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")] for c in commands(path.read_text("utf-8"))}
)


class UnderstoodError(Exception):
    """The arguments were parsed."""


def check_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a script up to where it has parsed its arguments; scripts without a parser must exist."""
    name, *arguments = shlex.split(command)
    # A page of one table a section names them all at once.
    arguments = ["fast" if a == "TABLE" else a for a in arguments]
    script = ROOT / name
    if "parse_args" not in script.read_text("utf-8"):
        return

    def parse_args(self: argparse.ArgumentParser) -> None:
        PARSE(self, arguments)
        raise UnderstoodError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(UnderstoodError):
        runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("command", DOCUMENTED)
def test_documented_commands_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_understood(command, monkeypatch)


def test_a_command_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(DOCUMENTED) > 30
    text = "`python benchmarks/tree.py\n--only nobody` and\n\n```sh\npython benchmarks/drift.py --no-such 3\n```\n"
    wrong = list(commands(text))
    assert wrong == ["benchmarks/drift.py --no-such 3", "benchmarks/tree.py --only nobody"]
    for command in wrong:
        with pytest.raises(SystemExit):
            check_understood(command, monkeypatch)
    with pytest.raises(FileNotFoundError):
        check_understood("benchmarks/gone.py", monkeypatch)
