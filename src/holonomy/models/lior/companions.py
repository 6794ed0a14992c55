"""Configuration of what stands beside a lior network: a tensor field, and a memory of what was read. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from holonomy.core.config import Config


class FieldConfig(Config):
    """A tensor field that retrieval reads and the last hidden states drive."""

    enabled: bool = Field(default=False, description="put the field beside the network")
    size: tuple[int, int] = Field(default=(8, 8), description="sites along both axes")
    dim: int = Field(default=16, ge=1, le=256, description="width of the matrix at a site")
    dynamics: Literal["dissipative", "symplectic", "unitary"] = Field(
        default="dissipative", description="falls to its equilibrium; swings, and keeps energy; or keeps its norm"
    )
    potential: Literal["zero", "harmonic", "gaussian_well"] = Field(
        default="harmonic", description="binding of the field to its start"
    )
    stiffness: float = Field(default=0.01, gt=0, description="of the binding")
    dt: float = Field(default=0.005, gt=0, le=10, description="time that an update takes")
    evidence: float = Field(default=0.3, ge=0, description="pull to what was just seen, for dissipative")
    memory: float = Field(default=0.05, ge=0, description="fractional memory, for dissipative")
    eta: float = Field(default=0.1, ge=0, description="strength of what drives the field")
    adaptive: bool = Field(default=False, description="let order, exponents and temperatures follow, for dissipative")
    collapse_every: int = Field(default=16, ge=0, description="updates between two collapses; 0 is never")
    collapse: Literal["soft", "hard"] = Field(default="soft", description="reweight the sites, or choose one")
    pace: int = Field(
        default=1, ge=1, le=2**20, description="tokens a step where the field moves with what is read, for `--field`"
    )

    @model_validator(mode="after")
    def _check(self) -> FieldConfig:
        plain = type(self).model_fields
        odd = [n for n in plain if n != "enabled" and getattr(self, n) != plain[n].default]
        if odd and not self.enabled:
            raise ValueError(f"{', '.join(odd)} need enabled = true")
        if min(self.size) < 1 or self.size[0] * self.size[1] > 4096:
            raise ValueError(f"size = {list(self.size)} must have 1 to 4096 sites")
        inert = [n for n in ("evidence", "memory", "adaptive") if n in odd and self.dynamics != "dissipative"]
        if inert:
            raise ValueError(f"{', '.join(inert)} act on dynamics = dissipative only, not on {self.dynamics}")
        if self.dynamics == "unitary" and ("eta" in odd or "potential" in odd or "stiffness" in odd):
            raise ValueError("eta, potential and stiffness have no part in dynamics = unitary; drop them")
        if self.adaptive and not self.memory:
            raise ValueError("adaptive wants memory above 0: its order has no effect without")
        return self


class MemoryConfig(Config):
    """Associative memory of what was read, for `--memory` and `eval --protocol memory`."""

    weighting: Literal["trust", "entropy"] = Field(
        default="trust",
        description="what the memory weighs: by how well it did so far, or by how unsure the model is",
    )
    mixing: Literal["sum", "born"] = Field(
        default="sum",
        description="how the two distributions become one: weighted, or as amplitudes that interfere (bornmax)",
    )
    most: float = Field(default=0.5, gt=0, le=1, description="weight where the model knows nothing, for entropy")
    window: int = Field(default=128, ge=1, description="tokens that are read before they can be remembered")
    capacity: int = Field(default=4096, ge=1, le=2**24, description="tokens remembered; the oldest give way")
    k: int = Field(default=16, ge=1, le=4096, description="similar states that are read")
    share: float = Field(default=0.1, gt=0, le=1, description="how fast the weight of the memory may change, for trust")
    prior: float = Field(
        default=0.3, ge=0, lt=1, description="weight of the memory where nothing speaks for or against, for trust"
    )

    @model_validator(mode="after")
    def _check(self) -> MemoryConfig:
        plain, idle = type(self).model_fields, {"trust": ("most",), "entropy": ("share", "prior")}[self.weighting]
        odd = [n for n in idle if getattr(self, n) != plain[n].default]
        if odd:
            raise ValueError(f"{', '.join(odd)} have no part in weighting = {self.weighting}; drop them")
        return self
