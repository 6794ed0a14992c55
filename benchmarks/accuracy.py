"""Accuracy: hyperbolic distances beside public peers against 50 digits, and integrators against what they keep.

Run: `python benchmarks/accuracy.py`; peers take part where they are installed. Every library is judged at its own
rounded float32 coordinates, by the largest relative error over pairs at one hyperbolic radius: far ones in random
directions, near ones a thousandth of the radius apart.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable

import mpmath as mp
import torch
from torch import Tensor

from holonomy.dynamics import symplectic
from holonomy.dynamics.kernels import power_law, three_modes
from holonomy.dynamics.unitary import Schroedinger
from holonomy.geometry import lorentz, normal, poincare

RADII, PAIRS, DIM = (1.0, 3.0, 5.0, 6.0, 8.0, 12.0), 64, 4
K = torch.tensor(-1.0)
COPIES = 64
Form = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor], Callable[[list, list], mp.mpf]]


def by_sheet(x: list, y: list) -> mp.mpf:
    lift = [mp.sqrt(1 + sum(a * a for a in p)) for p in (x, y)]
    return mp.acosh(lift[0] * lift[1] - sum(a * b for a, b in zip(x, y, strict=True)))


def by_normal(x: list, y: list) -> mp.mpf:
    def spatial(v: list) -> list:
        r = mp.sqrt(sum(a * a for a in v))
        return [a * mp.sinh(r) / r for a in v]

    return by_sheet(spatial(x), spatial(y))


def by_ball(x: list, y: list) -> mp.mpf:
    gap = [1 - sum(a * a for a in p) for p in (x, y)]
    d = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    return mp.acosh(1 + 2 * d / (gap[0] * gap[1]))


def has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def forms() -> dict[str, Form]:
    """Name to (from normal coordinates in float64, distance, exact distance)."""
    wide = K.double()

    def ball(v: Tensor) -> Tensor:
        return normal.to_ball(v, wide).float()

    def sheet(v: Tensor) -> Tensor:
        return lorentz.from_normal(v, wide).float()

    found: dict[str, Form] = {
        "holonomy normal": (lambda v: v.float(), lambda x, y: normal.dist(x, y, K), by_normal),
        "holonomy lorentz": (sheet, lambda x, y: lorentz.dist(x, y, K), lambda x, y: by_sheet(x[1:], y[1:])),
        "holonomy ball": (ball, lambda x, y: poincare.dist(x, y, K), by_ball),
    }
    if has("geoopt"):
        import geoopt  # pyright: ignore[reportMissingImports]

        found["geoopt lorentz"] = (sheet, geoopt.Lorentz(k=1.0).dist, lambda x, y: by_sheet(x[1:], y[1:]))
        found["geoopt ball"] = (ball, geoopt.PoincareBall(c=1.0).dist, by_ball)
    if has("hypll"):
        from hypll.manifolds.poincare_ball.math import diffgeom  # pyright: ignore[reportMissingImports]

        found["hypll ball"] = (ball, lambda x, y: diffgeom.dist(x, y, torch.tensor(1.0)), by_ball)
    if has("geomstats"):
        import numpy

        os.environ["GEOMSTATS_BACKEND"] = "pytorch"
        if not hasattr(numpy, "trapz"):
            numpy.trapz = numpy.trapezoid  # type: ignore[attr-defined]
        from geomstats.geometry.poincare_ball import PoincareBall  # pyright: ignore[reportMissingImports]

        space = PoincareBall(DIM)
        torch.set_default_dtype(torch.float32)
        found["geomstats ball"] = (ball, space.metric.dist, by_ball)  # pyright: ignore[reportAttributeAccessIssue]
    return found


def pairs(radius: float, near: bool) -> tuple[Tensor, Tensor]:
    """Normal coordinates, [PAIRS, DIM] float64."""
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, PAIRS, DIM, generator=generator, dtype=torch.float64)
    u, v = (radius * a / a.norm(dim=-1, keepdim=True) for a in (u, v))
    return u, u + 1e-3 * v if near else v


def worst(form: Form, radius: float, near: bool) -> float:
    place, dist, exact = form
    x, y = (place(a) for a in pairs(radius, near))
    # So many rows that they go through kernels, where there are any.
    found = dist(x.repeat(COPIES, 1), y.repeat(COPIES, 1))[:PAIRS]
    errors = []
    for a, b, d in zip(x.tolist(), y.tolist(), found.tolist(), strict=True):
        try:
            wanted = exact([mp.mpf(i) for i in a], [mp.mpf(i) for i in b])
            errors.append(float(abs((mp.mpf(d) - wanted) / wanted)) if wanted and mp.im(wanted) == 0 else float("inf"))
        except (ValueError, ZeroDivisionError):
            errors.append(float("inf"))
    return max(errors)


def print_distances() -> None:
    known = forms()
    for near in (False, True):
        print(f"\nlargest relative error of float32 distances, {'near' if near else 'far'} pairs")
        print(f"{'radius':18s}" + "".join(f"{r:>10g}" for r in RADII))
        for name, form in known.items():
            print(f"{name:18s}" + "".join(f"{worst(form, r, near):10.1e}" for r in RADII))


def print_integrators() -> None:
    generator = torch.Generator().manual_seed(0)
    q, p = torch.randn(2, 32, generator=generator, dtype=torch.float64)

    def energy(q: Tensor, p: Tensor) -> float:
        return float((p.square() / 2 + torch.log(torch.cosh(q))).sum())

    start, x, y, swing = energy(q, p), q, p, 0.0
    for _ in range(10_000):
        x, y = symplectic.step(x, y, lambda a: -torch.tanh(a), 0.005)
        swing = max(swing, abs(energy(x, y) / start - 1))
    a, b = first = symplectic.to_fixed(q), symplectic.to_fixed(p)
    for sign in (1, -1):
        b = sign * b
        for _ in range(4096):
            a, b = symplectic.fixed_step(a, b, lambda s: -torch.tanh(s), 0.1, torch.float32)
    back = int((a - first[0]).abs().max() + (-b - first[1]).abs().max())
    potential = torch.rand(8, 8, generator=generator, dtype=torch.float64)
    t = torch.randn(8, 8, generator=generator, dtype=torch.complex128)
    drifts = {}
    for method in ("split_step", "crank_nicolson"):
        system, moved = Schroedinger(potential, dt=0.05), t
        for _ in range(2000):
            moved = getattr(system, method)(moved)
        drifts[method] = abs(float(moved.norm() / t.norm()) - 1)
    kernel = three_modes(decay=(0.8, 0.1), power=(-0.4, 0.5, 0.01), wave=(0.6, 0.9, 0.3, 0.05), terms=16)
    inputs = torch.randn(500, generator=generator, dtype=torch.float64)
    found, _ = kernel.run(inputs, kernel.start())
    weights = kernel(torch.arange(500, dtype=torch.float64))
    direct = torch.stack([(weights[: n + 1].flip(0) * inputs[: n + 1]).sum() for n in range(500)])
    print("\nintegrators")
    print(f"drift-kick-drift, h = 0.005, 10,000 steps: largest relative energy error {swing:.1e}")
    print(f"fixed point, 4,096 steps and back: largest difference {back} units")
    for method, drift in drifts.items():
        print(f"{method}, 2,000 steps, complex128: relative norm drift {drift:.1e}")
    print(
        f"18 poles against direct convolution, 500 inputs: largest difference {float((found - direct).abs().max()):.1e}"
    )
    for t_max, terms in ((100, 8), (1000, 12), (10_000, 16)):
        print(
            f"t^-0.5 to {t_max:,} by {terms} exponentials: largest relative error {power_law(0.5, t_max, terms)[2]:.1e}"
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    mp.mp.dps = 50
    print_distances()
    print_integrators()
