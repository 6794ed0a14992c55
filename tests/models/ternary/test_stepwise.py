"""The decoder that reads entry by entry: what it looks at, what teaches it, and that it learns to read small digits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from holonomy.core.config import resolve
from holonomy.core.errors import ConfigError
from holonomy.data.ternary_ops import OperationSpace
from holonomy.models.ternary.baseline import ClosedForm
from holonomy.models.ternary.config import TernaryConfig
from holonomy.models.ternary.learner import TernaryLearner
from holonomy.models.ternary.losses import CENTRES, LossContext, table_losses
from holonomy.models.ternary.model import TernaryVAE, build_model
from holonomy.models.ternary.stepwise import StepwiseDecoder

SMALL = (
    "data.digits=5",
    "data.extra_from_level=3",
    "model.latent_dim=3",
    "model.hidden=[32]",
    "model.decoder=stepwise",
)


def config(*overrides: str) -> TernaryConfig:
    return resolve(TernaryConfig, base=TernaryConfig(), base_origin="test", overrides=[*SMALL, *overrides]).config


def model() -> tuple[TernaryVAE, StepwiseDecoder]:
    vae = build_model(config(), OperationSpace(3, 5))
    assert isinstance(vae.decoder, StepwiseDecoder)
    return vae, vae.decoder


def test_an_entry_depends_on_the_entries_before_it_alone() -> None:
    _, decoder = model()
    g = torch.Generator().manual_seed(0)
    u, place = torch.randn(5, 3, generator=g), torch.arange(5)
    known = F.one_hot(torch.randint(3, (5, 5), generator=g), 3).float().requires_grad_()
    logits, _ = decoder.step(u, known, place)
    (seen,) = torch.autograd.grad(logits.square().sum(), known)
    for row in range(5):
        assert bool((seen[row, :row] != 0).any()) == (row > 0)
        assert not seen[row, row:].any()


def test_all_entries_are_those_of_the_guided_path_where_it_is_right() -> None:
    vae, decoder = model()
    g = torch.Generator().manual_seed(1)
    u = torch.randn(200, 3, generator=g)
    free = decoder(u)
    logits, place, _ = decoder.guided(u, free.argmax(-1), g)
    torch.testing.assert_close(free[torch.arange(200), place], logits)
    assert set(place.tolist()) == set(range(5))
    assert torch.equal(vae.decode(u), vae.space.tree.number(free.argmax(-1)))


def test_one_random_entry_stands_for_the_table_without_bias() -> None:
    vae, decoder = model()
    index = torch.randint(243, (2048,), generator=torch.Generator().manual_seed(0))
    table = vae.table_of(index)
    # Without noise on the points, the mean over many places is the sum over entries, each given the true ones.
    g = torch.Generator().manual_seed(2)
    known = F.one_hot(table.long(), 3).float()
    with torch.no_grad():
        out = vae(table, generator=g)
        places = [torch.full((2048,), k) for k in range(5)]
        steps = [decoder.step(out.A.u, known, p) for p in places]
    costs = torch.stack([F.cross_entropy(s[0], table[:, k].long(), reduction="none") for k, s in enumerate(steps)])
    off = torch.stack([s[1] for s in steps])
    row = torch.arange(2048)
    assert out.place is not None
    wanted = 5 * costs[out.place, row] + CENTRES * off[out.place, row]
    torch.testing.assert_close(table_losses(out, table), wanted)
    whole = float((costs.sum(0) + CENTRES * off.mean(0)).mean())
    assert float(table_losses(out, table).mean()) == pytest.approx(whole, rel=0.05)
    assert torch.bincount(out.place, minlength=5).float() == pytest.approx(2048 / 5, rel=0.2)


def test_centres_pull_no_point() -> None:
    _, decoder = model()
    u = torch.randn(7, 3, generator=torch.Generator().manual_seed(3), requires_grad=True)
    known = torch.zeros(7, 5, 3)
    _, off = decoder.step(u, known, torch.zeros(7, dtype=torch.long))
    off.sum().backward()
    assert u.grad is None
    assert decoder.centre.weight.grad is not None
    assert decoder.log_scale.grad is not None
    assert decoder.log_scale.grad[0] != 0


def test_it_reads_small_digits_sooner_than_a_plain_decoder() -> None:
    """Points of the closed form on three axes, where the last digit moves a point by a hundredth of the first."""
    space = OperationSpace(3, 5)
    u = ClosedForm(space, ratio=0.3, scale=3.0, dimension=3).embed(space.index).float()
    right = {}
    for kind in ("stepwise", "gated"):
        settings = [*SMALL, f"model.decoder={kind}", "model.decoder_hidden=32"]
        c = resolve(TernaryConfig, base=TernaryConfig(), base_origin="test", overrides=settings).config
        vae = build_model(c, space)
        points, table = u, space.table.long()
        optimiser, g = torch.optim.Adam(vae.decoder.parameters(), lr=5e-3), torch.Generator().manual_seed(0)
        for at in range(400):
            optimiser.param_groups[0]["lr"] = 5e-3 * (1 - at / 400)
            if isinstance(vae.decoder, StepwiseDecoder):
                # Five places a table: as many as the other decoder is taught at once.
                logits, place, off = vae.decoder.guided(points.repeat(5, 1), table.repeat(5, 1), g)
                loss = F.cross_entropy(logits, table.repeat(5, 1).gather(1, place[:, None])[:, 0]) + 0.1 * off.mean()
            else:
                loss = F.cross_entropy(vae.decoder(points).flatten(0, 1), table.flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        right[kind] = float((vae.decode(points) == space.index).double().mean())
    # In as many updates, more than twice as many tables.
    assert right["stepwise"] > 0.6
    assert right["stepwise"] > 2 * right["gated"]


def test_losses_of_all_entries_are_refused() -> None:
    for name, more in (("entropy", ()), ("align", ("model.sharing=separate",))):
        with pytest.raises(ConfigError, match=r"offers no logits"):
            TernaryLearner(config(f"loss.{name}.weight=1", *more), OperationSpace(3, 5))


def test_importance_weights_apply_to_it() -> None:
    vae, _ = model()
    index = torch.arange(50)
    out = vae(vae.table_of(index), generator=torch.Generator().manual_seed(0))
    learner = TernaryLearner(config("loss.reconstruction.unbiased=true"), vae.space)
    weight = torch.rand(50, generator=torch.Generator().manual_seed(1))
    context = LossContext(vae.space, index, torch.Generator(), weight)
    found = learner.stack.terms["reconstruction"](out, context).value
    costs = table_losses(out, vae.table_of(index))
    torch.testing.assert_close(found, (weight * costs).sum() / weight.sum())
