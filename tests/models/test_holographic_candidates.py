"""Similarity that speaks of few words: exact sums, the same as over all words where it may, and nothing dense in V."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from holonomy.core.errors import ConfigError
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic import signatures as signatures_module
from holonomy.models.holographic import vectors as vectors_module
from holonomy.models.holographic.candidates import Candidates, Cells, Followers, Lowest, always
from holonomy.models.holographic.config import HolographicConfig, HolographicRunConfig
from holonomy.models.holographic.contexts import Contexts, of_text
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.plan import MANY_WORDS, memory_plan, num_candidates
from holonomy.models.holographic.settle import settle, settle_among
from holonomy.models.holographic.signatures import Signatures
from holonomy.models.holographic.storage import load_into, state_of

WORDS, MOST, LARGE = 300, 64, 40_000
START = np.zeros(1, dtype=np.int64)


def text(count: int, words: int = WORDS, seed: int = 0) -> np.ndarray:
    """Words with Zipf's frequencies, a third of which follow from the one before."""
    random = np.random.default_rng(seed)
    rank = np.exp(random.random(count) * np.log(words - 2)).astype(np.int64) + 1
    follows = np.flatnonzero(random.random(count - 1) < 0.3) + 1
    rank[follows] = rank[follows - 1] * 31 % 200
    return np.clip(rank, 2, words - 1)


def config(product: str = "episodic", role: str = "off", **similarity: Any) -> HolographicConfig:
    tower = {"levels": 3, "channels": 4, "top_digits": {2: 1, 3: 1}} if role != "off" else {}
    return HolographicConfig.model_validate(
        {
            "tower": {"role": role, **tower},
            "counts": {"order": 4, "classes": [6], "skips": []},
            "similarity": {"dim": 16, **similarity},
            "mixture": {"product": product, "blocks": 1, "block_share": 0.2, "product_steps": 10, "em_steps": 20},
        }
    )


def trained(made: HolographicConfig, tokens: np.ndarray, words: int = WORDS) -> HolographicModel:
    model = HolographicModel(made, WordTokenizer([f"w{n}" for n in range(words - 2)]))
    model.learn_text(tokens)
    model.fit(tokens)
    return model


@pytest.fixture(scope="module", params=["episodic", "all"])
def model(request: pytest.FixtureRequest) -> HolographicModel:
    return trained(config(request.param, candidates=MOST), text(9000))


def asked(count: int = 50) -> tuple[Contexts, np.ndarray]:
    tokens = text(2000, seed=1)
    return of_text(tokens, START, np.arange(2000 - count, 2000)), tokens[-count:]


def test_it_is_the_formula_over_all_words(model: HolographicModel) -> None:
    """The brute force: every quantity of all words, in float64, then the candidates alone are turned."""
    contexts, _ = asked()
    memories, mixture = model.memories, model.mixture
    reading = memories.read(contexts)
    words = memories.candidates(reading, MOST).numpy()
    assert memories.readout is not None and memories.topics is not None and mixture.tilts
    vectors = memories.readout.features.vectors.double()
    assert reading.features is not None
    expected = reading.features.double() @ memories.readout.towards.double()
    terms = [expected @ vectors.T, *memories.topics.tilts(contexts)]
    lean = sum(e * t.double().numpy() for e, t in zip((mixture.slope, *mixture.tilts), terms, strict=True))
    weights = mixture.weights(reading, memories.knowing(reading))
    episodic = mixture.product == "episodic"
    rest = memories.mix(reading, weights, counts=not episodic).astype(np.float64)
    whole = memories.counts.dense(reading.found[0]).astype(np.float64) if episodic else rest
    for b, chosen in enumerate(words):
        raised = whole[b] ** mixture.power
        raised /= raised.sum()
        turned = raised[chosen] * np.exp(lean[b, chosen])
        made = raised.copy()
        made[chosen] = turned / turned.sum() * raised[chosen].sum()
        q = weights[b, 0] * made + rest[b] if episodic else made
        if mixture.certainty is not None:
            q = mixture.certainty.corrected(q[None].astype(np.float32), q.sum(keepdims=True))[0]
        found = model.distributions(contexts.part(slice(b, b + 1)))[0].numpy()
        assert np.allclose(found, np.log(q), atol=2e-4)


