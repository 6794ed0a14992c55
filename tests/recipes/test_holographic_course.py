"""What a holographic run tells of its course: sleeps when its text changes, the witness of its store, similarity."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.core.errors import ConfigError
from holonomy.data.text import data_directory, load_text
from holonomy.data.words import split_words
from holonomy.models.holographic.config import HolographicConfig, HolographicRunConfig
from holonomy.models.holographic.learner import OnePass
from holonomy.models.holographic.metrics import similarity_lift
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.tower import Tower
from holonomy.recipes import configure, launch
from holonomy.train.monitor import SilentProgress

SMALL = (
    "model.batch_size=250",
    "model.counts.classes=[]",
    "model.counts.skips=[]",
    "model.recency.traces=[[1, 50, 20.0]]",
    "model.similarity.dim=16",
    "model.mixture.product_steps=5",
    "model.mixture.em_steps=20",
    "model.mixture.positions=500",
    "model.mixture.product_positions=50",
    "model.mixture.blocks=1",
    "model.tower.levels=3",
    "model.tower.channels=4",
    "train.positions=300",
    "train.cadence.eval_every=1",
    "train.cadence.save_every=2",
)


class Notices(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, text: str) -> None:
        self.said.append(text)


def spoken(count: int, language: int, seed: int) -> str:
    """Words after each of which one of two comes more often than the others; which ones, the language says."""
    random, rules = np.random.default_rng(seed), np.random.default_rng(language)
    first, second = rules.permutation(150), rules.permutation(150)
    chosen, other, ids = random.random(count), np.minimum(random.zipf(1.3, count) - 1, 149), [0]
    for k in range(count - 1):
        likely = first[ids[-1]] if chosen[k] < 0.5 else second[ids[-1]] if chosen[k] < 0.7 else other[k]
        ids.append(int(likely))
    return " ".join(f"w{n}" for n in ids)


def trained(tmp_path: Path, name: str, languages: tuple[int, int], *settings: str):
    path, notices = tmp_path / f"{name}.txt", Notices()
    path.write_text(" ".join(spoken(5000, language, seed) for seed, language in enumerate(languages)))
    config = configure("holographic", overrides=(f"data.source={path}", *SMALL, *settings)).config
    assert isinstance(config, HolographicRunConfig)
    report = launch.train(config, recipe="h", run=name, root=tmp_path / "runs", progress=notices)
    return report, notices.said


def logged(tmp_path: Path, name: str) -> list[dict[str, float]]:
    lines = (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()
    gone = ("perf/", "train/cpu_s", "memory/bytes", "memory/probes")
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(gone)} for line in lines]


def test_a_run_sleeps_when_its_text_changes_and_only_then(tmp_path: Path) -> None:
    for seed in (1, 3):
        report, said = trained(tmp_path, f"same{seed}", (seed, seed), "train.sleep.drift=true")
        assert not [s for s in said if "asleep" in s]
        assert report.metrics["memory/sleeps"] == report.metrics["memory/sleeps_undone"] == 0
        report, said = trained(tmp_path, f"other{seed}", (seed, seed + 1), "train.sleep.drift=true")
        asleep = [s for s in said if "asleep" in s]
        assert len(asleep) == 1 == report.metrics["memory/sleeps"] + report.metrics["memory/sleeps_undone"]
        # The other language begins after 5,000 words; the batch that shows it ends within 500.
        after = int(asleep[0].split("after ")[1].split(" words")[0].replace(",", ""))
        assert 5000 <= after <= 5500 and "left its course" in asleep[0]


def test_an_interrupted_run_sleeps_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("train.sleep.drift=true", "train.sleep.every=3000", "train.sleep.bound=5.0")
    whole, said = trained(tmp_path, "whole", (1, 2), *settings)
    assert len([s for s in said if "asleep" in s]) == whole.metrics["memory/sleeps"] >= 3
    honest, drawn = OnePass.next, []

    def failing(self: OnePass):
        drawn.append(1)
        if len(drawn) == stop:
            raise OSError("the power fails")
        return honest(self)

    # Before, between and after sleeps; the first batch is drawn twice.
    for stop in (9, 16, 24):
        drawn.clear()
        monkeypatch.setattr(OnePass, "next", failing)
        with pytest.raises(OSError, match="power"):
            trained(tmp_path, f"cut{stop}", (1, 2), *settings)
        monkeypatch.setattr(OnePass, "next", honest)
        launch.resume(f"cut{stop}", root=tmp_path / "runs", progress=SilentProgress())
        one, other = (launch.read_checkpoint(n, tmp_path / "runs") for n in ("whole", f"cut{stop}"))
        assert one.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(one.tensors[k], other.tensors[k]) for k in one.tensors)
        assert one.state["callbacks"] == other.state["callbacks"]
        assert logged(tmp_path, "whole") == logged(tmp_path, f"cut{stop}")


def test_a_run_with_neighbours_sleeps_resumes_and_ends_as_without_sleeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = ("model.basins.enabled=true", "model.basins.bits=6", "train.cadence.eval_every=4")
    often = (*near, "train.sleep.every=3000", "train.sleep.bound=5.0")
    awake, _ = trained(tmp_path, "awake", (1, 1), *near)
    whole, said = trained(tmp_path, "whole", (1, 1), *often)
    assert len([s for s in said if "asleep" in s]) == whole.metrics["memory/sleeps"] == 2
    # The end of the pass makes everything anew; before it, a sleep has made the vectors that neighbours need.
    assert whole.metrics["val/loss"] == pytest.approx(awake.metrics["val/loss"], abs=1e-6)
    shares = [[line.get("val/loss") for line in logged(tmp_path, name)] for name in ("awake", "whole")]
    assert shares[0] != shares[1]
    honest, drawn = OnePass.next, []

    def failing(self: OnePass):
        drawn.append(1)
        if len(drawn) == 20:
            raise OSError("the power fails")
        return honest(self)

    monkeypatch.setattr(OnePass, "next", failing)
    with pytest.raises(OSError, match="power"):
        trained(tmp_path, "cut", (1, 1), *often)
    monkeypatch.setattr(OnePass, "next", honest)
    launch.resume("cut", root=tmp_path / "runs", progress=SilentProgress())
    one, other = (launch.read_checkpoint(n, tmp_path / "runs") for n in ("whole", "cut"))
    assert {"basins/contexts", "basins/first", "basins/followed"} <= one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[k], other.tensors[k]) for k in one.tensors)
    assert logged(tmp_path, "whole") == logged(tmp_path, "cut")


def test_what_a_run_cannot_do_is_refused(tmp_path: Path) -> None:
    for wrong, words in (
        (("train.positions=99",), "train.positions"),
        (("train.sleep.every=9", "train.sleep.least=2", "train.sleep.lowest=6"), "train.sleep.lowest = 6 is above"),
        (("data.stream=true", "train.sleep.every=9"), "a stream does not keep"),
    ):
        with pytest.raises(ConfigError, match=words):
            configure("holographic", overrides=wrong)
    with pytest.raises(ConfigError, match=r"train\.cadence\.eval_every"):
        trained(
            tmp_path,
            "few",
            (1, 1),
            "train.sleep.drift=true",
            "train.cadence.eval_every=10",
            "train.cadence.eval_least=0",
        )


def test_the_witness_of_a_run_moves_less_and_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, plain = list[int](), Tower.mean_witness
    monkeypatch.setattr(Tower, "mean_witness", lambda self: made.append(1) or plain(self))
    trained(tmp_path, "a", (1, 1), "model.tower.promote_at=null")
    assert len(made) == sum("val/loss" in line for line in logged(tmp_path, "a")), "once an evaluation"
    found = [line["memory/witness_churn"] for line in logged(tmp_path, "a") if "memory/witness_churn" in line]
    assert len(found) > 30 and np.mean(found[-10:]) < np.mean(found[:10]) / 4


def lift(words: int, source: str) -> tuple[float, float]:
    """Lift on held-out words, and the same with the words in random order."""
    split = split_words(" ".join(load_text(source).text.split()[:words]))
    config = HolographicConfig.model_validate({"tower": {"role": "off"}, "counts": {"classes": [], "skips": []}})
    model = HolographicModel(config, split.tokenizer)
    model.learn_text(split.train)
    assert similarity_lift(model, split.train, np.arange(5)) is None
    model.consolidate(split.train)
    whole, places = np.concatenate([split.train, split.test]), len(split.train) + np.arange(len(split.test))
    mixed = np.random.default_rng(1).permutation(split.test)
    found = similarity_lift(model, whole, places), similarity_lift(model, whole, places, targets=mixed)
    assert found[0] is not None and found[1] is not None
    # Word by word, with every vector made anew.
    readout, total = model.memories.readout, 0.0
    assert readout is not None
    order = np.random.default_rng(0).permutation(len(places))
    for row, place in enumerate(places.tolist()):
        near = torch.from_numpy(whole[None, place - 6 : place])
        expected = (readout.features(near, torch.tensor([6])) @ readout.towards)[0].double()
        own, other = (readout.features.vectors[w].double() for w in (whole[place], split.test[order[row]]))
        total += float(expected @ (own - other) / expected.norm())
    assert found[0] == pytest.approx(total / len(places), abs=1e-4)
    return found


def test_contexts_expect_what_is_like_the_word_that_comes() -> None:
    own, mixed = lift(20_000, "pydoc")
    assert own > 0.1 and abs(mixed) < 0.02


@pytest.mark.slow
@pytest.mark.skipif(not (data_directory() / "tinyshakespeare.txt").is_file(), reason="needs tinyshakespeare")
def test_similarity_lift_on_the_reference_text() -> None:
    own, mixed = lift(10**6, "tinyshakespeare")
    assert own > 0.1 and abs(mixed) < 0.01
