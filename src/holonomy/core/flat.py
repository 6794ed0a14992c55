"""Flat buffers: all parameters in one contiguous vector, statistics in a second one of the same layout."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor, nn

from holonomy.core.errors import ConfigError


class FlatParams:
    """Moves the parameters of a module into one contiguous buffer; each parameter becomes a view of it.

    Matrices (parameters marked by the module's `decayed()` names) come first, so that weight decay is one
    operation on a prefix of the buffer.

    Args:
        module: its parameters must share one dtype and device.
        decayed: names of the parameters that weight decay applies to.

    Attributes:
        buffer: the vector that holds every parameter, shape [P].
        num_decayed: length of the prefix that holds the decayed parameters.
    """

    def __init__(self, module: nn.Module, decayed: frozenset[str]) -> None:
        named = dict(module.named_parameters())
        unknown = decayed - named.keys()
        if unknown:
            raise ConfigError(f"`decayed` names parameters that the module lacks: {sorted(unknown)}")
        kinds = {(p.dtype, p.device) for p in named.values()}
        if len(kinds) != 1:
            raise ConfigError(f"`module` mixes dtypes or devices {sorted(map(str, kinds))}; convert it to one")
        order = sorted(named, key=lambda name: name not in decayed)
        self.names = order
        self.shapes = [named[name].shape for name in order]
        self.num_decayed = sum(named[name].numel() for name in order if name in decayed)
        self._params = [named[name] for name in order]
        self.buffer = torch.cat([p.detach().reshape(-1) for p in self._params])
        for param, view in zip(self._params, self.views(self.buffer), strict=True):
            param.data = view

    def views(self, buffer: Tensor) -> Iterator[Tensor]:
        """Yields the parts of a buffer of this layout, one view a parameter, in buffer order."""
        start = 0
        for shape in self.shapes:
            size = prod(shape)
            yield buffer[start : start + size].view(shape)
            start += size

    def named_views(self, buffer: Tensor) -> dict[str, Tensor]:
        """Maps parameter names to the parts of a buffer of this layout."""
        return dict(zip(self.names, self.views(buffer), strict=True))

    def statistics(self) -> StatBuffer:
        """Returns a zeroed buffer of the same layout for the statistics of an echo phase."""
        buffer = torch.zeros_like(self.buffer)
        return StatBuffer(buffer, {id(p): v for p, v in zip(self._params, self.views(buffer), strict=True)})


class StatBuffer:
    """Accumulates local statistics; indexing it by a parameter gives the view to add to.

    Attributes:
        buffer: the vector that holds every statistic, shape [P].
    """

    def __init__(self, buffer: Tensor, views: dict[int, Tensor]) -> None:
        self.buffer = buffer
        self._views = views

    def __getitem__(self, param: Tensor) -> Tensor:
        return self._views[id(param)]

    def zero_(self) -> None:
        """Sets every statistic to zero."""
        self.buffer.zero_()
