"""Superposed bindings: whole numbers that add up, noise as the formulas say, and words that come back."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.data.text import load_text
from holonomy.data.words import split_words
from holonomy.geometry.minkowski import blade_matrices
from holonomy.models.holographic.config import TowerConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.mirror import Mirror
from holonomy.models.holographic.pairs import Pairs
from holonomy.models.holographic.settle import bucket_of, fit_shares, noise, settle, spread_counts
from holonomy.models.holographic.signatures import Signatures
from holonomy.models.holographic.tower import LARGEST_LOAD, SCALE, Bindings, Tower

WORDS, DIGITS = 500, {2: 4, 3: 6, 4: 6}


def tower(levels: int = 4, channels: int = 4, seed: int = 7, digits: dict[int, int] = DIGITS) -> Tower:
    return Tower(Signatures(seed, channels, WORDS, len(digits)), levels=levels, top_digits=digits, seed=seed)


def pairs(count: int, seed: int = 0, orders: int = 3) -> Bindings:
    random = np.random.default_rng(seed)
    weights = np.broadcast_to(random.integers(1, 4, (count, 1)), (count, orders))
    symbols = random.integers(0, WORDS, (count, orders))
    return Bindings(symbols, random.integers(0, orders + 1, count), random.integers(0, WORDS, count), weights)


def splitmix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def test_addresses_equal_whole_numbers() -> None:
    for levels in (3, 5, 10):
        shallow = tower(3, 1)
        shallow.levels = levels
        symbols = np.random.default_rng(levels).integers(0, WORDS, (50, 3))
        for order, offset in ((2, 0), (3, 4), (4, 10)):
            found = shallow.addresses(torch.from_numpy(symbols), order).tolist()
            for row, context in zip(found, symbols.tolist(), strict=True):
                h = splitmix(7 ^ order * 0x9E3779B97F4A7C15 % 2**64)
                for j in range(1, order):
                    h = splitmix(h ^ (context[-j] + j * 0xD1B54A32D192ED03) % 2**64)
                top = offset + ((h >> 32) * DIGITS[order] >> 32)
                assert row == top * 16 ** (levels - 2) + ((h % 2**32) >> (32 - 4 * (levels - 2)))


def test_loads_are_spread_evenly() -> None:
    store = tower(levels=4)
    symbols = torch.from_numpy(np.stack(np.unravel_index(np.arange(100_000), (50, 50, 50)), 1))
    for order, digits in DIGITS.items():
        # Contexts that differ anywhere in their last words are counted once each.
        distinct = torch.unique(symbols[:, 3 - order + 1 :], dim=0)
        rows = torch.bincount(store.addresses(distinct, order), minlength=len(store.load))
        rows = rows[rows.nonzero().min() : rows.nonzero().max() + 1].double()
        cells, mean = digits * 256, len(distinct) / (digits * 256)
        if mean < 5:
            continue
        rows = torch.nn.functional.pad(rows, (0, cells - len(rows)))
        chi = float(((rows - mean) ** 2 / mean).sum())
        assert abs(chi - (cells - 1)) < 3 * math.sqrt(2 * (cells - 1))
        assert rows.max() <= mean + 6 * math.sqrt(mean)


def test_kernel_equals_tensors() -> None:
    compiled, plain, items = tower(), tower(), pairs(400)
    compiled.write(items)
    rows = plain._rows(items)
    plain._write_tensors(items, rows, torch.from_numpy(items.weights.astype(np.int32)))
    # Rounding may fall to either side for each of the items.
    assert (compiled.store - plain.store).abs().max() <= 3
    assert compiled.store.abs().max() > SCALE
    assert torch.equal(
        compiled.load, torch.bincount(rows[rows >= 0], items_weights(items, rows), len(plain.load)).int()
    )


def items_weights(items: Bindings, rows: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(items.weights.astype(np.float64))[rows >= 0]


def test_order_batches_unlearning_and_merging_are_exact() -> None:
    whole, parts, kept, other = tower(), tower(), tower(), tower()
    items = pairs(600)
    whole.write(items)
    for part in np.array_split(np.random.default_rng(1).permutation(600), 7):
        parts.write(Bindings(*(a[part] for a in items)))
    assert torch.equal(whole.store, parts.store) and torch.equal(whole.load, parts.load)
    first, second = (Bindings(*(a[s] for a in items)) for s in (slice(0, 250), slice(250, 600)))
    kept.write(first)
    other.write(second)
    kept.merge(other)
    assert torch.equal(whole.store, kept.store)
    kept.write(second._replace(weights=-second.weights))
    other = tower()
    other.write(first)
    assert torch.equal(other.store, kept.store) and torch.equal(other.load, kept.load)


def test_folding_gives_the_lower_tower() -> None:
    high, low, items = tower(levels=5), tower(levels=3), pairs(500)
    high.write(items)
    low.write(items)
    folded = high.fold().fold()
    assert torch.equal(folded.store, low.store) and torch.equal(folded.load, low.load)
    low.merge(high)
    assert torch.equal(low.store, 2 * folded.store)
    with pytest.raises(ConfigError, match="levels"):
        folded.fold()


@pytest.mark.parametrize(("channels", "levels", "digits"), [(1, 4, 15), (4, 4, 4), (16, 4, 1), (64, 3, 4)])
def test_crosstalk_follows_its_law(channels: int, levels: int, digits: int) -> None:
    # Other items at an address are rotations under foreign keys: sd^2 = sum n^2 / (16 K).
    random = np.random.default_rng(channels)
    signatures = Signatures(1, channels, 2000, 2)
    store = Tower(signatures, levels=levels, top_digits={2: 1, 3: digits}, seed=7)
    addresses, stored = digits * 16 ** (levels - 2), 0
    # Contexts that are asked for are made of words that no stored one has.
    asked = torch.from_numpy(random.integers(1000, 2000, (max(600, addresses), 2)))
    place = store.addresses(asked, 3)
    for load in (0.25, 1, 4, 16, 64, 250):
        count, stored = int(load * addresses) - stored, int(load * addresses)
        weights = np.tile([0, 1], (count, 1))
        symbols, words = random.integers(0, 1000, (count, 2)), random.integers(0, 2000, count)
        store.write(Bindings(symbols, np.full(count, 2), words, weights))
        x, expected = store.read(asked, 3), store.load[place].double().mean() / (16 * channels)
        measured = np.mean([float(signatures.similarities(part).square().mean()) for part in x.split(600)])
        assert abs(math.sqrt(measured / float(expected)) - 1) < 0.05, load
        estimated = float(noise(x).square().mean())
        assert abs(math.sqrt(estimated / float(expected)) - 1) < 0.05, load
        # On average it is the sum of all squares over the number of reals.
        assert abs(store.crosstalk() / stored - 1) < 0.05, load


def top_share(load: float, channels: int, vocab: int) -> float:
    """Chance that the stored word scores highest among `vocab`."""
    sd = math.sqrt(load / (16 * channels))
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    inner = torch.special.ndtr((1 + sd * x) / math.sqrt(sd**2 + 1 / (16 * channels)))
    return float((torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi) * inner ** (vocab - 1)).sum() * 16 / 4000)


def test_capacity_follows_its_integral() -> None:
    assert abs(top_share(25, 64, 10_000) - 0.990) < 0.003 and abs(top_share(125, 64, 10_000) - 0.168) < 0.01
    words, random = 10_000, np.random.default_rng(3)
    for channels, others, levels, digits in ((16, 8, 4, 1), (64, 35, 3, 2)):
        signatures = Signatures(3, channels, words, 2)
        store = Tower(signatures, levels=levels, top_digits={2: 1, 3: digits}, seed=3)
        addresses, each = digits * 16 ** (levels - 2), others + 1
        drawn = random.integers(0, words, (3 * addresses * each, 2))
        place = store.addresses(torch.from_numpy(drawn), 3).numpy()
        order = np.argsort(place, kind="stable")
        rank = np.arange(len(place)) - np.searchsorted(place[order], place[order])
        # The first ones of each address, equally many.
        symbols = drawn[order[rank < each]]
        targets, ones = random.integers(0, words, len(symbols)), np.tile([0, 1], (len(symbols), 1))
        store.write(Bindings(symbols, np.full(len(symbols), 2), targets, ones))
        assert store.load[store.load > 0].unique().tolist() == [each] and len(symbols) == addresses * each
        share = recall(store, symbols, targets)
        assert share >= 0.90 and abs(share - top_share(others, channels, words)) < 0.02


def recall(store: Tower, symbols: np.ndarray, targets: np.ndarray) -> float:
    """Share of pairs of two words and a third whose word scores highest."""
    x = store.read(torch.from_numpy(symbols), 3)
    found = torch.cat([store.signatures.similarities(part).argmax(1) for part in x.split(600)])
    return float((found.numpy() == targets).mean())


def test_fifty_thousand_pairs_come_back_from_eight_mebibytes() -> None:
    words, count, random = 10_000, 50_000, np.random.default_rng(3)
    store = Tower(Signatures(3, 16, words, 2), levels=5, top_digits={2: 1, 3: 2}, seed=3)
    part = store.parts[3]
    assert part.stop - part.start == 8192 and store.store[part].nbytes == 2**23
    symbols, targets = random.integers(0, words, (count, 2)), random.integers(0, words, count)
    store.write(Bindings(symbols, np.full(count, 2), targets, np.tile([0, 1], (count, 1))))
    some = random.permutation(count)[:4000]
    share = recall(store, symbols[some], targets[some])
    others = store.load[store.addresses(torch.from_numpy(symbols[some]), 3)] - 1
    cases = zip(*others.unique(return_counts=True), strict=True)
    expected = sum(int(n) * top_share(float(load), 16, words) for load, n in cases) / len(some)
    assert share >= 0.95 and abs(share - expected) < 0.02


def test_a_lone_pair_always_comes_back() -> None:
    store = tower(levels=3, channels=4)
    items = pairs(1)._replace(lengths=np.array([3]), weights=np.ones((1, 3), np.int64))
    store.write(items)
    for order in DIGITS:
        state = settle(store.read(torch.from_numpy(items.symbols), order), store.signatures)
        assert state.tokens.tolist() == [[int(items.targets[0])]] and abs(float(state.counts) - 1) < 1e-3
        elsewhere = settle(store.read(torch.from_numpy(items.symbols[:, ::-1].copy()), order), store.signatures)
        assert int(elsewhere.steps) == 0 or order == 2


def test_a_lone_pair_comes_back_after_contexts_of_any_length() -> None:
    words, random = 200_000, np.random.default_rng(0)
    signatures = Signatures(2, 4, words, 1024)
    symbols, target = torch.from_numpy(random.integers(0, words, (1, 1024))), torch.tensor([random.integers(words)])
    store = Tower(signatures, levels=3, top_digits=dict.fromkeys(range(2, 18), 1), seed=2)
    lengths = [*range(1, 17), *random.integers(17, 1024, 12).tolist(), 1024]
    found, settled = [], []
    for length in lengths:
        key = signatures.keys(symbols[:, 1024 - length :])
        found.append(key.mT @ (key @ signatures.words[target]))
        # A store has addresses for the last sixteen words.
        weights, last = np.zeros((1, 16), dtype=np.int64), min(length, 16)
        weights[0, last - 1] = 1
        items = Bindings(symbols[:, -16:].numpy(), np.array([last]), target.numpy(), weights)
        store.write(items)
        settled.append(store.read(symbols, last + 1))
        store.write(items._replace(weights=-weights))
    assert not store.store.any()
    assert (signatures.similarities(torch.cat(found)).argmax(1) == target).all()
    state = settle(torch.cat(settled), signatures)
    assert (state.tokens == target).all() and (state.counts - 1).abs().max() < 1e-3


def superposed(signatures: Signatures, batch: int, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts of one to six words, each below `most`, [batch, V], and their sums."""
    random, words = np.random.default_rng(most), len(signatures.words)
    chosen = random.integers(0, words, (batch, 6))
    counts = random.integers(1, most, (batch, 6)) * (np.arange(6) < random.integers(1, 7, (batch, 1)))
    spread = np.zeros((batch, words), dtype=np.float32)
    # A word that was drawn twice has the last of its counts.
    spread[np.arange(batch)[:, None], chosen[:, ::-1]] = counts[:, ::-1]
    wanted = torch.from_numpy(spread)
    return wanted, (wanted @ signatures.words.flatten(1)).unflatten(1, (-1, 4, 4))


