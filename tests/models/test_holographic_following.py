"""A mixture follows the text: its steps against brute force, autograd and finite differences, and nothing is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holonomy.data.text import load_text
from holonomy.data.words import WordSplit, split_characters, split_words
from holonomy.models.holographic import following as module
from holonomy.models.holographic import tracking
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.following import Multiplied, Summed, following_of
from holonomy.models.holographic.metrics import predict
from holonomy.models.holographic.mixture import Gate
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.tracking import EXPECTED, LEAST, ROUND, SOFT, Corrections, Tracker
from holonomy.recipes import holographic_chars

ONE = np.zeros(1, dtype=np.int64)
WORDS = {
    "tower": {"role": "off"},
    "counts": {"classes": [8], "skips": [[1, 3]]},
    "similarity": {"dim": 16},
    "mixture": {"blocks": 2, "block_share": 0.1, "product_steps": 12, "em_steps": 40},
}


def learned(config: HolographicConfig, split: WordSplit) -> HolographicModel:
    model = HolographicModel(config, split.tokenizer)
    model.learn_text(split.train)
    model.fit(split.train)
    return model


@pytest.fixture(scope="module")
def words() -> tuple[HolographicModel, WordSplit]:
    split = split_words(" ".join(load_text("pydoc").text.split()[:4000]))
    return learned(HolographicConfig.model_validate(WORDS), split), split


@pytest.fixture(scope="module")
def characters() -> tuple[HolographicModel, WordSplit]:
    split = split_characters(load_text("pydoc").text[:30_000], unk=True)
    values = holographic_chars().model.model_dump()
    mixture = {**values["mixture"], "positions": 2000, "rehearsal": 0.0}
    config = HolographicConfig.model_validate({**values, "mixture": mixture})
    return learned(config, split), split


@pytest.fixture(params=["words", "characters"])
def both(request: pytest.FixtureRequest) -> tuple[HolographicModel, WordSplit]:
    return request.getfixturevalue(request.param)


def asked(split: WordSplit, count: int) -> tuple[np.ndarray, np.ndarray]:
    cut = len(split.train)
    return np.concatenate([split.train, split.test]), np.arange(cut, cut + count)


def test_a_step_is_newtons_with_the_whole_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "GROWN", 0.0)
    random, keys = np.random.default_rng(0), np.array([0, 2, 2, 1, 0, 2])
    tracker, dense = Tracker(3, 2, memory=50, keys=(4,), start=7.0), np.zeros((3, 2))
    table, seen, squares, curvature = np.zeros((4, 2)), np.full(4, 7.0), EXPECTED * np.eye(3), np.zeros((2, 2))
    for n in range(1, 4):
        x, slopes, half = random.normal(size=(6, 3)), random.normal(size=(6, 2)), random.normal(size=(2, 5))
        tracker.step(x, slopes, half @ half.T, 5, (keys,))
        squares, curvature = squares + x.T @ x, curvature + half @ half.T
        first = squares / (EXPECTED + 6 * n) + LEAST * np.eye(3)
        mean = np.diag(curvature).mean() / (5 * n)
        second = (curvature + ROUND * mean * np.eye(2)) / (5 * n + ROUND) + SOFT * np.eye(2)
        dense += np.linalg.solve(50 * np.kron(first, second), (x.T @ slopes).reshape(-1)).reshape(3, 2)
        for key in keys:
            seen[key] += 1
        for key, slope in zip(keys, slopes, strict=True):
            table[key] += np.linalg.solve(seen[key] * second, slope)
    assert np.allclose(tracker.moved, dense, rtol=1e-9)
    x = random.normal(size=(2, 3))
    assert np.allclose(tracker.shift(x, (np.array([2, 3]),)), x @ dense + table[[2, 3]], rtol=1e-9)
    assert not table[3].any() and table[2].any()


def test_a_step_of_expectation_and_maximisation_lowers_the_loss_of_its_block() -> None:
    """Boehning's bound holds for any number of components: with a memory of one block no step goes too far."""
    random = np.random.default_rng(1)
    probs, tracker = random.dirichlet(np.full(5, 0.3), size=200), Tracker(1, 5, memory=200)
    ones, before = np.ones((200, 1)), np.inf
    for _ in range(30):
        shares = Gate.uniform(1, 5).weights + tracker.shift(ones)
        shares = np.exp(shares) / np.exp(shares).sum(1, keepdims=True)
        blame = probs * shares / (probs * shares).sum(1, keepdims=True)
        loss = -np.log((probs * shares).sum(1)).mean()
        assert loss < before
        before = loss
        tracker.step(ones, blame - shares, 100 * np.eye(5), 200)
    # The fixed point is that of brute force: shares that are the mean responsibilities.
    for _ in range(2000):
        tracker.step(ones, blame - shares, 100 * np.eye(5), 200)
        shares = np.exp(tracker.shift(ones)) / np.exp(tracker.shift(ones)).sum(1, keepdims=True)
        blame = probs * shares / (probs * shares).sum(1, keepdims=True)
    brute = np.full(5, 0.2)
    for _ in range(20_000):
        blame = probs * brute / (probs * brute).sum(1, keepdims=True)
        brute = blame.mean(0)
    assert np.allclose(shares[0], brute, atol=2e-3)


