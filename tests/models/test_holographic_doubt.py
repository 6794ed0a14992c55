"""How sure a model is on new text is known from the fit: shares that are held back are those that were asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from holonomy.core.errors import ConfigError
from holonomy.data.text import load_text
from holonomy.data.words import WordSplit, split_characters, split_words
from holonomy.infer.commitment import doubts, least_confidence
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.fit import APART, QUANTILES, Mixture, MixtureFit
from holonomy.models.holographic.mixture import Certainty
from holonomy.models.holographic.model import HolographicModel
from holonomy.recipes import holographic_chars

WORDS = HolographicConfig.model_validate(
    {
        "tower": {"role": "off"},
        "counts": {"classes": [8], "skips": [[1, 3]]},
        "similarity": {"dim": 16},
        "mixture": {"blocks": 2, "product_steps": 12, "em_steps": 40},
    }
)
CHARS = holographic_chars("pydoc").model


def learned(split: WordSplit, config: HolographicConfig) -> HolographicModel:
    model = HolographicModel(config, split.tokenizer)
    model.learn_text(split.train)
    return model


def chain(count: int, seed: int) -> str:
    """Words of a stationary source, some of them nearly certain after the last one, some not."""
    random, size = np.random.default_rng(seed), 60
    after, sure = np.random.default_rng(0).permutation(size), np.linspace(0.05, 0.95, size)
    found, last = list[str](), 0
    for _ in range(count):
        last = int(after[last]) if random.random() < sure[last] else int(random.integers(size))
        found.append(f"w{last}")
    return " ".join(found)


@pytest.fixture(scope="module")
def words() -> tuple[HolographicModel, WordSplit]:
    split = split_words(chain(16_000, 1), train_share=0.8)
    model = learned(split, WORDS)
    model.fit(split.train)
    return model, split


def spoken(logs: torch.Tensor, unspoken: tuple[int, ...]) -> torch.Tensor:
    """Probabilities of what can be said, by its share in all of it."""
    probs = logs.exp()
    probs[:, list(unspoken)] = 0
    return probs / probs.sum(1, keepdim=True)


def held_out(model: HolographicModel, split: WordSplit) -> tuple[torch.Tensor, np.ndarray]:
    whole = np.concatenate([split.train, split.test])
    places = np.arange(len(split.train), len(whole))
    return model.distributions(of_text(whole, np.zeros(1, np.int64), places)), whole[places]


def test_as_much_is_held_back_as_asked_and_what_is_left_is_better(words: tuple[HolographicModel, WordSplit]) -> None:
    model, split = words
    logs, targets = held_out(model, split)
    unspoken = split.tokenizer.unspoken
    right = spoken(logs, unspoken).argmax(1).numpy() == targets
    for share in (0.1, 0.2, 0.5):
        found = doubts(logs, least_confidence(model, Sampling(abstain=share)), unspoken)
        kept = np.array([doubt is None for doubt in found])
        assert abs((1 - kept.mean()) - share) < 0.04
        if share == 0.2:
            assert right[kept].mean() >= 1.15 * right.mean()


@pytest.mark.parametrize(("config", "chars"), [(WORDS, False), (CHARS, True)])
def test_the_fit_knows_how_sure_the_model_is(config: HolographicConfig, chars: bool) -> None:
    text = load_text("pydoc").text[: 30_000 if chars else 60_000]
    split = split_characters(text, unk=True) if chars else split_words(text)
    model = learned(split, config)
    model.consolidate(split.train)
    model.fit_apart(split.test)
    kept = model.mixture.confidences
    assert len(kept) == len(QUANTILES) and (np.diff(kept) >= 0).all()
    # Words are asked for in the last part alone, with a gate of the first; characters in both.
    first = 0 if chars else int(len(split.test) * APART)
    asked = model.distributions(of_text(split.test, np.zeros(1, np.int64), np.arange(first, len(split.test))))
    expected = np.quantile(spoken(asked, split.tokenizer.unspoken).max(1).values.numpy(), [0.2, 0.5, 0.8])
    assert np.abs(np.interp([0.2, 0.5, 0.8], QUANTILES, kept) - expected).max() < 0.04
    assert model.confidence_bound(0.2) == pytest.approx(np.interp(0.2, QUANTILES, kept))


@pytest.mark.parametrize("tempered", [True, False])
def test_confidences_are_of_what_can_be_said_after_the_correction(
    tempered: bool, words: tuple[HolographicModel, WordSplit]
) -> None:
    """Whether the first word, which is corrected, is one that is never written, or not."""
    model, split = words
    contexts, random = of_text(split.test, np.zeros(1, np.int64)), np.random.default_rng(3)
    fit = MixtureFit(model.memories, None, WORDS, contexts, split.test, unspoken=(0, 1))
    probs = random.dirichlet(np.full(12, 0.3), 400)
    # The first of all words is now one of these in a third of the cases.
    lifted = random.random(400) < 0.3
    probs[lifted, 0] += probs[lifted].max(1) + 0.1
    probs = (probs / probs.sum(1, keepdims=True)).astype(np.float32)
    came = np.where(random.random(400) < 0.4, probs.argmax(1), random.integers(0, 12, 400))
    certainty = Certainty.fit(probs.max(1), probs.argmax(1) == came) if tempered else None
    fit._said.append(fit._told(probs[:150], came[:150]))
    fit._said.append(fit._told(probs[150:], came[150:]))
    mixture = replace(Mixture.uniform(model.memories), certainty=certainty)
    whole = probs.copy() if certainty is None else certainty.corrected(probs.copy())
    said = whole[:, 2:].astype(np.float64)
    assert 0.2 < np.isin(probs.argmax(1), (0, 1)).mean() < 0.6
    assert np.allclose(fit._confidences(mixture), said.max(1) / said.sum(1), atol=1e-5)


def test_a_pool_knows_how_sure_it_is_of_its_own_panel() -> None:
    split = split_characters(load_text("pydoc").text[:30_000], unk=True)
    model, zero = learned(split, CHARS), np.zeros(1, np.int64)
    unspoken = split.tokenizer.unspoken
    fit = MixtureFit(model.memories, model.mirror, CHARS, of_text(split.train, zero), split.train, unspoken)
    mixture, found = fit.run(), list[np.ndarray]()
    assert mixture.pool is not None
    for block in fit.blocks:
        assert block.panel is not None
        scores = np.einsum("bc,bcv->bv", mixture.pool.scores(block.numbers), block.panel.astype(np.float64))
        said = np.delete(np.exp(scores), unspoken, 1)
        found.append(said.max(1) / said.sum(1))
    assert np.allclose(mixture.confidences, np.quantile(np.concatenate(found), QUANTILES), atol=1e-4)


def test_an_unfitted_model_says_so(words: tuple[HolographicModel, WordSplit]) -> None:
    with pytest.raises(ConfigError, match="`abstain` is 0.2, but the model is not fitted yet"):
        Session(learned(words[1], WORDS), Sampling(abstain=0.2), seed=1)


def test_a_conversation_stops_where_the_model_is_unsure(words: tuple[HolographicModel, WordSplit]) -> None:
    model, split = words
    session = Session(model, Sampling(temperature=0.0, abstain=0.3), seed=1)
    session.feed(model.tokenizer.decode(split.train[500:540]))
    written = "".join(session.reply(max_tokens=200))
    assert session.last.doubt is not None
    free = Session(model, Sampling(temperature=0.0), seed=1)
    free.feed(model.tokenizer.decode(split.train[500:540]))
    assert "".join(free.reply(max_tokens=200)).startswith(written) and free.last.doubt is None
