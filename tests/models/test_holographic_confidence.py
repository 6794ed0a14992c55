"""Confidence beside scikit-learn, and topics beside plain sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from holonomy.core.errors import DataError
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.confidence import Assurance, evidence
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.fit import MixtureFit
from holonomy.models.holographic.metrics import judged, separation
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.topics import BETA, COMMON, OWN_PRIOR, RUN_PRIOR, TAU, Topics

CONFIG = {
    "tower": {"role": "off"},
    "counts": {"order": 3, "classes": [], "skips": []},
    "mixture": {"blocks": 2, "block_share": 0.1, "product_steps": 12, "em_steps": 20},
}
WORDS, RUN = 200, 2048


def test_the_regression_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    found = np.concatenate([np.ones((800, 1)), random.normal(size=(800, 5)) * [1, 3, 0.2, 10, 1]], 1)
    right = random.random(800) < 1 / (1 + np.exp(-(found @ [-1, 1, 0.2, -3, 0, 0.5])))
    ours = Assurance.fit(found, right, prior=4.0)
    theirs = LogisticRegression(C=1 / 4.0, tol=1e-10, max_iter=10_000).fit(ours.standard(found)[:, 1:], right)
    assert np.abs(ours(found) - theirs.predict_proba(ours.standard(found)[:, 1:])[:, 1]).max() < 1e-4
    # All answers right: the constant stays finite.
    assert 0.9 < Assurance.fit(found, np.ones(800, bool))(found).min() <= 1
    with pytest.raises(DataError, match="right"):
        Assurance.fit(found, right[1:])


def test_evidence_is_what_the_distribution_says() -> None:
    probs = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]], dtype=np.float32)
    found = evidence(probs, np.array([[1.0, 7.0], [1.0, 8.0]]))
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert found[0] == pytest.approx([1, 0, math.log(5 / 3), entropy, 7], abs=1e-6)
    assert np.isfinite(found).all() and found[1, 3] == 0


def text(runs: int = 13) -> np.ndarray:
    """Runs that take most words from one of four small vocabularies in turn."""
    random = np.random.default_rng(0)
    own = [random.permutation(np.arange(2, WORDS))[:40] for _ in range(4)]
    about = [random.choice(own[n % 4], RUN) for n in range(runs)]
    return np.concatenate([np.where(random.random(RUN) < 0.7, a, random.integers(2, WORDS, RUN)) for a in about])


def test_topics_are_plain_sums() -> None:
    tokens = text()
    topics = Topics.of_words(tokens, WORDS, 0, 40)
    runs = tokens.reshape(-1, RUN)
    assert len(Topics.of_words(tokens, WORDS, 0, 9).counts) == 9 and len(topics.counts) == len(runs) == 13
    ends = np.array([0, 1, 40, 700])
    # The last of them begins anew after 600 words.
    contexts = of_text(tokens[::3].copy(), np.array([0, 600]), ends)
    found = [t.numpy() for t in topics.tilts(contexts)]
    counts = np.stack([np.bincount(run, minlength=WORDS) for run in runs]).astype(float)
    common = (counts.sum(0) + 0.5) / (counts.sum() + 0.5 * WORDS)
    for b, (begin, end) in enumerate(zip(contexts.begins, contexts.ends, strict=True)):
        score, own = np.zeros(len(runs)), np.zeros(WORDS)
        for at in range(begin, end):
            weight, word = math.exp(-(end - 1 - at) / TAU), contexts.tokens[at]
            own[word] += weight
            if word:
                known = (counts[:, word] + RUN_PRIOR * common[word]) / (counts.sum(1) + RUN_PRIOR)
                score += weight * np.log(known / common[word])
        share = np.exp(BETA * score) / np.exp(BETA * score).sum()
        adapted = share @ (counts / counts.sum(1, keepdims=True))
        assert np.allclose(found[0][b], np.log((adapted / common + COMMON) / (1 + COMMON)), atol=1e-4)
        assert np.allclose(found[1][b], np.log((own / common + OWN_PRIOR) / (own.sum() + OWN_PRIOR)), atol=1e-4)


@pytest.fixture(scope="module")
def models() -> list[HolographicModel]:
    tokenizer, made = WordTokenizer([f"w{i}" for i in range(WORDS - 2)]), []
    for topics in (16, 0):
        config = HolographicConfig.model_validate(CONFIG | {"similarity": {"dim": 16, "topics": topics}})
        made.append(HolographicModel(config, tokenizer))
        made[-1].learn_text(text()[:-RUN])
        made[-1].fit(text()[:-RUN])
    return made


def test_topics_help_where_texts_have_some(models: list[HolographicModel]) -> None:
    tokens = text()
    start = len(tokens) - RUN
    asked = of_text(tokens, np.array([0, start]), np.arange(start + 20, start + 320))
    losses = [judged(m.distributions(asked), tokens[asked.ends]).losses.mean() for m in models]
    assert losses[0] < losses[1] - 0.02
    assert len(models[0].mixture.tilts) == 2 and models[1].mixture.tilts == ()
    assert "topics" in models[0].stats() and "topics" not in models[1].stats()


def test_confidence_goes_with_being_right(models: list[HolographicModel]) -> None:
    tokens = text()
    logs, sure = models[0].answers(of_text(tokens, np.zeros(1, np.int64), np.arange(24_600, 26_600)))
    right = logs.argmax(1).numpy() == tokens[24_600:26_600]
    assert ((sure > 0) & (sure < 1)).all() and abs(sure.mean() - right.mean()) < 0.05
    assert separation(sure, right.astype(float)) == pytest.approx(roc_auc_score(right, sure))
    assert roc_auc_score(right, sure) > 0.5


def test_whole_documents_are_held_out_where_there_are_many(models: list[HolographicModel]) -> None:
    tokens, starts = text(), np.arange(0, 13 * RUN, 512)
    memories, config = models[0].memories, models[0].config
    parts = MixtureFit(memories, None, config, of_text(tokens, starts), tokens)._parts(800)
    assert len(parts) == 2 and not np.intersect1d(parts[0][0], parts[1][0]).size
    for held, later in parts:
        assert not later.size and 512 <= len(held) <= 1536
        document = held // 512
        assert all((document == d).sum() == 512 for d in np.unique(document))
    few = MixtureFit(memories, None, config, of_text(tokens, starts[:4]), tokens)._parts(800)
    assert len(few) == 2 and all(
        len(held) == 800 and later.max(initial=len(tokens) - 1) == len(tokens) - 1 for held, later in few
    )
    assert all((np.diff(np.concatenate(part)) == 1).all() for part in few)
