"""The command line from outside: output, exit codes, and what it must not import."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holonomy.cli import console
from holonomy.core.errors import StorageError, TrainingDiverged
from holonomy.recipes import RECIPES

TEXT = "".join(f"{n} and {n + 1} make {2 * n + 1}.\n\n" for n in range(300))
SMALL = ["--set", "model.d=16", "--set", "model.n_osc=16", "--set", "model.hidden=16", "--set", "model.heads=2"]
SMALL += ["--set", "data.seq_len=32", "--set", "data.batch=4", "--threads", "1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a text and a small trained run `runs/a`."""
    path = tmp_path_factory.mktemp("world")
    (path / "text.txt").write_text(TEXT)
    command = [sys.executable, "-m", "holonomy", "train", "lior", "--data", "text.txt", "--run", "a", "--steps", "40"]
    done = subprocess.run([*command, *SMALL, "--json"], cwd=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path / "report.json").write_text(done.stdout)
    return path


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    return world


def test_train_prints_one_json_object(world: Path) -> None:
    lines = (world / "report.json").read_text().splitlines()
    assert len(lines) == 1
    report = json.loads(lines[0])
    wanted = {"run", "family", "metrics", "steps", "tokens_or_samples", "seconds", "cpu_seconds", "peak_rss_mb", "best"}
    assert wanted <= report.keys()
    assert report["steps"] == 40
    assert report["tokens_or_samples"] == 40 * 32 * 4
    assert report["best"]["metric"] == "val/loss"


def test_eval(here: Path, holonomy) -> None:
    code, out, _ = holonomy("eval", "a", "--baselines", "--json", "--threads", "1")
    report = json.loads((here / "report.json").read_text())
    metrics = json.loads(out)["metrics"]
    assert code == 0
    for name in ("val/loss", "baseline/kn5", "baseline/kn7"):
        assert metrics[name] == report["metrics"][name]
    (here / "foreign.txt").write_text("1 and 2 make Zürich\n")
    code, out, _ = holonomy("eval", "a", "--data", "foreign.txt")
    assert "6 of the characters were never seen" in out
    code, out, _ = holonomy("eval", "runs/a", "--baselines")
    assert code == 0
    assert f"{metrics['val/loss']:.4f}" in out


def test_generate_streams_what_json_says(here: Path, holonomy) -> None:
    words = ["generate", "a", "--prompt", "7 and ", "--max-tokens", "30", "--seed", "3"]
    code, out, _ = holonomy(*words)
    assert code == 0
    again, as_json, _ = holonomy(*words, "--json")
    assert again == 0
    assert json.loads(as_json)["text"] + "\n" == out
    assert len(out) == 31


def test_many_prompts_are_continued_as_each_alone(here: Path, holonomy) -> None:
    (here / "prompts.txt").write_text("7 and 8\n1\n")
    words = ["generate", "a", "--max-tokens", "12", "--selector", "gibbsmax", "--gate", "--top-k", "5"]
    code, out, _ = holonomy(*words, "--prompts", "prompts.txt", "--seed", "3")
    assert code == 0
    found = [json.loads(line) for line in out.splitlines()]
    for n, prompt in enumerate(["7 and 8", "1"]):
        _, alone, _ = holonomy(*words, "--prompt", prompt, "--seed", str(3 + n), "--quiet")
        assert found[n] == {"prompt": prompt, "text": alone, "doubt": None, "fallbacks": 0}
    code, out, _ = holonomy(*words, "--prompts", "prompts.txt", "--seed", "3", "--json")
    assert json.loads(out)["texts"] == found
    _, _, err = holonomy(*words, "--prompts", "none.txt")
    assert "cannot be read" in err
    code, _, err = holonomy(*words, "--prompts", "prompts.txt", "--prompt", "1")
    assert code == 2
    assert "give one of them" in err


