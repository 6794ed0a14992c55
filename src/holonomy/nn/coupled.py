"""Heads of damped oscillators that are coupled by a stiffness matrix.

    y_t = A y_{t-1} - rho^2 y_{t-2} + f_t,    A = (1 + rho^2) I - rho K,    K = Q diag(l) Q^T + U diag(d) U^T,

one damping a head. In the eigenbasis of K a head is a diagonal bank, cos(theta) = ((1 + rho^2) - rho lam) / (2 rho).
The eigenvalues are held between (1 - rho)^2 / rho and (1 + rho)^2 / rho by construction, where every mode turns and
none overshoots. Echo by reciprocity, as for the diagonal bank: A is symmetric. The derivative by A is formed in the
eigenbasis and turned back; no derivative of an eigenvector is needed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer
from holonomy.core.tape import Tape
from holonomy.geometry.frames import Rotor, butterfly, framed, framed_pull
from holonomy.nn.oscillator import chunk_propagator, log_spaced
from holonomy.nn.scan import Propagator, mirror, scan

BAND = 1.5
"""A head's damping stays within this factor of its centre."""
LOW_RANK_ROOM = 0.5
"""Part of the range of eigenvalues that the low-rank coupling may use."""


class Modes(NamedTuple):
    """A bank in its eigenbasis: vectors [H, n, n], turn and damping of each mode, [H * n], and b = s sin(theta)."""

    basis: Float[Tensor, "H n n"]
    theta: Float[Tensor, " N"]
    gamma: Float[Tensor, " N"]
    gain: Float[Tensor, " N"]


class CoupledState(NamedTuple):
    """What the bank carries: complex modes [N, batch] and the modes they belong to."""

    z: Tensor
    modes: Modes


