"""A small ternary run from recipe to figures: training, exact resume, evaluation, verification, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from holonomy.audit.claims.checkpoints import _sealed
from holonomy.core.config import leaves, read_yaml, to_json
from holonomy.core.errors import CheckpointError, ConfigError, DataError, Interrupted
from holonomy.models.ternary.config import TernaryConfig
from holonomy.models.ternary.metrics import coverage
from holonomy.models.ternary.pictures import ternary_pictures
from holonomy.recipes import RECIPES, configure, launch
from holonomy.recipes.families import FAMILIES
from holonomy.recipes.ternary import COMPARED
from holonomy.train.catalogue import Catalogue
from holonomy.train.monitor import SilentProgress
from holonomy.train.report import FitReport

TINY = [
    "data.digits=5", "data.batch=81", "data.extra_from_level=3", "model.latent_dim=6", "model.hidden=[32]",
    "train.cadence.eval_every=20", "train.cadence.save_every=10", "train.cadence.log_every=5", "train.budget.steps=40",
]  # fmt: skip


def configured(*more: str, recipe: str = "ternary") -> TernaryConfig:
    return configure(recipe, overrides=[*TINY, *more]).config


def trained(config: TernaryConfig, root: Path, run: str = "a", init_from: str | None = None) -> FitReport:
    return launch.train(config, recipe="ternary", run=run, root=root, progress=SilentProgress(), init_from=init_from)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FitReport:
    return trained(configured("data.holdout=0.2"), tmp_path_factory.mktemp("runs"))


def test_recipes_resolve() -> None:
    names = [r.name for r in RECIPES if r.family == "ternary"]
    assert set(names) >= {"ternary", "ternary-smoke", "ternary-dual", "ternary-fast", "ternary-heldout"}
    for name in names:
        config = configure(name).config
        assert isinstance(config, TernaryConfig)
        assert config == FAMILIES.get("ternary").config.model_validate(to_json(config))


def test_training_reports_all_figures_beside_the_baselines(finished: FitReport) -> None:
    metrics = finished.metrics
    assert finished.family == "ternary"
    assert finished.steps == 40
    for name in COMPARED:
        if name != "triplet_concordance_deep":
            assert f"val/{name}" in metrics, name
            assert f"baseline/{name}" in metrics, name
            assert f"untrained/{name}" in metrics, name
    assert metrics["baseline/coverage"] == 1
    assert metrics["untrained/coverage"] < 0.1
    assert 0 <= metrics["val/coverage_heldout"] <= 1
    assert metrics["val/triplet_concordance_low"] <= metrics["val/triplet_concordance"]
    assert metrics["val/triplet_concordance"] <= metrics["val/triplet_concordance_high"]
    assert metrics["val/triplet_concordance"] > metrics["untrained/triplet_concordance"]
    assert read_yaml(finished.run / "config.yaml")[0] == to_json(configured("data.holdout=0.2"))
    records = [json.loads(line) for line in (finished.run / "metrics.jsonl").read_text().splitlines()]
    assert any("train/padic_triplet/loss" in r for r in records)


def test_evaluation_and_verification_repeat_what_training_said(finished: FitReport) -> None:
    root, name = finished.run.parent, finished.run.name
    metrics = launch.evaluate(name, root=root, with_baselines=True)
    assert metrics == {k: v for k, v in finished.metrics.items() if k in metrics}
    stored, measured = launch.verify(name, root=root)
    assert stored == measured
    with pytest.raises(ConfigError, match="`--data`, `--split` and `--mode` are about texts"):
        launch.evaluate(name, root=root, data="pydoc")
    missed = launch.missed_targets(name, metrics, root=root)
    assert [m.split()[0] for m in missed] == ["coverage", "hierarchy", "triplet_concordance"]
    good = {"val/coverage": 1.0, "val/hierarchy": -0.83, "val/triplet_concordance": 1.0}
    assert len(launch.missed_targets(name, good, root=root)) == 1


def test_late_generalisation_and_ensembles_are_read_from_runs(finished: FitReport, tmp_path: Path) -> None:
    root, name = finished.run.parent, finished.run.name
    assert launch.evaluate(name, root=root, protocol="grokking")["val/grokking"] == 0
    log = tmp_path / name / "metrics.jsonl"
    shutil.copytree(finished.run, tmp_path / name)
    # A log in which the 49 withheld of the 243 operations are known long after the others.
    unseen = [0.1] * 12 + [0.6] + [1.0] * 12
    rows = [{"step": n, "val/coverage": (194 + 49 * u) / 243, "val/coverage_heldout": u} for n, u in enumerate(unseen)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    late = launch.evaluate(name, root=tmp_path, protocol="grokking")
    assert late["val/grokking"] == 1
    assert late["val/grokking_delay"] == pytest.approx(12, abs=1)
    together = launch.evaluate_together([name, name], root=root)
    assert together["val/ensemble_coverage"] == finished.metrics["val/coverage_heldout"]
    whole = trained(configured("train.budget.steps=1"), tmp_path, "whole")
    with pytest.raises(ConfigError, match="trained on every operation"):
        launch.evaluate_together([str(finished.run), str(whole.run)], root=tmp_path)
    with pytest.raises(ConfigError, match="at least 2"):
        launch.evaluate_together([name], root=root)


def test_batches_of_another_version_are_refused(finished: FitReport) -> None:
    saved = launch.read_checkpoint(str(finished.run), finished.run.parent)
    parts = FAMILIES.get("ternary").parts
    parts.check_data(saved)
    saved.state["oversampling"][4] += 1
    with pytest.raises(DataError, match="sampled its levels"):
        parts.check_data(saved)


def test_withheld_operations_never_enter_a_batch(monkeypatch) -> None:
    config = configured("data.holdout=0.5", "train.budget.steps=1")
    work = launch._prepare(config)
    withheld = set(range(243)) - set(work.sampler.train.tolist())
    assert len(withheld) == 122
    for _ in range(50):
        assert not withheld & set(work.sampler.next().index.tolist())


class Stopping(SilentProgress):
    """Behaves like Ctrl-C at one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, step: int, fraction: float, metrics) -> None:
        if step == self.step:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("stop_at", [5, 25])
