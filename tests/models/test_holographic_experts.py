"""Experts and their mixture against dense matrices, plain loops and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.geometry.rotation import counter_haar
from holonomy.models.holographic.contexts import of_rows, of_text
from holonomy.models.holographic.mixture import Certainty, Gate, shares_of, simplex_search
from holonomy.models.holographic.recency import Recency, Trace
from holonomy.models.holographic.similarity import FLOOR, LEFT, RIGHT, ContextFeatures, Readout
from holonomy.models.holographic.vectors import neighbour_information, word_classes, word_vectors

WORDS = 12


def neighbours(tokens: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    found = []
    for distance in (1, 2):
        pairs, counts = np.unique(np.stack([tokens[:-distance], tokens[distance:]], 1), axis=0, return_counts=True)
        found.append((pairs[:, 0], pairs[:, 1], counts))
    return found


def test_information_and_vectors_equal_dense_matrices() -> None:
    tokens = np.random.default_rng(0).integers(0, WORDS, 400) // np.random.default_rng(1).integers(1, 4, 400)
    count = np.zeros((WORDS, 4 * WORDS))
    for i, w in enumerate(tokens):
        for column, j in enumerate((i - 1, i + 1, i - 2, i + 2)):
            if 0 <= j < len(tokens):
                count[w, column * WORDS + tokens[j]] += 1
    p = count.sum(0) ** 0.75
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.log(count / (count.sum(1, keepdims=True) * (p / p.sum())))
    expected = np.where(expected > 0, expected, 0)
    row, column, value, width = neighbour_information(neighbours(tokens), WORDS)
    found = np.zeros((WORDS, width))
    found[row, column] = value
    assert np.allclose(found, expected)
    u, s, _ = np.linalg.svd(expected, full_matrices=False)
    u *= np.sign(u[np.abs(u).argmax(0), np.arange(len(s))])
    kept = s > 1e-6 * s[0]
    wanted = np.where(kept, u * np.sqrt(s), 0)
    norm = np.linalg.norm(wanted, axis=1, keepdims=True)
    wanted = np.divide(wanted, norm, out=np.zeros_like(wanted), where=norm > 1e-6)
    vectors = word_vectors(neighbours(tokens), WORDS, 16).numpy()
    assert np.abs(vectors[:, : len(s)] - wanted).max() < 1e-4 and not vectors[:, len(s) :].any()
    with pytest.raises(ConfigError, match="neighbours"):
        word_vectors([], WORDS, 16)


def test_words_of_equal_use_fall_into_one_class() -> None:
    centres = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    truth = torch.arange(30) % 3
    noise = 0.1 * torch.randn(30, 16, generator=torch.Generator().manual_seed(1))
    group = word_classes(torch.nn.functional.normalize(centres[truth] + noise, dim=1), torch.ones(30), 3)
    assert len(np.unique(group)) == 3
    assert all(len(np.unique(group[truth.numpy() == c])) == 1 for c in range(3))


def features(positions: int = 4) -> ContextFeatures:
    vectors = torch.randn(WORDS, 32, generator=torch.Generator().manual_seed(2))
    return ContextFeatures(torch.nn.functional.normalize(vectors, dim=1), positions=positions)


def test_features_are_those_of_a_loop() -> None:
    f = features()
    left, right = (counter_haar(7, tag, torch.arange(4)).float() for tag in (LEFT, RIGHT))
    symbols = np.random.default_rng(0).integers(0, WORDS, (8, 5))
    lengths = np.array([0, 1, 2, 3, 4, 5, 5, 1])
    found = f(torch.from_numpy(symbols), torch.from_numpy(lengths))
    zero = torch.zeros(32)
    for row, words, length in zip(found, symbols.tolist(), lengths.tolist(), strict=True):
        v = [f.vectors[words[-1 - p]] if p < length else zero for p in range(4)]
        m = [x.view(2, 4, 4) for x in v]
        bundle = sum(0.618**p * left[p] @ m[p] @ right[p] for p in range(4))
        product = (left[1] @ m[1]) @ m[0]
        expected = torch.cat([v[0], v[1], bundle.flatten(), product.flatten(), torch.ones(1)])
        assert torch.allclose(row, expected, atol=1e-6)
    short = f(torch.from_numpy(symbols[:, -2:]), torch.full((8,), 2))
    assert torch.allclose(short, f(torch.from_numpy(symbols), torch.full((8,), 2)), atol=1e-6)
    with pytest.raises(ConfigError, match="multiple of 16"):
        ContextFeatures(torch.ones(3, 20))


def test_the_read_out_is_a_ridge_regression() -> None:
    f = features()
    random = np.random.default_rng(1)
    symbols, targets = (
        torch.from_numpy(random.integers(0, WORDS, (300, 4))),
        torch.from_numpy(random.integers(0, 12, 300)),
    )
    lengths, ones = torch.full((300,), 4), torch.ones(300, dtype=torch.int64)
    weights = torch.from_numpy(random.integers(1, 4, 300))
    readout = Readout(f, ridge=2.0, words=True)
    readout.add(symbols, lengths, targets, weights)
    readout.add(symbols[:50], lengths[:50], targets[:50], ones[:50])
    readout.add(symbols[:50], lengths[:50], targets[:50], -ones[:50])
    readout.solve()
    x = f(symbols, lengths).double()
    wx = x * weights[:, None]
    inverse = torch.linalg.inv(wx.T @ x + 2 * torch.eye(f.size, dtype=torch.float64))
    onehot = torch.nn.functional.one_hot(targets, WORDS).double()
    q = inverse @ wx.T @ onehot
    assert torch.allclose(readout.solution.double(), q, atol=1e-4)
    some = f(symbols[:20], lengths[:20])
    expected = (some.double() @ q @ f.vectors.double()) @ f.vectors.double().T
    assert torch.allclose(readout.similarities(some).double(), expected, atol=1e-4)
    uniform = torch.full((WORDS,), 1 / WORDS)
    shares = (some.double() @ q).clamp(min=0) + FLOOR / WORDS
    assert torch.allclose(readout.shares(some, uniform).double(), shares / shares.sum(1, keepdim=True), atol=1e-4)
    again = Readout(f, ridge=2.0, words=True)
    again.load_state(readout.state())
    assert torch.equal(again.similarities(some), readout.similarities(some))
    with pytest.raises(CheckpointError, match="squares"):
        again.load_state({**readout.state(), "squares": torch.zeros(2, 2)})


TRACES = (Trace(0, 6, 3.0), Trace(1, 9, 5.0), Trace(3, 20, 7.0))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(0, 5), st.integers(0, 2))
def test_traces_are_those_of_a_loop(tokens: list[int], begin: int, target: int) -> None:
    begin = min(begin, len(tokens))
    recency, array, end = Recency(TRACES), np.array(tokens), len(tokens)
    at = np.array([begin]), np.array([end])
    mass, own = recency.rate(array, *at, np.array([target]))
    expected = np.zeros((len(TRACES), 3))
    for k, trace in enumerate(TRACES):
        for place in range(max(begin, end - trace.window), end):
            before = tokens[place - trace.match : place] if place - trace.match >= begin else None
            if before == tokens[end - trace.match : end]:
                expected[k, tokens[place]] += math.exp(-(end - 1 - place) / trace.tau)
    assert np.allclose(mass[0], expected.sum(1)) and np.allclose(own[0], expected[:, target])
    weights, out = np.array([[0.5, 2.0, -1.0]]), np.zeros((1, 3))
    recency.spread(array, *at, weights, out)
    assert np.allclose(out[0], weights[0] @ expected)
    with pytest.raises(ConfigError, match="traces"):
        Recency((Trace(0, 0, 1.0),))


def test_gates_find_who_is_right_and_when() -> None:
    random = np.random.default_rng(0)
    x = random.random(4000) < 0.5
    right = random.random(4000) < np.where(x, 0.8, 0.1)
    probs = np.stack([np.where(right, 0.5, 0.001), np.full(4000, 0.02)], 1)
    numbers = np.stack([np.ones(4000), x], 1)
    gate = Gate.fit(probs, numbers, steps=400, prior=0.1)
    found = gate(np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert np.allclose(found.sum(1), 1)
    # Without a prior each half has the weights of a plain mixture.
    for row, half in zip(found, (~x, x), strict=True):
        assert np.abs(row - shares_of(probs[half], steps=400)).max() < 0.01
    still = Gate.fit(probs, numbers, steps=400, prior=1e6)(numbers)
    assert np.abs(still - shares_of(probs)).max() < 0.01


def test_the_likelihood_never_falls() -> None:
    random = np.random.default_rng(3)
    probs, numbers = random.random((500, 4)) ** 3, np.column_stack([np.ones(500), random.normal(size=(500, 3))])
    losses = []
    for steps in range(1, 40, 3):
        gate = Gate.fit(probs, numbers, steps=steps, prior=1.0)
        pull = np.square(gate.weights[1:]).sum() + np.square(gate.weights[0] - np.log(shares_of(probs) + 1e-6)).sum()
        losses.append(-np.log((probs * gate(numbers)).sum(1)).sum() + pull / 2)
    assert (np.diff(losses) <= 1e-9).all() and losses[0] - losses[-1] > 1
    again = Gate.from_state(gate.state(), 4, 4)
    assert np.array_equal(again(numbers), gate(numbers))
    with pytest.raises(CheckpointError, match="weights"):
        Gate.from_state({**gate.state(), "weights": gate.weights * np.nan}, 4, 4)
    with pytest.raises(DataError, match="probs"):
        Gate.fit(np.zeros((3, 2)), np.ones((3, 1)))


def test_certainty_learns_how_sure_to_be_and_keeps_a_distribution() -> None:
    random = np.random.default_rng(0)
    highest = random.uniform(0.05, 0.95, 20_000)
    odds = np.log(highest / (1 - highest))
    # What is said is too careful where it is sure, and too bold where it is not.
    true = 1 / (1 + np.exp(-(0.2 + 1.4 * odds)))
    certainty = Certainty.fit(highest, random.random(20_000) < true, prior=1e-3)
    probs = np.stack([0.6 * (1 - highest), highest, 0.4 * (1 - highest)], 1).astype(np.float32)
    better = highest > 0.4
    after = certainty.corrected(probs[better].copy())
    assert np.allclose(after.sum(1), 1, atol=1e-6)
    assert np.abs(after[:, 1] - true[better]).max() < 0.03
    # The others keep their ratio.
    assert np.allclose(after[:, 0] / after[:, 2], 1.5, rtol=1e-4)
    still = Certainty.fit(highest, random.random(20_000) < highest)
    assert np.abs(still.corrected(probs.copy()) - probs).max() < 0.02
    sure = certainty.corrected(np.array([[1.0, 0.0], [1e-9, 1.0]], dtype=np.float32))
    assert np.isfinite(sure).all() and np.allclose(sure.sum(1), 1, atol=1e-5)
    with pytest.raises(DataError, match="`highest` has shape"):
        Certainty.fit(highest, np.ones(3))


def test_the_search_finds_a_minimum() -> None:
    found = simplex_search(lambda p: float((p[0] - 3) ** 2 + 10 * (p[1] + 1 - p[0]) ** 2), (0.0, 0.0), steps=200)
    assert np.allclose(found, (3, 2), atol=1e-3)


def test_contexts_are_spans_of_a_buffer() -> None:
    tokens, starts = np.array([5, 6, 7, 8, 9]), np.array([0, 3])
    symbols, lengths = of_text(tokens, starts).symbols(2)
    assert symbols.tolist() == [[1, 1], [1, 5], [5, 6], [1, 1], [1, 8]] and lengths.tolist() == [0, 1, 2, 0, 1]
    symbols, lengths = of_rows(np.array([[5, 1, 7], [1, 6, 7], [5, 6, 7]]), np.array([3, 3, 1]), 1).symbols(3)
    assert symbols.tolist() == [[1, 1, 7], [1, 6, 7], [1, 1, 7]] and lengths.tolist() == [1, 2, 1]
