"""What holds for every command: help with an example, --json, --quiet; and every documented command line runs."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer

from holonomy.cli import main

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "".join(f"The with statement {n} and {n + 1} make {2 * n + 1}.\n\n" for n in range(200))


def leaf_commands(command, words: tuple[str, ...] = ()):
    """Every command with its words."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from leaf_commands(inner, (*words, name))
    else:
        yield words, command


COMMANDS = dict(leaf_commands(typer.main.get_command(main.app)))


def options_of(command) -> set[str]:
    return {name for p in command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("--")}


def run(capfd, monkeypatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["holonomy", *words])
    with pytest.raises(SystemExit) as left:
        main.run()
    out, err = capfd.readouterr()
    return int(left.value.code or 0), out, err


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_json_and_quiet(words: tuple[str, ...], capfd, monkeypatch) -> None:
    code, out, _ = run(capfd, monkeypatch, *words, "--help")
    assert code == 0
    assert f"Example: holonomy {' '.join(words)}" in out
    assert {"--json", "--quiet"} <= options_of(COMMANDS[words])


def fenced_commands(documents: list[Path]) -> list[list[str]]:
    """Command lines of the package in fenced blocks of documents."""
    found = []
    for document in documents:
        for block in re.findall(r"```(?:sh|bash|console)?\n(.*?)```", document.read_text("utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words[:1] == ["holonomy"]:
                    found.append(words[1:])
    return found


def parse(words: list[str]) -> dict[str, object]:
    """Values of all parameters of a command line; raises where a command or an option does not exist."""
    name = next(tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in COMMANDS)
    return COMMANDS[name].make_context(" ".join(name), words[len(name) :]).params


def test_documented_command_lines_parse() -> None:
    commands = fenced_commands(DOCUMENTS)
    assert len(commands) > 30
    for words in commands:
        parse(words)
    with pytest.raises(main.USAGE_ERROR):
        parse(["train", "lior", "--stepz", "3"])
    with pytest.raises(StopIteration):
        parse(["trian", "lior"])


def test_examples_in_the_help_parse() -> None:
    for words, command in COMMANDS.items():
        example = re.search(r"Example: holonomy (.*)", command.help or "")
        assert example, words
        parse(shlex.split(example[1]))


SMALL = "model.d=16 model.n_osc=16 model.hidden=16 model.heads=2 data.seq_len=16 data.batch=2"
TINY = "data.digits=5 data.batch=81 data.extra_from_level=3 model.latent_dim=6 model.hidden=[32]"
ELSEWHERE = {"holographic", "words", "plays", "quickstart", "lm-eval", "audit", "mix", "merge"}
ELSEWHERE |= {"wordnet", "wordnet-mammals"}
"""What takes longer than a second, and runs made by it, or wants files of others; other tests run these commands."""


def shortened(words: list[str]) -> list[str]:
    """The same command on a small text, with a small model and two updates."""
    if words[0] != "train" or "--resume" in words:
        return words
    tiny = words[1].startswith("ternary")
    sets = [part for key in (TINY if tiny else SMALL).split() for part in ("--set", key)]
    # Byte pairs are 262 at least, which a short text does not have.
    sets += ["--set", "data.bpe_vocab=300"] if "data.tokenizer=bpe" in words else []
    data = [] if tiny or "--data" in words else ["--data", "my.txt"]
    return [*words, *sets, *data, "--steps", "2"]


@pytest.mark.parametrize(
    "document",
    [DOCUMENTS[0], *(pytest.param(path, marks=pytest.mark.slow) for path in DOCUMENTS[1:])],
    ids=lambda path: path.stem,
)
def test_documented_command_lines_run(document: Path, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text(TEXT)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "code.py").write_text("x = 1\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("The with\n"))
    commands = [words for words in fenced_commands([document]) if not set(words) & ELSEWHERE]
    commands = [words for words in commands if not any(w.startswith("holographic") for w in words)]
    # What `make demo` trains, and what the document on reports has at hand.
    if made := {"README": "demo", "reports": "first"}.get(document.stem):
        commands.insert(0, ["train", "lior", "--run", made])
    for words in commands:
        code, out, err = run(capfd, monkeypatch, *shortened(words))
        # Two updates reach no target.
        assert code == ("--check" in words), (words, err)
        assert out or err


def test_a_conversation_as_one_object(tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text(TEXT)
    assert run(capfd, monkeypatch, *shortened(["train", "lior", "--run", "a"]), "--quiet") == (0, "", "")
    monkeypatch.setattr(sys, "stdin", io.StringIO("The with\n/stats\n"))
    code, out, err = run(capfd, monkeypatch, "chat", "a", "--max-tokens", "5", "--json")
    spoken = json.loads(out)
    assert code == 0
    assert [role for role, _ in spoken["turns"]] == ["user", "model"]
    assert spoken["turns"][0][1] == "The with\n"
    assert len(spoken["turns"][1][1]) <= 5
    assert spoken["turns"][1][1] in err
    assert "2 turns" in err


def test_quiet_says_only_what_was_asked_for(tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text(TEXT)
    (tmp_path / "my.yaml").write_text("train:\n  optim:\n    lr: 0.002\n")
    (tmp_path / "my.py").write_text("x = 1\n")
    assert run(capfd, monkeypatch, *shortened(["train", "lior", "--run", "a"]), "--quiet") == (0, "", "")
    for words in ("eval a", "runs list", "runs show a", "runs compare a", "runs best", "runs verify a", "runs prune a",
                  "recipes", "config show lior", "config validate my.yaml", "data list", "data info my.txt",
                  "data prepare my.txt --out my.tokens", "geometry-lint my.py"):  # fmt: skip
        assert run(capfd, monkeypatch, *words.split(), "--quiet") == (0, "", ""), words
    _, shown, _ = run(capfd, monkeypatch, "generate", "a", "--prompt", "The", "--max-tokens", "5")
    assert (
        run(capfd, monkeypatch, "generate", "a", "--prompt", "The", "--max-tokens", "5", "--quiet")[1] + "\n" == shown
    )
    code, out, _ = run(capfd, monkeypatch, "runs", "prune", "a", "--json")
    assert code == 0
    assert json.loads(out) == {"runs": ["a"], "freed_bytes": 0}
    code, out, err = run(capfd, monkeypatch, "config", "migrate", "my.yaml", "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out)["config"] == {"version": 2, "train": {"optim": {"lr": 0.002}}}
