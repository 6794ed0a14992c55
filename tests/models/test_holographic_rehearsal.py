"""A pool rehearses the end of its text: what it keeps is that of following it by hand, and memories are as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from holonomy.core.errors import CheckpointError
from holonomy.data.text import load_text
from holonomy.data.words import WordSplit, split_characters
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.following import Multiplied, following_of
from holonomy.models.holographic.metrics import predict
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.storage import REHEARSED, load_into, state_of
from holonomy.recipes import holographic_chars

ONE = np.zeros(1, dtype=np.int64)
VALUES = holographic_chars().model.model_dump()


def config_with(share: float, *, follow: bool = True) -> HolographicConfig:
    mixture = {**VALUES["mixture"], "positions": 1500, "rehearsal": share}
    return HolographicConfig.model_validate({**VALUES, "mixture": mixture, "evaluation": {"follow": follow}})


def learned(share: float, split: WordSplit, *, follow: bool = True) -> HolographicModel:
    model = HolographicModel(config_with(share, follow=follow), split.tokenizer)
    model.learn_text(split.train)
    model.fit(split.train)
    return model


@pytest.fixture(scope="module")
def split() -> WordSplit:
    return split_characters(load_text("pydoc").text[:20_000], unk=True)


@pytest.fixture(scope="module")
def rehearsed(split: WordSplit) -> HolographicModel:
    return learned(0.4, split)


@pytest.fixture(scope="module")
def plain(split: WordSplit) -> HolographicModel:
    return learned(0.0, split)


def grams(model: HolographicModel) -> list[np.ndarray]:
    return [part for g in model.memories.grams for n in range(1, g.trie.order + 1) for part in g.trie.grams(n)]


def text_of(split: WordSplit) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.concatenate([split.train, split.test])
    return tokens, np.arange(len(split.train), len(tokens))


def test_what_is_kept_is_that_of_following_by_hand(
    split: WordSplit, rehearsed: HolographicModel, plain: HolographicModel
) -> None:
    assert plain.mixture.rehearsed is None and rehearsed.mixture.rehearsed is not None
    assert all(np.array_equal(a, b) for a, b in zip(grams(rehearsed), grams(plain), strict=True))
    tokens, positions = text_of(split)
    assert np.array_equal(predict(rehearsed, tokens, positions).losses, predict(plain, tokens, positions).losses)
    begin, pool = len(split.train) - int(0.4 * len(split.train)), plain.mixture.pool
    assert pool is not None
    before = HolographicModel(plain.config, split.tokenizer)
    before.learn_text(split.train[:begin])
    follows = Multiplied(before.memories, pool)
    for at in range(begin, len(split.train), 64):
        places = np.arange(at, min(at + 64, len(split.train)))
        contexts = of_text(split.train, ONE, places)
        follows.log_probs(before.memories.read(contexts), split.train[places])
        follows.step()
        before.change(contexts, split.train[places], sign=1)
    for name, array in follows.state().items():
        assert np.allclose(array, rehearsed.mixture.rehearsed[name], rtol=1e-4, atol=1e-6), name
    assert np.abs(follows.state()["weights/table0"]).max() > 1e-3


def test_learning_while_reading_goes_on_from_there(
    split: WordSplit, rehearsed: HolographicModel, plain: HolographicModel
) -> None:
    tokens, positions = text_of(split)
    kept = rehearsed.mixture.rehearsed
    assert kept is not None
    before = {name: array.copy() for name, array in kept.items()}
    online = predict(rehearsed, tokens, positions, online=True)
    assert all(np.array_equal(kept[name], array) for name, array in before.items())
    assert np.array_equal(predict(rehearsed, tokens, positions, online=True).losses, online.losses)
    assert online.losses.mean() < predict(plain, tokens, positions, online=True).losses.mean()
    follows = following_of(rehearsed.memories, rehearsed.mixture)
    assert isinstance(follows, Multiplied)
    assert all(np.array_equal(kept[name], array) for name, array in follows.state().items())
    assert torch.allclose(
        follows.log_probs(rehearsed.memories.read(of_text(tokens, ONE, positions[:64])), tokens[positions[:64]])
        .exp()
        .sum(1),
        torch.ones(64),
        atol=1e-5,
    )


def test_it_is_stored_and_earlier_checkpoints_have_none(split: WordSplit, rehearsed: HolographicModel) -> None:
    state, fresh = state_of(rehearsed), HolographicModel(rehearsed.config, split.tokenizer)
    load_into(fresh, state)
    kept, found = rehearsed.mixture.rehearsed, fresh.mixture.rehearsed
    assert kept is not None and found is not None and set(kept) == set(found)
    assert all(np.array_equal(kept[name], found[name]) for name in kept)
    load_into(fresh, {k: v for k, v in state.items() if not k.startswith(REHEARSED)})
    assert fresh.mixture.rehearsed is None
    name = f"{REHEARSED}weights/moved"
    for damage in ({}, {name: torch.full_like(state[name], torch.nan)}, {name: torch.zeros(2, 2)}):
        with pytest.raises(CheckpointError, match="weights/moved"):
            load_into(fresh, {k: v for k, v in state.items() if k != name} | damage)


def test_nothing_is_rehearsed_where_nothing_follows(split: WordSplit) -> None:
    assert learned(0.4, split, follow=False).mixture.rehearsed is None


def test_an_interrupted_rehearsal_leaves_memories_as_they_were(
    split: WordSplit, plain: HolographicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = HolographicModel(config_with(0.4), split.tokenizer)
    model.learn_text(split.train)
    model.mixture = replace(plain.mixture)
    steps, step = [0], Multiplied.step

    def interrupted(self: Multiplied) -> None:
        steps[0] += 1
        if steps[0] == 21:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Multiplied, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.rehearse(of_text(split.train, ONE), split.train)
    assert model.mixture.rehearsed is None and steps[0] == 21
    assert all(np.array_equal(a, b) for a, b in zip(grams(model), grams(plain), strict=True))