def test_a_resumed_run_equals_the_uninterrupted_one(finished: FitReport, tmp_path: Path, stop_at: int) -> None:
    config = configured("data.holdout=0.2")
    with pytest.raises(Interrupted):
        launch.train(config, recipe="x", run="b", root=tmp_path, progress=Stopping(stop_at))
    report = launch.resume("b", root=tmp_path, progress=SilentProgress())
    whole, again = (launch.read_checkpoint(str(r.run), r.run.parent) for r in (finished, report))
    assert whole.tensors.keys() == again.tensors.keys()
    assert all(torch.equal(whole.tensors[k], again.tensors[k]) for k in whole.tensors)
    for key, value in finished.metrics.items():
        if not key.startswith(("perf/", "train/cpu")):
            assert report.metrics[key] == value, key


def test_init_from_starts_at_the_weights_of_the_same_family(finished: FitReport, tmp_path: Path) -> None:
    report = trained(configured("train.budget.steps=1", "train.optim.lr=1.0e-9"), tmp_path, init_from=str(finished.run))
    old, new = launch.load(finished.run), launch.load(report.run)
    for a, b in zip(old.parameters(), new.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    with pytest.raises(CheckpointError):
        trained(configured("model.latent_dim=5"), tmp_path, "c", init_from=str(finished.run))
    assert not (tmp_path / "c").exists()


def test_frozen_parts_stay_bit_for_bit_and_the_rest_learns(tmp_path: Path) -> None:
    source = trained(configured("model.encoder_dropout=0.2", "model.decoder_dropout=0.2"), tmp_path, "source")
    dual = [
        "model.sharing=separate", "model.encoder_dropout=0.2", "model.decoder_dropout=0.2",
        f"frozen.encoder_A={json.dumps(str(source.run))}", f"frozen.decoder={json.dumps(str(source.run))}",
    ]  # fmt: skip
    config = configured(*dual)
    work = launch._prepare(config)
    work.learner.module.train()
    assert not work.learner.vae.encoder["A"].training
    assert work.learner.vae.encoder["B"].training
    with pytest.raises(Interrupted):
        launch.train(config, recipe="x", run="dual", root=tmp_path, progress=Stopping(25))
    # Continuing wants nothing of the source any more.
    source.run.rename(tmp_path / "elsewhere")
    report = launch.resume("dual", root=tmp_path, progress=SilentProgress())
    old, new = launch.load("elsewhere", root=tmp_path), launch.load("dual", root=tmp_path)
    held = [n for n, _ in old.named_parameters() if n.startswith(("encoder.A.", "projection.A.", "decoder."))]
    mine, theirs = dict(new.named_parameters()), dict(old.named_parameters())
    assert len(held) > 10
    assert all(torch.equal(mine[n], theirs[n]) for n in held)
    assert report.metrics["val/coverage"] == source.metrics["val/coverage"]
    fresh = dict(work.learner.vae.named_parameters())
    assert any(not torch.equal(p, fresh[n]) for n, p in mine.items() if n.startswith("encoder.B."))
    with pytest.raises(CheckpointError, match="not a run directory"):
        launch._prepare(config)
    moved = json.dumps(str(tmp_path / "elsewhere"))
    with pytest.raises(CheckpointError, match=r"model.latent_dim 6, this model has 5"):
        launch._prepare(configured("model.latent_dim=5", f"frozen.decoder={moved}"))
    with pytest.raises(CheckpointError):
        launch._prepare(configured("model.hidden=[16]", f"frozen.encoder_A={moved}"))
    with pytest.raises(CheckpointError, match=r"model.projection.init free, this model has identity"):
        launch._prepare(configured("model.projection.init=identity", f"frozen.encoder_A={moved}"))
    b = launch._prepare(configured("model.sharing=separate", *dual[1:3], f"frozen.encoder_B={moved}"))
    assert torch.equal(b.learner.vae.encoder["B"].head.weight.cpu(), theirs["encoder.A.head.weight"].cpu())


def test_language_commands_refuse_a_run_that_does_not_speak(finished: FitReport) -> None:
    with pytest.raises(ConfigError, match="writes no text"):
        launch.load_speaker(finished.run)


def test_tensorboard_gets_the_points(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    report = trained(configured("train.tensorboard=true", "train.budget.steps=5"), tmp_path)
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = events.EventAccumulator(str(report.run / "tensorboard")).Reload()
    assert set(read.Tags()["images"]) == {p.title for p in ternary_pictures(launch.load("a", root=tmp_path))}
    assert read.Tags()["histograms"]
    (metadata,) = (report.run / "tensorboard").rglob("metadata.tsv")
    lines = metadata.read_text().splitlines()
    assert len(lines) == 243
    assert lines[9].startswith("9 v2 r")


def test_catalogue_knows_the_run(finished: FitReport) -> None:
    (record,) = Catalogue(finished.run.parent).records()
    assert (record.family, record.data, record.state, record.step) == ("ternary", "operations", "finished", 40)
    assert record.flags == "degenerate" and finished.metrics["val/coverage"] < 0.5


@pytest.mark.parametrize(
    ("planted", "flags"),
    [({"flag/degenerate": 0.0}, ""), ({"flag/inverted": 1.0}, "degenerate, inverted")],
    ids=["sound", "inverted"],
)
def test_catalogue_shows_planted_faults(
    finished: FitReport, tmp_path: Path, planted: dict[str, float], flags: str
) -> None:
    shutil.copytree(finished.run, tmp_path / "run")
    (newest,) = (tmp_path / "run" / "checkpoints").glob("step-40")
    body = json.loads((newest / "state.json").read_bytes())["body"]
    body["state"]["counters"]["metrics"] |= planted
    (newest / "state.json").write_bytes(_sealed(body))
    (record,) = Catalogue(tmp_path).records()
    assert record.flags == flags


CHANGES: dict[str, tuple[str, ...] | str] = {
    "model.latent_dim": "5", "model.geometry": "euclidean", "model.encoder": "relu", "model.hidden": "[16]",
    "model.input": "centred", "model.encoder_dropout": "0.3", "model.decoder": "relu", "model.decoder_hidden": "32",
    "data.siblings": "2",
    "model.decoder_scales": "2", "model.decoder_copies": "direction", "model.decoder_norm": "true",
    "model.decoder_dropout": "0.3", "model.sharing": "separate", "model.posterior": ("point", "loss.kl.weight=0"),
    "model.decode_from": ("concat", "model.sharing=separate"), "model.logvar_init": "-3", "model.logvar_min": "-8.01",
    "model.logvar_max": ("-7.99", "model.logvar_init=-8"), "model.projection.hidden": "16",
    "model.projection.max_radius": "3.0", "model.projection.init": "identity",
    "model.projection.learnable": ("false", "model.projection.init=identity"), "model.curvature.value": "2.0",
    "model.curvature.learnable": "true", "model.curvature.lr_scale": ("1.0", "model.curvature.learnable=true"),
    "phases.geometry_start": ("0.9", "loss.radial_bands.structure=2"),
    "data.base": ("2", "data.digits=5"), "data.digits": "6", "data.batch": "40", "data.extra_per_level": "2",
    "data.extra_from_level": "4", "data.high_budget": "0.5", "data.holdout": "0.5",
    "data.holdout_seed": ("3", "data.holdout=0.5"), "data.always_train": ("[0, 1, 2, 3]", "data.holdout=0.9"),
    "train.optim.lr": "0.01", "train.optim.betas": "[0.8, 0.9]", "train.optim.eps": "0.1", "train.optim.decay": "0.9",
    "train.optim.clip": "0.01", "train.optim.encoder_scale": "0.5", "train.schedule.warmup": "0.5",
    "train.schedule.floor": "0.9", "train.schedule.kind": "linear", "train.seed": "9",
}  # fmt: skip
ELSEWHERE = {
    "family", "data.source", "loss.external", "train.threads", "train.device", "train.strict_cuda",
    "train.tensorboard", "train.compile", "train.schedule.cycles", "train.schedule.table",
    *(f"train.budget.{k}" for k in ("steps", "tokens", "cpu_s", "seconds")),
    *(f"targets.{k}" for k in ("coverage", "hierarchy", "triplet_concordance")),
    *(k for k in leaves(TernaryConfig()) if k.startswith(("train.cadence.", "train.guard."))),
}  # fmt: skip
"""Keys that the tests of the loop, of the schedules, of the losses and of `missed_targets` hold."""


def trace(*more: str) -> list[torch.Tensor]:
    work = launch._prepare(configured(*more))
    for progress in (0.1, 0.4, 0.95):
        work.learner.train_step(work.sampler.next(), progress=progress)
    return [p.detach() for p in work.learner.module.state_dict().values()]


def differ(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return [x.shape for x in a] != [x.shape for x in b] or not all(map(torch.equal, a, b))


def loss_changes() -> dict[str, tuple[str, ...]]:
    """Every key of every loss, in a run where the loss is on."""
    special = {"samples": "3", "rows": "7", "pairs": "77", "uniform": "99", "tree": "99", "growth": "exponential",
               "measure": "linear", "learn_prior": "true", "unbiased": "true", "free_bits": "5.0"}  # fmt: skip
    needs = {
        "wrapped_kl": ("model.posterior=wrapped_normal",),
        "align": ("model.sharing=separate",),
        "rich_hierarchy": ("loss.radial_bands.weight=0",),
        "radial_stratification": ("loss.radial_bands.weight=0",),
    }
    found: dict[str, tuple[str, ...]] = {}
    for name, term in TernaryConfig().loss.terms.items():
        on = (f"loss.{name}.weight=1.0", *needs.get(name, ()))
        for key in type(term).model_fields:
            value = special.get(key) or str(float(getattr(term, key)) * 0.6 + 0.07)
            found[f"loss.{name}.{key}"] = (value, *on)
    return found


def test_every_key_changes_what_is_trained() -> None:
    """No dead keys: each leaf, changed where it is in force, gives another model, batch or update."""
    changes = {k: (v,) if isinstance(v, str) else v for k, v in CHANGES.items()} | loss_changes()
    plain: dict[tuple[str, ...], list[torch.Tensor]] = {}
    for key, (value, *context) in changes.items():
        base = tuple(context)
        if base not in plain:
            plain[base] = trace(*base)
        assert differ(trace(*base, f"{key}={value}"), plain[base]), key
    apart = ("weighting.", "homeostasis.", "curriculum.", "frozen.")
    later = {k for k in leaves(TernaryConfig()) if k.startswith(apart)}
    assert set(changes) | ELSEWHERE | later == set(leaves(TernaryConfig()))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loss.global_rank.pairs=7"], "loss.global_rank.pairs has no effect: loss.global_rank.weight is 0"),
        (["homeostasis.warmup=3"], "homeostasis.enabled is false"),
        (["curriculum.floor=0.3"], "curriculum.enabled is false"),
        (["weighting.every=3"], "weighting.kind is fixed"),
        (["model.projection.learnable=false"], "wants init = identity"),
        (
            ["model.projection.learnable=false", "model.projection.init=identity", "model.projection.hidden=8"],
            "model.projection.learnable is false",
        ),
        (["weighting.limit=3", "weighting.kind=gradnorm"], "weighting.kind is not controller"),
        (["weighting.restoring=3"], "weighting.kind is not gradnorm"),
        (["weighting.exchange=0.5", "model.sharing=separate"], "weighting.kind is not controller"),
        (["weighting.exchange=0.5", "weighting.kind=controller"], "model.sharing is tied"),
        (["phases.geometry_start=0.3"], "no loss weighs differently"),
        (["model.geometry=euclidean", "model.curvature.value=2.0"], "model.geometry is euclidean"),
        (["model.posterior=point", "model.logvar_init=-3", "loss.kl.weight=0"], "model.posterior is point"),
        (["data.holdout_seed=3"], "data.holdout is 0"),
        (["data.base=4"], "must be a prime"),
        (["data.siblings=10"], "a table has 9 entries"),
        (["model.decoder=stepwise", "model.decoder_copies=direction"], "model.decoder is stepwise"),
        (["data.digits=20"], "more than 2^24"),
        (["loss.rich_hierarchy.weight=1"], "one loss may set radii"),
        (["loss.padic_geodesic.weight=1", "loss.padic_geodesic.widest=9.0"], "out of reach"),
        (["loss.padic_triplet.uniform=0", "loss.padic_triplet.tree=0"], "has no triples"),
        (["model.decode_from=concat"], "wants sharing = separate"),
        (["modle.latent_dim=3"], "did you mean `model`"),
        (["data.source=pydoc"], "operations"),
    ],
)
def test_keys_without_effect_and_contradictions_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure("ternary", overrides=overrides)
    assert words in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("recipe", "cpu_s", "deep"), [("ternary-fast", 20, 0.9), ("ternary", 60, 0.95)])
