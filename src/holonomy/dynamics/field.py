"""A complex tensor field T_ij(x, t) on a periodic grid: mechanical, dissipative and unitary evolution.

The grid is on the first two axes, the components T_ij on the last two. U is the energy that binds the field to its
equilibrium, V a potential that multiplies every component alike. Slopes are by the complex conjugate (Wirtinger):
dU/dT* is half of the gradient by real and imaginary part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.dynamics import symplectic
from holonomy.dynamics.unitary import Schroedinger, laplacian

Field = Complex[Tensor, "x y i j"]


@dataclass(frozen=True)
class Binding:
    """Energy U of the field around an equilibrium; squares are moduli.

    Args:
        kind: zero; harmonic, (k / 2) |T - T_eq|^2; or gaussian_well, -A exp(-|T(x) - T_eq(x)|^2 / 2 s^2) at each site.
        equilibrium: T_eq, [x, y, i, j].
        stiffness: k.
        depth: A.
        width: s.

    Raises:
        ConfigError: the kind is unknown, or a number is not above zero.
    """

    kind: str
    equilibrium: Tensor
    stiffness: float = 1.0
    depth: float = 1.0
    width: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("zero", "harmonic", "gaussian_well"):
            raise ConfigError(f"`kind` is {self.kind!r}; choose zero, harmonic or gaussian_well")
        for name in ("stiffness", "depth", "width"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` is {getattr(self, name)}; wanted a number above zero")

    def _well(self, away: Tensor) -> Tensor:
        squares = (away * away.conj()).real.sum((-2, -1), keepdim=True)
        return self.depth * torch.exp(-squares / (2 * self.width**2))

    def energy(self, t: Field) -> Float[Tensor, ""]:
        """U, over all sites."""
        away = t - self.equilibrium
        if self.kind == "harmonic":
            return self.stiffness / 2 * (away * away.conj()).real.sum()
        return -self._well(away).sum() if self.kind == "gaussian_well" else away.real.sum() * 0

    def slope(self, t: Field) -> Field:
        """dU/dT*."""
        away = t - self.equilibrium
        if self.kind == "harmonic":
            return self.stiffness / 2 * away
        return self._well(away) * away / (2 * self.width**2) if self.kind == "gaussian_well" else away * 0

    @property
    def curvature(self) -> float:
        """Largest second derivative of U."""
        by_kind = {"zero": 0.0, "harmonic": self.stiffness, "gaussian_well": self.depth / self.width**2}
        return by_kind[self.kind]


@dataclass(frozen=True)
class FieldLaw:
    """How a field moves.

    Args:
        quantum: V, hbar, mass, metric and the length of a step.
        binding: U.
        friction: gamma, how fast the dissipative field falls.
    """

    quantum: Schroedinger
    binding: Binding
    friction: float = 1.0

    def mechanical_energy(self, t: Field, p: Field, source: Field) -> Float[Tensor, ""]:
        """|P|^2 / 2m + U + (hbar^2 / 4m) sum |grad T|^2 - Re <J, T>."""
        q = self.quantum
        # Summed by parts on the periodic grid: the same differences as in the force.
        stretch = -(t.conj() * laplacian(t, q.metric)).real.sum() * (q.hbar**2 / (4 * q.mass))
        kinetic = (p * p.conj()).real.sum() / (2 * q.mass)
        return kinetic + self.binding.energy(t) + stretch - (source.conj() * t).real.sum()

    def force(self, t: Field, source: Field) -> Field:
        """-2 dU/dT* + (hbar^2 / 2m) Lap T + J: minus the gradient of the mechanical energy."""
        q = self.quantum
        return -2 * self.binding.slope(t) + q.hbar**2 / (2 * q.mass) * laplacian(t, q.metric) + source

    @property
    def longest_step(self) -> float:
        """2 / omega for the fastest oscillation: longer steps of `mechanical_step` are unstable."""
        q = self.quantum
        fastest = float(q.kinetic_spectrum(torch.float64).max()) / q.mass + self.binding.curvature / q.mass
        return float("inf") if fastest == 0 else 2 / fastest**0.5

    def mechanical_step(self, t: Field, p: Field, source: Field) -> tuple[Field, Field]:
        """One symplectic step of (T, P).

        Raises:
            ConfigError: the step is longer than `longest_step`.
        """
        q = self.quantum
        if not q.dt < self.longest_step:
            raise ConfigError(
                f"`dt` is {q.dt}; mechanical evolution is stable below {self.longest_step:.4g} for these constants"
            )

        def force(position: Tensor) -> Tensor:
            return torch.view_as_real(self.force(torch.view_as_complex(position), source)) / q.mass

        velocity = torch.view_as_real(p) / q.mass
        position, velocity = symplectic.step(torch.view_as_real(t.contiguous()), velocity, force, q.dt)
        return torch.view_as_complex(position), torch.view_as_complex(velocity) * q.mass

    def free_energy(self, t: Field) -> Float[Tensor, ""]:
        """<T, H T> + U, what the dissipative field lowers."""
        return self.quantum.energy(t) + self.binding.energy(t)

    def dissipative_step(self, t: Field, push: Field | None = None) -> Field:
        """T_k <- (T_k + dt N_k) / (1 + dt gamma E_k), N = -gamma (dU/dT* + V T) + push; stiff waves are implicit."""
        q = self.quantum
        potential = q.potential.view(*q.potential.shape, 1, 1)
        explicit = -self.friction * (self.binding.slope(t) + potential * t)
        if push is not None:
            explicit = explicit + push
        damping = 1 + q.dt * self.friction * q.kinetic_spectrum(q.potential.dtype).view(*q.potential.shape, 1, 1)
        waves = torch.fft.fft2(t + q.dt * explicit, dim=(0, 1)) / damping
        return torch.fft.ifft2(waves, dim=(0, 1)).to(t.dtype)


def reweighted(t: Field, evidence: Field, tau: Float[Tensor, "x y"]) -> Field:
    """|T| (w T) / |w T| with w = exp(-|T - E|^2 / tau): what agrees with the evidence gains, the norm stays."""
    misfit = (t - evidence).abs().square() / tau.view(*tau.shape, 1, 1)
    # The smallest misfit is taken off everywhere, which the norm takes back, so that not everything underflows.
    weighted = torch.exp(misfit.min() - misfit) * t
    norm = weighted.norm()
    return weighted * (t.norm() / torch.where(norm > 0, norm, 1))


def gaussian_posterior(t: Field, evidence: Field, variance: float, tau: Float[Tensor, "x y"]) -> Field:
    """(T / s^2 + E / tau) / (1 / s^2 + 1 / tau): mean after an observation E with variance tau."""
    wide = tau.view(*tau.shape, 1, 1)
    return (t * wide + evidence * variance) / (wide + variance)
