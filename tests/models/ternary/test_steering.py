"""Controller, homeostasis and curriculum: each does what it is for, and their broken doubles do not."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from holonomy.core.config import resolve
from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.data.ternary_ops import OperationSpace, StratifiedBatches
from holonomy.models.ternary.config import CurriculumConfig, HomeostasisConfig, TernaryConfig
from holonomy.models.ternary.controller import GradNorm, WeightController
from holonomy.models.ternary.curriculum import GROUPS, Curriculum
from holonomy.models.ternary.homeostasis import Homeostasis
from holonomy.models.ternary.learner import TernaryLearner
from holonomy.models.ternary.metrics import coverage, spearman
from holonomy.models.ternary.model import TernaryOutput
from holonomy.recipes.ternary import Steering

SMALL = ("data.digits=5", "data.batch=81", "data.extra_from_level=3", "model.latent_dim=6", "model.hidden=[32]")


def toy(*, broken: bool) -> dict[str, float]:
    """A useful loss and one of pure noise, on one parameter vector; the multiples after 500 steps."""
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    control = WeightController(["useful", "noise"], limit=10.0, lr=1e-2)
    x = torch.randn(20, generator=g)
    signals = torch.ones(8)
    control.observe(signals)
    for _ in range(500):
        held_out = 2 * x + 0.1 * torch.randn(20, generator=g)
        gradients = {"useful": 2 * x + 0.1 * torch.randn(20, generator=g), "noise": torch.randn(20, generator=g)}
        if broken:
            # What must not be done: the weighted loss itself, in which the noise costs ten times as much.
            control.optimiser.zero_grad()
            (control.log_factors(signals).exp() * torch.tensor([1.0, 10.0])).sum().backward()
            control.optimiser.step()
            control.current.copy_(control.log_factors(signals).detach())
        else:
            control.learn(signals, gradients, held_out)
        x = 0.999 * x
    return {name: float(value) for name, value in control.factors().items()}


def test_controller_turns_noise_down_and_keeps_off_its_bounds() -> None:
    found = toy(broken=False)
    assert found["noise"] <= 0.5
    assert 1 < found["useful"] < 0.9 * 10**0.5
    assert found["noise"] * found["useful"] == pytest.approx(1, rel=1e-5)
    # Trained on what it weighs, it runs away to where the loss looks small, useful or not.
    # With two groups of geometric mean 1 the bounds are 10^(1/2) and its inverse.
    bound = 10**-0.5
    assert found["noise"] > 1.1 * bound
    assert toy(broken=True)["noise"] < 1.01 * bound


def learner_of(*overrides: str) -> tuple[TernaryLearner, StratifiedBatches]:
    c = resolve(TernaryConfig, base=TernaryConfig(), base_origin="test", overrides=[*SMALL, *overrides]).config
    space = OperationSpace(c.data.base, c.data.digits)
    return TernaryLearner(c, space), StratifiedBatches(space, space.index, batch_size=81, extra_from_level=3)


STEERED = {
    "controller": ("weighting.kind=controller", "weighting.every=3"),
    "exchange": ("weighting.kind=controller", "weighting.every=3", "weighting.exchange=0.5", "model.sharing=separate"),
    "gradnorm": ("weighting.kind=gradnorm", "weighting.every=1", "weighting.lr=0.05"),
    "uncertainty": ("weighting.kind=uncertainty",),
    "curriculum": ("curriculum.enabled=true", "curriculum.ramp=0.5"),
}


@pytest.mark.parametrize("kind", STEERED)
def test_steered_learning_differs_and_continues_exactly(kind: str) -> None:
    (plain, batches), (steered, same) = learner_of(*STEERED[kind][3:]), learner_of(*STEERED[kind])
    other, again = learner_of(*STEERED[kind])
    for at in range(12):
        plain.train_step(batches.next(), progress=at / 20)
        steered.train_step(same.next(), progress=at / 20)
    a, b = (torch.cat([p.flatten() for p in x.vae.parameters()]) for x in (plain, steered))
    assert not torch.equal(a, b)
    state = {k: v.clone() if isinstance(v, Tensor) else json.loads(json.dumps(v)) for k, v in steered.state().items()}
    other.load_state(state)
    again.load_state(same.state())
    for at in range(12, 18):
        x = steered.train_step(same.next(), progress=at / 20).loss
        assert torch.equal(x, other.train_step(again.next(), progress=at / 20).loss)
    if kind != "uncertainty":
        with pytest.raises(CheckpointError, match=r"controller|curriculum"):
            other.load_state({k: v for k, v in state.items() if not k.startswith(("controller", "curriculum"))})
    if kind in ("controller", "exchange", "gradnorm"):
        with pytest.raises(CheckpointError, match="controller"):
            plain.load_state(state)


def test_exchange_lets_pair_losses_reach_the_coverage_path_and_nothing_else() -> None:
    (without, batches), (learner, _) = (
        learner_of(*STEERED["exchange"][:2], "model.sharing=separate"),
        learner_of(*STEERED["exchange"]),
    )
    batch = batches.next()
    out, _ = learner.outputs(batch, learner.generator(0))
    share = torch.tensor(0.3, requires_grad=True)
    mixed = out.exchanged(share)
    torch.testing.assert_close(mixed.B.u, 0.7 * out.A.u + 0.3 * out.B.u)

    def cost(seen: TernaryOutput) -> Tensor:
        return learner.stack.terms["padic_triplet"](seen, learner.context(batch, learner.generator(1))).value

    parts = [list(learner.part(f"encoder_{name}").values()) for name in "AB"]
    for seen, reached in ((out, (False, True)), (mixed, (True, False))):
        for params, wanted in zip(parts, reached, strict=True):
            found = torch.autograd.grad(cost(seen), params, retain_graph=True, allow_unused=True)
            assert any(g is not None and bool((g != 0).any()) for g in found) is wanted
    ends = [cost(out.exchanged(torch.tensor(0.3 + step))).item() for step in (1e-3, -1e-3)]
    (slope,) = torch.autograd.grad(cost(mixed), share)
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=0.05)
    torch.testing.assert_close(cost(out.exchanged(torch.tensor(0.0))), cost(replace(out, B=out.A)))
    # What is added to the loss is the configured pair losses at the share of the controller, half of the largest.
    totals = [x.objective(batch, 0.5)[0] for x in (without, learner)]
    triplet = learner.config.loss.padic_triplet
    out, context = learner.outputs(batch, learner.generator(0))
    learner.stack(out, context)
    again = learner.stack.terms["padic_triplet"](out.exchanged(torch.tensor(0.25)), context).value
    torch.testing.assert_close(totals[1] - totals[0], triplet.weight * again)


@pytest.mark.parametrize(("sign", "more"), [(1.0, True), (-1.0, False)])
def test_exchange_follows_what_it_does_for_held_out_operations(sign: float, more: bool) -> None:
    torch.manual_seed(0)
    control, signals = WeightController(["pair"], limit=10.0, lr=1e-2, exchange=0.5), torch.ones(8)
    control.observe(signals)
    assert float(control.share) == 0.25
    held_out = torch.randn(20, generator=torch.Generator().manual_seed(0))
    for _ in range(300):
        control.learn(signals, {"pair": held_out}, held_out, mixing=sign * held_out)
    # The pull bounds its logit at an advantage of 1 to 1 / PULL = 2.
    wanted = 0.5 * float(torch.sigmoid(torch.tensor(2.0 if more else -2.0)))
    assert float(control.share) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        *(("controller", key) for key in ("lr=0.1", "limit=2.0", "every=2", "exchange=0.5")),
        *(("gradnorm", key) for key in ("lr=0.1", "restoring=4.0", "every=2")),
    ],
)
def test_every_key_of_the_weights_matters(kind: str, key: str) -> None:
    ends, often = [], 3 if kind == "controller" else 1
    apart = ["model.sharing=separate"] if "exchange" in key else []
    for more in ((), (f"weighting.{key}",)):
        learner, batches = learner_of(
            f"weighting.kind={kind}", *apart, *([f"weighting.every={often}"] if "every" not in key else []), *more
        )
        for at in range(9 if kind == "controller" else 24):
            learner.train_step(batches.next(), progress=at / 20)
        ends.append(torch.cat([p.detach().flatten() for p in learner.vae.parameters()]))
    assert not torch.equal(*ends)


def test_gradient_norms_by_hand() -> None:
    """Chen et al. (2018), equations 1 and 2, worked out for two losses."""
    balance = GradNorm(["a", "b"], lr=0.1, restoring=1.5)
    start, losses, norms = torch.tensor([2.0, 8.0]), torch.tensor([1.0, 6.0]), torch.tensor([4.0, 1.0])
    for _ in range(10):
        balance.learn(start, norms)
    assert torch.equal(balance.weight, torch.ones(2))
    torch.testing.assert_close(balance.start, start)
    # G = (4, 1), mean 2.5; shares (0.5, 0.75), mean 0.625, r = (0.8, 1.2), targets 2.5 r^1.5.
    wanted = [2.5 * 0.8**1.5, 2.5 * 1.2**1.5]
    cost = balance.cost(losses, norms)
    assert float(cost.detach()) == pytest.approx(4 - wanted[0] + wanted[1] - 1, rel=1e-6)
    # The targets are held: d/dw_i = norm_i sign(G_i - target_i).
    (gradient,) = torch.autograd.grad(cost, balance.weight)
    assert gradient.tolist() == [4.0, -1.0]
    balance.learn(losses, norms)
    # Adam's first step is lr times the sign, and the sum is 2 already.
    assert balance.weight.tolist() == pytest.approx([0.9, 1.1], rel=1e-5)
    for _ in range(200):
        balance.learn(losses, torch.tensor([1e6, 1e-6]))
        assert float(balance.weight.detach().mean()) == pytest.approx(1, abs=1e-6)
    assert float(balance.weight[0].detach()) == pytest.approx(1e-3, rel=0.01)


def scales(*, broken: bool) -> float:
    """Ratio of the gradient norms of two losses, one a hundred times the other, after 500 updates of the weights."""
    balance = GradNorm(["large", "small"], lr=0.01, restoring=0.0)
    # Where the point is stays fixed: at a minimum of the sum the gradients would cancel, whatever the weights.
    x = torch.randn(20, generator=torch.Generator().manual_seed(0))
    losses = torch.stack([100 * (x - 1).square().sum(), (x + 1).square().sum()])
    norms = torch.stack([(200 * (x - 1)).norm(), (2 * (x + 1)).norm()])
    for _ in range(500):
        # What must not be done: losses as shares of their start in place of norms, which do not know the scale.
        balance.learn(losses, losses / balance.start.clamp_min(1e-9) if broken else norms)
    weighted = balance.weight.detach() * norms
    return float(weighted[0] / weighted[1])


def test_gradient_norms_of_two_scales_become_equal() -> None:
    assert 0.8 < scales(broken=False) < 1.25
    assert not 0.2 < scales(broken=True) < 5


TASKS = ("radial", "pair", "coding")


def faulty(*more: str, groups: tuple[str, ...] = TASKS) -> tuple[float, dict[str, Tensor]]:
    """A whole model in which the radial loss weighs a hundred times what it should.

    Returns:
        Largest as a share of the smallest gradient norm of the tasks as they are weighed, over the last 20 of 120
        updates, and the multiples.
    """
    learner, batches = learner_of("loss.radial_bands.weight=1000", *more)
    balance, seen = learner.controller, []
    if balance is not None and groups != TASKS:
        balance = learner.controller = GradNorm(groups, lr=0.05, restoring=1.5)
    factors: dict[str, Tensor] = {}
    for at in range(120):
        batch = batches.next()
        learner.train_step(batch, progress=at / 120)
        if at >= 100:
            _, norms = learner.shared_norms(batch, TASKS, phase=1)
            factors = balance.factors() if balance is not None else {}
            seen.append(torch.stack([norms[name] * factors.get(name, 1.0) for name in TASKS]))
    mean = torch.stack(seen).mean(0)
    return float(mean.max() / mean.min()), factors


def test_a_loss_of_a_hundredfold_weight_in_a_whole_model_is_balanced() -> None:
    on = ("weighting.kind=gradnorm", "weighting.every=1", "weighting.lr=0.05")
    assert faulty()[0] > 50
    balanced, factors = faulty(*on)
    assert balanced < 3
    assert float(factors["radial"]) < 0.02
    # A prior among the tasks takes all the weight for its small gradient, and leaves none to balance.
    _, factors = faulty(*on, groups=(*TASKS, "prior"))
    assert float(factors["prior"]) > 0.5 * 4


def test_gradient_norms_want_two_groups() -> None:
    off = ("loss.radial_bands.weight=0", "loss.padic_triplet.weight=0")
    with pytest.raises(ConfigError, match="there is coding"):
        learner_of("weighting.kind=gradnorm", *off)


def test_a_group_that_rests_has_no_part_and_begins_later() -> None:
    balance, rate = GradNorm(["coding", "pair"], lr=1e-2, restoring=1.5), torch.ones(2)
    for _ in range(30):
        balance.learn(torch.tensor([10.0, 0.0]), torch.tensor([1.0, 0.0]))
    assert balance.start.tolist() == pytest.approx([10.0, 0.0]) and torch.equal(balance.weight, rate)
    for _ in range(10):
        balance.learn(torch.tensor([9.0, 5.0]), rate)
    assert balance.start.tolist() == pytest.approx([10.0, 5.0]) and torch.equal(balance.weight, rate)
    for _ in range(300):
        balance.learn(torch.tensor([9.0, 4.5]), rate)
    # Both have come as far, with gradients of one size: neither is favoured.
    assert balance.weight.tolist() == pytest.approx([1.0, 1.0], abs=0.05)


def test_curriculum_shifts_waits_and_ends() -> None:
    c = Curriculum(CurriculumConfig(enabled=True, ramp=0.5, hold=-0.62, floor=0.2))
    first = c.factors(0.1)
    assert first["radial_bands"] == pytest.approx(1 - 0.2 + 0.2)
    assert first["padic_triplet"] == pytest.approx(0.2 + 0.2)
    assert set(first) == {*GROUPS["radial"], *GROUPS["pair"]}
    c.told(-0.3)
    assert c.factors(0.3) == first
    c.told(-0.7)
    assert c.factors(0.4)["padic_triplet"] == pytest.approx(0.4 + 0.2)
    state = json.loads(json.dumps(c.state()))
    other = Curriculum(c.config)
    other.load_state(state)
    assert other.factors(1.0) == c.factors(1.0)
    assert c.factors(1.0)["radial_bands"] == pytest.approx(0.2)
    for wrong in (None, {"tau": 1}, {**state, "tau": "x"}):
        with pytest.raises(CheckpointError, match="curriculum"):
            other.load_state(wrong)


def machine(*, tied: bool = False, **settings) -> Homeostasis:
    return Homeostasis(HomeostasisConfig(enabled=True, **settings), tied=tied)


def feed(h: Homeostasis, rows: list[tuple[float, float, float]]) -> list[tuple[int, str, bool]]:
    found = []
    for at, (c, hierarchy, q) in enumerate(rows, start=1):
        found += [(at, t.part, t.frozen) for t in h.update(coverage=c, hierarchy=hierarchy, q=q)]
    return found


GAINING = [(1.0, -0.1 * n, 1.0) for n in range(8)]
FLAT = [(1.0, -0.8, 1.0)] * 20


@pytest.mark.parametrize(
    ("settings", "rows", "wanted"),
    [
        # Nothing in the warm-up; after it, at once.
        ({}, [(0.5, -0.1 * n, 1.0) for n in range(7)], [(6, "encoder_A", True)]),
        ({"warmup": 0}, [(0.99, -0.1, 1.0)], [(1, "encoder_A", True)]),
        ({}, GAINING, []),
        # Hysteresis: released two evaluations later at the earliest, though all else holds.
        (
            {"warmup": 0, "hysteresis": 2, "patience": 1000, "patience_ceiling": 1000},
            [(0.9, -0.8, 1.0), *FLAT[:12]],
            [(1, "encoder_A", True), (9, "encoder_A", False)],
        ),
        # The hierarchy path is frozen by standstill and released when it worsens.
        (
            {"warmup": 0},
            [*FLAT[:6], (1.0, -0.8, 1.0), (1.0, -0.8, 1.0), (1.0, -0.78, 1.0)],
            [(6, "encoder_B", True), (9, "encoder_B", False)],
        ),
        ({"warmup": 0}, [*FLAT[:6], (1.0, -0.8, 1.0), (1.0, -0.8, 1.0), (1.0, -0.795, 1.0)], [(6, "encoder_B", True)]),
    ],
)
def test_transitions(settings: dict, rows: list, wanted: list) -> None:
    assert feed(machine(**settings), rows) == wanted


def test_tied_parts_move_together_and_coverage_comes_first() -> None:
    h = machine(tied=True, warmup=0, patience=1)
    assert feed(h, [(1.0, -0.8, 1.0), (0.5, -0.8, 1.0)]) == [(2, "encoder_A", True)]
    assert h.frozen("encoder_A") and h.frozen("encoder_B")


def test_thresholds_stay_within_their_limits() -> None:
    tight, loose = machine(), machine()
    for _ in range(50):
        tight._anneal(-1.0)
        loose._anneal(1.0)
    assert (tight.now.freeze_at, tight.now.unfreeze_at, tight.now.patience) == (0.995, 1.0, 5)
    assert loose.now.freeze_at == 0.95
    assert loose.now.unfreeze_at == pytest.approx(0.955)
    assert loose.now.patience == 15
    still = machine()
    still._anneal(-0.01)
    assert still.now == machine().now


def test_homeostasis_round_trip() -> None:
    a = machine(warmup=0)
    feed(a, [*FLAT[:7], (0.9, -0.7, 0.5)])
    b = machine(warmup=0)
    b.load_state(json.loads(json.dumps(a.state())))
    rows = [(1.0, -0.79, 0.9), (0.99, -0.8, 1.0), *FLAT[:9]]
    assert feed(copy.deepcopy(a), rows) == feed(b, rows)
    with pytest.raises(CheckpointError, match="homeostasis"):
        b.load_state({"frozen": {}})


def test_damage_to_the_coverage_path_is_caught_and_reversed() -> None:
    learner, batches = learner_of(
        "model.sharing=separate", "homeostasis.enabled=true", "homeostasis.warmup=0", "homeostasis.hysteresis=0",
        "homeostasis.coverage_freeze=0.9", "train.optim.lr=0.01", "loss.reconstruction.weight=1",
    )  # fmt: skip
    steering = Steering(learner.config, learner)
    for at in range(400):
        learner.train_step(batches.next(), progress=at / 400)

    def evaluate() -> float:
        learner.module.eval()
        share = coverage(learner.space.index, learner.vae.reconstruct)
        learner.module.train()
        steering.evaluated(0, {"val/coverage": share, "val/hierarchy": -0.8, "val/Q": 2.0})
        return share

    good = evaluate()
    assert good > 0.95
    with torch.no_grad():
        for param in learner.part("encoder_A").values():
            param.add_(torch.randn(param.shape, generator=torch.Generator().manual_seed(0)))
    assert evaluate() < 0.5
    learner.module.eval()
    assert coverage(learner.space.index, learner.vae.reconstruct) == good
    assert not any(p.requires_grad for p in learner.part("encoder_A").values())
    assert "restored" in str(steering.log)
    before = {n: p.clone() for n, p in learner.part("encoder_A").items()}
    state = learner.state()
    learner.train_step(batches.next(), progress=0.5)
    assert all(torch.equal(p, before[n]) for n, p in learner.part("encoder_A").items())
    other, _ = learner_of(*(f"{k}" for k in ("model.sharing=separate", "homeostasis.enabled=true")))
    other.load_state(state)
    again = Steering(other.config, other)
    again.load_state(json.loads(json.dumps(steering.state())))
    assert not any(p.requires_grad for p in other.part("encoder_A").values())
    assert all(torch.equal(other.kept[n], learner.kept[n]) for n in learner.kept)


def hierarchy_of(learner: TernaryLearner) -> float:
    learner.module.eval()
    radius = learner.vae.embed(learner.space.index).norm(dim=-1)
    learner.module.train()
    return spearman(learner.space.levels.double(), radius.double())


def collapsed() -> tuple[TernaryLearner, StratifiedBatches, Steering]:
    """A model whose hierarchy path stood still and was frozen, with its radii turned round since."""
    learner, batches = learner_of(
        "model.sharing=separate", "homeostasis.enabled=true", "homeostasis.warmup=0", "homeostasis.hysteresis=0",
        "homeostasis.patience=2", "train.optim.lr=0.01",
    )  # fmt: skip
    steering = Steering(learner.config, learner)
    for _ in range(120):
        learner.train_step(batches.next(), progress=0.3)
    assert hierarchy_of(learner) < -0.8
    for _ in range(4):
        steering.evaluated(0, {"val/coverage": 1.0, "val/hierarchy": hierarchy_of(learner), "val/Q": 1.0})
    assert not any(p.requires_grad for p in learner.part("encoder_B").values())
    last = learner.vae.projection["B"].radius[-1]
    with torch.no_grad():
        for param in last.parameters():
            param.neg_()
    return learner, batches, steering


def test_a_collapse_of_the_hierarchy_is_caught_and_reversed() -> None:
    for steered in (True, False):
        learner, batches, steering = collapsed()
        damaged = hierarchy_of(learner)
        assert damaged > 0.5
        if steered:
            steering.evaluated(0, {"val/coverage": 1.0, "val/hierarchy": damaged, "val/Q": 0.0})
            assert "released: hierarchy" in str(steering.log[-1])
        for _ in range(120):
            learner.train_step(batches.next(), progress=0.3)
        # Without an evaluation nobody notices.
        assert hierarchy_of(learner) < -0.8 if steered else hierarchy_of(learner) == damaged


def test_no_weight_of_a_whole_model_runs_to_its_bound() -> None:
    learner, batches = learner_of("weighting.kind=controller", "weighting.every=2", "weighting.lr=0.01")
    control, reached = learner.controller, 0.0
    assert control is not None
    for at in range(150):
        learner.train_step(batches.next(), progress=at / 150)
        reached = max(reached, *(abs(float(f.log())) for f in control.factors().values()))
    # One height at its bound and all others at the opposite one, with their mean taken off.
    assert 0.1 < reached < 0.9 * 2 * control.reach * (1 - 1 / len(control.groups))


HOMEOSTASIS_KEYS = {
    "warmup": 0, "hysteresis": 9, "coverage_freeze": 0.9, "coverage_unfreeze": 0.95, "plateau": 0.2, "patience": 2,
    "annealing": False, "annealing_step": 0.02, "coverage_floor": 0.99, "patience_ceiling": 5,
}  # fmt: skip


@pytest.mark.parametrize("key", HOMEOSTASIS_KEYS)
def test_every_key_of_the_homeostasis_matters(key: str) -> None:
    g = torch.Generator().manual_seed(3)
    noise = torch.rand(60, 2, generator=g)
    rows = [(0.9 + 0.1 * float(a), -0.6 - 0.05 * float(b), 0.01 * n) for n, (a, b) in enumerate(noise)]
    rows += [(0.97, -0.7, 1.0)] * 30 + rows + [(1.0, -0.7, 1.0)] * 30 + rows
    base = {"coverage_freeze": 0.92, "annealing": False} if key == "coverage_unfreeze" else {}
    plain, other = machine(**base), machine(**base, **{key: HOMEOSTASIS_KEYS[key]})
    assert (feed(plain, rows), plain.now) != (feed(other, rows), other.now)