def test_who_holds_back_says_why(here: Path, holonomy) -> None:
    words = ["generate", "a", "--prompt", "7 and ", "--max-tokens", "30", "--least-prob", "0.999"]
    code, out, err = holonomy(*words)
    assert (code, out) == (0, "\n")
    assert "note: the model holds back: the most probable token has probability" in err
    code, out, err = holonomy(*words, "--doubt", "fallback", "--json")
    found = json.loads(out)
    assert (found["doubt"], found["fallbacks"], found["tokens"]) == (None, 30, 30)
    code, greedy, _ = holonomy(*words[:-2], "--temperature", "0", "--json")
    assert json.loads(greedy)["text"] == found["text"]
    code, out, err = holonomy(*words, "--quiet")
    assert (code, out, err) == (0, "", "")
    code, _, err = holonomy(*words[:-2], "--kernel", "phi", "--temperature", "0.5")
    assert code == 2 and "drop it, or `--temperature`" in err
    code, _, err = holonomy(*words[:-2], "--abstain", "0.2")
    assert code == 2 and "`abstain` is 0.2, but only holographic runs" in err


def test_memory_and_field_are_for_runs_that_have_them(here: Path, holonomy) -> None:
    words = ["generate", "a", "--prompt", "7 and ", "--max-tokens", "5", "--temperature", "0"]
    assert holonomy(*words, "--memory")[0] == 0
    for command in (words, ["eval", "a", "--protocol", "field"]):
        code, _, err = holonomy(*command, *(["--field"] if command is words else []))
        assert code == 2
        assert "no tensor field" in err


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, "did you mean `lior`", ["train", "lor"]),
        (2, "Did you mean 'train'", ["trian"]),
        (2, "--steps", ["train", "lior", "--stepz", "3"]),
        (2, "did you mean `train.optim.lr`", ["train", "lior", "--set", "lr=3"]),
        (2, "greater than or equal to 1", ["train", "lior", "--steps", "0"]),
        (2, "--resume", ["train", "lior", "--resume", "a"]),
        (2, "`RECIPE` is missing", ["train"]),
        (2, "--resume a", ["train", "lior", "--run", "a", "--data", "text.txt", *SMALL]),
        (2, "No such file", ["train", "lior", "--config", "none.yaml"]),
        (2, "max_tokens", ["generate", "a", "--max-tokens", "0"]),
        (2, "max_tokens", ["generate", "a", "--max-tokens", "1000000000"]),
        (2, "temperature", ["generate", "a", "--temperature", "-1"]),
        (2, "'Z'", ["generate", "a", "--prompt", "Zebra"]),
        (3, "does not exist", ["train", "lior", "--data", "none.txt"]),
        (3, "one batch needs 1,025", ["train", "lior", "--data", "short.txt"]),
        (3, "binary", ["train", "lior", "--data", "binary.txt"]),
        (3, "0xff", ["train", "lior", "--data", "latin.txt"]),
        (3, "empty", ["train", "lior", "--data", "empty.txt"]),
        (4, "did you mean `a`", ["eval", "aa"]),
        (4, "not a run directory", ["train", "--resume", "nothing"]),
    ],
)
def test_mistakes_are_explained(here: Path, code, words, arguments, holonomy) -> None:
    for name, content in (("short", b"abc" * 10), ("binary", b"a\0b"), ("latin", b"caf\xff"), ("empty", b"")):
        (here / f"{name}.txt").write_bytes(content)
    found, out, err = holonomy(*arguments)
    assert found == code, err
    assert words in err.replace("\n", " ")
    assert err.startswith("error: ")
    assert out == ""
    assert "Traceback" not in err


