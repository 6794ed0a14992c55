"""A sleep shrinks a model and loses nothing; what it is asked to drop stays where that would cost too much."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.data.text import load_text
from holonomy.data.words import WordSplit, split_words
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.metrics import predict
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.sleep import sleep
from holonomy.models.holographic.storage import load_into, state_of

CONFIG = {"tower": {"role": "off"}, "similarity": {"dim": 32}, "mixture": {"blocks": 2, "product_steps": 8}}


def learned(text: str, **changes: object) -> tuple[HolographicModel, WordSplit]:
    split = split_words(text)
    model = HolographicModel(HolographicConfig.model_validate(CONFIG | changes), split.tokenizer)
    model.learn_text(split.train)
    model.fit(split.train)
    return model, split


def test_ten_sleeps_lose_nothing() -> None:
    tower = {"levels": 4, "channels": 4, "top_digits": {2: 4, 3: 4, 4: 4}}
    model, split = learned(load_text("pydoc").text[:60_000], tower=tower)
    assert model.mirror is not None
    whole, held = np.concatenate([split.train, split.test]), len(split.train) + np.arange(len(split.test))
    contexts = of_text(whole, np.zeros(1, np.int64), np.arange(0, len(whole), 7))

    def told() -> list[np.ndarray]:
        assert model.mirror is not None
        said = [predict(model, whole, held).losses, model.distributions(contexts).numpy()]
        for order in (2, 3, 4):
            state, _ = model.mirror.settled(contexts, order)
            said += [state.tokens.numpy(), state.counts.numpy(), state.residual.numpy()]
        return [*said, model.mirror.distribution(contexts, model.memories.counts)]

    before, state, bindings = told(), state_of(model), model.mirror.tower.crosstalk()
    report = sleep(model, split.train)
    assert report.kept and report.dropped == 0 and report.loss_before is None
    assert report.bytes_after == sum(model.stats().values()) <= 0.5 * report.bytes_before
    rest = state_of(model)
    for _ in range(9):
        again = sleep(model, split.train)
        assert again.bytes_before == again.bytes_after == report.bytes_after
    assert all(np.array_equal(a, b) for a, b in zip(before, told(), strict=True))
    assert model.mirror.tower.crosstalk() == pytest.approx(bindings, rel=1e-12)
    assert all(torch.equal(v, state_of(model)[k]) for k, v in rest.items() if isinstance(v, torch.Tensor))
    # What was written comes back as it was read, and unlearning still restores every number.
    woken = HolographicModel(model.config, split.tokenizer)
    load_into(woken, rest)
    assert woken.stats() == model.stats()
    for each in (woken, model):
        each.learn_text(split.test)
        each.unlearn_text(split.test)
    assert all(np.array_equal(a, b) for a, b in zip(before, told(), strict=True))
    assert woken.mirror is not None and torch.equal(woken.mirror.tower.store, state["tower/store"])
    # A damaged store is refused.
    for name, change in (("number", 1), ("small", 0), ("large", 0)):
        tensor = rest[f"tower/{name}"]
        assert isinstance(tensor, torch.Tensor)
        wrong = tensor + change if change else tensor[:, :1]
        with pytest.raises(CheckpointError, match="tower"):
            load_into(woken, rest | {f"tower/{name}": wrong})


@pytest.mark.parametrize("bound", [0.0, 10.0])
def test_bindings_are_as_before_whether_grams_go_or_stay(bound: float) -> None:
    """The trial unlearns pieces of the text: its bindings come back with everything else."""
    tower = {"levels": 3, "channels": 1, "top_digits": {2: 4, 3: 4, 4: 4}}
    model, split = learned(load_text("pydoc").text[:20_000] * 2, tower=tower)
    assert model.mirror is not None
    store, load = (model.mirror.tower.state()[name].clone() for name in ("store", "load"))
    report = sleep(model, split.train, least=3, bound=bound)
    assert report.kept == (bound > 0)
    assert model.mirror is not None
    model.mirror.tower.unpack()
    assert torch.equal(model.mirror.tower.state()["store"], store)
    assert torch.equal(model.mirror.tower.state()["load"], load)


def test_dropping_pays_or_is_undone() -> None:
    model, split = learned(load_text("pydoc").text[:80_000])
    places, probe = np.arange(len(split.test)), split.test[None, :50]
    before = model.next_log_probs(probe)
    # This text repeats passages word by word: what occurred once is worth a lot.
    refused = sleep(model, split.train, least=2, bound=0.0)
    assert refused.loss_before is not None and refused.loss_after is not None
    assert not refused.kept and refused.dropped == 0 and refused.loss_after > refused.loss_before
    assert torch.equal(before, model.next_log_probs(probe))
    report = sleep(model, split.train, least=2, bound=5.0)
    assert report.kept and report.dropped > 1000 and report.lowest == 3
    assert report.bytes_after <= 0.7 * report.bytes_before
    assert report.loss_before is not None and report.loss_after is not None
    assert report.loss_after <= report.loss_before + np.log1p(5.0)
    slept = predict(model, split.test, places).losses.mean()
    again = sleep(model, split.train, least=2)
    assert again.kept and again.dropped == 0
    assert abs(predict(model, split.test, places).losses.mean() - slept) < 1e-6
    with pytest.raises(ConfigError, match="tokens"):
        sleep(model, split.train[:1])


def test_ten_sleeps_that_drop_keep_what_was_seen_twice() -> None:
    split = split_words(" ".join(load_text("pydoc").text.split()[:6_000]))
    model = HolographicModel(HolographicConfig.model_validate(CONFIG), split.tokenizer)
    text = np.concatenate([split.train, split.train[:2000]])
    model.learn_text(text)
    model.fit(text)
    twice = np.arange(5, 2000)

    def recalled() -> float:
        return float((predict(model, text, twice).ranks == 1).mean())

    first = recalled()
    for _ in range(10):
        sleep(model, text, least=2, bound=1.0)
    assert recalled() >= 0.99 * first > 0.5


def test_probability_of_dropped_grams_goes_to_shorter_contexts() -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(0, 8, 3000)
    trie, pruned = CountTrie(4, 8), CountTrie(4, 8)
    symbols = np.stack([tokens[i : i + 3] for i in range(len(tokens) - 3)])
    pairs = Pairs(symbols, np.full(len(symbols), 3), tokens[3:], np.ones(len(symbols), np.int64))
    trie.learn(pairs)
    pruned.learn(pairs)
    assert pruned.prune(2, lowest=4) == int((trie.grams(4)[1] == 1).sum())
    contexts, lengths = symbols[:200], np.full(200, 3)
    whole, less = trie.find(contexts, lengths), pruned.find(contexts, lengths)
    counts, raw, _ = trie.grams(4)
    occurred = {tuple(gram): int(n) for gram, n in zip(counts.tolist(), raw.tolist(), strict=True)}
    shorter = trie.dense(np.where(np.arange(4) < 3, whole, -1).astype(np.int32))
    taken = trie.taken[3]
    for row, found in enumerate(pruned.dense(less)):
        own = np.array([occurred.get((*contexts[row].tolist(), w), 0) for w in range(8)])
        total, kept = own.sum(), own >= 2
        share = np.where(kept, own - taken[np.minimum(own, 3)], 0) / total
        wanted = share + (1 - share.sum()) * shorter[row]
        assert np.abs(found - wanted).max() < 1e-6
    assert pruned.cut_off and not trie.cut_off
    again = CountTrie(4, 8)
    again.load_state(pruned.state())
    assert np.array_equal(again.dense(again.find(contexts, lengths)), pruned.dense(less))
