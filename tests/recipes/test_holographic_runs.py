"""Runs that learn further texts, forget them, sleep, and are merged: each against the model that it should equal."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.core.errors import CheckpointError, ConfigError, DataError, StorageError
from holonomy.data.text import load_text
from holonomy.models.holographic.config import HolographicRunConfig
from holonomy.models.holographic.learner import OnePass
from holonomy.models.holographic.model import HolographicModel
from holonomy.recipes import configure, launch
from holonomy.recipes.holographic import learned_texts, learned_words, read_words
from holonomy.recipes.holographic_runs import extended, forget, merge, sleep_run
from holonomy.recipes.mixture import mix
from holonomy.train import checkpoint
from holonomy.train import run as run_module
from holonomy.train.checkpoint import Checkpoint, steps
from holonomy.train.monitor import SilentProgress
from holonomy.train.run import SUPERSEDING

SMALL = (
    "model.batch_size=500",
    "model.counts.classes=[20]",
    "model.similarity.dim=16",
    "model.mixture.product_steps=5",
    "model.mixture.em_steps=20",
    "model.tower.levels=3",
    "model.tower.channels=4",
    "train.cadence.save_every=2",
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, text = tmp_path_factory.mktemp("texts"), load_text("pydoc").text
    paths = []
    for number in range(4):
        paths.append(folder / f"part{number}.txt")
        paths[-1].write_text(text[number * 12_000 : (number + 1) * 12_000])
    (folder / "whole.txt").write_text(text[:48_000])
    return paths


def trained(root: Path, name: str, text: Path, *overrides: str) -> HolographicRunConfig:
    config = configure("holographic", overrides=(f"data.source={text}", *SMALL, *overrides)).config
    assert isinstance(config, HolographicRunConfig)
    launch.train(config, recipe="holographic", run=name, root=root, progress=SilentProgress())
    return config


def reader(root: Path):
    def read(run: str) -> Checkpoint:
        return launch.read_checkpoint(run, root)

    return read


def further(root: Path, run: str, text: Path):
    return launch.resume(run, root=root, progress=SilentProgress(), data=str(text))


def joint(config: HolographicRunConfig, tokenizer, texts: list[Path]) -> HolographicModel:
    """The model that learned all texts at once, as documents of their own."""
    words = [read_words(config.data.model_copy(update={"source": str(t)}), tokenizer).split.train for t in texts]
    starts = np.cumsum([0, *(len(w) for w in words[:-1])])
    model = HolographicModel(config.model, tokenizer)
    model.learn_text(np.concatenate(words), starts)
    model.fit(np.concatenate(words), starts)
    return model


def apart(one: HolographicModel, other: HolographicModel, text: Path) -> float:
    ids = torch.from_numpy(other.tokenizer.encode(text.read_text()[-3000:]))[None]
    return float((one.log_probs(ids) - other.log_probs(ids)).abs().max())


def test_a_further_text_is_learned_and_forgotten_exactly(texts: list[Path], tmp_path: Path) -> None:
    config = trained(tmp_path, "a", texts[0])
    alone = launch.load("a", root=tmp_path)
    report = further(tmp_path, "a", texts[1])
    saved, model = launch.read_checkpoint("a", tmp_path), launch.load("a", root=tmp_path)
    found = learned_texts(saved)
    assert [Path(t.source).name for t in found] == ["part0.txt", "part1.txt"]
    assert found[0].vocab_size == alone.vocab_size < found[1].vocab_size == model.vocab_size
    assert model.tokenizer.symbols[: alone.vocab_size] == alone.tokenizer.symbols
    assert report.steps == saved.state["data"]["drawn"] == saved.step
    # What it knows of the further text is worth something there.
    after = launch.evaluate("a", root=tmp_path, data=str(texts[1]), split="validation")
    trained(tmp_path, "only", texts[0])
    before = launch.evaluate("only", root=tmp_path, data=str(texts[1]), split="validation")
    assert after["val/unknown_share"] < before["val/unknown_share"]
    with pytest.raises(ConfigError, match="count it twice"):
        further(tmp_path, "a", texts[1])
    with pytest.raises(DataError, match="never learned"):
        forget("a", str(texts[2]), root=tmp_path, read=reader(tmp_path))
    metrics = forget("a", str(texts[1]), root=tmp_path, read=reader(tmp_path))
    forgotten = launch.load("a", root=tmp_path)
    assert forgotten.tokenizer.symbols == alone.tokenizer.symbols
    assert apart(forgotten, alone, texts[0]) < 1e-4
    assert metrics["val/loss"] == pytest.approx(launch.evaluate("only", root=tmp_path)["val/loss"], abs=1e-6)
    assert len(steps(launch.RunDirectory.open("a", tmp_path).checkpoints)) == 1
    stored, measured = launch.verify("a", root=tmp_path)
    assert stored == pytest.approx(measured, abs=1e-9)
    with pytest.raises(ConfigError, match="nothing but"):
        forget("a", str(texts[0]), root=tmp_path, read=reader(tmp_path))
    # And it goes on learning.
    further(tmp_path, "a", texts[2])
    saved, again = launch.read_checkpoint("a", tmp_path), launch.load("a", root=tmp_path)
    words, starts = learned_words(config, learned_texts(saved), again.tokenizer)
    plain = HolographicModel(config.model, again.tokenizer)
    plain.learn_text(words, starts)
    plain.fit(words, starts)
    assert apart(again, plain, texts[2]) < 1e-4


def test_the_first_text_can_be_forgotten(texts: list[Path], tmp_path: Path) -> None:
    vocabulary = f"data.vocabulary={texts[0].parent / 'whole.txt'}"
    config = trained(tmp_path, "b", texts[0], vocabulary)
    further(tmp_path, "b", texts[1])
    model = launch.load("b", root=tmp_path)
    assert apart(model, joint(config, model.tokenizer, texts[:2]), texts[1]) < 1e-5
    forget("b", str(texts[0]), root=tmp_path, read=reader(tmp_path))
    model = launch.load("b", root=tmp_path)
    assert apart(model, joint(config, model.tokenizer, [texts[1]]), texts[1]) < 1e-4
    assert launch.config_of_run("b", tmp_path).data.source == str(texts[1])
    stored, measured = launch.verify("b", root=tmp_path)
    assert stored == pytest.approx(measured, abs=1e-9)


def test_an_interrupted_further_text_goes_on_exactly(
    texts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "cut"):
        trained(tmp_path, name, texts[0])
    further(tmp_path, "whole", texts[1])
    honest, drawn = OnePass.next, []

    def failing(self: OnePass):
        drawn.append(1)
        if len(drawn) == 5:
            raise OSError("the power fails")
        return honest(self)

    monkeypatch.setattr(OnePass, "next", failing)
    with pytest.raises(OSError, match="power"):
        further(tmp_path, "cut", texts[1])
    monkeypatch.setattr(OnePass, "next", honest)
    with pytest.raises(ConfigError, match="finish"):
        further(tmp_path, "cut", texts[2])
    launch.resume("cut", root=tmp_path, progress=SilentProgress())
    one, other = (launch.read_checkpoint(n, tmp_path).tensors for n in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_merged_runs_are_one_pass_over_their_texts(texts: list[Path], tmp_path: Path, monkeypatch) -> None:
    vocabulary = f"data.vocabulary={texts[0].parent / 'whole.txt'}"
    for number, text in enumerate(texts):
        # What is merged into the first may have a higher tower, which is folded.
        config = trained(
            tmp_path, f"part{number}", text, vocabulary, *(["model.tower.levels=4"] if number == 2 else [])
        )
    names = [f"part{n}" for n in range(4)]

    def full(*arguments: object, **facts: object) -> None:
        raise StorageError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        with pytest.raises(StorageError, match="no space"):
            merge(names[:2], run="merged", root=tmp_path, read=reader(tmp_path))
    with pytest.raises(CheckpointError, match="not a run"):
        launch.resume("merged", root=tmp_path, progress=SilentProgress())
    merge(names, run="merged", root=tmp_path, read=reader(tmp_path))
    model = launch.load("merged", root=tmp_path)
    whole = joint(config, model.tokenizer, texts)
    assert apart(model, whole, texts[2]) < 1e-5
    assert torch.equal(model.mirror.tower.store, whole.mirror.tower.store) and config.model.tower.levels == 3
    stored, measured = launch.verify("merged", root=tmp_path)
    assert stored == pytest.approx(measured, abs=1e-9)
    forget("merged", str(texts[1]), root=tmp_path, read=reader(tmp_path))
    model = launch.load("merged", root=tmp_path)
    assert apart(model, joint(config, model.tokenizer, [texts[0], *texts[2:]]), texts[2]) < 1e-4
    trained(tmp_path, "own", texts[0])
    for runs, match in (
        (["part0"], "two or more"),
        (["part0", "part0"], "too"),
        (["part2", "part0"], "lower one"),
        (["part1", "own"], r"data\.vocabulary"),
    ):
        with pytest.raises(ConfigError, match=match):
            merge(runs, run="x", root=tmp_path, read=reader(tmp_path))
    with pytest.raises(ConfigError, match="holds a run already"):
        merge(names, run="merged", root=tmp_path, read=reader(tmp_path))
    assert not (tmp_path / "x").exists()


def test_a_run_sleeps(texts: list[Path], tmp_path: Path, holonomy) -> None:
    here = ("--root", str(tmp_path))
    trained(tmp_path, "a", texts[0].parent / "whole.txt")

    directory = launch.RunDirectory.open("a", tmp_path)
    loss, first = launch.verify("a", root=tmp_path)[0], steps(directory.checkpoints)[-1]
    tensors = "tensors.safetensors"
    size = (directory.checkpoints / f"step-{first}" / tensors).stat().st_size
    (directory.path / "audit.json").write_text("{}")
    code, out, _ = holonomy("sleep", "a", "--json", "--threads", "1", *here)
    said = json.loads(out)
    assert code == 0 and said["dropped"] == 0 and said["bytes_after"] <= 0.7 * said["bytes_before"]
    # The same model in less memory, on disk too; what was said of the old checkpoint is gone.
    assert launch.verify("a", root=tmp_path) == (loss, loss)
    assert not (directory.path / "audit.json").exists()
    assert (directory.checkpoints / f"step-{first + 1}" / tensors).stat().st_size <= 0.7 * size
    code, out, _ = holonomy("sleep", "a", "--threads", "1", *here)
    assert code == 0 and f"{said['bytes_after']:,} bytes to {said['bytes_after']:,}" in out
    assert steps(directory.checkpoints)[-1] == first + 1
    code, _, err = holonomy("forget", "a", "--data", str(texts[0]), *here)
    assert code == 3 and "never learned" in err
    # Nothing was lost, so it learns and forgets as one that never slept.
    further(tmp_path, "a", texts[1])
    forget("a", str(texts[1]), root=tmp_path, read=reader(tmp_path))
    assert launch.verify("a", root=tmp_path)[1] == pytest.approx(loss, abs=1e-6)
    code, out, _ = holonomy("sleep", "a", "--json", "--threads", "1", "--least", "2", "--bound", "0.5", *here)
    said = json.loads(out)
    assert code == 0 and said["kept"] and said["dropped"] > 0
    assert said["loss_after"] <= said["loss_before"] + np.log1p(0.5)
    stored, measured = launch.verify("a", root=tmp_path)
    assert stored == pytest.approx(measured, abs=1e-9)
    code, _, err = holonomy("train", "--resume", "a", "--data", str(texts[0].parent / "none.txt"), *here)
    assert code == 3 and "none.txt" in err
    code, out, _ = holonomy("train", "--resume", "a", "--data", str(texts[0]), "--json", "--threads", "1", *here)
    assert code == 0 and json.loads(out)["family"] == "holographic"
    code, _, err = holonomy("forget", "a", "--data", str(texts[0]), *here)
    assert code == 2 and "has slept" in err
    code, _, err = holonomy("merge", "a", "--run", "x", *here)
    assert code == 2 and "two or more" in err


def test_what_was_reported_of_the_old_model_goes(texts: list[Path], tmp_path: Path) -> None:
    trained(tmp_path, "a", texts[0])
    further(tmp_path, "a", texts[1])
    directory = launch.RunDirectory.open("a", tmp_path)
    # Baselines learn what the run has learned, whoever asks.
    told = directory.result()["metrics"]
    measured = launch.evaluate("a", root=tmp_path, with_baselines=True)
    assert measured["baseline/kn5"] == pytest.approx(told["baseline/kn5"], abs=1e-9)
    for name in ("report.html", "audit.json"):
        (directory.path / name).write_text("old")
    forget("a", str(texts[1]), root=tmp_path, read=reader(tmp_path))
    told, measured = directory.result(), launch.evaluate("a", root=tmp_path, with_baselines=True)
    assert told["metrics"]["val/loss"] == pytest.approx(measured["val/loss"], abs=1e-9)
    assert told["metrics"]["baseline/kn5"] == pytest.approx(measured["baseline/kn5"], abs=1e-9)
    assert Path(told["checkpoint"]).is_dir() and told["ended"] == "a text was forgotten"
    assert not (directory.path / "report.html").exists() and not (directory.path / "audit.json").exists()


def test_a_text_is_forgotten_even_if_the_process_dies_on_the_way(texts: list[Path], tmp_path: Path) -> None:
    vocabulary = f"data.vocabulary={texts[0].parent / 'whole.txt'}"
    trained(tmp_path, "a", texts[0], vocabulary)
    further(tmp_path, "a", texts[1])
    at = launch.RunDirectory.open("a", tmp_path).path
    (at / "audit.json").write_text("{}")

    def dying(run: str, where: object, name: str, *, after: bool) -> None:
        """A process that forgets the first text and is killed at a call, before or after it."""
        honest = getattr(where, name)

        def last(*arguments, **options):
            if after:
                honest(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        child = os.fork()
        if child == 0:
            setattr(where, name, last)
            try:
                forget(run, str(texts[0]), root=tmp_path, read=reader(tmp_path))
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    for number, point in enumerate(
        ((checkpoint, "save", False), (checkpoint, "save", True), (run_module, "prune", True))
    ):
        run = f"b{number}"
        shutil.copytree(at, tmp_path / run)
        before = launch.read_checkpoint(run, tmp_path)
        where, name, after = point
        dying(run, where, name, after=after)
        # Whoever opens the run next, even to read it, finds one that knows the text wholly or not at all.
        found = launch.read_checkpoint(run, tmp_path)
        assert not (tmp_path / run / SUPERSEDING).exists()
        if number == 0:
            assert found.step == before.step and (tmp_path / run / "audit.json").exists()
            assert launch.config_of_run(run, tmp_path).data.source == str(texts[0])
            continue
        directory = launch.RunDirectory.open(run, tmp_path)
        assert steps(directory.checkpoints) == [before.step + 1] == [found.step]
        assert [t.source for t in learned_texts(found)] == [str(texts[1])]
        assert launch.config_of_run(run, tmp_path).data.source == str(texts[1])
        assert not (directory.path / "audit.json").exists() and not directory.result()
    (at / SUPERSEDING).write_text("{")
    with pytest.raises(StorageError, match="was being forgotten"):
        launch.read_checkpoint("a", tmp_path)


def test_a_checkpoint_that_a_crash_left_is_not_taken_for_the_new_one(texts: list[Path], tmp_path: Path) -> None:
    trained(tmp_path, "a", texts[0])
    further(tmp_path, "a", texts[1])
    at = launch.RunDirectory.open("a", tmp_path).checkpoints
    before = steps(at)[-1]
    (at / f"step-{before}").rename(at / f"step-{before + 1}")
    trained(tmp_path, "b", texts[0])
    further(tmp_path, "b", texts[1])
    (launch.RunDirectory.open("b", tmp_path).checkpoints / f"step-{before}").rename(at / f"step-{before}")
    forget("a", str(texts[1]), root=tmp_path, read=reader(tmp_path))
    assert [Path(t.source).name for t in learned_texts(launch.read_checkpoint("a", tmp_path))] == ["part0.txt"]


def test_a_text_that_is_mostly_known_is_warned_of(texts: list[Path], tmp_path: Path, caplog) -> None:
    trained(tmp_path, "a", texts[0])
    saved = launch.read_checkpoint("a", tmp_path)
    copy = tmp_path / "copy.txt"
    copy.write_text(texts[0].read_text().replace("the ", "a ", 3))
    extended(saved, str(texts[1]))
    assert not caplog.records
    extended(saved, str(copy))
    assert "runs of 13 words of `--data`" in caplog.text and f"{copy} were learned before" in caplog.text


def test_runs_that_differ_are_not_merged_and_the_key_is_named(texts: list[Path], tmp_path: Path) -> None:
    known = tmp_path / "known.txt"
    known.write_text((texts[0].parent / "whole.txt").read_text())
    vocabulary = f"data.vocabulary={known}"
    trained(tmp_path, "all", texts[0], vocabulary)
    trained(tmp_path, "half", texts[1], vocabulary, "train.share=0.5")
    trained(tmp_path, "flat", texts[1], vocabulary, "model.similarity.dim=32")
    known.write_text(known.read_text()[:20_000])
    trained(tmp_path, "fewer", texts[1], vocabulary)
    sizes = [launch.load(name, root=tmp_path).vocab_size for name in ("fewer", "all")]
    for name, match in (
        ("half", r"`half` has train\.share 0\.5 where `all` has 1\.0"),
        ("flat", r"`flat` has model\.similarity\.dim 32 where `all` has 16"),
        ("fewer", rf"`fewer` .* than `all` \({sizes[0]:,} and {sizes[1]:,} entries\).*data\.vocabulary"),
    ):
        with pytest.raises(ConfigError, match=match):
            merge(["all", name], run="sum", root=tmp_path, read=reader(tmp_path))
    with pytest.raises(ConfigError, match="wanted 2 to 5"):
        sleep_run("all", root=tmp_path, read=reader(tmp_path), lowest=6)


def test_a_mixture_is_not_fitted_on_a_further_text(texts: list[Path], tmp_path: Path) -> None:
    trained(tmp_path, "a", texts[0])
    further(tmp_path, "a", texts[1])
    shutil.copytree(tmp_path / "a", tmp_path / "b")

    def mixed(run: str, data: Path | None, first: str = "a") -> dict[str, float]:
        source = None if data is None else str(data)
        return mix(
            (first, "b"), run=run, data=source, root=tmp_path, read=reader(tmp_path), progress=SilentProgress()
        ).metrics

    with pytest.raises(ConfigError, match="a member was trained on"):
        mixed("x", texts[1])
    # Words that came later were unknown when the first text was learned, and so they are unlearned.
    mixed("own", None)
    # Plain baselines know what the members know, nothing of the text that is held out.
    metrics = mixed("foreign", texts[2])
    alone = launch.evaluate("a", root=tmp_path, data=str(texts[2]), split="all", with_baselines=True)
    assert metrics["baseline/kn5"] == pytest.approx(alone["baseline/kn5"], rel=0.1)
    assert launch.evaluate("foreign", root=tmp_path, with_baselines=True)["baseline/kn5"] == metrics["baseline/kn5"]
    with pytest.raises(ConfigError, match="a member was trained on"):
        mixed("y", texts[1], "foreign")
