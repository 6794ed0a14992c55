"""Hashed neighbours against dense loops, and what they change of the model: nothing but one more expert."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from holonomy.core.errors import CheckpointError, DataError
from holonomy.data.text import load_text
from holonomy.data.words import WordSplit, split_words
from holonomy.models.holographic import sleep as sleeping
from holonomy.models.holographic.basin_kernels import SHARPNESS, UNIT, basin_kernels
from holonomy.models.holographic.basins import UNIFORM, Basins
from holonomy.models.holographic.config import BasinsConfig, HolographicConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.plan import WAITING, memory_plan
from holonomy.models.holographic.retrieval import divergence_of, retrieve
from holonomy.models.holographic.similarity import ContextFeatures, Readout
from holonomy.models.holographic.sleep import sleep
from holonomy.models.holographic.storage import load_into, merge_into, resized, state_of

WORDS, DIM, PLACES = 12, 16, 4
SMALL = {
    "tower": {"role": "off"},
    "counts": {"classes": [8], "skips": [[1, 3]]},
    "similarity": {"dim": 16, "topics": 4},
    "basins": {"enabled": True, "bits": 6},
    "mixture": {"blocks": 2, "block_share": 0.1, "product_steps": 8, "em_steps": 20},
    "batch_size": 500,
}


def store(twins: bool = False, **config: int) -> Basins:
    """An empty store over random vectors; with `twins` each two words have one vector."""
    random = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(WORDS, DIM, generator=random), dim=1)
    if twins:
        vectors = vectors[torch.arange(WORDS) // 2]
    readout = Readout(ContextFeatures(vectors, positions=PLACES))
    readout.towards = torch.randn(readout.towards.shape, generator=random)
    return Basins(BasinsConfig(enabled=True, **config), readout)


def pairs(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    symbols = random.integers(0, WORDS, (count, 6))
    symbols[::3] = symbols[0]
    lengths = random.integers(0, 7, count)
    return symbols, lengths, random.integers(0, WORDS, count), random.integers(1, 4, count)


def same(one: Basins, other: Basins) -> bool:
    mine, theirs = one.state(), other.state()
    return all(np.array_equal(mine[k], theirs[k]) for k in mine)


def told(basins: Basins, symbols: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    out = np.zeros((len(symbols), WORDS), dtype=np.float32)
    basins.spread(basins.find(symbols, lengths), np.ones(len(symbols)), out)
    return out


def test_keys_are_those_of_plain_tensors_and_do_not_depend_on_the_batch() -> None:
    random = torch.Generator().manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(WORDS, 32, generator=random), dim=1)
    vectors[3] = 0
    readout = Readout(ContextFeatures(vectors, positions=PLACES))
    readout.towards = torch.randn(readout.towards.shape, generator=random)
    basins, (symbols, lengths, _, _) = Basins(BasinsConfig(), readout), pairs(60)
    unit = torch.nn.functional.normalize
    f = readout.features(torch.from_numpy(symbols), torch.from_numpy(lengths))
    last, before, bundle = f[:, :32], f[:, 32:64], f[:, 64:96]
    parts = [last, 0.6 * before, 0.5 * unit(bundle, dim=1), unit(f @ readout.towards, dim=1)]
    wanted = unit(torch.cat(parts, 1), dim=1).numpy()
    found = basins.keys(symbols, lengths)
    assert np.abs(found / UNIT - wanted).max() < 3e-5
    one_by_one = np.concatenate([basins.keys(symbols[i : i + 1], lengths[i : i + 1]) for i in range(60)])
    assert np.array_equal(found, one_by_one)
    assert np.allclose(basins.margins(found), found.astype(np.float64) @ basins.planes, atol=0.3, rtol=1e-4)


def hung(basins: Basins, keys: np.ndarray, planes: np.ndarray) -> Basins:
    """Keys of any kind, each followed once by word 0."""
    count = len(keys)
    ids = np.stack([np.arange(count) // WORDS**p % WORDS for p in range(PLACES)], 1)
    basins.planes = planes
    ones = np.ones(count, dtype=np.int64)
    basins.learn(ids, np.full(count, PLACES), 0 * ones, ones)
    basins._keys[:count] = keys
    basins._heads[:] = -1
    basin_kernels().hang(basins.margins(keys), 0, basins._heads, basins._links)
    return basins


def test_the_share_that_is_found_follows_the_angle() -> None:
    """Of neighbours at an angle theta, 1 - (1 - p^bits)^tables share a bucket, p = 1 - theta / pi."""
    random, bits, tables, count, width = np.random.default_rng(0), 5, 3, 150, 4 * DIM
    for theta in (0.3, 0.8):
        shares: dict[int, list[float]] = {1: [], 4: [], 32: []}
        for _ in range(30):
            x, y = random.standard_normal((2, count, width))
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            y -= (x * y).sum(1, keepdims=True) * x
            y = math.cos(theta) * x + math.sin(theta) * y / np.linalg.norm(y, axis=1, keepdims=True)
            planes = random.standard_normal((width, bits * tables)).astype(np.float32)
            keys, asked = (np.rint(z * UNIT).astype(np.int16) for z in (x, y))
            basins = hung(store(bits=bits, tables=tables, neighbours=count), keys, planes)
            for probes, found in shares.items():
                rows = basins.neighbours(asked, probes=probes).rows
                found.append(float((rows == np.arange(count)[:, None]).any(1).mean()))
        p = 1 - theta / math.pi
        wanted = 1 - (1 - p**bits) ** tables
        error = np.std(shares[1]) / math.sqrt(len(shares[1]))
        assert abs(np.mean(shares[1]) - wanted) < 4 * error < 0.1
        assert np.mean(shares[4]) > np.mean(shares[1]) + 2 * error
        assert shares[32] == [1.0] * 30


def dense(learned: tuple[np.ndarray, ...], asked: np.ndarray, basins: Basins) -> np.ndarray:
    """What brute force says after each key, by a loop over contexts that differ in what their key is made of."""
    symbols, lengths, targets, weights = learned
    contexts: dict[tuple[int, ...], np.ndarray] = {}
    for row, length, word, weight in zip(symbols, lengths.tolist(), targets, weights, strict=True):
        held = min(length, PLACES)
        key = (*(-1,) * (PLACES - held), *row[len(row) - held :].tolist())
        contexts.setdefault(key, np.zeros(WORDS))[word] += weight
    names = sorted(contexts)
    ids, there = np.maximum(np.array(names), 0), (np.array(names) >= 0).sum(1)
    keys = basins.keys(ids, there).astype(np.int64)
    out = np.empty((len(asked), WORDS))
    for row, key in zip(out, asked.astype(np.int64), strict=True):
        dots = keys @ key
        near = sorted(range(len(names)), key=lambda i: (-dots[i], names[i]))[: basins.config.neighbours]
        mass = sum(math.exp(SHARPNESS * (dots[i] - dots[near[0]]) / UNIT**2) * contexts[names[i]] for i in near)
        row[:] = UNIFORM / WORDS + (1 - UNIFORM) * mass / mass.sum()
    return out


@pytest.mark.parametrize("twins", [False, True])
def test_a_read_of_all_buckets_is_brute_force(twins: bool) -> None:
    basins, learned = store(twins, bits=3, tables=2, probes=8, neighbours=5), pairs(200)
    basins.learn(*learned)
    symbols, lengths, targets, _ = pairs(80, seed=1)
    wanted = dense(learned, basins.keys(symbols, lengths), basins)
    found = told(basins, symbols, lengths)
    assert np.allclose(found, wanted, atol=1e-6) and np.allclose(found.sum(1), 1, atol=1e-6)
    own = basins.probs(basins.find(symbols, lengths), targets)
    assert np.allclose(own, wanted[np.arange(80), targets], rtol=1e-9)


def test_an_empty_store_says_nothing_in_particular() -> None:
    basins, (symbols, lengths, targets, weights) = store(), pairs(9)
    found = basins.find(symbols, lengths)
    assert not found.mass.any() and (found.nearest == -1).all()
    assert np.allclose(told(basins, symbols, lengths), 1 / WORDS) and (basins.probs(found, targets) == 1 / WORDS).all()
    basins.learn(symbols, lengths, targets, weights)
    basins.unlearn(symbols, lengths, targets, weights)
    assert basins.num_basins == 0 and not basins.find(symbols, lengths).mass.any()


def test_any_batching_is_one_pass_and_unlearning_is_exact() -> None:
    whole, parts, learned = store(bits=4), store(bits=4), pairs(300)
    whole.learn(*learned)
    for cut in (slice(0, 1), slice(1, 40), slice(40, 300)):
        parts.learn(*(a[cut] for a in learned))
    assert same(whole, parts)
    assert all(np.array_equal(getattr(whole, k), getattr(parts, k)) for k in ("_heads", "_used"))
    assert np.array_equal(whole._keys[: whole.num_basins], parts._keys[: parts.num_basins])
    asked, more = pairs(50, seed=2)[:2], pairs(100, seed=3)
    before, heads = told(whole, *asked), whole._heads.copy()
    whole.learn(*more)
    assert not np.array_equal(before, told(whole, *asked))
    whole.unlearn(*more)
    assert same(whole, parts) and np.array_equal(heads, whole._heads) and np.array_equal(before, told(whole, *asked))
    # What came first can go as well: the rest reads as if it had never been.
    first, rest = (tuple(a[c] for a in learned) for c in (slice(0, 100), slice(100, 300)))
    whole.unlearn(*first)
    alone = store(bits=4)
    alone.learn(*rest)
    assert np.allclose(told(alone, *asked), told(whole, *asked), atol=1e-7)
    with pytest.raises(DataError, match="`targets` row 1: 3 did not follow this context 9 times"):
        alone.unlearn(rest[0][:2], rest[1][:2], np.array([rest[2][0], 3]), np.array([1, 9]))
    parts.unlearn(*first)
    assert np.array_equal(told(alone, *asked), told(parts, *asked))


def test_those_followed_by_much_the_same_are_united_and_can_still_be_unlearned() -> None:
    # Words 2n and 2n + 1 look the same: so do the contexts they make.
    basins = store(twins=True, bits=4, tables=4)
    symbols = np.array([[0, 2], [1, 3], [0, 3], [4, 6], [5, 7], [8, 8]])
    lengths, counts = np.full(6, 2), np.zeros((6, WORDS), dtype=np.int64)
    counts[[0, 0, 1, 1, 2], [5, 6, 5, 6, 9]] = 8, 2, 9, 2, 4
    counts[3:, 1] = 1
    at, words = np.nonzero(counts)
    basins.learn(symbols[at], lengths[at], words, counts[at, words])
    p = counts / counts.sum(1, keepdims=True)
    assert divergence_of(p[:1], p[1:2])[0] < 0.02 < divergence_of(p[:1], p[2:3])[0]
    before = told(basins, symbols, lengths)
    assert basins.unite() == 2 and basins.num_basins == 4 and basins.num_contexts == 6
    assert np.allclose(told(basins, symbols, lengths), before, atol=1e-7)
    other = store(twins=True, bits=4, tables=4)
    other.load_state(basins.state())
    assert same(basins, other) and np.array_equal(told(other, symbols, lengths), told(basins, symbols, lengths))
    # The first context gives the key; it stays when what followed it goes.
    first = at == 0
    gone = symbols[at][first], lengths[at][first], words[first], counts[at, words][first]
    for store_ in (basins, other):
        store_.unlearn(*gone)
    other.load_state(other.state())
    rest = told(basins, symbols, lengths)
    assert np.array_equal(rest, told(other, symbols, lengths)) and not np.allclose(rest, before, atol=1e-3)
    with pytest.raises(DataError, match="did not follow"):
        basins.unlearn(*gone)
    assert basins.unite(alike=1.0, near=-1.0) > 0


def test_damaged_states_are_refused() -> None:
    basins, good = store(), store()
    good.learn(*pairs(40))
    state = good.state()
    damages = {
        "contexts": lambda a: np.where(a == a.max(), WORDS, a).astype(np.int32),
        "first": lambda a: a[::-1].copy(),
        "followed": lambda a: a * np.array([1, 1, 0], dtype=np.int32),
    }
    for name, damage in damages.items():
        with pytest.raises(CheckpointError, match="basins"):
            basins.load_state({**state, name: damage(state[name])})
        with pytest.raises(CheckpointError, match=f"basins/{name}"):
            basins.load_state({k: v for k, v in state.items() if k != name})
    assert basins.num_contexts == 0


@pytest.fixture(scope="module")
def split() -> WordSplit:
    return split_words(" ".join(load_text("pydoc").text.split()[:4000]))


@pytest.fixture(scope="module")
def model(split: WordSplit) -> HolographicModel:
    made = HolographicModel(HolographicConfig.model_validate(SMALL), split.tokenizer)
    made.learn_text(split.train)
    made.fit(split.train)
    return made


def logs(model: HolographicModel, split: WordSplit) -> torch.Tensor:
    whole = np.concatenate([split.train, split.test])
    return model.distributions(of_text(whole, np.zeros(1, np.int64), np.arange(3, len(whole), 40)))


def test_the_model_has_one_voice_more(model: HolographicModel, split: WordSplit) -> None:
    assert model.memories.experts[-1] == "neighbours" and model.mixture.gate.weights.shape[1] == len(
        model.memories.experts
    )
    found = logs(model, split)
    assert (found.exp().sum(1) - 1).abs().max() < 1e-5
    told = retrieve(model, split.train[:60].tolist())
    assert told.experts[-1] == "neighbours" and told.shares[0, -1] > 0 and np.allclose(told.shares.sum(1), 1)
    fresh = HolographicModel(model.config, split.tokenizer)
    assert (logs(fresh, split).exp().sum(1) - 1).abs().max() < 1e-5
    fresh.learn_text(split.train)
    reading = fresh.memories.read(of_text(split.train, np.zeros(1, np.int64), np.arange(5)))
    assert not fresh.memories.knowing(reading)[:, -1].any()


def test_the_model_comes_back_learns_and_forgets(model: HolographicModel, split: WordSplit) -> None:
    before, state = logs(model, split), state_of(model)
    again = HolographicModel(model.config, split.tokenizer)
    load_into(again, state)
    assert torch.equal(before, logs(again, split))
    again.learn_text(split.test)
    assert not torch.equal(before, logs(again, split))
    again.unlearn_text(split.test)
    assert torch.equal(before, logs(again, split))
    assert all(
        torch.equal(v, state_of(again)[k]) for k, v in state.items() if isinstance(v, torch.Tensor) and "basins" in k
    )
    with pytest.raises(CheckpointError, match="basins/first"):
        load_into(again, {k: v for k, v in state.items() if k != "basins/first"})
    assert not [k for k in resized(state, split.tokenizer) if k.startswith("basins/")]
    merge_into(again, model)
    assert again.memories.basins is None


def test_a_pair_that_only_neighbours_lack_is_refused_and_nothing_changes(
    model: HolographicModel, split: WordSplit
) -> None:
    again = HolographicModel(model.config, split.tokenizer)
    load_into(again, state_of(model))
    assert again.memories.basins is not None
    symbols, lengths = of_text(split.train, np.zeros(1, np.int64)).symbols(again.memories.near)
    ones = np.ones(1, dtype=np.int64)
    again.memories.basins.unlearn(symbols[50:51], lengths[50:51], split.train[50:51], ones)
    state = state_of(again)
    with pytest.raises(DataError, match="did not follow"):
        again.unlearn_text(split.train)
    found = state_of(again)
    grams = again.memories.counts.grams(3)
    assert torch.equal(state["basins/followed"], found["basins/followed"]) and len(grams[1])
    assert torch.equal(torch.as_tensor(state["unigram"]), torch.as_tensor(found["unigram"]))
    again.memories.basins.learn(symbols[50:51], lengths[50:51], split.train[50:51], ones)
    assert torch.allclose(logs(again, split), logs(model, split), atol=1e-6)


def test_a_sleep_unites_only_what_costs_little(
    model: HolographicModel, split: WordSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, state = logs(model, split), state_of(model)
    report = sleep(model, split.train, alike=0)
    assert report.united == 0 and report.loss_before is None and torch.equal(before, logs(model, split))
    monkeypatch.setattr(sleeping, "NEAR", (-1.0,))
    report = sleep(model, split.train, alike=1.0, bound=0.0)
    assert report.united == 0 and report.loss_after > report.loss_before and torch.equal(before, logs(model, split))
    assert not report.kept
    # What was undone is told, and the loss is that of what stays.
    with monkeypatch.context() as patch:
        patch.setattr(sleeping, "_forget", lambda *_: (1.0, 1.001, 7, 3))
        report = sleep(model, split.train, least=2, alike=1.0, bound=0.0)
        assert (report.kept, report.dropped, report.united) == (False, 7, 0)
        assert (report.loss_before, report.loss_after) == (1.0, 1.001)
        patch.setattr(sleeping, "_forget", lambda *_: (1.0, 999.0, 0, 0))
        assert not sleep(model, split.train, least=2, alike=1.0, bound=0.0).kept
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        patch.setattr(sleeping, "_forget", lambda *_: (1.0, 999.0, 0, 0))
        report = sleep(model, split.train, least=2)
        assert not report.kept and report.united > 0 and report.loss_after is not None and report.loss_after < 999
    load_into(model, state)
    report = sleep(model, split.train)
    assert report.kept
    assert report.loss_before is not None and report.loss_after is not None
    assert report.united > 0 and report.loss_after <= report.loss_before + math.log1p(0.01)
    model.learn_text(split.test)
    model.unlearn_text(split.test)
    load_into(model, state)
    assert torch.equal(before, logs(model, split))


def test_the_plan_holds_them(model: HolographicModel, split: WordSplit) -> None:
    plan = memory_plan(model.config, model.vocab_size, words=len(split.train))
    taken = model.stats()["basins"]
    assert 0.6 * plan.fixed["basins"] < taken <= plan.fixed["basins"]
    assert "basins" not in memory_plan(HolographicConfig(), model.vocab_size).fixed
    # Of a checkpoint, which copies words of contexts and what followed, but not keys.
    plain = model.config.model_copy(update={"basins": BasinsConfig()})
    without = memory_plan(plain, model.vocab_size, words=len(split.train))
    copied = (plan.making["checkpoint"] - without.making["checkpoint"]) / WAITING
    arrays = [t for n, t in state_of(model).items() if n.startswith("basins/") and isinstance(t, torch.Tensor)]
    written = sum(t.numel() * t.element_size() for t in arrays)
    assert len(arrays) == 3 and 0.6 * copied < written <= copied


def test_what_would_not_be_read_or_cannot_fit_is_refused() -> None:
    with pytest.raises(ValidationError, match="no budget holds"):
        HolographicConfig.model_validate({"basins": {"enabled": True}, "memory": 512})
    with pytest.raises(ValidationError, match=r"basins\.enabled to false"):
        HolographicConfig.model_validate(
            {
                "basins": {"enabled": True},
                "counts": {"classes": []},
                "mixture": {"pool": "logarithmic", "product": "none"},
            }
        )
