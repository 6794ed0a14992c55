"""Exponents that follow: autograd and a dense solver as second roads, and what a product of experts is for."""

from __future__ import annotations

import numpy as np
import torch

from holonomy.infer.exponents import MEMORY, PULL, multiplied, solving


def spoken(seed: int, rows: int, places: int, voices: int, words: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    logs = torch.from_numpy(random.normal(0, 2, (rows, places, voices, words)))
    return logs.log_softmax(-1).float().numpy()


def nothing(rows: int, numbers: int, voices: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((rows, numbers, voices)), np.zeros((rows, numbers * voices, numbers * voices))


def by_autograd(logs: np.ndarray, x: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same recursion with slopes and curvatures of log q by autograd, and a dense solver."""
    places, voices, _ = logs.shape
    own, keep = torch.from_numpy(logs).double(), 1 - 1 / MEMORY
    begun = torch.zeros(x.shape[1], voices, dtype=torch.float64)
    weights, curvature, said = begun.clone(), torch.zeros(begun.numel(), begun.numel(), dtype=torch.float64), []
    for p in range(places):
        row = torch.from_numpy(x[p])

        def log_probs(flat: torch.Tensor, p: int = p, row: torch.Tensor = row) -> torch.Tensor:
            exponents = row @ flat.view(begun.shape)
            return ((exponents[:, None] * own[p]).sum(0) + own[p, -1]).log_softmax(0)

        said.append(log_probs(weights.reshape(-1)))
        if p == places - 1:
            break
        token = int(tokens[p])

        def own_log(flat: torch.Tensor, token: int = token, log_probs=log_probs) -> torch.Tensor:
            return log_probs(flat)[token]

        slope = torch.autograd.functional.jacobian(own_log, weights.reshape(-1))
        bent = torch.autograd.functional.hessian(own_log, weights.reshape(-1))
        curvature = keep * curvature - bent
        slope = slope - (1 - keep) * PULL * weights.reshape(-1)
        step = torch.linalg.solve(curvature + PULL * torch.eye(len(slope), dtype=torch.float64), slope)
        weights = weights + step.view(weights.shape)
    return torch.stack(said).numpy(), weights.numpy()


def test_steps_are_those_of_autograd_and_a_dense_solver() -> None:
    random, logs = np.random.default_rng(1), spoken(0, 2, 16, 3, 7)
    x, tokens = random.normal(0, 1, (2, 16, 4)), random.integers(0, 7, (2, 15))
    moved, curvature = nothing(2, 4, 3)
    found = multiplied(logs, x, tokens, moved, curvature)
    for row in range(2):
        said, weights = by_autograd(logs[row], x[row], tokens[row])
        assert np.abs(found[row] - said).max() < 1e-5
        assert np.abs(moved[row] - weights).max() < 1e-6
    assert np.abs(found[:, 0] - logs[:, 0, -1]).max() < 1e-6, "it begins as the last factor"
    assert np.abs(found[:, -1] - logs[:, -1, -1]).max() > 0.05, "and does not stay there"


def test_parts_of_a_text_are_the_whole() -> None:
    random, logs = np.random.default_rng(3), spoken(2, 1, 40, 2, 5)
    x, tokens = random.normal(0, 1, (1, 40, 3)), random.integers(0, 5, (1, 39))
    state, parts = nothing(1, 3, 2), nothing(1, 3, 2)
    whole = multiplied(logs, x, tokens, *state)
    # The last place of the first part is open; the second begins with it.
    first = multiplied(logs[:, :15], x[:, :15], tokens[:, :14], *parts)
    second = multiplied(logs[:, 14:], x[:, 14:], tokens[:, 14:], *parts)
    assert np.array_equal(whole, np.concatenate([first, second[:, 1:]], 1))
    assert np.array_equal(state[0], parts[0])


def test_the_solver() -> None:
    random = np.random.default_rng(5)
    for size in (1, 2, 24):
        half, right = random.normal(0, 1, (size, size)), random.normal(0, 1, size)
        square = half @ half.T + 0.1 * np.eye(size)
        wanted = np.linalg.solve(square, right)
        solving()(square, right)
        assert np.allclose(right, wanted, rtol=1e-9)


def test_exponents_find_the_product_that_made_a_text_and_forget_it() -> None:
    random, places = np.random.default_rng(8), 12_000
    logs, x = spoken(7, 1, places, 2, 6), np.ones((1, places, 1))
    truth = np.array([0.6, 1.3])
    probs = torch.from_numpy((truth[:, None] * logs[0]).sum(1)).softmax(1).numpy()
    drawn = (probs.cumsum(1) > random.random((places, 1))).argmax(1)
    moved, curvature = nothing(1, 1, 2)
    multiplied(logs, x, drawn[None, :-1], moved, curvature)
    assert np.abs(moved[0, 0] + np.array([0.0, 1.0]) - truth).max() < 0.1
    # Where all say the same of every word, W fades: with H falling by itself, W' = -c / (H + c) W has this solution.
    flat, before, bent = (
        np.full((1, places, 2, 6), -np.log(6), dtype=np.float32),
        moved[0, 0].copy(),
        curvature[0].copy(),
    )
    multiplied(flat, x, drawn[None, :-1], moved, curvature)
    passed = np.exp((places - 1) / MEMORY)
    wanted = np.linalg.solve(bent + PULL * passed * np.eye(2), (bent + PULL * np.eye(2)) @ before)
    assert np.allclose(moved[0, 0], wanted, rtol=0.02, atol=1e-3) and np.abs(wanted[0]) < 0.7 * np.abs(before[0])
