"""Word vectors from counted neighbours, without gradients: positive pointwise mutual information and its main axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.models.holographic.plan import MANY_WORDS

SMOOTHING = 0.75
"""Power of column counts: rare neighbours would otherwise dominate (Levy et al. 2015)."""
OVERSAMPLE, POWER_STEPS = 32, 6
MOST_COLUMNS = 20_000
"""With more than `plan.MANY_WORDS`, only so many of the most frequent serve as neighbours."""
ROWS = 32_768
"""Words that are compared with all classes at a time."""


def neighbour_information(
    neighbours: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], vocab_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Positive pointwise mutual information of words and their neighbours.

    Args:
        neighbours: for each distance (left word, right word, count), each pair once.
        vocab_size: V.

    Returns:
        Rows, columns and values of the matrix, and its number of columns: V for each side of each distance, or as many
        as there are with only some of the words.
    """
    rows, columns, counts = [], [], []
    for distance, (left, right, count) in enumerate(neighbours):
        rows += [right, left]
        sides = (np.asarray(word, dtype=np.int64) + side * vocab_size for side, word in enumerate((left, right)))
        columns += [column + 2 * distance * vocab_size for column in sides]
        counts += [count, count]
    row, column, count = (np.concatenate(parts) for parts in (rows, columns, counts))
    if vocab_size > MANY_WORDS:
        word = column % vocab_size
        frequent = np.bincount(word, weights=count, minlength=vocab_size).argsort(kind="stable")[::-1][:MOST_COLUMNS]
        kept = np.isin(word, frequent)
        row, column, count = row[kept], column[kept], count[kept]
        there, column = np.unique(column, return_inverse=True)
        width, column = len(there), column.reshape(-1)
    else:
        width = 2 * len(neighbours) * vocab_size
    of_word = np.bincount(row, weights=count, minlength=vocab_size)
    of_column = np.bincount(column, weights=count, minlength=width) ** SMOOTHING
    information = np.log(count / (of_word[row] * (of_column / of_column.sum())[column]))
    positive = information > 0
    return row[positive], column[positive], information[positive], width


def main_axes(matrix: Tensor, dim: int, *, seed: int = 0) -> tuple[Float[Tensor, "V dim"], Float[Tensor, " dim"]]:
    """Left singular vectors and singular values of a sparse matrix by subspace iteration (Halko et al. 2011).

    The largest entry of each vector is positive; vectors beyond the rank are zero.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = matrix.shape
    across = matrix.t().coalesce()
    kept = min(dim + OVERSAMPLE, height, width)
    basis = torch.randn(width, kept, generator=generator, dtype=matrix.dtype)
    for _ in range(POWER_STEPS):
        basis = torch.linalg.qr(torch.sparse.mm(matrix, basis))[0]
        basis = torch.linalg.qr(torch.sparse.mm(across, basis))[0]
    u, s, _ = torch.linalg.svd(torch.sparse.mm(matrix, basis), full_matrices=False)
    u, s = u[:, :dim], s[:dim]
    u = u * u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
    u = torch.where(s > 1e-6 * s[:1], u, 0)
    short = dim - len(s)
    return torch.nn.functional.pad(u, (0, short)), torch.nn.functional.pad(s, (0, short))


def word_vectors(
    neighbours: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], vocab_size: int, dim: int, *, seed: int = 0
) -> Float[Tensor, "V dim"]:
    """Unit vectors of words with similar neighbours: rows of U sqrt(S); zero for words without neighbours.

    Raises:
        ConfigError: there is no neighbour at all.
    """
    if not sum(len(count) for _, _, count in neighbours):
        raise ConfigError("`neighbours` is empty; learn a text of two words or more first")
    row, column, value, width = neighbour_information(neighbours, vocab_size)
    index = torch.from_numpy(np.stack([row, column]))
    shape = (vocab_size, width)
    matrix = torch.sparse_coo_tensor(index, torch.from_numpy(value).float(), shape, check_invariants=True).coalesce()
    u, s = main_axes(matrix, dim, seed=seed)
    # The axes stand apart, and what is read is one word's numbers.
    vectors = (u * s.sqrt()).contiguous()
    norm = vectors.norm(dim=1, keepdim=True)
    return torch.where(norm > 1e-6, vectors / norm.clamp(min=1e-6), 0)


def word_classes(
    vectors: Float[Tensor, "V dim"], weights: Float[Tensor, " V"], num_classes: int, *, steps: int = 15
) -> np.ndarray:
    """Groups of words with similar vectors by spherical k-means, [V] int64.

    Args:
        vectors: unit vectors; those of zero fall into one class.
        weights: of words in the centres; the heaviest words are the first centres.
        num_classes: number of groups.
        steps: of the iteration.
    """
    if len(vectors) > MANY_WORDS:
        # The heaviest words place the centres: all others hardly move them, and would take most of the time.
        some = weights.argsort(descending=True, stable=True)[:MANY_WORDS]
        return _nearest(vectors, _centres(vectors[some], weights[some], num_classes, steps)[0]).numpy()
    return _centres(vectors, weights, num_classes, steps)[1].numpy().astype(np.int64)


def _centres(vectors: Tensor, weights: Tensor, num_classes: int, steps: int) -> tuple[Tensor, Tensor]:
    # Centres of classes, and the class of each word.
    heaviest = weights.argsort(descending=True, stable=True)[:num_classes]
    centres = vectors[heaviest].clone()
    group = _nearest(vectors, centres)
    for _ in range(steps):
        sums = torch.zeros_like(centres).index_add_(0, group, vectors * weights[:, None])
        norm = sums.norm(dim=1, keepdim=True)
        # An empty class keeps its centre.
        centres = torch.where(norm > 1e-9, sums / norm.clamp(min=1e-9), centres)
        fresh = _nearest(vectors, centres)
        if torch.equal(fresh, group):
            break
        group = fresh
    return centres, group


def _nearest(vectors: Tensor, centres: Tensor) -> Tensor:
    return torch.cat([(part @ centres.T).argmax(1) for part in vectors.split(ROWS)])
