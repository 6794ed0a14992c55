"""Geometry as pure functions on tensors, with thin classes that bind parameters.

Curvature k is negative for hyperbolic spaces and positive for spheres; c = -k > 0 appears only inside hyperbolic
modules. Points x, y and tangents u, v have their coordinates on the last axis. Distances and norms are those of the
metric: d(0, exp0(v)) = |v|_g at the origin.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holonomy.geometry.clifford import Algebra
    from holonomy.geometry.euclidean import Euclidean
    from holonomy.geometry.frames import Rotor
    from holonomy.geometry.lorentz import Lorentz
    from holonomy.geometry.manifold import Manifold
    from holonomy.geometry.metric import Metric
    from holonomy.geometry.padic import PadicTree
    from holonomy.geometry.poincare import Poincare
    from holonomy.geometry.product import Product
    from holonomy.geometry.spd import SPD
    from holonomy.geometry.sphere import Sphere
    from holonomy.geometry.wrapped import WrappedNormal

__all__ = [
    "SPD",
    "Algebra",
    "Euclidean",
    "Lorentz",
    "Manifold",
    "Metric",
    "PadicTree",
    "Poincare",
    "Product",
    "Rotor",
    "Sphere",
    "WrappedNormal",
]
_HOMES = {"Algebra": "clifford", "PadicTree": "padic", "Rotor": "frames", "WrappedNormal": "wrapped"}
"""Where a class lives whose module is not called after it."""


def __getattr__(name: str) -> Any:
    """Imports a class when it is first used: no module loads what it does not need."""
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, name.lower())}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
