"""Memory within a budget: what is dropped, what stays exact, and what a plan says before anything is allocated."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from holonomy.core.errors import ConfigError
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.config import CountsConfig, HolographicConfig, SimilarityConfig, TowerConfig
from holonomy.models.holographic.contexts import Contexts, of_text
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.growth import let_go, reached
from holonomy.models.holographic.mirror import Mirror
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.plan import MIB, least_room, memory_plan, plan_for_machine

V = 300
ONE = np.zeros(1, dtype=np.int64)


def text(count: int, seed: int = 0) -> np.ndarray:
    weights = 1 / np.arange(1, V + 1)
    return np.random.default_rng(seed).choice(V, count, p=weights / weights.sum())


def pairs(tokens: np.ndarray, order: int) -> Pairs:
    return Pairs(*of_text(tokens, ONE).symbols(order - 1), tokens, np.ones(len(tokens), dtype=np.int64))


def learned(tokens: np.ndarray, order: int, room: int | None, *, rolling: bool = True, batch: int = 1000) -> CountTrie:
    trie, whole = CountTrie(order, V, rolling=rolling, room=room), pairs(tokens, order)
    for begin in range(0, len(tokens), batch):
        trie.learn(Pairs(*(a[begin : begin + batch] for a in whole)))
        assert room is None or trie.nbytes <= room
    return trie


@pytest.mark.parametrize(("order", "rolling"), [(2, False), (3, True), (4, False), (5, True)])
def test_counts_stay_within_their_room_and_are_a_distribution(order: int, rolling: bool) -> None:
    tokens = text(40_000)
    whole = learned(tokens, order, None, rolling=rolling)
    room = max(whole.nbytes // 4, least_room(order, V))
    trie = learned(tokens, order, room, rolling=rolling)
    assert trie.evictions > 1 and trie.cut_off and trie.num_grams < whole.num_grams
    asked = pairs(tokens[:200], order)
    dense = trie.dense(trie.find(asked.symbols, asked.lengths))
    assert np.allclose(dense.sum(1), 1, atol=1e-5) and dense.min() > 0
    own = trie.score(trie.find(asked.symbols, asked.lengths), asked.targets)
    assert np.allclose(own, dense[np.arange(200), asked.targets], atol=1e-6)
    # Whole rows, chains and tables fit together: a reloaded trie says the same.
    again = CountTrie(order, V, rolling=rolling, room=room)
    again.load_state(trie.state())
    again.arrange()
    assert np.allclose(again.dense(again.find(asked.symbols, asked.lengths)), dense, atol=1e-7)


@pytest.mark.parametrize("rolling", [True, False])
@pytest.mark.parametrize("packing", [True, False])
def test_contexts_that_were_looked_up_are_learned_as_others_are(rolling: bool, packing: bool) -> None:
    order, tokens, cut = 4, text(40_000), 34_000
    room = learned(tokens, order, None, rolling=rolling).nbytes // 4
    for limit in (None, room):
        one, other = (learned(tokens[:cut], order, limit, rolling=rolling) for _ in range(2))
        whole, before = Pairs(*(a[cut:] for a in pairs(tokens, order))), one.evictions
        if packing:
            # Unpacked, rows stand elsewhere.
            one.pack()
            other.pack()
        # More than one chunk, so that rows come, and go, after they were looked up.
        other.add(whole, len(whole.targets), other.look_up(whole.symbols, whole.lengths)[0])
        one.learn(whole)
        assert (one.evictions > before) == (limit is not None) and one.evictions == other.evictions
        assert one.learned == other.learned and np.array_equal(one.taken, other.taken)
        for n in range(1, order + 1):
            assert all(np.array_equal(a, b) for a, b in zip(one.grams(n), other.grams(n), strict=True))


def test_what_stays_was_counted_and_the_frequent_stay() -> None:
    tokens, order = text(60_000), 3
    whole = learned(tokens, order, None)
    trie = learned(tokens, order, whole.nbytes // 4)
    for n in (1, 2, 3):
        true = Counter(map(tuple, np.lib.stride_tricks.sliding_window_view(tokens, n).tolist()))
        symbols, raw, _ = trie.grams(n)
        held = dict(zip(map(tuple, symbols.tolist()), raw.tolist(), strict=True))
        assert all(count <= true[gram] for gram, count in held.items())
        if n == 1:
            assert held == true
        else:
            # Each eviction takes a gram that occurred once or twice since the one before it.
            assert all(held.get(gram, 0) >= count - 2 * trie.evictions for gram, count in true.items())
            assert all(held[gram] >= count - 3 for gram, count in true.most_common(50))
    # A word that is dropped leaves its count to its context.
    context = np.array([max(true, key=true.__getitem__)[:2]])
    both = [t.totals(t.find(context, np.array([2])))[0, 2] for t in (trie, whole)]
    assert both[0] == both[1] > 100


def test_rows_that_are_let_go_take_no_memory() -> None:
    array = reached(np.ones((10, 4), dtype=np.int32), 100_000)
    array[:] = 7
    let_go(array, 50_000)
    # Pages that were given back read as zero; those in use stay.
    assert (array[:50_000] == 7).all() and (array[-1000:] == 0).all()
    let_go(np.ones((10, 4), dtype=np.int32), 5)


def test_with_enough_room_nothing_is_dropped() -> None:
    tokens = text(5000)
    whole, trie = learned(tokens, 4, None), learned(tokens, 4, 64 * MIB)
    assert trie.evictions == 0 and not trie.cut_off
    for order in range(1, 5):
        assert all(np.array_equal(a, b) for a, b in zip(trie.grams(order), whole.grams(order), strict=True))


def test_an_interrupted_trie_drops_the_same() -> None:
    tokens, order = text(40_000), 4
    room = learned(tokens, order, None).nbytes // 4
    straight = learned(tokens, order, room)
    whole, trie = pairs(tokens, order), CountTrie(order, V, room=room)
    for begin in range(0, len(tokens), 1000):
        trie.learn(Pairs(*(a[begin : begin + 1000] for a in whole)))
        if begin % 7000 == 0:
            state = trie.state()
            trie = CountTrie(order, V, room=room)
            trie.load_state(state)
    assert straight.evictions > 3
    assert all(np.array_equal(a, trie.state()[name]) for name, a in straight.state().items())


def test_what_is_dropped_is_told_of_with_all_its_occurrences() -> None:
    tokens, order = text(60_000), 4
    trie, told = CountTrie(order, V, room=learned(tokens, order, None).nbytes // 4), Counter()
    trie.longest = 3

    def spill(grams: np.ndarray, counts: np.ndarray) -> None:
        for gram, count in zip(grams.tolist(), counts.tolist(), strict=True):
            told[tuple(s for s in gram if s >= 0)] += count

    trie.spill, whole = spill, pairs(tokens, order)
    for begin in range(0, len(tokens), 1000):
        trie.learn(Pairs(*(a[begin : begin + 1000] for a in whole)))
    assert len(told) > 5000
    for n in (2, 3):
        true = Counter(map(tuple, np.lib.stride_tricks.sliding_window_view(tokens, n).tolist()))
        symbols, raw, _ = trie.grams(n)
        held = Counter(dict(zip(map(tuple, symbols.tolist()), raw.tolist(), strict=True)))
        assert held + Counter({gram: count for gram, count in told.items() if len(gram) == n}) == true


def test_a_store_takes_what_is_dropped_and_says_it_again() -> None:
    config = TowerConfig(role="overflow", levels=5, top_digits={2: 4, 3: 4})
    mirror, counts = Mirror(config, V), CountTrie(4, V)
    grams = np.array([[-1, 5, 7], [-1, 5, 9], [3, 5, 7], [-1, 8, 2]], dtype=np.int32)
    mirror.take(grams, np.array([3, 1, 2, 6], dtype=np.int32))
    assert int(mirror.tower.load.sum()) == 12
    # One of them is counted exactly as well: it came again.
    counts.learn(Pairs(np.array([[1, 1, 5]]), np.array([1]), np.array([9]), np.array([4])))
    contexts = Contexts(np.array([5]), np.array([0]), np.array([1]))
    mirror.shares[0] = 1.0
    said = mirror.distribution(contexts, counts)[0]
    assert said[[7, 9]] == pytest.approx([3 / 8, 5 / 8], abs=0.02) and said.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="full memory drops"):
        HolographicConfig(tower=config)


def test_the_most_frequent_pairs_are_those_of_the_counts() -> None:
    tokens = text(5000)
    trie, apart = learned(tokens, 3, None), learned(tokens, 2, None, rolling=False)
    symbols, raw, _ = trie.grams(2)
    wanted = {(*s, n) for s, n in zip(symbols.tolist(), raw.tolist(), strict=True)}
    wanted = {(a, b, n) for a, b, n in wanted}
    for one in (trie, apart):
        assert set(zip(*(a.tolist() for a in one.frequent_pairs(None)), strict=True)) == wanted
        few = one.frequent_pairs(100)[2]
        assert sorted(few) == sorted(raw)[-100:]


def test_a_trie_without_room_for_its_words_says_so() -> None:
    with pytest.raises(ConfigError, match=r"raise model\.memory"):
        learned(text(5000), 4, 64 * 1024)


def small(**further) -> HolographicConfig:
    return HolographicConfig(
        counts=CountsConfig(classes=(20,)), similarity=SimilarityConfig(dim=16), replay=5000, **further
    )


def test_the_plan_is_what_the_structures_take() -> None:
    tokenizer = WordTokenizer([f"w{n}" for n in range(V)])
    config = small(memory=256, tower=TowerConfig(levels=4))
    plan = memory_plan(config, tokenizer.vocab_size)
    assert sum(plan.table().values()) <= 256 * MIB
    model = HolographicModel(config, tokenizer)
    tokens = text(20_000) + 2
    for begin in range(0, len(tokens), 5000):
        model.learn_text(tokens[begin : begin + 5000])
    model.consolidate(tokens[:5000])
    taken = model.stats()
    for name in ("tower", "signatures", "unigram", "readout", "topics", "recency"):
        assert taken[name] == pytest.approx(plan.fixed[name], rel=0.05), name
    assert set(plan.rooms) == {"counts", "skip 1-3-4", "skip 2-3-4", "apart", "class 20"}
    assert all(taken[name] - 8 * tokenizer.vocab_size <= room for name, room in plan.rooms.items())
    # Without a budget only sizes that do not depend on the text are known.
    free = memory_plan(small(tower=TowerConfig(levels=4)), tokenizer.vocab_size)
    assert not free.rooms and free.fixed["tower"] == plan.fixed["tower"]
    # Of a shorter text, fewer topics.
    fewer = memory_plan(small(tower=TowerConfig(levels=4)), tokenizer.vocab_size, 2500)
    model.consolidate(tokens[:2500])
    assert model.stats()["topics"] == fewer.fixed["topics"] < plan.fixed["topics"]
    saved = sum(taken[name] for name in ("tower", "unigram", "readout", "topics")) + 8 * V
    assert free.making["checkpoint"] == pytest.approx(3 * saved, rel=0.05)


def test_the_tower_of_six_levels_is_a_gibibyte() -> None:
    plan = memory_plan(HolographicConfig(tower=TowerConfig(levels=6)), 1000)
    assert plan.fixed["tower"] == pytest.approx(2**30, rel=0.01)


def test_what_cannot_fit_is_refused_with_what_would() -> None:
    with pytest.raises(ConfigError, match=r"`model\.memory` is 1024 MiB; 300 words want .* for tower: raise it"):
        memory_plan(small(memory=1024, tower=TowerConfig(levels=6)), V)
    with pytest.raises(ConfigError, match="MiB at least") as error:
        memory_plan(small(memory=40, tower=TowerConfig(role="off")), V)
    needed = int(str(error.value).split(" want ")[1].split(" MiB")[0])
    memory_plan(small(memory=needed + needed // 4, tower=TowerConfig(role="off")), V)


def proposed(error: str, pattern: str) -> int:
    """The one number that an error proposes for what a pattern names."""
    (found,) = re.findall(pattern, error)
    return int(found.replace(",", ""))


@pytest.mark.parametrize("memory", [None, 1500])
def test_proposed_values_fit_and_the_next_larger_ones_do_not(memory: int | None) -> None:
    """Of a budget, and of a machine: each value alone, everything else as it was."""
    room, words, tower = 1500 * MIB, 200_000, TowerConfig(levels=6, channels=16)
    config = small(memory=memory, tower=tower)

    def fits(vocab_size: int, **changed: int) -> bool:
        asked = small(memory=memory, tower=tower.model_copy(update=changed))
        if memory is None:
            return sum(memory_plan(asked, vocab_size).table().values()) <= room
        try:
            return bool(memory_plan(asked, vocab_size).rooms)
        except ConfigError:
            return False

    with pytest.raises(ConfigError, match=r"of them for tower") as error:
        plan_for_machine(config, 20_000, available=room)
    levels = proposed(str(error.value), r"model\.tower\.levels (\d+)")
    assert fits(20_000, levels=levels) and not fits(20_000, levels=levels + 1)
    channels = proposed(str(error.value), r"model\.tower\.channels (\d+)")
    assert fits(20_000, channels=channels) and not fits(20_000, channels=2 * channels)
    # A store of fewer levels, whose words take most.
    tower = TowerConfig(levels=4, channels=256)
    with pytest.raises(ConfigError, match=r"of them for signatures") as error:
        plan_for_machine(small(memory=memory, tower=tower), words, available=room)
    most = proposed(str(error.value), r"([\d,]+) words \(data\.min_count")
    assert fits(most) and not fits(most + 1)


def test_a_plan_for_the_machine_is_the_plan_or_refused() -> None:
    config = small(tower=TowerConfig(levels=4))
    plan = plan_for_machine(config, V, 2500)
    assert plan == memory_plan(config, V, 2500)
    total = sum(plan.table().values())
    assert plan_for_machine(config, V, 2500, available=total) == plan
    with pytest.raises(ConfigError, match="MiB beside counts"):
        plan_for_machine(config, V, 2500, available=total - 1)
    with pytest.raises(ConfigError, match="take model.memory 64 or less"):
        plan_for_machine(small(memory=256, tower=TowerConfig(role="off")), V, available=64 * MIB)
    # Nothing fits into nothing.
    with pytest.raises(ConfigError, match="a larger machine"):
        plan_for_machine(config, V, available=MIB)


def test_a_model_within_a_budget_scores_close_to_one_without() -> None:
    tokenizer = WordTokenizer([f"w{n}" for n in range(V)])
    tokens, further = text(60_000) + 2, text(2000, seed=1) + 2
    losses = []
    for memory in (None, 128):
        role = "off" if memory is None else "overflow"
        tower = TowerConfig(role=role, levels=3, channels=4)
        model = HolographicModel(small(memory=memory, tower=tower), tokenizer)
        for begin in range(0, len(tokens), 5000):
            model.learn_text(tokens[begin : begin + 5000])
        model.consolidate(tokens[:5000])
        model.fit_apart(further)
        if model.mirror is not None:
            assert sum(g.trie.evictions for g in model.memories.grams) > 0
            assert int(model.mirror.tower.load.sum()) > 0
        logs = model.score(text(1000, seed=2) + 2, np.arange(1000))
        losses.append(-float(logs.mean()))
    # Words are drawn one by one: the best there is costs their entropy.
    weights = 1 / np.arange(1, V + 1)
    weights /= weights.sum()
    assert losses[1] == pytest.approx(losses[0], abs=0.05)
    assert losses[1] < -(weights * np.log(weights)).sum() + 0.3
