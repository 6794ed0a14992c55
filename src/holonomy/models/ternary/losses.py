"""Losses as terms of a stack: each has a name, a weight that may depend on the phase, and costs nothing when off."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holonomy.core.config import Config
from holonomy.core.errors import ConfigError
from holonomy.core.registry import Registry
from holonomy.data.ternary_ops import OperationSpace
from holonomy.models.ternary.config import Term
from holonomy.models.ternary.model import TernaryOutput
from holonomy.models.ternary.posterior import gaussian_kl, wrapped_kl

if TYPE_CHECKING:
    from holonomy.models.ternary.config import Divergence, Losses, Reconstruction, WrappedDivergence

EXTERNAL = "holonomy.losses"
"""Entry point group of terms from other packages."""


@dataclass
class LossContext:
    """What the terms need besides the output of the model.

    Attributes:
        space: all operations.
        index: numbers of the batch, [B].
        generator: source of pairs and triples.
        unbias: weights that cancel oversampling, [B].
    """

    space: OperationSpace
    index: Int[Tensor, " B"]
    generator: torch.Generator
    unbias: Tensor | None = None

    @property
    def levels(self) -> Int[Tensor, " B"]:
        """Valuations of the batch."""
        return self.space.levels[self.index].long()

    @cached_property
    def table(self) -> Int[Tensor, "B digits"]:
        """Entries 0 to base - 1 of the batch."""
        return self.space.table[self.index]

    @cached_property
    def order(self) -> Int[Tensor, " B"]:
        """Rows of the batch in the order of the tree."""
        return self.space.rank[self.index].argsort()

    def rows(self, count: int) -> Int[Tensor, " count"]:
        """Random rows of the batch."""
        return torch.randint(len(self.index), (count,), generator=self.generator).to(self.index.device)

    def _steps(self, count: int) -> Tensor:
        """Distances in the order of the tree, spread evenly over their logarithm, of either sign."""
        size = len(self.index)
        reach = torch.rand(count, generator=self.generator) * torch.tensor(max(size / 2, 1.0)).log()
        signs = 2 * torch.randint(2, (count,), generator=self.generator) - 1
        return (reach.exp().long() * signs).to(self.index.device)

    def tree_rows(self, count: int, partners: int) -> list[Int[Tensor, " count"]]:
        """Random rows, and for each of them partners near and far in the tree alike.

        Neighbours in the order of the tree share the longest prefixes the batch has, and each factor `base` in the
        distance along that order costs about one digit: so steps of even logarithm reach all levels evenly, without
        operations beyond those of the batch.
        """
        size, order = len(self.index), self.order
        at = torch.randint(size, (count,), generator=self.generator).to(self.index.device)
        return [order[at], *(order[(at + self._steps(count)) % size] for _ in range(partners))]

    def shared(self, i: Tensor, j: Tensor) -> Int[Tensor, " n"]:
        """How many low digits rows of the batch share."""
        return self.space.valuation_between(self.index[i], self.index[j])


@dataclass(frozen=True)
class LossResult:
    """Value of a term, and what else it has to say."""

    value: Float[Tensor, ""]
    metrics: dict[str, Tensor] = field(default_factory=dict)


class LossTerm(nn.Module):
    """A loss of the output of a batch.

    Args:
        config: the term's part of the configuration.
        space: all operations.
        max_radius: largest radius of the model.
        latent_dim: dimension of its space.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the model must offer: `logvar` (a posterior), `centre` (a wrapped one), `logits` of all entries, `logits_B`,
    `hyperbolic`."""

    def __init__(self, config: Any, space: OperationSpace, *, max_radius: float, latent_dim: int) -> None:
        super().__init__()
        self.config, self.space, self.max_radius, self.latent_dim = config, space, max_radius, latent_dim

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """The loss of one batch."""
        raise TypeError(f"{type(self).__name__} does not say what it costs: override `forward`")


TERMS: Registry[type[LossTerm]] = Registry("loss")
L = TypeVar("L", bound=LossTerm)


def register(name: str) -> Callable[[type[L]], type[L]]:
    """Makes a term known under its name in the configuration."""

    def add(term: type[L]) -> type[L]:
        TERMS.register(name, term)
        return term

    return add


def external_term(name: str) -> type[LossTerm]:
    """A term that an installed package offers as an entry point.

    Raises:
        ConfigError: none does.
    """
    offered = {found.name: found for found in entry_points(group=EXTERNAL)}
    if name not in offered:
        raise ConfigError(
            f"`loss.external` names `{name}`, which no installed package offers in the group {EXTERNAL}; "
            f"there are: {', '.join(offered) or 'none'}"
        )
    return offered[name].load()


@dataclass
class _Entry:
    term: LossTerm
    weight: float
    configured: float
    phases: tuple[float, float]
    enabled: bool = True


class LossStack(nn.Module):
    """An ordered sum of weighted terms; one that is off, or weighs nothing, is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.terms = nn.ModuleDict()
        self._entries: dict[str, _Entry] = {}

    @property
    def names(self) -> list[str]:
        """All terms, in order."""
        return list(self._entries)

    def add(
        self, name: str, term: LossTerm, weight: float = 1.0, *, structure: float = 1.0, geometry: float = 1.0
    ) -> None:
        """Appends a term.

        Raises:
            ConfigError: the name is taken.
        """
        if name in self._entries:
            raise ConfigError(f"the stack has a term `{name}` already; remove it first, or choose another name")
        self.terms[name] = term
        self._entries[name] = _Entry(term, weight, weight, (structure, geometry))

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise ConfigError(f"the stack has no term `{name}`; it has {', '.join(self._entries) or 'none'}")
        return self._entries[name]

    def remove(self, name: str) -> None:
        """Takes a term out."""
        self._entry(name)
        del self._entries[name]
        del self.terms[name]

    def enable(self, name: str) -> None:
        """Turns a term on again."""
        self._entry(name).enabled = True

    def disable(self, name: str) -> None:
        """Turns a term off."""
        self._entry(name).enabled = False

    def set_weight(self, name: str, weight: float) -> None:
        """Changes a weight.

        Raises:
            ConfigError: it is negative.
        """
        if not weight >= 0:
            raise ConfigError(f"`weight` of {name} is {weight}; wanted 0 or more")
        self._entry(name).weight = weight

    def reset_weight(self, name: str) -> None:
        """Goes back to the weight it was added with."""
        entry = self._entry(name)
        entry.weight = entry.configured

    def active(self, phase: int) -> Iterator[tuple[str, LossTerm, float]]:
        """Terms that are called in a phase, 0 or 1, and what each weighs."""
        for name, entry in self._entries.items():
            weight = entry.weight * entry.phases[phase]
            if entry.enabled and weight:
                yield name, entry.term, weight

    def values(self, out: TernaryOutput, context: LossContext, *, phase: int = 1) -> dict[str, LossResult]:
        """Unweighted terms by name."""
        return {name: term(out, context) for name, term, _ in self.active(phase)}

    def forward(
        self,
        out: TernaryOutput,
        context: LossContext,
        *,
        phase: int = 1,
        factors: Mapping[str, Tensor | float] = {},
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor | float]]:
        """The weighted sum, and each term's loss, weight and metrics.

        Args:
            out: output of the model.
            context: the batch.
            phase: 0 for structure, 1 for geometry.
            factors: further multiples of the weights by name.
        """
        total = out.logits.new_zeros(())
        metrics: dict[str, Tensor | float] = {}
        for name, term, weight in self.active(phase):
            result = term(out, context)
            factor = factors.get(name, 1.0)
            total = total + weight * factor * result.value
            metrics[f"{name}/loss"] = result.value.detach()
            metrics[f"{name}/weight"] = weight * factor
            metrics.update({f"{name}/{key}": value.detach() for key, value in result.metrics.items()})
        return total, metrics

    def gradients(
        self, out: TernaryOutput, context: LossContext, params: list[Tensor], *, phase: int = 1
    ) -> dict[str, Float[Tensor, ""]]:
        """Norm of each weighted term's own gradient by the parameters."""
        norms = {}
        for name, term, weight in self.active(phase):
            value = weight * term(out, context).value
            grads = torch.autograd.grad(value, params, retain_graph=True, allow_unused=True)
            squares = [g.square().sum() for g in grads if g is not None]
            norms[name] = torch.stack(squares).sum().sqrt() if squares else value.new_zeros(())
        return norms


