"""Noise on the way from a table to its point, and what it costs."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.geometry import normal, poincare
from holonomy.geometry.manifold import hyperbolic_log_volume

LOG_TWO_PI = math.log(2 * math.pi)


def gaussian_sample(mean: Tensor, logvar: Tensor, generator: torch.Generator) -> Tensor:
    """mean + s eps with s = exp(logvar / 2)."""
    return mean + noise_like(mean, generator) * (logvar / 2).exp()


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers in the shape of x; drawn on the CPU, so that every device draws the same."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


def gaussian_kl(mean: Float[Tensor, "B d"], logvar: Float[Tensor, "B d"]) -> Float[Tensor, "B d"]:
    """KL(N(mean, exp logvar) || N(0, 1)) by dimension."""
    return (mean.square() + logvar.exp() - 1 - logvar) / 2


def wrap(u: Float[Tensor, "... d"], a: Float[Tensor, "... d"], k: Tensor) -> Float[Tensor, "... d"]:
    """Normal coordinates of exp_m(a carried from the origin to m), m the point with normal coordinates u.

    a are coordinates in an orthonormal frame at the origin; parallel transport from there scales by 1 - c |m|^2.
    """
    # exp_m(v) = m (+) tanh(sqrt c lambda_m |v| / 2) v / (sqrt c |v|); with v = (1 - c |m|^2) a / 2 the factor
    # lambda_m cancels, which leaves m (+) the point with normal coordinates a.
    m, step = normal.to_ball(u, k), normal.to_ball(a, k)
    return normal.from_ball(poincare.plain_mobius_add(m, step, k), k)


def wrapped_log_prob(
    u: Float[Tensor, "... d"], a: Float[Tensor, "... d"], logvar: Float[Tensor, "... d"], k: Tensor
) -> Float[Tensor, ...]:
    """Log density at the point that frame coordinates a lead to, by the Riemannian volume (Nagano et al. 2019)."""
    flat = -(a.square() / logvar.exp() + logvar + LOG_TWO_PI).sum(-1) / 2
    return flat - hyperbolic_log_volume(a, k)


def wrapped_kl(
    u: Float[Tensor, "B d"],
    logvar: Float[Tensor, "B d"],
    k: Tensor,
    *,
    prior_logvar: Tensor,
    samples: int,
    generator: torch.Generator,
) -> Float[Tensor, " B"]:
    """KL of the wrapped normal at u to one at the origin: the mean of log q - log p over pathwise samples."""
    shape = (samples, *u.shape)
    a = noise_like(u.new_empty(shape), generator) * (logvar / 2).exp()
    point = wrap(u.expand(shape), a, k)
    q = wrapped_log_prob(point, a, logvar.expand(shape), k)
    p = wrapped_log_prob(point, point, prior_logvar.expand(shape), k)
    return (q - p).mean(0)