def test_settling_lowers_the_energy() -> None:
    """Word by word by its own count, in 100,000 cases, half of them with up to 32 foreign items beside them."""
    signatures, random = Signatures(5, 16, 100, 1), torch.Generator().manual_seed(0)
    _, clean = superposed(signatures, 100_000, 9)
    taken = 0
    for number, x in enumerate(clean.split(5_000)):
        if number % 2:
            items = torch.randint(0, 33, (len(x), 1, 1, 1), generator=random)
            x = x + items.sqrt() * torch.randn(x.shape, generator=random) / 2
        states, energy = x, x.flatten(1).square().sum(1)
        for _ in range(4):
            state = settle(states, signatures, steps=1)
            after, went = state.residual.flatten(1).square().sum(1), state.steps == 1
            assert torch.equal(after[~went], energy[~went]) and (after < energy)[went].all()
            expected = 4 * 16 * state.counts[:, 0].square()
            assert torch.allclose(energy - after, expected, rtol=1e-3, atol=1e-2)
            states, energy, taken = state.residual, after, taken + int(went.sum())
        if number < 2:
            whole = settle(x, signatures, steps=4)
            assert torch.equal(whole.residual, states)
    assert taken > 200_000


def test_settling_finds_the_words_that_were_added_up() -> None:
    signatures = Signatures(5, 16, 10_000, 1)
    for most in (4, 9):
        wanted, x = superposed(signatures, 1_000, most)
        found = spread_counts(settle(x, signatures), 10_000).round()
        assert float(((found > 0) == (wanted > 0)).all(1).float().mean()) >= 0.95
        # Words taken first were read through all the others, so larger counts, which move to exact ones, are off.
        exact = float((found == wanted).all(1).float().mean())
        assert exact >= (0.95 if most <= TowerConfig().promote_at else 0.75)