def build_stack(
    losses: Losses, space: OperationSpace, *, max_radius: float, latent_dim: int, offers: frozenset[str]
) -> LossStack:
    """The terms of a configuration whose weight is above 0, in its order.

    Args:
        losses: their part of the configuration.
        space: all operations.
        max_radius: largest radius of the model.
        latent_dim: dimension of its space.
        offers: what the model gives, see `LossTerm.needs`.

    Raises:
        ConfigError: a term needs what the model does not give.
    """
    stack = LossStack()
    made: dict[str, tuple[type[LossTerm], Term]] = {
        name: (TERMS.get(name), config) for name, config in losses.terms.items() if config.weight
    }
    for name, weight in losses.external:
        if name in losses.terms:
            raise ConfigError(f"`loss.external` names `{name}`, which is a loss of this package; rename yours")
        made[name] = external_term(name), Term(weight=weight)
    for name, (kind, config) in made.items():
        missing = kind.needs - offers
        if missing:
            raise ConfigError(
                f"`loss.{name}.weight` is {config.weight}, but the model offers no {', '.join(sorted(missing))}; "
                "set it to 0, or change model.posterior, model.decoder, model.sharing or model.geometry"
            )
        term = kind(config, space, max_radius=max_radius, latent_dim=latent_dim).to(space.index.device)
        stack.add(name, term, config.weight, structure=config.structure, geometry=config.geometry)
    return stack


