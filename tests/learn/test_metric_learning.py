"""Retrieval learns its metric, and nothing else, without autograd: the task of `benchmarks/metric_learning.py`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.flat import StatBuffer
from holonomy.core.nograd import no_autograd
from holonomy.core.tape import Tape
from holonomy.learn.echo import Part, echo_statistics
from holonomy.nn.chart import Chart

SOURCE = Path(__file__).parents[2] / "benchmarks" / "metric_learning.py"
KINDS = ("lowrank", "rotor")


@pytest.fixture(scope="module")
def task() -> Iterator[ModuleType]:
    """The benchmark as a module."""
    if not SOURCE.exists():
        pytest.skip("benchmarks are not part of a source distribution")
    spec = importlib.util.spec_from_file_location("metric_learning", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        # A dataclass looks its module up by name.
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_of_the_metric_equal_autograd(task: ModuleType, kind: str) -> None:
    """Against the graph of the network, and against one of plain distances to the prototypes alone."""
    drawing = task.Nuisance.drawn(1, 1.1)
    part = drawing.batch(20)
    batch = Part(part.inputs.double(), part.targets, part.count)
    net, only = task.network(kind, 1)
    net, (twin, _) = net.double(), task.network(kind, 1)
    twin = twin.double()
    learner = task.learner(net, only, autograd=False, lr=0.0)
    with no_autograd():
        loss = echo_statistics(net, learner.loss, batch, learner.stats)
    found = learner.flat.named_views(learner.stats.buffer)
    graph = learner.loss.free(twin(batch.inputs), batch.targets, None)
    metric = twin.layers[0].chart.metric().matrix()[0]
    points = batch.inputs[: task.N, 0].T
    away = points[task.LABELS :, None] - points[: task.LABELS]
    cost = twin.layers[0].log_radius.exp() * (torch.einsum("qpa,ab,qpb->qp", away, metric, away) + 0.08).sqrt()
    plain = torch.nn.functional.cross_entropy(-cost, batch.targets[0, task.LABELS :])
    assert abs(float(loss) - float(plain.detach())) < 1e-9
    named = {name: p for name, p in twin.named_parameters() if name in only}
    for value in (graph, plain):
        wanted = torch.autograd.grad(value, list(named.values()), retain_graph=True)
        for name, expected in zip(named, wanted, strict=True):
            assert float(expected.norm()) > 1e-4, name
            assert float((found[name] - expected).norm() / expected.norm()) < 1e-9, name


def accuracy_after(task: ModuleType, kind: str) -> float:
    """Of a training far shorter than that of the benchmark."""
    drawing = task.Nuisance.drawn(1, 1.1)
    net, only = task.network(kind, 1)
    learner = task.learner(net, only, autograd=False, lr=0.1)
    steps = {"lowrank": 60, "rotor": 150}[kind]
    for step in range(steps):
        learner.train_step(drawing.batch(), progress=step / steps)
    return task.accuracy(net, drawing, 1000)


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_training_finds_most_of_the_metric(task: ModuleType, kind: str) -> None:
    assert accuracy_after(task, kind) > 0.75


@pytest.mark.parametrize(("kind", "part"), [("lowrank", "columns"), ("lowrank", "log_weights"), ("rotor", "theta")])
def test_a_broken_statistic_is_noticed(task: ModuleType, kind: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one statistic turned round, the training above fails."""
    honest = Chart.echo

    def turned(self: Chart, tape: Tape, g: Tensor, acc: StatBuffer) -> Tensor:
        below = honest(self, tape, g, acc)
        acc[getattr(self, part)].neg_()
        return below

    monkeypatch.setattr(Chart, "echo", turned)
    assert accuracy_after(task, kind) < 0.65


def test_only_the_metric_moves(task: ModuleType) -> None:
    drawing = task.Nuisance.drawn(1, 1.1)
    net, only = task.network("rotor", 1)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    learner = task.learner(net, only, autograd=False, lr=0.05)
    for _ in range(3):
        learner.train_step(drawing.batch(), progress=0.5)
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name]) == (name not in only), name
    assert any("log_radius" in name for name in before)
    # Neither do they under the moments of a training of everything.
    whole = task.learner(task.network("rotor", 1)[0], frozenset(before), autograd=False, lr=0.05)
    whole.train_step(drawing.batch(), progress=0.5)
    learner.load_state(whole.state())
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(before[name])
    learner.train_step(drawing.batch(), progress=0.5)
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name]) == (name not in only), name
    with pytest.raises(ConfigError, match="`only` names nothing, which"):
        task.learner(net, frozenset({"nothing"}), autograd=False, lr=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_metric_is_learned_that_ignores_the_nuisance(task: ModuleType, kind: str) -> None:
    """Three drawings; the Euclidean metric answers 0.36, and no metric can answer more than 0.96 to 0.98."""
    for seed in (1, 2, 3):
        found = task.trained(kind, seed, steps=task.UPDATES[kind], spread=1.1, lr=0.05)
        assert 0.30 < found["fixed"] < 0.42
        assert found["learned"] >= 0.95
        assert found["learned"] >= found["best"] - 0.01
