"""Mixtures of runs as runs: made, evaluated, verified, listed and talked to like any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.data.text import load_text
from holonomy.data.words import WordTokenizer
from holonomy.infer.mixing import MixedModel, read_through
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.model import HolographicModel
from holonomy.recipes import configure, launch, mixture
from holonomy.train.catalogue import Catalogue
from holonomy.train.checkpoint import Checkpoint
from holonomy.train.monitor import SilentProgress

LIOR = ["model.d=16", "model.n_osc=16", "model.hidden=16", "model.heads=2", "data.seq_len=32", "data.batch=4"]
FEW = [f"model.mixture.{key}" for key in ("positions=2000", "pool_steps=2", "em_steps=5", "rehearsal=0")]
PLAIN = ["model.counts.order=4", "model.counts.spelled=[]", "model.counts.skips=[]", *FEW]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of both families and a mixture of theirs."""
    path = tmp_path_factory.mktemp("mixing")
    text = load_text("pydoc").text[:24_000].lower()
    text = "".join(c for c in text if c in "etaoinshrdlucmfwypvbg .\n")
    for name, part in (("text", text[:14_000]), ("other", "#" + text[14_000:])):
        (path / f"{name}.txt").write_text(part)
    for recipe, name, text, settings in (
        ("lior", "network", "text", [*LIOR, "data.unk=false", "train.budget={steps: 60}"]),
        ("holographic-chars", "memory", "text", ["data.unk=false", *FEW]),
        ("holographic-chars", "plain", "text", ["data.unk=false", *PLAIN]),
        ("holographic-chars", "foreign", "other", ["data.unk=false", *PLAIN]),
        ("ternary-smoke", "ops", None, ["train.budget={steps: 2}"]),
    ):
        source = [] if text is None else [f"data.source={path / f'{text}.txt'}"]
        config = configure(recipe, overrides=(*source, *settings)).config
        launch.train(config, recipe=recipe, run=name, root=path, progress=SilentProgress())
    mixed(path, "both")
    return path


def mixed(root: Path, name: str, runs: tuple[str, str] = ("network", "memory"), data: str | None = None):
    def read(run: str) -> Checkpoint:
        return launch.read_checkpoint(run, root)

    return mixture.mix(runs, run=name, root=root, read=read, progress=SilentProgress(), data=data)


def test_a_mixture_is_a_run_like_any_other(root: Path) -> None:
    parts = [
        launch.evaluate(name, root=root, protocol=p)["val/loss"]
        for name, p in (("network", "carried"), ("memory", None))
    ]
    found = launch.evaluate("both", root=root, with_baselines=True)
    assert found["val/loss"] < min(parts) + 0.02
    assert found["baseline/kn7"] == launch.evaluate("memory", root=root, with_baselines=True)["baseline/kn7"]
    assert found["val/bits_per_char"] == pytest.approx(found["val/loss"] / np.log(2))
    stored, measured = launch.verify("both", root=root)
    assert stored == pytest.approx(measured, abs=1e-6)
    record = next(r for r in Catalogue(root).records() if r.name == "both")
    assert (record.state, record.family, record.loss) == ("finished", "mixture", stored)
    assert launch.RunDirectory.open("both", root).result()["metrics"]["val/loss"] == stored
    shown = launch.describe_run(launch.RunDirectory.open("both", root))
    assert list(shown["changed"]["members"]) == ["network", "memory"]
    model, infer = launch.load_speaker("both", root=root)
    session = Session(model, Sampling(temperature=infer.temperature), seed=1)
    session.feed("the with")
    first = "".join(session.reply(max_tokens=20))
    session.reset()
    session.feed("the with")
    assert "".join(session.reply(max_tokens=20)) == first
    with pytest.raises(ConfigError, match="not trained"):
        launch.resume("both", root=root, progress=SilentProgress())
    with pytest.raises(ConfigError, match="one stream"):
        launch.evaluate("both", root=root, protocol="windows")


