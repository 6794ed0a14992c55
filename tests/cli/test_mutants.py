"""Three hundred broken configuration files: exit 2, one paragraph, the place, the key and the name that was meant."""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from holonomy.cli import main
from holonomy.core.config import all_keys, to_json
from holonomy.recipes import configure

COUNT = 300
SHARE_OF_TYPOS = 0.5
LETTERS = "abcdefghijklmnopqrstuvwxyz_"


def nested(key: str, value: object) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def misspelt(name: str, moments: random.Random) -> str:
    """One or two edits: a letter too few, too many, another, or two exchanged."""
    for _ in range(moments.randint(1, 2)):
        at = moments.randrange(len(name))
        kind = moments.randrange(4)
        letter = moments.choice(LETTERS)
        name = (
            name[:at] + name[at + 1 :],
            name[:at] + letter + name[at:],
            name[:at] + letter + name[at + 1 :],
            name[:at] + name[at + 1 : at + 2] + name[at] + name[at + 2 :],
        )[kind] or "x"
    return name


def typos(moments: random.Random) -> Iterator[tuple[bytes, str, str]]:
    configs = [configure(name).config for name in ("lior", "holographic", "ternary")]
    while True:
        config = moments.choice(configs)
        keys = [k for k in all_keys(type(config)) if len(k.rpartition(".")[2]) > 3 and k != "family"]
        values = to_json(config)
        key = moments.choice(keys)
        parent, _, last = key.rpartition(".")
        wrong = misspelt(last, moments)
        dotted = f"{parent}.{wrong}" if parent else wrong
        if dotted in all_keys(type(config)):
            continue
        value = values
        for part in key.split("."):
            value = value[part]
        yield yaml.safe_dump({"family": config.family, **nested(dotted, value)}).encode(), dotted, key


def others(moments: random.Random) -> Iterator[tuple[bytes, str, str]]:
    """Wrong types, ranges and files; the dotted key where there is one."""
    wrong_values: list[tuple[str, object]] = [
        ("model.d", "wide"), ("model.d", 0), ("model.d", 1.5), ("model.d", True), ("model.d", None),
        ("model.architecture", "transformer"), ("model.dropout", 1.0), ("model.theta_range", [0.1]),
        ("model.gamma_range", [2, 1]), ("data.batch", -3), ("data.train_share", 1.2), ("data.unk", "maybe"),
        ("train.optim.lr", -0.1), ("train.optim.lr", "fast"), ("train.optim.betas", [0.9, 0.98, 0.99]),
        ("train.optim.betas", [2, 3]), ("train.budget.steps", 0), ("train.cadence.keep", 0),
        ("train.schedule.kind", "cosin"), ("train.schedule.table", []), ("train.guard.on_nonfinite", "ignore"),
        ("train.device", "tpu"), ("train.seed", 2**40), ("train.threads", 0), ("infer.top_p", 0), ("model", 3),
        ("train.accumulate", 3), ("version", 9), ("family", "tenary"), ("model.pattern", "xyz"),
    ]  # fmt: skip
    broken = [
        b"model:\n\td: 3\n", b"model: {d: 3\n", b"model:\n  d: 3\n  d: 4\n", b"\x00\x01", b"model: \xff\n",
        b"- a\n- b\n", b"a: &x [1]\nb: *x\n", b"a: " + b"[" * 5000, b"a: !!python/object:os.system {}\n",
        b"x: " + b"y" * 10_000_000, b"? {a: 1}\n: 2\n", b"a: 'open\n", b"a: 1\n  b: 2\n", b"%YAML 9.9\n---\n%",
        b"&a [*a]\n", b"a: !!int x\n", b"\xef\xbb\xbf- x\n", b"model:\n  d: .nan\n", b"train: {optim: {lr: .inf}}\n",
        b"a: !!timestamp 99-99-99\n", b"a: " + b"{" * 5000, b"a: [" + b"1," * 16_000, b"? " * 5000,
    ]  # fmt: skip
    while True:
        if moments.random() < 0.6:
            key, value = moments.choice(wrong_values)
            yield yaml.safe_dump(nested(key, value)).encode(), key, ""
        else:
            yield moments.choice(broken), "", ""


def test_three_hundred_mutants(tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    moments, found = random.Random(11), {"typos": 0, "suggested": 0}
    sources: dict[bool, Callable] = {True: typos(moments).__next__, False: others(moments).__next__}
    # What other tests left is collected now, not while a command is measured.
    gc.collect()
    gc.freeze()
    for n in range(COUNT):
        typo = moments.random() < SHARE_OF_TYPOS
        content, key, meant = sources[typo]()
        file = tmp_path / f"mutant-{n}.yaml"
        file.write_bytes(content)
        monkeypatch.setattr(sys, "argv", ["holonomy", "config", "validate", str(file)])
        begin = time.process_time()
        with pytest.raises(SystemExit) as ended:
            main.run()
        spent = time.process_time() - begin
        errors = capfd.readouterr().err
        assert ended.value.code == 2, (content[:80], errors)
        assert "Traceback" not in errors
        assert file.name in errors, errors
        assert spent < 0.6, (content[:80], spent)
        shown = " ".join(errors.split())
        if key:
            assert f"`{key}" in shown.replace("` ", "`"), (key, errors)
            assert f"{file.name}:" in shown
        if typo:
            found["typos"] += 1
            found["suggested"] += f"mean `{meant}`" in shown
    assert found["typos"] > 100
    assert found["suggested"] >= 0.95 * found["typos"], found
