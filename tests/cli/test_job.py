"""Job files: around the very command that trains here, and an interrupted one goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from holonomy.cli import main

ODD = ["holographic-openwebtext", "--run", "the $web's", "--set", 'data.documents.field="a \\"b\\" $(c)"']
PLAIN = ["holographic-openwebtext", "--run", "web"]


Call = Callable[..., tuple[str, str]]


@pytest.fixture
def job(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs the command in this process; gives both outputs."""

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["holonomy", "job", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.run()
        found = capfd.readouterr()
        assert int(ended.value.code or 0) == code, found.err
        return found.out, found.err

    return run


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A folder with commands that only tell how they were called."""
    for name in ("holonomy", "torchrun"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv))\n")
        path.chmod(0o755)
    return tmp_path


def called(script: str, at: Path) -> list[str]:
    script = script.replace("/holonomy/", f"{at}/disk/")
    path = f"{at / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, cwd=at, env={"PATH": path}, check=True)
    name, *rest = json.loads(done.stdout)
    return [Path(name).name, *rest]


@pytest.mark.parametrize("arguments", [PLAIN, ODD], ids=["plain", "odd"])
def test_a_task_trains_and_goes_on(arguments: list[str], recorded: Path, job: Call) -> None:
    task = yaml.safe_load(job("skypilot", "--gpu", "H100:2", "--cpus", "4", "--", *arguments)[0])
    assert task["resources"] == {"cpus": "4+", "accelerators": "H100:2"}
    assert task["file_mounts"].keys() == {"/holonomy"} and task["setup"].startswith("pip install 'holonomy[data]==")
    root = f"{recorded}/disk/runs"
    assert called(task["run"], recorded) == ["holonomy", "train", *arguments, "--root", root]
    (recorded / "disk" / "runs" / arguments[2]).mkdir(parents=True)
    assert called(task["run"], recorded) == ["holonomy", "train", "--resume", arguments[2], "--root", root]


def test_several_processes_are_started_by_torchrun(recorded: Path, job: Call) -> None:
    script, _ = job("torchrun", "--processes", "3", "--", *ODD)
    started = ["torchrun", "--nproc-per-node", "3", "-m", "--", "holonomy", "train"]
    assert called(script, recorded) == [*started, *ODD]
    (recorded / "runs" / ODD[2]).mkdir(parents=True)
    assert called(script, recorded) == [*started, "--resume", ODD[2]]
    task = yaml.safe_load(job("skypilot", "--processes", "3", "--", *PLAIN)[0])
    assert called(task["run"], recorded)[:7] == started


class Recorder:
    """Stands for the library: everything can be called, and tells how."""

    def __init__(self, calls: list[tuple[str, tuple, dict]], name: str = "") -> None:
        self.calls, self.name = calls, name

    def __getattr__(self, name: str) -> Recorder:
        return Recorder(self.calls, f"{self.name}.{name}")

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.calls.append((self.name, args, named))
        return (lambda function: function) if self.name.endswith(("function", "entrypoint")) else self


def test_an_app_runs_the_same_script(recorded: Path, job: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, tuple, dict]] = []
    library = types.ModuleType("modal")
    library.__getattr__ = lambda name: Recorder(calls, name)  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "modal", library)
    names: dict[str, Any] = {}
    text, _ = job("modal", "--gpu", "A100", "--hours", "3", "--", *ODD)
    exec(compile(text, "job", "exec"), names)
    (function,) = (named for name, _, named in calls if name.endswith(".function"))
    assert (function["gpu"], function["cpu"], function["timeout"]) == ("A100", 8, 3 * 3600)
    assert list(function["volumes"]) == ["/holonomy"]
    assert called(names["SCRIPT"], recorded) == ["holonomy", "train", *ODD, "--root", f"{recorded}/disk/runs"]
    seen: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: seen.append(command))
    names["train"]()
    assert seen == [["sh", "-c", names["SCRIPT"]]] and calls[-1][0].endswith("commit")


def test_a_file_is_written_and_named(tmp_path: Path, job: Call) -> None:
    text, note = job("skypilot", "--out", str(tmp_path / "job.yaml"), "--", *PLAIN)
    assert text == "" and f"sky jobs launch {tmp_path / 'job.yaml'}" in note.replace("\n", " ")
    told = json.loads(job("skypilot", "--json", "--", *PLAIN)[0])
    assert told["job"] == (tmp_path / "job.yaml").read_text() and told["start"] == "sky jobs launch FILE"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["skypilot", "--", "holographic-openwebtext"], "--run"),
        (["skypilot", "--", "--resume", "web"], "--run"),
        (["skypilot", "--", *PLAIN, "--set", "model.memry=3"], "model.memory"),
        (["skypilot", "--", "holographic-openwebtex", "--run", "web"], "holographic-openwebtext"),
        (["skypilot", "--", *PLAIN, "--wrong"], "--wrong"),
        (["skypilot", "--", *PLAIN, "--root", "there"], "--root"),
        (["skypilot", "--gpu", "H 100", "--", *PLAIN], "--gpu"),
        (["torchrun", "--gpu", "H100", "--processes", "2", "--", *PLAIN], "--gpu"),
        (["torchrun", "--", *PLAIN], "--processes"),
        (["modal", "--", *PLAIN, "--data", "/home/me/text"], "working directory"),
        (["slurm", "--", *PLAIN], "slurm"),
    ],
)
def test_mistakes_are_found_before_anything_is_rented(arguments: list[str], said: str, job: Call) -> None:
    text, note = job(*arguments, code=2)
    assert said in note and text == ""
