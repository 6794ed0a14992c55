"""The whole model: one scoring path, exact forgetting, figures on a real text, and wrong input."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
import torch

from holonomy.core.errors import DataError
from holonomy.data.kneser_ney import KneserNey, NGramCounts
from holonomy.data.text import load_text
from holonomy.data.words import WordSplit, WordTokenizer, split_words
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.metrics import (
    bootstrap,
    calibration_error,
    calibration_floor,
    predict,
    report_of,
    separation,
)
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.storage import state_of

SMALL = HolographicConfig.model_validate(
    {
        "tower": {"levels": 4, "channels": 8},
        "counts": {"classes": [8], "skips": [[1, 3]]},
        "similarity": {"dim": 16},
        "mixture": {"blocks": 2, "block_share": 0.1, "product_steps": 12, "em_steps": 40},
        "batch_size": 500,
    }
)


def text(words: int = 4000) -> WordSplit:
    return split_words(" ".join(load_text("pydoc").text.split()[:words]))


@pytest.fixture(scope="module")
def split() -> WordSplit:
    return text()


@pytest.fixture(scope="module")
def model(split: WordSplit) -> HolographicModel:
    made = HolographicModel(SMALL, split.tokenizer)
    made.learn_text(split.train)
    made.fit(split.train)
    return made


def fresh(split: WordSplit, config: HolographicConfig = SMALL) -> HolographicModel:
    return HolographicModel(config, split.tokenizer)


def many_contexts(split: WordSplit) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ten thousand contexts of 0 to 3,000 words in three widths: any words, words of the text, unknown ones alone."""
    random, found = np.random.default_rng(0), list[tuple[np.ndarray, np.ndarray]]()
    for rows, width in ((5_000, 30), (4_000, 400), (1_000, 3_000)):
        ids = random.integers(2, split.tokenizer.vocab_size, (rows, width))
        for row in range(0, rows, 2):
            ids[row] = np.resize(np.roll(split.train, -int(random.integers(len(split.train)))), width)
        ids[::10] = split.tokenizer.unknown_id
        lengths = random.integers(0, width + 1, rows)
        lengths[:20], lengths[20:400] = 0, width
        found.append((ids, lengths))
    return found


@pytest.mark.parametrize("product", ["episodic", "all", "none"])
def test_probabilities_sum_to_one(split: WordSplit, product: str) -> None:
    mixture = {**SMALL.mixture.model_dump(), "product": product}
    config = HolographicConfig.model_validate({**SMALL.model_dump(), "mixture": mixture})
    made, asked = fresh(split, config), many_contexts(split)
    assert sum(len(ids) for ids, _ in asked) == 10_000
    for trained in (False, True):
        if trained:
            made.learn_text(split.train)
            made.fit(split.train)
        assert made.mixture.calibrated == trained
        for ids, lengths in asked:
            assert (made.next_log_probs(ids, lengths).exp().sum(1) - 1).abs().max() < 1e-5


def test_all_ways_to_ask_agree(model: HolographicModel, split: WordSplit) -> None:
    rows = torch.from_numpy(split.test[:120].reshape(4, 30).copy())
    whole = model.log_probs(rows)
    state = model.start(4)
    for place in range(30):
        stepped, state = model.step(rows[:, place], state)
        assert torch.allclose(stepped, whole[:, place], atol=1e-5)
    filled, state = model.prefill(rows[:, :20], model.start(4))
    assert torch.allclose(filled, whole[:, 19], atol=1e-5)
    assert torch.allclose(model.step(rows[:, 20], state)[0], whole[:, 20], atol=1e-5)
    one = torch.cat([model.next_log_probs(rows[b : b + 1, :9].numpy()) for b in range(4)])
    assert torch.allclose(one, whole[:, 8], atol=1e-5)
    padded = np.concatenate([np.full((4, 5), 1), rows[:, :9].numpy()], 1)
    assert torch.allclose(model.next_log_probs(padded), one, atol=1e-6)
    ragged = np.concatenate([np.full((4, 5), 7), rows[:, :9].numpy()], 1)
    assert torch.allclose(model.next_log_probs(ragged, np.full(4, 9)), one, atol=1e-6)
    tokens = np.concatenate([split.train, split.test])
    positions = len(split.train) + np.array([0, 3, 70])
    scored = model.score(tokens, positions)
    for found, at in zip(scored, positions, strict=True):
        assert torch.isclose(found, model.next_log_probs(tokens[None, :at])[0, tokens[at]], atol=1e-5)


