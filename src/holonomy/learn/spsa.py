"""Learning from differences of the loss alone: the baseline that other rules must beat, see `learn.perturbation`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from holonomy.core.flat import FlatParams
from holonomy.core.layer import EchoLayer, EchoLoss, decayed_names
from holonomy.core.learner import Json, Metrics, State
from holonomy.core.nograd import no_autograd
from holonomy.learn.echo import SequenceBatch, check_tensors, stored_scale
from holonomy.learn.perturbation import check_moves, estimated_slopes
from holonomy.optim.contrastive import AdamW


class SPSALearner:
    """Trains a network by evaluating it.

    Args:
        net: maps token ids [B, T] to logits [V, B, T].
        loss: compares the logits with the targets.
        optimiser: builds the optimiser from the flat parameters and the length of their decayed prefix.
        schedule: learning rate as a function of the used share of the budget.
        epsilon: how far parameters are moved.
        samples: directions whose estimates are averaged; each costs two evaluations.
        seed: of the directions.

    Raises:
        ConfigError: epsilon or samples is not above zero.
    """

    def __init__(
        self,
        net: EchoLayer,
        loss: EchoLoss,
        *,
        optimiser: Callable[[Tensor, int], AdamW],
        schedule: Callable[[float], float],
        epsilon: float = 1e-2,
        samples: int = 1,
        seed: int = 0,
    ) -> None:
        check_moves(epsilon, samples)
        self.net, self.loss, self.schedule = net, loss, schedule
        self.epsilon, self.samples, self.rate_scale = epsilon, samples, 1.0
        net.requires_grad_(False)
        self.flat = FlatParams(net, decayed_names(net))
        self.optimiser = optimiser(self.flat.buffer, self.flat.num_decayed)
        self._generator = torch.Generator(self.flat.buffer.device).manual_seed(seed)

    def setup(self, example_batch: SequenceBatch) -> None:
        """Nothing depends on the shape of a batch."""

    def _value(self, batch: SequenceBatch) -> Tensor:
        return self.loss.free(self.net.free(batch.inputs, None), batch.targets, None)

    def estimate(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """An estimate of the gradient, [P], and the mean of the losses it took; the parameters come back exactly."""
        (found,), mean = estimated_slopes(
            lambda: self._value(batch),
            [self.flat.buffer],
            epsilon=self.epsilon,
            samples=self.samples,
            generator=self._generator,
        )
        return found, mean

    def train_step(self, batch: SequenceBatch, *, progress: float) -> Metrics:
        """2 x `samples` evaluations, one update, projection of the parameters into their domains."""
        lr = self.schedule(progress) * self.rate_scale
        with no_autograd():
            estimate, loss = self.estimate(batch)
            norm = self.optimiser.update(estimate, lr=lr, loss=loss.to(estimate.dtype))
            for layer in self.net.modules():
                if isinstance(layer, EchoLayer):
                    layer.project()
        return Metrics(loss, batch.count, {"train/lr": lr, "train/statistic_norm": norm})

    def eval_step(self, batch: SequenceBatch) -> Metrics:
        """Loss of one batch; nothing changes."""
        with no_autograd():
            return Metrics(self._value(batch), batch.count)

    def scale_rate(self, factor: float) -> None:
        """Multiplies the learning rate of all later steps."""
        self.rate_scale *= factor

    def state(self) -> State:
        """Parameters and moments by name, the generator, and the scale of the rate."""
        state: State = {f"model.{name}": v for name, v in self.flat.named_views(self.flat.buffer).items()}
        state.update({f"optimiser.{name}": tensor for name, tensor in self.optimiser.state().items()})
        return state | {"random": self._generator.get_state(), "rate_scale": self.rate_scale}

    def load_state(self, state: Mapping[str, Tensor | Json]) -> None:
        """Copies a state in, exactly.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape or dtype differs; nothing was changed.
        """
        mine = {k: v for k, v in self.state().items() if isinstance(v, Tensor)}
        check_tensors(mine, {k: v for k, v in state.items() if k != "rate_scale"})
        self.rate_scale = stored_scale(state)
        for name, tensor in mine.items():
            tensor.copy_(state[name])  # type: ignore[arg-type]
        self._generator.set_state(mine["random"])
