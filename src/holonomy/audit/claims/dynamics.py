"""Claims about motion in time: what goes back exactly, what is conserved, and kernels with a certificate."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from holonomy.audit.claim import Evidence, Figure, Setting, claim, curve
from holonomy.core.picture import Picture
from holonomy.dynamics import kernels, symplectic
from holonomy.dynamics.unitary import Schroedinger

STEPS = 4_096
STEP = 0.05
POINTS = 200
"""Points of a drawn line."""
CERTIFIED = ((0.3, 256, 12), (0.7, 1_024, 12), (1.0, 1_024, 16), (1.5, 4_096, 16), (1.9, 16_384, 20))
"""Exponent, reach and number of terms of kernels that are checked."""
ROUNDING = 1e-9
"""Between two ways to add up exponentials in float64: their weights have both signs."""


def henon_heiles(q: Tensor) -> Tensor:
    """Force of V = (x^2 + y^2) / 2 + x^2 y - y^3 / 3, q being [2, ...]; chaotic near the energy 1/6."""
    x, y = q[0], q[1]
    return torch.stack([-x - 2 * x * y, -y - x * x + y * y])


def henon_energy(q: Tensor, p: Tensor) -> Tensor:
    """Kinetic and potential energy."""
    x, y = q[0], q[1]
    return p.square().sum(0) / 2 + (x * x + y * y) / 2 + x * x * y - y**3 / 3


def at_energy(energy: float, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random states of one energy inside the well, float64 [2, count]."""
    random = np.random.default_rng(seed)
    radius, angle = 0.3 * np.sqrt(random.random(count)), 2 * np.pi * random.random((2, count))
    q = torch.from_numpy(radius * np.stack([np.cos(angle[0]), np.sin(angle[0])]))
    speed = (2 * (energy - henon_energy(q, torch.zeros_like(q)))).sqrt()
    return q, speed * torch.from_numpy(np.stack([np.cos(angle[1]), np.sin(angle[1])]))


def runge_kutta(q: Tensor, p: Tensor, time: float, count: int) -> Tensor:
    """Positions after a time, by the classical method of order 4."""
    h = time / count
    z = torch.stack([q, p])

    def slope(z: Tensor) -> Tensor:
        return torch.stack([z[1], henon_heiles(z[0])])

    for _ in range(count):
        a = slope(z)
        b = slope(z + h / 2 * a)
        c = slope(z + h / 2 * b)
        z = z + h / 6 * (a + 2 * b + 2 * c + slope(z + h * c))
    return z[0]


