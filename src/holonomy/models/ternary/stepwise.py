"""A decoder that reads a table entry by entry, each from what the entries before it leave of the point."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holonomy.core.numerics import square_norm
from holonomy.models.ternary.config import TernaryModelConfig

FINEST = 5.0
"""Logarithm of the scale at which the last entry is looked at, at the start; that of the first is 0."""
REACH = 8.0
"""Length towards which a residual is bent: how far outside of its node a point lies says nothing more."""


class StepwiseDecoder(nn.Module):
    """Points in normal coordinates [B, width] to logits [B, digits, base], the first entry first.

    From the entries that are known, a net says where points that share them lie; the residual, enlarged by a factor
    that is learnt for each entry, and what the net knows of these entries give the logits of the next one. So deep
    entries need not move a point far to be told apart, as successive refinement needs no fine quantiser (Equitz &
    Cover 1991).

    Args:
        config: the model.
        base, digits: shape of the tables.
    """

    reads: Tensor
    places: Tensor

    def __init__(self, config: TernaryModelConfig, *, base: int, digits: int) -> None:
        super().__init__()
        self.base, self.digits = base, digits
        width = config.latent_dim * (2 if config.decode_from == "concat" else 1)
        hidden, seen = config.decoder_hidden, digits * base + digits
        self.prefix = nn.Sequential(
            nn.Linear(seen, 2 * hidden),
            nn.LayerNorm(2 * hidden),
            nn.SiLU(),
            nn.Linear(2 * hidden, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
        )
        self.centre = nn.Linear(hidden, width)
        self.log_scale = nn.Parameter(torch.linspace(0, FINEST, digits))
        self.rest = nn.Sequential(
            nn.Linear(width + hidden + digits, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, base),
        )
        self.register_buffer("reads", torch.ones(digits, digits).tril(-1), persistent=False)
        self.register_buffer("places", torch.eye(digits), persistent=False)

    def step(
        self, u: Float[Tensor, "B width"], known: Float[Tensor, "B digits base"], place: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B base"], Float[Tensor, " B"]]:
        """Logits of one entry of each row, and how far the points are from where the entries before it put them.

        Args:
            u: points.
            known: one-hot entries; those from `place` on are not looked at.
            place: which entry is asked for.
        """
        places = self.places[place]
        shown = (known * self.reads[place].unsqueeze(-1)).flatten(1)
        context = self.prefix(torch.cat([shown, places], -1))
        centre, scale = self.centre(context), self.log_scale[place].exp().unsqueeze(-1)
        residual = (u - centre) * scale
        # The distance teaches the centres; through it points would be drawn together.
        off = torch.log1p(square_norm((u.detach() - centre) * scale)).squeeze(-1)
        bent = residual * torch.rsqrt(1 + square_norm(residual) / REACH**2)
        return self.rest(torch.cat([bent, context, places], -1)), off

    def forward(self, u: Float[Tensor, "B width"]) -> Float[Tensor, "B digits base"]:
        """Logits of all entries, each given the likeliest before it."""
        known = u.new_zeros(len(u), self.digits, self.base)
        found = []
        for place in range(self.digits):
            logits, _ = self.step(u, known, torch.full((len(u),), place, device=u.device))
            found.append(logits)
            known[:, place] = nn.functional.one_hot(logits.argmax(-1), self.base).to(u.dtype)
        return torch.stack(found, 1)

    def guided(
        self, u: Float[Tensor, "B width"], table: Int[Tensor, "B digits"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "B base"], Int[Tensor, " B"], Float[Tensor, " B"]]:
        """Logits of one random entry of each table, given the true ones before it; which; and distances as above."""
        place = torch.randint(self.digits, (len(u),), generator=generator).to(u.device)
        known = nn.functional.one_hot(table.long(), self.base).to(u.dtype)
        logits, off = self.step(u, known, place)
        return logits, place, off
