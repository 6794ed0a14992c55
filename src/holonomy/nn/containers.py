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

    def free(self, x: Tensor, tape: Tape | None) -> Tensor:
        """Runs the layers in order."""
        for layer in self:
            x = layer.free(x, tape)
        return x

    def echo(self, tape: Tape, g: Tensor, acc: StatBuffer) -> Tensor:
        """Echoes the layers in reverse order."""
        for layer in reversed([*self]):
            g = layer.echo(tape, g, acc)
        return g

    def start(self, batch: int) -> list[Any]:
        """States of all layers."""
        return [layer.start(batch) for layer in self]

    def advance(self, x: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Continues through all layers."""
        after = []
        for layer, before in zip(self, state, strict=True):
            x, moved = layer.advance(x, before)
            after.append(moved)
        return x, after

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