def test_pieces_begin_anew_after_a_pad(model: HolographicModel, split: WordSplit) -> None:
    ids = torch.from_numpy(split.test[:24].reshape(2, 12).copy())
    ids[0, 4], ids[1, 9] = model.pad_id, model.pad_id
    whole, state = model.log_probs(ids), model.start(2)
    for part in ids.split([3, 4, 5], 1):
        found, state = model.advance(part, state)
        torch.testing.assert_close(found, whole[:, : part.shape[1]], atol=1e-4, rtol=1e-5)
        whole = whole[:, part.shape[1] :]
    apart = model.next_log_probs(ids[1:, 10:].numpy())
    torch.testing.assert_close(found[1:, -1], apart, atol=1e-4, rtol=1e-5)


def test_rows_of_experts_agree_with_their_targets(model: HolographicModel, split: WordSplit) -> None:
    from holonomy.models.holographic.contexts import of_text

    tokens = np.concatenate([split.train, split.test])
    positions = np.arange(len(split.train), len(split.train) + 40)
    reading = model.memories.read(of_text(tokens, np.zeros(1, np.int64), positions))
    probs, known = model.memories.target_probs(reading, tokens[positions])
    assert known[:, :-1].any(0).all() and len(model.memories.experts) == probs.shape[1]
    for column in range(probs.shape[1]):
        weights = np.zeros_like(probs)
        weights[:, column] = 1.0
        dense = model.memories.mix(reading, weights, counts=True)
        assert np.allclose(dense.sum(1), known[:, column], atol=1e-4)
        assert np.allclose(dense[np.arange(40), tokens[positions]], probs[:, column] * known[:, column], atol=1e-5)


def test_words_are_learned_block_after_block_while_they_are_read(model: HolographicModel, split: WordSplit) -> None:
    from holonomy.models.holographic.contexts import of_text

    tokens, cut = np.concatenate([split.train, split.test]), len(split.train)
    contexts, targets = of_text(tokens, np.zeros(1, np.int64), np.arange(cut, cut + 200)), tokens[cut : cut + 200]
    slow, fast, wanted = copy.deepcopy(model), copy.deepcopy(model), []
    for begin in range(0, 200, 64):
        part = slice(begin, begin + 64)
        wanted.append(slow.distributions(contexts.part(part)))
        slow.change(contexts.part(part), targets[part], sign=1)
    assert torch.equal(fast.follow(contexts, targets, 64), torch.cat(wanted))
    assert fast.mirror is not None and slow.mirror is not None
    assert torch.equal(fast.mirror.tower.store, slow.mirror.tower.store)
    assert np.array_equal(fast.memories.counts.state()["inner"], slow.memories.counts.state()["inner"])


def test_learning_in_any_form_is_the_same(split: WordSplit) -> None:
    whole, single = fresh(split), fresh(split)
    some = split.train[:150]
    whole.learn_text(some)
    for i, word in enumerate(some.tolist()):
        single.learn(some[max(0, i - 9) : i].tolist(), word)
    probe = split.test[:40][None]
    assert torch.equal(whole.next_log_probs(probe), single.next_log_probs(probe))
    assert whole.mirror is not None and single.mirror is not None
    assert torch.equal(whole.mirror.tower.store, single.mirror.tower.store)
    assert torch.equal(whole.mirror.tower.load, single.mirror.tower.load)
    heavy = fresh(split)
    heavy.learn_batch(np.array([[5, 6], [5, 6]]), np.array([7, 7]), np.array([2, 3]))
    light = fresh(split)
    for _ in range(5):
        light.learn([5, 6], 7)
    assert torch.equal(heavy.next_log_probs(np.array([[5, 6]])), light.next_log_probs(np.array([[5, 6]])))
    assert heavy.mirror is not None and not heavy.mirror.tower.store.any()


