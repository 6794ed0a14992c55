"""The autoencoder: tables to points of hyperbolic space, and points back to tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holonomy.core.errors import ConfigError
from holonomy.core.numerics import safe_norm
from holonomy.data.ternary_ops import OperationSpace
from holonomy.geometry import normal
from holonomy.geometry.normal import polar_dist, polar_half_chord
from holonomy.models.ternary.config import TernaryConfig, TernaryModelConfig
from holonomy.models.ternary.encoder import TableDecoder, TableEncoder
from holonomy.models.ternary.posterior import gaussian_sample, noise_like, wrap
from holonomy.models.ternary.projection import Curvature, Projection
from holonomy.models.ternary.stepwise import StepwiseDecoder

STREAMS = ("A", "B")
CHUNK = 65_536
"""Operations that are embedded at once outside of training: bounds memory in large spaces."""


@dataclass(frozen=True)
class Stream:
    """One stream of a batch.

    Attributes:
        mean: latent mean, [B, d].
        logvar: latent log variance, [B, d], or None without noise.
        e: directions of the points, [B, d].
        rho: geodesic radii of the points, [B].
        centre: normal coordinates of the point of the mean, for a wrapped normal posterior, else None.
    """

    mean: Tensor
    logvar: Tensor | None
    e: Tensor
    rho: Tensor
    centre: Tensor | None = None

    @classmethod
    def at(
        cls, mean: Tensor, logvar: Tensor | None, u: Float[Tensor, "B d"], *, centre: Tensor | None = None
    ) -> Stream:
        """A stream by the normal coordinates of its points."""
        length = safe_norm(u)
        return cls(mean, logvar, u / length.clamp_min(torch.finfo(u.dtype).tiny), length.squeeze(-1), centre)

    @property
    def u(self) -> Float[Tensor, "B d"]:
        """Normal coordinates of the points."""
        return self.rho.unsqueeze(-1) * self.e


@dataclass(frozen=True)
class TernaryOutput:
    """What the model says about a batch.

    Attributes:
        A: stream of coverage.
        B: stream of hierarchy; the same object where streams are tied.
        logits: entries by the decoder, [B, digits, base]; while a stepwise one learns, of one entry each, [B, 1, base].
        k: curvature, 0 where space is flat.
        max_radius: largest radius.
        logits_B: entries decoded from stream B, where a loss asked for them.
        place: which entry a row of the logits is about, [B], where they are about one.
        off: what a stepwise decoder's centres cost, [B].
    """

    A: Stream
    B: Stream
    logits: Tensor
    k: Tensor
    max_radius: float
    logits_B: Tensor | None = None
    place: Tensor | None = None
    off: Tensor | None = None

    def dist(self, i: Int[Tensor, " n"], j: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Distances in stream B between rows of the batch."""
        a, b, chord = self._polar(i, j)
        return polar_dist(a, b, chord, self.k)

    def half_chord(self, i: Int[Tensor, " n"], j: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """sinh(sqrt(c) d / 2)^2 / c in stream B between rows of the batch."""
        a, b, chord = self._polar(i, j)
        return polar_half_chord(a, b, chord, self.k)

    def exchanged(self, share: Float[Tensor, ""]) -> TernaryOutput:
        """What pair losses of stream A see: points at (1 - share) u_A + share u_B, of which B gets no gradient."""
        u = (1 - share) * self.A.u + share * self.B.u.detach()
        return replace(self, B=Stream.at(self.A.mean, self.A.logvar, u))

    def _polar(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        e, rho = self.B.e, self.B.rho
        # index_select, whose backward adds rows where that of fancy indexing sorts them.
        chord = (e.index_select(0, i) - e.index_select(0, j)).square().sum(-1)
        return rho.index_select(0, i), rho.index_select(0, j), chord


class TernaryVAE(nn.Module):
    """Encoder, projection and decoder of one or two streams.

    Args:
        config: the model.
        space: the operations.
    """

    def __init__(self, config: TernaryModelConfig, space: OperationSpace) -> None:
        super().__init__()
        self.config, self.space = config, space
        shape = {"base": space.base, "digits": space.digits}
        names = STREAMS if config.sharing == "separate" else STREAMS[:1]
        self.encoder = nn.ModuleDict({n: TableEncoder(config, **shape) for n in names})
        self.projection = nn.ModuleDict({n: Projection(config.projection, latent_dim=config.latent_dim) for n in names})
        self.decoder = (StepwiseDecoder if config.decoder == "stepwise" else TableDecoder)(config, **shape)
        self.curvature = Curvature(config.curvature, flat=config.geometry == "euclidean")

    @property
    def k(self) -> Float[Tensor, ""]:
        """Curvature of the space."""
        return -self.curvature()

    def stream(self, table: Int[Tensor, "B digits"], name: str, generator: torch.Generator | None) -> Stream:
        """One stream of tables with entries 0 to base - 1; noise only with a generator."""
        mean, logvar = self.encoder[name](table)
        if generator is None or logvar is None:
            return Stream(mean, logvar, *self.projection[name](mean))
        if self.config.posterior == "gaussian":
            return Stream(mean, logvar, *self.projection[name](gaussian_sample(mean, logvar, generator)))
        e, rho = self.projection[name](mean)
        centre = rho.unsqueeze(-1) * e
        u = wrap(centre, noise_like(mean, generator) * (logvar / 2).exp(), self.k)
        return Stream.at(mean, logvar, u, centre=centre)

    def forward(
        self, table: Int[Tensor, "B digits"], *, generator: torch.Generator | None = None, decode_B: bool = False
    ) -> TernaryOutput:
        """Both streams and the decoded entries.

        Args:
            table: entries 0 to base - 1.
            generator: source of the posterior's noise; None uses the means.
            decode_B: also decode stream B, where the decoder sees A alone.
        """
        a = self.stream(table, "A", generator)
        b = self.stream(table, "B", generator) if self.config.sharing == "separate" else a
        seen, most = self._decoder_input(a.u, b.u), self.config.projection.max_radius
        if generator is not None and isinstance(self.decoder, StepwiseDecoder):
            logits, place, off = self.decoder.guided(seen, table, generator)
            return TernaryOutput(a, b, logits.unsqueeze(1), self.k, most, place=place, off=off)
        logits = self.decoder(seen)
        other = self.decoder(b.u) if decode_B and b is not a and self.config.decode_from == "A" else None
        return TernaryOutput(a, b, logits, self.k, most, other)

    def _decoder_input(self, a: Tensor, b: Tensor) -> Tensor:
        kind = self.config.decode_from
        return torch.cat([a, b], -1) if kind == "concat" else a

    def table_of(self, index: Int[Tensor, " B"]) -> Tensor:
        """Entries 0 to base - 1 of operations."""
        return self.space.table[index]

    @torch.no_grad()
    def embed(
        self, index: Int[Tensor, " B"], *, stream: str = "B", generator: torch.Generator | None = None
    ) -> Float[Tensor, "B d"]:
        """Normal coordinates of operations: |u| is the geodesic radius.

        Args:
            index: numbers of operations.
            stream: A or B.
            generator: one posterior draw instead of the mean.

        Raises:
            ConfigError: there is no such stream or operation.
        """
        if stream not in STREAMS:
            raise ConfigError(f"`stream` is {stream!r}; wanted A or B")
        self.space.tree.check(index)
        name = stream if self.config.sharing == "separate" else "A"
        return torch.cat([self.stream(self.table_of(part), name, generator).u for part in index.split(CHUNK)])

    @torch.no_grad()
    def ball(self, index: Int[Tensor, " B"], *, stream: str = "B") -> Float[Tensor, "B d"]:
        """Coordinates of operations in the Poincare ball.

        Raises:
            ConfigError: as for `embed`, or space is flat.
        """
        if self.config.geometry == "euclidean":
            raise ConfigError("`model.geometry` is euclidean, which has no ball; use `embed`")
        return normal.to_ball(self.embed(index, stream=stream), self.k)

    @torch.no_grad()
    def decode(self, u: Float[Tensor, "B width"]) -> Int[Tensor, " B"]:
        """Operations that points in normal coordinates stand for."""
        found = [self.decoder(part).argmax(-1) for part in u.split(CHUNK)]
        return self.space.tree.number(torch.cat(found))

    @torch.no_grad()
    def reconstruct(self, index: Int[Tensor, " B"], *, generator: torch.Generator | None = None) -> Int[Tensor, " B"]:
        """What comes back through encoder, projection and decoder: the path that is trained."""
        a = self.embed(index, stream="A", generator=generator)
        b = a if self.config.sharing == "tied" else self.embed(index, stream="B", generator=generator)
        return self.decode(self._decoder_input(a, b))

    @torch.no_grad()
    def generate(self, n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
        """Operations that n draws of the prior decode to, through the same projection.

        Raises:
            ConfigError: the model has no prior, since it learnt without noise.
        """
        if self.config.posterior == "point":
            raise ConfigError("`model.posterior` is point: there is no prior to draw from; train with gaussian")
        shape = torch.empty(n, self.config.latent_dim, device=self.space.index.device)
        wanted = STREAMS if self.config.decode_from == "concat" else STREAMS[:1]
        parts = []
        for name in wanted:
            z = noise_like(shape, generator)
            if self.config.posterior == "gaussian":
                e, rho = self.projection[name](z)
                z = rho.unsqueeze(-1) * e
            parts.append(z)
        return self.decode(torch.cat(parts, -1))


def build_model(config: TernaryConfig, space: OperationSpace) -> TernaryVAE:
    """The model of a configuration; equal seeds give equal weights, and no other random number is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return TernaryVAE(config.model, space).to(space.index.device)


def parameter_counts(module: nn.Module) -> Mapping[str, int]:
    """Number of parameters of each child, and in all."""
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in module.named_children()}
    return {**counts, "total": sum(p.numel() for p in module.parameters())}
