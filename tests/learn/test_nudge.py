"""What the echo begins with: the error of the logits, a pull on the hidden states too, or nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from test_echo import SMALL, VOCABULARY, batch

from holonomy.core.errors import TapeError
from holonomy.core.flat import FlatParams
from holonomy.core.layer import decayed_names
from holonomy.core.nograd import no_autograd
from holonomy.core.tape import Tape
from holonomy.geometry.action import ACTION_EPS
from holonomy.learn.echo import EchoLearner
from holonomy.models.lior.config import EchoConfig, LiorConfig
from holonomy.models.lior.learner import build_learner
from holonomy.nn.heads import ActionPull, SoftmaxCrossEntropy, TargetPull


def learner(**echo: object) -> EchoLearner:
    train = SMALL.train.model_copy(update={"echo": EchoConfig(**echo)})  # type: ignore[arg-type]
    return build_learner(SMALL.model_copy(update={"train": train}), vocab_size=VOCABULARY)


def test_the_pull_is_the_gradient_of_the_distance_to_the_targets_vector() -> None:
    """loss + kappa / (2 M) sum |h - E[target]|^2 through torch.autograd, E held."""
    kappa, data = 0.7, batch(2, 30)
    data.targets[0, 4:9] = -100
    one = learner(nudge="target_embedding", pull=kappa)
    net = one.release().double()
    reference = copy.deepcopy(net)
    hidden = reference.layers[0](data.inputs)
    for layer in [*reference.layers][1:-1]:
        hidden = layer(hidden)
    assert isinstance(reference.layers[-2], TargetPull)
    valid = data.targets >= 0
    vectors = reference.layers[0].weight.detach()[:, data.targets.clamp_min(0)]
    apart = ((hidden - vectors).square().sum(0) * valid).sum()
    loss = SoftmaxCrossEntropy().free(reference.layers[-1](hidden), data.targets, None)
    (loss + kappa / 2 * apart / valid.sum()).backward()
    flat = FlatParams(net, decayed_names(net))
    acc, tape, head = flat.statistics(), Tape(), SoftmaxCrossEntropy(pull=net.layers[-2])
    with no_autograd():
        told = head.free(net.free(data.inputs, tape), data.targets, tape)
        net.echo(tape, head.nudge(tape), acc)
    assert abs(float(told - loss.detach())) < 1e-12
    wanted = {name: p.grad for name, p in reference.named_parameters()}
    for name, found in flat.named_views(acc.buffer).items():
        assert (found - wanted[name]).norm() <= 1e-12 * wanted[name].norm(), name  # type: ignore[union-attr, operator]


def test_the_action_is_that_of_the_path_of_hidden_states() -> None:
    """loss + kappa / M sum_t |h_(t+1) - h_t| / sqrt(D) through torch.autograd."""
    kappa, data = 0.7, batch(2, 30)
    net = learner(action=kappa).release().double()
    reference = copy.deepcopy(net)
    hidden = reference.layers[0](data.inputs)
    for layer in [*reference.layers][1:-1]:
        hidden = layer(hidden)
    assert isinstance(reference.layers[-2], ActionPull)
    lengths = (hidden.diff(dim=-1).square().mean(0) + ACTION_EPS[torch.float64]).sqrt()
    loss = SoftmaxCrossEntropy().free(reference.layers[-1](hidden), data.targets, None)
    (loss + kappa * lengths.sum() / data.targets.numel()).backward()
    flat = FlatParams(net, decayed_names(net))
    acc, tape, head = flat.statistics(), Tape(), SoftmaxCrossEntropy()
    with no_autograd():
        head.free(net.free(data.inputs, tape), data.targets, tape)
        net.echo(tape, head.nudge(tape), acc)
    wanted = {name: p.grad for name, p in reference.named_parameters()}
    for name, found in flat.named_views(acc.buffer).items():
        assert (found - wanted[name]).norm() <= 1e-11 * wanted[name].norm(), name  # type: ignore[union-attr, operator]


def test_the_action_falls_where_it_is_a_nudge() -> None:
    def path(kappa: float) -> float:
        one = learner(action=kappa)
        for seed in range(20):
            one.train_step(batch(2, 30, seed), progress=0.5)
        hidden = batch(2, 30).inputs
        with no_autograd():
            for layer in [*one.net][:-1]:
                hidden = layer.free(hidden, None)
        return float(hidden.diff(dim=-1).square().mean(0).sqrt().mean())

    assert path(3.0) < 0.9 * path(0.0)


def test_the_pull_acts_and_is_not_reported() -> None:
    pulled, plain, data = learner(nudge="target_embedding"), learner(), batch(2, 30)
    losses = [one.train_step(data, progress=0.5).loss for one in (pulled, plain)]
    assert torch.equal(*losses)
    assert not torch.equal(pulled.flat.buffer, plain.flat.buffer)
    assert torch.equal(learner(nudge="target_embedding").eval_step(data).loss, losses[0])


def test_without_a_nudge_nothing_is_learned() -> None:
    silent = learner(nudge="off")
    before = silent.flat.buffer.clone()
    silent.train_step(batch(2, 30), progress=0.5)
    assert not silent.stats.buffer.any()
    kept = slice(silent.flat.num_decayed, None)
    assert torch.equal(silent.flat.buffer[kept], before[kept])
    decay = 1 - SMALL.train.optim.lr * SMALL.train.optim.decay
    assert (silent.flat.buffer[: kept.start] / before[: kept.start]).min() > decay - 1e-6


def test_a_pull_without_its_loss_says_so() -> None:
    net = learner(nudge="target_embedding").net
    tape, loss, data = Tape(), SoftmaxCrossEntropy(), batch(1, 4)
    acc = FlatParams(net, frozenset()).statistics()
    with no_autograd():
        loss.free(net.free(data.inputs, tape), data.targets, tape)
        with pytest.raises(TapeError, match="no note for TargetPull"):
            net.echo(tape, loss.nudge(tape), acc)


def test_keys_that_nothing_reads_are_refused() -> None:
    with pytest.raises(ValueError, match="pull is for nudge = target_embedding, not off"):
        EchoConfig.model_validate({"nudge": False, "pull": 1.0})
    with pytest.raises(ValueError, match="action sees whole sequences"):
        EchoConfig.model_validate({"nudge": "off", "action": 1.0})
    with pytest.raises(ValueError, match="sees whole sequences"):
        LiorConfig.model_validate({"train": {"echo": {"nudge": "target_embedding", "memory": "segment"}}})