def test_recipes_are_complete_for_every_seed(tmp_path: Path, recipe: str, cpu_s: float, deep: float, seed: int) -> None:
    seldom = ["train.cadence.eval_every=10000", "train.cadence.save_every=10000"]
    report = trained(configure(recipe, overrides=[f"train.seed={seed}", *seldom]).config, tmp_path)
    metrics = report.metrics
    assert metrics["val/faults"] == 0
    assert metrics["val/coverage_sampled"] > 0.99
    assert metrics["val/hierarchy"] <= -0.8320
    assert metrics["val/monotone"] == 1
    assert metrics["val/ties"] == 0
    assert metrics["val/level_auc"] >= 0.9999
    assert metrics["val/triplet_concordance"] >= 0.997
    assert metrics["val/triplet_concordance_deep"] >= deep
    assert metrics["val/pair_spearman"] >= 0.82
    assert metrics["val/richness"] >= 0.015
    assert report.cpu_seconds <= cpu_s


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_tenth_of_the_operations_teaches_the_others(tmp_path: Path, seed: int) -> None:
    config = configure("ternary-heldout", overrides=[f"train.seed={seed}", f"data.holdout_seed={seed}"]).config
    metrics = trained(config, tmp_path).metrics
    assert metrics["val/coverage_heldout"] >= 0.9999
    assert metrics["val/hierarchy"] <= -0.8319


