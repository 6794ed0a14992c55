"""Learning by torch autograd: the twin that echo learning is compared with. No recipe uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from holonomy.core.errors import CheckpointError
from holonomy.core.layer import EchoLayer, EchoLoss, decayed_names
from holonomy.core.learner import Json, Metrics, Replicas, State
from holonomy.learn.echo import SequenceBatch, check_tensors, stored_scale


class AutogradLearner:
    """Trains a network through its differentiable `forward` with `torch.optim.AdamW`.

    Args:
        net: maps token ids [B, T] to logits [V, B, T].
        loss: compares the logits with the targets.
        betas, eps, decay, clip: as in `holonomy.optim.contrastive.AdamW`.
        schedule: learning rate as a function of the used share of the budget.
        replicas: processes whose gradients are averaged before each update; None is this one alone.
    """

    def __init__(
        self,
        net: EchoLayer,
        loss: EchoLoss,
        *,
        betas: tuple[float, float],
        eps: float,
        decay: float,
        clip: float,
        schedule: Callable[[float], float],
        replicas: Replicas | None = None,
    ) -> None:
        self.net, self.loss, self.clip, self.schedule = net, loss, clip, schedule
        self.rate_scale, self.replicas = 1.0, replicas
        decayed = decayed_names(net)
        named = dict(net.named_parameters())
        groups = [
            {"params": [p for n, p in named.items() if n in decayed], "weight_decay": decay},
            {"params": [p for n, p in named.items() if n not in decayed], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=eps)

    def setup(self, example_batch: SequenceBatch) -> None:
        """Nothing depends on the shape of a batch."""

    def train_step(self, batch: SequenceBatch, *, progress: float) -> Metrics:
        """Forward, backward, clipping, one AdamW step, projection of the parameters."""
        lr = self.schedule(progress) * self.rate_scale
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss.free(self.net(batch.inputs), batch.targets, None)
        loss.backward()
        value, copies = loss.detach(), 1
        if self.replicas is not None:
            copies = self.replicas.size
            self._average(value)
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        # Reads the norm, so a GPU waits here; the echo learner decides the same on the device.
        if bool(torch.isfinite(norm) & torch.isfinite(value)):
            self.optimiser.step()
        with torch.no_grad():
            for layer in self.net.modules():
                if isinstance(layer, EchoLayer):
                    layer.project()
        return Metrics(value, batch.count * copies, {"train/lr": lr, "train/statistic_norm": norm})

    def _average(self, loss: Tensor) -> None:
        """Averages loss and gradients over the processes, in one exchange."""
        assert self.replicas is not None
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        flat = torch.cat([loss.reshape(1), *(g.flatten() for g in gradients)])
        self.replicas.mean_(flat)
        loss.copy_(flat[0])
        for gradient, mean in zip(gradients, flat[1:].split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def eval_step(self, batch: SequenceBatch) -> Metrics:
        """Loss of one batch; nothing changes."""
        with torch.no_grad():
            return Metrics(self.loss.free(self.net(batch.inputs), batch.targets, None), batch.count)

    def scale_rate(self, factor: float) -> None:
        """Multiplies the learning rate of all later steps."""
        self.rate_scale *= factor

    def state(self) -> State:
        """Parameters and moments by name, and the scale of the rate."""
        state: State = {f"model.{name}": p.detach() for name, p in self.net.named_parameters()}
        for name, param in self.net.named_parameters():
            for key, value in self.optimiser.state.get(param, {}).items():
                state[f"optimiser.{name}.{key}"] = value
        return state | {"rate_scale": self.rate_scale}

    def load_state(self, state: Mapping[str, Tensor | Json]) -> None:
        """Copies a state in, exactly.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape or dtype differs; nothing was changed.
        """
        named = dict(self.net.named_parameters())
        moments: dict[str, dict[str, Tensor]] = {}
        for full, value in state.items():
            kind, _, rest = full.partition(".")
            name, _, key = rest.rpartition(".")
            if kind == "optimiser" and name in named and isinstance(value, Tensor):
                moments.setdefault(name, {})[key] = value.clone()
            elif kind != "model" and full != "rate_scale":
                raise CheckpointError(f"the stored state holds `{full}`, which this model does not have")
        models = {k: v for k, v in state.items() if k.startswith("model.")}
        check_tensors({f"model.{n}": p for n, p in named.items()}, models)
        self.rate_scale = stored_scale(state)
        with torch.no_grad():
            for name, param in named.items():
                param.copy_(models[f"model.{name}"])  # type: ignore[arg-type]
                if name in moments:
                    self.optimiser.state[param] = moments[name]
