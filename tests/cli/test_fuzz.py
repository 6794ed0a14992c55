"""Random command lines: whatever is typed, the exit code is a documented one and nobody sees a traceback."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer

from holonomy.cli import main
from holonomy.core.config import leaves
from holonomy.recipes import RECIPES

EXIT_CODES = {0, 1, 2, 3, 4, 5, 6, 130, 143}
FEW, MANY = 300, 10_000
PATIENCE = 30.0
"""Seconds after which a command counts as hanging."""
TEXT = "".join(f"{n} and {n + 1} make {2 * n + 1}.\n\n" for n in range(120))
SMALL = ["--set", "model.d=16", "--set", "model.n_osc=16", "--set", "model.hidden=16", "--set", "model.heads=2"]
SMALL += ["--set", "data.seq_len=16", "--set", "data.batch=2"]
TINY = ["--set", "data.digits=5", "--set", "data.batch=81", "--set", "data.extra_from_level=3"]
TINY += ["--set", "model.latent_dim=6", "--set", "model.hidden=[32]"]
BOUNDED = {"lior", "lior-smoke", "ternary-smoke"}
"""Recipes that are trained: others only show their configuration."""

FILES = {
    "text.txt": TEXT.encode(),
    "empty.txt": b"",
    "binary.txt": b"a\0b" * 50,
    "latin.txt": b"caf\xe9 " * 50,
    "short.txt": b"abc",
    "lines.jsonl": b'{"text": "one and two"}\n' * 40,
    "broken.jsonl": b'{"text": "one"}\n{"tex\n[1]\n{"text": 3}\n',
    "good.yaml": b"train:\n  optim:\n    lr: 0.002\n",
    "old.yaml": b"train:\n  optim:\n    warmup: 0.1\n",
    "broken.yaml": b"train: [1, 2\n  x: {",
    "tab.yaml": b"train:\n\tseed: 1\n",
    "list.yaml": b"- 1\n- 2\n",
    "alias.yaml": b"a: &a [1]\nb: *a\n",
    "tag.yaml": b"a: !!python/object:os.system {}\n",
    "odd.yaml": b"version: 99\n\xff",
    "date.yaml": b"train: 2020-01-01\nmodel: .nan\n",
    "code.py": b"import torch\n\ndef f(x):\n    return torch.norm(x)\n",
    "wrong.py": b"def f(:\n",
    "deep.json": b'{"seed": 1, "turns": ' + b"[" * 100_000,
    "big.json": b'{"seed": 1e999, "sampling": {}, "turns": [], "generator": [], "ids": [[99999999999999999999]]}',
    "talk.json": b'{"seed": 1, "turns": 3}',
}
WORDS = ["", " ", "x", "-", "--", "0", "1", "-1", "2", "3.5", "1e3", "1e400", "-0.0", "nan", "inf", "-inf", "true"]
WORDS += ["null", "10" * 20, str(2**31), str(2**63), str(2**64), str(-(2**70)), "\u0661", "é", "日本", "\U0001f600"]
WORDS += [
    "a\nb",
    "a b",
    "'",
    '"',
    "[1,2]",
    "{a: 1}",
    "a=b",
    "../..",
    "%s",
    "{}",
    "\\",
    "*",
    "$HOME",
    "~",
    "[bold]x[/bold]",
]
WORDS += ["[/]", "\x1b[31m", "a" * 300, "\udcff", "a\udc80b", "0x10", "1_000", "²", "None", "a\0b"]
PATHS = [
    *FILES,
    "folder",
    "runs",
    "runs/a",
    "runs/hurt",
    "runs/bare",
    "runs/odd",
    "nothing",
    "nothing/more",
    "text.txt/x",
]
PATHS += ["/proc/self/nothing", ".", "", "a\0b", "é/日本", "x" * 300, "\udcff", "made", "folder/made"]
NAMES = ["a", "o", "runs/a", "runs/a/checkpoints/step-3", "hurt", "bare", "odd", "aa", "A", "text.txt", "folder", "."]
NUMBERS = {"--steps", "--cpu-seconds", "--seconds"}
BUDGETS = ["0", "-1", "x", "nan", "inf", "1e-400", ".", "²", "0.0", "1e3", "a" * 300, "\udcff", "日本", "0x1"]
KEPT_SMALL = {"--max-tokens": ["0", "-1", "1", "3", "10000001", "x", "nan", "1e3", "", "日本"]}
"""Options whose legal values cost time."""
CHAT = [
    "hello",
    "1 and 2",
    "/help",
    "/set",
    "/set x",
    "/set temperature=x",
    "/set top_k=-1",
    "/set gate=maybe",
    "/stats",
]
CHAT += ["/save", "/save talk.out", "/save nothing/x", "/load talk.json", "/load folder", "/load", "/nope", "/", "\x00"]
CHAT += ["/load deep.json", "/load big.json", "1 and 2 make", "/set seed=1", "/set top_k=1" + "0" * 30]
CHAT += ["/set max_tokens=2", "/set temperature=nan", "/set selector=x", "/set top_p=1e400", "日本", "/reset", "/quit"]


def leaf_commands() -> Iterator[tuple[list[str], Any]]:
    """Every command with its words."""

    def walk(command: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                yield from walk(inner, [*words, name])
        else:
            yield words, command

    return walk(typer.main.get_command(main.app), [])


COMMANDS = list(leaf_commands())


@dataclass
class Fuzzer:
    """Writes random command lines for every command and option that there is."""

    moments: random.Random
    keys: list[str] = field(default_factory=lambda: sorted({k for r in RECIPES for k in leaves(r.config())}))

    def pick(self, *pools: list[str]) -> str:
        return self.moments.choice(self.moments.choice(pools))

    def value(self, option: str, words: list[str]) -> str:
        """A value of an option, sensible or not; options are known by name only to keep the work small."""
        if option in KEPT_SMALL:
            return self.pick(KEPT_SMALL[option])
        if option in NUMBERS:
            return self.pick(["1", "2"], ["0", "-1", "x", "nan", "", "1e400", "-inf", "0.5"])
        if option == "--set":
            return self.override(heavy=words[0] == "config")
        if option == "--budget":
            return self.pick(["0.1", "0.2"], BUDGETS)
        if option in ("--data", "source"):
            return self.pick([p for p in PATHS if p != "."], ["text.txt"], WORDS)
        if option == "--limit":
            return self.pick(["1", "0.5"], WORDS)
        if option in ("run", "runs", "--resume", "--init-from", "--run"):
            return self.pick(["a"], ["a", "o", "hurt"], NAMES, WORDS, PATHS)
        if option in ("recipe", "--recipe"):
            return self.pick(["lior-smoke", "ternary-smoke", "lior", "lor"], WORDS)
        if option == "--root":
            return self.pick(["runs"], ["runs", ".", "folder", "nothing", "text.txt", "", "a\0b", "x" * 300])
        return self.pick(WORDS, PATHS)

    def override(self, *, heavy: bool) -> str:
        key = self.moments.choice(self.keys)
        if self.moments.random() < 0.2:
            return self.pick(WORDS, [f"{key}", f"={key}", f"{key}.x=1", f"{key[:-1]}=1", f".{key}=1", f"{key}=: ["])
        small = ["0", "-1", "1", "2", "x", "true", "null", "[1]", "[]", "{}", "nan", "0.5", ""]
        return f"{key}={self.pick(WORDS, small) if heavy else self.pick(small)}"

    def command_line(self) -> tuple[list[str], bytes]:
        """Arguments, and what stands on stdin."""
        if self.moments.random() < 0.03:
            return [self.pick(WORDS, ["train", "--version", "--debug"]) for _ in range(self.moments.randint(0, 3))], b""
        # Groups of commands are as likely as single ones.
        groups = sorted({words[0] for words, _ in COMMANDS})
        group = self.moments.choice([*groups, "train", "generate", "chat"])
        words, command = self.moments.choice([c for c in COMMANDS if c[0][0] == group])
        if words == ["quickstart"] and self.moments.random() < 0.9:
            # It measures its speed for two seconds.
            return ["quickstart", "--estimate", "--budget", self.pick(BUDGETS), "--data", "text.txt"], b""
        found = list(words)
        for parameter in command.params:
            option = max(parameter.opts, key=len)
            if parameter.param_type_name == "argument":
                count = self.moments.choice([0, 1, 1, 1, 1, 1, 1, 2]) if parameter.nargs == -1 else 1
                if self.moments.random() < 0.95:
                    found += [self.value(parameter.name, words) for _ in range(count)]
            elif option == "--help":
                found += ["--help"] if self.moments.random() < 0.02 else []
            elif self.moments.random() < (0.4 if option in ("--json", "--quiet") else 0.15):
                names = [*parameter.opts, *parameter.secondary_opts]
                found.append(self.moments.choice(names))
                if not parameter.is_flag:
                    found.append(self.value(option, words))
        if self.moments.random() < 0.03:
            found.insert(self.moments.randint(0, len(found)), self.pick(WORDS, ["--nope", "-x"]))
        stdin = (
            self.pick(["", "1 and ", "\udcff", "x" * 500])
            if words[0] != "chat"
            else "\n".join(self.moments.choice(CHAT) for _ in range(self.moments.randint(0, 6)))
        )
        return self.bound(found), stdin.encode("utf-8", "surrogateescape")

    def bound(self, words: list[str]) -> list[str]:
        """Keeps legal work small: few updates of small models on a small text."""
        if words[:1] == ["train"]:
            recipe = next((w for w in words[1:2] if not w.startswith("-")), "")
            if recipe in {r.name for r in RECIPES} and recipe not in BOUNDED:
                return ["config", "show", recipe]
            extra = (TINY if recipe.startswith("ternary") else SMALL) if recipe in BOUNDED else []
            budget = [] if NUMBERS & set(words) else ["--steps", "1"]
            data = [] if "--data" in words or recipe.startswith("ternary") or not extra else ["--data", "text.txt"]
            # First, so that what was drawn has the last word.
            return [*words[:2], *extra, *(budget if extra else []), *data, *words[2:]]
        if words[:1] == ["quickstart"]:
            given = set(words)
            return [*words, *([] if "--data" in given else ["--data", "text.txt"])] + (
                [] if "--budget" in given else ["--budget", "0.1"]
            )
        if words[:1] == ["audit"] and "--list" not in words:
            # Other tests run claims.
            return [*words, "--list"]
        if words[:1] in (["generate"], ["chat"]) and "--max-tokens" not in words:
            return [*words, "--max-tokens", "3"]
        return words


class Slow(BaseException):
    """A command that does not come back."""


def overdue(*_: object) -> None:
    raise Slow


@dataclass
class Outcome:
    """What a command did."""

    words: list[str]
    code: object
    out: str
    err: str
    fault: str

    def faults(self) -> Iterator[str]:
        if self.fault:
            yield self.fault
            return
        if self.code not in EXIT_CODES:
            yield f"exit code {self.code}"
        if "Traceback" in self.err and "--debug" not in self.words:
            yield "a traceback on stderr"
        if self.code not in (0, 1) and not self.err.strip():
            yield f"exit code {self.code} without a word"
        if {"--help", "--version"} & set(self.words):
            return
        # What is asked for as a text is printed, and so is what a check found.
        spoken = {"--json", "--yaml", "generate", "chat", "migrate"} & set(self.words)
        if "--quiet" in self.words and self.code == 0 and self.out.strip() and not spoken:
            yield f"--quiet printed {self.out[:200]!r}"
        if "--json" in self.words and self.out.strip():
            try:
                single = isinstance(json.loads(self.out), dict) and self.out.count("\n") == 1
            except ValueError:
                single = False
            if not single:
                yield f"--json printed {self.out[:200]!r}"


def outcome(words: list[str], stdin: bytes) -> Outcome:
    """Runs a command in this process, as a shell would start it."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    before = sys.argv, sys.stdin, sys.stdout, sys.stderr
    sys.argv, sys.stdin = ["holonomy", *words], io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    sys.stdout, sys.stderr = streams
    handler = signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    code, fault = None, ""
    try:
        main.run()
    except SystemExit as ended:
        code = ended.code or 0
    except Slow:
        fault = f"no end within {PATIENCE:.0f} s\n{traceback.format_exc()}"
    except Exception:  # noqa: BLE001 - whatever comes out is a fault
        fault = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        sys.argv, sys.stdin, sys.stdout, sys.stderr = before
    texts = [stream.buffer.getvalue().decode("utf-8", "replace") for stream in streams]
    return Outcome(words, code, *texts, fault)


