"""Where a tensor field is concentrated, and its collapse onto few sites.

The functional H_x = sum_y phi(x, y) p(y)^nu(x) blurs a power of the site weights p; it orders sites and is no entropy.
The von Neumann entropy of the components is a quantity of its own.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from holonomy.core.errors import ConfigError


def site_weights(t: Complex[Tensor, "x y i j"]) -> Float[Tensor, "x y"]:
    """p(x): share of the squared modulus that a site holds."""
    squares = t.abs().square().sum((-2, -1))
    return squares / squares.sum()


@lru_cache(maxsize=8)
def neighbourhood(x: int, y: int, width: float, dtype: torch.dtype) -> Float[Tensor, "n n"]:
    """phi: a periodic Gaussian of this width around each site, each row summing to 1; sites row by row."""

    def ring(size: int) -> Tensor:
        steps = torch.arange(size, dtype=torch.float64)
        apart = (steps[:, None] - steps).abs()
        return torch.exp(-torch.minimum(apart, size - apart).square() / (2 * width**2))

    joint = torch.kron(ring(x), ring(y))
    return (joint / joint.sum(1, keepdim=True)).to(dtype)


def concentration(
    weights: Float[Tensor, "x y"], nu: Float[Tensor, "x y"], *, width: float = 2.0
) -> tuple[Float[Tensor, "x y"], Float[Tensor, "x y"]]:
    """H_x = sum_y phi(x, y) p(y)^nu(x), and its derivative by nu(x): sum_y phi p^nu log p."""
    phi = neighbourhood(*weights.shape, width, weights.dtype)
    p = weights.flatten().clamp_min(torch.finfo(weights.dtype).tiny)
    blurred = phi * p ** nu.flatten().unsqueeze(-1)
    value, slope = blurred.sum(1), (blurred * p.log()).sum(1)
    return value.view_as(weights), slope.view_as(weights)


def von_neumann_entropy(t: Complex[Tensor, "x y i j"]) -> Float[Tensor, ""]:
    """-tr(rho log rho) in nats, rho the mean of T^+ T over sites divided by its trace."""
    rho = (t.mH @ t).mean((0, 1))
    values = torch.linalg.eigvalsh(rho / rho.diagonal().sum().real).clamp_min(0)
    return -torch.special.xlogy(values, values).sum()


def collapse_probabilities(h: Float[Tensor, "x y"], tau: Float[Tensor, "x y"]) -> Float[Tensor, "x y"]:
    """P(x) = softmax over sites of -H_x / tau_x."""
    return (-h / tau).flatten().softmax(0).view_as(h)


def soft_collapse(t: Complex[Tensor, "x y i j"], probabilities: Float[Tensor, "x y"]) -> Complex[Tensor, "x y i j"]:
    """sqrt(sites P(x)) T(x), brought back to the old norm."""
    gained = (probabilities * probabilities.numel()).sqrt().view(*probabilities.shape, 1, 1) * t
    return _with_norm_of(t, gained)


def hard_collapse(
    t: Complex[Tensor, "x y i j"], probabilities: Float[Tensor, "x y"], generator: torch.Generator
) -> Complex[Tensor, "x y i j"]:
    """T at one sampled site, with the norm of the whole field.

    Raises:
        ConfigError: the field vanishes at the sampled site.
    """
    site = int(torch.multinomial(probabilities.flatten(), 1, generator=generator))
    kept = torch.zeros_like(t)
    kept.view(-1, *t.shape[2:])[site] = t.reshape(-1, *t.shape[2:])[site]
    if not bool(kept.any()):
        raise ConfigError(f"`t` vanishes at site {site}, which was sampled; collapse needs a field there")
    return _with_norm_of(t, kept)


def _with_norm_of(t: Tensor, moved: Tensor) -> Tensor:
    return moved * (t.norm() / moved.norm())