def test_what_is_fitted_is_what_is_said(model: HolographicModel) -> None:
    contexts, targets = asked()
    if model.mixture.product != "episodic":
        return
    reading = model.memories.read(contexts)
    probs, _ = model.mixture.experts_at(model.memories, reading, targets)
    lean = model.mixture.lean(model.memories, reading)
    assert lean is not None and lean[1] is not None
    rows = np.zeros((len(targets), WORDS), dtype=np.float32)
    own = model.memories.followers(reading)
    own.add_focused(rows, np.ones(len(rows)), model.mixture.power, lean[1], lean[0])
    assert np.allclose(rows.sum(1), 1, atol=1e-5)
    assert np.allclose(rows[np.arange(len(rows)), targets], probs[:, 0], rtol=1e-4)
    # Targets among the candidates and others were both asked for.
    there = (lean[1].numpy() == targets[:, None]).any(1)
    assert there.any() and not there.all()


@pytest.mark.parametrize("product", ["episodic", "all"])
def test_as_many_candidates_as_words_are_all_words(product: str) -> None:
    tokens, (contexts, _) = text(6000), asked(20)
    dense = trained(config(product), tokens)
    assert torch.equal(
        dense.distributions(contexts), trained(config(product, candidates=WORDS), tokens).distributions(contexts)
    )
    assert dense.memories.most is None
    found = dense.distributions(contexts)
    # The road of candidates, made to take all words, says the same up to rounding.
    dense.memories.most = WORDS
    assert torch.allclose(dense.distributions(contexts), found, atol=1e-4)
    dense.memories.most = MOST
    assert not torch.allclose(dense.distributions(contexts), found, atol=1e-2)


def test_sums_are_one_with_a_large_vocabulary() -> None:
    tokens = text(30_000, LARGE)
    made = HolographicModel(config(), WordTokenizer([f"w{n}" for n in range(LARGE - 2)]))
    made.learn_text(tokens)
    made.consolidate(tokens)
    made.fit_apart(text(600, LARGE, seed=1))
    assert made.memories.most == num_candidates(made.config, LARGE) == 4096
    ids = np.concatenate([np.zeros((1, 3000), np.int64), text(9000, LARGE, seed=2).reshape(3, 3000)])
    lengths = np.array([3000, 3000, 0, 5])
    logs = made.next_log_probs(ids, lengths)
    assert bool(logs.isfinite().all())
    assert float((logs.double().exp().sum(1) - 1).abs().max()) < 1e-5
    # Stored and loaded it says the same to the last bit, though frequent words have changed since.
    made.learn_text(np.full(500, LARGE - 1))
    logs, other = made.next_log_probs(ids, lengths), HolographicModel(made.config, made.tokenizer)
    load_into(other, state_of(made))
    assert torch.equal(other.next_log_probs(ids, lengths), logs)


def test_terms_of_candidates_are_those_of_all_words(model: HolographicModel) -> None:
    contexts, _ = asked()
    memories = model.memories
    reading = memories.read(contexts)
    words = memories.candidates(reading, MOST)
    assert memories.readout is not None and memories.topics is not None and reading.features is not None
    assert memories.readout.features.vectors.is_contiguous()
    some = [memories.readout.similarities_of(reading.features, words), *memories.topics.tilts_of(contexts, words)]
    every = [memories.readout.similarities(reading.features), *memories.topics.tilts(contexts)]
    for few, whole in zip(some, every, strict=True):
        assert torch.allclose(few, whole.gather(1, words), atol=1e-6)
    assert all(float(term.abs().max()) > 1e-2 for term in some)


