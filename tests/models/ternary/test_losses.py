"""Every loss against NumPy, by finite differences, and by whether minimising it alone does what it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import norm
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.data.ternary_ops import OperationSpace
from holonomy.models.ternary import losses_radial
from holonomy.models.ternary.config import Losses, Term
from holonomy.models.ternary.learner import TERM_MODULES
from holonomy.models.ternary.losses import TERMS, LossContext, LossResult, LossTerm, build_stack
from holonomy.models.ternary.losses_pair import fisher_rao, node_means, reachable_targets
from holonomy.models.ternary.metrics import spearman
from holonomy.models.ternary.model import Stream, TernaryOutput

SPACE = OperationSpace(3, 5)
RADIUS, DIM, K = 3.6, 4, -0.7
NAMES = list(Losses().terms)
assert TERM_MODULES


class Raw:
    """Leaves of an output: latent means, log variances, directions and radii before their maps, and logits."""

    def __init__(self, index: Tensor, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        g = torch.Generator().manual_seed(seed)
        shapes = [(DIM,), (DIM,), (DIM,), (), (5, 3), (5, 3)]
        self.leaves = [
            torch.randn(len(index), *s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes
        ]

    def out(self, leaves: list[Tensor] | tuple[Tensor, ...] | None = None, k: float = K) -> TernaryOutput:
        mean, logvar, direction, height, logits, other = leaves or self.leaves
        e = torch.nn.functional.normalize(direction, dim=-1)
        rho = RADIUS * torch.sigmoid(height)
        stream = Stream(mean, logvar, e, rho, centre=rho[:, None] * e)
        return TernaryOutput(stream, stream, logits, torch.tensor(k, dtype=mean.dtype), RADIUS, other)


def batch(count: int = 60, seed: int = 1) -> Tensor:
    return torch.randint(SPACE.size, (count,), generator=torch.Generator().manual_seed(seed)).index_fill_(
        0, torch.tensor([0]), 0
    )


def context(index: Tensor, seed: int = 3) -> LossContext:
    return LossContext(SPACE, index, torch.Generator().manual_seed(seed))


def term(name: str, **settings) -> LossTerm:
    config = type(Losses().terms[name])(weight=1.0, **settings)
    torch.manual_seed(0)
    return TERMS.get(name)(config, SPACE, max_radius=RADIUS, latent_dim=DIM).double()


def distances(out: TernaryOutput, i, j) -> np.ndarray:
    """By the hyperbolic law of cosines, in the form that loses digits."""
    c = -float(out.k)
    a, b = (np.sqrt(c) * out.B.rho.detach().numpy()[x] for x in (i, j))
    e = out.B.e.detach().numpy()
    cosine = (e[i] * e[j]).sum(-1)
    return np.arccosh(np.maximum(1, np.cosh(a) * np.cosh(b) - np.sinh(a) * np.sinh(b) * cosine)) / np.sqrt(c)


def levels_of(index) -> np.ndarray:
    return np.array([next((k for k in range(5) if n % 3 ** (k + 1)), 5) for n in np.asarray(index)])


def shared_of(a, b) -> np.ndarray:
    return levels_of(np.abs(np.asarray(a) - np.asarray(b)))


def smooth(x: np.ndarray, beta: float = 1.0) -> np.ndarray:
    return np.where(np.abs(x) < beta, x * x / (2 * beta), np.abs(x) - beta / 2)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def entropy_of(logits: np.ndarray) -> float:
    p = softmax(logits).mean(0)
    return float(-(p * np.log(p)).sum(-1).mean())


def reference(name: str, out: TernaryOutput, index: Tensor, own: LossTerm, seed: int) -> float:
    """The loss by NumPy and loops, with the same draws of pairs."""
    n, con = index.numpy(), context(index, seed)
    mean, logvar, rho, e = (x.detach().numpy() for x in (out.A.mean, out.A.logvar, out.B.rho, out.B.e))
    logits, levels = out.logits.detach().numpy(), levels_of(n)
    table = np.stack([n // 3**k % 3 for k in range(5)], -1)
    chosen = np.log(np.take_along_axis(softmax(logits), table[..., None], -1))[..., 0]
    entries = -chosen.sum(-1)
    bands = losses_radial.band_targets(SPACE, RADIUS).numpy()
    if name in ("global_rank", "padic_geodesic", "padic_metric", "fisher_rao"):
        i, j = (x.numpy() for x in con.tree_rows(own.config.pairs, 1))
        k, d = shared_of(n[i], n[j]), distances(out, i, j)
    if name == "reconstruction":
        return entries.mean()
    if name == "hyperbolic_reconstruction":
        w = 0.5 + (1 - rho / RADIUS) ** 2
        return (w / w.mean() * entries).mean()
    if name == "kl":
        return (0.5 * (mean**2 + np.exp(logvar) - 1 - logvar)).sum(-1).mean()
    if name == "radial_bands":
        w = 1.0 + levels
        return (w * smooth(rho - bands[n].astype(np.float32), 0.05)).sum() / w.sum()
    if name == "entropy":
        return -entropy_of(logits)
    if name == "align":
        assert out.logits_B is not None
        return (entropy_of(logits) - entropy_of(out.logits_B.detach().numpy())) ** 2
    if name == "padic_triplet":
        total = 0.0
        draws = [con.tree_rows(own.config.tree, 2), [con.rows(own.config.uniform) for _ in range(3)]]
        for weight, rows in zip((1.0, own.config.uniform_weight), draws, strict=True):
            i, *others = (x.numpy() for x in rows)
            (a, b), c = (shared_of(n[i], n[x]) for x in others), -float(out.k)
            logs = [np.log(np.sinh(np.sqrt(c) * distances(out, i, x) / 2) ** 2 / c + 1e-7) / 2 for x in others]
            costs = [
                0.1 * np.log1p(np.exp((np.sign(p - q) * (x - y) + 0.1) / 0.1))
                for p, q, x, y in zip(a, b, *logs, strict=True)
                if p != q and p != 5 and q != 5
            ]
            total += weight * np.mean(costs)
        return total
    if name == "monotone_levels":
        means = {v: rho[levels == v].mean() for v in range(6) if (levels == v).any()}
        m = max(0.02, 2.78 * RADIUS / 3.6635616461296463 / 5)
        costs = [0.05 * np.log1p(np.exp((m - means[v] + means[v + 1]) / 0.05)) for v in means if v + 1 in means]
        return np.mean(costs)
    if name == "global_rank":
        apart = levels[i] - levels[j]
        return (np.abs(apart) / (1 + np.exp(np.sign(apart) * (rho[j] - rho[i]) / 0.1))).mean()
    if name == "radial_stratification":
        step = (2.94 - 0.16) / 5
        w = 1 + levels / 5
        near = (w * smooth(rho - (2.94 - levels * step))).sum() / w.sum()
        i, j = (x.numpy() for x in con.tree_rows(len(n), 1))
        margin = []
        for a, b in zip(i, j, strict=True):
            inner, outer = (a, b) if levels[a] > levels[b] else (b, a)
            gap = 0.5 * (levels[inner] - levels[outer]) * step - (rho[outer] - rho[inner])
            margin.append(max(0.0, gap) if levels[a] != levels[b] else 0.0)
        return near + np.mean(margin)
    if name == "rich_hierarchy":
        height, rich, crossing = [], [], []
        step = (2.94 - 0.16) / 5
        everything = levels_of(range(243))
        for v in range(6):
            r = rho[levels == v]
            if len(r):
                height.append((r.mean() - (2.94 - v * step)) ** 2)
            if len(set(n[levels == v])) >= 4:
                spread = max(bands[everything == v].var(), 1e-4)
                rich.append(max(0.0, 0.5 - r.var() / spread) ** 2)
            if v and len(r) and (levels == v - 1).any():
                crossing.append(max(0.0, np.quantile(r, 0.95) - np.quantile(rho[levels == v - 1], 0.05) + 0.01))
        return 5 * np.mean(height) + 2 * np.mean(rich) + 3 * np.mean(crossing)
    if name == "zero_structure":
        weight = own.read.weight.detach().numpy()[0], own.read.bias.detach().numpy()[0]
        q = 1 / (1 + np.exp(-(e @ weight[0] + weight[1])))
        zero = table == 1
        leading = np.array([next((k for k in range(5) if not z[k]), 5) for z in zero]) / 5
        return smooth(q - leading).mean() + 0.5 * (np.corrcoef(zero.sum(-1), q)[0, 1] - 0.3) ** 2
    if name == "padic_geodesic":
        costs = []
        for a, b, s, x in zip(bands[n[i]], bands[n[j]], k, d, strict=True):
            low, high = abs(a - b) + 0.02, a + b - 0.02
            if low <= high and s < 5:
                costs.append(smooth(np.array(x - min(max(4 * np.exp(-0.45 * s), low), high))))
        return np.mean(costs)
    if name == "padic_metric":
        scale = np.log1p(np.exp(1.0))
        return ((d - scale * np.where(k == 5, 0, 3.0**-k)) ** 2).mean()
    if name == "soft_rank":
        rows = torch.randperm(len(n), generator=con.generator)[: own.config.rows].numpy()
        total = []
        for a in rows:
            others = np.array([b for b in rows if b != a])
            s, d = shared_of(n[[a] * len(others)], n[others]), distances(out, np.full(len(others), a), others)
            p, q = softmax(-np.where(s == 5, 0, 3.0**-s) / 0.5), softmax(-d / 0.5)
            total.append((p * np.log(p / q)).sum())
        return np.mean(total)
    if name == "repulsion":
        i, j = (con.rows(own.config.pairs).numpy() for _ in range(2))
        return np.mean(np.exp(-2 * distances(out, i, j)[n[i] != n[j]] ** 2))
    if name == "fisher_rao":

        def dist(m1, l1, m2, l2):
            s1, s2 = np.exp(l1 / 2), np.exp(l2 / 2)
            one = np.sqrt(2) * np.arccosh(1 + ((m1 - m2) ** 2 / 2 + (s1 - s2) ** 2) / (2 * s1 * s2))
            return np.sqrt((one**2).sum(-1))

        between = dist(mean[i], logvar[i], mean[j], logvar[j])
        kept = ((between / between.mean() - d / d.mean()) ** 2).mean()
        return dist(mean, logvar, 0 * mean, 0 * logvar).mean() + 0.1 * kept
    if name == "tree_centroid":
        total = 0.0
        for depth in range(1, 5):
            squares = []
            for node in set(n % 3**depth):
                rows = np.flatnonzero(n % 3**depth == node)
                if len(rows) >= 2:
                    u = torch.from_numpy(rho[rows, None] * e[rows])
                    from holonomy.geometry import lorentz

                    points = lorentz.from_normal(u, out.k)

                    def spread(v: np.ndarray, points: Tensor = points) -> np.ndarray:
                        centre = lorentz.from_normal(torch.from_numpy(v), out.k).expand_as(points)
                        return (lorentz.dist(points, centre, out.k) ** 2).numpy()

                    best = minimize(lambda v, f=spread: f(v).sum(), u.mean(0).numpy(), tol=1e-12)
                    squares += spread(best.x).tolist()
            total += 0.5**depth * np.mean(squares)
        return total
    raise AssertionError(name)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "wrapped_kl"])
def test_value_by_numpy(name: str) -> None:
    index = batch(24 if name == "tree_centroid" else 60)
    out, own = Raw(index).out(), term(name)
    found = own(out, context(index, 7)).value.detach()
    assert found.shape == ()
    assert float(found) == pytest.approx(reference(name, out, index, own, 7), rel=1e-5, abs=1e-9)


# The centres of tree_centroid get no gradient, by design: the tests of its value and of its effect hold it.
@pytest.mark.parametrize("name", [n for n in NAMES if n != "tree_centroid"])
def test_gradient_by_finite_differences(name: str) -> None:
    index = batch(24)
    raw, own = Raw(index, seed=5), term(name)

    def value(*leaves: Tensor) -> Tensor:
        return own(raw.out(leaves), context(index, 11)).value

    used = torch.autograd.grad(value(*raw.leaves), raw.leaves, allow_unused=True)
    assert any(g is not None and bool((g != 0).any()) for g in used)
    direction = [torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype) for x in raw.leaves]
    slope = sum(float((g * d).sum()) for g, d in zip(used, direction, strict=True) if g is not None)
    step = 1e-6
    with torch.no_grad():
        ends = [value(*(x + s * step * d for x, d in zip(raw.leaves, direction, strict=True))) for s in (1, -1)]
    # Weights that the formulas detach must not move along: reconstruction weighted by the radius.
    if name == "hyperbolic_reconstruction":
        assert used[3] is None
        return
    assert slope == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=2e-4, abs=1e-7)


def minimised(name: str, steps: int = 150, **settings) -> tuple[TernaryOutput, TernaryOutput, Tensor]:
    index = SPACE.index[:: 243 // 81][:81] if name != "rich_hierarchy" else SPACE.index
    raw, own = Raw(index, seed=4), term(name, **settings)
    before = raw.out([x.detach().clone() for x in raw.leaves])
    optimiser = torch.optim.Adam([*raw.leaves, *own.parameters()], lr=0.05)
    for at in range(steps):
        optimiser.zero_grad()
        own(raw.out(), context(index, at)).value.backward()
        optimiser.step()
    return before, raw.out(), index


def radius_order(out: TernaryOutput, index: Tensor) -> float:
    return -spearman(SPACE.levels[index], out.B.rho.detach())


def distance_order(out: TernaryOutput, index: Tensor) -> float:
    i, j = torch.triu_indices(len(index), len(index), 1)
    return -spearman(SPACE.valuation_between(index[i], index[j]), torch.from_numpy(distances(out, i, j)))


def mean_distance(out: TernaryOutput, index: Tensor) -> float:
    i, j = torch.triu_indices(len(index), len(index), 1)
    return float(distances(out, i, j).mean())


def near_prior(out: TernaryOutput, index: Tensor) -> float:
    assert out.A.logvar is not None
    return -float((out.A.mean.square().mean() + out.A.logvar.square().mean()).detach())


def right_entries(out: TernaryOutput, index: Tensor) -> float:
    return float((out.logits.argmax(-1) == SPACE.table[index]).double().mean())


def own_loss(name: str):
    return lambda out, index: -float(term(name)(out, context(index, 99)).value.detach())


EFFECTS = {
    "reconstruction": right_entries,
    "hyperbolic_reconstruction": right_entries,
    "kl": near_prior,
    "wrapped_kl": lambda out, index: -float(out.B.rho.detach().mean()),
    "radial_bands": radius_order,
    "radial_stratification": radius_order,
    "monotone_levels": radius_order,
    "global_rank": radius_order,
    "rich_hierarchy": radius_order,
    "padic_triplet": distance_order,
    "padic_geodesic": distance_order,
    "padic_metric": distance_order,
    "soft_rank": distance_order,
    "tree_centroid": lambda out, index: distance_order(out, index),
    "repulsion": mean_distance,
    "entropy": lambda out, index: entropy_of(out.logits.detach().numpy()),
    "align": own_loss("align"),
    "zero_structure": own_loss("zero_structure"),
    "fisher_rao": near_prior,
}


@pytest.mark.parametrize("name", NAMES)
def test_minimising_a_term_alone_moves_its_figure(name: str) -> None:
    before, after, index = minimised(name, steps=15 if name == "tree_centroid" else 60)
    figure = EFFECTS[name]
    if name == "entropy":
        # It begins near its largest value, log 3, and must come nearer.
        assert math.log(3) - figure(after, index) < 0.1 * (math.log(3) - figure(before, index))
        return
    assert figure(after, index) > figure(before, index) + 0.01 * abs(figure(before, index))


def test_stack_is_the_weighted_sum_and_calls_nothing_that_is_off() -> None:
    index = batch()
    raw = Raw(index)
    losses = Losses.model_validate(
        {
            "reconstruction": {"weight": 0.3, "structure": 2.0, "geometry": 0.0},
            "kl": {"weight": 0.0},
            "entropy": {"weight": 0.7},
        }
    )
    stack = build_stack(losses, SPACE, max_radius=RADIUS, latent_dim=DIM, offers=frozenset({"logits"})).double()
    assert stack.names == ["reconstruction", "radial_bands", "padic_triplet", "entropy"]
    total, metrics = stack(raw.out(), context(index), phase=0)
    parts = stack.values(raw.out(), context(index), phase=0)
    by_hand = 0.6 * parts["reconstruction"].value + 10 * parts["radial_bands"].value
    by_hand = by_hand + 5 * parts["padic_triplet"].value + 0.7 * parts["entropy"].value
    assert float(total.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-12)
    assert metrics["reconstruction/weight"] == 0.6
    assert "padic_triplet/tree" in metrics
    called = []

    class Spy(LossTerm):
        def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
            called.append(1)
            return LossResult(out.logits.sum())

    stack.add("spy", Spy(Term(), SPACE, max_radius=1, latent_dim=1), 2.0, structure=0.0)
    stack(raw.out(), context(index), phase=0)
    assert not called
    stack.disable("spy")
    stack(raw.out(), context(index), phase=1)
    assert not called
    stack.enable("spy")
    stack.set_weight("spy", 0.0)
    stack(raw.out(), context(index), phase=1)
    assert not called
    stack.reset_weight("spy")
    out = raw.out()
    total, _ = stack(out, context(index), phase=1)
    assert called
    norms = stack.gradients(out, context(index), [raw.leaves[4]], phase=1)
    assert float(norms["spy"]) == pytest.approx(2 * len(index) ** 0.5 * 15**0.5)
    assert float(norms["radial_bands"]) == 0
    assert "reconstruction" not in norms
    stack.remove("spy")
    with pytest.raises(ConfigError, match="no term `spy`"):
        stack.remove("spy")
    with pytest.raises(ConfigError, match="`entropy` already"):
        stack.add("entropy", Spy(Term(), SPACE, max_radius=1, latent_dim=1))
    shape = {"max_radius": 1.0, "latent_dim": 2, "offers": frozenset({"logvar", "logits"})}
    with pytest.raises(ConfigError, match="offers no logits_B"):
        build_stack(Losses.model_validate({"align": {"weight": 1.0}}), SPACE, **shape)
    with pytest.raises(ConfigError, match="no installed package offers"):
        build_stack(Losses(external=(("mine", 1.0),)), SPACE, **shape)


def test_rich_hierarchy_widens_collapsed_levels_and_knows_its_unit() -> None:
    own = term("rich_hierarchy")
    index, levels = SPACE.index, SPACE.levels.long()
    collapsed = (
        own.wanted[levels].double() + 1e-3 * torch.randn(243, generator=torch.Generator().manual_seed(0)).double()
    )
    collapsed.requires_grad_()
    _, rich, _ = own.parts(collapsed, index)
    assert float(rich.detach()) > 0.2
    (slope,) = torch.autograd.grad(rich, collapsed)
    wider = (collapsed - 1e-2 * slope).detach()
    for v in range(4):
        assert wider[levels == v].var() > collapsed[levels == v].var()
    spread = losses_radial.band_targets(SPACE, RADIUS) * 0.9
    height, rich, _ = own.parts(spread, index)
    own.wanted *= 2
    own.reference *= 4
    double_height, double_rich, _ = own.parts(2 * spread, index)
    assert float(double_height) == pytest.approx(4 * float(height), rel=1e-6)
    assert float(double_rich) == pytest.approx(float(rich), abs=1e-9)


def test_band_targets_are_ordered_and_reach_the_ceiling() -> None:
    for space in (OperationSpace(), OperationSpace(2, 16), OperationSpace(5, 4)):
        radii = losses_radial.band_targets(space, RADIUS)
        for v in range(space.digits):
            assert radii[space.levels == v].min() > radii[space.levels == v + 1].max()
        assert radii.max() < RADIUS
    radii = losses_radial.band_targets(OperationSpace(), losses_radial.MAX_RADIUS)
    # By hand: level 0 lies in (2.30, 3.60) less 6 % a side; operation 1 has the digits 1, 0, 0, 0 and lies at its foot.
    assert float(radii[1]) == pytest.approx(2.30 + 0.06 * 1.3)
    assert float(radii[2]) == pytest.approx(2.30 + 0.06 * 1.3 + 0.88 * 1.3 * (2 / 3 - 1 / 3) / (2 / 3))
    assert float(radii[0]) == pytest.approx(0.05)


def test_geodesic_targets_keep_the_triangle_inequality() -> None:
    a, b = torch.tensor([3.0, 0.1, 0.01]), torch.tensor([0.5, 0.1, 0.01])
    wanted, there = reachable_targets(torch.tensor([8, 0, 1]), a, b, widest=4.0, rate=0.45)
    assert wanted[0] == pytest.approx(2.52)
    assert wanted[1] == pytest.approx(0.18)
    assert there.tolist() == [True, True, False]


def test_fisher_rao_is_a_metric_with_the_right_local_form() -> None:
    g = torch.Generator().manual_seed(0)
    m, v = torch.randn(3, 200, 4, generator=g, dtype=torch.float64), torch.randn(3, 200, 4, generator=g).double()
    ab, ba = fisher_rao(m[0], v[0], m[1], v[1]), fisher_rao(m[1], v[1], m[0], v[0])
    assert torch.allclose(ab, ba, rtol=1e-12)
    bc, ac = fisher_rao(m[1], v[1], m[2], v[2]), fisher_rao(m[0], v[0], m[2], v[2])
    assert (ac <= ab + bc + 1e-9).all()
    h = 1e-5
    near = fisher_rao(m[0], v[0], m[0] + h, v[0] + 2 * h)
    # ds^2 = (dm^2 + 2 ds^2) / s^2, and d log s^2 = 2 ds / s.
    local = ((h**2 / v[0].exp()) + 2 * h**2).sum(-1).sqrt()
    assert torch.allclose(near, local, rtol=1e-4)


def test_node_means_are_karcher_means() -> None:
    g = torch.Generator().manual_seed(1)
    u = 0.4 * torch.randn(30, 3, generator=g, dtype=torch.float64)
    node = torch.randint(4, (30,), generator=g)
    k = torch.tensor(-1.3, dtype=torch.float64)
    from holonomy.geometry import normal, poincare

    means, sizes = node_means(u, node, k)
    for at in range(4):
        points = normal.to_ball(u[node == at], k)
        assert int(sizes[at]) == len(points)
        assert torch.allclose(normal.to_ball(means[at], k), poincare.Poincare(k).midpoint(points), atol=1e-8)
    flat, _ = node_means(u, node, torch.zeros((), dtype=torch.float64))
    assert torch.allclose(flat[2], u[node == 2].mean(0))


@pytest.mark.parametrize(
    ("scale", "spread", "k"),
    [(0.0, -1.0, -1.0), (0.8, -2.0, -1.0), (0.5, 0.0, -0.5), (1.2, -1.0, -2.0), (0.3, -3.0, -0.1)],
)
def test_wrapped_divergence_by_integration_in_the_plane(scale: float, spread: float, k: float) -> None:
    from holonomy.geometry.manifold import hyperbolic_log_volume
    from holonomy.models.ternary.posterior import wrap, wrapped_kl, wrapped_log_prob

    curvature = torch.tensor(k, dtype=torch.float64)
    u = torch.tensor([scale, 0.4 * scale], dtype=torch.float64)
    logvar = torch.tensor([spread, spread + 0.5], dtype=torch.float64)
    prior = torch.zeros(2, dtype=torch.float64)
    line = torch.linspace(-6, 6, 601, dtype=torch.float64)
    a = torch.cartesian_prod(line, line) * (logvar / 2).exp()
    point = wrap(u.expand_as(a), a, curvature)
    q = wrapped_log_prob(point, a, logvar.expand_as(a), curvature)
    p = wrapped_log_prob(point, point, prior.expand_as(a), curvature)
    density = torch.from_numpy(norm.pdf(a.numpy(), scale=(logvar / 2).exp().numpy()).prod(-1))
    # q is a density by the volume of the surface: the flat one over the stretch of exp.
    assert torch.allclose(q.exp(), density / hyperbolic_log_volume(a, curvature).exp())
    cell = (12 / 600) ** 2 * float((logvar / 2).exp().prod())
    exact = float((density * (q - p)).sum()) * cell
    draws = {"samples": 400_000, "generator": torch.Generator().manual_seed(0)}
    found = wrapped_kl(u[None], logvar[None], curvature, prior_logvar=prior, **draws)
    assert float(found) == pytest.approx(exact, rel=0.01, abs=0.003)


def test_unbiased_reconstruction_counts_operations_once() -> None:
    index = batch()
    out = Raw(index).out()
    weighed = LossContext(SPACE, index, torch.Generator(), torch.linspace(0.1, 1, len(index)))
    costs = [float(term("reconstruction")(out_of(out, n), context(index[n : n + 1])).value) for n in range(len(index))]
    found = float(term("reconstruction", unbiased=True)(out, weighed).value.detach())
    assert found == pytest.approx(float(np.average(costs, weights=np.linspace(0.1, 1, len(index)))), rel=1e-6)
    assert float(term("reconstruction")(out, weighed).value.detach()) == pytest.approx(np.mean(costs))


def out_of(out: TernaryOutput, n: int) -> TernaryOutput:
    return TernaryOutput(out.A, out.B, out.logits[n : n + 1].detach(), out.k, RADIUS)
