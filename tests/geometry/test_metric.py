"""Learned metrics against dense matrices, finite differences and a task that only a learned metric solves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.geometry.frames import Rotor, brickwork
from holonomy.geometry.metric import Metric, MetricBase, block_factor, bounded_exp, check_spd

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
KINDS = ("diagonal", "rotor", "lowrank", "blocks", "everything")


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def spd(n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    a = random(n, n, seed=seed)
    return (a @ a.T / n + 0.5 * torch.eye(n, dtype=torch.float64)).to(dtype)


def parameters(kind: str, heads: tuple[int, ...], n: int, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    """Values of one metric, all of order one."""
    r, b = 3, 2
    found: dict[str, Tensor] = {}
    if kind in ("blocks", "everything"):
        found["blocks"] = block_factor(random(*heads, n // b, b, b, dtype=dtype, seed=seed))
    else:
        found["lam_local"] = bounded_exp(random(*heads, n, dtype=dtype, seed=seed))
    if kind in ("rotor", "everything"):
        found["frame"] = Rotor(n, brickwork(n), random(*heads, n, n // 2, dtype=dtype, seed=seed + 1)).matrix()
    if kind in ("lowrank", "everything"):
        found["U"] = random(*heads, n, r, dtype=dtype, seed=seed + 2)
        found["D"] = bounded_exp(random(*heads, r, dtype=dtype, seed=seed + 3))
    if kind != "diagonal":
        found["omega"] = bounded_exp(random(*heads, dtype=dtype, seed=seed + 4))
    return found


def dense(base: MetricBase, values: dict[str, Tensor], head: int) -> Tensor:
    """The metric of one head from its definition, in float64."""
    n = base.n
    at = {name: value[head].double() for name, value in values.items()}
    core = torch.block_diag(*(c @ c.T for c in at["blocks"])) if "blocks" in at else torch.diag(at["lam_local"])
    turn = torch.linalg.cholesky(base.g0.double()) @ at.get("frame", torch.eye(n, dtype=torch.float64))
    g = at.get("omega", torch.ones((), dtype=torch.float64)) ** 2 * turn @ core @ turn.T
    return g + at["U"] @ torch.diag(at["D"]) @ at["U"].T if "U" in at else g


@pytest.mark.parametrize("kind", KINDS)
def test_everything_follows_from_the_dense_matrix(kind: str, dtype: torch.dtype) -> None:
    n, base = 6, MetricBase(spd(6, dtype))
    values = parameters(kind, (3,), n, dtype)
    metric = Metric(base, **values)
    metric.check()
    v = random(3, 7, n, dtype=dtype, seed=9)
    for head in range(3):
        g = dense(base, values, head)
        scale, tolerance = float(g.abs().max()), TOLERANCE[dtype]
        assert (metric.matrix()[head] - g).abs().max() < tolerance * scale
        wanted = torch.einsum("ma,ab,mb->m", v[head].double(), g, v[head].double())
        assert ((metric.quad(v)[head] - wanted) / wanted).abs().max() < 10 * tolerance
        inverse = torch.linalg.inv(g)
        assert (metric.inverse()[head] - inverse).abs().max() < 10 * tolerance * float(inverse.abs().max())
        assert abs(float(metric.logdet()[head]) - float(torch.logdet(g))) < 10 * tolerance


def test_woodbury_and_determinant_at_the_bounds() -> None:
    """Weights at both ends of their range: 1e-10, as the specification asks."""
    base = MetricBase(spd(8))
    u = random(8, 4)
    for low, high in ((1e-2, 1e2), (1e2, 1e-2)):
        metric = Metric(base, lam_local=torch.full((8,), low).double(), U=u, D=torch.full((4,), high).double())
        g = metric.matrix()
        assert (metric.inverse() @ g - torch.eye(8)).abs().max() < 1e-10
        assert abs(float(metric.logdet() - torch.logdet(g))) < 1e-10


def test_agrees_with_the_low_rank_normal_of_torch() -> None:
    """torch has the same algebra for diag(lambda) + U diag(D) U^T: inverse, determinant and quadratic form."""
    values = parameters("lowrank", (3,), 5, torch.float64)
    del values["omega"]
    metric = Metric(MetricBase.identity(5, torch.float64), **values)
    factor = values["U"] * values["D"].sqrt()[:, None]
    zero = torch.zeros(3, 5, dtype=torch.float64)
    peer = torch.distributions.LowRankMultivariateNormal(zero, factor, values["lam_local"])
    assert (metric.inverse() - peer.precision_matrix).abs().max() < 1e-11
    v = random(3, 5, seed=7)
    quad = (v[:, None] @ metric.inverse() @ v[..., None]).squeeze()
    wanted = -2 * peer.log_prob(v) - 5 * math.log(2 * math.pi)
    assert (metric.logdet() + quad - wanted).abs().max() < 1e-11


@given(st.sampled_from(KINDS), st.integers(0, 10_000), st.floats(0.1, 30))
def test_every_parameter_makes_a_positive_metric(kind: str, seed: int, spread: float) -> None:
    values = parameters(kind, (20,), 4, torch.float64, seed)
    raw = spread * random(20, 4, seed=seed)
    if "lam_local" in values:
        values["lam_local"] = bounded_exp(raw)
    else:
        values["blocks"] = block_factor(spread * random(20, 2, 2, 2, seed=seed))
    assert float(torch.linalg.eigvalsh(Metric(MetricBase(spd(4)), **values).matrix()).min()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_statistic_is_the_derivative(kind: str) -> None:
    """Against autograd of <S, g> and against central differences of the dense definition, <= 1e-8."""
    n, base = 6, MetricBase(spd(6))
    values = parameters(kind, (2,), n, torch.float64)
    s = random(2, n, n, seed=5)
    s = s + s.mT
    found = Metric(base, **values).stat(s)
    assert set(found) == set(values)
    for name, value in values.items():

        def loss(x: Tensor, name: str = name) -> Tensor:
            return (s * torch.stack([dense(base, values | {name: x}, head) for head in range(2)])).sum()

        (wanted,) = torch.autograd.grad(loss(leaf := value.clone().requires_grad_()), leaf)
        if name == "blocks":
            wanted = wanted.tril()
        assert (found[name] - wanted).abs().max() < 1e-12 * (1 + wanted.abs().max())
        direction = random(*value.shape, seed=6)
        direction = direction.tril() if name == "blocks" else direction
        step = 1e-4
        slope = (loss(value + step * direction) - loss(value - step * direction)) / (2 * step)
        exact = (found[name] * direction).sum()
        assert abs(float(slope - exact)) < 1e-8 * (1 + abs(float(exact)))


def test_angles_learn_through_the_frame() -> None:
    n, base, planes = 4, MetricBase(spd(4)), brickwork(4)
    theta, lam, s = random(4, 2), bounded_exp(random(4, seed=1)), spd(4, seed=2)

    def loss(angles: Tensor) -> Tensor:
        return (s * Metric(base, lam_local=lam, frame=Rotor(n, planes, angles).matrix()).matrix()).sum()

    (wanted,) = torch.autograd.grad(loss(leaf := theta.clone().requires_grad_()), leaf)
    rotor = Rotor(n, planes, theta)
    found = rotor.stat(Metric(base, lam_local=lam, frame=rotor.matrix()).stat(s)["frame"])
    assert (found - wanted).abs().max() < 1e-13
    step = 1e-5
    for entry in torch.eye(8, dtype=torch.float64).view(8, 4, 2):
        slope = (loss(theta + step * entry) - loss(theta - step * entry)) / (2 * step)
        assert abs(float(slope - (found * entry).sum())) < 1e-8


def test_gradcheck_of_the_public_methods() -> None:
    base = MetricBase(spd(4))
    values = {name: value.requires_grad_() for name, value in parameters("everything", (), 4, torch.float64).items()}
    v = random(3, 4, seed=8).requires_grad_()
    names = list(values)

    def run(v: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        metric = Metric(base, **dict(zip(names, tensors, strict=True)))
        return metric.quad(v), metric.inverse(), metric.logdet()

    assert torch.autograd.gradcheck(run, (v, *values.values()))


def test_each_part_changes_the_metric_and_blocks_of_one_are_the_diagonal() -> None:
    n, base = 4, MetricBase(spd(4))
    values = parameters("rotor", (), n, torch.float64) | {
        name: value for name, value in parameters("lowrank", (), n, torch.float64).items() if name in "UD"
    }
    v = random(5, n, seed=3)
    whole = Metric(base, **values).quad(v)
    for name in ("frame", "U", "omega"):
        without = {k: x for k, x in values.items() if k != name and not (name == "U" and k == "D")}
        assert (Metric(base, **without).quad(v) / whole - 1).abs().max() > 1e-2
    as_blocks = {k: x for k, x in values.items() if k != "lam_local"}
    blocks = Metric(base, blocks=values["lam_local"].sqrt()[:, None, None], **as_blocks)
    assert (blocks.quad(v) / whole - 1).abs().max() < 1e-13
    assert (blocks.inverse() - Metric(base, **values).inverse()).abs().max() < 1e-13
    memory = Metric(base, lam_mem=2 * values["lam_local"], **values).memory()
    assert (memory.quad(v) - Metric(base, **values | {"lam_local": 2 * values["lam_local"]}).quad(v)).abs().max() == 0


def test_joint_rotation_leaves_an_isotropic_metric_alone(dtype: torch.dtype) -> None:
    """Turning queries and keys together keeps their distance; turning one of them does not."""
    metric = Metric(MetricBase.identity(6, dtype), lam_local=torch.full((6,), 1.7, dtype=dtype))
    rotor = Rotor(6, brickwork(6), random(6, 3, dtype=dtype))
    k, m = random(9, 6, dtype=dtype, seed=1), random(9, 6, dtype=dtype, seed=2)
    cost = metric.quad(k - m)
    assert (metric.quad(rotor.apply(k) - rotor.apply(m)) / cost - 1).abs().max() < max(1e-6, TOLERANCE[dtype])
    assert (metric.quad(rotor.apply(k) - m) / cost - 1).abs().max() > 0.1


@pytest.mark.parametrize("n", [3, 9])
def test_base_and_contraction(n: int, dtype: torch.dtype) -> None:
    g0 = spd(n, dtype)
    base = MetricBase(g0)
    inverse = torch.linalg.inv(g0.double())
    assert (base.g0_inv - inverse).abs().max() < TOLERANCE[dtype]
    assert (base.factor @ base.factor.T - g0).abs().max() < TOLERANCE[dtype]
    assert (base.factor_inv_t.T @ base.factor - torch.eye(n)).abs().max() < TOLERANCE[dtype]
    kernel = torch.einsum("ac,bd->abcd", inverse, inverse) / n**2
    assert (base.K is None) == (n > 8)
    if base.K is not None:
        assert (base.K - kernel).abs().max() < TOLERANCE[dtype]
    riemann = random(2, n, n, n, n, dtype=dtype)
    wanted = torch.einsum("abcd,mabcd->m", kernel, riemann.double())
    assert (base.contract(riemann) - wanted).abs().max() < 10 * TOLERANCE[dtype]


def test_refusals() -> None:
    eye = torch.eye(4)
    base = MetricBase.identity(4)
    ones = torch.ones(4)
    q = torch.linalg.qr(random(4, 4, dtype=torch.float32))[0]
    for act, words in (
        (lambda: check_spd("g", torch.ones(2, 3)), "square"),
        (lambda: check_spd("g", torch.tensor([[1.0, 0.5], [0.4, 1.0]])), "not symmetric"),
        (lambda: MetricBase(torch.diag(torch.tensor([1.0, -1.0]))), "`g0` is not positive definite"),
        (lambda: MetricBase(torch.full((2, 2), torch.nan)), "`g0` is not symmetric"),
        (lambda: Metric(base), "exactly one"),
        (lambda: Metric(base, lam_local=ones, blocks=eye[None]), "exactly one"),
        (lambda: Metric(base, lam_local=ones, U=eye), "both or neither"),
        (lambda: Metric(base, lam_local=torch.ones(5)), r"`lam_local` has shape \(5,\); wanted \(4,\)"),
        (lambda: Metric(base, lam_local=torch.ones(2, 4), omega=torch.ones(3)), r"`omega` has shape \(3,\)"),
        (lambda: Metric(base, blocks=torch.ones(1, 3, 3)), "width 3"),
        (lambda: Metric(base, lam_local=ones.double()), "float64"),
        (lambda: Metric(base, lam_local=ones).memory(), "`lam_mem` is None"),
        (lambda: Metric(base, lam_local=-ones).check(), "`lam_local` holds -1"),
        (lambda: Metric(base, lam_local=ones, U=eye, D=torch.zeros(4)).check(), "`D` holds 0"),
        (lambda: Metric(base, blocks=torch.ones(1, 4, 4)).check(), "lower triangular"),
        (lambda: Metric(base, lam_local=ones, frame=2 * q).check(), "`frame` is off"),
    ):
        with pytest.raises(ConfigError, match=words):
            act()
    Metric(base, lam_local=ones, frame=q).check()
