"""Learning by torch autograd: for models that are graphs, and as the twin that echo learning is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from holonomy.core.errors import CheckpointError
from holonomy.core.layer import EchoLayer, EchoLoss, decayed_names
from holonomy.core.learner import Json, Metrics, Replicas, State
from holonomy.learn.echo import SequenceBatch, check_tensors, stored_scale


class GradientLearner:
    """Trains a module with `torch.optim.AdamW`; a subclass says what a batch costs.

    A group of parameters may carry `lr_scale`, its learning rate as a share of the schedule's.

    Args:
        module: what is trained; the names of its parameters and persistent buffers name the state.
        groups: parameter groups of the optimiser.
        betas, eps, clip: as in `holonomy.optim.contrastive.AdamW`.
        schedule: learning rate as a function of the used share of the budget.
        fused: one kernel for all parameters.
        replicas: processes whose gradients are averaged before each update; None is this one alone.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float,
        clip: float,
        schedule: Callable[[float], float],
        fused: bool = False,
        replicas: Replicas | None = None,
    ) -> None:
        self.module, self.clip, self.schedule = module, clip, schedule
        self.rate_scale, self.replicas, self.fused = 1.0, replicas, fused
        self.optimiser = torch.optim.AdamW(list(groups), lr=1.0, betas=betas, eps=eps, fused=fused or None)

    def objective(self, batch: Any, progress: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """What a batch costs, with its graph, and what else there is to report."""
        raise TypeError(f"{type(self).__name__} does not say what a batch costs: override `objective`")

    def settle(self) -> None:
        """After an update: whatever keeps parameters where they belong."""

    def setup(self, example_batch: Any) -> None:
        """Nothing depends on the shape of a batch."""

    def train_step(self, batch: Any, *, progress: float) -> Metrics:
        """Forward, backward, clipping, one AdamW step, projection of the parameters."""
        lr = self.schedule(progress) * self.rate_scale
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        self.optimiser.zero_grad(set_to_none=True)
        loss, extra = self.objective(batch, progress)
        loss.backward()
        value, copies = loss.detach(), 1
        if self.replicas is not None:
            copies = self.replicas.size
            self._average(value)
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        sound = torch.isfinite(norm) & torch.isfinite(value)
        if self.fused:
            # As under a gradient scaler: the kernel itself leaves the step out, and no device is waited for.
            self.optimiser.found_inf = (~sound).to(torch.float32)  # type: ignore[attr-defined]
            self.optimiser.step()
        # Reads the norm, so a GPU waits here; the echo learner decides the same on the device.
        elif bool(sound):
            self.optimiser.step()
        with torch.no_grad():
            self.settle()
        return Metrics(value, batch.count * copies, {"train/lr": lr, "train/statistic_norm": norm, **extra})

    def _average(self, loss: Tensor) -> None:
        """Averages loss and gradients over the processes, in one exchange."""
        assert self.replicas is not None
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        flat = torch.cat([loss.reshape(1), *(g.flatten() for g in gradients)])
        self.replicas.mean_(flat)
        loss.copy_(flat[0])
        for gradient, mean in zip(gradients, flat[1:].split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def scale_rate(self, factor: float) -> None:
        """Multiplies the learning rate of all later steps."""
        self.rate_scale *= factor

    def _named(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by name."""
        return self.module.state_dict(keep_vars=True)

    def state(self) -> State:
        """Parameters and moments by name, and the scale of the rate."""
        named = self._named()
        state: State = {f"model.{name}": p.detach() for name, p in named.items()}
        for name, param in named.items():
            for key, value in self.optimiser.state.get(param, {}).items():
                state[f"optimiser.{name}.{key}"] = value
        return state | {"rate_scale": self.rate_scale}

    def load_state(self, state: Mapping[str, Tensor | Json]) -> None:
        """Copies a state in, exactly.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape or dtype differs; nothing was changed.
        """
        named = self._named()
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


class AutogradLearner(GradientLearner):
    """The twin of the echo learner: a network through its differentiable `forward`. No recipe uses it.

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
        self.net, self.loss = net, loss
        decayed = decayed_names(net)
        named = dict(net.named_parameters())
        groups = [
            {"params": [p for n, p in named.items() if n in decayed], "weight_decay": decay},
            {"params": [p for n, p in named.items() if n not in decayed], "weight_decay": 0.0},
        ]
        super().__init__(net, groups, betas=betas, eps=eps, clip=clip, schedule=schedule, replicas=replicas)

    def objective(self, batch: SequenceBatch, progress: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss of the targets."""
        return self.loss.free(self.net(batch.inputs), batch.targets, None), {}

    def settle(self) -> None:
        """Projects the layers."""
        for layer in self.net.modules():
            if isinstance(layer, EchoLayer):
                layer.project()

    def eval_step(self, batch: SequenceBatch) -> Metrics:
        """Loss of one batch; nothing changes."""
        with torch.no_grad():
            return Metrics(self.loss.free(self.net(batch.inputs), batch.targets, None), batch.count)
