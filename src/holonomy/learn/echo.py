"""Two-phase (echo) learning: a free pass, a nudge at the output, and its echo back through the layers.

Sources: recurrent Hamiltonian echo learning (Pourcel & Ernoult 2025), equilibrium propagation (Scellier &
Bengio 2017), contrast of Boltzmann distributions, reciprocity of symmetric linear systems. The rule is local
in the layers and exact in the limit of a small nudge; no autograd graph is built and no `.grad` is written.
Static maps use hand-written local vector-Jacobian products, so the chain rule is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.core.flat import FlatParams, StatBuffer
from holonomy.core.layer import EchoLayer, EchoLoss, decayed_names
from holonomy.core.learner import Json, Metrics, Replicas, State
from holonomy.core.nograd import no_autograd
from holonomy.core.tape import Tape
from holonomy.learn.carry import CARRIED, continued_statistics, restored_states, state_tensors
from holonomy.learn.graphs import CapturedStatistics
from holonomy.learn.perturbation import PerturbedGroups
from holonomy.learn.segments import segmented_statistics
from holonomy.optim.contrastive import AdamW


class SequenceBatch(Protocol):
    """Token ids and the ids to predict, both [batch, time]."""

    @property
    def inputs(self) -> Tensor: ...

    @property
    def fresh(self) -> bool:
        """Whether the sequences begin here, instead of where those of the last batch ended."""
        ...

    @property
    def targets(self) -> Tensor: ...

    @property
    def count(self) -> int: ...


@dataclass(frozen=True)
class Part:
    """A piece of a batch."""

    inputs: Tensor
    targets: Tensor
    count: int
    fresh: bool = True


def echo_statistics(net: EchoLayer, loss: EchoLoss, batch: SequenceBatch, acc: StatBuffer) -> Tensor:
    """Runs both phases on one batch, adds the statistics to `acc`, returns the loss of the free phase."""
    tape = Tape()
    value = loss.free(net.free(batch.inputs, tape), batch.targets, tape)
    net.echo(tape, loss.nudge(tape), acc)
    return value


class EchoLearner:
    """Trains a network of echo layers without autograd.

    While the learner owns the network its parameters are views of one flat buffer and do not require
    gradients; `release` gives them their old flags back.

    Args:
        net: maps token ids [B, T] to logits [V, B, T].
        loss: compares the logits with the targets.
        optimiser: builds the optimiser from the flat parameters and the length of their decayed prefix.
        schedule: learning rate as a function of the used share of the budget.
        accumulate: parts that a batch is computed in, one after the other; must divide its size.
        segment: tokens that are learned at a time, see `segmented_statistics`; None is whole sequences.
        streamed: with `segment`, keep no states but run the layers backwards.
        carried: begin with the states that the last batch ended with, unless a batch is fresh.
        groups: makes, from the flat parameters, the few that are learned from differences of the loss instead.
        only: full names of the parameters that are learned, all others stay as they are; None is all.
        ema: decay of averaged weights, which `eval_step` uses; 0 is none. While fewer steps than 1 / (1 - ema) are
            made, the plain mean of all weights so far.
        replicas: processes whose statistics are averaged before each update; None is this one alone.
        captured: compute the statistics by a CUDA graph, see `CapturedStatistics`; not with `carried` or `groups`.
    """

    def __init__(
        self,
        net: EchoLayer,
        loss: EchoLoss,
        *,
        optimiser: Callable[[Tensor, int], AdamW],
        schedule: Callable[[float], float],
        accumulate: int = 1,
        segment: int | None = None,
        streamed: bool = False,
        carried: bool = False,
        groups: Callable[[FlatParams], PerturbedGroups] | None = None,
        only: frozenset[str] | None = None,
        ema: float = 0.0,
        replicas: Replicas | None = None,
        captured: bool = False,
    ) -> None:
        self.net, self.loss = net, loss
        self._captured = CapturedStatistics(self._fresh_statistics) if captured else None
        self._flags = {name: p.requires_grad for name, p in net.named_parameters()}
        net.requires_grad_(False)
        if unknown := sorted((only or frozenset()) - self._flags.keys()):
            raise ConfigError(f"`only` names {', '.join(unknown)}, which this network has not")
        learned = frozenset(self._flags) if only is None else only
        if captured and (carried or groups is not None):
            raise ConfigError("`captured` repeats one graph; it cannot go with `carried` or `groups`: drop one")
        # Weights stand in one order whatever is learned, so that states can be exchanged.
        self.flat = FlatParams(net, decayed_names(net))
        self.stats = self.flat.statistics()
        both = zip(self.flat.names, self.flat.views(self.flat.buffer), self.flat.views(self.stats.buffer), strict=True)
        self._fixed = [(weight, statistic) for name, weight, statistic in both if name not in learned]
        self.optimiser = optimiser(self.flat.buffer, self.flat.num_decayed)
        self.schedule, self.accumulate, self.ema = schedule, accumulate, ema
        self.segment, self.streamed, self.carried = segment, streamed, carried
        self._states: list[Any] = []
        self._batch_size = 0
        self.rate_scale, self.replicas = 1.0, replicas
        self.average = self.flat.buffer.clone() if ema else None
        self._layers = [m for m in net.modules() if isinstance(m, EchoLayer)]
        drawing = {id(m.generator): m.generator for m in self._layers if m.generator is not None}
        self._generators = list(drawing.values())
        self.groups = None if groups is None else groups(self.flat)
        if self.groups is not None:
            self._generators.append(self.groups.generator)

    def setup(self, example_batch: SequenceBatch) -> None:
        """Takes note of the number of sequences, whose states may be carried."""
        self._batch_size = len(example_batch.inputs)

    def train_step(self, batch: SequenceBatch, *, progress: float) -> Metrics:
        """Free phase, echo phase, one update, projection of the parameters into their domains."""
        lr = self.schedule(progress) * self.rate_scale
        with no_autograd():
            if self._captured is not None:
                loss = self._captured(batch.inputs, batch.targets, batch.count)
            else:
                self.stats.zero_()
                loss = self._statistics(batch)
            if self.replicas is not None:
                self.replicas.mean_(self.stats.buffer)
                self.replicas.mean_(loss)
            for _, statistic in self._fixed:
                statistic.zero_()
            fixed = [weight.clone() for weight, _ in self._fixed]
            norm = self.optimiser.update(self.stats.buffer, lr=lr, loss=loss)
            for layer in self._layers:
                layer.project()
            # Neither decay nor moments of an earlier training may move what is not learned.
            for (weight, _), before in zip(self._fixed, fixed, strict=True):
                weight.copy_(before)
            if self.average is not None:
                share = (1 / (self.optimiser.count + 1)).clamp_min(1 - self.ema)
                self.average.lerp_(self.flat.buffer, share.to(self.average.dtype))
        extra: dict[str, Tensor | float] = {
            "train/lr": lr,
            "train/statistic_norm": norm,
            "train/skipped": self.optimiser.skipped,
        }
        copies = 1 if self.replicas is None else self.replicas.size
        return Metrics(loss, batch.count * copies, extra)

    def _fresh_statistics(self, inputs: Tensor, targets: Tensor, count: int) -> Tensor:
        self.stats.zero_()
        return self._statistics(Part(inputs, targets, count))

    def _statistics(self, batch: SequenceBatch) -> Tensor:
        if self.carried and (batch.fresh or not self._states):
            self._states = self._at_rest(len(batch.inputs))
        if self.accumulate == 1:
            loss = self._phases(batch, 0)
        else:
            parts = zip(batch.inputs.chunk(self.accumulate), batch.targets.chunk(self.accumulate), strict=True)
            count = batch.count // self.accumulate
            loss = torch.stack([self._phases(Part(*part, count), n) for n, part in enumerate(parts)]).mean()
            self.stats.buffer.div_(self.accumulate)
        if self.carried and not bool(torch.isfinite(loss)):
            # A damaged window must not spoil all that follow.
            self._states = []
        return loss

    def _at_rest(self, sequences: int) -> list[Any]:
        return [self.net.start(sequences // self.accumulate) for _ in range(self.accumulate)]

    def _phases(self, batch: SequenceBatch, part: int) -> Tensor:
        if self.groups is None:
            return self._local(batch, part)
        state = self._states[part] if self.carried else None
        collected = self.groups.collected(self.stats)
        loss = self._local(batch, part)
        self.groups.estimate(lambda: self._value(batch, state), collected, self.stats)
        return loss

    def _value(self, batch: SequenceBatch, state: Any) -> Tensor:
        ids = batch.inputs
        logits = self.net.free(ids, None) if state is None else self.net.resume(ids, state, None)[0]
        return self.loss.free(logits, batch.targets, None)

    def _local(self, batch: SequenceBatch, part: int) -> Tensor:
        """Both phases of a batch, or a part of it."""
        if self.carried:
            loss, self._states[part] = continued_statistics(
                self.net, self.loss, batch.inputs, batch.targets, self._states[part], self.stats
            )
            return loss
        if self.segment is None:
            return echo_statistics(self.net, self.loss, batch, self.stats)
        return segmented_statistics(
            self.net,
            self.loss,
            batch.inputs,
            batch.targets,
            self.stats,
            length=self.segment,
            streamed=self.streamed,
        )

    def eval_step(self, batch: SequenceBatch) -> Metrics:
        """Loss of one batch, by the averaged weights where there are any; nothing changes."""
        with no_autograd(), self.averaged():
            return Metrics(self._value(batch, None), batch.count)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While it is open, the network has its averaged weights, if there are any."""
        if self.average is None:
            yield
            return
        trained = self.flat.buffer.clone()
        self.flat.buffer.copy_(self.average)
        try:
            yield
        finally:
            self.flat.buffer.copy_(trained)

    def scale_rate(self, factor: float) -> None:
        """Multiplies the learning rate of all later steps."""
        self.rate_scale *= factor

    def release(self) -> nn.Module:
        """Hands the network back with the `requires_grad` flags it came with."""
        for name, param in self.net.named_parameters():
            param.requires_grad_(self._flags[name])
        return self.net

    def state(self) -> State:
        """Parameters, averages and buffers by name, the optimiser's moments, generators, the scale of the rate."""
        state: State = {f"model.{name}": v for name, v in self.flat.named_views(self.flat.buffer).items()}
        if self.average is not None:
            state.update({f"average.{name}": v for name, v in self.flat.named_views(self.average).items()})
        state.update({f"buffer.{name}": tensor for name, tensor in self.net.named_buffers()})
        state.update({f"optimiser.{name}": tensor for name, tensor in self.optimiser.state().items()})
        state.update({f"random.{n}": generator.get_state() for n, generator in enumerate(self._generators)})
        return state | state_tensors(self._states) | {"rate_scale": self.rate_scale}

    def load_state(self, state: Mapping[str, Tensor | Json]) -> None:
        """Copies a state in, exactly.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape or dtype differs; nothing was changed.
        """
        mine = {name: value for name, value in self.state().items() if not name.startswith(CARRIED)}
        begun = self.carried and any(name.startswith(CARRIED) for name in state)
        tensors = {k: v for k, v in state.items() if k != "rate_scale" and not (begun and k.startswith(CARRIED))}
        check_tensors({k: v for k, v in mine.items() if isinstance(v, Tensor)}, tensors)
        self._states = restored_states(self._template(), state) if begun else []
        self.rate_scale = stored_scale(state)
        with torch.no_grad():
            for name, tensor in mine.items():
                if isinstance(tensor, Tensor):
                    tensor.copy_(state[name])  # type: ignore[arg-type]
        for n, generator in enumerate(self._generators):
            stored = mine[f"random.{n}"]
            assert isinstance(stored, Tensor)
            generator.set_state(stored)

    def _template(self) -> list[Any]:
        """States as they are after a token, where some hold more than at rest."""
        ids = torch.zeros(self._batch_size // self.accumulate, 1, dtype=torch.long, device=self.flat.buffer.device)
        with no_autograd():
            return [self.net.resume(ids, state, None)[1] for state in self._at_rest(self._batch_size)]


def stored_scale(state: Mapping[str, Tensor | Json]) -> float:
    """The scale of the learning rate in a stored state; 1 where an older version stored none.

    Raises:
        CheckpointError: it is not a number above zero.
    """
    scale = state.get("rate_scale", 1.0)
    if not isinstance(scale, int | float) or not scale > 0:
        raise CheckpointError(f"the stored state holds `rate_scale` = {scale!r}, wanted a number above zero")
    return float(scale)


def check_tensors(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor | Json]) -> None:
    """Compares names, shapes and dtypes of a stored state with those that are needed.

    Raises:
        CheckpointError: lists every difference.
    """
    faults = [f"`{name}` is missing" for name in wanted.keys() - found.keys()]
    faults += [f"`{name}` is unknown" for name in found.keys() - wanted.keys()]
    for name in wanted.keys() & found.keys():
        came, need = found[name], wanted[name]
        if not isinstance(came, Tensor):
            faults.append(f"`{name}` is {type(came).__name__}, not a tensor")
        elif came.shape != need.shape or came.dtype != need.dtype:
            faults.append(f"`{name}` is {came.dtype} {tuple(came.shape)}, wanted {need.dtype} {tuple(need.shape)}")
    if faults:
        raise CheckpointError(
            "the stored state does not fit this model: " + "; ".join(sorted(faults)) + ". "
            "Load it with the configuration it was trained with"
        )
