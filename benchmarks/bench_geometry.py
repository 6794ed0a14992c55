"""Poincare ball, hyperboloid and Clifford products beside public peers, all in one run.

Run: `make bench`, or with every peer `make bench-peers`. On one thread CPU time counts, on two wall time. The floor
moves as many bytes as the operation must, once, into fresh memory. Freed memory is kept by the process, which spares
peers, with their many intermediate arrays, more page faults than it spares us.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from holonomy.cli.process import tune_process
from holonomy.geometry import lorentz, poincare
from holonomy.geometry.clifford import Algebra, geometric
from holonomy.geometry.minkowski import matrix_product

K = torch.tensor(-1.0)
ROWS = (19_683, 262_144)
PAIRS = (100_000, 1_000_000)
SOURCES = ("holonomy", "geoopt", "hypll", "geomstats", "floor")
NO_MMAP = -4
Operation = Callable[..., Tensor]


@pytest.fixture(scope="module", autouse=True)
def process() -> None:
    """Memory kept between rounds, arrays of any size."""
    tune_process(threads=1)
    ctypes.CDLL(None).mallopt(NO_MMAP, 0)


def measure(benchmark, threads: int, run: Callable[[], object]) -> None:
    """Median of 25 short runs or of 9 long ones, on one thread in CPU time, on more in wall time."""
    torch.set_num_threads(threads)
    benchmark._timer = time.process_time if threads == 1 else time.perf_counter
    # The first run may compile.
    run()
    begin = time.perf_counter()
    run()
    rounds = 25 if time.perf_counter() - begin < 0.1 else 9
    benchmark.pedantic(run, rounds=rounds, warmup_rounds=3)
    torch.set_num_threads(1)


def points(rows: int, seed: int) -> Tensor:
    return 0.1 * torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed))


def ours() -> dict[str, Operation]:
    return {
        "dist": lambda x, y: poincare.dist(x, y, K),
        "dist0": lambda x: poincare.dist0(x, K),
        "mobius_add": lambda x, y: poincare.mobius_add(x, y, K),
        "exp0": lambda x: poincare.exp0(x, K),
        "log0": lambda x: poincare.log0(x, K),
        "pairwise": lambda x, y: poincare.pairwise_dist(x, y, K),
        "lorentz_dist": lambda x, y: lorentz.dist(x, y, K),
    }


def geoopt() -> dict[str, Operation]:
    ball, sheet = pytest.importorskip("geoopt").PoincareBall(c=1.0), pytest.importorskip("geoopt").Lorentz(k=1.0)
    return {
        "dist": ball.dist,
        "dist0": ball.dist0,
        "mobius_add": lambda x, y: ball.mobius_add(x, y, project=False),
        "exp0": lambda x: ball.expmap0(x, project=False),
        "log0": ball.logmap0,
        "pairwise": lambda x, y: ball.dist(x[:, None], y[None]),
        "lorentz_dist": sheet.dist,
    }


def hypll() -> dict[str, Operation]:
    ball = pytest.importorskip("hypll.manifolds.poincare_ball.math.diffgeom")
    c = torch.tensor(1.0)
    return {
        "dist": lambda x, y: ball.dist(x, y, c),
        "dist0": lambda x: ball.dist(torch.zeros_like(x), x, c),
        "mobius_add": lambda x, y: ball.mobius_add(x, y, c),
        "exp0": lambda x: ball.expmap0(x, c),
        "log0": lambda x: ball.logmap0(x, c),
        "pairwise": lambda x, y: ball.cdist(x[None], y[None], c),
    }


def geomstats() -> dict[str, Operation]:
    import numpy

    os.environ["GEOMSTATS_BACKEND"] = "pytorch"
    # It imports a name that numpy dropped, and makes float64 the default of torch.
    if not hasattr(numpy, "trapz"):
        numpy.trapz = numpy.trapezoid  # type: ignore[attr-defined]
    space = pytest.importorskip("geomstats.geometry.poincare_ball").PoincareBall(16)
    torch.set_default_dtype(torch.float32)
    return {
        "dist": space.metric.dist,
        "mobius_add": space.metric.mobius_add if hasattr(space.metric, "mobius_add") else space.mobius_add,
        "pairwise": lambda x, y: space.metric.dist_broadcast(x, y),
    }


@cache
def operations(source: str) -> dict[str, Operation]:
    return {"holonomy": ours, "geoopt": geoopt, "hypll": hypll, "geomstats": geomstats}[source]()


def floor(bytes_moved: int) -> Callable[[], object]:
    """A copy that reads half of the bytes and writes the other half."""
    source = torch.zeros(bytes_moved // 8)
    return source.clone


def ball_benchmark(benchmark, name: str, source: str, threads: int, backward: bool, x: Tensor, y: Tensor) -> None:
    inputs = [x, y] if name in ("dist", "mobius_add", "pairwise", "lorentz_dist") else [x]
    inputs = [a.clone().requires_grad_(backward) for a in inputs]
    with torch.no_grad():
        slope = torch.ones_like(ours()[name](*inputs))
    benchmark.group = f"{name}, {len(x):,} x {x.shape[1]}, threads {threads}{', with backward' if backward else ''}"
    if source == "floor":
        read, written = sum(a.numel() for a in inputs), slope.numel()
        moved = read + written + (2 * read + written if backward else 0)
        return measure(benchmark, threads, floor(4 * moved))
    operation = operations(source).get(name)
    if operation is None:
        pytest.skip(f"{source} has no {name}")

    # Peers make arrays of n x m x d for pairs, 1 GB each: they get 256 rows at a time.
    rows = 256 if name == "pairwise" and source != "holonomy" else len(x)

    def run() -> None:
        for a in inputs:
            a.grad = None
        for start in range(0, len(x), rows):
            # A slice of everything would cost its own way back.
            part = inputs[0] if rows == len(x) else inputs[0][start : start + rows]
            result = operation(part, *inputs[1:])
            if backward:
                result.backward(slope[start : start + rows].view_as(result))

    measure(benchmark, threads, run)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "with backward"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", ["dist", "dist0", "mobius_add", "exp0", "log0"])
def test_ball(benchmark, name: str, rows: int, threads: int, backward: bool, source: str) -> None:
    ball_benchmark(benchmark, name, source, threads, backward, points(rows, 1), points(rows, 2))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "with backward"])
@pytest.mark.parametrize("threads", [1, 2])
def test_pairwise(benchmark, threads: int, backward: bool, source: str) -> None:
    ball_benchmark(benchmark, "pairwise", source, threads, backward, points(4096, 1), points(4096, 2))


@pytest.mark.parametrize("source", ["holonomy", "geoopt", "floor"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "with backward"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", ROWS)
def test_lorentz(benchmark, rows: int, threads: int, backward: bool, source: str) -> None:
    x, y = (lorentz.lift(10 * points(rows, seed), K) for seed in (1, 2))
    ball_benchmark(benchmark, "lorentz_dist", source, threads, backward, x, y)


def clifford_peer(source: str, signature: tuple[int, int], a: Tensor, b: Tensor) -> Callable[[], object]:
    """The product of two arrays of multivectors by a peer, in the layout that it likes."""
    if source == "kingdon":
        peer = pytest.importorskip("kingdon").Algebra(*signature)
        x, y = (peer.multivector(list(m.T.contiguous().numpy())) for m in (a, b))
        return lambda: x * y
    if source == "clifford":
        layout = pytest.importorskip("clifford").Cl(*signature)[0]
        x, y = (m.double().numpy() for m in (a, b))
        gmt = layout.gmt_func
        return lambda: [gmt(p, q) for p, q in zip(x, y, strict=True)]
    algebra = pytest.importorskip("torch_ga").GeometricAlgebra([1] * signature[0] + [-1] * signature[1])
    return lambda: algebra.geom_prod(a, b)


@pytest.mark.parametrize("source", ["holonomy", "matrix form", "kingdon", "clifford", "torch_ga", "torch.bmm"])
@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("signature", [(3, 1), (3, 0)])
def test_clifford(benchmark, signature: tuple[int, int], pairs: int, source: str) -> None:
    algebra = Algebra(*signature)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(pairs, algebra.size, generator=generator) for _ in range(2))
    if source == "holonomy":
        run: Callable[[], object] = lambda: geometric(algebra, a, b)  # noqa: E731
    elif source in ("matrix form", "torch.bmm"):
        if signature != (3, 1):
            pytest.skip("only Cl(3,1) is an algebra of real 4 x 4 matrices")
        x, y = a.view(-1, 4, 4), b.view(-1, 4, 4)
        run = lambda: (matrix_product if source == "matrix form" else torch.bmm)(x, y)  # noqa: E731
    else:
        run = clifford_peer(source, signature, a, b)
    benchmark.group = f"{algebra}, {pairs:,} products"
    measure(benchmark, 1, run)