class CoupledBank(EchoLayer):
    """Coupled oscillators, O(time) by the chunked scan of the diagonal bank.

    Args:
        heads: number of heads.
        size: oscillators of a head, a power of two.
        rank: columns of the low-rank coupling.
        gamma_range: damping of the first and of the last head, log-spaced between.
        chunk: length of a chunk.
        generator: source of the initial parameters.
    """

    def __init__(
        self,
        heads: int,
        size: int,
        *,
        rank: int = 4,
        gamma_range: tuple[float, float],
        chunk: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.heads, self.size, self.chunk = heads, size, chunk
        self.planes = butterfly(size)
        self.centre = log_spaced(gamma_range, heads).tolist()
        self.angles = nn.Parameter(torch.randn(heads, *self.planes.shape[:2], generator=generator))
        self.stiffness = nn.Parameter(torch.linspace(-4, 4, size).repeat(heads, 1))
        self.columns = nn.Parameter(torch.randn(heads, size, rank, generator=generator) * size**-0.5)
        self.weights = nn.Parameter(torch.full((heads, rank), -1.0))
        self.damping = nn.Parameter(torch.zeros(heads))
        self.project()

    def _centre(self) -> Tensor:
        return torch.tensor(self.centre, dtype=self.damping.dtype, device=self.damping.device)

    def _gamma(self) -> Float[Tensor, " H"]:
        return self._centre() * BAND ** torch.tanh(self.damping)

    def _range(self) -> tuple[Tensor, Tensor]:
        """Lowest stiffness, and the width of its range, for any damping in the band; [H, 1]."""
        widest, least = torch.exp(-self._centre() * BAND), torch.exp(-self._centre() / BAND)
        low = 1.01 * (1 - widest).square() / widest
        high = 0.99 * (1 + least).square() / least - LOW_RANK_ROOM
        return low[:, None], (high - low)[:, None]

    def _rotor(self) -> Rotor:
        return Rotor(self.size, self.planes.to(self.angles.device), self.angles)

    def _stiffness(self, q: Tensor) -> Float[Tensor, "H n n"]:
        low, width = self._range()
        values = low + width * torch.sigmoid(self.stiffness)
        extra = LOW_RANK_ROOM * torch.sigmoid(self.weights)
        return framed(q, values, self.columns, extra)

    def modes(self) -> Modes:
        """The eigenbasis at the present parameters."""
        k, rho = self._stiffness(self._rotor().matrix()), torch.exp(-self._gamma())[:, None]
        values, basis = torch.linalg.eigh(k.double())
        cos = ((1 + rho.square()) - rho * values.to(rho)) / (2 * rho)
        theta = torch.acos(cos).flatten()
        gamma = self._gamma().repeat_interleave(self.size)
        gain = (-2 * torch.expm1(-2 * gamma)).sqrt() * torch.sin(theta)
        return Modes(basis.to(rho), theta, gamma, gain)

    def poles(self) -> Complex[Tensor, " N"]:
        """What a token multiplies each mode of the eigenbasis by, rho e^{i theta}."""
        modes = self.modes()
        return torch.polar(torch.exp(-modes.gamma), modes.theta)

    def _turn(self, x: Tensor, basis: Tensor) -> Tensor:
        """Channels [H n, ...] of every head times a matrix of it."""
        return (basis @ x.unflatten(0, (self.heads, self.size)).flatten(2)).view(x.shape)

    def free(self, x: Float[Tensor, "N batch time"], tape: Tape | None) -> Float[Tensor, "N batch time"]:
        """Drives the bank from rest; the record is the outputs in the eigenbasis, the propagator and the modes."""
        modes = self.modes()
        prop = chunk_propagator(modes.theta, modes.gamma, self.chunk)
        q, _ = scan(self._turn(x, modes.basis.mT), prop, None)
        y = q / modes.gain[:, None, None]
        if tape is not None:
            tape.push(self, y, *prop, *modes)
        return self._turn(y, modes.basis)

    def echo(self, tape: Tape, g: Float[Tensor, "N batch time"], acc: StatBuffer) -> Float[Tensor, "N batch time"]:
        """Drives the bank with the reversed nudges; dK = -rho sym(sum mu_t y_{t-1}^T)."""
        y, within, collect, emit, carry, *modes = tape.pop(self)
        basis, gain = modes[0], modes[3]
        # The scan scales by b what the bank does not: undone on both sides.
        mu, _ = mirror(self._turn(g, basis.mT) / gain[:, None, None], Propagator(within, collect, emit, carry))
        by_head = [t.unflatten(0, (self.heads, self.size)) for t in (mu, y)]
        late, early = (t.flatten(2) for t in (by_head[0][..., 1:], by_head[1][..., :-1]))
        da = basis @ (late @ early.mT) @ basis.mT
        da = (da + da.mT) / 2
        rho = torch.exp(-self._gamma())
        q = self._rotor().matrix()
        k = self._stiffness(q)
        two = (by_head[0][..., 2:] * by_head[1][..., :-2]).sum((1, 2, 3))
        drho = 2 * rho * da.diagonal(dim1=1, dim2=2).sum(-1) - (da * k).sum((1, 2)) - 2 * rho * two
        gamma, tanh = self._gamma(), torch.tanh(self.damping)
        acc[self.damping].add_(-drho * rho * gamma * math.log(BAND) * (1 - tanh.square()))
        self._collect(-rho[:, None, None] * da, q, acc)
        return self._turn(mu, basis)

    def _collect(self, dk: Tensor, q: Tensor, acc: StatBuffer) -> None:
        """From derivatives by K to those by its parameters."""
        low, width = self._range()
        share, extra = torch.sigmoid(self.stiffness), torch.sigmoid(self.weights)
        dq, dvalues, du, dd = framed_pull(dk, q, low + width * share, self.columns, LOW_RANK_ROOM * extra)
        acc[self.angles].add_(self._rotor().stat(dq))
        acc[self.stiffness].add_(dvalues * width * share * (1 - share))
        acc[self.columns].add_(du)
        acc[self.weights].add_(LOW_RANK_ROOM * dd * extra * (1 - extra))

    def project(self) -> None:
        """Keeps the low-rank part within its room: the spectral norm of the columns at most 1."""
        size = torch.linalg.matrix_norm(self.columns.data, 2)
        self.columns.data.div_(size.clamp_min(1)[:, None, None])

    def start(self, batch: int) -> CoupledState:
        """All oscillators at rest."""
        modes = self.modes()
        z = torch.zeros(len(modes.theta), batch, dtype=modes.theta.dtype, device=modes.theta.device)
        return CoupledState(torch.complex(z, z), modes)

    def advance(
        self, x: Float[Tensor, "N batch time"], state: CoupledState
    ) -> tuple[Float[Tensor, "N batch time"], CoupledState]:
        """Drives the bank from a carried state."""
        modes = state.modes
        prop = chunk_propagator(modes.theta, modes.gamma, self.chunk)
        q, z = scan(self._turn(x, modes.basis.mT), prop, state.z)
        return self._turn(q / modes.gain[:, None, None], modes.basis), state._replace(z=z)

    def step(self, x: Float[Tensor, "N batch"], state: CoupledState) -> tuple[Float[Tensor, "N batch"], CoupledState]:
        """One token: z <- rho e^{i theta} z + f, y = Im(e^{i theta} z) / sin(theta), in the eigenbasis."""
        modes = state.modes
        turn = torch.polar(torch.ones_like(modes.theta), modes.theta)[:, None]
        z = state.z * turn * torch.exp(-modes.gamma)[:, None] + self._turn(x, modes.basis.mT)
        y = (turn * z).imag / torch.sin(modes.theta)[:, None]
        return self._turn(y, modes.basis), state._replace(z=z)