CENTRES = 0.3
"""Weight of what a stepwise decoder's centres cost, beside the cross-entropy of a table."""


def table_losses(out: TernaryOutput, table: Int[Tensor, "B digits"]) -> Float[Tensor, " B"]:
    """Cross-entropy of a table by operation; from one random entry each, and with the centres, where that is all."""
    if out.place is None or out.off is None:
        return entry_losses(out.logits, table)
    entry = table.gather(1, out.place.unsqueeze(1))
    return table.shape[1] * entry_losses(out.logits, entry) + CENTRES * out.off


def entry_losses(logits: Tensor, table: Tensor) -> Float[Tensor, " B"]:
    """Cross-entropy summed over the entries, by operation."""
    batch, digits, base = logits.shape
    flat = F.cross_entropy(logits.reshape(-1, base), table.long().reshape(-1), reduction="none")
    return flat.view(batch, digits).sum(-1)


def mean_entropy(logits: Tensor) -> Float[Tensor, ""]:
    """Entropy of the batch mean of the softmax, mean over the entries."""
    p = logits.softmax(-1).mean(0)
    return -torch.special.xlogy(p, p).sum(-1).mean()


def streams_of(out: TernaryOutput) -> list[Any]:
    """The streams, once where they are tied."""
    return [out.A] if out.A is out.B else [out.A, out.B]


@register("reconstruction")
class ReconstructionTerm(LossTerm):
    """Cross-entropy summed over the entries, mean over the batch; weighted against oversampling where asked for."""

    config: Reconstruction

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """-log p(table | point)."""
        costs = table_losses(out, context.table)
        if not self.config.unbiased or context.unbias is None:
            return LossResult(costs.mean())
        weight = context.unbias.to(costs.dtype)
        return LossResult((weight * costs).sum() / weight.sum())


@register("hyperbolic_reconstruction")
class CentredReconstruction(LossTerm):
    """Cross-entropy weighted by 0.5 + (1 - r / R_max)^2, the weights detached and of mean 1."""

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Weighted mean over the batch."""
        share = (out.B.rho.detach() / self.max_radius).clamp(0, 1)
        weight = 0.5 + (1 - share).square()
        return LossResult((weight / weight.mean() * table_losses(out, context.table)).mean())


@register("kl")
class GaussianDivergence(LossTerm):
    """Closed-form KL to the standard normal, each dimension at least `free_bits`; the sum over the streams."""

    needs = frozenset({"logvar"})
    config: Divergence

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """0.5 sum(mu^2 + s^2 - 1 - log s^2), mean over the batch."""
        parts = [gaussian_kl(s.mean, s.logvar).clamp_min(self.config.free_bits).sum(-1).mean() for s in streams_of(out)]
        return LossResult(torch.stack(parts).sum())


@register("wrapped_kl")
class WrappedNormalDivergence(LossTerm):
    """KL of the wrapped normal posterior to one at the origin, by pathwise samples."""

    needs = frozenset({"centre", "hyperbolic"})
    config: WrappedDivergence

    def __init__(self, config: Config, space: OperationSpace, *, max_radius: float, latent_dim: int) -> None:
        super().__init__(config, space, max_radius=max_radius, latent_dim=latent_dim)
        logvar = torch.full((latent_dim,), 2 * math.log(self.config.prior_scale))
        self.prior_logvar = nn.Parameter(logvar, requires_grad=self.config.learn_prior)

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Mean over samples and batch."""
        parts = [
            wrapped_kl(
                s.u if s.centre is None else s.centre,
                s.logvar,
                out.k,
                prior_logvar=self.prior_logvar.to(s.mean.dtype),
                samples=self.config.samples,
                generator=context.generator,
            ).mean()
            for s in streams_of(out)
        ]
        return LossResult(torch.stack(parts).sum())


@register("entropy")
class OutputEntropy(LossTerm):
    """Minus the entropy of the batch-mean softmax: outputs that differ over the batch."""

    needs = frozenset({"logits"})

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """-H."""
        return LossResult(-mean_entropy(out.logits))


@register("align")
class StreamAlignment(LossTerm):
    """(H_A - H_B)^2 of what both streams decode to."""

    needs = frozenset({"logits_B", "logits"})

    def forward(self, out: TernaryOutput, context: LossContext) -> LossResult:
        """Squared difference of the entropies."""
        assert out.logits_B is not None
        return LossResult((mean_entropy(out.logits) - mean_entropy(out.logits_B)).square())