def test_slopes_and_covariances_are_derivatives_of_the_log_likelihood() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(9, 3, 7, generator=random, dtype=torch.float64)
    weights, targets = torch.randn(9, 3, generator=random, dtype=torch.float64), torch.arange(9) % 7
    probs = torch.bmm(weights[:, None], features).squeeze(1).softmax(1)
    slopes, spread = module.derivatives(features.numpy(), probs.numpy(), targets.numpy())
    rows = range(9)

    def log_likelihood(own: torch.Tensor, row: int) -> torch.Tensor:
        return (own @ features[row]).log_softmax(0)[targets[row]]

    for row in rows:
        own = weights[row].clone().requires_grad_()
        (found,) = torch.autograd.grad(log_likelihood(own, row), own)
        assert np.allclose(slopes[row], found.numpy(), atol=1e-12)
    for at, row in enumerate(list(rows)[:: module.CURVED]):
        found = torch.autograd.functional.hessian(lambda own, row=row: log_likelihood(own, row), weights[row])
        assert np.allclose(spread[at], -found.numpy(), atol=1e-12)


def test_corrections_step_by_slope_over_curvature() -> None:
    random, keys, targets = torch.Generator().manual_seed(0), np.array([1, 1, 0, 2]), np.array([3, 0, 3, 1])
    tables = Corrections((3,), 5, start=2.0)
    plain, total = torch.zeros(3, 5, dtype=torch.float64), torch.full((3, 5), 2.0, dtype=torch.float64)
    logits = torch.randn(4, 5, generator=random)
    for _ in range(3):
        said = logits.clone()
        tables.add_to(said.numpy(), (keys,))
        assert torch.allclose(said, logits + plain[keys].float(), atol=1e-5)
        tables.step(said.softmax(1).numpy(), targets, (keys,))
        moved, fresh = torch.zeros_like(plain), total.clone()
        for row, key in enumerate(keys):
            own = said[row].double().requires_grad_()
            (slope,) = torch.autograd.grad(own.log_softmax(0)[targets[row]], own)
            q = own.detach().softmax(0)
            fresh[key] += q * (1 - q)
            moved[key] += slope
        plain, total = plain + moved / fresh, fresh


