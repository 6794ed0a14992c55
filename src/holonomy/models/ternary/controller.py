"""Weights of the losses by a small net, which learns from held-out gradients and never from the loss it weighs.

Trained on the weighted loss itself, a controller finds that small weights make it small: they run to their bounds. It
learns instead from what a step does for an independent batch (Baydin et al. 2018, of which this is the first order): a
step along the gradient G_i of group i lowers the fixed objective by lr <G_val, G_i>. Only the direction of a gradient
is used, and only its advantage over the other groups, since the optimiser cancels a common factor anyway; a quadratic
pull towards the configured weights bounds what a constant advantage can do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

SIGNALS = 8
MOMENTUM = 0.99
"""How much of the running mean of a measured number is kept per update of the controller."""
PULL = 0.5
"""Curvature of the pull: an advantage of 1 in cosine moves a weight by a factor e^2 at most."""


class WeightController(nn.Module):
    """Multiples of the weights of loss groups, of geometric mean 1 and within [1 / limit, limit].

    Args:
        groups: names of the groups.
        limit: largest multiple.
        lr: learning rate.
        exchange: largest share of stream B in what pair losses of stream A see; 0 for no such output.
    """

    means: Tensor
    current: Tensor

    def __init__(self, groups: Sequence[str], *, limit: float, lr: float, exchange: float = 0.0) -> None:
        super().__init__()
        self.groups, self.reach, self.exchange = list(groups), math.log(limit) / 2, exchange
        width = len(self.groups) + bool(exchange)
        self.net = nn.Sequential(
            nn.Linear(SIGNALS, 32),
            nn.LayerNorm(32),
            nn.SiLU(),
            nn.Linear(32, 32),
            nn.SiLU(),
            nn.Linear(32, width),
        )
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight *= 0.01
            last.bias.zero_()
        self.register_buffer("means", torch.zeros(SIGNALS))
        self.register_buffer("current", torch.zeros(width))
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=lr)

    def observe(self, signals: Float[Tensor, " 8"]) -> None:
        """Takes measured numbers into their running means."""
        fresh = signals.detach().log1p()
        first = (self.means == 0).all()
        self.means.copy_(torch.where(first, fresh, MOMENTUM * self.means + (1 - MOMENTUM) * fresh))

    def log_factors(self, signals: Float[Tensor, " 8"]) -> Float[Tensor, " outputs"]:
        """Logarithms of the multiples, of mean 0, and the logit of the share where there is one."""
        found = self.net(signals.detach().log1p() / self.means.clamp_min(1e-6))
        height = self.reach * torch.tanh(found[: len(self.groups)])
        return torch.cat([height - height.mean(), found[len(self.groups) :]])

    def factors(self) -> dict[str, Tensor]:
        """Multiples by group since the last update, without a graph: the loss that they weigh does not train them."""
        return dict(zip(self.groups, self.current[: len(self.groups)].exp(), strict=True))

    @property
    def share(self) -> Float[Tensor, ""]:
        """Share of stream B in what pair losses of stream A see; half of the largest at the start."""
        return self.exchange * torch.sigmoid(self.current[len(self.groups) :].sum())

    def learn(
        self,
        signals: Float[Tensor, " 8"],
        gradients: Mapping[str, Tensor],
        held_out: Float[Tensor, " p"],
        *,
        mixing: Float[Tensor, " p"] | None = None,
    ) -> Float[Tensor, " outputs"]:
        """One update from flat gradients of the groups and of the fixed objective on an independent batch.

        Args:
            signals: measured numbers.
            gradients: by group.
            held_out: gradient of the fixed objective.
            mixing: by how much the gradient of the pair losses changes from no share to the largest one.

        Returns:
            The cosines of the gradients, and of the change, with that of the objective.
        """
        tiny = torch.finfo(held_out.dtype).tiny
        seen = [*(gradients[name] for name in self.groups), *([] if mixing is None else [mixing])]
        cosines = torch.stack([(g * held_out).sum() / (g.norm() * held_out.norm()).clamp_min(tiny) for g in seen])
        logs = self.log_factors(signals)
        self.optimiser.zero_grad(set_to_none=True)
        (PULL / 2 * logs.square().sum() - (cosines * logs).sum()).backward()
        self.optimiser.step()
        self.current.copy_(self.log_factors(signals).detach())
        return cosines


STARTED = 10
"""Measurements whose mean is the start that losses are compared with."""
LEAST = 1e-3
"""Lowest multiple of a weight by gradient norms."""


class GradNorm(nn.Module):
    """Multiples of the weights by which no group of losses trains faster than the others (Chen et al. 2018).

    With G_i the norm of the gradient of the weighted loss i by the last shared layer, and r_i its loss as a share of
    its start, divided by the mean of these shares, the multiples w follow sum_i |G_i - mean(G) r_i^alpha| downwards,
    the target held fixed; then they are kept above 10^-3 and scaled to a sum of one each.

    Args:
        groups: names of the groups.
        lr: learning rate.
        restoring: alpha; the larger, the more a slow group is favoured.
    """

    start: Tensor
    seen: Tensor

    def __init__(self, groups: Sequence[str], *, lr: float, restoring: float) -> None:
        super().__init__()
        self.groups, self.restoring = list(groups), restoring
        self.weight = nn.Parameter(torch.ones(len(self.groups)))
        self.register_buffer("start", torch.zeros(len(self.groups)))
        self.register_buffer("seen", torch.zeros(len(self.groups)))
        self.optimiser = torch.optim.Adam([self.weight], lr=lr)

    def factors(self) -> dict[str, Tensor]:
        """Multiples by group, without a graph."""
        return dict(zip(self.groups, self.weight.detach().clone(), strict=True))

    def cost(self, losses: Float[Tensor, " groups"], norms: Float[Tensor, " groups"]) -> Float[Tensor, ""]:
        """sum |G_i - mean(G) r_i^alpha| with G_i = w_i norm_i, by w alone differentiable; resting groups have no part.

        Args:
            losses: configured losses of the groups, multiples left out.
            norms: norms of their gradients by the last shared layer, multiples left out.
        """
        at_work = losses != 0
        share = (losses.detach() / self.start)[at_work]
        weighted = (self.weight * norms.detach())[at_work]
        wanted = weighted.mean() * (share / share.mean()) ** self.restoring
        return (weighted - wanted.detach()).abs().sum()

    def learn(self, losses: Float[Tensor, " groups"], norms: Float[Tensor, " groups"]) -> None:
        """One update of the multiples; the first ten measurements of a group only say where its loss starts."""
        at_work = losses.detach() != 0
        begun = at_work & (self.seen < STARTED)
        self.start.add_(losses.detach() * begun / STARTED)
        self.seen.add_(begun)
        if bool(begun.any()) or not bool(at_work.any()):
            return
        self.optimiser.zero_grad(set_to_none=True)
        self.cost(losses, norms).backward()
        self.optimiser.step()
        with torch.no_grad():
            self.weight.clamp_min_(LEAST)
            self.weight.mul_(len(self.groups) / self.weight.sum())
