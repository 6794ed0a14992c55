"""Training straight from documents: exact resumes, what is held out, and what cannot be trained on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from holonomy.core.errors import ConfigError, DataError, Interrupted
from holonomy.data.splits import is_held_out
from holonomy.models.lior.text_config import DataConfig
from holonomy.recipes import configure, launch
from holonomy.train import checkpoint
from holonomy.train.loop import LEFT_OUT
from holonomy.train.monitor import SilentProgress
from holonomy.train.report import FitReport

DOCUMENTS = [f"Document {n} says that {n} and {n + 1} make {2 * n + 1}." * (1 + n % 4) for n in range(300)]
SMALL = (
    "data.stream=true", "data.shuffle=30", "data.first=6000", "data.held_out=1500", "data.seq_len=16", "data.batch=2",
    "model.d=16", "model.n_osc=16", "model.hidden=16", "model.heads=2", "model.blocks=2", "train.budget.steps=100",
    "train.cadence.log_every=5", "train.cadence.eval_every=25", "train.cadence.save_every=30",
)  # fmt: skip
PAIRS = ("data.tokenizer=bpe", "data.unk=false", "data.bpe_vocab=270")


class Stopping(SilentProgress):
    """Ends a run at a step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def update(self, step, fraction, metrics) -> None:
        if step == self.at:
            raise Interrupted(15, None)


def configured(source: Path | str, *more: str):
    return configure("lior", overrides=(f"data.source={source}", *SMALL, *more)).config


def trained(config, root: Path, run: str, progress: SilentProgress | None = None) -> FitReport:
    return launch.train(config, recipe="lior", run=run, root=root, progress=progress or SilentProgress())


@pytest.fixture(params=["txt", "jsonl.gz", "folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    lines = "".join(json.dumps({"text": t}) + "\n" for t in DOCUMENTS)
    if request.param == "txt":
        path = tmp_path / "all.txt"
        path.write_text("\n\n".join(DOCUMENTS))
    elif request.param == "jsonl.gz":
        path = tmp_path / "all.jsonl.gz"
        path.write_bytes(gzip.compress(lines.replace("\n", "\n{broken\n").encode()))
    else:
        path = tmp_path / "all"
        path.mkdir()
        (path / "a.jsonl").write_text(lines[: lines.index("\n", len(lines) // 2) + 1])
        (path / "b.jsonl").write_text(lines[lines.index("\n", len(lines) // 2) + 1 :])
    return path


@pytest.mark.parametrize("more", [(), PAIRS], ids=["char", "bpe"])
def test_fifty_and_fifty_are_a_hundred(source: Path, more: tuple[str, ...], tmp_path: Path) -> None:
    config = configured(source, *more, "data.skip_bad=true")
    whole = trained(config, tmp_path, "whole")
    assert (whole.metrics.get(LEFT_OUT, 0) >= 30) == source.name.endswith("gz")
    with pytest.raises(Interrupted):
        trained(config, tmp_path, "split", Stopping(50))
    # The next start continues after step 30, in the middle of a pool.
    split = launch.resume("split", root=tmp_path, progress=SilentProgress())
    for name in ("tensors.safetensors", "tokenizer.json"):
        assert (split.checkpoint / name).read_bytes() == (whole.checkpoint / name).read_bytes()
    places = [checkpoint.read(r.checkpoint).state["data"] for r in (split, whole)]
    assert places[0] == places[1]

    def losses(run: Path) -> list:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [(r["step"], r.get("train/loss"), r.get("val/loss"), r.get(LEFT_OUT)) for r in lines]

    assert losses(split.run) == losses(whole.run)
    assert launch.verify("whole", root=tmp_path)[0] == launch.verify("whole", root=tmp_path)[1]


def test_what_is_evaluated_is_never_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps({"body": t}) + "\n" for t in DOCUMENTS))
    work = launch._prepare(configured(path, "data.field=body", "data.train_share=0.8"))
    given = {work.sampler.documents.next() for _ in range(3 * len(DOCUMENTS))}
    assert given == {t for t in DOCUMENTS if not is_held_out(t, 1 - 0.8)}
    assert work.header["first training tokens"] < 7000
    assert 1500 <= work.header["held-out tokens"] < 2500


def test_a_longer_stream_is_refused_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "all.txt"
    path.write_text("\n\n".join(DOCUMENTS))
    with pytest.raises(Interrupted):
        trained(configured(path), tmp_path, "a", Stopping(50))
    path.write_text("\n\n".join([*DOCUMENTS, "one more"]))
    with pytest.raises(DataError, match="not the text"):
        launch.resume("a", root=tmp_path, progress=SilentProgress())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "fell to the training part"),
        ("\n\n\n", "fell to the training part"),
        ("a few words", "fell to the held-out part"),
    ],
)
def test_streams_of_nothing_are_refused_before_a_run_exists(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text(content)
    with pytest.raises(DataError, match=words):
        trained(configured(tmp_path / "short.txt"), tmp_path / "runs", "a")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.source=pydoc", "pydoc is no file"),
        ("data.workers=2", "workers"),
        ("data.carried=4", "carried"),
        ("data.unk=false", r"unk = true, or tokenizer = bpe"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configured("all.txt", setting)


@pytest.mark.parametrize(
    ("key", "value"), [("shuffle", 5), ("first", 3000), ("held_out", 700), ("field", "body"), ("stream", "false")]
)
def test_every_key_of_a_stream_changes_what_is_read(key: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps({"text": t, "body": t[::-1]}) + "\n" for t in DOCUMENTS))

    def seen(*more: str) -> tuple[object, ...]:
        work = launch._prepare(configured(path, *more))
        return *work.header.values(), *work.sampler.next().inputs.flatten().tolist()

    # Without a stream its other keys are refused.
    less = [f"data.{name}={DataConfig.model_fields[name].default}" for name in ("shuffle", "first", "held_out")]
    assert seen(f"data.{key}={value}", *(less if key == "stream" else ())) != seen()


def test_keys_of_streams_need_one() -> None:
    with pytest.raises(ConfigError, match="shuffle are of streams"):
        configure("lior", overrides=("data.shuffle=5",))


def test_a_stream_begins_from_the_tokens_and_weights_of_another_run(tmp_path: Path) -> None:
    path = tmp_path / "all.txt"
    path.write_text("\n\n".join(DOCUMENTS))
    first = trained(configured(path), tmp_path, "a")
    more = configured(path, "train.budget.steps=1", "data.first=3000")
    report = launch.train(
        more, recipe="lior", run="b", root=tmp_path, progress=SilentProgress(), init_from=str(first.run)
    )
    assert abs(report.metrics["val/loss"] - first.metrics["val/loss"]) < 0.3
    files = [checkpoint.read(r.checkpoint).files["tokenizer.json"] for r in (first, report)]
    assert files[0] == files[1]
    other = tmp_path / "other.txt"
    other.write_text("Document 7 says nothing.\n" * 20)
    assert launch.evaluate("a", root=tmp_path, data=str(other))["val/tokens"] == 20 * 25 - 1
