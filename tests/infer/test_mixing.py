"""Mixtures of language models: fixed share by hand, one path for all protocols, weights that pay."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from holonomy.core.errors import ConfigError, DataError
from holonomy.data.tokenizer import CharTokenizer
from holonomy.infer.mixing import EXCHANGE, REACH, MixedModel, Pooling, even_gate, fitted_gate, num_clues, read_through
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session, generate, generate_batch
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.model import HolographicModel
from holonomy.recipes.mixture import Passage, scored

TOKENIZER = CharTokenizer.from_text("abcd")
PLAIN = {
    "tower": {"role": "off"},
    "counts": {"order": 3, "skips": [], "classes": []},
    "mixture": {"product": "none", "positions": 200, "blocks": 1},
    "similarity": {"dim": 16},
}


class Table:
    """Says the same after each token, whatever stood before: a model whose mixtures can be reckoned by hand."""

    tokenizer = TOKENIZER
    context_limit = None

    def __init__(self, rows: torch.Tensor) -> None:
        self.logs = rows.log_softmax(1)

    def start(self, batch: int) -> None:
        return None

    def advance(self, ids: torch.Tensor, state: None):
        return self.logs[ids], state

    def log_probs(self, ids: torch.Tensor) -> torch.Tensor:
        return self.logs[ids]

    def prefill(self, ids: torch.Tensor, state: None):
        return self.logs[ids[:, -1]], state

    def step(self, ids: torch.Tensor, state: None):
        return self.logs[ids], state


def tables(seed: int = 0) -> list[Table]:
    made = torch.Generator().manual_seed(seed)
    return [Table(2 * torch.randn(4, 4, generator=made)) for _ in range(2)]


def by_hand(members: list[Table], ids: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """Fixed shares and the weights of the shares, token by token in plain numbers."""
    inner, outer, out = [np.full(2, 0.5) for _ in shares], np.full(len(shares), 1 / len(shares)), []
    for t, token in enumerate(ids):
        if t:
            p = np.array([float(m.logs[ids[t - 1], token].exp()) for m in members])
            said = np.array([w @ p for w in inner])
            outer = (1 - EXCHANGE) * outer * said / (outer @ said) + EXCHANGE / len(shares)
            inner = [(1 - s) * w * p / (w @ p) + s / 2 for w, s in zip(inner, shares, strict=True)]
        rows = np.stack([m.logs[token].exp().numpy() for m in members])
        out.append(sum(v * w for v, w in zip(outer, inner, strict=True)) @ rows)
    return np.log(np.array(out))


def test_weights_follow_by_fixed_share() -> None:
    members, ids = tables(), np.random.default_rng(1).integers(0, 4, 50)
    for shares in ((0.05,), (0.5, 0.1, 0.01)):
        found = MixedModel(members, shares=shares).log_probs(torch.from_numpy(ids)[None])[0]
        assert np.abs(found.numpy() - by_hand(members, ids, shares)).max() < 1e-5


@pytest.mark.parametrize("pool", ["linear", "geometric"])
def test_a_member_that_is_never_right_costs_little(pool: Pooling) -> None:
    good = tables()[0]
    wrong, random, ids = Table(good.logs.roll(1, 1) * 3), np.random.default_rng(4), [0]
    for _ in range(3000):
        ids.append(int(random.choice(4, p=good.logs[ids[-1]].double().softmax(0).numpy())))
    tokens = np.array(ids)
    alone = float(-good.logs[tokens[:-1]].gather(1, torch.from_numpy(tokens[1:, None])).mean())
    both = read_through(MixedModel([good, wrong], pool=pool), tokens[:1], tokens[1:], block=500).losses.mean()
    assert alone < both < alone + 0.03


@pytest.mark.parametrize("pool", ["linear", "geometric"])
def test_every_way_to_read_gives_the_same_numbers(pool: Pooling) -> None:
    model = MixedModel(tables(), pool=pool)
    ids = torch.from_numpy(np.random.default_rng(2).integers(0, 4, (3, 200)))
    whole = model.log_probs(ids)
    assert torch.allclose(whole.exp().sum(-1), torch.ones(3, 200), atol=1e-5)
    state, parts = model.start(3), []
    for part in ids.split([1, 70, 129], 1):
        logs, state = model.advance(part, state)
        parts.append(logs)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-6)
    ahead, state = model.prefill(ids[:, :150], model.start(3))
    assert torch.allclose(ahead, whole[:, 149], atol=1e-4)
    for t in range(150, 155):
        ahead, state = model.step(ids[:, t], state)
        assert torch.allclose(ahead, whole[:, t], atol=1e-4)
    panels = list(model.panels(ids[0, :1].numpy(), ids[0, 1:].numpy(), block=64))
    assert [len(p.targets) for p in panels] == [64, 64, 64, 7]
    said = torch.cat([p.said for p in panels])
    assert torch.allclose(said, whole[0, :-1], atol=1e-6)


def test_a_mixture_and_its_fitted_gate_pay() -> None:
    # The first member knows what follows a and b, the second what follows c and d: a gate can tell by their doubt.
    sharp = torch.log(torch.full((4, 4), 0.05) + 0.8 * torch.eye(4).roll(1, 1))
    flat, first = torch.zeros(4, 4), torch.tensor([True, True, False, False])[:, None]
    members = [Table(torch.where(first, sharp, flat)), Table(torch.where(first, flat, sharp))]
    random, ids = np.random.default_rng(3), [0]
    for _ in range(4000):
        ids.append(int(random.choice(4, p=sharp[ids[-1]].double().softmax(0).numpy())))
    tokens = np.array(ids)
    alone = [
        float(-m.log_probs(torch.from_numpy(tokens)[None])[0, :-1].gather(1, torch.from_numpy(tokens[1:, None])).mean())
        for m in members
    ]
    even = MixedModel(members)
    loss = read_through(even, tokens[:1], tokens[1:], block=100).losses.mean()
    assert loss < min(alone) - 0.05
    product = read_through(MixedModel(members, pool="geometric"), tokens[:1], tokens[1:], block=100).losses.mean()
    assert product < loss - 0.02, "where one doubts, the other is sharper still"
    gate = fitted_gate(even.panels(tokens[:1], tokens[1:2000], block=100), prior=1.0)
    better = read_through(MixedModel(members, gate), tokens[1999:2000], tokens[2000:], block=100).losses.mean()
    plain = read_through(even, tokens[1999:2000], tokens[2000:], block=100).losses.mean()
    assert better < plain - 0.05
    assert gate.weights.shape == (num_clues(2), 2)
    assert np.allclose(even_gate(2)(np.array([[1.0, *np.log([0.3, 0.7]), 5, 5, 5, 5, 5]])), [[0.3, 0.7]])


def test_exponents_begin_with_the_text_and_forget_what_a_long_prompt_began_with() -> None:
    # Shares that forget at once leave nothing but exponents to remember by.
    model, random = MixedModel(tables(), shares=(0.9999,), pool="geometric"), np.random.default_rng(6)
    before, text = random.integers(0, 4, 300), random.integers(0, 4, 100)
    (panel,) = model.panels(before, text, block=100)
    (alone,) = model.panels(before[-2:], text, block=100)
    assert torch.allclose(panel.said, alone.said, atol=1e-3), "members may know what stands before"
    read = model.advance(torch.from_numpy(np.concatenate([before, text[:-1]]))[None], model.start(1))[0]
    assert (read[0, 299:] - panel.said).abs().max() > 0.05
    ids = torch.from_numpy(random.integers(0, 4, (1, REACH + 200)))
    found, _ = model.prefill(ids, model.start(1))
    wanted, _ = model.prefill(ids[:, -REACH:], model.start(1))
    assert torch.equal(found, wanted)


def test_members_learn_between_blocks() -> None:
    model = HolographicModel(HolographicConfig.model_validate(PLAIN), TOKENIZER)
    model.learn_text(np.array([0, 1, 2, 3] * 5))
    mixed = MixedModel([model, tables()[0]])
    text, learned = np.array([3, 3, 0, 3, 3, 0] * 20), []
    before = read_through(mixed, np.array([0]), text, block=30)

    def learn(begin: int, end: int) -> None:
        model.learn_text(text[begin:end])
        learned.append((begin, end))

    after = read_through(mixed, np.array([0]), text, block=30, learn=learn)
    assert learned == [(0, 30), (30, 60), (60, 90), (90, 120)]
    assert np.allclose(after.losses[:30], before.losses[:30])
    assert after.losses[30:].mean() < before.losses[30:].mean() - 0.1


def narrow(seed: int, window: int) -> HolographicModel:
    """Characters with a working memory of a few, so that prompts are soon longer than what is used."""
    recency = {"traces": [[0, window, 9.0], [2, window, 20.0]]}
    model = HolographicModel(HolographicConfig.model_validate(PLAIN | {"recency": recency}), TOKENIZER)
    model.learn_text(np.random.default_rng(seed).choice(4, 2000, p=[0.1, 0.2, 0.3, 0.4]))
    return model


@pytest.mark.parametrize("mixed", [False, True])
def test_of_long_prompts_the_end_counts_and_that_is_said_once(mixed: bool, caplog: pytest.LogCaptureFixture) -> None:
    alone = narrow(0, 40)
    model = MixedModel([alone, narrow(1, 30)]) if mixed else alone
    limit, warm = model.context_limit, Sampling(temperature=1.0)
    assert limit is not None and limit == alone.context_limit and 40 <= limit < 60
    letters = np.random.default_rng(2).choice(list("abcd"), 100)
    prompts = ["".join(letters[:80]), "".join(letters), "abc"]
    with caplog.at_level(logging.WARNING, logger="holonomy"):
        batched = generate_batch(model, prompts, sampling=warm, max_tokens=60, seed=3)
        assert [r.getMessage() for r in caplog.records] == [
            f"a text to continue has 100 tokens, of which the model uses the last {limit}"
        ]
        caplog.clear()
        for n, prompt in enumerate(prompts):
            assert "".join(generate(model, prompt, sampling=warm, max_tokens=60, seed=3 + n)) == batched[n].text
        assert [r.args for r in caplog.records] == [(80, limit), (100, limit)]
        caplog.clear()
        session = Session(model, warm, seed=4)
        session.feed(prompts[0][:limit])
        assert not caplog.records
        for _ in range(3):
            session.feed("a")
            "".join(session.reply(max_tokens=2))
        assert [r.args for r in caplog.records] == [(limit + 1, limit)]
    if not mixed:
        # Nothing before the end has a say.
        other = "".join(np.random.default_rng(5).choice(list("abcd"), 70)) + prompts[1][-limit:]
        assert "".join(generate(model, other, sampling=warm, max_tokens=60, seed=4)) == batched[1].text


def test_a_mixture_uses_what_its_members_use() -> None:
    few, more = narrow(0, 30), narrow(1, 40)
    assert few.context_limit != more.context_limit == MixedModel([few, more]).context_limit
    assert MixedModel([few, tables()[0]]).context_limit is None


def test_figures_of_a_mixture_say_whether_its_members_were_fitted() -> None:
    member, text = narrow(0, 30), np.random.default_rng(0).choice(4, 2000, p=[0.1, 0.2, 0.3, 0.4])
    mixed, passage = MixedModel([tables()[0], member]), Passage(text[:1], text[1:300])
    for fitted in (0, 1):
        if fitted:
            member.fit(text)
        for mode, name in (("static", "val/calibrated"), ("online", "val/calibrated_online")):
            assert scored(mixed, passage, None, mode=mode, block=64)[name] == fitted


def test_wrong_mixtures_are_refused() -> None:
    foreign = Table(torch.zeros(4, 4))
    foreign.tokenizer = CharTokenizer.from_text("abcde")
    with pytest.raises(ConfigError, match="vocabularies"):
        MixedModel([foreign, *tables()])
    with pytest.raises(ConfigError, match="two or more"):
        MixedModel(tables()[:1])
    with pytest.raises(ConfigError, match="shares"):
        MixedModel(tables(), shares=(0.1, 1.0))
    with pytest.raises(ConfigError, match="linear, geometric"):
        MixedModel(tables(), pool="harmonic")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="before"):
        list(MixedModel(tables()).panels(np.array([], dtype=np.int64), np.array([1]), block=4))
    with pytest.raises(DataError, match="no text"):
        fitted_gate([], prior=1.0)
