"""CPU time of learned metrics, orthogonal frames, curvature and factorisations beside their peers, on one thread.

Run: `pytest benchmarks/bench_metric.py -o addopts=`. Times are process CPU-seconds. Peers that are not installed are
skipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from holonomy.geometry import curvature
from holonomy.geometry.frames import Rotor, brickwork
from holonomy.geometry.metric import Metric, MetricBase
from holonomy.geometry.spectral import randomized_svd

# torch's own forward-mode rules are still scripted; the warning comes with the first derivative of a process.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """All rows on one thread."""
    torch.set_num_threads(1)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Float32 noise."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def measure(benchmark, run: Callable[[], object], rounds: int = 30) -> None:
    """Times `run` after a warm-up."""
    benchmark.pedantic(run, rounds=rounds, warmup_rounds=3)


HEADS, AXES, RANK = 4, 32, 4


def metric() -> Metric:
    """Four heads of a diagonal plus rank four in 32 dimensions."""
    return Metric(
        MetricBase.identity(AXES),
        lam_local=random(HEADS, AXES).exp(),
        U=random(HEADS, AXES, RANK, seed=1),
        D=random(HEADS, RANK, seed=2).exp(),
    )


def peer_normal(ours: Metric) -> torch.distributions.LowRankMultivariateNormal:
    """The same matrix as the covariance of a normal distribution of torch."""
    assert ours.lam_local is not None and ours.U is not None and ours.D is not None
    factor = ours.U * ours.D.sqrt().unsqueeze(-2)
    return torch.distributions.LowRankMultivariateNormal(torch.zeros(HEADS, AXES), factor, ours.lam_local)


@pytest.mark.benchmark(group="squared distances of 512 x 512 points, 4 heads, n = 32", timer=time.process_time)
class TestDistances:
    """Embedding and one product, against the quadratic form and scipy."""

    def test_embed(self, benchmark) -> None:
        g, x, y = metric(), random(HEADS, 512, AXES), random(HEADS, 512, AXES, seed=3)
        measure(benchmark, lambda: torch.cdist(g.embed(x), g.embed(y)))

    def test_quadratic_form(self, benchmark) -> None:
        g, x, y = metric().matrix(), random(HEADS, 512, AXES), random(HEADS, 512, AXES, seed=3)

        def run() -> Tensor:
            away = x.unsqueeze(-2) - y.unsqueeze(-3)
            return ((away @ g.unsqueeze(-3)) * away).sum(-1)

        measure(benchmark, run, rounds=5)

    def test_scipy(self, benchmark) -> None:
        distance = pytest.importorskip("scipy.spatial.distance")
        g, x, y = metric().matrix().numpy(), random(HEADS, 512, AXES).numpy(), random(HEADS, 512, AXES, seed=3).numpy()
        measure(benchmark, lambda: [distance.cdist(*p, "mahalanobis", VI=v) for *p, v in zip(x, y, g, strict=True)], 5)


@pytest.mark.benchmark(group="inverse and log-determinant, 4 heads, n = 32, r = 4", timer=time.process_time)
class TestInverse:
    """Woodbury and the determinant lemma, against torch's own and dense algebra."""

    def test_metric(self, benchmark) -> None:
        g = metric()
        measure(benchmark, lambda: (g.inverse(), g.logdet()), rounds=200)

    def test_torch_distribution(self, benchmark) -> None:
        g = metric()

        def run() -> tuple[Tensor, Tensor]:
            normal = peer_normal(g)
            return normal.precision_matrix, normal.log_prob(torch.zeros(HEADS, AXES))

        measure(benchmark, run, rounds=200)

    def test_dense(self, benchmark) -> None:
        g = metric()
        measure(benchmark, lambda: (torch.linalg.inv(g.matrix()), torch.logdet(g.matrix())), rounds=200)


