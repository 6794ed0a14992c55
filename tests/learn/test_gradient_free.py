"""SPSA against the gradient, the Hebbian read-out against counting and ridge regression; both resume exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_echo import SMALL, VOCABULARY, Batch, batch, counting
from torch import Tensor
from torch.nn import functional as F

from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.core.flat import FlatParams
from holonomy.core.layer import decayed_names
from holonomy.core.nograd import no_autograd
from holonomy.learn.echo import EchoLearner, echo_statistics
from holonomy.learn.hebbian import HebbianLearner
from holonomy.learn.perturbation import PerturbedGroups
from holonomy.learn.spsa import SPSALearner
from holonomy.models.lior.config import GeometryConfig, LiorConfig, PerturbationConfig
from holonomy.models.lior.learner import build_learner, flat_adamw
from holonomy.models.lior.model import build_network
from holonomy.nn.heads import SoftmaxCrossEntropy


def spsa(**changes) -> SPSALearner:
    net = build_network(SMALL, vocab_size=VOCABULARY).double()
    options = {"schedule": lambda progress: 1e-3, "seed": 1, **changes}
    return SPSALearner(
        net, SoftmaxCrossEntropy(), optimiser=lambda p, n: flat_adamw(SMALL.train.optim, p, n), **options
    )


def gradient(data: Batch) -> Tensor:
    net = build_network(SMALL, vocab_size=VOCABULARY).double()
    flat = FlatParams(net, decayed_names(net))
    acc = flat.statistics()
    with no_autograd():
        echo_statistics(net, SoftmaxCrossEntropy(), data, acc)
    return acc.buffer


def test_the_estimate_projects_the_gradient_on_its_directions() -> None:
    """One sample is (g . D) D for random signs D; the parameters come back bit by bit."""
    learner, data = spsa(epsilon=1e-5), batch(2, 8)
    before = learner.flat.buffer.clone()
    with no_autograd():
        estimate, loss = learner.estimate(data)
    assert torch.equal(learner.flat.buffer, before)
    g = gradient(data)
    size = float(estimate.abs().max())
    assert torch.allclose(estimate.abs(), torch.full_like(estimate, size))
    assert abs(float(g @ torch.sign(estimate)) - size) < 1e-6 * float(g.norm())
    assert abs(float(loss) - float(learner.eval_step(data).loss)) < 1e-6


def test_many_samples_turn_towards_the_gradient() -> None:
    """The mean of n samples has a cosine near sqrt(n / (n + P)) with the gradient of P parameters."""
    learner, data = spsa(epsilon=1e-5, samples=400), batch(2, 8)
    with no_autograd():
        estimate, _ = learner.estimate(data)
    expected = (400 / (400 + len(estimate))) ** 0.5
    cosine = float(F.cosine_similarity(estimate, gradient(data), dim=0))
    assert 0.7 * expected < cosine < 1.4 * expected


def test_spsa_learns_a_little_and_resumes_exactly() -> None:
    whole = spsa(schedule=lambda progress: 3e-3)
    first = float(whole.eval_step(counting(4, 16, seed=99)).loss)
    split = spsa(schedule=lambda progress: 3e-3)
    for step in range(60):
        whole.train_step(counting(4, 16, seed=step), progress=0.5)
        split.train_step(counting(4, 16, seed=step), progress=0.5)
        if step == 23:
            state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in split.state().items()}
            split = spsa(schedule=lambda progress: 3e-3, seed=7)
            split.load_state(state)
    assert torch.equal(whole.flat.buffer, split.flat.buffer)
    assert float(whole.eval_step(counting(4, 16, seed=99)).loss) < first
    with pytest.raises(CheckpointError, match="`random` is missing"):
        split.load_state({k: v for k, v in whole.state().items() if k != "random"})
    with pytest.raises(ConfigError, match="`epsilon`"):
        spsa(epsilon=0.0)


def grouped(names: tuple[str, ...], samples: int, **geometry: object) -> EchoLearner:
    train = SMALL.train.model_copy(update={"spsa": PerturbationConfig(groups=names)})
    config = LiorConfig(model=SMALL.model, geometry=GeometryConfig(**geometry), train=train)  # type: ignore[arg-type]
    learner = build_learner(config, vocab_size=VOCABULARY)
    # Differences of losses want all digits.
    net = learner.release().double()
    return EchoLearner(
        net,
        SoftmaxCrossEntropy(),
        optimiser=lambda p, n: flat_adamw(train.optim, p, n),
        schedule=lambda progress: 1e-3,
        groups=(lambda f: PerturbedGroups(f, names, epsilon=1e-5, samples=samples, seed=4)) if names else None,
    )


def test_groups_are_estimated_around_their_gradient_and_nothing_else_changes() -> None:
    """Of two scalars a sample is g_i + s_i s_j g_j: its deviation from g_i is |g_j|."""
    samples, data = 100, batch(2, 6)
    mixed, plain = grouped(("log_radius",), samples), grouped((), 1)
    with no_autograd():
        for learner in (mixed, plain):
            learner.stats.zero_()
            learner._statistics(data)
    found, exact = (dict(one.flat.named_views(one.stats.buffer)) for one in (mixed, plain))
    (name,) = [n for n in exact if n.endswith("log_radius")]
    assert len(exact[name]) == 2 and not torch.equal(found[name], exact[name])
    errors = (found[name] - exact[name]).abs()
    assert (errors <= 3 * exact[name].flip(0).abs() / samples**0.5).all()
    assert all(torch.equal(found[n], exact[n]) for n in exact if n != name)
    assert torch.equal(mixed.flat.buffer, plain.flat.buffer)


def test_bumps_of_curvature_are_learned_by_differences_alone() -> None:
    geometry = {"chart": "shared", "n": 4, "source": "curvature"}
    data, samples = batch(2, 6), 200
    learner, fixed = grouped(("heights",), samples, **geometry), grouped((), 1, **geometry)
    (name,) = [n for n in learner.flat.names if n.endswith("heights")]
    assert not any(n.endswith("heights") for n in fixed.flat.names)
    heights = learner.flat.named_views(learner.flat.buffer)[name]
    exact = torch.zeros_like(heights)
    with no_autograd():
        for n, middle in enumerate(heights.tolist()):
            sides = []
            for move in (1e-5, -1e-5):
                heights[n] = middle + move
                sides.append(learner.eval_step(data).loss)
            heights[n] = middle
            exact[n] = (sides[0] - sides[1]) / 2e-5
        learner.stats.zero_()
        learner._statistics(data)
    found = learner.flat.named_views(learner.stats.buffer)[name]
    deviation = (exact.norm().square() - exact.square()).sqrt() / samples**0.5
    assert ((found - exact).abs() <= 4 * deviation).all()
    assert exact.norm() > 1e-4 and F.cosine_similarity(found, exact, dim=0) > 0.9


def test_groups_that_cannot_be_estimated_are_refused() -> None:
    with pytest.raises(ConfigError, match="names bend, which this model has not; it has .*log_radius"):
        grouped(("bend",), 1)
    with pytest.raises(ConfigError, match=r"hold [0-9,]+ scalars, at most 512"):
        grouped(("weight",), 1)
    with pytest.raises(ValueError, match="samples need groups"):
        PerturbationConfig(samples=3)


def previous_token(inputs: Tensor) -> Tensor:
    return F.one_hot(inputs, VOCABULARY).double()


def hebbian(**changes) -> HebbianLearner:
    return HebbianLearner(previous_token, **{"vocab_size": VOCABULARY, "dim": VOCABULARY, "ridge": 1e-12, **changes})


def test_one_hot_features_give_conditional_frequencies() -> None:
    learner, data = hebbian(), batch(20, 300)
    for part in range(4):
        rows = slice(5 * part, 5 * part + 5)
        learner.train_step(Batch(data.inputs[rows], data.targets[rows]), progress=0.0)
    counts = np.zeros((VOCABULARY, VOCABULARY))
    for x, y in zip(data.inputs.flatten().tolist(), data.targets.flatten().tolist(), strict=True):
        counts[y, x] += 1
    frequencies = counts / counts.sum(0)
    assert np.abs(learner.readout().numpy() - frequencies).max() < 1e-9
    floored = frequencies + 1e-4
    exact = -np.log(floored / floored.sum(0))[data.targets.numpy().ravel(), data.inputs.numpy().ravel()].mean()
    assert abs(float(learner.eval_step(data).loss) - exact) < 1e-9
    assert torch.allclose(learner.log_probs(data.inputs[:2]).exp().sum(-1), torch.ones(2, 300, dtype=torch.float64))


def test_the_readout_is_ridge_regression_and_knows_no_ignored_targets() -> None:
    codes = torch.randn(VOCABULARY, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    learner = HebbianLearner(lambda ids: codes[ids], vocab_size=VOCABULARY, dim=24, ridge=0.1)
    data = batch(6, 40)
    data.targets[:, 30:] = -100
    learner.train_step(data, progress=0.0)
    kept = data.targets.flatten() >= 0
    x, y = codes[data.inputs.flatten()[kept]].numpy(), F.one_hot(data.targets.flatten()[kept], VOCABULARY).numpy()
    stacked = np.vstack([x, np.sqrt(0.1 * len(x)) * np.eye(24)])
    exact = np.linalg.lstsq(stacked, np.vstack([y, np.zeros((24, VOCABULARY))]), rcond=None)[0].T
    assert np.abs(learner.readout().numpy() - exact).max() < 1e-10


def test_hebbian_learning_beats_unigrams_merges_and_resumes() -> None:
    whole, left, right = hebbian(), hebbian(), hebbian()
    for step in range(6):
        whole.train_step(counting(4, 30, seed=step), progress=0.0)
        (left if step < 3 else right).train_step(counting(4, 30, seed=step), progress=0.0)
    left.merge(right)
    assert torch.equal(left.readout(), whole.readout())
    again = hebbian()
    again.load_state(whole.state())
    held_out = counting(4, 30, seed=50)
    assert float(again.eval_step(held_out).loss) == float(whole.eval_step(held_out).loss) < 0.5
    whole.scale_rate(0.5)
    with pytest.raises(CheckpointError, match="`cross`"):
        again.load_state({**whole.state(), "cross": torch.zeros(2, 2)})
    with pytest.raises(ConfigError, match="`floor`"):
        hebbian(floor=0.0)
