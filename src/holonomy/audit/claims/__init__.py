"""The claims of the package, a module per subject."""

from __future__ import annotations

import importlib

MODULES = (
    "geometry",
    "language",
    "learning",
    "generalisation",
    "resuming",
    "checkpoints",
    "dynamics",
    "holographic",
    "ternary",
    "spectral",
    "performance",
    "configuration",
)


def register_claims() -> None:
    """Registers every claim."""
    for name in MODULES:
        importlib.import_module(f"{__name__}.{name}")
