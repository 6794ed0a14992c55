"""Reports of runs: their numbers are those of the run, they need nothing else, and damage leaves the rest standing."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from markup import Node, figure, numbers, outside, points, read_page, rulers

from holonomy.audit.run_report import REPORT, write_report
from holonomy.core.errors import CheckpointError, StorageError
from holonomy.data.text import load_text
from holonomy.recipes import configure, launch
from holonomy.train.monitor import SilentProgress
from holonomy.train.report import FitReport

BAD = "<script>alert(1)</script>"
LIOR = [
    "model.d=16", "model.n_osc=16", "model.hidden=16", "model.heads=2", "data.seq_len=32", "data.batch=4",
    "train.budget={steps: 12, tokens: null, cpu_s: null, seconds: null}", "train.cadence.log_every=1",
    "train.cadence.eval_every=4", "train.cadence.samples=20",
]  # fmt: skip
HOLOGRAPHIC = [
    "model.batch_size=500", "model.counts.classes=[]", "model.similarity.dim=16", "model.mixture.product_steps=5",
    "model.mixture.em_steps=20", "model.tower.levels=3", "model.tower.channels=4",
]  # fmt: skip
TERNARY = [
    "data.digits=4", "data.batch=81", "data.extra_from_level=3", "model.latent_dim=4", "model.hidden=[16]",
    "train.budget.steps=6", "train.cadence.log_every=1", "train.cadence.eval_every=3",
]  # fmt: skip
FAMILIES = ("lior", "holographic", "ternary")


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "SAMPLE_TOKENS", 20)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, FitReport]]:
    root = tmp_path_factory.mktemp("runs")
    text = tmp_path_factory.mktemp("text") / f"{BAD.replace('/', '')}.txt"
    text.write_text(load_text("pydoc").text[:12_000])
    reports = {}
    for family, settings in zip(FAMILIES, (LIOR, HOLOGRAPHIC, TERNARY), strict=True):
        source = [] if family == "ternary" else [f"data.source={text}"]
        config = configure(family, overrides=[*settings, *source]).config
        reports[family] = launch.train(config, recipe=family, run=family, root=root, progress=SilentProgress())
    return root, reports


@pytest.fixture
def run(trained: tuple[Path, dict[str, FitReport]], tmp_path: Path) -> Path:
    """A copy of the lior run that a test may damage."""
    return Path(shutil.copytree(trained[0] / "lior", tmp_path / "lior"))


def written(run: Path, *, faults: int = 0) -> Node:
    report = write_report(run)
    assert len(report.faults) == faults, report.faults
    page = read_page(report.path.read_text(encoding="utf-8"))
    assert outside(page) == []
    return page


def section(page: Node, heading: str) -> Node:
    (found,) = [s for s in page.all("section") if s.all("h2")[0].text() == heading]
    return found


def logged(run: Path) -> dict[str, list[tuple[float, float]]]:
    """The log by metric, read without the package."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, value in record.items():
            if name != "step":
                found.setdefault(name, []).append((record["step"], value))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_those_of_the_run(trained: tuple[Path, dict[str, FitReport]], family: str) -> None:
    root, report = trained[0], trained[1][family]
    page, log = written(root / family), logged(root / family)
    course = {row[0]: row[1:] for row in numbers(section(page, "Curves").all("table")[-1])}
    assert course.keys() == log.keys()
    for name, pairs in log.items():
        values = [v for _, v in pairs]
        assert course[name] == [len(values), values[0], min(values), max(values), values[-1]], name
    last = dict(numbers(section(page, "Results").all("table")[-1]))
    assert last == {**{n: p[-1][1] for n, p in log.items()}, **report.metrics}
    for title, name in (("Throughput", "perf/tokens_per_cpu_second"), ("Memory", "perf/peak_rss_mb")):
        assert [tuple(row) for row in numbers(figure(page, title).all("table")[0])] == log[name]
    summary = {str(k): v for k, v in numbers(section(page, "Summary").all("table")[0])}
    assert summary["updates"] == report.steps
    assert summary["best val/loss"] == report.best["value"]
    assert summary["ended"] == "the budget is used up"
    assert len(section(page, "Inside the model").all("figure")) >= 2


def test_the_loss_curve_stands_where_the_log_says(trained: tuple[Path, dict[str, FitReport]]) -> None:
    page, log = written(trained[0] / "lior"), logged(trained[0] / "lior")
    (svg,) = [s for s in figure(page, "Loss").all("svg") if s.attrs.get("role") == "img"]
    to_x, to_y = rulers(svg)
    for line, name in zip(svg.all("path", "line"), ("train/loss", "val/loss"), strict=True):
        found = [(to_x(x), to_y(y)) for x, y in points(line.attrs["d"])]
        spread = max(v for _, v in log["train/loss"]) - min(v for _, v in log["val/loss"])
        for (x, y), (step, value) in zip(found, log[name], strict=True):
            assert x == pytest.approx(step, abs=0.05)
            assert y == pytest.approx(value, abs=0.01 * max(spread, 1e-3))


