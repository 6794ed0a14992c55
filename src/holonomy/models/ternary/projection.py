"""From latent vectors to points: the polar exponential map, and the curvature it runs in."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holonomy.core.numerics import safe_norm
from holonomy.models.ternary.config import CurvatureConfig, ProjectionConfig

LOWEST, HIGHEST = 1e-3, 10.0
"""Range of c in which float32 radii up to 6 keep their digits."""


class Curvature(nn.Module):
    """c > 0 of the sectional curvature -c, as a tensor that may learn: c = softplus(theta), kept in [1e-3, 10].

    Args:
        config: value at the start, and whether it learns.
        flat: 0 instead.
    """

    def __init__(self, config: CurvatureConfig, *, flat: bool = False) -> None:
        super().__init__()
        self.flat = flat
        theta = torch.tensor(math.log(math.expm1(config.value)))
        if config.learnable and not flat:
            self.theta = nn.Parameter(theta)
        else:
            self.register_buffer("theta", theta)

    def forward(self) -> Float[Tensor, ""]:
        """c; 0 where space is flat."""
        if self.flat:
            return torch.zeros_like(self.theta)
        return nn.functional.softplus(self.theta).clamp(LOWEST, HIGHEST)


class Projection(nn.Module):
    """Direction e = normalize(z + direction(z)) and radius rho = R_max sigmoid(radius(z)) of a point.

    With `identity`, radius(z) has logit(tanh(|z| / R_max)) added and its last layer begins at zero, so that at the
    start rho = R_max tanh(|z| / R_max).

    Args:
        config: widths, largest radius, start, and whether it learns.
        latent_dim: dimension of z and of the space.
    """

    def __init__(self, config: ProjectionConfig, *, latent_dim: int) -> None:
        super().__init__()
        hidden, self.max_radius = config.hidden, config.max_radius
        self.identity = config.init == "identity"
        self.direction = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, latent_dim)
        )
        self.radius = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)
        )
        last = [self.direction[-1], *([self.radius[-1]] if self.identity else [])]
        for layer in last:
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.requires_grad_(config.learnable)

    def forward(self, z: Float[Tensor, "B d"]) -> tuple[Float[Tensor, "B d"], Float[Tensor, " B"]]:
        """Direction and radius."""
        moved = z + self.direction(z)
        e = moved / safe_norm(moved).clamp_min(torch.finfo(z.dtype).tiny)
        height = self.radius(z)
        if self.identity:
            share = torch.tanh(safe_norm(z) / self.max_radius).clamp(1e-4, 1 - 1e-4)
            height = height + torch.logit(share)
        return e, self.max_radius * torch.sigmoid(height).squeeze(-1)
