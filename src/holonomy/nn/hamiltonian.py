"""Hamiltonian oscillators: a reversible recurrence whose echo is its own motion with the momenta turned round.

    H = |p|^2 / 2 + q.K q / 2 - q.f + sum_n c_n log cosh(z_n) / w_n,    z = w q + s,
    K = Q diag(l) Q^T + U diag(d) U^T,

Q a butterfly of Givens rotations; the log-cosh wells are optional. Inputs are the drive f and, with wells, their bias
s, an input a mode each. One drift-kick-drift step of length h a token; the output is q after the step.

Echo (Pourcel & Ernoult, NeurIPS 2025; our half step is where the force acts, which is what makes it reversible): start
at (q_T, -p_T), take eps g_t from the momentum before the step of token t, and repeat the steps backwards. With
eps = 0 the path is retraced. dL/dtheta = h/(2 eps) sum_t [V_theta(+eps) - V_theta(-eps)] at the half steps, error
O(eps^2) and none where V is quadratic. `tangent` carries the derivative of the path instead of two paths: no eps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from holonomy.core.errors import ConfigError
from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer
from holonomy.core.tape import Tape
from holonomy.dynamics.symplectic import fixed_drift, fixed_kick, from_fixed, to_fixed
from holonomy.geometry.frames import Rotor, butterfly, framed, framed_pull

MODES = ("tangent", "symmetric", "one_sided", "complex")
LARGEST_STIFFNESS, LARGEST_WEIGHT, SMALLEST_WELL = 2.0, 0.5, 0.05
COMPLEX_NUDGE = 1e-6
"""Relative size of an imaginary nudge: small enough to be exact in float64, as nothing is subtracted."""


@dataclass(frozen=True)
class Potential:
    """The potential at one set of parameters.

    Attributes:
        k: stiffness, [N, N].
        w: widths of the wells, [N, 1], or None where the potential is quadratic.
        c: their strengths, [N, 1].
    """

    k: Float[Tensor, "N N"]
    w: Float[Tensor, "N 1"] | None = None
    c: Float[Tensor, "N 1"] | None = None

    def force(self, q: Tensor, f: Tensor, s: Tensor) -> Tensor:
        """f - K q - c tanh(w q + s)."""
        pull = f - (self.k.to(q.dtype) @ q)
        return pull if self.w is None or self.c is None else pull - self.c * torch.tanh(self.w * q + s)

    def slope(self, q: Tensor, s: Tensor, dq: Tensor) -> Tensor:
        """V_qq dq = K dq + c w (1 - tanh^2) dq."""
        along = self.k @ dq
        if self.w is None or self.c is None:
            return along
        return along + self.c * self.w * (1 - torch.tanh(self.w * q + s).square()) * dq


def log_cosh(z: Tensor) -> Tensor:
    """log cosh(z) without overflow; complex z by the same formula on the side of positive real part."""
    z = torch.where(z.real < 0, -z, z) if z.is_complex() else z.abs()
    return z + torch.log1p(torch.exp(-2 * z)) - math.log(2)


class HamiltonianBank(EchoLayer):
    """A bank of coupled, undamped oscillators; reversible, so that it learns in constant memory.

    Args:
        modes: number of oscillators, a power of two.
        wells: adds log-cosh wells; then the layer takes two inputs a mode, drive and bias, else the drive alone.
        rank: columns of the low-rank part of the stiffness.
        step: length of a step; None is 1, with wells 0.2 (longer ones are chaotic).
        mode: tangent, symmetric, one_sided or complex.
        kappa: size of the nudge of the finite modes, relative to the outputs; None is 1 where the potential is
            quadratic (there every size is exact), else 1e-3.
        fixed: keeps positions and momenta as 32-bit fixed point, in which the way back is exact.
        allow_biased: permits `one_sided`, whose error is of first order in the nudge.
        generator: source of the initial parameters.

    Raises:
        ConfigError: a value is out of its range, or `one_sided` without `allow_biased`.
    """

    def __init__(
        self,
        modes: int,
        *,
        wells: bool = False,
        rank: int = 4,
        step: float | None = None,
        mode: str = "tangent",
        kappa: float | None = None,
        fixed: bool = False,
        allow_biased: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ConfigError(f"`mode` is {mode}; wanted one of {', '.join(MODES)}")
        if mode == "one_sided" and not allow_biased:
            raise ConfigError(
                "`mode` one_sided is biased in the size of the nudge; use symmetric or tangent, or set allow_biased"
            )
        self.kappa = (1e-3 if wells else 1.0) if kappa is None else kappa
        if not 1e-8 <= self.kappa <= 10:
            raise ConfigError(f"`kappa` is {kappa}; wanted 1e-8 to 10")
        if fixed and mode != "tangent":
            raise ConfigError(f"`fixed` states are nudged by tangents only, not with `mode` {mode}; use mode=tangent")
        self.h, self.mode, self.fixed = step or (0.2 if wells else 1.0), mode, fixed
        self.planes = butterfly(modes)
        self.theta = nn.Parameter(torch.randn(self.planes.shape[:2], generator=generator))
        self.stiffness = nn.Parameter(torch.linspace(-4, 1, modes))
        self.columns = nn.Parameter(torch.randn(modes, rank, generator=generator) * modes**-0.5)
        self.weights = nn.Parameter(torch.full((rank,), -1.0))
        self.width = nn.Parameter(torch.zeros(modes)) if wells else None
        self.strength = nn.Parameter(torch.full((modes,), -1.0)) if wells else None
        self.project()

    @property
    def inputs(self) -> int:
        """Inputs a mode."""
        return 1 if self.width is None else 2

    def _rotor(self) -> Rotor:
        return Rotor(len(self.stiffness), self.planes.to(self.theta.device), self.theta)

    def potential(self) -> Potential:
        """The potential at the present parameters."""
        q = self._rotor().matrix()
        low = LARGEST_STIFFNESS * torch.sigmoid(self.stiffness)
        extra = LARGEST_WEIGHT * torch.sigmoid(self.weights)
        k = framed(q, low, self.columns, extra)
        if self.width is None or self.strength is None:
            return Potential(k)
        return Potential(
            k, (SMALLEST_WELL + F.softplus(self.width)).unsqueeze(1), F.softplus(self.strength).unsqueeze(1)
        )

    def poles(self) -> Complex[Tensor, " N"]:
        """What a step multiplies each mode near rest by: e^{i theta}, cos theta = 1 - h^2 lambda / 2."""
        pot = self.potential()
        k = pot.k if pot.w is None or pot.c is None else pot.k + torch.diag((pot.c * pot.w).squeeze(1))
        cos = 1 - self.h**2 * torch.linalg.eigvalsh(k.double()) / 2
        return torch.complex(cos, (1 - cos.square()).clamp_min(0).sqrt())

    def project(self) -> None:
        """Keeps the steepest curvature below 4 / h^2, where the steps are stable: scales the low-rank part down."""
        with torch.no_grad():
            well = 0.0
            if self.width is not None and self.strength is not None:
                limit = 3.5 / self.h**2 - LARGEST_STIFFNESS
                product = F.softplus(self.strength) * (SMALLEST_WELL + F.softplus(self.width))
                shrink = (limit / product).clamp_max(1)
                # softplus is below its argument plus ln 2, and convex: scaling the strength itself is enough.
                strength = F.softplus(self.strength) * shrink
                self.strength.data.copy_(torch.where(shrink < 1, strength.expm1().log(), self.strength))
                well = product.mul(shrink).max()
            room = (3.9 / self.h**2 - LARGEST_STIFFNESS - well) / LARGEST_WEIGHT
            size = torch.linalg.matrix_norm(self.columns, 2).square()
            self.columns.data.mul_((room / size.clamp_min(1e-12)).clamp(0, 1).sqrt())

    def free(self, x: Float[Tensor, "inputs batch time"], tape: Tape | None) -> Float[Tensor, "N batch time"]:
        """Moves from rest; the record is the inputs, the half steps and the end of the path."""
        return self.resume(x, self.start(x.shape[1]), tape)[0]

    def resume(
        self, x: Float[Tensor, "inputs batch time"], state: tuple[Tensor, Tensor], tape: Tape | None
    ) -> tuple[Float[Tensor, "N batch time"], tuple[Tensor, Tensor]]:
        """Moves on from a carried state."""
        pot, (f, s) = self.potential(), self._by_time(x)
        q, p = state
        halves, outputs = [], []
        for t in range(len(f)):
            half, q, p = self._step(pot, q, p, f[t], s[t])
            halves.append(half)
            outputs.append(self._seen(q, x.dtype))
        if tape is not None:
            tape.push(self, x, torch.stack(halves), q, p, pot.k)
        return torch.stack(outputs, -1), (q, p)

    def retrace(
        self, x: Float[Tensor, "inputs batch time"], state: tuple[Tensor, Tensor], tape: Tape
    ) -> tuple[Float[Tensor, "N batch time"], tuple[Tensor, Tensor]]:
        """The same path backwards, from its end; pushes what `resume` would have pushed."""
        pot, (f, s) = self.potential(), self._by_time(x)
        q, p = state[0], -state[1]
        halves, outputs = [], []
        for t in reversed(range(len(f))):
            outputs.append(self._seen(q, x.dtype))
            half, q, p = self._step(pot, q, p, f[t], s[t])
            halves.append(half)
        tape.push(self, x, torch.stack(halves[::-1]), *state, pot.k)
        return torch.stack(outputs[::-1], -1), (q, -p)

    def echo(self, tape: Tape, g: Float[Tensor, "N batch time"], acc: StatBuffer) -> Float[Tensor, "inputs batch time"]:
        """Runs the path backwards under nudges; see the module."""
        if self.mode == "tangent":
            return self.echo_segment(tape, g, None, acc)[0]
        x, _, q, p, _ = tape.pop(self)
        pot, (f, s) = self.potential(), self._by_time(x)
        g = g.movedim(-1, 0)
        output, nudge = q.square().mean().sqrt(), g.square().mean().sqrt()
        scale = torch.where(output > 0, output, 1) / torch.where(nudge > 0, nudge, 1)
        eps = scale / math.sqrt(len(g)) * (COMPLEX_NUDGE if self.mode == "complex" else self.kappa)
        if self.mode == "complex":
            path = self._nudged(pot, q.to(torch.complex128), p.to(torch.complex128), f, s, 1j * eps * g)
            found, below = self._slopes(pot, path, f, s, x)
            weight = 2 / eps
            return self._collect({k: v.imag * weight for k, v in found.items()}, below.imag * weight, acc)
        ends = (eps, -eps) if self.mode == "symmetric" else (eps, torch.zeros_like(eps))
        (plus, up), (minus, down) = (
            self._slopes(pot, self._nudged(pot, q, p, f, s, size * g), f, s, x) for size in ends
        )
        weight = 1 / eps if self.mode == "symmetric" else 2 / eps
        return self._collect({k: (v - minus[k]) * weight for k, v in plus.items()}, (up - down) * weight, acc)

    def echo_segment(
        self,
        tape: Tape,
        g: Float[Tensor, "N batch time"],
        carry: tuple[Tensor, Tensor] | None,
        acc: StatBuffer,
    ) -> tuple[Float[Tensor, "inputs batch time"], tuple[Tensor, Tensor]]:
        """Tangent of the reversed path; what is carried is the displacement (dq, dp) of the state before."""
        x, halves, _, _, k = tape.pop(self)
        pot, (_, s) = self.potential(), self._by_time(x)
        pot, h = Potential(k, pot.w, pot.c), self.h
        g = g.movedim(-1, 0)
        dq, dp = carry or (torch.zeros_like(g[0]), torch.zeros_like(g[0]))
        moved = []
        for t in reversed(range(len(g))):
            dp = dp - g[t]
            half = dq + (h / 2) * dp
            moved.append(half)
            dp = dp - h * pot.slope(halves[t], s[t], half)
            dq = half + (h / 2) * dp
        dhalf = torch.stack(moved[::-1])
        flat, dflat = _flat(halves), _flat(dhalf)
        found: dict[str, Tensor] = {"k": _symmetric(dflat @ flat.T)}
        below = -dhalf
        if pot.w is not None and pot.c is not None:
            tanh = torch.tanh(pot.w * halves + s)
            pull = pot.c * (1 - tanh.square()) * dhalf
            found |= {"w": (pull * halves).sum((0, 2)), "c": (tanh * dhalf).sum((0, 2))}
            below = torch.cat([below, pull], 1)
        return self._collect({n: h * v for n, v in found.items()}, h * below, acc), (dq, dp)

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """All oscillators at rest: positions and momenta, [N, batch] each."""
        rest = self.stiffness.new_zeros(len(self.stiffness), batch)
        return (to_fixed(rest), to_fixed(rest)) if self.fixed else (rest, rest)

    def advance(
        self, x: Float[Tensor, "inputs batch time"], state: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "N batch time"], tuple[Tensor, Tensor]]:
        """Moves on from a carried state."""
        return self.resume(x, state, None)

    def step(
        self, x: Float[Tensor, "inputs batch"], state: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "N batch"], tuple[Tensor, Tensor]]:
        """Moves by one token."""
        y, state = self.resume(x.unsqueeze(-1), state, None)
        return y.squeeze(-1), state

    def _by_time(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Drive and bias by token, [time, N, batch]; without wells the bias is never read."""
        by_time = x.movedim(-1, 0)
        modes = len(self.stiffness)
        return by_time[:, :modes], by_time[:, -modes:]

    def _seen(self, q: Tensor, dtype: torch.dtype) -> Tensor:
        return from_fixed(q, dtype) if self.fixed else q

    def _step(self, pot: Potential, q: Tensor, p: Tensor, f: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Half step, position and momentum after the step."""
        h = self.h
        if self.fixed:
            q = fixed_drift(q, p, h / 2, f.dtype)
            half = from_fixed(q, f.dtype)
            p = fixed_kick(p, h * pot.force(half, f, s))
            return half, fixed_drift(q, p, h / 2, f.dtype), p
        half = q + (h / 2) * p
        p = p + h * pot.force(half, f, s)
        return half, half + (h / 2) * p, p

    def _nudged(self, pot: Potential, q: Tensor, p: Tensor, f: Tensor, s: Tensor, nudge: Tensor) -> Tensor:
        """Half steps of the reversed path under nudges on the momentum, by token."""
        p, halves = -p, []
        for t in reversed(range(len(f))):
            half, q, p = self._step(pot, q, p - nudge[t], f[t], s[t])
            halves.append(half)
        return torch.stack(halves[::-1])

    def _slopes(
        self, pot: Potential, halves: Tensor, f: Tensor, s: Tensor, x: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """V_theta summed over the path, and V_x of each token, times h / 2."""
        flat, h = _flat(halves), self.h / 2
        found = {"k": h * (flat @ flat.T) / 2}
        below = -halves
        if pot.w is not None and pot.c is not None:
            z = pot.w * halves + s
            tanh, cosh = torch.tanh(z), log_cosh(z)
            found["c"] = h * (cosh / pot.w).sum((0, 2))
            found["w"] = h * (pot.c * (tanh * halves / pot.w - cosh / pot.w.square())).sum((0, 2))
            below = torch.cat([below, pot.c / pot.w * tanh], 1)
        return found, h * below

    def _collect(self, found: dict[str, Tensor], below: Tensor, acc: StatBuffer) -> Tensor:
        """From derivatives by stiffness and wells to those by the parameters."""
        dtype = self.stiffness.dtype
        found = {name: value.to(dtype) for name, value in found.items()}
        dk = found["k"]
        rotor = self._rotor()
        q = rotor.matrix()
        low, extra = torch.sigmoid(self.stiffness), torch.sigmoid(self.weights)
        dq, dvalues, du, dd = framed_pull(dk, q, LARGEST_STIFFNESS * low, self.columns, LARGEST_WEIGHT * extra)
        acc[self.theta].add_(rotor.stat(dq))
        acc[self.stiffness].add_(LARGEST_STIFFNESS * dvalues * low * (1 - low))
        acc[self.columns].add_(du)
        acc[self.weights].add_(LARGEST_WEIGHT * dd * extra * (1 - extra))
        if self.width is not None and self.strength is not None:
            acc[self.width].add_(found["w"] * torch.sigmoid(self.width))
            acc[self.strength].add_(found["c"] * torch.sigmoid(self.strength))
        return below.to(dtype).movedim(0, -1)


def _flat(path: Tensor) -> Tensor:
    """[time, N, batch] as [N, time * batch]."""
    return path.movedim(0, 1).flatten(1)


def _symmetric(s: Tensor) -> Tensor:
    return (s + s.T) / 2
