"""Unitary evolution i hbar dT/dt = H T on a periodic grid, H = -(hbar^2 / 2m) Lap + V(x).

The grid is on the first two axes, with unit spacing and the five-point Laplacian; further axes are components that
evolve alike. Two integrators of order 2 that keep the norm: Strang splitting (Strang 1968) and Crank-Nicolson.
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


def laplacian(t: Complex[Tensor, "x y ..."]) -> Complex[Tensor, "x y ..."]:
    """Sum of the four neighbours minus four times the centre, periodic."""
    return sum((t.roll(s, a) for a in (0, 1) for s in (1, -1)), start=-4 * t)


def laplacian_spectrum(x: int, y: int, dtype: torch.dtype) -> Float[Tensor, "x y"]:
    """Eigenvalues 2 cos kx + 2 cos ky - 4, by -4 sin(k/2)^2 each, which keeps the small ones."""
    kx, ky = (torch.arange(n, dtype=dtype) * (torch.pi / n) for n in (x, y))
    return -4 * (kx.sin().square()[:, None] + ky.sin().square())


@dataclass(frozen=True)
class Schroedinger:
    """Evolution under one Hamiltonian with one step.

    Args:
        potential: V on the grid, real, [x, y].
        dt: length of a step.
        hbar: Planck's constant over 2 pi.
        mass: mass.

    Raises:
        ConfigError: hbar or mass is not above zero.
    """

    potential: Tensor
    dt: float
    hbar: float = 1.0
    mass: float = 1.0

    def __post_init__(self) -> None:
        for name in ("hbar", "mass"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` is {getattr(self, name)}; wanted a number above zero")

    def hamiltonian(self, t: Complex[Tensor, "x y ..."]) -> Complex[Tensor, "x y ..."]:
        """H T."""
        return -(self.hbar**2) / (2 * self.mass) * laplacian(t) + self._on_grid(self.potential, t) * t

    def energy(self, t: Complex[Tensor, "x y ..."]) -> Float[Tensor, ""]:
        """Re <T, H T>."""
        return (t.conj() * self.hamiltonian(t)).sum().real

    @staticmethod
    def _on_grid(values: Tensor, t: Tensor) -> Tensor:
        return values.view(*values.shape, *[1] * (t.dim() - 2))

    @cached_property
    def _phases(self) -> tuple[Tensor, Tensor]:
        """exp(-i V dt / 2 hbar) and exp(-i E_k dt / hbar), complex128."""
        potential = self.potential.double()
        x, y = potential.shape
        kinetic = -(self.hbar**2) / (2 * self.mass) * laplacian_spectrum(x, y, torch.float64)
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

    def crank_nicolson(self, t: Complex[Tensor, "x y ..."]) -> Complex[Tensor, "x y ..."]:
        """(1 + i dt H / 2 hbar) T' = (1 - i dt H / 2 hbar) T, in complex128 inside.

        Raises:
            ConfigError: the grid is too large for a dense factorisation.
        """
        factors, pivots, explicit = self._cayley
        right = explicit @ t.reshape(explicit.shape[0], -1).to(explicit.dtype)
        return torch.linalg.lu_solve(factors, pivots, right).view_as(t).to(t.dtype)