@pytest.mark.parametrize("product", ["episodic", "all", "none"])
def test_slopes_of_gate_exponents_and_certainty_are_those_of_what_is_said(product: str) -> None:
    split = split_words(" ".join(load_text("pydoc").text.split()[:2500]))
    model = learned(
        HolographicConfig.model_validate({**WORDS, "mixture": {**WORDS["mixture"], "product": product}}), split
    )
    tokens, positions = asked(split, 64)
    targets, reading = tokens[positions], model.memories.read(of_text(tokens, ONE, positions))
    here, plain = np.arange(64), Summed(model.memories, model.mixture)
    said = plain.log_probs(reading, targets).exp().numpy()
    whole = model.mixture.distribution(model.memories, reading)
    assert np.allclose(said, whole, atol=1e-6), "nothing has moved yet"

    def slope(tracker: str, column: int, *, tempered: bool) -> np.ndarray:
        """Change of the log probability of each target with one weight of the first number."""
        found = []
        for step in (-1e-2, 1e-2):
            moved = Summed(model.memories, model.mixture)
            if not tempered:
                object.__setattr__(moved.mixture, "certainty", None)
            getattr(moved, tracker).moved[0, column] += step
            found.append(moved.log_probs(reading, targets)[here, targets].double().numpy())
        return (found[1] - found[0]) / 2e-2

    certainty = model.mixture.certainty
    assert certainty is not None
    told = plain._of_certainty[0]
    measured = slope("_certainty", 0, tempered=True)
    right = whole.argmax(1) == targets
    # Of another word than the first one the likelihood has a second part, which certainty leaves alone.
    assert np.allclose(measured, told.slopes[:, 0], atol=2e-3) and right.any() and not right.all()
    if product != "all":
        for column in range(len(model.memories.experts)):
            measured = slope("_gate", column, tempered=False)
            assert np.allclose(measured, plain._of_gate[0].slopes[:, column], atol=2e-3)
    assert bool(plain._of_exponents) == (product == "episodic")
    if product == "episodic":
        for column in range(2 + len(model.mixture.tilts)):
            measured = slope("_exponents", column, tempered=False)
            wanted = plain._of_exponents[0].slopes[:, column]
            assert np.allclose(measured, wanted, atol=2e-2 * max(1.0, np.abs(wanted).max()))


def test_slopes_of_a_pool_are_those_of_what_is_said(characters: tuple[HolographicModel, WordSplit]) -> None:
    model, split = characters
    tokens, positions = asked(split, 64)
    targets, reading = tokens[positions], model.memories.read(of_text(tokens, ONE, positions))
    assert model.mixture.pool is not None
    plain, here = Multiplied(model.memories, model.mixture.pool), np.arange(64)
    said = plain.log_probs(reading, targets).exp().numpy()
    assert np.allclose(said, model.mixture.distribution(model.memories, reading), atol=1e-5), "nothing has moved yet"
    for column in (0, 5, len(model.memories.voices) - 1):
        found = []
        for step in (-1e-2, 1e-2):
            moved = Multiplied(model.memories, model.mixture.pool)
            moved._weights.moved[0, column] += step
            found.append(moved.log_probs(reading, targets)[here, targets].double().numpy())
        measured = (found[1] - found[0]) / 2e-2
        assert np.allclose(measured, plain._of_weights[0].slopes[:, column], atol=5e-3)


