"""Characters: spelled contexts, orders side by side, the logarithmic pool, and the model that they make."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.data.kneser_ney import KneserNey, NGramCounts
from holonomy.data.text import load_text
from holonomy.data.tokenizer import CharTokenizer
from holonomy.data.words import WordSplit, split_characters, split_words, tokenizer_from_json
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.metrics import predict, report_of
from holonomy.models.holographic.model import BlockReader, HolographicModel
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.pooling import Pool
from holonomy.models.holographic.recency import Recency, Trace
from holonomy.models.holographic.retrieval import retrieve_batch
from holonomy.models.holographic.spelling import REACH, spelled
from holonomy.models.holographic.storage import load_into, merge_into, state_of
from holonomy.models.holographic.voices import Voices, logarithm
from holonomy.recipes import holographic_chars

ONE = np.zeros(1, dtype=np.int64)
VALUES = holographic_chars().model.model_dump()
CONFIG = HolographicConfig.model_validate(
    {**VALUES, "mixture": {**VALUES["mixture"], "positions": 3000, "rehearsal": 0.0}}
)


def pydoc(length: int) -> WordSplit:
    return split_characters(load_text("pydoc").text[:length], unk=True)


@pytest.fixture(scope="module")
def split() -> WordSplit:
    return pydoc(40_000)


@pytest.fixture(scope="module")
def model(split: WordSplit) -> HolographicModel:
    found = HolographicModel(CONFIG, split.tokenizer)
    found.learn_text(split.train)
    found.fit(split.train)
    return found


def test_both_tokenizers_say_what_the_model_asks() -> None:
    chars, words = split_characters("Ab b\nc" * 9), split_words("one two one two three " * 9)
    tokenizer = chars.tokenizer
    assert isinstance(tokenizer, CharTokenizer)
    assert tokenizer.pad_id == tokenizer.vocab_size == 5
    assert tokenizer.spelling.letters.tolist() == [0, 0, 3, 4, 5]
    assert tokenizer.spelling.breaks.tolist() == [True, False, False, False, False]
    assert (words.tokenizer.pad_id, words.tokenizer.unknown_id, words.tokenizer.spelling) == (1, 0, None)
    assert chars.unknown_shares == (0.0, 0.0)
    assert CharTokenizer.from_text("ab", unk=True).unknown_id == 2
    for split in (chars, words):
        again = tokenizer_from_json(split.tokenizer.to_json())
        assert type(again) is type(split.tokenizer) and again.fingerprint == split.tokenizer.fingerprint
    with pytest.raises(CheckpointError, match="not a stored tokenizer"):
        tokenizer_from_json("[]")
    with pytest.raises(DataError, match="'z'.*data.unk=true"):
        split_characters("a" * 9 + "z")
    with pytest.raises(DataError, match="too few"):
        split_characters("a")


def begun(text: str) -> tuple[list[str], int]:
    """Words of a text with what stands behind each, the last first, and its column: by regular expressions."""
    pieces = re.findall(r"[\w']+[^\w']*|^[^\w']+", text)
    return [p.lower() for p in pieces[::-1]] + [""] * 4, len(text) - text.rfind("\n") - 1


def test_spelled_symbols_are_equal_where_words_are() -> None:
    text = "The cat, the hat;\nthe cat's Hat the cat\n\nthe cat, the hat;\nThe cat" * 3
    tokenizer = CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    contexts = of_text(ids, ONE)
    sources = ("word0", "column", "word2", "char2")
    alone, symbols = spelled(contexts, tokenizer.spelling, [("word0", "column"), sources])
    assert np.array_equal(alone, spelled(contexts, tokenizer.spelling, [("word0", "column")])[0])
    assert symbols.min() >= 0 and symbols.max() < 2**31 - 1
    expected = []
    for end in range(len(text)):
        words, column = begun(text[max(0, end - REACH) : end])
        column = min(column, min(end, REACH)) if "\n" in text[max(0, end - REACH) : end] else min(end, REACH)
        expected.append((words[0], column, words[2], text[end - 2] if end >= 2 else ""))
    for place in range(len(sources)):
        column = symbols[:, len(sources) - 1 - place]
        for end in range(len(text)):
            same = np.array([e[place] == expected[end][place] for e in expected])
            assert ((column == column[end]) == same).all(), (sources[place], end)
    assert len({int(symbols[0, j]) for j in range(4)}) == 4


def test_orders_side_by_side_are_those_of_shorter_contexts(split: WordSplit) -> None:
    ids, size = split.train[:5000], split.tokenizer.vocab_size
    trie = CountTrie(6, size)
    contexts = of_text(ids, ONE)
    trie.learn(Pairs(*contexts.symbols(5), ids, np.ones(len(ids), np.int64)))
    asked = of_text(split.test[:300], ONE)
    found = trie.find(*asked.symbols(5))
    shuffled = np.random.default_rng(0).permutation(300)
    assert (trie.find(*asked.part(shuffled).symbols(5)) == found[shuffled]).all(), "a place knows the one before it"
    out = np.empty((300, 5, size), dtype=np.float32)
    trie.ladder(found, 2, out)
    for order in range(2, 7):
        cut = found.copy()
        cut[:, order:] = -1
        assert np.abs(out[:, order - 2] - trie.dense(cut)).max() < 1e-6
    assert np.abs(out.sum(2) - 1).max() < 1e-5
    sorted_arrays = KneserNey(NGramCounts(ids, order=6, vocab_size=size), order=6).token_losses(split.test[:300])
    own = -np.log(out[np.arange(300), 4, split.test[:300]])
    assert np.abs(own - sorted_arrays).max() < 1e-3


@pytest.mark.parametrize("traces", [((3, 50, 20.0), (5, 90, 30.0)), ((0, 40, 9.0), (2, 60, 30.0)), ((3, 2, 3.0),)])
def test_chained_traces_are_those_of_a_search(traces: tuple[tuple[int, int, float], ...]) -> None:
    random = np.random.default_rng(0)
    tokens, ends = random.integers(0, 4, 500), np.sort(random.choice(500, 100))
    recency = Recency(tuple(Trace(*t) for t in traces))
    for begins in (np.zeros_like(ends), np.maximum(0, ends - random.integers(0, 200, 100))):
        found = recency.scatter(tokens, begins, ends, 4)
        for k in range(len(traces)):
            weights, wanted = np.zeros((100, len(traces))), np.zeros((100, 4))
            weights[:, k] = 1
            recency.spread(tokens, begins, ends, weights, wanted)
            assert np.abs(wanted - found[:, k]).max() < 1e-12
            assert wanted.any()


def test_the_pool_finds_the_exponents_that_made_the_targets() -> None:
    random = np.random.default_rng(0)
    logs = np.log(random.dirichlet(np.ones(6), (6000, 2))).astype(np.float32)
    side = random.integers(0, 2, 6000)
    numbers = np.stack([np.ones(6000), side], 1)
    exponents = np.where(side[:, None] == 1, (1.4, 0.2), (0.3, 0.9))
    q = np.exp((exponents[:, :, None] * logs).sum(1))
    q /= q.sum(1, keepdims=True)
    targets = (q.cumsum(1) < random.random((6000, 1))).sum(1)
    pool = Pool.fit(logs, targets, numbers, prior=1e-3, steps=20)
    assert np.abs(pool.scores(np.array([[1.0, 1.0], [1.0, 0.0]])) - [[1.4, 0.2], [0.3, 0.9]]).max() < 0.12
    assert np.allclose(pool(logs, numbers).sum(1), 1, atol=1e-5)
    # Autograd knows nothing of covariances: at the maximum its gradient vanishes too.
    x, y = torch.from_numpy((numbers - pool.mean) / pool.scale), torch.from_numpy(targets)
    weights = torch.from_numpy(pool.weights.copy()).requires_grad_()
    scores = torch.einsum("nd,dc,ncv->nv", x, weights, torch.from_numpy(logs).double())
    torch.nn.functional.cross_entropy(scores, y).backward()
    assert weights.grad is not None and float(weights.grad.abs().max()) < 1e-4
    with pytest.raises(DataError, match="row 3 is not finite"):
        Pool.fit(np.where(np.arange(9)[:, None, None] == 3, -np.inf, logs[:9]), targets[:9], numbers[:9])
    with pytest.raises(DataError, match="wanted"):
        Pool.fit(logs, targets[:5], numbers)
    with pytest.raises(CheckpointError, match="scale"):
        Pool.from_state({"mean": pool.mean}, 2, 2)


def test_voices_multiplied_as_they_are_read_are_the_pool_of_stored_ones(
    model: HolographicModel, split: WordSplit
) -> None:
    memories, pool = model.memories, model.mixture.pool
    assert pool is not None
    texts = of_text(np.concatenate([split.train[-200:], split.test[:1200]]), ONE)
    for asked in (texts, of_text(split.test[:50], ONE), of_text(np.concatenate([split.test[:9]] * 3), ONE)):
        reading = memories.read(asked)
        wanted = np.log(pool(memories.panel(reading), reading.numbers))
        found = memories.pooled_logs(reading, pool.scores(reading.numbers))
        assert np.abs(found - wanted).max() < 2e-5
    held = copy.deepcopy(memories)
    held.learn(texts.part(slice(200, 400)), texts.tokens[200:400], np.ones(200, np.int64))
    for packing in (False, True):
        if packing:
            held.pack()
        reading = held.read(texts)
        wanted = np.log(pool(held.panel(reading), reading.numbers))
        assert np.abs(held.pooled_logs(reading, pool.scores(reading.numbers)) - wanted).max() < 2e-5


def test_logarithms_are_those_of_the_library() -> None:
    probs = np.exp(np.random.default_rng(0).uniform(-80, 3, 4000)).astype(np.float32)
    out, whole = np.empty_like(probs), np.empty(4000, dtype=np.int32)
    logarithm()(probs.view(np.int32), whole, whole.view(np.float32), out)
    wanted = np.log(probs.astype(np.float64))
    assert (np.abs(out - wanted) <= 1.5 * np.spacing(np.abs(wanted).astype(np.float32)) + 1e-9).all()


def test_normalised_sums_are_those_of_the_library() -> None:
    for size in (3, 16, 65):
        spoken = Voices(200, size)
        spoken.sums[:, :size] = np.random.default_rng(size).normal(-30, 40, (200, size))
        wanted = torch.from_numpy(spoken.sums[:, :size].astype(np.float64)).log_softmax(1).numpy()
        found = spoken.normalised()
        assert found.shape == (200, size) and np.abs(found - wanted).max() < 4e-5
        assert np.abs(np.exp(found.astype(np.float64)).sum(1) - 1).max() < 1e-5


def test_characters_are_predicted_better_than_by_kneser_ney(model: HolographicModel, split: WordSplit) -> None:
    tokens, cut = np.concatenate([split.train, split.test]), len(split.train)
    static = predict(model, tokens, np.arange(cut, len(tokens)))
    counts = NGramCounts(split.train, order=7, vocab_size=model.vocab_size)
    plain = min(float(KneserNey(counts, order=n).token_losses(tokens)[cut:].mean()) for n in (5, 6, 7))
    assert float(static.losses.mean()) < 0.9 * plain
    report = report_of(model, static)
    assert report.calibration < 0.08 and report.separation > 0.75
    before = state_of(model)
    online = predict(model, tokens, np.arange(cut, len(tokens)), online=True)
    assert float(online.losses.mean()) < float(static.losses.mean())
    again = predict(model, tokens, np.arange(cut, cut + 500))
    assert np.abs(again.losses - static.losses[:500]).max() < 1e-5, "what was read is forgotten"
    assert before.keys() == state_of(model).keys()


def test_learning_while_reading_is_asking_and_learning_block_after_block(
    model: HolographicModel, split: WordSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, cut = np.concatenate([split.train, split.test]), len(split.train)
    contexts, targets = of_text(tokens, ONE, np.arange(cut, cut + 500)), tokens[cut : cut + 500]
    slow, fast = copy.deepcopy(model), copy.deepcopy(model)
    wanted = []
    for begin in range(0, 500, 64):
        part = slice(begin, begin + 64)
        wanted.append(slow.distributions(contexts.part(part)))
        slow.change(contexts.part(part), targets[part], sign=1)
    monkeypatch.setattr(HolographicModel, "rows", property(lambda _: 150))
    assert torch.equal(fast.follow(contexts, targets, 64), torch.cat(wanted))
    for name, tensor in state_of(slow).items():
        other = state_of(fast)[name]
        assert torch.equal(tensor, other) if isinstance(tensor, torch.Tensor) else tensor == other
    assert not torch.equal(fast.follow(contexts, targets, 500), torch.cat(wanted)), "what was learned is known"
    reader = BlockReader(fast, contexts, 64)
    with pytest.raises(DataError, match="`targets` has 64 words; 0 contexts"):
        reader.learn(targets[:64])
    assert len(reader.ask()) == 64
    with pytest.raises(DataError, match="`targets` has 3 words; 64 contexts"):
        reader.learn(targets[:3])


def test_probabilities_sum_to_one_and_the_pad_has_none(model: HolographicModel, split: WordSplit) -> None:
    size, pad = model.vocab_size, model.pad_id
    random = np.random.default_rng(0)
    rows = random.integers(0, size, (2000, 30))
    lengths = random.integers(0, 31, 2000)
    logs = model.next_log_probs(rows, lengths)
    assert logs.shape == (2000, size)
    assert float((logs.double().exp().sum(1) - 1).abs().max()) < 1e-5
    padded = np.where(np.arange(30) < 30 - lengths[:, None], pad, rows)
    assert torch.equal(model.next_log_probs(padded), logs)
    with pytest.raises(DataError, match=f"holds {pad + 1}; wanted 0 to {pad}"):
        model.next_log_probs(padded + 1)
    with pytest.raises(DataError, match=f"wanted 0 to {size - 1}"):
        model.learn_batch(rows[:1], np.array([pad]))
    ids = torch.from_numpy(split.test[:80])[None]
    whole, state, parts = model.log_probs(ids), model.start(1), []
    for part in ids.split([1, 30, 49], 1):
        found, state = model.advance(part, state)
        parts.append(found)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)


def test_answers_name_their_source(model: HolographicModel, split: WordSplit) -> None:
    found = retrieve_batch(model, split.test[:2000].reshape(50, 40))
    assert np.allclose(found.shares.sum(1), 1)
    assert set(found.sources) <= {*found.experts, "prior"} and "spelled flow0-flow2" in found.experts


def test_characters_are_stored_merged_and_unlearned() -> None:
    split = pydoc(12_000)
    half = len(split.train) // 2
    parts = split.train[:half], split.train[half:]
    both, first, second = (HolographicModel(CONFIG, split.tokenizer) for _ in range(3))
    both.learn_text(split.train, np.array([0, half]))
    first.learn_text(parts[0])
    second.learn_text(parts[1])
    ids = torch.from_numpy(split.test[:300])[None]
    alone = first.log_probs(ids)
    merge_into(first, second)
    first.fit(split.train, np.array([0, half]))
    both.fit(split.train, np.array([0, half]))
    assert torch.allclose(first.log_probs(ids), both.log_probs(ids), atol=1e-5)
    loaded = HolographicModel(CONFIG, split.tokenizer)
    load_into(loaded, state_of(both))
    assert torch.equal(loaded.log_probs(ids), both.log_probs(ids))
    damaged = {k: v for k, v in state_of(both).items() if k != "pool/weights"}
    with pytest.raises(CheckpointError, match="pool/weights"):
        load_into(loaded, damaged)
    second.learn_text(parts[0])
    second.unlearn_text(parts[1])
    assert torch.equal(second.log_probs(ids), alone), "integers forget to the last bit"


def test_what_does_not_fit_together_is_refused(split: WordSplit) -> None:
    values = CONFIG.model_dump()
    for change, words in (
        ({"counts": {**values["counts"], "classes": (8,)}}, "counts.classes to"),
        ({"counts": {**values["counts"], "spelled": (("word9",),)}}, "word9"),
        ({"mixture": {**values["mixture"], "product": "all"}}, "mixture.product to none"),
        ({"mixture": {**values["mixture"], "lowest": 8}, "counts": {**values["counts"], "order": 5}}, "lowest = 8"),
    ):
        with pytest.raises(ValidationError, match=words):
            HolographicConfig.model_validate({**values, **change})
    with pytest.raises(ConfigError, match="data.tokens=chars"):
        HolographicModel(CONFIG, split_words("one two one two three " * 9).tokenizer)


def test_the_superposed_store_takes_characters(split: WordSplit) -> None:
    values = CONFIG.model_dump()
    values["tower"] = {"levels": 4, "channels": 8}
    model = HolographicModel(HolographicConfig.model_validate(values), split.tokenizer)
    model.learn_text(split.train[:8000])
    model.fit(split.train[:8000])
    found = retrieve_batch(model, split.test[:800].reshape(20, 40))
    assert found.divergence.max() > 0 and (found.coherence >= 0).all()


@pytest.mark.slow
def test_shakespeare_below_kneser_ney() -> None:
    split = split_characters(load_text("tinyshakespeare").text)
    config = holographic_chars("tinyshakespeare").model
    counts = NGramCounts(split.train, order=7, vocab_size=split.tokenizer.vocab_size)
    assert abs(KneserNey(counts, order=7).loss(split.test) - 1.5165) < 0.002
    model = HolographicModel(config, split.tokenizer)
    model.learn_text(split.train)
    model.fit(split.train)
    tokens = np.concatenate([split.train, split.test])
    assert float(predict(model, tokens, np.arange(len(split.train), len(tokens))).losses.mean()) <= 1.46