@pytest.mark.slow
def test_coverage_stays_where_a_frozen_foundation_left_it(tmp_path: Path) -> None:
    quiet = ["train.cadence.eval_every=400", "train.cadence.save_every=400"]
    source = trained(configure("ternary-foundation", overrides=quiet).config, tmp_path, "foundation")
    assert source.metrics["val/coverage"] == 1
    fresh = launch._prepare(configure("ternary-foundation").config).learner.vae
    ended = launch.load("foundation", root=tmp_path)
    assert all(map(torch.equal, ended.projection.parameters(), fresh.projection.parameters()))
    taken = [f"frozen.{part}={json.dumps(str(source.run))}" for part in ("encoder_A", "decoder")]
    dual = ["model.projection.init=identity", "homeostasis.enabled=true", "train.budget.steps=400", *taken, *quiet]
    report = trained(configure("ternary-dual", overrides=dual).config, tmp_path, "dual")
    assert report.metrics["val/coverage"] >= 0.999
    assert report.metrics["val/hierarchy"] <= -0.8320
    vae = launch.load("dual", root=tmp_path)
    held = [n for n, _ in ended.named_parameters() if n.startswith(("encoder.A.", "projection.A.", "decoder."))]
    mine, theirs = dict(vae.named_parameters()), dict(ended.named_parameters())
    assert all(torch.equal(mine[n], theirs[n]) for n in held)
    # The figure is that of the trained path: without its projection there is none.
    with torch.no_grad():
        for param in vae.projection["A"].parameters():
            param.copy_(torch.randn(param.shape, generator=torch.Generator().manual_seed(0)))
    assert coverage(vae.space.index, vae.reconstruct) < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_six_dimensions_keep_the_figures(seed: int) -> None:
    metrics = measured(configure("ternary-small", overrides=[f"train.seed={seed}"]).config)
    assert metrics["val/monotone"] == 1
    assert metrics["val/richness"] >= 0.015
    assert metrics["val/faults"] == 0
    assert metrics["val/hierarchy"] <= -0.8320
    assert metrics["val/triplet_concordance"] >= 0.997
    assert metrics["val/triplet_concordance_deep"] >= 0.95
    assert metrics["val/pair_spearman"] >= 0.82


def measured(config: TernaryConfig) -> dict[str, float]:
    """Figures after all updates, without a run directory, baselines or neighbours, which cost more in large spaces."""
    work = launch._prepare(config)
    steps = config.train.budget.steps
    assert steps is not None
    for at in range(steps):
        work.learner.train_step(work.sampler.next(), progress=at / steps)
    metrics = work.evaluate(lambda: False)
    assert metrics is not None
    return metrics


@pytest.mark.slow
@pytest.mark.parametrize(("base", "digits"), [(2, 16), (3, 12)])
def test_larger_spaces_need_no_other_code(base: int, digits: int) -> None:
    shape = [f"data.base={base}", f"data.digits={digits}", "data.batch=2048", "train.budget.steps=800"]
    metrics = measured(configure("ternary", overrides=shape).config)
    assert metrics["val/coverage"] > 0.9
    assert metrics["val/hierarchy_norm"] > 0.9999
    assert metrics["val/triplet_concordance"] > 0.99
