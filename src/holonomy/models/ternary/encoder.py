"""From tables to latent vectors, and from points back to tables."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holonomy.core.numerics import safe_norm
from holonomy.models.ternary.config import TernaryModelConfig

SCALE_STEP = 4.0
"""Ratio of the copies of the point that a decoder sees: deep digits move it by so little that a net misses them."""


class TableEncoder(nn.Module):
    """Tables [B, digits] of entries 0 to base - 1 to mean and log variance, [B, d] each.

    Gated layers are Linear, LayerNorm, SiLU and Dropout; plain ones Linear and ReLU.

    Args:
        config: the model.
        base, digits: shape of the tables.
    """

    values: Tensor

    def __init__(self, config: TernaryModelConfig, *, base: int, digits: int) -> None:
        super().__init__()
        self.base, self.one_hot, self.latent_dim = base, config.input == "one_hot", config.latent_dim
        self.low, self.high = config.logvar_min, config.logvar_max
        self.point = config.posterior == "point"
        layers: list[nn.Module] = []
        width = digits * base if self.one_hot else digits
        for hidden in config.hidden:
            layers.append(nn.Linear(width, hidden))
            if config.encoder == "gated":
                layers += [nn.LayerNorm(hidden), nn.SiLU()]
                if config.encoder_dropout:
                    layers.append(nn.Dropout(config.encoder_dropout))
            else:
                layers.append(nn.ReLU())
            width = hidden
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, self.latent_dim if self.point else 2 * self.latent_dim)
        if not self.point:
            # With a variance near 1 at the start, noise hides all but the first digits for most of the training.
            nn.init.constant_(self.head.bias[self.latent_dim :], config.logvar_init)
        self.register_buffer("values", torch.arange(base, dtype=torch.int8), persistent=False)

    def features(self, table: Int[Tensor, "B digits"]) -> Float[Tensor, "B width"]:
        """What the first layer sees: one-hot entries, or entries as numbers in [-1, 1]."""
        dtype = self.head.weight.dtype
        if self.one_hot:
            return table.unsqueeze(-1).eq(self.values).to(dtype).flatten(1)
        return table.to(dtype) * (2 / (self.base - 1)) - 1

    def forward(self, table: Int[Tensor, "B digits"]) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B d"] | None]:
        """Mean and log variance; without noise there is no variance."""
        found = self.head(self.body(self.features(table)))
        if self.point:
            return found, None
        mean, logvar = found.chunk(2, -1)
        return mean, logvar.clamp(self.low, self.high)


class TableDecoder(nn.Module):
    """Points in normal coordinates [B, width] to logits [B, digits, base].

    Args:
        config: the model.
        base, digits: shape of the tables.
    """

    def __init__(self, config: TernaryModelConfig, *, base: int, digits: int) -> None:
        super().__init__()
        self.base, self.digits = base, digits
        self.scales, self.direction = config.decoder_scales, config.decoder_copies == "direction"
        width = config.latent_dim * (2 if config.decode_from == "concat" else 1)
        hidden, layers = config.decoder_hidden, list[nn.Module]()
        for inside in (width * (self.scales + self.direction), hidden):
            layers.append(nn.Linear(inside, hidden))
            if config.decoder == "gated":
                layers += [nn.LayerNorm(hidden)] if config.decoder_norm else []
                layers.append(nn.SiLU())
                layers += [nn.Dropout(config.decoder_dropout)] if config.decoder_dropout else []
            else:
                layers.append(nn.ReLU())
        self.body = nn.Sequential(*layers, nn.Linear(hidden, digits * base))

    def forward(self, u: Float[Tensor, "B width"]) -> Float[Tensor, "B digits base"]:
        """Logits of every entry."""
        copied, seen = u, list[Tensor]()
        if self.direction:
            # Near the centre the direction says what the coordinates cannot.
            copied, seen = u / safe_norm(u).clamp_min(torch.finfo(u.dtype).tiny), [u]
        seen += [copied * SCALE_STEP**k for k in range(self.scales)]
        return self.body(torch.cat(seen, -1)).view(-1, self.digits, self.base)