def test_forgetting_leaves_no_trace(split: WordSplit) -> None:
    kept, gone = split.train[:1200], split.train[1200:2500]
    made, alone = fresh(split), fresh(split)
    made.learn_text(kept)
    made.learn_text(gone)
    made.unlearn_text(gone)
    alone.learn_text(kept)
    assert made.mirror is not None and alone.mirror is not None
    assert torch.equal(made.mirror.tower.store, alone.mirror.tower.store)
    probe = split.test[:60].reshape(3, 20)
    assert torch.equal(made.next_log_probs(probe), alone.next_log_probs(probe))
    for each in (made, alone):
        each.consolidate(kept)
    assert torch.allclose(made.next_log_probs(probe), alone.next_log_probs(probe), atol=1e-4)
    with pytest.raises(DataError, match="was not learned that often"):
        made.unlearn_text(np.concatenate([kept, gone]))
    assert torch.allclose(made.next_log_probs(probe), alone.next_log_probs(probe), atol=1e-4)


def test_pairs_are_taken_away_as_they_came_or_not_at_all(split: WordSplit) -> None:
    made, alone = fresh(split), fresh(split)
    for each in (made, alone):
        each.learn_text(split.train[:300])
    rows, targets, weights = np.array([[5, 6], [6, 5], [5, 6]]), np.array([7, 8, 9]), np.array([4, 5, 1])
    made.learn_batch(rows, targets, weights)
    probe = np.concatenate([rows, split.test[:20].reshape(10, 2)])
    taught = made.next_log_probs(probe)
    assert made.mirror is not None and alone.mirror is not None
    store = made.mirror.tower.store.clone()
    for few in (np.array([7, 8, 11]), np.array([9, 8, 7])):
        with pytest.raises(DataError):
            made.unlearn_batch(rows, few, weights)
        assert torch.equal(made.next_log_probs(probe), taught)
        assert torch.equal(made.mirror.tower.store, store)
    made.unlearn_batch(rows, targets, weights)
    assert torch.equal(made.next_log_probs(probe), alone.next_log_probs(probe))
    assert torch.equal(made.mirror.tower.store, alone.mirror.tower.store)


def test_what_one_of_the_memories_lacks_changes_none_of_them(split: WordSplit) -> None:
    made, twice, once = fresh(split), split.train[:600], split.train[600:1500]
    for part in (twice, twice, once):
        made.learn_text(part)
    skips = made.memories.grams[1].trie
    assert skips.prune(2, lowest=3) > 0
    before, learned = state_of(made), skips.learned
    with pytest.raises(DataError, match="was not learned that often"):
        # The first batch could go, and of the others all that is in the counts of words in a row.
        made.unlearn_text(np.concatenate([twice, once]), np.array([0, len(twice)]))
    after = state_of(made)
    assert skips.learned == learned and before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name], name


def test_it_beats_kneser_ney_and_learns_while_reading() -> None:
    split = text(30_000)
    config = HolographicConfig.model_validate({"tower": {"role": "off"}, "mixture": {"blocks": 2, "product_steps": 12}})
    made = HolographicModel(config, split.tokenizer)
    made.learn_text(split.train)
    made.fit(split.train)
    tokens = np.concatenate([split.train, split.test])
    positions = np.arange(len(split.train), len(tokens))
    plain = KneserNey(NGramCounts(split.train, order=5, vocab_size=made.vocab_size), order=5)
    baseline = plain.token_losses(tokens)[positions].mean()
    before = made.score(tokens, positions[:50])
    static, online = predict(made, tokens, positions), predict(made, tokens, positions, online=True)
    assert torch.equal(before, made.score(tokens, positions[:50]))
    assert static.losses.mean() < baseline - 0.4
    assert online.losses.mean() < static.losses.mean()
    assert np.allclose(static.losses, -made.score(tokens, positions).numpy(), atol=1e-5)
    report = report_of(made, static)
    assert report.words == len(split.test) and report.calibrated and report.separation > 0.7
    assert abs(report.unknown - (split.test == 0).mean()) < 1e-12
    assert report.top1 <= report.reciprocal_rank and report.top1 < report.top5