def restore(world: Path, keep: set[str]) -> None:
    """Puts every file back and removes what a command made."""
    for name, content in FILES.items():
        path = world / name
        if not path.is_file() or path.read_bytes() != content:
            if path.is_dir():
                shutil.rmtree(path)
            path.write_bytes(content)
    for place in (world, world / "runs", world / "folder"):
        for path in place.iterdir():
            if str(path.relative_to(world)) not in keep:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with texts, configurations, whole runs `a` and `o`, and three that are damaged."""
    path = tmp_path_factory.mktemp("fuzz") / "deep" / "enough"
    path.mkdir(parents=True)
    (path / "folder").mkdir()
    (path / "folder" / "inner.txt").write_text(TEXT)
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    before = Path.cwd()
    os.chdir(path)
    try:
        for run, words in (
            ("a", ["train", "lior", *SMALL, "--data", "text.txt", "--steps", "3"]),
            ("o", ["train", "ternary-smoke", *TINY, "--steps", "3"]),
        ):
            made = outcome([*words, "--run", run, "--threads", "1", "--quiet"], b"")
            assert made.code == 0, made
    finally:
        os.chdir(before)
    shutil.copytree(path / "runs" / "a", path / "runs" / "hurt")
    for file in (path / "runs" / "hurt" / "checkpoints").glob("step-*/*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    (path / "runs" / "bare").mkdir()
    shutil.copy(path / "runs" / "a" / "config.yaml", path / "runs" / "bare" / "config.yaml")
    (path / "runs" / "odd").mkdir()
    (path / "runs" / "odd" / "config.yaml").write_text("family: lior\nmodel: 3\n")
    return path


def fuzz(world: Path, monkeypatch: pytest.MonkeyPatch, count: int, seed: int) -> tuple[list[str], Counter[str]]:
    """Runs `count` random commands; returns what was wrong, and how often each exit code came."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("HOLONOMY_DATA", str(world / "folder"))
    for variable in ("http_proxy", "https_proxy"):
        # Nothing listens there: what is not on this machine is not to be had.
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    keep = {str(p.relative_to(world)) for place in (world, world / "runs", world / "folder") for p in place.iterdir()}
    fuzzer, found, codes = Fuzzer(random.Random(seed)), list[str](), Counter[str]()
    for _ in range(count):
        words, stdin = fuzzer.command_line()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = outcome(words, stdin)
        codes[f"{words[0] if words else ''} {done.code}"] += 1
        found += [f"{words!r} {stdin!r}: {fault}\n{done.err[-400:]}" for fault in done.faults()]
        restore(world, keep)
    return found, codes


def test_random_commands_are_explained(world: Path, monkeypatch) -> None:
    found, codes = fuzz(world, monkeypatch, FEW, seed=0)
    assert found == []
    assert sum(n for name, n in codes.items() if name.endswith(" 0")) > FEW / 20
    assert len({name.split(" ")[-1] for name in codes}) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_random_commands_are_explained(world: Path, monkeypatch, seed: int) -> None:
    found, codes = fuzz(world, monkeypatch, MANY // 10, seed)
    assert found == []
    assert sum(codes.values()) == MANY // 10


def test_the_fuzzer_sees_a_traceback_and_two_objects(world: Path, monkeypatch) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setattr("holonomy.cli.recipes.RECIPES", None)
    (fault,) = outcome(["recipes"], b"").faults()
    assert "TypeError" in fault
    assert list(Outcome(["--json"], 0, "{}\n{}\n", "", "").faults())
    assert list(Outcome([], 7, "", "error", "").faults())
    assert list(Outcome([], 2, "", "", "").faults())
    assert not list(Outcome(["--json"], 0, '{"a": 1}\n', "", "").faults())
