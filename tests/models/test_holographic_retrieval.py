"""What a context brings to mind agrees with the probabilities and names its sources."""

from __future__ import annotations

import math

import numpy as np
import pytest

from holonomy.core.errors import ConfigError
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.retrieval import PRIOR, divergence_of, retrieve, retrieve_batch, settled_states

CONFIG = {
    "tower": {"levels": 4, "channels": 16, "promote_at": None},
    "counts": {"classes": [4], "skips": []},
    "similarity": {"dim": 16},
    "mixture": {"blocks": 2, "block_share": 0.1, "product_steps": 8, "em_steps": 20},
}
WORDS = 40


def text(count: int = 3000) -> np.ndarray:
    random = np.random.default_rng(0)
    chain = random.permutation(np.arange(2, WORDS))
    words = [2]
    for _ in range(count - 1):
        words.append(
            int(chain[(words[-1] * 7) % (WORDS - 2)]) if random.random() < 0.9 else int(random.integers(2, WORDS))
        )
    return np.array(words)


@pytest.fixture(scope="module")
def model() -> HolographicModel:
    made = HolographicModel(
        HolographicConfig.model_validate(CONFIG), WordTokenizer([f"w{i}" for i in range(WORDS - 2)])
    )
    made.learn_text(text())
    made.fit(text())
    return made


def test_answers_are_the_most_probable_words(model: HolographicModel) -> None:
    ids = text(1200).reshape(30, 40)
    lengths = np.arange(30) % 41
    logs = model.next_log_probs(ids, lengths)
    found = retrieve_batch(model, ids, lengths)
    assert found.tokens.tolist() == logs.argmax(1).tolist()
    assert np.allclose(found.probs, logs.max(1).values.exp(), atol=1e-6)
    assert np.allclose(found.shares.sum(1), 1) and (found.shares >= 0).all()
    single = retrieve(model, ids[7, -7:].tolist())
    assert single.tokens[0] == found.tokens[7] and single.sources[0] == found.sources[7]
    assert retrieve(model, []).sources == [PRIOR] and retrieve(model, [5]).sources != [PRIOR]
    assert found.coherence[1:].mean() > found.wrong_coherence[1:].mean()
    assert 0 <= found.divergence.min() <= found.divergence.max() <= math.log(2) + 1e-9


def test_settled_states_are_counts_of_what_followed(model: HolographicModel) -> None:
    words = text()
    state = settled_states(model, np.array([[9]]), 2)
    following = np.bincount(words[1:][words[:-1] == 9], minlength=WORDS)
    assert int(state.tokens[0, 0]) == following.argmax()
    assert abs(float(state.counts[0, 0]) / following.max() - 1) < 0.2
    with pytest.raises(ConfigError, match="order"):
        settled_states(model, np.array([[9]]), 7)


def test_a_planted_contradiction_is_a_conflict() -> None:
    made = HolographicModel(
        HolographicConfig.model_validate(CONFIG), WordTokenizer([f"w{i}" for i in range(WORDS - 2)])
    )
    made.learn_text(text())
    made.fit(text())
    assert made.mirror is not None
    contexts = np.array([[30, 31, 32, 33], [12, 13, 14, 15]])
    for context in contexts:
        made.learn_batch(np.tile(context, (30, 1)), np.full(30, 5))
    before = retrieve_batch(made, contexts)
    assert not before.conflict.any() and before.tokens.tolist() == [5, 5]
    # The bindings of one context are made to say something else, whatever their order.
    made.mirror.bind(contexts[:1], np.array([3]), np.array([5]), np.full((1, 3), -25))
    made.mirror.bind(contexts[:1], np.array([3]), np.array([6]), np.full((1, 3), 200))
    after = retrieve_batch(made, contexts)
    assert after.conflict.tolist() == [True, False] and after.divergence[0] > after.divergence[1]


def test_divergence_of_plain_rows() -> None:
    p, q = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]])
    assert np.allclose(divergence_of(p, q), [math.log(2), 0.0])