def test_baselines_stand_beside_the_model(trained: tuple[Path, dict[str, FitReport]]) -> None:
    root, reports = trained
    rows = numbers(section(written(root / "lior"), "Results").all("table")[0])
    metrics = reports["lior"].metrics
    wanted = ["baseline/unigram", "baseline/bigram", "baseline/kn5", "baseline/kn7", "val/loss"]
    assert [row[1] for row in rows] == [metrics[name] for name in wanted]
    assert [row[2] for row in rows] == [metrics[name] / math.log(2) for name in wanted]
    rows = {row[0]: row[1:] for row in numbers(section(written(root / "ternary"), "Results").all("table")[0])}
    metrics = reports["ternary"].metrics
    assert rows["coverage"] == [metrics[f"{kind}/coverage"] for kind in ("val", "baseline", "untrained")]


def test_samples_configuration_and_environment_are_shown(run: Path) -> None:
    page = written(run)
    shown = [p.text() for p in section(page, "Samples").all("pre")]
    kept = [(run / "samples" / f"step-{n}.txt").read_text() for n in (4, 8, 12)]
    model, infer = launch.load_speaker(str(run))
    assert shown == [launch.sample_text(model, infer), *kept]
    changed = {row[0]: row[1:] for row in numbers(section(page, "Configuration").all("table")[0])}
    assert changed["model.d"][0] == "16"
    assert changed["data.source"][0].endswith(f"{BAD.replace('/', '')}.txt")
    assert "model.preset" not in changed
    assert section(page, "Configuration").all("pre")[0].text() == (run / "config.yaml").read_text()
    environment = json.loads((run / "env.json").read_text())
    rows = {row[0]: row[1] for row in numbers(section(page, "Environment").all("table")[0])}
    assert rows["torch"] == environment["torch"]
    assert rows["cores"] == environment["cores"]


def test_equal_runs_give_equal_bytes(run: Path, tmp_path: Path) -> None:
    first = write_report(run).path.read_bytes()
    assert write_report(run, out=tmp_path / "again.html").path.read_bytes() == first
    assert len(first) < 1_500_000


def test_hostile_texts_are_shown_not_run(run: Path, tmp_path: Path) -> None:
    run = run.rename(tmp_path / "<script>alert(1)<")
    (run / "samples" / "step-99.txt").write_bytes(b"</pre><script>alert(1)</script>\0\xff\xed\xa0\x80")
    (run / "env.json").write_text(json.dumps({BAD: BAD, "argv": [BAD]}))
    verdict = dict.fromkeys(("id", "statement", "status", "seed", "command", "seconds", "detail"), BAD)
    figures = [dict.fromkeys(("name", "value", "relation", "bound", "unit"), BAD), BAD]
    (run / "audit.json").write_text(json.dumps({"verdicts": [{**verdict, "figures": figures}]}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 13, BAD: 1.0, f"train/{BAD}/loss": 2.0}) + "\n")
    page = written(run)
    assert page.all("h1")[0].text() == "Run <script>alert(1)<"
    assert any(BAD in p.text() for p in section(page, "Samples").all("pre"))
    assert section(page, "Audit").text().count(BAD) >= 10
    assert not page.all("script")


def test_verdicts_are_a_table(run: Path) -> None:
    figures = [{"name": "error", "value": 1e-7, "relation": "<=", "bound": 1e-6, "unit": "relative"}]
    common = {"seed": 3, "command": "holonomy audit --claim a", "seconds": 0.25, "detail": "seen on 100 draws"}
    verdicts = [
        {"id": "a", "statement": "The way back is exact.", "status": "pass", "figures": figures, **common},
        {"id": "b", "statement": "It holds.", "status": "fail", "figures": []},
        {"id": "c"},
    ]
    (run / "audit.json").write_text(json.dumps({"verdicts": verdicts}))
    found = section(written(run), "Audit")
    assert found.all("p")[0].text() == "1 pass, 1 fail, 1 ?."
    rows = numbers(found.all("table")[0])
    assert [row[0] for row in rows] == ["pass", "fail", "?"]
    assert rows[0][2] == "error 1e-07 relative (wanted <= 1e-06)"
    assert rows[0][3] == 0.25
    assert all(words in str(rows[0][4]) for words in ("seed 3", "--claim a", "seen on 100 draws"))
    assert [n.attrs["class"] for n in found.all("span", "badge")] == ["badge good", "badge bad", "badge warn"]


