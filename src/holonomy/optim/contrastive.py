"""Optimisers that turn a vector of statistics into an update of a vector of parameters.

No autograd hook, no `.grad`, no loop over parameters: a handful of vector operations on flat buffers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2) on a flat buffer.

    A statistic that is not finite changes nothing: parameters, moments and the step counter stay, and
    `skipped` grows by one. The decision is a tensor, so no step waits for the device.

    Args:
        params: the parameters, shape [P]; updated in place.
        num_decayed: decay applies to this prefix of the buffer.
        betas: decay of the first and of the second moment.
        eps: added to the root of the second moment.
        decay: weight decay per unit of learning rate.
        clip: largest L2 norm of the statistics; longer ones are scaled down to it.

    Attributes:
        skipped: number of updates refused so far, a scalar tensor.
    """

    def __init__(
        self,
        params: Float[Tensor, " P"],
        *,
        num_decayed: int,
        betas: tuple[float, float],
        eps: float,
        decay: float,
        clip: float,
    ) -> None:
        self.params, self.num_decayed = params, num_decayed
        self.betas, self.eps, self.decay, self.clip = betas, eps, decay, clip
        self.first, self.second = torch.zeros_like(params), torch.zeros_like(params)
        self.count = torch.zeros((), dtype=torch.float64, device=params.device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=params.device)
        self._scratch = torch.empty_like(params)

    def update(self, stats: Float[Tensor, " P"], *, lr: float, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Applies one update in place; `stats` is overwritten.

        Returns:
            The L2 norm of the statistics before clipping.
        """
        norm = torch.linalg.vector_norm(stats)
        fine = torch.isfinite(norm) & torch.isfinite(loss)
        stats.mul_((self.clip / (norm + 1e-6)).clamp_max(1.0)).masked_fill_(~fine, 0.0)
        live = fine.to(self.count.dtype)
        self.count += live
        self.skipped += ~fine
        b1, b2 = self.betas
        live = live.to(stats.dtype)
        self.first.lerp_(stats, live * (1 - b1))
        self.second.lerp_(stats.square_(), live * (1 - b2))
        first_bias, second_bias = 1 - b1**self.count, 1 - b2**self.count
        rate = torch.where(fine, lr / first_bias, 0.0).to(stats.dtype)
        root = torch.sqrt(self.second, out=self._scratch)
        root.div_(second_bias.sqrt().clamp_min(1e-12)).add_(self.eps)
        self.params[: self.num_decayed].mul_(1 - lr * self.decay * live)
        self.params.sub_(torch.div(self.first, root, out=root).mul_(rate))
        return norm

    def state(self) -> dict[str, Tensor]:
        """The moments and counters, by name."""
        return {"first": self.first, "second": self.second, "count": self.count, "skipped": self.skipped}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copies moments and counters in; names and shapes must be those of `state`."""
        for name, mine in self.state().items():
            mine.copy_(state[name])
