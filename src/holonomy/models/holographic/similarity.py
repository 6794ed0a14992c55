"""Contexts as features of word vectors, and two linear read-outs solved from their sums."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.geometry.compiled import compiled
from holonomy.geometry.rotation import counter_haar

LEFT, RIGHT = 3, 4
"""Tags of the rotations that mark how far back a word stands."""
FLOOR = 1e-4
"""Share of the unigram that keeps the read-out above zero."""
PART = 4096
"""Contexts whose features exist at a time."""


@lru_cache(maxsize=1)
def dotting() -> Any:
    """`dots(rows, own, words, out)`: out[b, j] = rows[words[b, j]] . own[b], where no copy of the rows is made."""

    def dots(rows, own, words, out):
        for b in range(len(words)):
            for j in range(words.shape[1]):
                row, total = words[b, j], np.float32(0)
                for d in range(rows.shape[1]):
                    total += rows[row, d] * own[b, d]
                out[b, j] = total

    return compiled(dots)


def dots_with(rows: Float[Tensor, "V D"], own: Float[Tensor, "B D"], words: Int[Tensor, "B m"]) -> Float[Tensor, "B m"]:
    """Products of a vector of each context with the rows of some words."""
    out = torch.empty(words.shape)
    dotting()(rows.numpy(), own.numpy(), words.numpy(), out.numpy())
    return out


class ContextFeatures:
    """What a context looks like through the vectors of its words, without any parameter to learn.

    The last two words, the last `positions` words superposed with decay, each turned by the rotations of its place, the
    product of the last two, and one.

    Args:
        vectors: of words, [V, D], D a multiple of 16.
        positions: words in the superposition.
        decay: weight of a word relative to the one after it.
        seed: of the rotations.
    """

    def __init__(
        self,
        vectors: Float[Tensor, "V D"],
        *,
        positions: int = 6,
        decay: float = 0.618,
        seed: int = 7,
    ) -> None:
        dim = vectors.shape[1]
        if dim % 16 or positions < 2:
            raise ConfigError(
                f"`vectors` have {dim} numbers, `positions` is {positions}; wanted a multiple of 16, 2 or more"
            )
        self.vectors, self.positions, self.decay = vectors, positions, decay
        self.size = 4 * dim + 1
        index = torch.arange(positions)
        left, right = (counter_haar(seed, tag, index) for tag in (LEFT, RIGHT))
        self.first = left[1].to(vectors.dtype)
        """Turns the last word but one before it is multiplied with the last, [4, 4]."""
        # x -> l x r is linear: as matrices on the sixteen entries, one below the other, with their decay.
        turns = torch.stack([decay**p * torch.kron(left[p], right[p].T.contiguous()) for p in range(positions)])
        self.turns = turns.mT.reshape(-1, 16).to(vectors.dtype)
        """Of all places, nearest first, one below the other, [16 positions, 16]."""

    def __call__(self, symbols: Int[Tensor, "B n"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B size"]:
        """Features of contexts, nearest word last; words beyond the length are absent."""
        n = symbols.shape[1]
        age = torch.arange(n - 1, -1, -1)
        there = (age[None] < lengths[:, None]).to(self.vectors.dtype)
        near = self.vectors[symbols[:, max(0, n - self.positions) :]] * there[:, max(0, n - self.positions) :, None]
        near = torch.nn.functional.pad(near, (0, 0, max(0, self.positions - n), 0)).flip(1)
        blocks = near.unflatten(2, (-1, 16))
        turned = blocks.transpose(1, 2).flatten(2) @ self.turns
        last, before = (blocks[:, p].unflatten(2, (4, 4)) for p in (0, 1))
        parts = [near[:, 0], near[:, 1], turned.flatten(1), ((self.first @ before) @ last).flatten(1)]
        parts.append(torch.ones(len(symbols), 1, dtype=near.dtype))
        return torch.cat(parts, 1)


class Readout:
    """Sums over contexts, and the ridge solutions that follow from them.

    `towards` maps features to the vector of the word to come, `solution`, if `words`, to all words at once.

    Args:
        features: of contexts.
        ridge: added to the diagonal of the sum of squares.
        words: keep the sums that a read-out of words needs, features times vocabulary.
    """

    def __init__(self, features: ContextFeatures, *, ridge: float = 5.0, words: bool = False) -> None:
        size, (vocab_size, dim) = features.size, features.vectors.shape
        self.features, self.ridge, self.words = features, ridge, words
        self.squares = torch.zeros(size, size, dtype=torch.float64)
        self.by_vector = torch.zeros(size, dim, dtype=torch.float64)
        self.by_word = torch.zeros(vocab_size if words else 0, size, dtype=torch.float64)
        self.towards = torch.zeros(size, dim)
        self.solution = torch.zeros(size, vocab_size if words else 0)

    @property
    def nbytes(self) -> int:
        """Bytes of sums and solutions."""
        return sum(t.numel() * t.element_size() for t in (*self.state().values(), self.features.vectors))

    def add(
        self,
        symbols: Int[Tensor, "B n"],
        lengths: Int[Tensor, " B"],
        targets: Int[Tensor, " B"],
        weights: Int[Tensor, " B"],
    ) -> None:
        """Adds contexts and what followed to the sums; negative weights take away, up to rounding."""
        for begin in range(0, len(targets), PART):
            cut = slice(begin, begin + PART)
            f = self.features(symbols[cut], lengths[cut])
            weighted = f if bool((weights[cut] == 1).all()) else f * weights[cut, None].to(f.dtype)
            self.squares += (weighted.T @ f).double()
            self.by_vector += (weighted.T @ self.features.vectors[targets[cut]]).double()
            if self.words:
                self.by_word.index_add_(0, targets[cut], weighted.double())

    def solve(self) -> None:
        """Fits the maps to the sums."""
        ridge = self.squares + self.ridge * torch.eye(len(self.squares), dtype=torch.float64)
        factor = torch.linalg.cholesky(ridge)
        self.towards = torch.cholesky_solve(self.by_vector, factor).float()
        if self.words:
            self.solution = torch.cholesky_solve(self.by_word.T, factor).float()

    def similarities(self, f: Float[Tensor, "B size"]) -> Float[Tensor, "B V"]:
        """How well the vector of each word fits the one expected."""
        return (f @ self.towards) @ self.features.vectors.T

    def similarities_of(self, f: Float[Tensor, "B size"], words: Int[Tensor, "B m"]) -> Float[Tensor, "B m"]:
        """The same for some words alone."""
        return dots_with(self.features.vectors, f @ self.towards, words)

    def shares(self, f: Float[Tensor, "B size"], unigram: Float[Tensor, " V"]) -> Float[Tensor, "B V"]:
        """Normalised positive part of the read-out of words."""
        own = (f @ self.solution).clamp_(min=0).add_(FLOOR * unigram)
        return own.div_(own.sum(1, keepdim=True))

    def state(self) -> dict[str, Tensor]:
        """What `load_state` reads back."""
        names = ("squares", "by_vector", "by_word", "towards", "solution")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes over stored sums and solutions.

        Raises:
            CheckpointError: a tensor is missing, foreign or of another shape.
        """
        for name, mine in self.state().items():
            found = state.get(name)
            if found is None or found.shape != mine.shape or found.dtype != mine.dtype:
                raise CheckpointError(f"`{name}` of the read-out is missing or foreign; wanted {tuple(mine.shape)}")
        for name in self.state():
            setattr(self, name, state[name].clone())