def _there_and_back(q: Tensor, p: Tensor, steps: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Fixed-point states at the turn and after the way back."""
    for _ in range(steps):
        q, p = symplectic.fixed_step(q, p, henon_heiles, STEP, dtype)
    turned, p = q, -p
    for _ in range(steps):
        q, p = symplectic.fixed_step(q, p, henon_heiles, STEP, dtype)
    return turned, q, -p


def _reversal(setting: Setting) -> tuple[tuple[Figure, ...], Picture]:
    count, steps = (1_000, 4 * STEPS) if setting.full else (64, STEPS)
    start = at_energy(0.16, count, setting.seed)
    q, p = (symplectic.to_fixed(x) for x in start)
    unequal, gone, lines = 0, 0.0, {}
    for dtype in (torch.float32, torch.float64):
        turned, back_q, back_p = _there_and_back(q, p, steps, dtype)
        unequal += int((back_q != q).sum()) + int((back_p != p).sum())
        gone = max(gone, float((turned - q).abs().max()) / 2**symplectic.FRACTION_BITS)
    # A neighbour in the last digit leaves at the rate of Lyapunov: nothing rounds the way back to its beginning.
    near, spread = (q + 1, p), []
    far = (q, p)
    for n in range(steps):
        near = symplectic.fixed_step(*near, henon_heiles, STEP, torch.float64)
        far = symplectic.fixed_step(*far, henon_heiles, STEP, torch.float64)
        if n % max(1, steps // POINTS) == 0:
            apart = (near[0] - far[0]).double().norm(dim=0) / 2**symplectic.FRACTION_BITS
            spread.append((n * STEP, float(apart.max())))
    lines["one unit of the last place"] = [(t, max(d, 1e-7)) for t, d in spread]
    figures = (
        Figure(f"numbers that differ after {steps} steps there and back", unequal, "==", 0),
        Figure("farthest they were gone", gone, ">=", 0.1),
        Figure("distance that the last digit grows to", max(d for _, d in spread), ">=", 0.05),
    )
    return figures, curve("two states one unit of the last place apart", "time", "distance", lines, log_y=True)


def _form_defect(h: float, seed: int) -> float:
    """Largest entry of J^T W J - W for Jacobians J of one step by automatic derivatives."""
    q, p = at_energy(0.1, 4, seed)
    form = torch.kron(torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    worst = 0.0
    for n in range(q.shape[1]):

        def step(z: Tensor) -> Tensor:
            return torch.cat(symplectic.step(z[:2], z[2:], henon_heiles, h))

        jacobian = torch.autograd.functional.jacobian(step, torch.cat([q[:, n], p[:, n]]))
        assert isinstance(jacobian, Tensor)
        worst = max(worst, float((jacobian.T @ form @ jacobian - form).abs().max()))
    return worst


def _energy_errors(h: float, steps: int, seed: int) -> list[float]:
    """Largest error of the energy of several states after every step."""
    q, p = at_energy(0.06, 16, seed)
    begin, found = henon_energy(q, p), []
    for _ in range(steps):
        q, p = symplectic.step(q, p, henon_heiles, h)
        found.append(float((henon_energy(q, p) - begin).abs().max()))
    return found


@claim(
    "dynamics.reversible",
    statement="Drift-kick-drift in fixed point goes back exactly, keeps the symplectic form, and errs by order 2.",
    source="docs/formulas.md, Dynamics",
)
def reversible(setting: Setting) -> Evidence:
    """A chaotic potential there and back; Jacobians; errors against Runge and Kutta, and of the energy."""
    figures, spread = _reversal(setting)
    steps = STEPS * (4 if setting.full else 1)
    coarse, fine = _energy_errors(0.1, steps // 2, setting.seed), _energy_errors(0.05, steps, setting.seed)
    half = len(fine) // 2
    q, p = at_energy(0.1, 16, setting.seed)
    exact = runge_kutta(q, p, 4.0, 2_000)
    errors = []
    for h in (0.1, 0.05, 0.025):
        found, _ = symplectic.evolve(q, p, henon_heiles, h, round(4 / h))
        errors.append(float((found - exact).norm()))
    order = math.log2(errors[0] / errors[2]) / 2
    every = max(1, steps // POINTS)
    lines = {
        "h = 0.1": [(0.1 * (n + 1), e) for n, e in enumerate(coarse)][:: max(1, every // 2)],
        "h = 0.05": [(0.05 * (n + 1), e) for n, e in enumerate(fine)][::every],
    }
    return Evidence(
        (
            *figures,
            Figure("largest entry of J^T W J - W", _form_defect(0.1, setting.seed), "<=", 1e-12),
            Figure("distance of the order of positions from 2", abs(order - 2), "<=", 0.1),
            Figure("distance of the order of energies from 2", abs(math.log2(max(coarse) / max(fine)) - 2), "<=", 0.3),
            Figure(
                "energy error of the second half over that of the first", max(fine[half:]) / max(fine[:half]), "<=", 1.5
            ),
        ),
        (spread, curve("error of the energy", "time", "largest error", lines, log_y=True)),
    )


def dense_hamiltonian(potential: np.ndarray, hbar: float, mass: float) -> np.ndarray:
    """H on a periodic grid with the five-point Laplacian, by Kronecker products of second differences."""

    def second(n: int) -> np.ndarray:
        return np.roll(np.eye(n), 1, 0) + np.roll(np.eye(n), -1, 0) - 2 * np.eye(n)

    x, y = potential.shape
    laplacian = np.kron(second(x), np.eye(y)) + np.kron(np.eye(x), second(y))
    return -(hbar**2) / (2 * mass) * laplacian + np.diag(potential.reshape(-1))


def _evolved(advance: Callable[[Tensor], Tensor], t: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        t = advance(t)
    return t


@claim(
    "dynamics.unitary",
    statement="Unitary evolution keeps the norm, and is that of the matrix exponential with an error of order 2.",
    source="docs/formulas.md, Dynamics",
)
def unitary(setting: Setting) -> Evidence:
    """Both integrators against exp(-i H t / hbar) of a matrix that is built and diagonalised here."""
    random = np.random.default_rng(setting.seed)
    shape, hbar, mass, time = ((9, 8) if setting.full else (6, 5)), 0.7, 1.3, 2.0
    potential = random.random(shape)
    start = random.standard_normal((2, *shape))
    t = torch.from_numpy(start[0] + 1j * start[1])
    t = t / t.abs().square().sum().sqrt()
    dense = dense_hamiltonian(potential, hbar, mass)
    energies, modes = np.linalg.eigh(dense)
    exact = modes @ (np.exp(-1j * energies * time / hbar) * (modes.T @ t.numpy().reshape(-1)))
    names = ("split_step", "crank_nicolson")
    drift, orders, lines, off = 0.0, [], {}, 0.0
    for name in names:
        errors = []
        for steps in (50, 100, 200):
            motion = Schroedinger(torch.from_numpy(potential), time / steps, hbar, mass)
            found = _evolved(getattr(motion, name), t, steps).numpy().reshape(-1)
            errors.append(float(np.linalg.norm(found - exact)))
        orders.append(math.log2(errors[0] / errors[2]) / 2)
        off = max(off, errors[-1])
        motion, state, norms = Schroedinger(torch.from_numpy(potential), 0.05, hbar, mass), t, []
        for n in range(20_000 if setting.full else 2_000):
            state = getattr(motion, name)(state)
            if n % 50 == 0:
                norms.append((0.05 * (n + 1), abs(float(state.abs().square().sum()) - 1)))
        drift = max(drift, *(d for _, d in norms))
        lines[name] = [(at, max(d, 1e-17)) for at, d in norms]
    motion = Schroedinger(torch.from_numpy(potential), 0.1, hbar, mass)
    applied = np.abs(motion.hamiltonian(t).numpy().reshape(-1) - dense @ t.numpy().reshape(-1)).max()
    free = Schroedinger(torch.zeros(shape, dtype=torch.float64), time, hbar, mass).split_step(t).numpy().reshape(-1)
    values, waves = np.linalg.eigh(dense_hamiltonian(np.zeros(shape), hbar, mass))
    alone = waves @ (np.exp(-1j * values * time / hbar) * (waves.T @ t.numpy().reshape(-1)))
    return Evidence(
        (
            Figure("largest change of the norm", drift, "<=", 1e-11 if setting.full else 1e-12),
            Figure("largest difference of H T from the dense matrix", float(applied), "<=", 1e-12),
            Figure("error after 200 steps against the matrix exponential", off, "<=", 1e-3),
            Figure("largest distance of an order from 2", max(abs(o - 2) for o in orders), "<=", 0.1),
            Figure("error of one long free step", float(np.abs(free - alone).max()), "<=", 1e-12),
        ),
        (curve("change of the norm", "time", "change", lines, log_y=True),),
    )


def _streamed(kernel: kernels.PoleKernel, x: Tensor) -> Tensor:
    state, found = kernel.start(), []
    for value in x:
        y, state = kernel.step(value, state)
        found.append(y)
    return torch.stack(found)


@claim(
    "dynamics.power-law-kernel",
    statement="A sum of exponentials stands for a power law within the error that comes with it, at O(1) a token.",
    source="docs/formulas.md, Dynamics",
)
def power_law_kernel(setting: Setting) -> Evidence:
    """Every integer of the reach against tau^-delta, and streams against the exact convolution with the past."""
    beyond, largest, streams, lines = -math.inf, 0.0, -math.inf, {}
    random = torch.Generator().manual_seed(setting.seed)
    length = 2_000 if setting.full else 300
    for delta, reach, terms in CERTIFIED:
        rates, weights, certificate = kernels.power_law(delta, reach, terms)
        u, c = rates.numpy(), weights.numpy()
        tau = np.arange(1, reach + 2, dtype=np.float64)
        sums = sum(c_j * np.exp(-u_j * tau) for u_j, c_j in zip(u, c, strict=True))
        relative = np.abs(sums / tau**-delta - 1)
        beyond, largest = max(beyond, float(relative.max()) - certificate), max(largest, certificate)
        seen = np.unique(np.geomspace(1, reach + 1, POINTS).astype(int)) - 1
        name = f"delta = {delta}, {terms} terms"
        lines[name] = [(float(tau[i]), max(float(relative[i]), 1e-12)) for i in seen]
        kernel = kernels.three_modes(
            decay=(0.0, 1.0), power=(1.0, delta, 0.0), wave=(0.0, 1.0, 0.0, 1.0), t_max=reach, terms=terms
        )
        x = torch.randn(min(length, reach), generator=random, dtype=torch.float64)
        lags = np.arange(len(x)) + 1.0
        exact = np.convolve(x.numpy(), lags**-delta)[: len(x)]
        # The certificate holds for every term of the convolution.
        allowed = certificate * np.convolve(x.abs().numpy(), lags**-delta)[: len(x)]
        streams = max(streams, float((np.abs(_streamed(kernel, x).numpy() - exact) - allowed).max()))
    return Evidence(
        (
            Figure("largest excess of an error over its certificate", beyond, "<=", ROUNDING),
            Figure("largest excess in a stream over what the certificate allows", streams, "<=", ROUNDING),
            Figure("largest certificate", largest, "<=", 1e-3),
        ),
        (curve("relative error of sums of exponentials", "tau", "error", lines, log_x=True, log_y=True),),
    )