def test_shares_rise_where_an_order_is_right() -> None:
    random = np.random.default_rng(0)
    bucket = random.integers(0, 3, 3000)
    right = random.random(3000) < np.array([0.0, 0.2, 0.9])[bucket]
    share = fit_shares(np.full(3000, 0.01), right * 1.0, bucket)
    assert share[0] == 0 and abs(share[1] - 0.2) < 0.05 and abs(share[2] - 0.9) < 0.05
    assert bucket_of(np.array([0.0, 1.0, 1.0, 5.0, 1e9]), np.array([9, 0.1, 1.0, 2.0, 0.0])).tolist() == [
        0,
        1,
        2,
        9,
        28,
    ]


def test_wrong_input_is_named_and_changes_nothing() -> None:
    store = tower(levels=3)
    items = pairs(5)
    store.write(items)
    before = store.store.clone()
    with pytest.raises(DataError, match="items at an address"):
        store.write(items._replace(weights=np.full((5, 3), LARGEST_LOAD), lengths=np.full(5, 3)))
    with pytest.raises(DataError, match="items at an address"):
        store.write(items._replace(weights=np.full((5, 3), -9), lengths=np.full(5, 3)))
    with pytest.raises(ConfigError, match="other"):
        store.merge(tower(levels=3, seed=8))
    with pytest.raises(CheckpointError, match="store"):
        store.load_state({"store": store.store[1:], "load": store.load})
    assert torch.equal(before, store.store)
    for levels, digits in ((2, DIGITS), (5, {2: 9, 3: 9}), (5, {3: 1}), (5, {})):
        with pytest.raises(ConfigError, match="top_digits"):
            Tower(store.signatures, levels=levels, top_digits=digits, seed=0)
    with pytest.raises(ConfigError, match="channels"):
        Signatures(0, 3, WORDS, 1)


