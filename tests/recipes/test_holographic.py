"""Holographic runs through the commands of all families: one pass, exact resume, equal evaluation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.core.config import leaves
from holonomy.core.errors import ConfigError, DataError
from holonomy.data.text import load_text
from holonomy.data.words import WordTokenizer
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session
from holonomy.models.holographic.config import HolographicRunConfig
from holonomy.models.holographic.learner import LastBatch, OnePass
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.pictures import holographic_pictures
from holonomy.recipes import configure, launch
from holonomy.recipes.holographic import read_words
from holonomy.train.catalogue import Catalogue
from holonomy.train.monitor import SilentProgress

SMALL = (
    "model.batch_size=500",
    "model.counts.classes=[]",
    "model.similarity.dim=16",
    "model.mixture.product_steps=5",
    "model.mixture.em_steps=20",
    "model.tower.levels=3",
    "model.tower.channels=4",
)


def configured(text: Path, *overrides: str) -> HolographicRunConfig:
    settings = (f"data.source={text}", *SMALL, *overrides)
    config = configure("holographic", overrides=settings).config
    assert isinstance(config, HolographicRunConfig)
    return config


def trained(config: HolographicRunConfig, root: Path, name: str = "a"):
    return launch.train(config, recipe="holographic", run=name, root=root, progress=SilentProgress())


def test_a_run_learns_evaluates_verifies_and_talks(text: Path, tmp_path: Path) -> None:
    report = trained(configured(text), tmp_path)
    assert report.metrics["val/loss"] < report.metrics["baseline/kn5"] < report.metrics["baseline/unigram"]
    found = launch.evaluate("a", root=tmp_path, with_baselines=True)
    assert abs(found["val/loss"] - report.metrics["val/loss"]) < 1e-9
    assert found["baseline/kn5"] == report.metrics["baseline/kn5"]
    (record,) = Catalogue(tmp_path).records()
    assert (record.state, record.step, record.family) == ("finished", report.steps, "holographic")
    stored, measured = launch.verify("a", root=tmp_path)
    assert stored == measured
    model, infer = launch.load_speaker("a", root=tmp_path)
    session = Session(model, Sampling(temperature=infer.temperature, selector=infer.selector), seed=1)
    first = "".join(session.reply(max_tokens=20))
    session.reset()
    assert "".join(session.reply(max_tokens=20)) == first
    assert len(set(first.split())) > 5
    session.feed("a word that nobody knows: xyzzyx")
    with pytest.raises(ConfigError, match="--mode static or online"):
        launch.evaluate("a", root=tmp_path, protocol="carried")
    with pytest.raises(ConfigError, match="learns its text once"):
        launch.train(configured(text), recipe="h", run="b", root=tmp_path, progress=SilentProgress(), init_from="a")


def test_one_pass_is_the_model_that_learns_the_text_at_once(text: Path, tmp_path: Path) -> None:
    config = configured(text)
    trained(config, tmp_path)
    split = read_words(config.data).split
    plain = HolographicModel(config.model, split.tokenizer)
    plain.learn_text(split.train)
    plain.fit(split.train)
    found = launch.load("a", root=tmp_path)
    ids = torch.from_numpy(split.test[:200])[None]
    assert torch.allclose(found.log_probs(ids), plain.log_probs(ids), atol=1e-6)
    state, parts = found.start(1), []
    for part in ids.split([1, 50, 149], 1):
        logs, state = found.advance(part, state)
        parts.append(logs)
    assert torch.allclose(torch.cat(parts, 1), found.log_probs(ids), atol=1e-5)


def test_an_interrupted_pass_goes_on_exactly(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holonomy
) -> None:
    config = configured(text, "train.cadence.save_every=2")
    whole = trained(config, tmp_path, "whole")
    assert whole.steps > 5
    honest, drawn = OnePass.next, []

    def failing(self: OnePass):
        drawn.append(1)
        if len(drawn) == 5:
            raise OSError("the power fails")
        return honest(self)

    monkeypatch.setattr(OnePass, "next", failing)
    with pytest.raises(OSError, match="power"):
        trained(config, tmp_path, "cut")
    monkeypatch.setattr(OnePass, "next", honest)
    # Before the first fit, everything that is reported says so.
    assert launch.evaluate("cut", root=tmp_path)["val/calibrated"] == 0
    assert whole.metrics["val/calibrated"] == launch.evaluate("whole", root=tmp_path)["val/calibrated"] == 1
    logged = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    fitted = [row["val/calibrated"] for row in logged if "val/loss" in row]
    assert len(fitted) > 2 and fitted == [0] * (len(fitted) - 1) + [1]
    for name, said in (("cut", True), ("whole", False)):
        code, out, err = holonomy("eval", name, "--root", str(tmp_path), "--threads", "1")
        assert code == 0 and "this model" in out and ("nothing was fitted yet" in err) == said
    again = launch.resume("cut", root=tmp_path, progress=SilentProgress())
    assert again.steps == whole.steps
    assert again.metrics["val/loss"] == whole.metrics["val/loss"]
    one, other = (launch.read_checkpoint(n, tmp_path).tensors for n in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_text_too_short_to_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("one two one two one two")
    with pytest.raises(DataError, match="the part to learn has 5 .* give a text with 20 or more in it"):
        trained(configured(tmp_path / "short.txt"), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["short.txt"]


def test_a_text_with_too_few_words_to_evaluate_on_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    words = load_text("pydoc").text.split()
    path, runs = tmp_path / "short.txt", tmp_path / "runs"
    path.write_text(" ".join(f"w{len(word)}" for word in words[:995]))
    with pytest.raises(DataError, match=r"has 99 held-out words, .* 100 or more: .*data.train_share \(0.901\)"):
        trained(configured(path, "data.train_share=0.901"), runs)
    path.write_text("".join(f"{len(word)}" for word in words)[:985])
    chars = configure("holographic-chars", overrides=[f"data.source={path}"]).config
    with pytest.raises(DataError, match="has 99 held-out characters.*data.train_share"):
        trained(chars, runs)
    assert not runs.exists()
    path.write_text(" ".join(f"w{len(word)}" for word in words[:995]))
    assert trained(configured(path), runs).metrics["val/tokens"] == 100


def test_options_that_a_pass_has_no_use_for_name_what_serves_instead(text: Path, tmp_path: Path, holonomy) -> None:
    train = ["train", "holographic", "--data", str(text), "--root", str(tmp_path), "--run", "a", "--threads", "1"]
    for option, named in (
        (["--steps", "3"], "`--steps` is not for .* learns its text once.*train.share, or train.words"),
        (["--cpu-seconds", "3", "--seconds", "9"], "`--cpu-seconds --seconds` .*train.share"),
        (["--device", "cpu"], "`--device` .*on the CPU.*train.threads"),
        (["--strict-cuda"], "`--strict-cuda` .*on the CPU.*train.threads"),
        (["--seed", str(2**40)], "model.seed"),
    ):
        code, _, err = holonomy(*train, *option)
        assert code == 2 and re.search(named, " ".join(err.split())), err
        assert not (tmp_path / "a").exists()
    small = [word for setting in SMALL for word in ("--set", setting)]
    code, _, err = holonomy(*train, *small, "--seed", "5", "--quiet")
    assert code == 0, err
    assert launch.config_of_run("a", tmp_path).model.seed == 5


def test_batches_cover_each_word_once() -> None:
    tokens = np.arange(2, 25)
    source = OnePass(tokens, batch=10, reach=3, pad_id=1)
    batches = [source.next() for _ in range(source.count)]
    seen = [t for b in batches for t in b.targets[0].tolist() if t >= 0]
    assert seen == tokens.tolist()
    assert [b.count for b in batches] == [10, 10, 3]
    assert isinstance(batches[-1], LastBatch)
    assert batches[1].inputs[0, :4].tolist() == [8, 9, 10, 11]
    with pytest.raises(DataError, match="second pass"):
        source.next()
    with pytest.raises(DataError, match="no words"):
        OnePass(tokens[:0], batch=10, reach=3, pad_id=1)


def test_words_are_found_by_the_pattern(text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("one Two three-four " * 30)
    whole = re.findall("[a-z]+", text.read_text())
    for more, known in ((), set(whole)), ((f"data.vocabulary={other}",), {"one", "wo", "three", "four"}):
        split = read_words(configured(text, "data.pattern='[a-z]+'", *more).data).split
        assert isinstance(split.tokenizer, WordTokenizer) and split.tokenizer.pattern == "[a-z]+"
        assert set(split.tokenizer.symbols[2:]) <= known and len(split.train) + len(split.test) == len(whole)
    assert known == set(split.tokenizer.symbols[2:])
    for pattern, reason in (("(", "not a regular expression"), ("(a|b)", "groups"), ("a*", "empty")):
        with pytest.raises(ConfigError, match=rf"data\.pattern.*{reason}"):
            configured(text, f"data.pattern='{pattern}'")
    with pytest.raises(ConfigError, match=r"data\.pattern.*data\.tokens is chars"):
        configure("holographic-chars", overrides=("data.pattern='[a-z]'",))


def test_every_key_is_known() -> None:
    keys = leaves(HolographicRunConfig())
    assert {"data.source", "data.min_count", "train.share", "model.tower.levels", "infer.selector"} <= set(keys)
    with pytest.raises(ConfigError, match="train.shares"):
        configure("holographic", overrides=("train.shares=0.5",))


def test_a_run_of_characters_learns_evaluates_and_talks(text: Path, tmp_path: Path) -> None:
    settings = (f"data.source={text}", "train.cadence.save_every=2")
    config = configure("holographic-chars", overrides=settings).config
    assert isinstance(config, HolographicRunConfig)
    report = trained(config, tmp_path)
    assert report.metrics["val/loss"] < report.metrics["baseline/kn5"] < report.metrics["baseline/unigram"]
    found = launch.evaluate("a", root=tmp_path)
    assert abs(found["val/loss"] - report.metrics["val/loss"]) < 1e-9
    split = read_words(config.data).split
    plain = HolographicModel(config.model, split.tokenizer)
    plain.learn_text(split.train)
    plain.fit(split.train)
    ids = torch.from_numpy(split.test[:100])[None]
    model, infer = launch.load_speaker("a", root=tmp_path)
    assert torch.allclose(model.log_probs(ids), plain.log_probs(ids), atol=1e-6)
    session = Session(model, Sampling(temperature=infer.temperature), seed=1)
    assert len("".join(session.reply(max_tokens=40))) == 40


def test_tensorboard_gets_figures_histograms_and_word_vectors(text: Path, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    report = trained(configured(text, "train.tensorboard=true"), tmp_path)
    model = launch.load("a", root=tmp_path)
    read = events.EventAccumulator(str(report.run / "tensorboard")).Reload()
    assert set(read.Tags()["images"]) == {p.title for p in holographic_pictures(model)}
    assert {"unigram", "vectors"} <= set(read.Tags()["histograms"])
    assert {"train/loss", "val/loss"} <= set(read.Tags()["scalars"])
    (metadata,) = (report.run / "tensorboard").rglob("metadata.tsv")
    assert len(metadata.read_text().splitlines()) == len(model.tokenizer.symbols)
