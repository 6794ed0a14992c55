"""Containers that only route activations and nudges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from torch import Tensor, nn

from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer
from holonomy.core.tape import Tape


class Chain(EchoLayer):
    """Layers one after the other."""

    def __init__(self, layers: Iterable[EchoLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def __iter__(self) -> Iterator[EchoLayer]:
        return cast("Iterator[EchoLayer]", iter(self.layers))

    def free(self, x: Tensor | tuple[Tensor, ...], tape: Tape | None) -> Tensor:
        """Runs the layers in order; the first one may take several tensors."""
        found = cast("Tensor", x)
        for layer in self:
            found = layer.free(found, tape)
        return found

    def echo(self, tape: Tape, g: Tensor, acc: StatBuffer) -> Tensor:
        """Echoes the layers in reverse order."""
        for layer in reversed([*self]):
            g = layer.echo(tape, g, acc)
        return g

    def resume(self, x: Tensor, state: list[Any], tape: Tape | None) -> tuple[Tensor, list[Any]]:
        """Free phase of a segment, layer by layer."""
        after = []
        for layer, before in zip(self, state, strict=True):
            x, moved = layer.resume(x, before, tape)
            after.append(moved)
        return x, after

    def echo_segment(self, tape: Tape, g: Tensor, carry: list[Any] | None, acc: StatBuffer) -> tuple[Tensor, list[Any]]:
        """Echo of a segment through all layers."""
        layers = [*self]
        before: list[Any] = [None] * len(layers)
        for n in reversed(range(len(layers))):
            g, before[n] = layers[n].echo_segment(tape, g, carry[n] if carry else None, acc)
        return g, before

    def retrace(self, x: Tensor, state: list[Any], tape: Tape) -> tuple[Tensor, list[Any]]:
        """Goes back over a segment: each layer gives the outputs that the next one needs."""
        before = []
        for layer, after in zip(self, state, strict=True):
            x, moved = layer.retrace(x, after, tape)
            before.append(moved)
        return x, before

    def start(self, batch: int) -> list[Any]:
        """States of all layers."""
        return [layer.start(batch) for layer in self]

    def advance(self, x: Tensor | tuple[Tensor, ...], state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Continues through all layers; the first one may take several tensors."""
        found, after = cast("Tensor", x), []
        for layer, before in zip(self, state, strict=True):
            found, moved = layer.advance(found, before)
            after.append(moved)
        return found, after

    def step(self, x: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Continues through all layers by one token."""
        after = []
        for layer, before in zip(self, state, strict=True):
            x, moved = layer.step(x, before)
            after.append(moved)
        return x, after


class Residual(EchoLayer):
    """y = x + layer(x); the nudge sums at the fork."""

    def __init__(self, layer: EchoLayer) -> None:
        super().__init__()
        self.layer = layer

    def free(self, x: Tensor, tape: Tape | None) -> Tensor:
        """Adds the branch to its input."""
        return x + self.layer.free(x, tape)

    def echo(self, tape: Tape, g: Tensor, acc: StatBuffer) -> Tensor:
        """Adds the nudge of the branch to the nudge that passes by."""
        return g + self.layer.echo(tape, g, acc)

    def resume(self, x: Tensor, state: Any, tape: Tape | None) -> tuple[Tensor, Any]:
        """Free phase of a segment."""
        y, state = self.layer.resume(x, state, tape)
        return x + y, state

    def echo_segment(self, tape: Tape, g: Tensor, carry: Any, acc: StatBuffer) -> tuple[Tensor, Any]:
        """Echo of a segment."""
        below, carry = self.layer.echo_segment(tape, g, carry, acc)
        return g + below, carry

    def retrace(self, x: Tensor, state: Any, tape: Tape) -> tuple[Tensor, Any]:
        """Goes back over a segment."""
        y, state = self.layer.retrace(x, state, tape)
        return x + y, state

    def start(self, batch: int) -> Any:
        """State of the branch."""
        return self.layer.start(batch)

    def advance(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Continues the branch."""
        y, state = self.layer.advance(x, state)
        return x + y, state

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Continues the branch by one token."""
        y, state = self.layer.step(x, state)
        return x + y, state