@pytest.mark.slow
def test_bindings_alone_on_the_reference_of_python() -> None:
    split = split_words(load_text("pydoc").text)
    if len(split.train) != 75_002:
        pytest.skip("the reference text of another Python")
    tokens, train = np.concatenate([split.train, split.test]), split.train
    sample = np.random.default_rng(0).choice(len(split.test), 3000, replace=False) + len(train)
    start, ones = np.zeros(1, np.int64), np.ones(len(train), np.int64)
    counts, contexts = CountTrie(5, split.tokenizer.vocab_size), of_text(train, start)
    counts.learn(Pairs(*contexts.symbols(4), train, ones))
    for promote, most in ((None, 107.0), (4, 95.0)):
        values, right = [], []
        for seed in (7, 8, 9):
            config = TowerConfig(top_digits={2: 4, 3: 4, 4: 4}, promote_at=promote, seed=seed)
            mirror = Mirror(config, split.tokenizer.vocab_size)
            mirror.follow(contexts, train, ones, 1, counts)
            mirror.fit(of_text(tokens, start, sample[1::2]), tokens[sample[1::2]], counts)
            dense = mirror.distribution(of_text(tokens, start, sample[::2]), counts)
            values.append(np.exp(-np.log(dense[np.arange(1500), tokens[sample[::2]]]).mean()))
            right.append((dense.argmax(1) == tokens[sample[::2]]).mean())
        assert np.mean(values) <= most
        assert np.mean(right) >= 0.24


