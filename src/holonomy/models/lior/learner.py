"""The echo learner of a lior configuration."""

from __future__ import annotations

import torch
from torch import Tensor

from holonomy.core.flat import FlatParams
from holonomy.core.learner import Replicas
from holonomy.learn.echo import EchoLearner
from holonomy.learn.perturbation import PerturbedGroups
from holonomy.models.lior.config import LiorConfig, OptimConfig
from holonomy.models.lior.model import build_network
from holonomy.nn.heads import SoftmaxCrossEntropy, TargetPull
from holonomy.optim.contrastive import AdamW
from holonomy.optim.schedules import learning_rate


def build_learner(
    config: LiorConfig, *, vocab_size: int, device: torch.device | None = None, replicas: Replicas | None = None
) -> EchoLearner:
    """Builds network, optimiser and schedule; equal configurations give equal learners, bit for bit."""
    optim, spsa = config.train.optim, config.train.spsa
    net = build_network(config, vocab_size=vocab_size).to(device)
    pull = next((layer for layer in net if isinstance(layer, TargetPull)), None)

    def groups(flat: FlatParams) -> PerturbedGroups:
        return PerturbedGroups(flat, spsa.groups, epsilon=spsa.epsilon, samples=spsa.samples, seed=config.train.seed)

    return EchoLearner(
        net,
        SoftmaxCrossEntropy(pull=pull, silent=config.train.echo.nudge == "off"),
        optimiser=lambda params, num_decayed: flat_adamw(optim, params, num_decayed),
        schedule=lambda progress: learning_rate(progress, config.train.schedule, optim.lr),
        accumulate=config.train.accumulate,
        segment=None if config.train.echo.memory == "full" else config.train.echo.segment,
        streamed=config.train.echo.memory == "streamed",
        groups=groups if spsa.groups else None,
        carried=config.data.carried > 1,
        ema=optim.ema,
        replicas=replicas,
        captured=config.train.cuda_graphs,
    )


def flat_adamw(optim: OptimConfig, params: Tensor, num_decayed: int) -> AdamW:
    """AdamW of a configuration on a flat buffer."""
    return AdamW(
        params,
        num_decayed=num_decayed,
        betas=optim.betas,
        eps=optim.eps,
        decay=optim.decay,
        clip=optim.clip,
    )
