"""The wrapped normal distribution (Nagano et al. 2019): a normal at the origin, carried to the mean and wrapped by exp.

log p(x) = log N(a; 0, scale^2) - log det exp, a the frame coordinates of log(mean, x) carried back to the origin.
Exact on manifolds whose exponential map is one to one (ball, hyperboloid, flat space, their products); on a sphere
exact up to the mass beyond half the circumference.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.geometry.manifold import Manifold


class WrappedNormal:
    """A wrapped normal on a manifold.

    Args:
        manifold: where it lives.
        mean: point, [..., d].
        scale: standard deviations in an orthonormal frame, [..., n], above zero.

    Raises:
        ConfigError: a scale is not above zero.
    """

    def __init__(self, manifold: Manifold, mean: Float[Tensor, "... d"], scale: Float[Tensor, "... n"]) -> None:
        if not bool((scale > 0).all()):
            raise ConfigError(f"`scale` has a minimum of {float(scale.min()):g}; wanted all above zero")
        self.manifold, self.mean, self.scale = manifold, mean, scale
        self._origin = manifold.origin(scale.shape[-1], dtype=mean.dtype, device=mean.device)

    def sample(self, *shape: int, generator: torch.Generator) -> Float[Tensor, "... d"]:
        """Points, differentiable by mean and scale."""
        noise = torch.randn(*shape, *self.scale.shape, generator=generator, dtype=self.scale.dtype)
        v = self.manifold.from_frame(noise.to(self.scale.device) * self.scale)
        mean = self.mean.expand_as(v)
        return self.manifold.exp(mean, self.manifold.transport(self._origin.expand_as(v), mean, v))

    def log_prob(self, x: Float[Tensor, "... d"]) -> Float[Tensor, ...]:
        """Log density by the Riemannian volume."""
        mean = self.mean.expand_as(x)
        v = self.manifold.transport(mean, self._origin.expand_as(x), self.manifold.log(mean, x))
        a = self.manifold.to_frame(v)
        flat = -((a / self.scale).square() / 2 + self.scale.log() + math.log(2 * math.pi) / 2).sum(-1)
        return flat - self.manifold.log_volume(a)
