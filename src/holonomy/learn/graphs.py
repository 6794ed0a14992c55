"""Both phases of echo learning as one CUDA graph: hundreds of small kernels are started by one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from holonomy.core.errors import ConfigError

WARM_UP = 3
"""Runs on a side stream before the capture, in which libraries allocate what they keep."""


class CapturedStatistics:
    """Statistics of a batch by a graph that was captured at the first batch of its shape.

    Args:
        statistics: sets the statistics of inputs and targets, whose tensors it must not keep, and gives the loss. It
            must do the same at every call: no random numbers, nothing that depends on values, no state but tensors.
    """

    def __init__(self, statistics: Callable[[Tensor, Tensor, int], Tensor]) -> None:
        self.statistics = statistics
        self._graph: Any = None
        self._shape: tuple[int, ...] = ()

    def __call__(self, inputs: Tensor, targets: Tensor, count: int) -> Tensor:
        """Copies the batch to where the graph reads it, and replays it.

        Raises:
            ConfigError: the statistics cannot be captured.
        """
        shape = (*inputs.shape, count)
        if self._graph is None or shape != self._shape:
            self._graph = self._captured(inputs, targets, count)
            self._shape = shape
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._graph.replay()
        return self._loss.clone()

    def _captured(self, inputs: Tensor, targets: Tensor, count: int) -> Any:
        self._inputs, self._targets = inputs.clone(), targets.clone()
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self.statistics(self._inputs, self._targets, count)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                self._loss = self.statistics(self._inputs, self._targets, count)
        except RuntimeError as error:
            raise ConfigError(
                f"`train.cuda_graphs`: this model cannot be captured ({str(error).splitlines()[0]}); set it to false"
            ) from error
        return graph
