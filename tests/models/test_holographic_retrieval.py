"""What a context brings to mind agrees with the probabilities and names its sources."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
import torch

from holonomy.core.errors import ConfigError
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.config import HolographicConfig, TowerConfig
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.retrieval import (
    PRIOR,
    Recollection,
    divergence_of,
    retrieve,
    retrieve_batch,
    settled_states,
)

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


def settled_by_hand(model: HolographicModel, context: list[int]) -> tuple[dict[int, float], float]:
    """Counts at the address of a context's order, one word explained after the other in float64, and noise left."""
    assert model.mirror is not None
    tower, words = model.mirror.tower, model.mirror.signatures.words.double().numpy()
    channels, key = words.shape[1], np.eye(4)
    for place, word in enumerate(reversed(context)):
        key = key @ model.mirror.signatures.places[place].double().numpy() @ words[word]
    row = int(tower.addresses(torch.tensor([context]), len(context) + 1))
    x, counts = key.transpose(0, 2, 1) @ (tower.store[row].double().numpy() / 4096), dict[int, float]()
    while True:
        sd = math.sqrt((x**2).sum() / (4 * channels) / (16 * channels))
        found = (words * x).sum((1, 2, 3)) / (4 * channels)
        word = int(found.argmax())
        if found[word] <= max(0.5, 3.3 * sd):
            return counts, sd
        counts[word] = counts.get(word, 0.0) + found[word]
        x = x - found[word] * words[word]


def test_noise_and_the_say_of_bindings_follow_from_the_store(model: HolographicModel) -> None:
    assert model.mirror is not None
    # Contexts that end in what was learned, in what was not, and short ones.
    ids = np.concatenate([text(1200).reshape(30, 40), np.random.default_rng(4).integers(2, WORDS, (30, 40))])
    lengths = np.arange(60) % 5
    found, empty = retrieve_batch(model, ids, lengths), 0
    for b, (row, length) in enumerate(zip(ids.tolist(), lengths.tolist(), strict=True)):
        context, longest = row[40 - length :], min(length, 3)
        said, sd = model.memories.counts.lowest.astype(np.float64), math.nan
        for order in range(2, longest + 2):
            counts, sd = settled_by_hand(model, context[length - order + 1 :])
            total = sum(counts.values())
            size, noise = min(9, int(math.log2(max(total, 1)))), (sd >= 0.707) + (sd >= 1.414)
            share = model.mirror.shares[order - 2][1 + 3 * size + noise if total else 0]
            said = (1 - share) * said
            for word, count in counts.items():
                said[word] += share * count / total
        assert found.bound[b] == pytest.approx(said[found.tokens[b]], rel=1e-3), (b, length)
        empty += sd == 0
        assert found.sd[b] == pytest.approx(sd or math.nan, rel=1e-3, nan_ok=True), (b, length)
    assert 0 < empty < 20 and np.isnan(found.sd[lengths == 0]).all() and (found.coherence[found.sd > 0] > 0).all()
    alone = HolographicModel(model.config.model_copy(update={"tower": TowerConfig(role="off")}), model.tokenizer)
    told = retrieve_batch(alone, ids[:3])
    assert np.isnan(told.sd).all() and np.isnan(told.bound).all() and not told.coherence.any()


def test_what_experts_say_is_what_their_distributions_hold(model: HolographicModel) -> None:
    ids, lengths = text(1200).reshape(30, 40), np.arange(30) % 41
    found, memories = retrieve_batch(model, ids, lengths), model.memories
    reading, weights = model.reading(model.contexts(ids, lengths))
    known, lean = memories.knowing(reading), model.mixture.lean(memories, reading)
    assert found.said.shape == found.shares.shape == known.shape and not known.all()
    for column in range(known.shape[1]):
        alone = np.zeros_like(weights)
        alone[:, column] = 1.0
        whole = model.mixture.combined(memories, reading, alone, lean)[np.arange(30), found.tokens]
        assert np.allclose(found.said[:, column], np.where(known[:, column], whole, 0), atol=1e-5)
    assert np.allclose(found.shares, weights * found.said / (weights * found.said).sum(1, keepdims=True))


