"""The autoencoder and its learner: shapes and paths, curvature, determinism, gradients, exact continuation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from holonomy.core.config import resolve
from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.data.ternary_ops import OperationSpace, StratifiedBatches
from holonomy.geometry import normal, poincare
from holonomy.models.ternary.config import TernaryConfig
from holonomy.models.ternary.learner import TernaryLearner
from holonomy.models.ternary.metrics import coverage, measure
from holonomy.models.ternary.model import build_model, parameter_counts
from holonomy.models.ternary.posterior import wrap
from holonomy.models.ternary.projection import Curvature, Projection

SMALL = ("data.digits=5", "data.batch=81", "data.extra_from_level=3", "model.latent_dim=6", "model.hidden=[32]")


def config(*overrides: str) -> TernaryConfig:
    return resolve(TernaryConfig, base=TernaryConfig(), base_origin="test", overrides=[*SMALL, *overrides]).config


def started(*overrides: str) -> tuple[TernaryLearner, StratifiedBatches]:
    c = config(*overrides)
    space = OperationSpace(c.data.base, c.data.digits)
    batches = StratifiedBatches(space, space.index, batch_size=c.data.batch, extra_from_level=3, seed=c.train.seed)
    return TernaryLearner(c, space), batches


def trained(steps: int, *overrides: str) -> TernaryLearner:
    learner, batches = started(*overrides)
    for at in range(steps):
        learner.train_step(batches.next(), progress=at / steps)
    return learner


def test_polar_distance_is_the_accurate_one(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    u, v = (torch.randn(500, 5, generator=g, dtype=torch.float64) for _ in range(2))
    v[:100] = u[:100] * 1.001
    a, b = u.norm(dim=-1), v.norm(dim=-1)
    chord = (u / a[:, None] - v / b[:, None]).square().sum(-1)
    for c in (0.25, 1.0, 4.0):
        k = torch.tensor(-c, dtype=torch.float64)
        polar = normal.polar_dist(a.to(dtype), b.to(dtype), chord.to(dtype), k.to(dtype))
        tolerance = 1e-9 if dtype == torch.float64 else 2e-5
        assert torch.allclose(polar.double(), normal.dist(u, v, k), rtol=tolerance, atol=tolerance)
        half = normal.polar_half_chord(a, b, chord, k)
        assert torch.allclose(half, (math.sqrt(c) * normal.dist(u, v, k) / 2).sinh().square() / c, rtol=1e-9)
    flat = normal.polar_dist(a, b, chord, torch.zeros((), dtype=torch.float64))
    assert torch.allclose(flat, (u - v).norm(dim=-1), rtol=1e-9, atol=1e-12)


def test_polar_distance_has_finite_gradients_everywhere() -> None:
    for a, b, chord in ((0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (6.0, 6.0, 4.0), (0.0, 2.0, 1.0)):
        x = [torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (a, b, chord)]
        k = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
        grads = torch.autograd.grad(normal.polar_dist(*x, k), [*x, k])
        assert all(bool(torch.isfinite(g)) for g in grads)
    x = torch.rand(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).add(0.1).requires_grad_()
    k = torch.tensor(-0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, k: normal.polar_dist(x[0], x[1], x[2], k), (x, k))


def test_wrapping_is_the_exponential_of_the_carried_vector() -> None:
    g = torch.Generator().manual_seed(0)
    u, a = (torch.randn(50, 4, generator=g, dtype=torch.float64) for _ in range(2))
    ball = poincare.Poincare(torch.tensor(-1.7, dtype=torch.float64))
    m = normal.to_ball(u, ball.k)
    carried = ball.transport(torch.zeros_like(m), m, ball.from_frame(a))
    assert torch.allclose(normal.to_ball(wrap(u, a, ball.k), ball.k), ball.exp(m, carried), atol=1e-12)


def test_identity_projection_begins_where_it_says() -> None:
    c = config("model.projection.init=identity").model.projection
    z = 3 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    e, rho = Projection(c, latent_dim=6)(z)
    assert torch.allclose(e, z / z.norm(dim=-1, keepdim=True), atol=1e-6)
    assert torch.allclose(rho, c.max_radius * (z.norm(dim=-1) / c.max_radius).tanh(), atol=2e-3)


def test_a_projection_that_does_not_learn_stays_the_identity() -> None:
    learner = trained(
        20, "model.projection.init=identity", "model.projection.learnable=false", "model.sharing=separate"
    )
    for name in ("encoder_A", "encoder_B"):
        learner.set_frozen(name, True)
        learner.set_frozen(name, False)
    fresh = build_model(learner.config, learner.space)
    moved = [n for (n, p), q in zip(learner.vae.named_parameters(), fresh.parameters(), strict=True) if (p != q).any()]
    assert moved and not any(name.startswith("projection") for name in moved)
    assert not any(p.requires_grad for p in learner.vae.projection.parameters())


@pytest.mark.parametrize(("kind", "size"), [("gated", 46_688), ("relu", 45_792)])
def test_sizes_by_hand(kind: str, size: int) -> None:
    shape = ("data.digits=9", "model.latent_dim=16", "model.hidden=[256, 128, 64]", "model.input=centred")
    found = parameter_counts(build_model(config(*shape, f"model.encoder={kind}"), OperationSpace(3, 9)))
    # Linear layers 9-256-128-64 and 64-32, and two numbers a unit for LayerNorm.
    linear = 9 * 256 + 256 + 256 * 128 + 128 + 128 * 64 + 64 + 64 * 32 + 32
    assert found["encoder"] == size == linear + (2 * (256 + 128 + 64) if kind == "gated" else 0)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.sharing=separate",),
        ("model.sharing=separate", "model.decode_from=concat"),
        ("model.posterior=wrapped_normal", "loss.kl.weight=0", "loss.wrapped_kl.weight=0.001"),
        ("model.posterior=point", "loss.kl.weight=0"),
        ("model.geometry=euclidean", "model.decoder_copies=direction"),
        ("model.encoder=relu", "model.decoder=relu", "model.input=centred"),
        ("model.decoder=stepwise", "model.logvar_init=-12", "model.logvar_min=-18"),
        ("model.projection.init=identity", "model.projection.learnable=false"),
        ("model.curvature.learnable=true", "model.decoder_norm=true", "model.encoder_dropout=0.1"),
    ],
    ids=str,
)
def test_every_variant_learns_and_gives_every_parameter_a_gradient(overrides: tuple[str, ...]) -> None:
    learner, batches = started(*overrides)
    touched: dict[str, bool] = {}
    first = None
    for at in range(30):
        metrics = learner.train_step(batches.next(), progress=0.1 + at / 100)
        first = float(metrics.loss) if first is None else first
        for name, param in learner.module.named_parameters():
            if not param.requires_grad:
                continue
            seen = param.grad is not None and bool((param.grad != 0).any())
            touched[name] = touched.get(name, False) or (seen and at < 5)
    assert float(metrics.loss) < 0.8 * first
    assert [name for name, seen in touched.items() if not seen] == []
    learner.module.eval()
    vae = learner.vae
    u = vae.embed(vae.space.index)
    assert float(u.norm(dim=-1).max()) <= vae.config.projection.max_radius
    assert torch.equal(u, vae.embed(vae.space.index))
    decoded = vae.reconstruct(vae.space.index)
    out = vae(vae.space.table)
    assert torch.equal(decoded, vae.space.tree.number(out.logits.argmax(-1)))
    if vae.config.posterior == "point":
        with pytest.raises(ConfigError, match="no prior"):
            vae.generate(3, torch.Generator())
    else:
        made = vae.generate(50, torch.Generator().manual_seed(1))
        assert torch.equal(made, vae.generate(50, torch.Generator().manual_seed(1)))
        assert int(made.max()) < vae.space.size


def test_curvature_gets_the_gradient_of_finite_differences() -> None:
    learner, batches = started(
        "model.curvature.learnable=true", "model.curvature.value=1.4", "loss.padic_geodesic.weight=1"
    )
    learner.module.double()
    batch = batches.next()
    theta = learner.vae.curvature.theta

    def loss() -> Tensor:
        return learner.stack(*learner.outputs(batch, learner.generator(0)))[0]

    (slope,) = torch.autograd.grad(loss(), theta)
    ends = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            theta += step
            ends.append(float(loss()))
            theta -= step
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3)
    assert float(slope) != 0
    for value in (0.1, 10.0):
        c = Curvature(config(f"model.curvature.value={value}").model.curvature)()
        assert float(c) == pytest.approx(value, rel=1e-5)
        ball = normal.to_ball(learner.vae.embed(learner.space.index).double(), -c.double())
        assert float(ball.norm(dim=-1).max() * value**0.5) < 1


def test_learnt_curvature_is_the_true_one() -> None:
    g = torch.Generator().manual_seed(0)
    u = 1.5 * torch.randn(60, 3, generator=g, dtype=torch.float64)
    i, j = torch.triu_indices(60, 60, 1)
    a, e = u.norm(dim=-1), torch.nn.functional.normalize(u, dim=-1)
    chord = (e[i] - e[j]).square().sum(-1)
    wanted = normal.polar_dist(a[i], a[j], chord, torch.tensor(-2.0, dtype=torch.float64))
    c = Curvature(config("model.curvature.learnable=true").model.curvature).double()
    optimiser = torch.optim.Adam(c.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        (normal.polar_dist(a[i], a[j], chord, -c()) - wanted).square().mean().backward()
        optimiser.step()
    assert float(c().detach()) == pytest.approx(2.0, rel=0.01)


def test_equal_seeds_give_equal_weights_and_leave_the_world_alone() -> None:
    before = torch.get_rng_state()
    a, b, other = trained(5), trained(5), trained(5, "train.seed=1")
    assert torch.equal(before, torch.get_rng_state())
    for (name, x), y in zip(a.module.named_parameters(), b.module.parameters(), strict=True):
        assert torch.equal(x, y), name
    assert any(not torch.equal(x, y) for x, y in zip(a.module.parameters(), other.module.parameters(), strict=True))


def test_a_stored_state_continues_exactly_and_foreign_ones_change_nothing() -> None:
    learner, batches = started("loss.padic_metric.weight=1", "model.sharing=separate")
    for at in range(4):
        learner.train_step(batches.next(), progress=at / 10)
    state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in learner.state().items()}
    other, again = started("loss.padic_metric.weight=1", "model.sharing=separate")
    other.load_state(state)
    again.load_state(batches.state())
    for at in range(4, 8):
        a = learner.train_step(batches.next(), progress=at / 10).loss
        assert torch.equal(a, other.train_step(again.next(), progress=at / 10).loss)
    kept = [p.clone() for p in other.module.parameters()]
    missing = {k: v for k, v in state.items() if k != "steps"}
    name = next(k for k in state if k.startswith("model."))
    for wrong in (
        missing,
        {**state, "steps": -1},
        {**state, name: torch.zeros(1)},
        {**state, "model.more": torch.ones(1)},
    ):
        with pytest.raises(CheckpointError):
            other.load_state(wrong)
        assert all(torch.equal(p, q) for p, q in zip(kept, other.module.parameters(), strict=True))


def test_coverage_sees_the_path_that_is_trained() -> None:
    learner = trained(400, "train.optim.lr=0.01", "loss.reconstruction.weight=1")
    learner.module.eval()
    vae = learner.vae
    index = vae.space.index
    assert coverage(index, vae.reconstruct) > 0.95
    with torch.no_grad():
        for param in vae.projection.parameters():
            param.copy_(torch.randn(param.shape, generator=torch.Generator().manual_seed(0)))
    assert coverage(index, vae.reconstruct) < 0.5


def test_training_gives_order_that_chance_does_not() -> None:
    learner = trained(300, "train.optim.lr=0.01")
    learner.module.eval()
    found = measure(learner.vae, neighbours=False)
    untrained = build_model(learner.config, learner.space).eval()
    assert found["triplet_concordance"] > 0.97
    assert found["monotone"] == 1
    assert found["hierarchy_norm"] > 0.99
    assert measure(untrained, neighbours=False)["triplet_concordance"] < 0.8


def test_mistakes_are_named() -> None:
    learner, _ = started("model.geometry=euclidean")
    with pytest.raises(ConfigError, match="`stream` is 'C'"):
        learner.vae.embed(torch.tensor([0]), stream="C")
    with pytest.raises(ConfigError, match="`n` holds 243"):
        learner.vae.embed(torch.tensor([243]))
    with pytest.raises(ConfigError, match="has no ball"):
        learner.vae.ball(torch.tensor([0]))
    for loss, words in (("wrapped_kl", "centre"), ("align", "logits_B")):
        with pytest.raises(ConfigError, match=words):
            started(f"loss.{loss}.weight=1")


def test_a_step_whose_gradient_is_no_number_is_left_out() -> None:
    learner, batches = started()
    learner.train_step(batches.next(), progress=0.5)
    batch = batches.next()
    sound = learner.objective

    def broken(batch, progress: float):
        loss, extra = sound(batch, progress)
        return loss * torch.tensor(float("nan")), extra

    before = {k: v.clone() for k, v in learner.state().items() if isinstance(v, Tensor)}
    learner.objective = broken
    assert not torch.isfinite(learner.train_step(batch, progress=0.5).loss)
    after = learner.state()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    learner.objective = sound
    learner.train_step(batch, progress=0.5)
    assert not all(torch.equal(v, learner.state()[k]) for k, v in before.items())