def test_measures_of_honesty() -> None:
    random = np.random.default_rng(5)
    confidence = random.random(20_000)
    right = (random.random(20_000) < confidence).astype(float)
    assert calibration_error(confidence, right) < 0.02
    assert abs(calibration_error(confidence, right) - calibration_floor(confidence)) < 0.005
    assert abs(calibration_error(np.full(1000, 0.9), np.zeros(1000)) - 0.9) < 1e-9
    pairs = [(a > b) + (a == b) / 2 for a in (0.2, 0.8, 0.8) for b in (0.8, 0.1)]
    score, truth = np.array([0.2, 0.8, 0.8, 0.8, 0.1]), np.array([1, 1, 1, 0, 0])
    assert abs(separation(score, truth) - np.mean(pairs)) < 1e-12
    low, high = bootstrap(random.normal(3, 1, 6400))
    assert low < 3 < high and abs((high - low) / (2 * 1.96 / 80) - 1) < 0.3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ids": np.array([[99_999, 2]])}, "`ids` row 0 holds 99999"),
        ({"targets": np.array([-1])}, "`targets` row 0"),
        ({"targets": np.array([1])}, "the pad"),
        ({"targets": np.array([2, 3])}, "`targets` has shape"),
        ({"targets": [[4], [5, 6]]}, "`targets` row 1 has 2 number.* row 0 has 1"),
        ({"weights": np.array([0])}, "`weights` row 0 holds 0; wanted 1 to"),
        ({"weights": np.array([2, 3])}, "`weights` .2"),
        ({"weights": np.array([np.nan])}, "`weights` row 0 holds nan; wanted 1 to .* whole"),
        ({"weights": np.array([2**63 + 1], dtype=np.uint64)}, "`weights` row 0 holds 9223372036854775809"),
        ({"weights": ["2"]}, "`weights` is <U1"),
        ({"weights": np.array([2.0])}, "`weights` is float64"),
        ({"lengths": np.array([3])}, "`lengths` row 0 holds 3; wanted 0 to 2"),
        ({"lengths": np.array([0.5])}, "`lengths` row 0 holds 0.5; wanted 0 to 2 as whole"),
        ({"lengths": np.array([1, 1])}, r"`lengths` has shape \(2,\); wanted \(1,\)"),
        ({"ids": np.array([[2.0, np.nan]])}, "`ids` row 0 holds nan"),
        ({"ids": [[2, 3]] * 4 + [[4]] + [[2, 3]], "targets": [4] * 6}, "`ids` row 4 has 1 .* row 0 has 2.*`lengths`"),
        (
            {"ids": [[2, 3]] * 3, "targets": [4] * 3, "weights": [1, 2, -1]},
            "`weights` row 2 holds -1",
        ),
        (
            {"ids": [[2, 3]] * 3, "targets": [4] * 3, "lengths": [1, -2, 0]},
            "`lengths` row 1 holds -2",
        ),
        ({"ids": np.array([1.5, 2.0])}, "`ids` row 0 holds 1.5"),
    ],
)
def test_wrong_input_is_named_and_changes_nothing(split: WordSplit, change: dict, named: str) -> None:
    made = fresh(split)
    made.learn_text(split.train[:50])
    before = copy.deepcopy(state_of(made))
    for way in (made.learn_batch, made.unlearn_batch):
        with pytest.raises(DataError, match=named):
            way(**{"ids": np.array([[2, 3]]), "targets": np.array([4]), **change})
    after = state_of(made)
    assert after.keys() == before.keys()
    assert all(torch.equal(v, after[k]) if isinstance(v, torch.Tensor) else v == after[k] for k, v in before.items())
    with pytest.raises(DataError, match="starts"):
        made.learn_text(np.array([2, 3]), np.array([0, 5]))
    with pytest.raises(DataError, match="too few"):
        made.fit(np.array([2]))


def test_a_text_of_one_word() -> None:
    made = HolographicModel(SMALL, WordTokenizer(["a"]))
    made.learn_text(np.full(300, 2))
    made.fit(np.full(300, 2))
    assert made.next_log_probs(np.full((1, 5), 2)).argmax() == 2


@pytest.mark.slow
def test_targets_on_the_reference_of_python() -> None:
    content = load_text("pydoc").text
    if not hashlib.sha256(content.encode()).hexdigest().startswith("71f2ff5d"):
        pytest.skip("the reference text of another Python")
    split = split_words(content)
    made = HolographicModel(HolographicConfig(), split.tokenizer)
    made.learn_text(split.train)
    made.fit(split.train)
    tokens = np.concatenate([split.train, split.test])
    found = predict(made, tokens, np.arange(len(split.train), len(tokens)))
    assert np.exp(found.losses.mean()) <= 0.46 * 71.95
    report = found.report(split.tokenizer.vocab_size, 0)
    assert report.calibration <= max(0.02, report.floor + 0.01)
