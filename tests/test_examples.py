"""Every example runs, and says what it is there to show."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
WORDS = (f"the {animal} {verb} in the house" for animal in ("cat", "dog", "owl") for verb in ("sits", "runs"))
SMALL_TEXT = "".join(f"{sentence} .\n\n" for sentence in WORDS)
RUNS = {
    "ask_memory": ("TEXT", "--share", "1", "--ask", "the cat sits in the", "qwertz"),
    "hyperbolic_charts": (),
    "mean_on_a_manifold": ("--steps", "60"),
    "operations": ("--digits", "4", "--steps", "20"),
    "own_echo_network": ("--steps", "120"),
    "remember_text": ("TEXT", "--share", "1"),
    "taxonomy": (),
    "text_model": ("TEXT", "--steps", "3"),
}


def run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    text = tmp_path / "text.txt"
    text.write_text(SMALL_TEXT * 60, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *(str(text) if a == "TEXT" else a for a in RUNS[name])])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == RUNS.keys()


@pytest.mark.parametrize("name", sorted(RUNS.keys() - {"ask_memory", "own_echo_network", "remember_text", "taxonomy"}))
def test_it_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, tmp_path, monkeypatch, capsys)


def test_an_echo_network_learns_to_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run("own_echo_network", tmp_path, monkeypatch, capsys)
    assert float(re.search(r"([\d.]+)% right", said).group(1)) > 90  # type: ignore[union-attr]


def test_a_taxonomy_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "1.000, mean rank 1.00" in run("taxonomy", tmp_path, monkeypatch, capsys)


def test_a_memory_says_what_a_context_brings_to_mind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run("ask_memory", tmp_path, monkeypatch, capsys)
    known, foreign, many = said[said.index("\nthe cat") :].split("\n\n")
    assert "the cat sits in the ... house" in known and "know the last 4 word(s); followed them alone: house" in known
    assert "conflict: no" in known and "qwertz ..." in foreign and "alone: no word, or several" in foreign
    right = re.search(r"(\d+) right: coherence [\d.]+, probability ([\d.]+)", many)
    assert right is not None and int(right[1]) > 500 and float(right[2]) > 0.5


def test_what_was_read_of_the_zebra_is_known_and_then_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, read, after = (
        re.findall(r"\('(\S+)', ([\d.]+)\)", line)
        for line in run("remember_text", tmp_path, monkeypatch, capsys).splitlines()
        if "zebra" in line or "forgotten" in line
    )
    assert read[0][0] == "blue" and float(read[0][1]) > 0.5
    assert after == before
