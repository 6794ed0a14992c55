"""The echo learner of a lior configuration."""

from __future__ import annotations

import torch
from torch import Tensor

from holonomy.core.learner import Replicas
from holonomy.learn.echo import EchoLearner
from holonomy.models.lior.config import LiorConfig, OptimConfig
from holonomy.models.lior.model import build_network
from holonomy.nn.heads import SoftmaxCrossEntropy
from holonomy.optim.contrastive import AdamW
from holonomy.optim.schedules import learning_rate


def build_learner(
    config: LiorConfig, *, vocab_size: int, device: torch.device | None = None, replicas: Replicas | None = None
) -> EchoLearner:
    """Builds network, optimiser and schedule; equal configurations give equal learners, bit for bit."""
    optim = config.train.optim
    return EchoLearner(
        build_network(config, vocab_size=vocab_size).to(device),
        SoftmaxCrossEntropy(),
        optimiser=lambda params, num_decayed: flat_adamw(optim, params, num_decayed),
        schedule=lambda progress: learning_rate(progress, config.train.schedule, optim.lr),
        accumulate=config.train.accumulate,
        segment=None if config.train.echo.memory == "full" else config.train.echo.segment,
        streamed=config.train.echo.memory == "streamed",
        carried=config.data.carried,
        ema=optim.ema,
        replicas=replicas,
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
