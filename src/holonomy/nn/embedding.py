"""Token embedding."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holonomy.core.flat import StatBuffer
from holonomy.core.layer import PointwiseLayer
from holonomy.core.tape import Tape

ONE_HOT_LIMIT = 1024
"""Largest vocabulary for which the statistic is a product with one-hot columns instead of a scatter."""


class Embedding(PointwiseLayer):
    """x = E[:, ids] with E of shape [channels, vocabulary].

    Args:
        vocabulary: number of token ids.
        channels: width of a token vector.
        std: standard deviation of the initial vectors.
        generator: source of the initial vectors.
    """

    decays = frozenset({"weight"})

    def __init__(self, vocabulary: int, channels: int, *, std: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, vocabulary, generator=generator) * std)

    def free(self, x: Int[Tensor, ...], tape: Tape | None) -> Float[Tensor, "channels ..."]:
        """Looks token ids up; the record is the ids."""
        if tape is not None:
            tape.push(self, x)
        return self.weight.index_select(1, x.flatten()).view(-1, *x.shape)

    def echo(self, tape: Tape, g: Float[Tensor, "channels ..."], acc: StatBuffer) -> Tensor:
        """dE[:, v] = sum of the nudges of all places that hold v; ids take no nudge, so it returns an empty one."""
        (ids,) = tape.pop(self)
        ids, g, stat = ids.flatten(), g.flatten(1), acc[self.weight]
        if stat.shape[1] <= ONE_HOT_LIMIT:
            hot = torch.zeros(ids.shape[0], stat.shape[1], dtype=g.dtype, device=g.device)
            stat.addmm_(g, hot.scatter_(1, ids[:, None], 1.0))
        else:
            stat.index_add_(1, ids, g)
        return g.new_empty(0)
