"""Grokking is found where it is and nowhere else; uncertainties are what they are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holonomy.core.config import resolve
from holonomy.core.errors import ConfigError
from holonomy.data.ternary_ops import OperationSpace
from holonomy.models.ternary.config import TernaryConfig
from holonomy.models.ternary.grokking import change_point, find_grokking, grokking_figures
from holonomy.models.ternary.model import TernaryVAE, build_model
from holonomy.models.ternary.uncertainty import (
    ConformalSets,
    doubt,
    dropout_probabilities,
    ensemble_doubt,
    ensemble_probabilities,
    entry_probabilities,
    split_entropy,
)


def model(*overrides: str, digits: int = 5) -> TernaryVAE:
    small = ["data.extra_from_level=3", "model.latent_dim=6", "model.hidden=[32]"]
    settings = [f"data.digits={digits}", *small, *overrides]
    c = resolve(TernaryConfig, base=TernaryConfig(), base_origin="t", overrides=settings).config
    return build_model(c, OperationSpace(3, digits)).eval()


def test_change_point_by_brute_force() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        x = random.normal(size=17)
        costs = [((x[:n] - x[:n].mean()) ** 2).sum() + ((x[n:] - x[n:].mean()) ** 2).sum() for n in range(1, 17)]
        assert change_point(x.tolist()) == int(np.argmin(costs)) + 1


@pytest.mark.parametrize("at", [30, 60, 85])
def test_a_late_jump_is_found_where_it_is(at: int) -> None:
    random = np.random.default_rng(at)
    steps = np.arange(120)
    train = np.minimum(1, steps / 10)
    held_out = 0.1 + 0.85 / (1 + np.exp(-(steps - at) / 1.5)) + 0.02 * random.normal(size=120)
    found = find_grokking(train.tolist(), held_out.tolist())
    assert found is not None
    assert abs(found.at - at) <= 20
    assert found.delay == found.at - 10
    assert found.slope > 0.02


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_found_where_nothing_jumps(seed: int) -> None:
    random = np.random.default_rng(seed)
    steps = np.arange(120)
    noise = 0.03 * random.normal(size=120)
    controls = [
        (np.minimum(1, steps / 10), np.minimum(0.95, steps / 12) + noise),  # generalises at once
        (np.minimum(1, steps / 10), 0.1 + 0.8 * steps / 120 + noise),  # climbs steadily
        (np.minimum(1, steps / 10), 0.1 + noise),  # never generalises
        (0.7 * np.minimum(1, steps / 10), 0.1 + 0.5 * (steps > 60) + noise),  # jumps, but never learnt its data
    ]
    train, held_out = controls[seed % 4]
    assert find_grokking(train.tolist(), held_out.tolist()) is None


def modular_addition(*, shuffled: bool, updates: int = 360) -> tuple[list[float], list[float]]:
    """Accuracies, after each full-batch update, of a net with squares that learns a + b mod 97 from two fifths of all.

    Args:
        shuffled: sums in random order, which can be learnt by heart only.
        updates: how many.
    """
    p, width, g = 97, 256, torch.Generator().manual_seed(0)
    a, b = (x.flatten() for x in torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij"))
    order = torch.randperm(p * p, generator=g)
    known, unseen = order[: int(0.4 * p * p)], order[-1000:]
    inward = torch.nn.Parameter(0.25 * torch.randn(2, p, width, generator=g))
    outward = torch.nn.Parameter(torch.randn(width, p, generator=g) / width**0.5)
    sums = (a + b) % p
    if shuffled:
        sums = sums[torch.randperm(p * p, generator=g)]
    optimiser = torch.optim.AdamW([inward, outward], lr=0.01, weight_decay=0.5, betas=(0.9, 0.98))

    def answers(i: torch.Tensor) -> torch.Tensor:
        return (inward[0][a[i]] + inward[1][b[i]]).square() @ outward

    wanted, series = torch.nn.functional.one_hot(sums[known], p).float(), ([], [])
    for _ in range(updates):
        optimiser.zero_grad()
        (answers(known) - wanted).square().mean().backward()
        optimiser.step()
        with torch.no_grad():
            for part, found in zip((known, unseen), series, strict=True):
                found.append((answers(part).argmax(-1) == sums[part]).double().mean().item())
    return series


@pytest.mark.slow
def test_modular_addition_is_seen_to_jump() -> None:
    """Nets with squares grok it (Gromov 2023)."""
    train, held_out = modular_addition(shuffled=False)
    jump = next(at for at, share in enumerate(held_out) if share >= 0.5)
    assert held_out[jump - 40] < 0.1 and train[jump - 20] >= 0.99
    found = find_grokking(train, held_out)
    assert found is not None
    assert abs(found.at - jump) <= 20
    train, held_out = modular_addition(shuffled=True)
    assert train[-1] >= 0.99 and max(held_out) < 0.1
    assert find_grokking(train, held_out) is None


def test_dropout_and_ensembles_disagree_only_where_they_should() -> None:
    sure, unsure = model(), model("model.encoder_dropout=0.5")
    index = torch.arange(20)
    with pytest.raises(ConfigError, match="no dropout"):
        dropout_probabilities(sure, index, samples=3)
    before = torch.get_rng_state()
    p = dropout_probabilities(unsure, index, samples=30)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(p, dropout_probabilities(unsure, index, samples=30))
    assert not unsure.training
    total, disagreement = split_entropy(p)
    assert (disagreement > 0).all()
    assert (total >= disagreement).all()
    same, nothing = split_entropy(entry_probabilities(sure, index).expand(4, -1, -1, -1))
    assert nothing.abs().max() < 1e-6
    assert (same > 0).all()
    different = ensemble_probabilities([model(), model("train.seed=1")], index)
    assert float(split_entropy(different)[1].mean()) > 1e-5
    for members, words in (([sure], "at least 2"), ([sure, model(digits=4)], "share base and digits")):
        with pytest.raises(ConfigError, match=words):
            ensemble_probabilities(members, index)


@pytest.mark.parametrize("miss", [0.05, 0.2])
def test_conformal_sets_hold_the_truth_at_the_promised_rate(miss: float) -> None:
    g = torch.Generator().manual_seed(1)
    # A badly calibrated model: logits of the truth are barely larger, then all are blown up.
    table = torch.randint(3, (4_000, 5), generator=g)
    logits = torch.randn(4_000, 5, 3, generator=g) + torch.nn.functional.one_hot(table, 3)
    p = (4 * logits).softmax(-1)
    sets = ConformalSets(p[:2_000], table[:2_000], miss=miss).sets(p[2_000:])
    held = sets.gather(-1, table[2_000:, :, None]).double().mean()
    assert float(held) == pytest.approx(1 - miss, abs=0.02)
    with pytest.raises(ConfigError, match="takes at least 100"):
        ConformalSets(p[:10], table[:10], miss=0.01)
    with pytest.raises(ConfigError, match="`miss`"):
        ConformalSets(p, table, miss=0.0)


def test_doubt_is_measured_on_what_did_not_calibrate() -> None:
    index = torch.arange(240)
    plain, unsure = doubt(model(), index), doubt(model("model.encoder_dropout=0.5"), index)
    assert set(unsure) - set(plain) == {"disagreement"}
    assert unsure["disagreement"] > 1e-4
    # Untrained, nothing short of all values holds 99 of 100 true ones.
    assert plain["set_size"] > 2.5
    assert plain["set_coverage"] > 0.97
    fixed = model()
    last = fixed.decoder.body[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    assert doubt(fixed, index)["entropy"] == pytest.approx(np.log(3), rel=1e-6)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([9.0, 0.0, 0.0]).repeat(5))
    # A model that is sure of the first value is wrong two times in three, and its sets say so.
    wrong = doubt(fixed, index)
    assert wrong["entropy"] < 0.01
    assert wrong["set_size"] > 2.5
    with pytest.raises(ConfigError, match="takes at least"):
        doubt(fixed, torch.arange(8))


def test_an_ensemble_is_judged_by_the_mean_of_its_members() -> None:
    index = torch.arange(100, 160)
    first, second = model(), model("train.seed=1")
    found = ensemble_doubt([first, second], index)
    p = torch.stack([first(first.table_of(index)).logits, second(first.table_of(index)).logits]).softmax(-1)
    mean = p.detach().double().mean(0).numpy()
    assert found["ensemble_entropy"] == pytest.approx(-(mean * np.log(mean)).sum(-1).mean(), rel=1e-5)
    right = (mean.argmax(-1) == first.table_of(index).numpy()).all(-1)
    assert found["ensemble_coverage"] == right.mean()
    assert found["ensemble_disagreement"] > 1e-4
    twice = ensemble_doubt([first, first], index)
    assert twice["ensemble_disagreement"] == pytest.approx(0, abs=1e-6)


def test_delayed_generalisation_is_found_in_coverages() -> None:
    unseen = [0.1] * 12 + [0.6] + [1.0] * 12
    # Coverage of all 100 operations, of which 40 are withheld and the others known from the third evaluation on.
    known = [0.2, 0.6] + [1.0] * 23
    both = [0.6 * a + 0.4 * b for a, b in zip(known, unseen, strict=True)]
    found = grokking_figures(both, unseen, operations=100, withheld=40)
    assert found["grokking"] == 1
    assert found["grokking_at"] == pytest.approx(12, abs=1)
    assert found["grokking_delay"] == found["grokking_at"] - 2
    assert grokking_figures(known, known, operations=100, withheld=40) == {"grokking": 0.0}
    with pytest.raises(ConfigError, match=r"data\.holdout above 0"):
        grokking_figures(both, unseen, operations=100, withheld=0)
