"""Claims about configurations: true of the code, and red for each broken double."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from mutants import Mutant, assert_refuted, assert_stands

from holonomy.audit.claims import configuration as claims
from holonomy.data.ternary_ops import StratifiedBatches
from holonomy.models.holographic.config import HolographicRunConfig
from holonomy.models.ternary.config import TernaryConfig
from holonomy.recipes import configure

ternary = importlib.import_module("holonomy.recipes.ternary")


def batches_as_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ternary, "batches_of", lambda config, space, world: StratifiedBatches(space, space.index, batch_size=16)
    )


def targets_missed_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ternary.TernaryParts, "missed", staticmethod(lambda config, metrics: []))


MUTANTS = [
    Mutant("config.no-dead-keys", "batches are cut as they always were", batches_as_always),
    Mutant("config.no-dead-keys", "nobody asks for the targets", targets_missed_by_nobody),
]


@pytest.mark.slow
def test_claims_stand(tmp_path: Path) -> None:
    assert_stands("config.no-dead-keys", tmp_path)


def test_every_scenario_is_a_configuration(tmp_path: Path) -> None:
    """The claim itself takes minutes; that none of its runs is refused shows at once."""
    families = {scenario.configuration(tmp_path / "text.txt").family for scenario in claims.SCENARIOS}
    assert families == {"lior", "holographic", "ternary"}


@pytest.fixture
def one_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "SCENARIOS", claims.SCENARIOS[-2:])


@pytest.mark.usefixtures("one_family")
def test_the_claim_stands_for_one_family(tmp_path: Path) -> None:
    assert_stands("config.no-dead-keys", tmp_path)


@pytest.mark.usefixtures("one_family")
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_mutants_are_caught(mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refuted(mutant, monkeypatch, tmp_path)


def temper_taken_where_nothing_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = HolographicRunConfig._inactive
    monkeypatch.setattr(
        HolographicRunConfig, "_inactive", lambda self: (p for p in plain(self) if p[0] != "model.mixture.temper")
    )


def test_keys_that_one_run_reads_and_another_takes_for_nothing_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words read everything, and characters all but a key of the linear pool, which they refuse: and if not?"""

    def play(scenario: claims.Scenario, text: Path, where: Path) -> tuple[object, set[str]]:
        config = scenario.configuration(text)
        return config, set(claims.leaves(config)) - ({"model.mixture.temper"} if "chars" in scenario.recipe else set())

    monkeypatch.setattr(claims, "_play", play)
    monkeypatch.setattr(claims, "SCENARIOS", [s for s in claims.SCENARIOS if s.recipe.startswith("holographic")])
    assert_stands("config.no-dead-keys", tmp_path)
    taken = Mutant("config.no-dead-keys", "a key has no effect", temper_taken_where_nothing_reads_it)
    assert_refuted(taken, monkeypatch, tmp_path)


def test_refusals_are_told_from_values_that_are_wrong_themselves() -> None:
    plain = TernaryConfig()
    assert claims.refused(plain, "loss.global_rank.pairs")
    assert claims.refused(plain, "data.source")
    assert claims.refused(plain, "train.schedule.table")
    assert not claims.refused(plain, "model.latent_dim")
    assert not claims.refused(plain, "model.projection.hidden")
    words = configure("holographic-smoke").config
    assert claims.refused(words, "model.replay")
    assert not claims.refused(words, "train.positions")


def test_a_walk_over_all_keys_reads_none() -> None:
    config = TernaryConfig()
    recorder = claims.Recorder(config)
    with recorder.watching():
        claims.leaves(config)
        claims.to_json(config)
        TernaryConfig.model_validate(claims.to_json(config))
        assert recorder.read == set()
        ternary.decode_path(config)
        assert recorder.read == {"model", "model.decode_from"}
    ternary.frozen_parts(config)
    assert "frozen" not in recorder.read