def test_curvature_is_told_rarely_once_it_is_steady(
    characters: tuple[HolographicModel, WordSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, split = characters
    tokens, positions = asked(split, 64)
    targets, reading = tokens[positions], model.memories.read(of_text(tokens, ONE, positions))
    assert model.mixture.pool is not None
    follows = Multiplied(model.memories, model.mixture.pool)
    follows.log_probs(reading, targets)
    monkeypatch.setattr(module, "STEADY", 0)
    for _ in range(2 * module.RARELY - 1):
        follows.log_probs(reading, targets)
    told = follows._of_weights
    curved = [t.curved for t in told]
    assert curved[0] == curved[module.RARELY - 1] == curved[-1] == 64 // module.CURVED
    assert sum(curved) == 3 * 64 // module.CURVED
    for t in told[1:]:
        assert np.array_equal(t.slopes, told[0].slopes) and bool(t.curvature.any()) == bool(t.curved)
    follows.step()
    assert follows._weights.moved.any() and follows._weights.seen == EXPECTED + 64 * len(curved)


def test_nothing_is_kept_and_all_of_it_comes_again(both: tuple[HolographicModel, WordSplit]) -> None:
    model, split = both
    tokens, positions = asked(split, 320)
    mixture, static, fitted = model.mixture, predict(model, tokens, positions), repr(model.mixture)
    tries = [g.trie for g in [*model.memories.grams, *model.memories.classes]]
    before = [part for trie in tries for n in range(1, trie.order + 1) for part in trie.grams(n)]
    online = predict(model, tokens, positions, online=True)
    assert model.mixture is mixture and repr(mixture) == fitted
    after = [part for trie in tries for n in range(1, trie.order + 1) for part in trie.grams(n)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert np.array_equal(predict(model, tokens, positions, online=True).losses, online.losses)
    assert np.array_equal(predict(model, tokens, positions).losses, static.losses)
    # Before anything was read it is the mixture as it was fitted; later it is not.
    fixed = model.follow(of_text(tokens, ONE, positions), tokens[positions], 64)
    model.change(of_text(tokens, ONE, positions), tokens[positions], sign=-1)
    own = -fixed.gather(1, torch.from_numpy(tokens[positions])[:, None]).squeeze(1).double().numpy()
    assert np.abs(own[:64] - online.losses[:64]).max() < 1e-4
    assert np.abs(own[64:] - online.losses[64:]).max() > 1e-2


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_nothing_is_kept_of_a_text_whose_reading_fails_midway(
    both: tuple[HolographicModel, WordSplit], error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, split = both
    tokens, positions = asked(split, 320)
    static, known, asks = predict(model, tokens, positions), model.memories.learned, list[int]()
    tries = [g.trie for g in [*model.memories.grams, *model.memories.classes]]
    before = [part for trie in tries for n in range(1, trie.order + 1) for part in trie.grams(n)]
    honest = model.memories.read_cued

    def failing(*arguments, **options):
        asks.append(model.memories.learned - known)
        if len(asks) == 4:
            raise error("the power fails")
        return honest(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(model.memories, "read_cued", failing)
        with pytest.raises(error, match="the power fails"):
            predict(model, tokens, positions, online=True)
    assert asks == [0, 64, 128, 192] and model.memories.learned == known
    after = [part for trie in tries for n in range(1, trie.order + 1) for part in trie.grams(n)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert np.array_equal(predict(model, tokens, positions).losses, static.losses)


def test_a_word_changes_nothing_that_was_said_before_its_block_was_over(
    both: tuple[HolographicModel, WordSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, split = both
    tokens, positions = asked(split, 192)
    contexts, targets = of_text(tokens, ONE, positions), tokens[positions]
    other = np.concatenate([targets[:100], np.roll(targets[100:], 7)])

    def followed(words: np.ndarray) -> torch.Tensor:
        found = model.follow(contexts, words, 64, following_of(model.memories, model.mixture))
        model.change(contexts, words, sign=-1)
        return found

    whole, changed = followed(targets), followed(other)
    assert torch.equal(whole[:128], changed[:128])
    assert (whole[128:] - changed[128:]).abs().max() > 1e-2
    assert (whole.exp().sum(1) - 1).abs().max() < 1e-5
    # Pieces of a block may be asked apart: here the same contexts tell curvatures, and sums are rounded elsewhere.
    monkeypatch.setattr(HolographicModel, "rows", 4 * module.CURVED)
    assert torch.allclose(whole, followed(targets), atol=1e-3)


def test_what_is_not_fitted_or_wanted_does_not_follow(words: tuple[HolographicModel, WordSplit]) -> None:
    model, split = words
    config = HolographicConfig.model_validate({**WORDS, "evaluation": {"follow": False}})
    assert following_of(HolographicModel(config, split.tokenizer).memories, model.mixture) is None
    assert following_of(model.memories, HolographicModel(model.config, split.tokenizer).mixture) is None
    assert isinstance(following_of(model.memories, model.mixture), Summed)


def test_candidates_follow_without_exponents() -> None:
    split = split_words(" ".join(load_text("pydoc").text.split()[:3000]))
    similarity = {**WORDS["similarity"], "candidates": 64}
    model = learned(HolographicConfig.model_validate({**WORDS, "similarity": similarity}), split)
    tokens, positions = asked(split, 64)
    reading, follows = model.memories.read(of_text(tokens, ONE, positions)), Summed(model.memories, model.mixture)
    said = follows.log_probs(reading, tokens[positions]).exp().numpy()
    assert np.allclose(said, model.mixture.distribution(model.memories, reading), atol=1e-6)
    follows.step()
    assert follows._gate.moved.any() and not follows._exponents.moved.any()
    assert (follows.log_probs(reading, tokens[positions]).exp().sum(1) - 1).abs().max() < 1e-4


def test_following_lowers_the_loss_of_characters(characters: tuple[HolographicModel, WordSplit]) -> None:
    model, split = characters
    tokens, positions = asked(split, len(split.test))
    contexts, targets = of_text(tokens, ONE, positions), tokens[positions]
    fixed = model.follow(contexts, targets, 64)
    model.change(contexts, targets, sign=-1)
    own = -fixed.gather(1, torch.from_numpy(targets)[:, None]).mean()
    assert predict(model, tokens, positions, online=True).losses.mean() < float(own)
