"""Losses at the end of a network: a scalar in the free phase, a nudge at the start of the echo."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from holonomy.core.learner import IGNORE_INDEX
from holonomy.core.tape import Tape


class SoftmaxCrossEntropy:
    """Mean negative log probability of the targets, in nats per token."""

    def free(
        self,
        logits: Float[Tensor, "vocabulary batch time"],
        targets: Int[Tensor, "batch time"],
        tape: Tape | None,
    ) -> Float[Tensor, ""]:
        """Returns the mean over all places whose target is not `IGNORE_INDEX`; the record is what `nudge` needs."""
        log_probs = F.log_softmax(logits, 0)
        valid = targets != IGNORE_INDEX
        index = targets.clamp_min(0).unsqueeze(0)
        count = valid.sum().clamp_min(1)
        loss = -(log_probs.gather(0, index)[0] * valid).sum() / count
        if tape is not None:
            tape.push(self, log_probs, index, valid, count)
        return loss

    def nudge(self, tape: Tape) -> Float[Tensor, "vocabulary batch time"]:
        """g = (p - onehot(target)) / count, zero where the target is `IGNORE_INDEX`."""
        log_probs, index, valid, count = tape.pop(self)
        g = log_probs.exp()
        g.scatter_add_(0, index, torch.full_like(g[:1], -1.0))
        return g.mul_(valid).div_(count)
