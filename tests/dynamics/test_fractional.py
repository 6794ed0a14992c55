"""Fractional calculus against closed forms, mpmath and the error function."""

from __future__ import annotations

import math

import pytest
import torch
from mpmath import mp, mpf
from scipy.special import erfcx

from holonomy.core.errors import ConfigError
from holonomy.dynamics.fractional import FractionalMemory, caputo_l1, integral_weights, mittag_leffler
from holonomy.testing import assert_convergence_order


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_caputo_derivative_of_powers(alpha: float) -> None:
    """D t^p = Gamma(p + 1) / Gamma(p + 1 - alpha) t^(p - alpha); linear functions are exact."""
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    for power, tolerance in ((1.0, 1e-12), (2.0, 1e-3)):
        exact = math.gamma(power + 1) / math.gamma(power + 1 - alpha) * t ** (power - alpha)
        assert float((caputo_l1(t**power, 1 / 2000, alpha) - exact).abs().max()) < tolerance


def test_l1_scheme_has_its_order() -> None:
    alpha = 0.4

    def error(dt: float) -> float:
        t = torch.arange(0, 1 + dt / 2, dt, dtype=torch.float64)
        exact = 2 / math.gamma(3 - alpha) * t[-1] ** (2 - alpha)
        return float((caputo_l1(t**2, dt, alpha)[-1] - exact).abs())

    assert_convergence_order(error, [1 / 50, 1 / 100, 1 / 200, 1 / 400], order=2 - alpha, tolerance=0.05)


def test_constants_have_no_derivative_and_short_series_work() -> None:
    assert torch.equal(caputo_l1(torch.ones(3, 5), 0.1, 0.5), torch.zeros(3, 5))
    assert torch.equal(caputo_l1(torch.ones(1), 0.1, 0.5), torch.zeros(1))


def test_integral_weights_are_exact_for_constants_and_newest_first() -> None:
    weights = integral_weights(0.5, 0.01, 100_000)
    assert float(weights.argmax()) == 0
    # The integral of 1 is t^alpha / Gamma(alpha + 1).
    assert abs(float(weights.sum()) - 1000**0.5 / math.gamma(1.5)) < 1e-10
    with mp.workdps(40):
        exact = (mp.sqrt(100_000) - mp.sqrt(99_999)) * mp.sqrt(mpf(0.01)) / mp.gamma(1.5)
    assert abs(float(weights[-1]) / float(exact) - 1) < 1e-14


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8, 0.99])
def test_mittag_leffler_equals_its_series(alpha: float) -> None:
    x = torch.tensor([0.0, 1e-6, 0.1, 1.0, 2.5], dtype=torch.float64)
    found = mittag_leffler(-x, alpha)
    with mp.workdps(60):
        for value, result in zip(x.tolist(), found.tolist(), strict=True):
            if value <= 1 or alpha >= 0.5:
                total = mp.nsum(lambda n, v=value: mpf(-v) ** int(n) / mp.gamma(mpf(alpha) * n + 1), [0, 400])
                assert abs(result - float(total)) < 1e-12


def test_mittag_leffler_of_one_half_is_the_error_function(dtype: torch.dtype) -> None:
    x = torch.logspace(-8, 6, 200, dtype=dtype)
    found, exact = mittag_leffler(-x, 0.5), torch.from_numpy(erfcx(x.double().numpy()))
    assert float((found.double() / exact - 1).abs().max()) < (3e-7 if dtype is torch.float32 else 1e-12)
    assert torch.equal(mittag_leffler(-x, 1.0), (-x).exp())


def test_relaxation_decays_like_mittag_leffler() -> None:
    """D^alpha x = -x from x = 1, stepped with the L1 weights."""
    alpha, dt, steps = 0.5, 1e-3, 2000
    b = torch.diff(torch.arange(steps + 1, dtype=torch.float64) ** (1 - alpha))
    scale = dt**-alpha / math.gamma(2 - alpha)
    x = torch.ones(steps + 1, dtype=torch.float64)
    for n in range(1, steps + 1):
        past = (b[1:n] * (x[1:n].flip(0) - x[: n - 1].flip(0))).sum()
        x[n] = scale * (x[n - 1] - past) / (scale + 1)
    t = torch.arange(steps + 1, dtype=torch.float64) * dt
    exact = mittag_leffler(-(t**alpha), alpha)
    assert float((x - exact)[100:].abs().max()) < 1e-3


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.7])
def test_memory_by_modes_equals_the_sum(alpha: float) -> None:
    memory = FractionalMemory(alpha, dt=0.1, t_max=500, terms=14)
    assert memory.error < 1e-4
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.complex128)
    weights, modes = integral_weights(alpha, 0.1, 400), memory.start(x[0])
    for n in range(400):
        found, modes = memory.step(x[n], modes)
        exact = (weights[: n + 1, None] * x[: n + 1].flip(0)).sum(0)
        bound = memory.error * (weights[: n + 1, None] * x[: n + 1].flip(0).abs()).sum(0)
        assert bool(((found - exact).abs() <= bound + 1e-14).all())


@pytest.mark.parametrize(
    "act",
    [
        lambda: caputo_l1(torch.ones(3), 0.1, 1.0),
        lambda: integral_weights(0.0, 0.1, 3),
        lambda: mittag_leffler(torch.ones(1), 0.5),
        lambda: mittag_leffler(-torch.ones(1), 1.5),
        lambda: FractionalMemory(0.5, dt=0.0),
        lambda: FractionalMemory(1.5, dt=0.1),
    ],
)
def test_wrong_arguments_are_named(act) -> None:
    with pytest.raises(ConfigError, match="`alpha`|`dt`"):
        act()
