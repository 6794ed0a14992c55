"""Between log points nobody waits for the device: no update reads a value of a tensor or sizes one by values."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from mortal import small_run
from torch.utils._python_dispatch import TorchDispatchMode

from holonomy.recipes import configure, launch
from holonomy.train import loop
from holonomy.train.monitor import SilentProgress

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal")
"""Operations whose result, or its shape, has to be known to the CPU."""


class Waits(TorchDispatchMode):
    """Counts operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masked = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in WAITING or masked:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def test_waits_are_seen() -> None:
    x, waits = torch.arange(3.0), Waits()
    with waits:
        _ = (float(x[0]), bool(x[0] > 1), x.nonzero(), x[x > 1], x + 1)
    assert waits.found == {"_local_scalar_dense": 2, "nonzero": 1, "index": 1}


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("lior", ()),
        ("lior", ("model.bank=selective",)),
        ("lior", ("train.echo.memory=segment", "train.echo.segment=32", "model.dropout=0")),
        ("stream", ()),
        ("ternary", ()),
    ],
)
def test_updates_wait_for_nothing(family: str, more: tuple[str, ...], tmp_path: Path, monkeypatch) -> None:
    waits, steps, step = Waits(), [], loop._Fit._step

    def watched(self: loop._Fit) -> None:
        steps.append(1)
        with waits:
            step(self)

    monkeypatch.setattr(loop._Fit, "_step", watched)
    recipe, settings = small_run(family, tmp_path)
    settings = [s for s in settings if not s.startswith("train.cadence.log_every")]
    config = configure(recipe, overrides=[*settings, "train.cadence.log_every=6", *more]).config
    launch.train(config, recipe=recipe, run="a", root=tmp_path, progress=SilentProgress())
    assert len(steps) == 12
    assert waits.found == {}
