"""The tensor field: energies, forces by autograd, conservation, decay, evidence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.dynamics.field import Binding, FieldLaw, gaussian_posterior, reweighted
from holonomy.dynamics.unitary import Schroedinger
from holonomy.testing import assert_convergence_order, assert_symplectic

SHAPE = (4, 3, 2, 2)
KINDS = ("zero", "harmonic", "gaussian_well")


def noise(seed: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.complex128).to(dtype)


def law(kind: str = "harmonic", *, dt: float = 0.05, potential: float = 0.0) -> FieldLaw:
    v = potential * torch.rand(SHAPE[:2], generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    quantum = Schroedinger(v, dt=dt, hbar=0.8, mass=1.3, metric=(1.2, 0.7, 0.3))
    binding = Binding(kind, 0.3 * noise(1), stiffness=1.7, depth=2.0, width=1.5)
    return FieldLaw(quantum, binding, friction=0.9)


@pytest.mark.parametrize("kind", KINDS)
def test_force_is_minus_the_gradient_of_the_energy(kind: str) -> None:
    rule, source = law(kind), noise(2)
    t = noise(3).requires_grad_()
    (gradient,) = torch.autograd.grad(rule.mechanical_energy(t, noise(4), source), t)
    assert (rule.force(t.detach(), source) + gradient).abs().max() < 1e-12
    t = noise(3).requires_grad_()
    # Autograd's gradient by a complex number is twice the derivative by its conjugate.
    (gradient,) = torch.autograd.grad(rule.binding.energy(t), t)
    assert (2 * rule.binding.slope(t.detach()) - gradient).abs().max() < 1e-12


def test_the_bindings_differ() -> None:
    forces = [law(kind).force(noise(3), noise(2)) for kind in KINDS]
    for i in range(3):
        assert (forces[i] - forces[i - 1]).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_energy_oscillates_without_drift(kind: str) -> None:
    rule, source = law(kind, dt=0.004), 0.1 * noise(2)
    t, p = noise(3), noise(4)
    start, energies = float(rule.mechanical_energy(t, p, source)), []
    for step in range(10_000):
        t, p = rule.mechanical_step(t, p, source)
        if step % 20 == 0:
            energies.append(float(rule.mechanical_energy(t, p, source)) / start - 1)
    found = torch.tensor(energies, dtype=torch.float64)
    assert float(found.abs().max()) < 1e-5
    time = torch.linspace(0, 10_000, len(found), dtype=torch.float64)
    slope = ((time - time.mean()) * (found - found.mean())).sum() / (time - time.mean()).square().sum()
    assert abs(float(slope)) < 1e-9


def test_mechanical_steps_are_symplectic_reversible_and_of_order_two() -> None:
    source = noise(2)

    def flow(dt: float, steps: int, t: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        rule = law("gaussian_well", dt=dt)
        for _ in range(steps):
            t, p = rule.mechanical_step(t, p, source)
        return t, p

    t, p = flow(0.01, 500, noise(3), noise(4))
    back, turned = flow(0.01, 500, t, -p)
    assert float((back - noise(3)).abs().max()) < 1e-11
    assert float((turned + noise(4)).abs().max()) < 1e-11
    fine, _ = flow(0.4 / 512, 512, noise(3), noise(4))

    def error(dt: float) -> float:
        return float((flow(dt, round(0.4 / dt), noise(3), noise(4))[0] - fine).norm())

    assert_convergence_order(error, [0.1, 0.05, 0.025], order=2.0, tolerance=0.05)
    size = noise(1).numel() * 2

    def flat_step(state: Tensor) -> Tensor:
        t, p = (torch.view_as_complex(part.view(*SHAPE, 2)) for part in state.split(size))
        moved = law("gaussian_well").mechanical_step(t, p, source)
        return torch.cat([torch.view_as_real(m).flatten() for m in moved])

    state = torch.cat([torch.view_as_real(noise(s)).flatten() for s in (3, 4)])
    assert_symplectic(flat_step, state, tolerance=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_too_long_steps_are_refused_where_they_would_blow_up(kind: str) -> None:
    longest = law(kind).longest_step
    with pytest.raises(ConfigError, match="stable below"):
        law(kind, dt=1.001 * longest).mechanical_step(noise(3), noise(4), noise(2))
    if kind == "harmonic":
        t, p = noise(3), noise(4)
        stable = law(kind, dt=0.99 * longest)
        for _ in range(2000):
            t, p = stable.mechanical_step(t, p, torch.zeros_like(t))
        assert float(t.abs().max()) < 100


@pytest.mark.parametrize("kind", KINDS)
def test_free_energy_never_rises(kind: str) -> None:
    rule, t = law(kind, potential=1.0), noise(3)
    before = float(rule.free_energy(t))
    for _ in range(300):
        t = rule.dissipative_step(t)
        after = float(rule.free_energy(t))
        assert after <= before + 1e-12
        before = after


def test_a_uniform_equilibrium_is_the_fixed_point() -> None:
    uniform = noise(1)[:1, :1].expand(SHAPE).contiguous()
    free = Schroedinger(torch.zeros(SHAPE[:2], dtype=torch.float64), dt=0.2)
    rule = FieldLaw(free, Binding("harmonic", uniform))
    assert (rule.dissipative_step(uniform) - uniform).abs().max() < 1e-14
    t = noise(3)
    for _ in range(400):
        t = rule.dissipative_step(t)
    assert (t - uniform).abs().max() < 1e-12


def test_evidence_keeps_the_norm_and_favours_agreement() -> None:
    t, tau = noise(3), torch.full(SHAPE[:2], 0.5, dtype=torch.float64)
    found = reweighted(t, noise(5), tau)
    assert abs(float(found.norm() / t.norm()) - 1) < 1e-12
    assert (reweighted(t, t, tau) - t).abs().max() < 1e-14
    far = noise(5) * 1e3
    assert torch.isfinite(torch.view_as_real(reweighted(t, far, tau))).all()
    half = t.clone()
    half[0, 0, 0, 0] += 2
    gained = (reweighted(t, half, tau) / t).abs()
    assert float(gained[0, 0, 0, 0]) == float(gained.min())


def test_gaussian_posterior_is_the_conjugate_closed_form() -> None:
    """Completing the square: the mean minimises |z - T|^2 / s^2 + |z - E|^2 / tau."""
    t, e, tau = noise(3), noise(5), 0.2 + torch.rand(SHAPE[:2], dtype=torch.float64)
    found = gaussian_posterior(t, e, 0.7, tau)
    z = found.clone().requires_grad_()
    misfit = ((z - t).abs().square() / 0.7 + (z - e).abs().square() / tau.view(*SHAPE[:2], 1, 1)).sum()
    (gradient,) = torch.autograd.grad(misfit, z)
    assert gradient.abs().max() < 1e-12
    assert (gaussian_posterior(t, t, 0.7, tau) - t).abs().max() < 1e-15


def test_wrong_bindings_are_refused() -> None:
    with pytest.raises(ConfigError, match="`kind`.*harmonic"):
        Binding("cubic", noise(1))
    with pytest.raises(ConfigError, match="`width`"):
        Binding("gaussian_well", noise(1), width=0.0)
