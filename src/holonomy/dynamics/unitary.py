"""Unitary evolution i hbar dT/dt = H T on a periodic grid, H = -(hbar^2 / 2m) Lap + V(x).

The grid is on the first two axes, with unit spacing; Lap = g^xx Dxx + g^yy Dyy + 2 g^xy Dxy with central differences,
which is the five-point Laplacian for the flat metric. Further axes are components that evolve alike. Two integrators
of order 2 that keep the norm: Strang splitting (Strang 1968) and Crank-Nicolson.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from holonomy.core.errors import ConfigError

DENSE_SITES = 4096
"""Largest grid for which Crank-Nicolson with a potential factorises a dense matrix."""


FLAT = (1.0, 1.0, 0.0)
"""Inverse metric (g^xx, g^yy, g^xy) of the Laplacian where nothing else is said."""


def laplacian(t: Complex[Tensor, "x y ..."], metric: tuple[float, float, float] = FLAT) -> Complex[Tensor, "x y ..."]:
    """g^xx Dxx + g^yy Dyy + 2 g^xy Dxy, periodic."""
    gxx, gyy, gxy = metric
    total = gxx * (t.roll(1, 0) + t.roll(-1, 0)) + gyy * (t.roll(1, 1) + t.roll(-1, 1)) - 2 * (gxx + gyy) * t
    if gxy:
        even = t.roll((1, 1), (0, 1)) + t.roll((-1, -1), (0, 1))
        odd = t.roll((1, -1), (0, 1)) + t.roll((-1, 1), (0, 1))
        total = total + (gxy / 2) * (even - odd)
    return total


def laplacian_spectrum(
    x: int, y: int, dtype: torch.dtype, metric: tuple[float, float, float] = FLAT
) -> Float[Tensor, "x y"]:
    """Eigenvalues -4 g^xx sin(kx/2)^2 - 4 g^yy sin(ky/2)^2 - 2 g^xy sin kx sin ky, which keep the small ones."""
    gxx, gyy, gxy = metric
    kx, ky = (torch.arange(n, dtype=dtype) * (torch.pi / n) for n in (x, y))
    across = (2 * kx).sin()[:, None] * (2 * ky).sin()
    return -4 * (gxx * kx.sin().square()[:, None] + gyy * ky.sin().square()) - 2 * gxy * across


def check_metric(metric: tuple[float, float, float]) -> None:
    """Refuses an inverse metric that is not positive definite, for which energies would have no lower bound.

    Raises:
        ConfigError: names what came.
    """
    gxx, gyy, gxy = metric
    if not (gxx > 0 and gyy > 0 and gxx * gyy > gxy * gxy):
        raise ConfigError(f"`metric` is (g^xx, g^yy, g^xy) = {metric}; wanted both above zero and g^xx g^yy > g^xy^2")


@dataclass(frozen=True)
class Schroedinger:
    """Evolution under one Hamiltonian with one step.

    Args:
        potential: V on the grid, real, [x, y].
        dt: length of a step.
        hbar: Planck's constant over 2 pi.
        mass: mass.
        metric: inverse metric (g^xx, g^yy, g^xy) of the Laplacian.

    Raises:
        ConfigError: hbar or mass is not above zero, or the metric is not positive definite.
    """

    potential: Tensor
    dt: float
    hbar: float = 1.0
    mass: float = 1.0
    metric: tuple[float, float, float] = FLAT

    def __post_init__(self) -> None:
        for name in ("hbar", "mass"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` is {getattr(self, name)}; wanted a number above zero")
        check_metric(self.metric)

    def hamiltonian(self, t: Complex[Tensor, "x y ..."]) -> Complex[Tensor, "x y ..."]:
        """H T."""
        return -(self.hbar**2) / (2 * self.mass) * laplacian(t, self.metric) + self._on_grid(self.potential, t) * t

    def energy(self, t: Complex[Tensor, "x y ..."]) -> Float[Tensor, ""]:
        """Re <T, H T>."""
        return (t.conj() * self.hamiltonian(t)).sum().real

    @staticmethod
    def _on_grid(values: Tensor, t: Tensor) -> Tensor:
        return values.view(*values.shape, *[1] * (t.dim() - 2))

    def kinetic_spectrum(self, dtype: torch.dtype) -> Float[Tensor, "x y"]:
        """E_k, the energies of the plane waves, never below zero."""
        x, y = self.potential.shape
        return -(self.hbar**2) / (2 * self.mass) * laplacian_spectrum(x, y, dtype, self.metric)

    @cached_property
    def _phases(self) -> tuple[Tensor, Tensor]:
        """exp(-i V dt / 2 hbar) and exp(-i E_k dt / hbar), complex128."""
        potential = self.potential.double()
        kinetic = self.kinetic_spectrum(torch.float64)
        angles = (potential * (-self.dt / (2 * self.hbar)), kinetic * (-self.dt / self.hbar))
        half, whole = (torch.polar(torch.ones_like(a), a) for a in angles)
        return half, whole

    def split_step(self, t: Complex[Tensor, "x y ..."]) -> Complex[Tensor, "x y ..."]:
        """Half a step of the potential, one of the kinetic energy in Fourier space, half a step of the potential.

        In complex128 inside: phases rounded to float32 are not quite of modulus 1, and thousands of steps show it.
        """
        half, kinetic = (self._on_grid(phase, t) for phase in self._phases)
        spread = torch.fft.fft2(half * t, dim=(0, 1)) * kinetic
        return (half * torch.fft.ifft2(spread, dim=(0, 1))).to(t.dtype)

    @cached_property
    def _cayley(self) -> tuple[Tensor, Tensor, Tensor]:
        """LU factors of 1 + i dt H / 2 hbar, and 1 - i dt H / 2 hbar."""
        x, y = self.potential.shape
        if x * y > DENSE_SITES:
            raise ConfigError(
                f"`potential` has {x * y} sites; Crank-Nicolson factorises at most {DENSE_SITES}, use `split_step`"
            )
        identity = torch.eye(x * y, dtype=torch.complex128)
        columns = self.hamiltonian(identity.view(x, y, x * y)).view(x * y, x * y)
        half = 0.5j * self.dt / self.hbar * columns
        return *torch.linalg.lu_factor(identity + half), identity - half

    @cached_property
    def _free_factor(self) -> Tensor | None:
        """(1 - i dt E_k / 2 hbar) / (1 + i dt E_k / 2 hbar) where there is no potential."""
        if bool(self.potential.any()):
            return None
        half = 0.5j * self.dt / self.hbar * self.kinetic_spectrum(torch.float64)
        return (1 - half) / (1 + half)

    def crank_nicolson(self, t: Complex[Tensor, "x y ..."]) -> Complex[Tensor, "x y ..."]:
        """(1 + i dt H / 2 hbar) T' = (1 - i dt H / 2 hbar) T, in complex128 inside; by Fourier transforms if V = 0.

        Raises:
            ConfigError: there is a potential, and the grid is too large for a dense factorisation.
        """
        free = self._free_factor
        if free is not None:
            spread = torch.fft.fft2(t.to(torch.complex128), dim=(0, 1)) * self._on_grid(free, t)
            return torch.fft.ifft2(spread, dim=(0, 1)).to(t.dtype)
        factors, pivots, explicit = self._cayley
        right = explicit @ t.reshape(explicit.shape[0], -1).to(explicit.dtype)
        return torch.linalg.lu_solve(factors, pivots, right).view_as(t).to(t.dtype)