def test_runs_are_listed_compared_and_verified(here: Path, monkeypatch, holonomy) -> None:
    code, out, _ = holonomy("runs", "list", "--json")
    listed = {r["name"]: r for r in json.loads(out)["runs"]}
    assert code == 0
    assert listed["a"]["state"] == "finished"
    assert listed["a"]["step"] == 40
    code, out, _ = holonomy("runs", "compare", "a")
    assert code == 0
    assert "finished" in out
    code, out, _ = holonomy("runs", "show", "a", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["metrics"]["val/loss"] == listed["a"]["loss"]
    assert shown["changed"]["model.d"] == 16
    assert "step-40" in shown["checkpoints"]
    assert shown["environment"]["threads"] == 1
    code, out, _ = holonomy("runs", "show", "a")
    assert code == 0
    assert "model.n_osc" in out
    code, out, _ = holonomy("runs", "verify", "a", "--json", "--threads", "1")
    assert code == 0
    assert json.loads(out)["runs"][0]["valid"]
    monkeypatch.setattr("holonomy.recipes.launch.verify", lambda run, root: (1.0, 1.002))
    code, out, _ = holonomy("runs", "verify", "a")
    assert code == 1
    assert "INVALID" in out
    code, _, err = holonomy("runs", "prune", "b")
    assert code == 4
    assert "there are: a" in err


def test_cuda_is_never_replaced_silently(here: Path, monkeypatch, holonomy) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for option in (["--device", "cuda"], ["--strict-cuda"]):
        code, _, err = holonomy("train", "lior", "--data", "text.txt", "--run", "z", *option)
        assert code == 2
        assert "CUDA" in err
        assert not (here / "runs" / "z").exists()


def test_config_show_names_origins(holonomy) -> None:
    code, out, _ = holonomy("config", "show", "lior", "--set", "model.d=64", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["config"]["model"]["d"] == 64
    assert shown["origins"]["model.d"] == "--set model.d"
    assert shown["origins"]["data.unk"] == "recipe lior"


def test_config_show_yaml_is_a_config_file(here: Path, holonomy) -> None:
    _, out, _ = holonomy("config", "show", "lior-smoke", "--set", "model.d=64", "--yaml")
    (here / "mine.yaml").write_text(out)
    code, again, _ = holonomy("config", "show", "lior", "--config", "mine.yaml", "--yaml")
    assert code == 0
    assert again == out


def test_resume_of_a_finished_run_and_its_table(here: Path, holonomy) -> None:
    code, out, err = holonomy("train", "--resume", "a", "--threads", "1")
    assert code == 0
    assert "Kneser-Ney, order 7" in out
    assert "holonomy chat a" in out
    assert "continuing" in err


def test_bad_configurations_never_wait_for_torch() -> None:
    program = (
        "import sys; from holonomy.cli import main\n"
        "sys.argv = ['holonomy', *sys.argv[1:]]\n"
        "try: main.run()\n"
        "except SystemExit as e: print(e.code, 'torch' in sys.modules, 'numpy' in sys.modules)\n"
    )
    for arguments in (["--help"], ["recipes"], ["config", "show", "lior"], ["train", "lior", "--set", "x=1"]):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
        expected = "2 False False" if "--set" in arguments else "0 False False"
        assert done.stdout.splitlines()[-1] == expected, done.stderr


def test_plain_terminals_and_closed_pipes(here: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "holonomy", "config", "show", "lior"]
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0
    assert b"lior" in done.stdout
    assert b"\x1b" not in done.stdout
    generate = f"{sys.executable} -m holonomy generate a --prompt 7 --max-tokens 3000 | head -c 5"
    piped = subprocess.run(["bash", "-c", generate], capture_output=True, text=True)
    assert piped.stderr == ""


def test_an_interrupt_is_said(monkeypatch, holonomy) -> None:
    def interrupted(run: str, root: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("holonomy.recipes.launch.verify", interrupted)
    code, out, err = holonomy("runs", "verify", "a")
    assert (code, out, err.strip()) == (130, "", "error: interrupted")


def test_names_are_printed_as_they_are(tmp_path: Path, monkeypatch, capfd, holonomy) -> None:
    monkeypatch.chdir(tmp_path)
    names = "my[red].txt", "[/x].txt", ":car:.txt"
    digest = hashlib.sha256(b"a text of some words").hexdigest()
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("a text of some words")
        code, out, err = holonomy("data", "info", name)
        assert (code, err) == (0, "")
        assert name in out
        assert digest in re.sub(r"\W", "", out), "not cut at eighty columns"
    console.ConsoleProgress(quiet=False).start(dict(enumerate(names)))
    assert capfd.readouterr().err == f"0 {names[0]}, 1 {names[1]}, 2 {names[2]}\n"


def test_every_recipe_is_listed_by_its_whole_name(monkeypatch, holonomy) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    code, out, _ = holonomy("recipes")
    assert code == 0
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [r.name for r in RECIPES]


def test_a_text_of_one_line_is_learned_and_spoken(tmp_path: Path, monkeypatch, holonomy) -> None:
    monkeypatch.chdir(tmp_path)
    Path("line.txt").write_text("some words and no line end, " * 60)
    sampled = ["--steps", "2", "--set", "train.cadence.samples=5", "--set", "data.unk=false"]
    code, out, err = holonomy("train", "lior", "--data", "line.txt", "--run", "r", *SMALL, *sampled)
    assert code == 0, err
    assert "sample" in out and "warning" not in err
    code, out, _ = holonomy("generate", "r", "--max-tokens", "7", "--quiet")
    assert (code, len(out)) == (0, 7)


def test_interrupted_training_saves_names_the_checkpoint_and_resumes(here: Path) -> None:
    command = [sys.executable, "-m", "holonomy", "train", "lior", "--data", "text.txt", "--run", "stopped", *SMALL]
    process = subprocess.Popen([*command, "--steps", "100000"], stderr=subprocess.PIPE, text=True)
    log = here / "runs" / "stopped" / "metrics.jsonl"
    while not log.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    pointer = (here / "runs" / "stopped" / "checkpoints" / "latest").read_text().strip()
    assert pointer in errors
    assert "Traceback" not in errors
    assert "warning" not in errors
    page = (here / "runs" / "stopped" / "report.html").read_text()
    assert "interrupted by signal 2" in page
    assert "Plain baselines are measured when a run uses up its budget" in page


def test_every_training_leaves_a_report(here: Path, tmp_path: Path, holonomy) -> None:
    first = (here / "runs" / "a" / "report.html").read_bytes()
    printed, kept = (json.loads((here / n).read_text()) for n in ("report.json", "runs/a/result.json"))
    assert kept.keys() == printed.keys()
    assert kept["metrics"] == printed["metrics"]
    code, out, _ = holonomy("runs", "report", "a", "--out", str(tmp_path / "page.html"), "--json")
    assert code == 0
    found = json.loads(out)
    assert found == {"run": "a", "report": str(tmp_path / "page.html"), "bytes": len(first), "faults": []}
    assert (tmp_path / "page.html").read_bytes() == first
    code, out, _ = holonomy("runs", "report", "runs/a")
    assert (code, out) == (0, "runs/a/report.html\n")
    assert holonomy("runs", "report", "aa")[0] == 4


def test_a_report_that_fails_is_told_of_and_costs_nothing_else(here: Path, monkeypatch, holonomy) -> None:
    from holonomy.audit import run_report

    def full(path: Path, text: str) -> None:
        raise StorageError(f"cannot write `{path}`: No space left on device")

    monkeypatch.setattr(run_report, "replace_text", full)
    train = ["train", "lior", "--data", "text.txt", "--steps", "2", *SMALL, "--json"]
    code, out, err = holonomy(*train, "--run", "full")
    assert code == 0
    assert json.loads(out)["steps"] == 2
    assert "warning: no report of runs/full was written: cannot write `runs/full/report.html`: No space left" in err


def test_a_training_that_diverges_leaves_a_report(here: Path, monkeypatch, holonomy) -> None:
    from holonomy.recipes import launch

    def lost(*_, **__) -> None:
        raise TrainingDiverged("the training loss of 12 tokens is no number at step 3")

    monkeypatch.setattr(launch, "fit", lost)
    train = ["train", "lior", "--data", "text.txt", "--steps", "9", *SMALL, "--json", "--run", "wild"]
    code, out, err = holonomy(*train)
    assert (code, out) == (5, "")
    assert "12 tokens is no number at step 3" in (here / "runs" / "wild" / "report.html").read_text()
    assert "warning: the report of runs/wild lacks a part: Inside the model" in err


def test_config_validate_and_migrate(tmp_path: Path, monkeypatch, holonomy) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("train:\n  optim:\n    lr: 0.002\n    warmup: 0.1\n")
    code, _, errors = holonomy("config", "validate", str(file))
    assert code == 2
    assert "`train.optim.warmup` is now `train.schedule.warmup`" in errors
    code, printed, errors = holonomy("config", "migrate", str(file))
    assert code == 0
    assert "is now" in errors
    assert "version: 2" in printed
    assert holonomy("config", "migrate", str(file), "--write")[0] == 0
    assert file.read_text() == printed
    code, printed, _ = holonomy("config", "validate", str(file), "--json")
    assert code == 0
    assert json.loads(printed)["keys"] == ["version", "train.optim.lr", "train.schedule.warmup"]
    monkeypatch.setenv("HOLONOMY__TRAIN__SEED", "many")
    code, _, errors = holonomy("config", "show", "lior")
    assert code == 2
    assert "HOLONOMY__TRAIN__SEED: `train.seed`" in errors


def test_data_is_listed_described_prepared_and_trained_on(tmp_path: Path, monkeypatch, holonomy) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": f"{n} and {n + 1} make {2 * n + 1}."}) for n in range(300)]
    Path("sums.jsonl").write_text("\n".join([*lines[:100], "broken", *lines[100:]]))
    code, _, errors = holonomy("data", "prepare", "sums.jsonl", "--out", "sums")
    assert code == 3
    assert "sums.jsonl`:101" in errors
    rest = ["--out", "sums", "--skip-bad", "--unk", "--json"]
    code, printed, _ = holonomy("data", "prepare", "sums.jsonl", *rest)
    assert code == 0
    assert json.loads(printed)["documents"] == 300
    code, printed, _ = holonomy("data", "info", "sums", "--json")
    found = json.loads(printed)
    assert (code, found["documents"], found["bytes_per_token"]) == (0, 300, 2)
    Path("sums.txt").write_text("".join(f"{json.loads(line)['text']}\n\n" for line in lines))
    reports = []
    for source in ("sums", "sums.txt"):
        arguments = ["train", "lior", "--data", source, "--run", f"r-{source}", "--steps", "5", *SMALL, "--json"]
        code, printed, errors = holonomy(*arguments)
        assert code == 0, errors
        reports.append(json.loads(printed)["metrics"])
    assert reports[0]["val/loss"] == reports[1]["val/loss"]
    assert reports[0]["baseline/kn5"] == reports[1]["baseline/kn5"]
    code, printed, _ = holonomy("data", "info", "sums.txt", "--json")
    assert json.loads(printed)["characters"] == found["tokens"]
    code, printed, _ = holonomy("data", "list", "--json")
    assert {row["name"] for row in json.loads(printed)["data"]} == {"pydoc", "tinyshakespeare", "wordnet-mammals"}


def test_what_the_machine_cannot_hold_is_refused_before_it_is_made(here: Path) -> None:
    """The first is more than any machine has, the second more than this process may take."""
    train = f"{sys.executable} -m holonomy train holographic --data text.txt --run huge --set model.tower"
    fitting = {
        ".levels=9": r"model\.tower\.levels 6",
        ".channels=1024": r"model\.tower\.levels 4 or model\.tower\.channels",
    }
    for key, value in fitting.items():
        done = subprocess.run(["bash", "-c", f"ulimit -v 6000000; {train}{key}"], capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert re.search(f"for tower; there are 5,859 here: take {value}", " ".join(done.stderr.split()))
        assert not (here / "runs" / "huge").exists()
