"""A tensor field beside the network: retrieval reads its sites, and the last hidden states drive it.

Reading: the features [Re T(x); Im T(x)] of each site are mapped to one key and one value a layer, learned like any
other; they stand before the tokens, at no distance in time. Writing: z_t is a fixed random complex projection of the
last hidden state, P(x | z) = softmax_x(|u_x^+ z|^2 / 0.1) with fixed unit vectors u_x, and the source of the next step
is J(x) = eta mean_t P(x | z_t) z_t z_t^+ / |z_t|^2. The field moves once after every update, never inside the window
that reads it; it has no learned weights. Without a tape it stands still: at inference it is what training left, unless
a reader moves a copy of it along (`copy`, `drive`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from holonomy.core.flat import StatBuffer
from holonomy.core.layer import PointwiseLayer
from holonomy.core.tape import Tape
from holonomy.dynamics.field import Binding, FieldLaw
from holonomy.dynamics.tensor_field import Pulls, TensorField
from holonomy.dynamics.unitary import Schroedinger

ADDRESS_TEMPERATURE = 0.1
ADAPT_RATE = 0.1
"""Step of the adaptive parameters of a field."""


@dataclass(frozen=True)
class FieldOptions:
    """Shape and law of a field.

    Attributes:
        size: sites along both axes.
        dim: width of the matrix at a site.
        dynamics: dissipative, symplectic or unitary.
        potential: zero, harmonic or gaussian_well.
        dt: length of a step.
        stiffness: of the binding to the start.
        evidence: strength of the pull to what was just seen (dissipative).
        memory: strength of the fractional memory (dissipative).
        eta: strength of the source.
        adaptive: lets order, exponents and temperatures follow the field (dissipative).
        collapse_every: steps between two collapses; 0 is never.
        collapse: soft or hard.
    """

    size: tuple[int, int] = (8, 8)
    dim: int = 16
    dynamics: str = "dissipative"
    potential: str = "harmonic"
    dt: float = 0.005
    stiffness: float = 0.01
    evidence: float = 0.3
    memory: float = 0.05
    eta: float = 0.1
    adaptive: bool = False
    collapse_every: int = 16
    collapse: str = "soft"


def site_features(t: Float[Tensor, "x y i j 2"]) -> Float[Tensor, "features sites"]:
    """[Re T; Im T] of each site, from real and imaginary parts."""
    return t.flatten(0, 1).flatten(1).T


class FieldSites(nn.Module):
    """The field, its address book, and what waits to drive it.

    Args:
        channels: width of the hidden states.
        options: shape and law.
        generator: source of the start, the addresses and the projection.
    """

    re_project: Tensor
    im_project: Tensor
    re_address: Tensor
    im_address: Tensor

    def __init__(self, channels: int, options: FieldOptions, *, generator: torch.Generator) -> None:
        super().__init__()
        self.options = options
        (x, y), dim = options.size, options.dim

        def drawn(*shape: int) -> Tensor:
            re, im = torch.randn(2, *shape, generator=generator).unbind(0)
            return torch.complex(re, im) / 2**0.5

        start, address, project = drawn(x, y, dim, dim), drawn(x * y, dim), drawn(dim, channels) / channels**0.5
        address = address / torch.linalg.vector_norm(address, dim=1, keepdim=True)
        quantum = Schroedinger(torch.zeros(x, y), dt=options.dt, hbar=0.1)
        law = FieldLaw(quantum, Binding(options.potential, start, stiffness=options.stiffness))
        kind = {"symplectic": "mechanical"}.get(options.dynamics, options.dynamics)
        pulls = Pulls(evidence=options.evidence, memory=options.memory)
        seed = int(torch.randint(2**31, (), generator=generator))
        self.field = TensorField(law, dynamics=kind, pulls=pulls, generator=torch.Generator().manual_seed(seed))
        for name, value in (("project", project), ("address", address)):
            self.register_buffer(f"re_{name}", value.real.clone())
            self.register_buffer(f"im_{name}", value.imag.clone())
        for name, value in self.field.snapshot().items():
            # Real views: checkpoints hold real numbers.
            self.register_buffer(f"state_{name}", torch.view_as_real(value) if value.is_complex() else value)
        self._source: Tensor | None = None
        self._seen = 0

    @property
    def num_features(self) -> int:
        """Features of a site."""
        return 2 * self.options.dim**2

    def features(self) -> Float[Tensor, "features sites"]:
        """[Re T; Im T] of each site."""
        return site_features(self.get_buffer("state_t"))

    def source_of(self, x: Float[Tensor, "D n"]) -> Complex[Tensor, "sites dim dim"]:
        """sum_t P(x | z_t) z_t z_t^+ / |z_t|^2 of some hidden states: J is eta times its mean over them."""
        project = torch.complex(self.re_project, self.im_project)
        address = torch.complex(self.re_address, self.im_address)
        z = project @ x.to(project)
        z = z / torch.linalg.vector_norm(z, dim=0).clamp_min(1e-12)
        chances = ((address.conj() @ z).abs().square() / ADDRESS_TEMPERATURE).softmax(0)
        weighted = chances.unsqueeze(1) * z
        return weighted @ z.conj().T

    def observe(self, x: Float[Tensor, "D batch time"]) -> None:
        """Adds hidden states to the source of the next step."""
        source = self.source_of(x.flatten(1))
        self._source = source if self._source is None else self._source + source
        self._seen += math.prod(x.shape[1:])

    def settle(self) -> None:
        """Moves the field by one step under what was observed since the last; nothing if there was nothing."""
        if self._source is None:
            return
        source, seen = self._source, self._seen
        self._source, self._seen = None, 0
        if not bool(torch.view_as_real(source).isfinite().all()):
            # An update that is left out must leave no trace in the field either.
            return
        self._restore()
        self.drive(self.field, source / seen)
        for name, value in self.field.snapshot().items():
            self.get_buffer(f"state_{name}").copy_(torch.view_as_real(value) if value.is_complex() else value)

    def copy(self) -> TensorField:
        """The field as the buffers hold it, to be moved on its own."""
        self._restore()
        return self.field.copy()

    def drive(self, field: TensorField, mean: Complex[Tensor, "sites dim dim"]) -> None:
        """Moves a field by one step under a mean of `source_of`, and collapses it where that is due."""
        # The field lives on the CPU: its steps are too small to gain from a GPU.
        driven = self.options.eta * mean.to(field.t).view_as(field.t)
        if self.options.dynamics == "dissipative":
            if self.options.adaptive and field.steps:
                field.adapt(ADAPT_RATE, source=driven, evidence=driven)
            field.evolve(source=driven, evidence=driven)
        elif self.options.dynamics == "symplectic":
            field.evolve(source=driven)
        else:
            field.evolve()
        if self.options.collapse_every and field.steps % self.options.collapse_every == 0:
            field.collapse(hard=self.options.collapse == "hard")

    def _restore(self) -> None:
        """The buffers are what is saved and loaded: the field follows them."""
        now = self.field.snapshot()
        stored = {name: self.get_buffer(f"state_{name}").cpu() for name in now}
        self.field.restore(
            {n: torch.view_as_complex(v.contiguous()) if now[n].is_complex() else v for n, v in stored.items()}
        )


class FieldProbe(PointwiseLayer):
    """Passes the last hidden states on, shows them to the field while learning, and moves it after each update.

    Args:
        sites: the field.
    """

    def __init__(self, sites: FieldSites) -> None:
        super().__init__()
        self.sites = sites

    def free(self, x: Float[Tensor, "D ..."], tape: Tape | None) -> Float[Tensor, "D ..."]:
        """The input; with a tape the field takes note of it."""
        if tape is not None:
            self.sites.observe(x.detach())
        return x

    def echo(self, tape: Tape, g: Float[Tensor, "D ..."], acc: StatBuffer) -> Float[Tensor, "D ..."]:
        """The nudge passes by: what the field sees is not learned through."""
        return g

    def project(self) -> None:
        """One step of the field, after an update."""
        self.sites.settle()
