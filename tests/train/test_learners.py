"""Every learning rule through the one loop: a run broken off half-way ends like one that was not, bit by bit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mortal import exact
from torch.nn import functional as F

from holonomy.core.budget import Budget, Cadence, Schedule
from holonomy.core.errors import Interrupted
from holonomy.core.learner import Learner
from holonomy.data.tokens import PassageSampler, WindowSampler
from holonomy.learn.autograd import AutogradLearner
from holonomy.learn.echo import EchoLearner
from holonomy.learn.hebbian import HebbianLearner
from holonomy.learn.spsa import SPSALearner
from holonomy.models.lior.config import DataConfig, LiorConfig, ModelConfig, PerturbationConfig
from holonomy.models.lior.learner import build_learner, flat_adamw
from holonomy.models.lior.model import build_network
from holonomy.nn.heads import SoftmaxCrossEntropy
from holonomy.train import checkpoint
from holonomy.train.loop import fit
from holonomy.train.monitor import SilentProgress
from holonomy.train.report import Plan
from holonomy.train.run import RunDirectory

VOCABULARY = 20
CONFIG = LiorConfig(model=ModelConfig(d=8, n_osc=8, hidden=8, heads=2, dropout=0.1))
CARRIED = CONFIG.model_copy(update={"data": DataConfig(carried=8)})
MIXED = CONFIG.model_copy(
    update={"train": CONFIG.train.model_copy(update={"spsa": PerturbationConfig(groups=("log_radius",))})}
)
OPTIM = CONFIG.train.optim
SCHEDULES = ("linear", "constant", "cyclic", "table")
"""Kinds besides the cosine of `CONFIG`."""


def autograd() -> Learner:
    return AutogradLearner(
        build_network(CONFIG, vocab_size=VOCABULARY),
        SoftmaxCrossEntropy(),
        betas=OPTIM.betas,
        eps=OPTIM.eps,
        decay=OPTIM.decay,
        clip=OPTIM.clip,
        schedule=lambda progress: 1e-3 * (1 - progress),
    )


def spsa() -> Learner:
    return SPSALearner(
        build_network(CONFIG, vocab_size=VOCABULARY),
        SoftmaxCrossEntropy(),
        optimiser=lambda params, decayed: flat_adamw(OPTIM, params, decayed),
        schedule=lambda progress: 1e-3 * (1 - progress),
    )


def hebbian() -> Learner:
    return HebbianLearner(lambda ids: F.one_hot(ids, VOCABULARY).double(), vocab_size=VOCABULARY, dim=VOCABULARY)


def echo(*, ema: float = 0.0, **train) -> Learner:
    changed = {**train, "optim": OPTIM.model_copy(update={"ema": ema})}
    config = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update=changed)})
    return build_learner(config, vocab_size=VOCABULARY)


LEARNERS: dict[str, Callable[[], Learner]] = {
    "echo": lambda: build_learner(CONFIG, vocab_size=VOCABULARY),
    "carried echo": lambda: build_learner(CARRIED, vocab_size=VOCABULARY),
    "echo and spsa": lambda: build_learner(MIXED, vocab_size=VOCABULARY),
    "autograd": autograd,
    "spsa": spsa,
    "hebbian": hebbian,
    "averaged echo in parts": lambda: echo(ema=0.9, accumulate=2),
    **{kind: lambda kind=kind: echo(ema=0.9, schedule=Schedule(kind=kind)) for kind in SCHEDULES},
}


def trained(learner: Learner, run: RunDirectory, stop_at: int | None = None) -> None:
    tokens = torch.randint(VOCABULARY, (3000,), generator=torch.Generator().manual_seed(0))
    step, calls = learner.train_step, []

    def counted(batch, *, progress):
        calls.append(progress)
        if len(calls) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batch, progress=progress)

    learner.train_step = counted
    found = checkpoint.steps(run.checkpoints)
    sampler = WindowSampler(tokens, seq_len=16, batch=2, seed=5)
    if isinstance(learner, EchoLearner) and learner.carried:
        sampler = PassageSampler(tokens, windows=8, seq_len=16, batch=2, seed=5)
    with run:
        fit(
            learner,
            sampler,
            run=run,
            plan=Plan(Budget(steps=100), Cadence(log_every=5, eval_every=40, save_every=30)),
            evaluate=lambda stop: {"val/loss": 1.0},
            progress=SilentProgress(),
            family="test",
            files={},
            facts={},
            restored=checkpoint.newest_valid(run.checkpoints)[0] if found else None,
        )


@pytest.mark.parametrize("name", LEARNERS)
def test_fifty_and_fifty_are_a_hundred(name: str, tmp_path: Path) -> None:
    whole, split = (RunDirectory.create(tmp_path, n, prefix="t", config=CONFIG) for n in ("whole", "split"))
    trained(LEARNERS[name](), whole)
    with pytest.raises(Interrupted):
        trained(LEARNERS[name](), split, stop_at=50)
    assert checkpoint.steps(split.checkpoints)[-1] == 50
    trained(LEARNERS[name](), split)
    ends = [checkpoint.read(run.checkpoints / "step-100") for run in (whole, split)]
    assert ends[0].tensors.keys() == ends[1].tensors.keys()
    for key, value in ends[0].tensors.items():
        assert torch.equal(value, ends[1].tensors[key]), key
    logs = [(run.path / "metrics.jsonl").read_text().splitlines() for run in (whole, split)]
    assert [exact(json.loads(line)) for line in logs[0]] == [exact(json.loads(line)) for line in logs[1]]
