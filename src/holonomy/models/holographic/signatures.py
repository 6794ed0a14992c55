"""Rotations that stand for words and for places in a context: they follow from a seed and are never learned."""

from __future__ import annotations

from copy import copy

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.geometry.rotation import counter_haar
from holonomy.models.holographic.plan import MANY_WORDS

ROWS = 8192
"""Words whose rotations are made at a time."""
WORD, PLACE = 1, 2
"""Tags of the two families of rotations."""


class Signatures:
    """For each word and each place K independent rotations of four dimensions.

    Args:
        seed: what they follow from; stored pairs are noise under any other.
        channels: K.
        vocab_size: number of words.
        places: how many places a context has.

    Raises:
        ConfigError: channels is not a power of two, or there is no word or place.
    """

    def __init__(self, seed: int, channels: int, vocab_size: int, places: int, device: str = "cpu") -> None:
        if channels < 1 or channels & (channels - 1) or vocab_size < 1 or places < 1:
            raise ConfigError(
                f"`channels` is {channels}, `vocab_size` {vocab_size}, `places` {places}; "
                "wanted a power of two, one word or more, one place or more"
            )
        self.seed, self.channels = seed, channels
        index = torch.arange(max(vocab_size, places + 1) * channels, device=device).view(-1, channels)
        # Hashes and angles take many times what they give.
        parts = [counter_haar(seed, WORD, part).float() for part in index[:vocab_size].split(ROWS)]
        self.words = torch.cat(parts)
        """[V, K, 4, 4]."""
        self.places = counter_haar(seed, PLACE, index[1 : places + 1]).float()
        """Nearest first, [places, K, 4, 4]."""
        self._placed: Tensor | None = None

    @property
    def placed(self) -> Float[Tensor, "places V K 4 4"]:
        """Words at places, nearest first: made where many are bound, and kept until `release`."""
        placed = self._placed
        if placed is None:
            placed = self.places[:, None] @ self.words
            self._placed = placed
        return placed

    def placed_of(self, symbols: np.ndarray) -> tuple[Float[Tensor, "places W K 4 4"], np.ndarray]:
        """A table of words at places, and symbols as rows of it: of all words, or, if they are many, of these."""
        if len(self.words) <= MANY_WORDS:
            return self.placed, symbols
        few, rows = np.unique(symbols, return_inverse=True)
        return self.places[:, None] @ self.words[torch.from_numpy(few)], rows.reshape(symbols.shape)

    def among(self, words: Int[Tensor, " m"]) -> Signatures:
        """Those of some words alone, numbered anew."""
        some = copy(self)
        some.words, some._placed = self.words[words], None
        return some

    def release(self) -> None:
        """Gives back the largest table; it is made again when something is bound."""
        self._placed = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tables that are there."""
        tables = (self.words, self.places, *(() if self._placed is None else (self._placed,)))
        return 4 * sum(table.numel() for table in tables)

    def keys(self, symbols: Int[Tensor, "B n"]) -> Float[Tensor, "B K 4 4"]:
        """Product over the words of a context, nearest first; the nearest stands last in `symbols`."""
        nearest = symbols.flip(1)
        key = self._at(0, nearest[:, 0])
        for place in range(1, nearest.shape[1]):
            key = key @ self._at(place, nearest[:, place])
        return key

    def _at(self, place: int, symbols: Int[Tensor, " B"]) -> Float[Tensor, "B K 4 4"]:
        return self.places[place] @ self.words[symbols] if self._placed is None else self._placed[place, symbols]

    def similarities(self, x: Float[Tensor, "B K 4 4"]) -> Float[Tensor, "B V"]:
        """Mean over channels of tr(E_w^T X) / 4: about the number of times word w is in x."""
        return x.flatten(1) @ self.words.flatten(1).T / (4 * self.channels)
