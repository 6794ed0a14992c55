"""What holographic runs write while they learn, and what they say of their parts: fixed, exact, and in nobody's way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.audit.claims.resuming import MEASURED
from holonomy.core.errors import ConfigError
from holonomy.infer.session import generate
from holonomy.models.holographic.config import HolographicRunConfig
from holonomy.models.holographic.figures import part_figures, store_figures
from holonomy.models.holographic.learner import OnePass
from holonomy.models.holographic.streaming import WordStream
from holonomy.recipes import configure, launch
from holonomy.recipes.holographic import read_words
from holonomy.recipes.holographic_samples import CLOSELY, SEED, asked_places, close_places, prompts_of
from holonomy.recipes.holographic_stream import read_first
from holonomy.recipes.results import without_parts
from holonomy.recipes.work import sampling_of
from holonomy.train.monitor import SilentProgress

WORDS = (
    "model.batch_size=500",
    "model.counts.classes=[]",
    "model.similarity.dim=16",
    "model.mixture.product_steps=5",
    "model.mixture.em_steps=20",
    "model.tower.levels=3",
    "model.tower.channels=4",
    "train.cadence.samples=6",
    "train.cadence.save_every=2",
    "train.cadence.eval_every=3",
    "train.positions=300",
)
STREAM = (
    *WORDS,
    "model.memory=null",
    "model.tower.role=mirror",
    "model.replay=4000",
    "data.documents.first=60",
    "data.documents.held_out=0.2",
    "data.documents.apart=0.1",
    "data.documents.shuffle=16",
)


def configured(recipe: str, text: Path, *overrides: str) -> HolographicRunConfig:
    config = configure(recipe, overrides=(f"data.source={text}", *overrides)).config
    assert isinstance(config, HolographicRunConfig)
    return config


def trained(config: HolographicRunConfig, root: Path, name: str = "a"):
    return launch.train(config, recipe="h", run=name, root=root, progress=SilentProgress())


def samples(run: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((run / "samples").iterdir())}


def logged(run: Path) -> list[dict[str, float]]:
    """Records without what tells of the process, not of the run."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(MEASURED)} for line in lines]


def test_prompts_are_spread_and_end_with_their_documents() -> None:
    words = np.arange(30)
    found = prompts_of((words, np.array([0, 12, 21])), 8)
    assert [part.tolist() for part in found] == [[*range(8)], [10, 11], [20]]
    assert [len(part) for part in prompts_of((words, np.zeros(1, np.int64)), 8)] == [8, 8, 8]
    assert [part.tolist() for part in prompts_of((words[:2], np.zeros(1, np.int64)), 8)] == [[0, 1], [0, 1], [1]]


def test_places_are_fixed_by_the_seed_and_lie_in_each_other() -> None:
    config = HolographicRunConfig()
    asked, close = asked_places(config, 9000), close_places(config, 9000)
    assert len(asked) == config.train.positions and len(close) == CLOSELY and set(close) < set(asked)
    assert (np.diff(close) > 0).all() and (close == close_places(config, 9000)).all()
    other = config.model_copy(update={"model": config.model.model_copy(update={"seed": 1})})
    assert set(close_places(other, 9000)) != set(close)
    assert close_places(config, 40).tolist() == [*range(40)]


@pytest.mark.parametrize(("recipe", "settings"), [("holographic", WORDS), ("holographic-chars", WORDS[-4:])])
def test_each_evaluation_continues_the_same_held_out_text(
    recipe: str, settings: tuple[str, ...], text: Path, tmp_path: Path
) -> None:
    config = configured(recipe, text, *settings)
    report = trained(config, tmp_path)
    evaluated = [line for line in logged(report.run) if "val/loss" in line]
    found = samples(report.run)
    assert set(found) == {f"step-{line['step']}.txt" for line in evaluated} and len(found) >= 4
    model, infer = launch.load_speaker("a", root=tmp_path)
    prompts = prompts_of(
        (read_words(config.data).split.test, np.zeros(1, np.int64)), 8 if "chars" not in recipe else 48
    )
    blocks = []
    for number, ids in enumerate(prompts):
        shown = model.tokenizer.decode(ids)
        assert all(f"[held-out text {number + 1}]\n{shown}\n[written after it]\n" in text for text in found.values())
        # One after the other, from the text of the prompt alone.
        alone = generate(model, shown, sampling=sampling_of(infer), max_tokens=6, seed=SEED + number)
        blocks.append(f"[held-out text {number + 1}]\n{shown}\n[written after it]\n{''.join(alone)}\n")
    assert found[f"step-{report.steps}.txt"] == "\n".join(blocks)
    # The last evaluation tells of the model that is saved.
    split = read_words(config.data).split
    whole, places = np.concatenate([split.train, split.test]), close_places(config, len(split.test))
    told = part_figures(model, whole, len(split.train) + places) | store_figures(model)
    same = {k: v for k, v in told.items() if not k.startswith(MEASURED)}
    assert {k: evaluated[-1][k] for k in same} == pytest.approx(same, rel=1e-6) and len(same) > 10
    assert same == pytest.approx({k: launch.evaluate("a", root=tmp_path)[k] for k in same}, rel=1e-6)
    assert report.metrics.keys() >= told.keys() and np.isfinite(list(report.metrics.values())).all()
    assert len(without_parts(report.metrics)) < 45 and "val/loss" in without_parts(report.metrics)


def test_samples_and_figures_survive_an_interruption(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = (("words", "holographic", WORDS, OnePass), ("stream", "holographic-openwebtext", STREAM, WordStream))
    for kind, recipe, settings, source in runs:
        config = configured(recipe, text, *settings)
        whole = trained(config, tmp_path, f"{kind}-whole")
        honest, drawn = source.next, []

        def failing(self, honest=honest, drawn=drawn):
            drawn.append(1)
            if len(drawn) == 6:
                raise OSError("the power fails")
            return honest(self)

        with monkeypatch.context() as patch:
            patch.setattr(source, "next", failing)
            with pytest.raises(OSError, match="power"):
                trained(config, tmp_path, f"{kind}-cut")
        again = launch.resume(f"{kind}-cut", root=tmp_path, progress=SilentProgress())
        assert samples(whole.run) == samples(again.run) and len(samples(whole.run)) >= 4
        assert logged(whole.run) == logged(again.run)
    prompts = prompts_of(read_first(config.data).test, 8)
    shown = launch.load("stream-whole", root=tmp_path).tokenizer.decode(prompts[1])
    assert f"[held-out text 2]\n{shown}\n[written" in samples(whole.run)["step-0.txt"]


def test_writing_changes_nothing_of_what_is_learned(text: Path, tmp_path: Path) -> None:
    with_them = trained(configured("holographic", text, *WORDS), tmp_path, "with")
    without = trained(configured("holographic", text, *WORDS, "train.cadence.samples=0"), tmp_path, "without")
    assert not (without.run / "samples").exists()
    one, other = (launch.read_checkpoint(name, tmp_path).tensors for name in ("with", "without"))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert logged(with_them.run) == logged(without.run)


def test_samples_out_of_range_are_refused(text: Path) -> None:
    assert HolographicRunConfig().train.cadence.samples == 32
    with pytest.raises(ConfigError, match=r"train\.cadence\.samples"):
        configured("holographic", text, "train.cadence.samples=-1")