@pytest.mark.slow
def test_reading_costs_the_same_however_much_is_stored() -> None:
    random, store = np.random.default_rng(0), tower(levels=5, channels=16)
    probe = torch.from_numpy(random.integers(0, WORDS, (256, 3)))

    def seconds() -> float:
        spent = []
        for _ in range(30):
            begin = time.perf_counter()
            store.signatures.similarities(store.read(probe, 4))
            spent.append(time.perf_counter() - begin)
        return float(np.median(spent))

    seconds()
    times, stored = [], 0
    for size in (1_000, 100_000, 1_000_000):
        while stored < size:
            batch = min(50_000, size - stored)
            items = (random.integers(0, WORDS, (batch, 3)), np.full(batch, 3), random.integers(0, WORDS, batch))
            store.write(Bindings(*items, np.ones((batch, 3), np.int64)))
            stored += batch
        times.append(seconds())
    assert max(times) <= 1.2 * min(times)


def test_the_witness_moves_as_one_over_the_number_of_pairs() -> None:
    """A pair's witness is noise of variance 2 / (16 K): the mean of n pairs moves by sqrt(d / (n (n + d) 8 K)) in d."""
    channels, step, seeds = 4, 200, 12
    found = np.zeros((seeds, 40))
    for seed in range(seeds):
        store, random = tower(3, channels, seed=seed), np.random.default_rng(seed)
        words, weights = random.integers(0, WORDS, (step * 41, 4)), np.zeros((step * 41, 3), dtype=np.int64)
        weights[:, 2], before = 1, np.zeros(2)
        for part in range(41):
            cut = slice(step * part, step * (part + 1))
            store.write(Bindings(words[cut, :3], np.full(step, 3), words[cut, 3], weights[cut]))
            now = store.mean_witness().numpy()
            if part:
                found[seed, part - 1] = np.linalg.norm(now - before)
            before = now
    n = step * np.arange(1, 41)
    law = np.sqrt(step / (n * (n + step) * 8 * channels))
    ratio = np.sqrt((found**2).mean(0)) / law
    assert ratio.max() < 3 and ratio.min() > 1 / 3 and abs(np.log(ratio).mean()) < 0.1
    # Pair by pair: a quarter of the traces with one and with the product of all basis vectors.
    keys = store.signatures.keys(torch.from_numpy(words[:, :3]))
    bound = (keys @ store.signatures.words[torch.from_numpy(words[:, 3])]).double()
    last = blade_matrices(torch.float64, torch.device("cpu"))[15]
    by_hand = torch.stack([bound.diagonal(dim1=-2, dim2=-1).sum(-1), (last * bound).sum((-2, -1))], -1) / 4
    assert torch.allclose(store.mean_witness(), by_hand.mean((0, 1)), atol=1e-5)
    store.pack()
    assert torch.allclose(store.mean_witness(), by_hand.mean((0, 1)), atol=1e-5)
    assert tower().mean_witness().tolist() == [0, 0]