def test_values_that_are_no_numbers_and_damaged_lines_are_told(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "train/loss": NaN, "train/lr": Infinity, "val/loss": -Infinity}\n')
        file.write('[1]\nnot json\n{"train/loss": 1}\n{"step": NaN}\n{"step": 14, "train/loss": 1' + "0" * 400 + "}\n")
        file.write('{"step": 14, "train/lo')
    page = written(run)
    told = section(page, "Curves").all("p", "notice")[0].text()
    lines = len((run / "metrics.jsonl").read_text().splitlines())
    assert told.startswith("6 lines of metrics.jsonl are damaged")
    assert f"{lines - 5}, {lines - 4}" in told
    loss = figure(page, "Loss")
    assert "train/loss: 1 of 13 values are no finite numbers and are not drawn (update 13)" in loss.text()
    assert "not a number" in [c.text() for c in loss.all("td")]
    course = {row[0]: row[1:] for row in numbers(section(page, "Curves").all("table")[-1])}
    assert math.isnan(course["train/loss"][-1])
    assert course["train/lr"][3] < 1 < course["train/lr"][4] == math.inf


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.jsonl", None, "metrics.jsonl is missing or holds no records"),
        ("metrics.jsonl", b"", "metrics.jsonl is missing or holds no records"),
        ("metrics.jsonl", b'{"step": 1, "tra', "1 lines of metrics.jsonl are damaged"),
        ("metrics.jsonl", b"[" * 100_000 + b"\n", "1 lines of metrics.jsonl are damaged"),
        ("env.json", None, "env.json is missing or damaged"),
        ("env.json", b"[" * 100_000, "env.json is missing or damaged"),
        ("env.json", b"{}", "env.json is missing or damaged"),
        ("result.json", None, "the process left no result"),
        ("result.json", b"\xff{", "the process left no result"),
        ("result.json", b'{"metrics": [1], "ended": 3}', "ended3"),
    ],
)  # fmt: skip
def test_missing_pieces_are_named(run: Path, name: str, content: bytes | None, words: str) -> None:
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    page = written(run)
    if name == "result.json":
        assert "Plain baselines are measured when a run uses up its budget" in page.text()
    assert words in page.text()
    assert len(section(page, "Inside the model").all("figure")) > 2


@pytest.mark.parametrize(
    ("name", "content", "faults"),
    [
        ("config.yaml", None, {"Values that differ from the defaults", "The whole configuration"}),
        ("config.yaml", b"family: [", {"Values that differ from the defaults"}),
        ("config.yaml", b"family: nonsense\ndata: {source: a}\n", {"Values that differ from the defaults"}),
        ("checkpoints/step-12/tensors.safetensors", b"\0" * 100, {"Inside the model", "Sample of the last checkpoint"}),
        ("checkpoints/step-12/state.json", b"{", {"Inside the model", "Sample of the last checkpoint"}),
        ("audit.json", b"{", {"Audit"}),
        ("audit.json", b'{"verdicts": [1]}', {"Audit"}),
        ("samples/step-12.txt", b"\xff\0\xed\xa0\x80", set()),
    ],
)
def test_damage_leaves_the_rest_standing(run: Path, name: str, content: bytes | None, faults: set[str]) -> None:
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    report = write_report(run)
    assert {f.partition(":")[0] for f in report.faults} == faults
    page = read_page(report.path.read_text(encoding="utf-8"))
    assert outside(page) == []
    assert len([p for p in page.all("p", "bad") if "This part could not be made" in p.text()]) == len(faults)
    assert len(section(page, "Curves").all("figure")) == 4
    assert numbers(section(page, "Results").all("table")[0])[-1][0] == "this model"


def test_a_run_without_checkpoint_has_a_page(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    report = write_report(run)
    assert len(report.faults) == 2
    assert all("no checkpoint yet" in fault for fault in report.faults)


def test_long_runs_stay_small_and_say_so(run: Path) -> None:
    keys = [*logged(run), *(f"val/figure_{n}" for n in range(20))]
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, 8_001):
            file.write(json.dumps({"step": step, **{k: math.sin(step / (n + 7)) for n, k in enumerate(keys)}}) + "\n")
    page = written(run)
    assert (run / REPORT).stat().st_size < 1_500_000
    assert "of 8,000 points" in figure(page, "Loss").text()


def test_what_cannot_be_written_or_found_is_an_error(run: Path, tmp_path: Path) -> None:
    (run / REPORT).unlink(missing_ok=True)
    (run / REPORT).mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        write_report(run)
    with pytest.raises(CheckpointError, match="not a run directory"):
        write_report(tmp_path / "none")
