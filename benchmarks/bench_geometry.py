"""Poincare ball and Clifford products beside public peers, CPU time on one thread, all in one run.

Run: `make bench`; peers take part where they are installed (`pip install geoopt kingdon`). The floor moves the same
bytes once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from holonomy.cli.process import tune_process
from holonomy.geometry import poincare
from holonomy.geometry.clifford import Algebra, geometric

K = torch.tensor(-1.0)
ROWS = (19_683, 262_144)
PAIRS = (100_000, 1_000_000)


@pytest.fixture(scope="module", autouse=True)
def process() -> None:
    """One thread, memory kept between rounds."""
    tune_process(threads=1)


def points(rows: int, seed: int) -> Tensor:
    return 0.1 * torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed))


def ball_operation(name: str, source: str) -> Callable[[Tensor, Tensor], Tensor]:
    """An operation of ours, of a peer, or the floor."""
    if source == "floor":
        return torch.add
    if source == "holonomy":
        return {
            "dist": lambda x, y: poincare.dist(x, y, K),
            "dist0": lambda x, y: poincare.dist0(x, K),
            "mobius_add": lambda x, y: poincare.mobius_add(x, y, K),
            "exp0": lambda x, y: poincare.exp0(x, K),
            "log0": lambda x, y: poincare.log0(x, K),
        }[name]
    ball = pytest.importorskip("geoopt").PoincareBall(c=1.0)
    return {
        "dist": ball.dist,
        "dist0": lambda x, y: ball.dist0(x),
        "mobius_add": lambda x, y: ball.mobius_add(x, y, project=False),
        "exp0": lambda x, y: ball.expmap0(x, project=False),
        "log0": lambda x, y: ball.logmap0(x),
    }[name]


@pytest.mark.parametrize("source", ["holonomy", "geoopt", "floor"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "with backward"])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", ["dist", "dist0", "mobius_add", "exp0", "log0"])
def test_ball(benchmark, name: str, rows: int, backward: bool, source: str) -> None:
    operation = ball_operation(name, source)
    x, y = (points(rows, seed).requires_grad_(backward) for seed in (1, 2))

    def run() -> None:
        x.grad = y.grad = None
        result = operation(x, y)
        if backward:
            result.sum().backward()

    benchmark.group = f"{name}, {rows:,} x 16{', with backward' if backward else ''}"
    benchmark._timer = time.process_time
    benchmark.pedantic(run, rounds=9, warmup_rounds=2)


@pytest.mark.parametrize("source", ["holonomy", "kingdon"])
@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("signature", [(3, 1), (3, 0)])
def test_clifford(benchmark, signature: tuple[int, int], pairs: int, source: str) -> None:
    algebra = Algebra(*signature)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(pairs, algebra.size, generator=generator) for _ in range(2))
    if source == "holonomy":
        run: Callable[[], object] = lambda: geometric(algebra, a, b)  # noqa: E731
    else:
        peer = pytest.importorskip("kingdon").Algebra(*signature)
        x, y = (peer.multivector(list(m.T.contiguous().numpy())) for m in (a, b))
        run = lambda: x * y  # noqa: E731
    benchmark.group = f"{algebra}, {pairs:,} products"
    benchmark._timer = time.process_time
    benchmark.pedantic(run, rounds=7, warmup_rounds=2)
