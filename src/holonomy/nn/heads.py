"""Losses at the end of a network: a scalar in the free phase, a nudge at the start of the echo."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from holonomy.core.flat import StatBuffer
from holonomy.core.layer import PointwiseLayer
from holonomy.core.learner import IGNORE_INDEX
from holonomy.core.tape import Tape
from holonomy.geometry.action import path_action_gradient
from holonomy.nn.embedding import Embedding


class TargetPull(PointwiseLayer):
    """Passes the last hidden states on, and in the echo pulls each towards the vector of the token to predict.

    The nudge grows by kappa (h_t - E[target_t]) / M, M the number of targets: the loss by kappa / (2 M)
    sum_t |h_t - E[target_t]|^2, which is not reported. The vectors themselves feel nothing of it.

    Args:
        embedding: holds the vectors E.
        kappa: strength.
    """

    def __init__(self, embedding: Embedding, kappa: float) -> None:
        super().__init__()
        # Within a tuple it is no module of this one, whose parameters would stand twice.
        self._shared = (embedding,)
        self.kappa = kappa

    def free(self, x: Float[Tensor, "D ..."], tape: Tape | None) -> Float[Tensor, "D ..."]:
        """The input, which is the record too."""
        if tape is not None:
            tape.push(self, x)
        return x

    def echo(self, tape: Tape, g: Float[Tensor, "D batch time"], acc: StatBuffer) -> Float[Tensor, "D batch time"]:
        """Adds the pull to the nudge that passes by."""
        (x,) = tape.pop(self)
        index, valid, count = tape.take(self)
        wanted = self._shared[0].weight[:, index]
        return torch.where(valid, x - wanted, 0).mul_(self.kappa).div_(count).add_(g)


class ActionPull(PointwiseLayer):
    """Passes the last hidden states on, and in the echo shortens the path that they take.

    The nudge grows by kappa dS/dh_t / M, M the number of tokens: the loss by kappa / M times the action S of the path
    h_1, h_2, ... of each sequence in the metric |v|^2 / D with resistance 1, which is not reported. See
    `geometry.action`.

    Args:
        kappa: strength.
    """

    def __init__(self, kappa: float) -> None:
        super().__init__()
        self.kappa = kappa

    def free(self, x: Float[Tensor, "D ..."], tape: Tape | None) -> Float[Tensor, "D ..."]:
        """The input, which is the record too."""
        if tape is not None:
            tape.push(self, x)
        return x

    def echo(self, tape: Tape, g: Float[Tensor, "D batch time"], acc: StatBuffer) -> Float[Tensor, "D batch time"]:
        """Adds the slope of the action to the nudge that passes by."""
        (x,) = tape.pop(self)
        paths = x.permute(1, 2, 0)
        metric = torch.eye(len(x), dtype=x.dtype, device=x.device) / len(x)
        slope = path_action_gradient(paths, paths.new_ones(paths.shape[0], paths.shape[1] - 1), metric)
        return g + slope.permute(2, 0, 1) * (self.kappa / paths.shape[0] / paths.shape[1])


class SoftmaxCrossEntropy:
    """Mean negative log probability of the targets, in nats per token.

    Args:
        pull: a layer that wants to know the targets in the echo.
        silent: nudge by zero, so that nothing is learned: what an update does then is not due to the loss.
    """

    def __init__(self, *, pull: TargetPull | None = None, silent: bool = False) -> None:
        self.pull, self.silent = pull, silent

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
            if self.pull is not None:
                tape.leave(self.pull, index[0], valid, count)
        return loss

    def nudge(self, tape: Tape) -> Float[Tensor, "vocabulary batch time"]:
        """g = (p - onehot(target)) / count, zero where the target is `IGNORE_INDEX`."""
        log_probs, index, valid, count = tape.pop(self)
        g = log_probs.exp()
        g.scatter_add_(0, index, torch.full_like(g[:1], -1.0))
        return g.zero_() if self.silent else g.mul_(valid).div_(count)
