"""Estimates against what is then built and trained."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from holonomy.core.errors import ConfigError
from holonomy.models.lior.config import LiorConfig
from holonomy.models.lior.cost import check_fits, least_memory, parameter_count
from holonomy.models.lior.model import build_network, count_parameters
from holonomy.recipes import configure
from holonomy.recipes.estimate import Estimate, estimate

VARIANTS: tuple[tuple[str, ...], ...] = (
    (),
    ("model.architecture=causal_field",),
    ("model.architecture=field_transformer", "model.heads=8"),
    ("model.pattern=omr", "model.heads=2"),
    ("model.bank=selective",),
    ("model.bank=coupled",),
    ("model.bank=hamiltonian",),
    ("model.bank=hamiltonian", "model.wells=true"),
    ("model.bank=kernel",),
    ("model.score=geometric",),
    ("geometry.stress=true",),
    ("field.enabled=true", "field.dim=4"),
    ("geometry.chart=per_head",),
    ("geometry.chart=shared", "geometry.metric_mode=block_rot"),
    ("geometry.chart=shared", "geometry.frame_mode=learned_lowrank", "geometry.rotor_mode=off"),
    ("geometry.chart=shared", "geometry.frame_mode=learned_lowrank", "geometry.rank=2"),
    ("geometry.chart=shared", "geometry.rotor_mode=derived"),
    ("geometry.chart=per_head", "geometry.frame_mode=derived", "geometry.rotor_mode=off"),
    ("geometry.chart=shared", "geometry.source=curvature", "geometry.rotor_layers=3"),
    ("geometry.chart=shared", "geometry.source=curvature", "train.spsa.groups=[heights]"),
    ("model.retrieval_fir=3",),
    ("model.score=geometric", "model.retrieval_fir=2", "model.rope=true"),
    ("geometry.chart=shared", "model.retrieval_fir=3"),
    ("model.pattern=omre",),
    ("model.pattern=hm",),
    ("model.pattern=omqcp",),
    ("model.pattern=pm", "geometry.chart=per_head", "geometry.rotor_mode=derived"),
)


def configured(*overrides: str) -> LiorConfig:
    config = configure("lior", overrides=overrides).config
    assert isinstance(config, LiorConfig)
    return config


@pytest.mark.parametrize("overrides", VARIANTS)
def test_parameters_are_counted_exactly(overrides: tuple[str, ...]) -> None:
    config = configured("model.d=32", "model.n_osc=64", "model.hidden=48", *overrides)
    assert parameter_count(config, vocab_size=71) == count_parameters(build_network(config, vocab_size=71))


def test_what_cannot_fit_is_refused_before_it_is_built() -> None:
    wide = configured("model.d=8192", "model.hidden=32768", "model.n_osc=16384", "model.blocks=64")
    with pytest.raises(ConfigError, match=r"needs [\d,.]+ GiB at least.*lower model\.d"):
        check_fits(wide, vocab_size=100, available=16 * 2**30)
    long = configured("data.batch=4096", "data.seq_len=65536")
    with pytest.raises(ConfigError, match=r"lower data\.batch"):
        check_fits(long, vocab_size=100, available=16 * 2**30)
    plain = configured()
    check_fits(plain, vocab_size=100, available=2**30)
    assert least_memory(plain, vocab_size=100).total < 2**28


def trained_and_estimated(tmp_path: Path) -> tuple[dict[str, float], Estimate]:
    """A real training of 60 updates in a process of its own, and what was foretold of it."""
    config = configured("train.budget={steps: 60}", "train.cadence.eval_every=1000", "data.unk=true")
    found = estimate(config)
    assert found.steps == 60
    command = [sys.executable, "-m", "holonomy", "train", "lior", "--steps", "60", "--json", "--threads", "1"]
    command += ["--root", str(tmp_path), "--run", "a", "--set", "train.cadence.eval_every=1000"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    report = json.loads(done.stdout.splitlines()[-1])
    assert found.parameters == count_parameters(build_network(config, vocab_size=_vocabulary(tmp_path)))
    return report, found


def test_memory_is_that_of_the_training(tmp_path: Path) -> None:
    report, found = trained_and_estimated(tmp_path)
    assert math.isclose(found.memory_mb, report["peak_rss_mb"], rel_tol=0.2)


@pytest.mark.slow
def test_time_is_that_of_the_training(tmp_path: Path) -> None:
    """Both are measured one after the other: on a machine that does nothing else."""
    report, found = trained_and_estimated(tmp_path)
    assert math.isclose(found.cpu_seconds, report["cpu_seconds"], rel_tol=0.2)


def _vocabulary(root: Path) -> int:
    (path,) = (root / "a" / "checkpoints").glob("step-60/tokenizer.json")
    return len(json.loads(path.read_text())["symbols"])


def test_quickstart_runs_without_a_terminal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "holonomy", "quickstart", "--json", "--budget", "2", "--root", str(tmp_path)]
    done = subprocess.run([*command, "--run", "q", "--architecture", "causal_field"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["metrics"]["val/loss"] > 0
    assert report["estimate"]["parameters"] > 500_000
    wrong = subprocess.run([*command, "--architecture", "hybird"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "did you mean hybrid?" in wrong.stderr