@pytest.mark.benchmark(group="orthogonal matrix and its gradient, 4 heads, n = 32", timer=time.process_time)
class TestFrames:
    """496 angles in 32 layers, against the parametrisations that torch offers."""

    @staticmethod
    def learn(benchmark, leaf: Tensor, build: Callable[[], Tensor]) -> None:
        """Forward and backward."""
        weights = random(HEADS, AXES, AXES, seed=5)
        measure(benchmark, lambda: torch.autograd.grad((weights * build()).sum(), leaf))

    def test_rotor(self, benchmark) -> None:
        planes = brickwork(AXES)
        theta = random(HEADS, *planes.shape[:2]).requires_grad_()
        self.learn(benchmark, theta, lambda: Rotor(AXES, planes, theta).matrix())

    def test_rotor_without_the_sweep(self, benchmark) -> None:
        planes = brickwork(AXES)
        theta = random(HEADS, *planes.shape[:2]).requires_grad_()

        def build() -> Tensor:
            q, cos, sin = torch.eye(AXES).expand(HEADS, AXES, AXES), theta.cos(), theta.sin()
            for layer, plane in enumerate(planes):
                i, j = plane.unbind(-1)
                a, b, c, s = q[:, i], q[:, j], cos[:, layer, :, None], sin[:, layer, :, None]
                turned = torch.cat((c * a - s * b, s * a + c * b), 1)
                q = torch.empty_like(q).index_copy(1, torch.cat((i, j)), turned)
            return q

        self.learn(benchmark, theta, build)

    def test_matrix_exponential(self, benchmark) -> None:
        raw = random(HEADS, AXES, AXES).requires_grad_()
        self.learn(benchmark, raw, lambda: torch.linalg.matrix_exp(raw.tril(-1) - raw.tril(-1).mT))

    def test_cayley(self, benchmark) -> None:
        raw, eye = random(HEADS, AXES, AXES).requires_grad_(), torch.eye(AXES)

        def build() -> Tensor:
            skew = raw.tril(-1) - raw.tril(-1).mT
            return torch.linalg.solve(eye + skew, eye - skew)

        self.learn(benchmark, raw, build)

    def test_householder(self, benchmark) -> None:
        raw = random(HEADS, AXES, AXES).requires_grad_()

        def build() -> Tensor:
            axes = raw.tril(-1)
            return torch.linalg.householder_product(axes, 2 / (1 + axes.square().sum(-2)))

        self.learn(benchmark, raw, build)


@pytest.mark.benchmark(group="scalar curvature at 64 points, by dimension", timer=time.process_time)
class TestCurvature:
    """The sphere as e^(2f) I: traces and the full tensor; a Gaussian field in closed form."""

    @staticmethod
    def sphere(x: Tensor) -> Tensor:
        """Stereographic metric at one point."""
        return torch.eye(x.shape[-1], dtype=x.dtype) * (2 / (1 + x.square().sum())) ** 2

    def test_gaussian_closed_form(self, benchmark) -> None:
        field = curvature.GaussianConformal(MetricBase.identity(4), random(32), random(32, 4, seed=1), 1.0)
        x = random(64, 4, seed=2)
        measure(benchmark, lambda: field.scalar_curvature(x))

    @pytest.mark.parametrize("n", [4, 8, 16])
    def test_traces(self, benchmark, n: int) -> None:
        x = 0.3 * random(64, n)
        measure(benchmark, lambda: curvature.scalar_curvature(self.sphere, x), rounds=5)

    @pytest.mark.parametrize("n", [4, 8, 16])
    def test_full_tensor(self, benchmark, n: int) -> None:
        x, base = 0.3 * random(64, n), MetricBase.identity(n)
        measure(benchmark, lambda: base.contract(curvature.riemann(self.sphere, x)), rounds=5)


@pytest.mark.benchmark(group="rank 16 of 1024 x 512", timer=time.process_time)
class TestFactorisation:
    """Two rounds of subspace iteration each; ours also measures its error on the whole matrix."""

    def test_randomized(self, benchmark) -> None:
        a, generator = random(1024, 512), torch.Generator().manual_seed(0)
        measure(benchmark, lambda: randomized_svd(a, 16, generator=generator), rounds=10)

    def test_torch(self, benchmark) -> None:
        a = random(1024, 512)
        measure(benchmark, lambda: torch.svd_lowrank(a, q=24, niter=2), rounds=10)

    def test_scikit(self, benchmark) -> None:
        extmath = pytest.importorskip("sklearn.utils.extmath")
        a = random(1024, 512).numpy()
        measure(benchmark, lambda: extmath.randomized_svd(a, 16, n_oversamples=8, n_iter=2, random_state=0), rounds=10)

    def test_exact(self, benchmark) -> None:
        a = random(1024, 512)
        measure(benchmark, lambda: torch.linalg.svd(a, full_matrices=False), rounds=5)
