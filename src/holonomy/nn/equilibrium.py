"""Units that settle: a map that is the minimum of an energy, and learns from how the minimum moves under a nudge.

E(s; u) = sum_n int_0^{s_n} artanh - s^T W s / 2 - s^T u with symmetric W, so that s = tanh(W s + u) at rest. Echo
(equilibrium propagation, Scellier & Bengio 2017; both signs, Laborieux et al. 2021): with a nudge b g . s added to the
energy the units come to rest at s(b), and dL/dtheta = (E_theta(s(b)) - E_theta(s(-b))) / 2b, of which the bias is b^2.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holonomy.core.flat import StatBuffer
from holonomy.core.layer import PointwiseLayer
from holonomy.core.tape import Tape

STIFFEST = 0.9
"""Bound of the norm of W: below 1 there is one rest, and relaxation contracts towards it."""


class EquilibriumUnit(PointwiseLayer):
    """u -> s, token by token.

    The nudge is free of scale: b is such that b g has `nudge` times the root mean square of s.

    Args:
        units: channels of u and of s.
        free_steps: steps of relaxation from zero in the free phase.
        nudged_steps: steps from the free rest, for each sign.
        rate: share of the way to tanh(W s + u) that a step goes.
        nudge: size of the nudge.
        generator: source of the initial couplings.
    """

    decays = frozenset({"couplings"})

    def __init__(
        self,
        units: int,
        *,
        free_steps: int = 25,
        nudged_steps: int = 15,
        rate: float = 0.5,
        nudge: float = 0.05,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.free_steps, self.nudged_steps, self.rate, self.size = free_steps, nudged_steps, rate, nudge
        # Semicircle law: the norm of the symmetric part begins near 0.35.
        self.couplings = nn.Parameter(torch.randn(units, units, generator=generator) * (0.25 * units**-0.5))

    def matrix(self) -> Float[Tensor, "N N"]:
        """W, the symmetric part of the couplings."""
        return (self.couplings + self.couplings.T) / 2

    def _relaxed(self, s: Tensor, u: Tensor, steps: int) -> Tensor:
        w = self.matrix()
        for _ in range(steps):
            s = torch.lerp(s, torch.tanh(torch.addmm(u, w, s)), self.rate)
        return s

    def free(self, x: Float[Tensor, "N ..."], tape: Tape | None) -> Float[Tensor, "N ..."]:
        """Relaxes from zero; the record is the input and the rest."""
        u = x.flatten(1)
        s = self._relaxed(torch.zeros_like(u), u, self.free_steps)
        if tape is not None:
            tape.push(self, u, s)
        return s.view(x.shape)

    def echo(self, tape: Tape, g: Float[Tensor, "N ..."], acc: StatBuffer) -> Float[Tensor, "N ..."]:
        """dW = -(s+ s+^T - s- s-^T) / 4b, du = -(s+ - s-) / 2b."""
        u, s = tape.pop(self)
        flat = g.flatten(1)
        tiny = torch.finfo(g.dtype).tiny
        b = self.size * (s.square().mean() / flat.square().mean().clamp_min(tiny)).sqrt().clamp_min(tiny)
        up, down = (self._relaxed(s, u - side * b * flat, self.nudged_steps) for side in (1, -1))
        moved, middle = (up - down) / (-2 * b), (up + down) / 2
        # s+ s+^T - s- s-^T is the symmetric part of 2 (s+ - s-) (s+ + s-)^T / 2.
        by_pair = moved @ middle.T
        acc[self.couplings].add_((by_pair + by_pair.T) / 2)
        return moved.view(g.shape)

    def project(self) -> None:
        """Holds the norm of W below 0.9, by the bound |W| <= (tr W^8)^(1/8)."""
        w = self.matrix().data
        fourth = torch.linalg.matrix_power(w, 4)
        bound = torch.linalg.matrix_norm(fourth).pow(0.25)
        self.couplings.data.mul_(STIFFEST / bound.clamp_min(STIFFEST))