@pytest.mark.parametrize("runs", [("network", "memory"), ("memory", "plain"), ("network", "both")])
def test_learning_while_reading_is_asking_and_learning_apart(
    root: Path, runs: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [launch.load_speaker(name, root=root)[0] for name in runs]
    model, tokens = MixedModel(members), members[0].tokenizer.encode((root / "other.txt").read_text()[1:600])
    tokens = np.asarray(tokens, dtype=np.int64)
    contexts = of_text(tokens, np.zeros(1, dtype=np.int64))

    def change(begin: int, end: int, sign: int = 1) -> None:
        for member in mixture.memories_of(model):
            part = slice(90 + begin, 90 + end)
            member.change(contexts.part(part), tokens[part], sign=sign)

    wanted = read_through(model, tokens[:90], tokens[90:], block=64, learn=change)
    change(0, len(tokens) - 90, -1)
    follows = mixture.predicted(model, mixture.Passage(tokens[:90], tokens[90:]), online=True, block=64)
    monkeypatch.setattr(mixture, "following_of", lambda *_: None)
    found = mixture.predicted(model, mixture.Passage(tokens[:90], tokens[90:]), online=True, block=64)
    assert np.array_equal(found.losses, wanted.losses) and np.array_equal(found.ranks, wanted.ranks)
    assert np.allclose(follows.losses[:64], found.losses[:64], atol=1e-5), "a block is predicted before it is followed"
    assert np.abs(follows.losses[64:] - found.losses[64:]).max() > 1e-3
    again = mixture.predicted(model, mixture.Passage(tokens[:90], tokens[90:]), online=False, block=64)
    assert np.abs(again.losses - found.losses).max() > 0.1, "what was learned is known, and forgotten in the end"


def test_learning_while_reading_pays_and_is_forgotten(root: Path) -> None:
    for name in ("both", "memory"):
        static = launch.evaluate(name, root=root)
        online = launch.evaluate(name, root=root, mode="online", with_baselines=True)
        assert not set(static) & set(online)
        assert online["val/loss_online"] < static["val/loss"]
        assert online["val/loss_online"] < online["baseline/kn7_online"]
    for name in ("network", "ops"):
        with pytest.raises(ConfigError, match="--mode"):
            launch.evaluate(name, root=root, mode="online")
    with pytest.raises(ConfigError, match="static, online"):
        launch.evaluate("memory", root=root, mode="onlin")


def test_members_that_count_fit_a_gate_on_what_they_unlearn(root: Path) -> None:
    report = mixed(root, "counts", ("memory", "plain"))
    parts = [launch.evaluate(name, root=root)["val/loss"] for name in ("memory", "plain")]
    assert report.metrics["val/loss"] < min(parts) + 0.005
    model = launch.load("counts", root=root)
    assert np.abs(model.gate.weights[0]).max() > 0.1
    words = HolographicModel(HolographicConfig.model_validate({"tower": {"role": "off"}}), WordTokenizer(["a"]))
    assert mixture.forgets(model) and not mixture.forgets(words), "vectors of words would still know what is unlearned"
    # What was unlearned for the fit is learned in the members that are saved.
    (memory,) = (m for m in [launch.load("memory", root=root)] if isinstance(m, HolographicModel))
    assert model.members[0].memories.counts.num_grams == memory.memories.counts.num_grams


def test_runs_that_do_not_go_together_are_refused(root: Path) -> None:
    other = str(root / "other.txt")
    with pytest.raises(ConfigError, match="different vocabularies"):
        mixed(root, "x", ("memory", "foreign"))
    with pytest.raises(ConfigError, match="no language model"):
        mixed(root, "x", ("memory", "ops"))
    with pytest.raises(ConfigError, match="are one run"):
        mixed(root, "x", ("memory", str(root / "memory")))
    with pytest.raises(ConfigError, match="holds a run already"):
        mixed(root, "both")
    with pytest.raises(CheckpointError, match="memori"):
        mixed(root, "x", ("network", "memori"))
    with pytest.raises(ConfigError, match="a member was trained on"):
        mixed(root, "x", data=str(root / "text.txt"))
    assert not (root / "x").exists()
    part = Path(other).read_text()
    known = set((root / "text.txt").read_text())
    Path(root / "near.txt").write_text("".join(c for c in part if c in known))
    report = mixed(root, "elsewhere", data=str(root / "near.txt"))
    assert report.metrics["val/tokens"] == pytest.approx(len((root / "near.txt").read_text()) / 2, abs=1)
    stored, measured = launch.verify("elsewhere", root=root)
    assert stored == pytest.approx(measured, abs=1e-6)


def test_the_command(root: Path, holonomy) -> None:

    words = ["mix", "network", "memory", "--run", "again", "--root", str(root), "--threads", "1"]
    code, out, _ = holonomy(*words, "--json")
    assert code == 0 and json.loads(out)["family"] == "mixture"
    product = json.loads(out)["metrics"]["val/loss"]
    code, out, _ = holonomy(*words[:4], "sum", *words[5:], "--pool", "linear", "--json")
    assert code == 0 and json.loads(out)["metrics"]["val/loss"] != product
    assert launch.load("again", root=root).pool == "geometric" and launch.load("sum", root=root).pool == "linear"
    code, _, err = holonomy(*words)
    assert code == 2 and "choose another name" in err
    code, _, err = holonomy("mix", "network", "nothing", "--run", "y", "--root", str(root))
    assert code == 4 and "is not a run directory" in err
    code, out, _ = holonomy("eval", "again", "--mode", "online", "--root", str(root), "--baselines")
    assert code == 0 and "this model, learning" in out and "Kneser-Ney, order 7, learning" in out
    code, out, _ = holonomy("mix", "--help")
    assert code == 0 and "Example: holonomy mix" in out
