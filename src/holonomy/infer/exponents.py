"""Exponents of distributions that are multiplied, as they follow a text: Newton's steps that forget.

q = prod_c p_c^w_c / Z with w = e + x W: numbers x of a place decide, and e is one for the last distribution and zero
for the others, so that with W = 0 it begins as the last one. log q is concave in W. After each token, with
k = 1 - 1 / memory,

    H <- k H + (x x^T) (x) cov_q(log p),    W <- W + (H + c)^-1 [x (log p(token) - E_q log p) - (1 - k) c W],

recursive least squares with a forgetting factor (Ljung 1999, section 11.2) for the curvature of this likelihood. c
holds W to zero where nothing was seen, and the last term draws it back there. Unlike `models.holographic.tracking`,
which follows one text by blocks for good, this is a state of each sequence and steps with every token, so that no way
of cutting a text changes what is said.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from holonomy.geometry.compiled import compiled

MEMORY, PULL = 3000.0, 100.0
"""Tokens after which a step is forgotten, and c."""


@lru_cache(maxsize=1)
def solving() -> Any:
    """`solve(square, right)`: `right` becomes the solution; `square` is positive definite and overwritten."""

    def solve(square, right):
        size = len(right)
        for i in range(size):
            for j in range(i + 1):
                total = square[i, j]
                for k in range(j):
                    total -= square[i, k] * square[j, k]
                square[i, j] = np.sqrt(total) if i == j else total / square[j, j]
            for k in range(i):
                right[i] -= square[i, k] * right[k]
            right[i] /= square[i, i]
        for i in range(size - 1, -1, -1):
            for k in range(i + 1, size):
                right[i] -= square[k, i] * right[k]
            right[i] /= square[i, i]

    return compiled(solve, exact=True)


@lru_cache(maxsize=1)
def saying() -> Any:
    """`say(logs, exponents, probs, out)`: product of the rows of `logs` [C, V], as it is and in logarithms."""

    def say(logs, exponents, probs, out):
        probs[:] = 0.0
        for c in range(len(logs)):
            for v in range(len(probs)):
                probs[v] += exponents[c] * logs[c, v]
        top, total = probs.max(), 0.0
        for v in range(len(probs)):
            out[v] = probs[v] - top
            probs[v] = np.exp(probs[v] - top)
            total += probs[v]
        shift = np.log(total)
        for v in range(len(probs)):
            out[v] -= shift
            probs[v] /= total

    return compiled(say)


@lru_cache(maxsize=1)
def moment_kernel() -> Any:
    """`measure(logs, probs, mean, spread)`: means and covariances of the rows of `logs` under `probs`."""

    def measure(logs, probs, mean, spread):
        for c in range(len(logs)):
            own = 0.0
            for v in range(len(probs)):
                own += probs[v] * logs[c, v]
            mean[c] = own
            for e in range(c + 1):
                both = 0.0
                for v in range(len(probs)):
                    both += probs[v] * (logs[c, v] - own) * (logs[e, v] - mean[e])
                spread[c, e] = spread[e, c] = both

    return compiled(measure)


@lru_cache(maxsize=1)
def exponent_kernel() -> Any:
    """`follow(logs, x, tokens, moved, curvature, keep, pull, out)`: see `multiplied`."""
    solve, say, measure = solving(), saying(), moment_kernel()

    def follow(logs, x, tokens, moved, curvature, keep, pull, out):
        rows, places, voices, words = logs.shape
        numbers = x.shape[2]
        exponents, mean, spread = np.empty(voices), np.empty(voices), np.empty((voices, voices))
        probs, slope = np.empty(words), np.empty((numbers, voices))
        for b in range(rows):
            for p in range(places):
                exponents[:] = 0.0
                exponents[voices - 1] = 1.0
                for j in range(numbers):
                    for c in range(voices):
                        exponents[c] += x[b, p, j] * moved[b, j, c]
                say(logs[b, p], exponents, probs, out[b, p])
                if p == places - 1:
                    break
                measure(logs[b, p], probs, mean, spread)
                curvature[b] *= keep
                for j in range(numbers):
                    for c in range(voices):
                        beyond = logs[b, p, c, tokens[b, p]] - mean[c]
                        slope[j, c] = x[b, p, j] * beyond - (1 - keep) * pull * moved[b, j, c]
                        for i in range(numbers):
                            for e in range(voices):
                                both = x[b, p, j] * x[b, p, i] * spread[c, e]
                                curvature[b, j * voices + c, i * voices + e] += both
                square = curvature[b] + pull * np.eye(numbers * voices)
                solve(square, slope.reshape(-1))
                moved[b] += slope

    return compiled(follow)


def multiplied(
    logs: np.ndarray, x: np.ndarray, tokens: np.ndarray, moved: np.ndarray, curvature: np.ndarray
) -> np.ndarray:
    """Log probabilities of the product at each place, [B, P, V] float32, each before its token is followed.

    Args:
        logs: log probabilities of the factors, the last one that of which the product begins, [B, P, C, V] float32.
        x: numbers of the places, [B, P, d] float64.
        tokens: what came at all places but the last one, [B, P - 1].
        moved: W, [B, d, C] float64; followed.
        curvature: H, [B, d C, d C] float64; followed.
    """
    out = np.empty((*logs.shape[:2], logs.shape[3]), dtype=np.float32)
    tokens = np.ascontiguousarray(tokens)
    exponent_kernel()(np.ascontiguousarray(logs), x, tokens, moved, curvature, 1 - 1 / MEMORY, PULL, out)
    return out
