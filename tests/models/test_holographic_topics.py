"""Topics beside plain sums, and what whole documents are held out for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.fit import MixtureFit
from holonomy.models.holographic.metrics import judged
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.topics import BETA, COMMON, OWN_PRIOR, RUN_PRIOR, TAU, Topics

CONFIG = {
    "tower": {"role": "off"},
    "counts": {"order": 3, "classes": [], "skips": []},
    "mixture": {"blocks": 2, "block_share": 0.1, "product_steps": 12, "em_steps": 20},
}
WORDS, RUN = 200, 2048


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
