"""Key sets of earlier programs become configurations that this package accepts, and nothing is lost in silence."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from holonomy.cli import main
from holonomy.core.config import leaves, migrate, resolve, to_json
from holonomy.core.errors import ConfigError
from holonomy.models.ternary.config import TernaryConfig
from holonomy.models.ternary.historic import KEY_SETS, recognise

FLAT = """
seed: 7
latent_dim: 16
batch_size: 256
total_epochs: 300
grad_clip: 0.5
max_radius: 0.95
optimizer: {type: adamw, lr_start: 0.001, weight_decay: 0.0001, lr_schedule: [{epoch: 0, lr: 0.001}]}
vae_a: {beta_start: 0.0, beta_end: 0.8, temp_start: 1.0}
vae_b: {beta_start: 0.0, beta_end: 0.5}
phase_transitions: {ultra_exploration_end: 0.15}
controller: {enabled: true, hidden_dim: 32, temp_lag: 5, rho_max: 0.7}
ranking_hyperbolic: {weight: 0.5, margin: 0.1}
use_amp: true
"""
FROZEN = """
frozen_checkpoint: {path: runs/foundation, encoder_to_load: both, decoder_to_load: decoder_A}
latent_dim: 16
use_dual_projection: true
projection: {hidden_dim: 64, max_radius: 0.9}
batch_size: 512
epochs: 100
riemannian: true
"""
HOMEOSTATIC = """
model: {latent_dim: 16, encoder_type: improved, decoder_type: improved, max_radius: 0.95, learnable_curvature: true,
  use_dual_projection: true}
frozen_checkpoint: {path: runs/foundation}
homeostasis: {enabled: true, warmup_epochs: 5, hysteresis_epochs: 3, coverage_freeze_threshold: 0.99,
  coverage_unfreeze_threshold: 1.0, hierarchy_plateau_threshold: 0.001, enable_annealing: false, annealing_step: 0.005}
loss:
  rich_hierarchy: {weight: 1.0, hierarchy_weight: 5.0, richness_weight: 2.0, separation_weight: 3.0,
    coverage_weight: 1.0}
  radial: {weight: 2.0, inner_radius: 0.08, outer_radius: 0.9}
  rank: {weight: 1.0, n_pairs: 2000}
  geodesic: {weight: 0.3, phase_start_epoch: 50, n_pairs: 2000}
option_c: {enabled: true, encoder_a_lr_scale: 0.05}
training: {epochs: 200, batch_size: 512, lr: 0.001, use_stratified: true, high_v_budget_ratio: 0.25, patience: 20,
  scheduler: {T_0: 20}}
scheduler: {T_0: 25, T_mult: 2}
riemannian: {enabled: true}
"""
FILES = {"flat": FLAT, "frozen": FROZEN, "homeostatic": HOMEOSTATIC}
EXPECTED: dict[str, dict[str, Any]] = {
    "flat": {
        "model.sharing": "separate", "train.seed": 7, "train.optim.lr": 0.001, "train.optim.clip": 0.5,
        "data.batch": 256, "train.budget.steps": 300 * 77, "weighting.kind": "controller",
        "loss.padic_triplet.weight": 0.5, "model.projection.max_radius": 2 * math.atanh(0.95),
    },
    "frozen": {
        "frozen.decoder": "runs/foundation", "model.sharing": "separate", "train.budget.steps": 100 * 39,
        "model.projection.max_radius": 2 * math.atanh(0.9), "loss.radial_bands.weight": 10.0,
    },
    "homeostatic": {
        "model.encoder": "gated", "homeostasis.coverage_freeze": 0.99, "homeostasis.annealing": False,
        "homeostasis.annealing_step": 0.003, "loss.rich_hierarchy.weight": 1.0, "loss.radial_bands.weight": 0.0,
        "loss.radial_stratification.weight": 0.0, "loss.global_rank.pairs": 2000, "data.high_budget": 0.25,
        "train.optim.encoder_scale": 0.05, "phases.geometry_start": 0.25, "loss.padic_geodesic.structure": 0.0,
        "frozen.decoder": "runs/foundation", "train.guard.patience": 20,
    },
}  # fmt: skip


def ends(tree: dict[str, Any], prefix: str = "") -> list[str]:
    return [k for n, v in tree.items() for k in (ends(v, f"{prefix}{n}.") if isinstance(v, dict) else [f"{prefix}{n}"])]


@pytest.mark.parametrize("name", FILES)
def test_a_key_set_becomes_a_valid_configuration(name: str, tmp_path: Path) -> None:
    old = yaml.safe_load(FILES[name])
    found, notes = migrate(TernaryConfig, old, origin=name)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(found))
    config = resolve(TernaryConfig, base=TernaryConfig(), base_origin="test", file=file).config
    values = leaves(config)
    assert {key: values[key] for key in EXPECTED[name]} == EXPECTED[name]
    # Every key that came is spoken of.
    told = " ".join(notes)
    epochs = {"total_epochs", "epochs", "training.epochs"}
    assert [key for key in ends(old) if f"`{key}`" not in told and key not in epochs] == []
    assert "epochs are now" in told
    assert migrate(TernaryConfig, to_json(config), origin=name) == (to_json(config), [])


def test_values_that_mean_nothing_are_named() -> None:
    with pytest.raises(ConfigError, match=r"radius in the ball is 1\.5"):
        migrate(TernaryConfig, {"vae_a": {"beta": 1}, "max_radius": 1.5}, origin="t")
    odd = {"vae_a": {"beta": 1}, "batch_size": "many", "total_epochs": "all", "seed": None}
    found, notes = migrate(TernaryConfig, odd, origin="t")
    assert found["data"]["batch"] == "many"
    assert "train" not in found
    assert "`seed` is dropped: it was empty" in notes
    assert "`total_epochs` is dropped: no counterpart" in notes


def test_every_program_is_told_from_the_others() -> None:
    found = [recognise(yaml.safe_load(text)) for text in FILES.values()]
    assert {keys.name for keys in found if keys} == {keys.name for keys in KEY_SETS}
    assert recognise(to_json(TernaryConfig())) is None
    assert recognise({"homeostasis": {"enabled": True}}) is None


def test_strict_migration_says_that_keys_were_dropped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "flat.yaml"
    for text, code in ((FLAT, 1), ("latent_dim: 8\nfrozen_checkpoint: {path: a}\n", 0)):
        file.write_text(text)
        words = ["holonomy", "config", "migrate", str(file), "--recipe", "ternary", "--strict"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as left:
            main.run()
        assert int(left.value.code or 0) == code
        printed = capfd.readouterr()
        assert yaml.safe_load(printed.out)["model"]["latent_dim"] in (16, 8)
        assert ("`use_amp` is dropped: set by the package itself" in printed.err) == bool(code)
