"""Words that the design of lior uses, and where they are here: a reader of one finds the other."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch

from holonomy.core.config import leaves
from holonomy.geometry.metric import MetricBase
from holonomy.recipes import configure

KEYS = {
    "frame_mode": "geometry.frame_mode", "metric_mode": "geometry.metric_mode", "rotor_mode": "geometry.rotor_mode",
    "R_source": "geometry.source", "coord_dim_n": "geometry.n", "lambda_QR": "field.evidence",
    "dynamics_mode": "field.dynamics", "collapse": "field.collapse_every", "nudge_mode": "train.echo.nudge",
    "beta_nudge": "train.echo.kappa", "eta_update": "train.optim.lr", "window length": "data.seq_len",
    "max_windows": "train.budget.steps", "strict CUDA": "train.strict_cuda", "SPSA": "train.spsa.groups",
    "entropy gate": "infer.gate", "selector": "infer.selector", "memory bank": "memory.capacity",
}  # fmt: skip
PLACES = {
    "LIoR action": "geometry.action:path_action", "lior_state": "geometry.action:LiorState.alpha",
    "cognitive field": "dynamics.tensor_field:TensorField.evolve", "rotor": "geometry.frames:Rotor.matrix",
    "curvature collapse": "geometry.curvature:collapse_riemann",
    "entropy functional": "dynamics.collapse:concentration",
    "memory kernel": "nn.kernel:KernelBank", "resilience": "nn.retrieval:CurvatureSource.factors",
    "SDM": "infer.memory:AssociativeMemory.commit", "chat engine": "infer.session:Session.reply",
    "field in chat": "models.lior.moving:MovingField.step", "two phases": "learn.echo:echo_statistics",
}  # fmt: skip
PARTS = {
    "geometry.metric:Metric": {"lam_local", "lam_mem", "U", "D", "omega"},
    "geometry.frames:Rotor": {"planes", "theta"},
    "geometry.action:LiorState": {"integral", "dtau"},
}


def found(place: str) -> object:
    module, _, path = place.partition(":")
    value: object = importlib.import_module(f"holonomy.{module}")
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("place", [*PLACES.values(), *PARTS])
def test_words_of_the_design_have_a_place(place: str) -> None:
    thing = found(place)
    assert inspect.getdoc(thing if not isinstance(thing, property) else thing.fget)
    assert PARTS.get(place, set()) <= set(getattr(thing, "__dataclass_fields__", ()))


def test_words_of_the_design_have_a_key() -> None:
    assert set(KEYS.values()) <= set(leaves(configure("lior").config))
    base = MetricBase(torch.eye(3))
    assert base.K is not None
    assert base.g0.shape == base.g0_inv.shape == (3, 3)