def test_contexts_are_read_once_and_in_parts(model: HolographicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, lengths = text(1200).reshape(30, 40), np.arange(30) % 41
    whole, asked, read = retrieve_batch(model, ids, lengths), list[int](), type(model.memories).read
    monkeypatch.setattr(type(model), "rows", 7)
    monkeypatch.setattr(type(model.memories), "read", lambda m, c: asked.append(len(c.ends)) or read(m, c))
    parts = retrieve_batch(model, ids, lengths)
    assert asked == [7, 7, 7, 7, 2]
    for field in fields(Recollection):
        mine, theirs = getattr(parts, field.name), getattr(whole, field.name)
        if isinstance(mine, list):
            assert mine == theirs
        else:
            assert len(mine) == 30 and np.allclose(mine, theirs, atol=1e-6, equal_nan=True), field.name
    assert retrieve_batch(model, ids[:0]).tokens.shape == (0,)


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


def test_what_is_flagged_as_a_conflict_was_planted() -> None:
    made = HolographicModel(
        HolographicConfig.model_validate(CONFIG), WordTokenizer([f"w{i}" for i in range(WORDS - 2)])
    )
    words, random = text(), np.random.default_rng(5)
    made.learn_text(words)
    made.fit(words)
    contexts = random.permutation(np.unique(random.integers(2, WORDS, (400, 4)), axis=0))[:200]
    first, size = random.integers(2, WORDS, 200), WORDS - 2
    other = (first - 2 + random.integers(1, size, 200)) % size + 2
    made.learn_batch(np.repeat(contexts, 20, 0), np.repeat(first, 20))
    assert made.mirror is not None
    # The counts of a hundred contexts remember one word, and the bindings are made to say another.
    weights = np.tile([0, 0, 20], (100, 1))
    made.mirror.bind(contexts[:100], np.full(100, 3), first[:100], -weights)
    made.mirror.bind(contexts[:100], np.full(100, 3), other[:100], weights)
    flagged = retrieve_batch(made, contexts).conflict
    elsewhere = np.concatenate(
        [np.lib.stride_tricks.sliding_window_view(words, 4), random.integers(2, WORDS, (1000, 4))]
    )
    false = flagged[100:].sum() + retrieve_batch(made, elsewhere).conflict.sum()
    found = flagged[:100].sum()
    assert found >= 90 and found / (found + false) >= 0.8


def followers_of(words: np.ndarray, starts: list[int], most: int) -> dict[tuple[int, ...], Counter[int]]:
    """What followed each context of one to `most` words, and how often, by a plain walk."""
    found: dict[tuple[int, ...], Counter[int]] = {}
    for begin, end in zip(starts, [*starts[1:], len(words)], strict=True):
        document = words[begin:end].tolist()
        for at in range(1, len(document)):
            for size in range(1, min(most, at) + 1):
                found.setdefault(tuple(document[at - size : at]), Counter()).update([document[at]])
    return found


def test_what_alone_followed_is_recalled(model: HolographicModel) -> None:
    made = HolographicModel(model.config, model.tokenizer)
    # Rare words stand beside common ones, so that contexts of all lengths have one follower, or several.
    words = (np.random.default_rng(2).zipf(1.5, 4000) - 1) % (WORDS - 2) + 2
    starts = [0, 3, 700, 703, 2500]
    made.learn_text(words, np.array(starts))
    most = made.memories.counts.order - 1
    known = followers_of(words, starts, most)
    rows = [words[k : k + 6] for k in range(0, 3900, 3)]
    rows += list(np.random.default_rng(3).integers(2, WORDS, (300, 6)))
    ids = np.array(rows)
    lengths = np.arange(len(ids)) % 7

    last = list[Counter[int]]()
    for row, length in zip(ids.tolist(), lengths.tolist(), strict=True):
        tails = (tuple(row[len(row) - n :]) for n in range(min(most, length), 0, -1))
        last.append(next((known[tail] for tail in tails if tail in known), Counter()))
    wanted = [next(iter(after)) if len(after) == 1 else -1 for after in last]
    found = retrieve_batch(made, ids, lengths)
    assert found.recalled.tolist() == wanted
    assert 0.1 < (found.recalled >= 0).mean() < 0.9 and len(set(np.minimum(found.order, 4).tolist())) == 5
    made.memories.counts.pack()
    assert retrieve_batch(made, ids, lengths).recalled.tolist() == wanted
    # Where something was dropped, nothing can be said to be alone; what occurred twice is still there.
    assert made.memories.counts.prune(2) > 0
    stays = [len(after) == 1 and after.total() > 1 for after in last]
    found = retrieve_batch(made, ids, lengths).recalled.tolist()
    assert sum(stays) > 20 and sum(w >= 0 and f < 0 for f, w in zip(found, wanted, strict=True)) > 50
    assert all(f == w for f, w, stay in zip(found, wanted, stays, strict=True) if stay)


def test_contexts_of_a_learned_text_are_recalled(model: HolographicModel) -> None:
    words, size = text(), model.memories.counts.order - 1
    known = followers_of(words, [0], size)
    places = [k for k in range(size, len(words)) if len(known[tuple(words[k - size : k].tolist())]) == 1]
    ids = np.stack([words[k - size : k] for k in places])
    found, came = retrieve_batch(model, ids), words[places]
    assert len(places) > 500 and (found.recalled == came).mean() >= 0.99
    # The most probable word is another matter: what was seen once is discounted.
    assert (found.tokens == came).mean() < 0.99