@pytest.mark.parametrize("packed", [False, True])
def test_followers_are_the_counts(packed: bool) -> None:
    trie, tokens = CountTrie(4, WORDS), text(5000)
    trie.learn(Pairs(*of_text(tokens, START).symbols(3), tokens, np.ones(len(tokens), np.int64)))
    if packed:
        trie.pack()
    found = trie.find(*asked()[0].symbols(3))
    followers, dense = Followers.of(trie, found, Lowest(trie.lowest)), trie.dense(found).astype(np.float64)
    everything = torch.arange(WORDS).expand(len(found), -1).contiguous()
    assert np.allclose(followers.at(everything).numpy(), dense, rtol=1e-5)
    for power in (0.9, 1.7):
        assert np.allclose(followers.raised(power).totals, (dense**power).sum(1), rtol=1e-5)
    begin = 0
    for b, end in enumerate(followers.ends):
        own = followers.words[begin:end]
        assert len(np.unique(own)) == len(own)
        apart = dense[b] - followers.base[b] * trie.lowest
        assert set(np.flatnonzero(apart > 1e-6)) <= set(own.tolist())
        begin = end


def test_candidates_are_frequent_near_or_followed() -> None:
    random = np.random.default_rng(0)
    vectors = torch.nn.functional.normalize(torch.from_numpy(random.standard_normal((WORDS, 16))).float(), dim=1)
    vectors[5] = 0
    group, unigram = 1000 + random.integers(0, 20, WORDS), random.integers(1, 50, WORDS)
    followed = [np.array([7, 250, 299, 3]), np.empty(0, np.int64)]
    followers = Followers(
        Lowest(np.full(WORDS, 1 / WORDS, np.float32)), np.concatenate(followed).astype(np.int32),
        np.full(4, 0.1, np.float32), np.array([4, 4]), np.array([0.6, 1.0]),
    )  # fmt: skip
    chooser, expected = Candidates(unigram, Cells(vectors, group)), vectors[[40, 41]]
    words = chooser.of(followers, expected, MOST).numpy()
    frequent = np.argsort(-unigram, kind="stable")
    assert words.shape == (2, MOST) and all(len(set(row)) == MOST for row in words.tolist())
    for row, own in zip(words, followed, strict=True):
        assert (row[: always(MOST)] == frequent[: always(MOST)]).all() and set(own) <= set(row.tolist())
    centres = torch.stack([vectors[torch.from_numpy(group == 1000 + c)].sum(0) for c in range(20)])
    nearest = int((expected[0] @ torch.nn.functional.normalize(centres, dim=1).T).argmax())
    assert set(np.flatnonzero(group == 1000 + nearest)) - {5} <= set(words[0].tolist())
    # Without vectors, frequent words take their place.
    plain = Candidates(unigram, None).of(followers, None, MOST).numpy()
    assert (np.sort(plain[1]) == np.sort(frequent[:MOST])).all()


def test_states_settle_on_candidates() -> None:
    signatures = Signatures(7, 16, WORDS, 2)
    held = torch.tensor([[3, 50, 200], [9, 80, 7]])
    x = (signatures.words[held] * torch.tensor([5.0, 3.0, 2.0])[:, None, None, None]).sum(1)
    words = torch.stack([torch.randperm(WORDS, generator=torch.Generator().manual_seed(b))[:250] for b in range(2)])
    words[:, :3] = held
    words[1, 3:] = torch.tensor([w for w in range(WORDS) if w not in held[1]])[: words.shape[1] - 3]
    words[0, 3:] = torch.tensor([w for w in range(WORDS) if w not in held[0]])[: words.shape[1] - 3]
    full, some = settle(x, signatures), settle_among(x, signatures, words)
    for b in range(2):
        by_word = [dict(zip(s.tokens[b].tolist(), s.counts[b].tolist(), strict=True)) for s in (full, some)]
        assert set(held[b].tolist()) <= set(by_word[1])
        for word in held[b].tolist():
            assert by_word[1][word] == pytest.approx(by_word[0][word], abs=0.3)
    # A word that is no candidate is never found.
    without = settle_among(x, signatures, words[:, 1:])
    assert not (without.tokens == held[:, :1]).any()
    assert all(torch.equal(a, b) for a, b in zip(settle_among(x, signatures, None), full, strict=True))


