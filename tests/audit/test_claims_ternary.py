"""Claims about embeddings of operations: true of small runs, and red for each broken double."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mutants import Mutant, assert_refuted, assert_stands, verdict_on
from small_runs import trained

from holonomy.audit.claims import checkpoints, ternary
from holonomy.data.ternary_ops import OperationSpace
from holonomy.geometry import normal
from holonomy.models.ternary import metrics
from holonomy.models.ternary.baseline import ClosedForm
from holonomy.models.ternary.model import TernaryVAE


def points_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TernaryVAE.embed
    monkeypatch.setattr(TernaryVAE, "embed", lambda self, index, **more: 1.01 * plain(self, index, **more))


def radii_outside_in(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TernaryVAE.embed

    def turned(self: TernaryVAE, index: torch.Tensor, **more: object) -> torch.Tensor:
        u = plain(self, index, **more)
        return u / u.norm(dim=-1, keepdim=True).square()

    monkeypatch.setattr(TernaryVAE, "embed", turned)


def ball_of_another_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = normal.to_ball
    monkeypatch.setattr(normal, "to_ball", lambda v, k: plain(v, 1.1 * k))


def angles_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normal, "dist", lambda u, v, k: (u.norm(dim=-1) - v.norm(dim=-1)).abs())


def ratio_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ClosedForm.__init__
    monkeypatch.setattr(ClosedForm, "__init__", lambda self, space: plain(self, space, ratio=0.6))


def ranks_without_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "mid_ranks", lambda x: x.argsort(stable=True).argsort().double())


MUTANTS = [
    Mutant("ternary.coverage", "points lie a hundredth too far out", points_moved),
    Mutant("ternary.hierarchy", "far points are near", radii_outside_in),
    Mutant("ternary.hierarchy", "the ball has another curvature", ball_of_another_curvature),
    Mutant("ternary.hierarchy", "distances are differences of radii", angles_forgotten),
    Mutant("ternary.closed-form-baseline", "the powers fall too slowly", ratio_too_large),
    Mutant("ternary.closed-form-baseline", "equal levels get different ranks", ranks_without_ties),
]
VARIANTS: dict[str, dict[str, str]] = {
    "plain nets, flat space": {
        "model.geometry": "euclidean", "model.encoder": "relu", "model.decoder": "relu", "model.input": "centred",
        "model.posterior": "point", "loss.kl.weight": "0", "model.projection.init": "identity",
    },
    "two streams, five values, learnt curvature": {
        "data.base": "5", "data.digits": "4", "data.extra_from_level": "2", "model.sharing": "separate",
        "model.decode_from": "concat", "model.decoder_copies": "direction", "model.decoder_norm": "true",
        "model.curvature.learnable": "true", "model.curvature.value": "0.5", "data.holdout": "0.2",
    },
    "entries one after the other": {"model.decoder": "stepwise", "data.siblings": "2"},
    "noise on the manifold": {
        "model.posterior": "wrapped_normal", "loss.kl.weight": "0", "model.encoder_dropout": "0.1",
        "model.decoder_dropout": "0.1", "model.hidden": "[32]",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted({m.claim for m in MUTANTS}))
def test_claims_stand(name: str, ternary_run: Path, tmp_path: Path) -> None:
    assert_stands(name, tmp_path, ternary=ternary_run)


@pytest.mark.parametrize("variant", VARIANTS)
def test_claims_stand_for_every_kind_of_model(variant: str, tmp_path: Path) -> None:
    run = trained("ternary-smoke", tmp_path, {"data.digits": "6", "train.budget.steps": "20", **VARIANTS[variant]})
    for name in sorted({m.claim for m in MUTANTS}):
        (tmp_path / name).mkdir()
        assert_stands(name, tmp_path / name, ternary=run)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_mutants_are_caught(mutant: Mutant, ternary_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refuted(mutant, monkeypatch, tmp_path, ternary=ternary_run)


@pytest.mark.parametrize(
    ("claim", "metric", "value"),
    [("ternary.coverage", "val/coverage", 0.99), ("ternary.hierarchy", "val/hierarchy", -0.99)],
)
def test_figures_that_a_run_never_had_are_found_out(
    claim: str, metric: str, value: float, ternary_run: Path, tmp_path: Path
) -> None:
    """A checkpoint whose record was forged, digests and all."""
    run = tmp_path / "run"
    shutil.copytree(ternary_run, run)
    state = run / "checkpoints" / "step-200" / "state.json"
    body = json.loads(state.read_bytes())["body"]
    body["state"]["counters"]["metrics"][metric] = value
    state.write_bytes(checkpoints._sealed(body))
    (tmp_path / "scratch").mkdir()
    assert verdict_on(claim, tmp_path / "scratch", ternary=run).status == "fail"


def test_levels_and_ranks_by_hand() -> None:
    assert ternary.levels_of(10, 3).tolist() == [2, 0, 0, 1, 0, 0, 1, 0, 0, 2]
    assert np.array_equal(ternary.levels_of(729, 3), OperationSpace(3, 6).levels.numpy())
    assert ternary.ranks(np.array([3.0, 1.0, 3.0, 0.0])).tolist() == [2.5, 1.0, 2.5, 0.0]
