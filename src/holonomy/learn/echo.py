"""Two-phase (echo) learning: a free pass, a nudge at the output, and its echo back through the layers.

Sources: recurrent Hamiltonian echo learning (Pourcel & Ernoult 2025), equilibrium propagation (Scellier &
Bengio 2017), contrast of Boltzmann distributions, reciprocity of symmetric linear systems. The rule is local
in the layers and exact in the limit of a small nudge; no autograd graph is built and no `.grad` is written.
Static maps use hand-written local vector-Jacobian products, so the chain rule is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from holonomy.core.errors import CheckpointError
from holonomy.core.flat import FlatParams, StatBuffer
from holonomy.core.layer import EchoLayer, EchoLoss, decayed_names
from holonomy.core.learner import Json, Metrics, State
from holonomy.core.nograd import no_autograd
from holonomy.core.tape import Tape
from holonomy.optim.contrastive import AdamW


class SequenceBatch(Protocol):
    """Token ids and the ids to predict, both [batch, time]."""

    @property
    def inputs(self) -> Tensor: ...

    @property
    def targets(self) -> Tensor: ...

    @property
    def count(self) -> int: ...


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
    """

    def __init__(
        self,
        net: EchoLayer,
        loss: EchoLoss,
        *,
        optimiser: Callable[[Tensor, int], AdamW],
        schedule: Callable[[float], float],
    ) -> None:
        self.net, self.loss = net, loss
        self._flags = {name: p.requires_grad for name, p in net.named_parameters()}
        net.requires_grad_(False)
        self.flat = FlatParams(net, decayed_names(net))
        self.stats = self.flat.statistics()
        self.optimiser = optimiser(self.flat.buffer, self.flat.num_decayed)
        self.schedule = schedule
        self._layers = [m for m in net.modules() if isinstance(m, EchoLayer)]
        drawing = {id(m.generator): m.generator for m in self._layers if m.generator is not None}
        self._generators = list(drawing.values())

    def setup(self, example_batch: SequenceBatch) -> None:
        """Nothing depends on the shape of a batch."""

    def train_step(self, batch: SequenceBatch, *, progress: float) -> Metrics:
        """Free phase, echo phase, one update, projection of the parameters into their domains."""
        lr = self.schedule(progress)
        with no_autograd():
            self.stats.zero_()
            loss = echo_statistics(self.net, self.loss, batch, self.stats)
            norm = self.optimiser.update(self.stats.buffer, lr=lr, loss=loss)
            for layer in self._layers:
                layer.project()
        extra: dict[str, Tensor | float] = {
            "train/lr": lr,
            "train/statistic_norm": norm,
            "train/skipped": self.optimiser.skipped,
        }
        return Metrics(loss, batch.count, extra)

    def eval_step(self, batch: SequenceBatch) -> Metrics:
        """Loss of one batch; nothing changes."""
        with no_autograd():
            return Metrics(self.loss.free(self.net.free(batch.inputs, None), batch.targets, None), batch.count)

    def release(self) -> nn.Module:
        """Hands the network back with the `requires_grad` flags it came with."""
        for name, param in self.net.named_parameters():
            param.requires_grad_(self._flags[name])
        return self.net

    def state(self) -> State:
        """Parameters by their names, the optimiser's moments, and the states of random generators."""
        state: State = {f"model.{name}": v for name, v in self.flat.named_views(self.flat.buffer).items()}
        state.update({f"optimiser.{name}": tensor for name, tensor in self.optimiser.state().items()})
        state.update({f"random.{n}": generator.get_state() for n, generator in enumerate(self._generators)})
        return state

    def load_state(self, state: Mapping[str, Tensor | Json]) -> None:
        """Copies a state in, exactly.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape or dtype differs; nothing was changed.
        """
        mine = self.state()
        check_tensors({k: v for k, v in mine.items() if isinstance(v, Tensor)}, state)
        with torch.no_grad():
            for name, tensor in mine.items():
                if isinstance(tensor, Tensor):
                    tensor.copy_(state[name])  # type: ignore[arg-type]
        for n, generator in enumerate(self._generators):
            stored = mine[f"random.{n}"]
            assert isinstance(stored, Tensor)
            generator.set_state(stored)


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
