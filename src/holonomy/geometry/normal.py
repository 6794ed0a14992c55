"""Hyperbolic space in normal coordinates: v is the point at distance |v| from the origin in direction v.

Nothing saturates here: radii of hundreds are as good as radii near 1. Distances use the half-angle form of the
hyperbolic law of cosines (Ratcliffe 2006, theorem 3.5.3),
sinh(d/2)^2 = sinh((a - b)/2)^2 + sinh(a) sinh(b) sin(angle/2)^2 with a = |u|, b = |v|, k = -1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.numerics import artanhc, asinhc, safe_norm, safe_sqrt, sinhc, square_norm, widened
from holonomy.geometry.lorentz import ball_to_normal_scale
from holonomy.geometry.manifold import check_real

SHORTEST = 1e-100
"""Length below which a vector is as good as zero: divisions by its square stay finite."""


def dist(u: Float[Tensor, "... n"], v: Float[Tensor, "... n"], k: Tensor) -> Float[Tensor, ...]:
    """Geodesic distance, accurate near and far, in float64 inside.

    a - b is taken as (u - v).(u + v) / (a + b), and the chord of the directions from the part of u - v that is left
    after the difference of lengths, so that near pairs lose nothing.
    """
    check_real(u=u, v=v)
    dtype = u.dtype
    u, v, k = widened(u, v, k)
    root = (-k).sqrt()
    u, v = root * u, root * v
    a, b = safe_norm(u), safe_norm(v)
    tiny = torch.finfo(u.dtype).tiny
    difference = u - v
    radial = (difference * (u + v)).sum(-1, keepdim=True) / (a + b).clamp_min(tiny)
    chord = (difference - u / a.clamp_min(tiny) * radial) / b.clamp_min(SHORTEST)
    s = (radial / 2).square() * sinhc((radial / 2).square()).square()
    # Beside a very short v the difference is rounding alone: no chord of two directions is longer than 2.
    s = s + a * sinhc(a.square()) * b * sinhc(b.square()) * square_norm(chord).clamp_max(4) / 4
    return (2 * safe_sqrt(s) * asinhc(s) / root).squeeze(-1).to(dtype)


def to_ball(v: Float[Tensor, "... n"], k: Tensor) -> Float[Tensor, "... n"]:
    """Ball coordinates tanh(sqrt c |v| / 2) v / (sqrt c |v|)."""
    return v * ball_to_normal_scale(square_norm(v), k)


def from_ball(x: Float[Tensor, "... n"], k: Tensor) -> Float[Tensor, "... n"]:
    """Inverse of `to_ball`: (2 / sqrt c) artanh(sqrt c |x|) x / |x|."""
    return 2 * x * artanhc(-k * square_norm(x))


def whiten(v: Float[Tensor, "... n"], w: Float[Tensor, "... n"], k: Tensor) -> Float[Tensor, "... n"]:
    """g^(-1/2) w at v: derivatives by normal coordinates in an orthonormal frame, and frame vectors in coordinates.

    In normal coordinates lengths along v are as they look; those across it are sinh(sqrt c |v|) / (sqrt c |v|) times as
    long.
    """
    square = square_norm(v)
    radial = (w * v).sum(-1, keepdim=True) / square.clamp_min(torch.finfo(v.dtype).tiny) * v
    return radial + (w - radial) / sinhc(-k * square)


def polar_half_chord(
    a: Float[Tensor, ...], b: Float[Tensor, ...], chord: Float[Tensor, ...], k: Tensor
) -> Float[Tensor, ...]:
    """sinh(sqrt(c) d / 2)^2 / c between points of radii a and b, chord = |e - f|^2 of their directions; k <= 0.

    Monotone in the distance d, cheap, and smooth where points meet; k = 0 is flat space, where it is (d / 2)^2.
    """
    c = -k
    half = ((a - b) / 2).square()
    across = a * sinhc(c * a.square()) * b * sinhc(c * b.square()) * chord / 4
    return half * sinhc(c * half).square() + across


def polar_dist(
    a: Float[Tensor, ...], b: Float[Tensor, ...], chord: Float[Tensor, ...], k: Tensor
) -> Float[Tensor, ...]:
    """Geodesic distance in the precision of its arguments, for losses; `dist` is the accurate one. See above."""
    s = polar_half_chord(a, b, chord, k)
    return 2 * safe_sqrt(s) * asinhc(-k * s)
