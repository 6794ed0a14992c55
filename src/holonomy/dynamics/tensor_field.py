"""The state of a tensor field: what it remembers, what it was told, and parameters that adapt to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.dynamics.collapse import (
    collapse_probabilities,
    concentration,
    hard_collapse,
    site_weights,
    soft_collapse,
    von_neumann_entropy,
)
from holonomy.dynamics.field import FieldLaw, reweighted
from holonomy.dynamics.fractional import FractionalMemory

STATE = ("t", "p", "previous", "modes", "alpha", "nu", "tau", "clock")
DIFFERENCE = 1e-4
"""Step of the central differences of raw parameters."""


@dataclass(frozen=True)
class Pulls:
    """Strengths of what acts on a dissipative field besides its energy.

    Attributes:
        evidence: of the pull towards agreement with the evidence.
        memory: of the fractional memory, which it resists.
    """

    evidence: float = 0.3
    memory: float = 0.05


class TensorField:
    """A field with momentum, fractional memory and adaptive parameters; all of it in `snapshot`.

    Args:
        law: how it moves; the field starts at the equilibrium of its binding, at rest.
        dynamics: dissipative, with memory, evidence and source; mechanical; or unitary.
        pulls: strengths.
        memory: reach and modes of the memory; its order adapts.
        generator: draws the sites of hard collapses.

    Raises:
        ConfigError: the dynamics is unknown.
    """

    def __init__(
        self,
        law: FieldLaw,
        *,
        dynamics: str = "dissipative",
        pulls: Pulls | None = None,
        memory: FractionalMemory | None = None,
        generator: torch.Generator,
    ) -> None:
        if dynamics not in ("dissipative", "mechanical", "unitary"):
            raise ConfigError(f"`dynamics` is {dynamics!r}; choose dissipative, mechanical or unitary")
        self.law, self.dynamics, self.pulls = law, dynamics, pulls or Pulls()
        self.memory = memory or FractionalMemory(0.5, law.quantum.dt)
        self.generator = generator
        like = law.binding.equilibrium
        self.t: Tensor = like.clone()
        self.p: Tensor = torch.zeros_like(like)
        self.previous: Tensor = like.clone()
        self.modes = self.memory.start(like)
        grid = torch.zeros(like.shape[:2], dtype=like.real.dtype)
        # Raw parameters; `order`, `exponent` and `temperature` are what they stand for.
        self.alpha = torch.tensor(math.log(self.memory.alpha / (1 - self.memory.alpha)), dtype=torch.float64)
        self.nu, self.tau = grid.clone(), grid.clone()
        self.clock = torch.zeros(2, dtype=torch.float64)

    @property
    def order(self) -> float:
        """Order of the fractional memory, between 0 and 1."""
        return float(self.alpha.sigmoid())

    @property
    def exponent(self) -> Float[Tensor, "x y"]:
        """nu(x) between 0.01 and 1."""
        return 0.01 + 0.99 * self.nu.sigmoid()

    @property
    def temperature(self) -> Float[Tensor, "x y"]:
        """tau(x) above 0.01."""
        return 0.01 + torch.nn.functional.softplus(self.tau)

    @property
    def time(self) -> float:
        """Time passed."""
        return float(self.clock[0])

    @property
    def steps(self) -> int:
        """Steps taken."""
        return int(self.clock[1])

    def _dissipated(self, source: Tensor | None, evidence: Tensor | None) -> Tensor:
        push = -self.pulls.memory * replace(self.memory, alpha=self.order).recall(self.t, self.modes)
        if evidence is not None:
            pulled = reweighted(self.previous, evidence, self.temperature) - self.previous
            push = push + self.pulls.evidence * pulled
        if source is not None:
            push = push + source
        return self.law.dissipative_step(self.t, push)

    def evolve(
        self,
        *,
        source: Complex[Tensor, "x y i j"] | None = None,
        evidence: Complex[Tensor, "x y i j"] | None = None,
    ) -> None:
        """One step.

        Args:
            source: J; for dissipative and mechanical fields.
            evidence: what the field should agree with; for dissipative fields.

        Raises:
            ConfigError: an argument that these dynamics do not take, or a step too long for mechanical ones.
        """
        if evidence is not None and self.dynamics != "dissipative":
            raise ConfigError(f"`evidence` acts on dissipative fields only; this one is {self.dynamics}")
        if source is not None and self.dynamics == "unitary":
            raise ConfigError("`source` would break unitarity; use dissipative or mechanical dynamics")
        before = self.t
        if self.dynamics == "dissipative":
            after = self._dissipated(source, evidence)
            _, self.modes = self.memory.step(before, self.modes)
        elif self.dynamics == "mechanical":
            pushed = torch.zeros_like(before) if source is None else source
            after, self.p = self.law.mechanical_step(before, self.p, pushed)
        else:
            after = self.law.quantum.split_step(before)
        self.previous, self.t = before, after
        self.clock = self.clock + torch.tensor([self.law.quantum.dt, 1.0], dtype=torch.float64)

    def collapse(self, *, hard: bool = False) -> Float[Tensor, "x y"]:
        """Concentrates the field, softly or onto one sampled site.

        Returns:
            The probabilities of the sites.
        """
        h, _ = concentration(site_weights(self.t), self.exponent)
        chances = collapse_probabilities(h, self.temperature)
        before = self.t
        self.t = hard_collapse(before, chances, self.generator) if hard else soft_collapse(before, chances)
        self.previous = before
        return chances

    def objective(self, source: Tensor | None, evidence: Tensor | None) -> float:
        """Mean H after one predicted step: what the adaptive parameters lower."""
        h, _ = concentration(site_weights(self._dissipated(source, evidence)), self.exponent)
        return float(h.double().mean())

    def slopes(
        self, *, source: Complex[Tensor, "x y i j"] | None = None, evidence: Complex[Tensor, "x y i j"] | None = None
    ) -> dict[str, Tensor]:
        """Derivatives of the objective by the raw parameters: `nu` in closed form, the others by differences.

        Raises:
            ConfigError: a derivative would vanish whatever the parameters: not dissipative, no memory, no evidence.
        """
        if (
            self.dynamics != "dissipative"
            or evidence is None
            or not self.pulls.memory > 0
            or not bool(self.modes.any())
        ):
            raise ConfigError(
                "adaptive parameters want dissipative dynamics, `pulls.memory` above zero, a step already taken, and "
                "`evidence`; without them the objective does not depend on all of them"
            )
        _, by_nu = concentration(site_weights(self._dissipated(source, evidence)), self.exponent)
        gate = self.nu.sigmoid()
        found = {"nu": by_nu * 0.99 * gate * (1 - gate) / by_nu.numel()}
        for name in ("alpha", "tau"):
            raw = getattr(self, name)
            slope = torch.zeros_like(raw)
            for i in range(raw.numel()):
                values = []
                for sign in (1, -1):
                    moved = raw.clone()
                    moved.view(-1)[i] += sign * DIFFERENCE
                    setattr(self, name, moved)
                    values.append(self.objective(source, evidence))
                slope.view(-1)[i] = (values[0] - values[1]) / (2 * DIFFERENCE)
                setattr(self, name, raw)
            found[name] = slope
        return found

    def adapt(
        self,
        rate: float,
        *,
        source: Complex[Tensor, "x y i j"] | None = None,
        evidence: Complex[Tensor, "x y i j"] | None = None,
    ) -> None:
        """One step of gradient descent of the adaptive parameters."""
        for name, slope in self.slopes(source=source, evidence=evidence).items():
            setattr(self, name, getattr(self, name) - rate * slope)

    def copy(self) -> TensorField:
        """Another field in the same state, with random numbers of its own."""
        generator = torch.Generator()
        found = TensorField(self.law, dynamics=self.dynamics, pulls=self.pulls, memory=self.memory, generator=generator)
        found.restore(self.snapshot())
        return found

    def figures(self) -> dict[str, float]:
        """Norm, von Neumann entropy in nats, mean of H over sites, order of the memory, and steps taken."""
        h, _ = concentration(site_weights(self.t), self.exponent)
        return {
            "norm": float(self.t.norm()),
            "entropy": float(von_neumann_entropy(self.t)),
            "concentration": float(h.mean()),
            "order": self.order,
            "steps": float(self.steps),
        }

    def snapshot(self) -> dict[str, Tensor]:
        """The whole state, copied."""
        state = {name: getattr(self, name).clone() for name in STATE}
        return state | {"generator": self.generator.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Puts a snapshot back, bit by bit.

        Raises:
            ConfigError: a tensor is missing, or has another shape or dtype; the field stays as it was.
        """
        wanted = {name: getattr(self, name) for name in STATE} | {"generator": self.generator.get_state()}
        for name, mine in wanted.items():
            given = state.get(name)
            if given is None or given.shape != mine.shape or given.dtype != mine.dtype:
                came = "nothing" if given is None else f"{tuple(given.shape)} {given.dtype}"
                raise ConfigError(f"`state` holds {came} for `{name}`, wanted {tuple(mine.shape)} {mine.dtype}")
        self.generator.set_state(state["generator"])
        for name in STATE:
            setattr(self, name, state[name].clone())
