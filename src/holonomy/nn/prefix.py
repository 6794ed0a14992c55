"""A prefix of patches before the tokens of a sequence: pictures and clips that the text is about."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer
from holonomy.core.tape import Tape
from holonomy.nn.embedding import Embedding
from holonomy.nn.static import Linear


class Prefixed(NamedTuple):
    """What a network with a prefix reads.

    Attributes:
        ids: tokens, [B, T].
        patches: rows of pixels, [B, P, features].
        modality: number of the kind of each sequence's patches, [B].
    """

    ids: Int[Tensor, "B T"]
    patches: Float[Tensor, "B P F"]
    modality: Int[Tensor, " B"]


class PrefixEmbedding(EchoLayer):
    """Vectors of patches, then those of tokens: [D, B, P + T].

    A patch is mapped linearly, and gets the vector of its place and of its modality.

    Args:
        tokens: the embedding of the tokens.
        features: numbers of a patch.
        places: patches of a sequence.
        modalities: number of kinds.
        generator: source of the initial weights.
    """

    def __init__(
        self, tokens: Embedding, *, features: int, places: int, modalities: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        channels = tokens.weight.shape[0]
        self.tokens = tokens
        self.patches = Linear(features, channels, std=features**-0.5, generator=generator)
        self.places = nn.Parameter(0.1 * torch.randn(channels, places, generator=generator))
        self.modalities = nn.Parameter(0.1 * torch.randn(channels, modalities, generator=generator))

    def free(self, x: Prefixed, tape: Tape | None) -> Float[Tensor, "D B PT"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Looks both up; the record is the modalities."""
        mapped = self.patches.free(x.patches.permute(2, 0, 1), tape)
        kinds = self.modalities.index_select(1, x.modality).unsqueeze(-1)
        known = self.tokens.free(x.ids, tape)
        if tape is not None:
            tape.push(self, x.modality)
        return torch.cat([mapped + self.places.unsqueeze(1) + kinds, known], -1)

    def echo(self, tape: Tape, g: Float[Tensor, "D B PT"], acc: StatBuffer) -> Tensor:
        """Sums the nudges by place and by modality; patches and ids take none, so it returns an empty one."""
        (modality,) = tape.pop(self)
        split = self.places.shape[1]
        ahead, behind = g[..., :split], g[..., split:]
        self.tokens.echo(tape, behind.contiguous(), acc)
        acc[self.places].add_(ahead.sum(1))
        acc[self.modalities].index_add_(1, modality, ahead.sum(-1))
        self.patches.echo(tape, ahead.contiguous(), acc)
        return g.new_empty(0)

    def start(self, batch: int) -> None:
        """There is no state."""
        return None

    def advance(self, x: Prefixed | Tensor, state: None) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The prefix with the first tokens, or tokens alone."""
        return (self.free(x, None) if isinstance(x, Prefixed) else self.tokens.free(x, None)), None

    def step(self, x: Tensor, state: None) -> tuple[Tensor, None]:
        """One token a sequence."""
        return self.tokens.step(x, None)
