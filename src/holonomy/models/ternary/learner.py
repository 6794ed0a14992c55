"""The learner of a ternary configuration: autograd through the autoencoder and its losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from holonomy.core.errors import CheckpointError
from holonomy.core.learner import Json, Metrics, Replicas, State
from holonomy.data.ternary_ops import OperationBatch, OperationSpace
from holonomy.learn.autograd import GradientLearner
from holonomy.models.ternary import losses_pair, losses_radial
from holonomy.models.ternary.config import TernaryConfig
from holonomy.models.ternary.losses import LossContext, LossStack, build_stack
from holonomy.models.ternary.model import TernaryOutput, TernaryVAE, build_model
from holonomy.optim.schedules import learning_rate

TERM_MODULES = (losses_pair, losses_radial)
"""Modules whose import makes their terms known."""


class TernaryNet(nn.Module):
    """Everything that learns: the autoencoder and the parameters that losses own.

    Args:
        vae: the autoencoder.
        stack: the losses.
    """

    def __init__(self, vae: TernaryVAE, stack: LossStack) -> None:
        super().__init__()
        self.vae, self.stack = vae, stack


class TernaryLearner(GradientLearner):
    """Trains the autoencoder on batches of operations.

    Noise, pairs and triples of a step follow from the seed and the number of the step.

    Args:
        config: the whole configuration.
        space: the operations.
        replicas: processes whose gradients are averaged; None is this one alone.
    """

    module: TernaryNet

    def __init__(self, config: TernaryConfig, space: OperationSpace, *, replicas: Replicas | None = None) -> None:
        self.config, self.space, self.steps = config, space, 0
        vae = build_model(config, space)
        self.stack = _seeded_stack(config, space)
        self.decode_B = "align" in self.stack.names
        optim = config.train.optim
        super().__init__(
            TernaryNet(vae, self.stack),
            _groups(vae, self.stack, config),
            betas=optim.betas,
            eps=optim.eps,
            clip=optim.clip,
            schedule=lambda progress: learning_rate(progress, config.train.schedule, optim.lr),
            fused=space.index.device.type in ("cpu", "cuda"),
            replicas=replicas,
        )

    @property
    def vae(self) -> TernaryVAE:
        """The autoencoder."""
        return self.module.vae

    def generator(self, step: int) -> torch.Generator:
        """Randomness of a step."""
        return torch.Generator().manual_seed((self.config.train.seed << 32) + step)

    def context(self, batch: OperationBatch, generator: torch.Generator) -> LossContext:
        """What the losses see of a batch."""
        return LossContext(self.space, batch.index, generator, batch.unbias)

    def outputs(self, batch: OperationBatch, generator: torch.Generator) -> tuple[TernaryOutput, LossContext]:
        """The model's output with the noise of learning, and the context of the losses."""
        out = self.vae(self.vae.table_of(batch.index), generator=generator, decode_B=self.decode_B)
        return out, self.context(batch, generator)

    def phase(self, progress: float) -> int:
        """0 for structure, 1 for geometry."""
        return int(progress >= self.config.phases.geometry_start)

    def objective(self, batch: OperationBatch, progress: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The weighted losses of the batch."""
        out, context = self.outputs(batch, self.generator(self.steps))
        total, metrics = self.stack(out, context, phase=self.phase(progress))
        self.steps += 1
        return total, {f"train/{name}": value for name, value in metrics.items()}

    def eval_step(self, batch: OperationBatch) -> Metrics:
        """Weighted losses of a batch without noise; nothing changes."""
        self.module.eval()
        with torch.no_grad():
            out = self.vae(self.vae.table_of(batch.index), decode_B=self.decode_B)
            total, _ = self.stack(out, self.context(batch, self.generator(0)))
        self.module.train()
        return Metrics(total, batch.count)

    def state(self) -> State:
        """As for every gradient learner, and the number of steps."""
        return super().state() | {"steps": self.steps}

    def load_state(self, state: Mapping[str, Tensor | Json]) -> None:
        """Copies a state in, exactly.

        Raises:
            CheckpointError: as for every gradient learner, or it has no number of steps.
        """
        rest = dict(state)
        steps = rest.pop("steps", None)
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise CheckpointError(f"the stored state has `steps` = {steps!r}, wanted a number of updates")
        super().load_state(rest)
        self.steps = steps


def offers(config: TernaryConfig) -> frozenset[str]:
    """What the model of a configuration gives to losses; see `LossTerm.needs`."""
    model = config.model
    given = {
        "logvar": model.posterior != "point",
        "centre": model.posterior == "wrapped_normal",
        "logits_B": model.sharing == "separate" and model.decode_from == "A",
        "hyperbolic": model.geometry == "hyperbolic",
    }
    return frozenset(name for name, there in given.items() if there)


def _seeded_stack(config: TernaryConfig, space: OperationSpace) -> LossStack:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed + 1)
        return build_stack(
            config.loss,
            space,
            max_radius=config.model.projection.max_radius,
            latent_dim=config.model.latent_dim,
            offers=offers(config),
        )


def _groups(vae: TernaryVAE, stack: LossStack, config: TernaryConfig) -> list[dict[str, object]]:
    """Parameter groups: encoders and curvature have learning rates of their own."""
    optim = config.train.optim
    encoders, curvature = list(vae.encoder.parameters()), list(vae.curvature.parameters())
    apart = {id(p) for p in (*encoders, *curvature)}
    rest = [p for p in (*vae.parameters(), *stack.parameters()) if id(p) not in apart and p.requires_grad]
    groups: list[dict[str, object]] = [
        {"params": encoders, "weight_decay": optim.decay, "lr_scale": optim.encoder_scale},
        {"params": rest, "weight_decay": optim.decay},
    ]
    if curvature:
        scale = config.model.curvature.lr_scale
        groups.append({"params": curvature, "weight_decay": 0.0, "lr_scale": scale})
    return groups
