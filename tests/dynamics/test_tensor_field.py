"""Collapse and its functional by enumeration, adaptive parameters by differences, and exact snapshots."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.dynamics import collapse
from holonomy.dynamics.field import Binding, FieldLaw
from holonomy.dynamics.fractional import FractionalMemory, integral_weights
from holonomy.dynamics.tensor_field import Pulls, TensorField
from holonomy.dynamics.unitary import Schroedinger

SHAPE = (4, 3, 2, 2)
GRID = SHAPE[:2]


def noise(seed: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.complex128).to(dtype)


def field(dynamics: str = "dissipative", **changes) -> TensorField:
    potential = torch.rand(GRID, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    law = FieldLaw(Schroedinger(potential, dt=0.1), Binding("harmonic", noise(1)))
    memory = FractionalMemory(0.4, dt=0.1, t_max=64, terms=10)
    return TensorField(law, dynamics=dynamics, memory=memory, generator=torch.Generator().manual_seed(0), **changes)


def filled(steps: int = 5) -> TensorField:
    made = field()
    for step in range(steps):
        made.evolve(source=0.3 * noise(20 + step), evidence=noise(2))
    return made


def test_concentration_equals_a_double_loop_and_its_slope_differences() -> None:
    p = collapse.site_weights(noise(3))
    assert abs(float(p.sum()) - 1) < 1e-14
    nu = 0.2 + 0.7 * torch.rand(GRID, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, slope = collapse.concentration(p, nu, width=1.5)
    for x in range(GRID[0]):
        for y in range(GRID[1]):
            weights, values = [], []
            for a in range(GRID[0]):
                for b in range(GRID[1]):
                    dx, dy = min(abs(x - a), GRID[0] - abs(x - a)), min(abs(y - b), GRID[1] - abs(y - b))
                    weights.append(math.exp(-(dx * dx + dy * dy) / (2 * 1.5**2)))
                    values.append(float(p[a, b]) ** float(nu[x, y]))
            exact = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
            assert abs(float(found[x, y]) - exact) < 1e-14
    step = 1e-6
    up, down = (collapse.concentration(p, nu + s, width=1.5)[0] for s in (step, -step))
    assert ((up - down) / (2 * step) - slope).abs().max() < 1e-9


def test_von_neumann_entropy_of_pure_and_mixed_fields() -> None:
    pure = torch.zeros(SHAPE, dtype=torch.complex128)
    pure[..., 0, 1] = 2.0
    assert abs(float(collapse.von_neumann_entropy(pure))) < 1e-14
    mixed = torch.eye(2, dtype=torch.complex128).expand(SHAPE)
    assert abs(float(collapse.von_neumann_entropy(mixed)) - math.log(2)) < 1e-14


def test_probabilities_sum_to_one_and_sharpen_to_the_least() -> None:
    h = torch.rand(GRID, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    tau = 0.5 + torch.rand(GRID, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert abs(float(collapse.collapse_probabilities(h, tau).sum()) - 1) < 1e-14
    sharp = collapse.collapse_probabilities(h, 1e-4 * tau)
    assert float(sharp.flatten()[(h / tau).argmin()]) > 1 - 1e-12


def test_soft_collapse_moves_weight_by_the_probabilities() -> None:
    t, chances = noise(3), torch.rand(GRID, dtype=torch.float64).flatten().softmax(0).view(GRID)
    found = collapse.soft_collapse(t, chances)
    assert abs(float(found.norm() / t.norm()) - 1) < 1e-14
    gained = collapse.site_weights(found) / collapse.site_weights(t)
    assert (gained / gained.sum() - chances).abs().max() < 1e-14
    uniform = torch.full(GRID, 1 / 12, dtype=torch.float64)
    assert (collapse.soft_collapse(t, uniform) - t).abs().max() < 1e-14


def test_hard_collapse_samples_sites_by_their_probabilities() -> None:
    t, generator = noise(3), torch.Generator().manual_seed(4)
    chances = torch.arange(1.0, 13.0, dtype=torch.float64).view(GRID) / 78
    counts = torch.zeros(12)
    for _ in range(2000):
        found = collapse.hard_collapse(t, chances, generator)
        sites = collapse.site_weights(found).flatten()
        assert float(sites.max()) == 1
        counts[sites.argmax()] += 1
    assert abs(float(found.norm() / t.norm()) - 1) < 1e-14
    assert chisquare(counts.numpy(), 2000 * chances.flatten().numpy()).pvalue > 0.01
    with pytest.raises(ConfigError, match="vanishes at site"):
        collapse.hard_collapse(torch.zeros_like(t), chances, generator)


def test_the_memory_of_the_field_is_the_fractional_integral_of_its_past() -> None:
    made, past = field(), []
    for _ in range(20):
        past.append(made.t)
        made.evolve()
    past.append(made.t)
    weights = integral_weights(0.4, 0.1, 21).view(-1, 1, 1, 1, 1)
    exact = (weights * torch.stack(past).flip(0)).sum(0)
    assert (made.memory.recall(made.t, made.modes) - exact).abs().max() < 1e-4 * exact.abs().max()
    still = field(pulls=Pulls(memory=0.0))
    still.evolve()
    again = field()
    again.evolve()
    assert (still.t - again.t).abs().max() > 1e-4


def test_slopes_of_adaptive_parameters_equal_differences() -> None:
    made = filled()
    source, evidence = noise(6), noise(2)
    found = made.slopes(source=source, evidence=evidence)
    for name, slope in found.items():
        assert bool((slope != 0).all()), name
        raw, step = getattr(made, name), 1e-5
        for i in range(raw.numel()):
            values = []
            for sign in (1, -1):
                moved = raw.clone()
                moved.view(-1)[i] += sign * step
                setattr(made, name, moved)
                values.append(made.objective(source, evidence))
            setattr(made, name, raw)
            assert (
                abs((values[0] - values[1]) / (2 * step) - float(slope.view(-1)[i]))
                < 1e-6 * float(slope.abs().max()) + 1e-11
            )


def test_adapting_lowers_the_objective_within_bounds() -> None:
    made, evidence = filled(), noise(2)
    before = made.objective(None, evidence)
    for _ in range(20):
        made.adapt(3.0, evidence=evidence)
    assert made.objective(None, evidence) < before - 1e-3
    assert 0 < made.order < 1
    assert bool((made.exponent > 0.01).all()) and bool((made.exponent < 1).all())
    assert bool((made.temperature > 0.01).all())


@pytest.mark.parametrize("dynamics", ["dissipative", "mechanical", "unitary"])
def test_snapshots_restore_every_bit(dynamics: str) -> None:
    made = field(dynamics)
    advance = {
        "dissipative": lambda f, s: f.evolve(source=noise(s), evidence=noise(s + 1)),
        "mechanical": lambda f, s: f.evolve(source=noise(s)),
        "unitary": lambda f, s: f.evolve(),
    }[dynamics]
    for s in range(3):
        advance(made, s)
    kept = made.snapshot()
    ends = []
    for _ in range(2):
        made.restore(kept)
        for s in range(3, 6):
            advance(made, s)
        chances = made.collapse(hard=True)
        ends.append((made.t, made.p, made.modes, chances))
    assert made.steps == 6 and abs(made.time - 0.6) < 1e-12
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    other = field(dynamics)
    other.restore(kept)
    assert torch.equal(other.t, kept["t"]) and other.steps == 3


def test_unitary_and_mechanical_fields_move_as_their_laws_say() -> None:
    made = field("unitary")
    made.evolve()
    assert torch.equal(made.t, made.law.quantum.split_step(noise(1)))
    made = field("mechanical")
    made.evolve(source=noise(2))
    t, p = made.law.mechanical_step(noise(1), torch.zeros_like(noise(1)), noise(2))
    assert torch.equal(made.t, t) and torch.equal(made.p, p)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: field("chaotic"), "`dynamics`.*unitary"),
        (lambda: field("unitary").evolve(source=noise(2)), "`source`"),
        (lambda: field("mechanical").evolve(evidence=noise(2)), "`evidence`"),
        (lambda: field().slopes(evidence=noise(2)), "a step already taken"),
        (lambda: filled().slopes(), "`evidence`"),
        (lambda: field().restore({}), "nothing for `t`"),
        (lambda: field().restore(field().snapshot() | {"t": torch.zeros(2)}), r"`t`, wanted \(4, 3, 2, 2\)"),
    ],
)
def test_what_cannot_be_is_refused(act, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        act()
