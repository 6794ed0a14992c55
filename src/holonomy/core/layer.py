"""The layer protocol of echo learning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holonomy.core.errors import IllegalMix
from holonomy.core.flat import StatBuffer
from holonomy.core.tape import Tape


class EchoLayer(nn.Module, ABC):
    """A map from sequences to sequences that learns from a free and an echo phase.

    A layer keeps no activation: what the echo needs lies on the caller's tape, so one layer may be used
    twice and inference holds nothing. All layers are causal in time.
    """

    decays: frozenset[str] = frozenset()
    """Names of this layer's own parameters that weight decay applies to."""

    generator: torch.Generator | None = None
    """Source of what the layer draws while learning, if it draws anything; saved and restored with the learner."""

    def forward(self, x: Tensor) -> Tensor:
        """Same as `free` without a tape; differentiable where grad mode is on."""
        return self.free(x, None)

    @abstractmethod
    def free(self, x: Tensor, tape: Tape | None) -> Tensor:
        """Runs the free phase and pushes one record on the tape if there is one."""

    @abstractmethod
    def echo(self, tape: Tape, g: Tensor, acc: StatBuffer) -> Tensor:
        """Pops this layer's record, adds its statistics to `acc`, returns the nudge for the layer below.

        Args:
            tape: the tape of the free phase.
            g: nudge on this layer's output, the derivative of the loss by it, same shape as the output.
            acc: receives the derivative of the loss by each parameter.
        """

    def project(self) -> None:
        """Puts the parameters back into their domain after an update; idempotent."""

    @abstractmethod
    def start(self, batch: int) -> Any:
        """Returns the state before the first token, for `batch` sequences."""

    @abstractmethod
    def advance(
        self, x: Float[Tensor, "channels batch time"], state: Any
    ) -> tuple[Float[Tensor, "out batch time"], Any]:
        """Continues sequences by any number of tokens; equals `free` on the whole when chained.

        The given state may be overwritten: go on with the returned one.
        """

    def resume(self, x: Tensor, state: Any, tape: Tape | None) -> tuple[Tensor, Any]:
        """Free phase of a segment from a carried state; the record is for `echo_segment`.

        Raises:
            IllegalMix: this layer cannot learn by segments.
        """
        raise IllegalMix(
            f"{type(self).__name__} cannot learn by segments (`train.echo.memory`); use train.echo.memory=full, "
            "or a model of oscillators and gated maps: model.architecture=causal_field"
        )

    def echo_segment(self, tape: Tape, g: Tensor, carry: Any, acc: StatBuffer) -> tuple[Tensor, Any]:
        """Echo of a segment, given the nudge on the state after it (None is zero); returns that on the state before.

        Raises:
            IllegalMix: this layer cannot learn by segments.
        """
        raise IllegalMix(
            f"{type(self).__name__} cannot learn by segments (`train.echo.memory`); use train.echo.memory=full"
        )

    def retrace(self, x: Tensor, state: Any, tape: Tape) -> tuple[Tensor, Any]:
        """Like `resume`, but from the state after the segment back to the one before it.

        Raises:
            IllegalMix: this layer forgets, so that it cannot go back.
        """
        raise IllegalMix(
            f"{type(self).__name__} cannot be run backwards, which train.echo.memory=streamed needs; use "
            "train.echo.memory=segment, or model.bank=hamiltonian with model.fir=1 and model.architecture=causal_field"
        )

    @abstractmethod
    def step(self, x: Float[Tensor, "channels batch"], state: Any) -> tuple[Float[Tensor, "out batch"], Any]:
        """Continues sequences by one token, in constant time and memory; the given state may be overwritten."""


class PointwiseLayer(EchoLayer):
    """A layer that maps each token by itself: it has no state."""

    def start(self, batch: int) -> None:
        """A pointwise layer has no state."""
        return None

    def advance(self, x: Tensor, state: None) -> tuple[Tensor, None]:
        """Maps the tokens; there is no state to carry."""
        return self.free(x, None), None

    def step(self, x: Tensor, state: None) -> tuple[Tensor, None]:
        """Maps one token a sequence."""
        return self.free(x, None), None

    def resume(self, x: Tensor, state: None, tape: Tape | None) -> tuple[Tensor, None]:
        """Maps the tokens of a segment."""
        return self.free(x, tape), None

    def echo_segment(self, tape: Tape, g: Tensor, carry: None, acc: StatBuffer) -> tuple[Tensor, None]:
        """Echo of a segment: nothing is carried."""
        return self.echo(tape, g, acc), None

    def retrace(self, x: Tensor, state: None, tape: Tape) -> tuple[Tensor, None]:
        """Maps the tokens of a segment again."""
        return self.free(x, tape), None


class EchoLoss(Protocol):
    """A loss at the end of a network: a scalar in the free phase, a nudge at the start of the echo."""

    def free(self, logits: Tensor, targets: Tensor, tape: Tape | None) -> Tensor:
        """Returns the mean loss; the record is what `nudge` needs."""
        ...

    def nudge(self, tape: Tape) -> Tensor:
        """Pops the record and returns the derivative of the loss by the logits."""
        ...


def decayed_names(module: nn.Module) -> frozenset[str]:
    """Full names of all parameters under `module` that weight decay applies to."""
    return frozenset(
        f"{prefix}.{name}" if prefix else name
        for prefix, layer in module.named_modules()
        if isinstance(layer, EchoLayer)
        for name in layer.decays
    )
