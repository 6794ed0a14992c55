"""Batches, stored states and merged shards against one plain pass."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.core.learner import IGNORE_INDEX
from holonomy.data.kneser_ney import KneserNey, NGramCounts
from holonomy.data.tokens import TokenBatch
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.learner import HolographicLearner
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.storage import load_into, merge_into, state_of
from holonomy.models.holographic.tower import Tower

CONFIG = HolographicConfig.model_validate(
    {
        "tower": {"levels": 4, "channels": 4},
        "counts": {"classes": [4], "skips": [[1, 3]]},
        "similarity": {"dim": 16, "readout": True},
        "mixture": {"blocks": 2, "block_share": 0.1, "product_steps": 8, "em_steps": 20},
        "batch_size": 300,
    }
)
WORDS = 30


def tokens(count: int = 1500, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate(
        [np.roll(np.arange(2, WORDS), random.integers(9))[: random.integers(3, 12)] for _ in range(count // 7)]
    )


def made(config: HolographicConfig = CONFIG) -> HolographicModel:
    return HolographicModel(config, WordTokenizer([f"w{i}" for i in range(WORDS - 2)]))


def batch(rows: np.ndarray) -> TokenBatch:
    ids = torch.from_numpy(rows)
    targets = ids[:, 1:].clone()
    targets[0, -1] = IGNORE_INDEX
    return TokenBatch(ids[:, :-1].clone(), targets, int((targets >= 0).sum()))


def test_a_step_learns_each_window_as_a_text() -> None:
    learner, plain = HolographicLearner(made()), made()
    rows = tokens()[:330].reshape(10, 33)
    learner.setup(batch(rows))
    assert learner.model.memories.counts.num_grams == 0
    metrics = learner.train_step(batch(rows), progress=0.0)
    for row, words in enumerate(rows):
        for i in range(1, 33 - (row == 0)):
            plain.learn(words[:i].tolist(), int(words[i]))
    probe = tokens(seed=1)[:40][None]
    assert torch.equal(learner.model.next_log_probs(probe), plain.next_log_probs(probe))
    assert metrics.count == 319 and abs(float(metrics.loss) - np.log(WORDS)) < 1e-6
    again = learner.train_step(batch(rows), progress=0.5)
    assert float(again.loss) < 1.0 and again.extra["memory/grams"] == plain.memories.counts.num_grams
    learner.model.memories.counts.trim()
    found = learner.eval_step(batch(rows))
    logs = learner.model.log_probs(batch(rows).inputs)
    kept = batch(rows).targets >= 0
    expected = -logs[kept].gather(1, batch(rows).targets[kept][:, None]).mean()
    assert torch.isclose(found.loss, expected, atol=1e-5) and found.count == 319
    with pytest.raises(ConfigError, match="batch"):
        learner.setup(batch(rows + WORDS))
    with pytest.raises(ConfigError, match="rate"):
        learner.scale_rate(0.5)


@pytest.mark.parametrize("fitted", [False, True])
def test_a_stored_model_gives_the_same_bits(fitted: bool) -> None:
    model, again, text = made(), made(), tokens()
    model.learn_text(text)
    if fitted:
        model.fit(text)
    state = state_of(model)
    load_into(again, state)
    probe = tokens(seed=2)[:60].reshape(3, 20)
    assert torch.equal(model.next_log_probs(probe), again.next_log_probs(probe))
    for each in (model, again):
        each.learn_text(text[:100])
    assert torch.equal(model.next_log_probs(probe), again.next_log_probs(probe))
    assert all(torch.equal(a, b) for a, b in zip(*(tensors(m) for m in (model, again)), strict=True))
    before = again.next_log_probs(probe)
    for name, value in state.items():
        damaged = {k: v for k, v in state.items() if k != name}
        with pytest.raises(CheckpointError):
            load_into(again, damaged)
        if isinstance(value, torch.Tensor):
            with pytest.raises(CheckpointError):
                load_into(again, {**damaged, name: value[..., :-1] if value.dim() else value + 1})
    with pytest.raises(CheckpointError, match="foreign"):
        load_into(again, {**state, "foreign": torch.zeros(1)})
    other = HolographicModel(CONFIG, WordTokenizer([f"v{i}" for i in range(WORDS - 2)]))
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_into(other, state)
    assert torch.equal(before, again.next_log_probs(probe))


def test_a_checkpoint_from_before_confidences_were_kept_loads() -> None:
    model, again = made(), made()
    model.learn_text(tokens())
    model.fit(tokens())
    state = state_of(model)
    load_into(again, {**state, "holographic": {k: v for k, v in state["holographic"].items() if k != "confidences"}})
    probe = tokens(seed=2)[:60].reshape(3, 20)
    assert torch.equal(model.next_log_probs(probe), again.next_log_probs(probe))
    assert model.confidence_bound(0.2) > 0
    with pytest.raises(ConfigError, match="`abstain`.*earlier version"):
        again.confidence_bound(0.2)
    for wrong in ([float("nan")], ["1"], [1.5], 3):
        with pytest.raises(CheckpointError, match="confidences"):
            load_into(again, {**state, "holographic": {**state["holographic"], "confidences": wrong}})


@pytest.mark.parametrize("column", [False, True])
def test_a_checkpoint_from_before_topics_and_dropped_counts_loads(column: bool) -> None:
    model, again = made(), made()
    model.learn_text(tokens())
    state = state_of(model)
    gone = {"tilts", "topics", "confidences"} if column else {"tilts", "topics", "confidences", "forgotten"}
    meta = {k: v for k, v in state["holographic"].items() if k not in gone}
    config = json.loads(meta["config"])
    del config["similarity"]["topics"]
    earlier = {k: v[:, :-1] if k.endswith("/inner") and not column else v for k, v in state.items()}
    load_into(again, {**earlier, "holographic": meta | {"config": json.dumps(config)}})
    probe = tokens(seed=2)[:60].reshape(3, 20)
    assert torch.equal(model.next_log_probs(probe), again.next_log_probs(probe))


def tensors(model: HolographicModel) -> list[torch.Tensor]:
    return [value for value in state_of(model).values() if isinstance(value, torch.Tensor)]


def test_merged_shards_equal_one_pass() -> None:
    parts, whole = [tokens(seed=s) for s in range(4)], made()
    for part in parts:
        whole.learn_text(part)
    shards = [made() for _ in parts]
    for shard, part in zip(shards, parts, strict=True):
        shard.learn_text(part)
    merged = shards[2]
    # At rest or not makes no difference.
    for shard in shards[1:3]:
        shard.pack()
    for number in (0, 3, 1):
        merge_into(merged, shards[number])
    assert whole.mirror is not None and merged.mirror is not None
    assert torch.equal(whole.mirror.tower.store, merged.mirror.tower.store)
    assert torch.equal(whole.mirror.tower.load, merged.mirror.tower.load)
    text = np.concatenate(parts)
    starts = np.cumsum([0, *(len(p) for p in parts[:-1])])
    for each in (whole, merged):
        each.consolidate(text, starts)
    probe = tokens(seed=9)[:60].reshape(3, 20)
    assert torch.allclose(whole.next_log_probs(probe), merged.next_log_probs(probe), atol=1e-6)
    with pytest.raises(ConfigError, match="other"):
        merge_into(merged, made(HolographicConfig()))


def test_a_higher_tower_is_folded_when_models_are_merged() -> None:
    high = CONFIG.model_copy(update={"tower": CONFIG.tower.model_copy(update={"levels": CONFIG.tower.levels + 2})})
    parts, whole, merged = [tokens(seed=s) for s in range(2)], made(), made()
    other = made(high)
    for model, texts in ((whole, parts), (merged, parts[:1]), (other, parts[1:])):
        for text in texts:
            model.learn_text(text)
    assert whole.mirror is not None and merged.mirror is not None and other.mirror is not None
    before = state_of(other)
    with pytest.raises(ConfigError, match="lower one"):
        merge_into(other, merged)
    after = state_of(other)
    assert all(torch.equal(v, after[k]) for k, v in before.items() if isinstance(v, torch.Tensor))
    merge_into(merged, other)
    assert merged.mirror.tower.levels == CONFIG.tower.levels and merged.mirror.tower.load.any()
    assert torch.equal(whole.mirror.tower.store, merged.mirror.tower.store)
    assert torch.equal(whole.mirror.tower.load, merged.mirror.tower.load)
    # Pairs that became frequent only in both together have left the store.
    assert whole.config.tower.promote_at is not None
    apart = other.mirror.tower.fold().fold().load + made_of(parts[0]).load
    assert not torch.equal(apart, merged.mirror.tower.load)


def made_of(text: np.ndarray) -> Tower:
    """The tower of a model that learned a text."""
    model = made()
    model.learn_text(text)
    assert model.mirror is not None
    return model.mirror.tower


def test_a_merge_that_fails_changes_nothing() -> None:
    model, other = made(), made()
    for number, each in enumerate((model, other)):
        each.learn_text(tokens(seed=number))
        each.consolidate(tokens(seed=number))
    before = state_of(model)
    honest = other.memories.apart.trie.learned
    other.memories.apart.trie.learned = 2**31 - 2
    with pytest.raises(DataError, match="raise the count"):
        merge_into(model, other)
    other.memories.apart.trie.learned = honest
    assert other.mirror is not None
    other.mirror.tower.load[3] += 2**18 + 1
    with pytest.raises(DataError, match="items at an address"):
        merge_into(model, other)
    after = state_of(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) for k, v in before.items() if isinstance(v, torch.Tensor))


def test_counts_of_the_model_are_those_of_kneser_ney() -> None:
    model, text = made(), tokens()
    model.learn_text(text[:1000])
    counts = model.memories.counts
    from holonomy.models.holographic.contexts import of_text

    contexts = of_text(text, np.zeros(1, np.int64), np.arange(1000, len(text)))
    probs = counts.score(counts.find(*contexts.symbols(4)), text[1000:])
    expected = KneserNey(NGramCounts(text[:1000], order=5, vocab_size=WORDS), order=5).token_losses(text)[1000:]
    assert np.allclose(-np.log(probs), expected, atol=1e-9)