def test_the_model_settles_on_candidates() -> None:
    from holonomy.models.holographic.retrieval import retrieve_batch, settled_states

    made = config(role="mirror", candidates=MOST)
    model = trained(made, text(6000))
    ids = text(200, seed=3).reshape(20, 10)
    words = model.memories.settling(model.contexts(ids))
    assert words is not None and words.shape == (20, MOST)
    state = settled_states(model, ids, 3)
    assert ((state.tokens[:, :, None] == words[:, None]).any(2) | (state.tokens < 0)).all()
    assert np.isfinite(retrieve_batch(model, ids).divergence).all()
    full = made.model_copy(update={"tower": made.tower.model_copy(update={"cleanup": "full"})})
    assert HolographicModel(full, model.tokenizer).memories.settling(model.contexts(ids)) is None


def test_places_of_many_words_are_made_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, tokens = config(role="mirror"), text(800)
    stores = []
    for many in (MANY_WORDS, 10):
        monkeypatch.setattr(signatures_module, "MANY_WORDS", many)
        model = HolographicModel(made, WordTokenizer([f"w{n}" for n in range(WORDS - 2)]))
        model.learn_text(tokens)
        assert model.mirror is not None
        stores.append(model.mirror.tower.store)
        assert (
            model.mirror.signatures.nbytes < (3 if many > WORDS else 1.1) * model.mirror.signatures.words.nbytes * 1.05
        )
    assert torch.equal(*stores) and stores[0].any()


def test_columns_of_frequent_words_alone_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = text(4000)
    pairs, count = np.unique(np.stack([tokens[:-1], tokens[1:]], 1), axis=0, return_counts=True)
    neighbours = [(pairs[:, 0], pairs[:, 1], count)]
    whole = vectors_module.neighbour_information(neighbours, WORDS)
    assert whole[3] == 2 * WORDS
    monkeypatch.setattr(vectors_module, "MANY_WORDS", 10)
    monkeypatch.setattr(vectors_module, "MOST_COLUMNS", WORDS)
    same = vectors_module.neighbour_information(neighbours, WORDS)
    assert same[3] <= 2 * WORDS and np.array_equal(same[0], whole[0]) and np.allclose(same[2], whole[2])
    monkeypatch.setattr(vectors_module, "MOST_COLUMNS", 20)
    few = vectors_module.neighbour_information(neighbours, WORDS)
    assert few[1].max() < few[3] <= 40


def test_plans_and_refusals() -> None:
    large, small = memory_plan(HolographicConfig(), 200_000), memory_plan(HolographicConfig(), 30_000)
    assert "candidates" in large.fixed and "candidates" not in small.fixed
    assert large.fixed["signatures"] == 64 * 16 * 200_000
    assert large.fitted // (200_000 // 16) >= HolographicConfig().mixture.product_positions
    assert num_candidates(HolographicConfig(), MANY_WORDS) is None
    with pytest.raises(ConfigError, match="`model.similarity.readout` is true"):
        num_candidates(config(readout=True), LARGE)
    with pytest.raises(ConfigError, match="readout"):
        HolographicModel(config(readout=True, candidates=MOST), WordTokenizer([f"w{n}" for n in range(WORDS)]))
    plain = {"model": {"mixture": {"product": "none"}, "tower": {"role": "off"}, "counts": {"classes": []}}}
    with pytest.raises(ValueError, match="candidates"):
        HolographicRunConfig.model_validate({"model": {**plain["model"], "similarity": {"candidates": 100}}})
