"""The embedding that needs no training: what every learned model is printed beside."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.data.ternary_ops import OperationSpace


class ClosedForm:
    """Normal coordinates u_k = lambda^k t_k, scaled so that the longest is `scale`.

    With lambda^2 < 1/5 the first entry that differs decides which of two distances is the longer.

    Args:
        space: the operations.
        ratio: lambda.
        scale: largest radius.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(self, space: OperationSpace, *, ratio: float = 0.3, scale: float = 1.0) -> None:
        if not 0 < ratio < 1:
            raise ConfigError(f"`ratio` is {ratio}; wanted a number between 0 and 1")
        if not scale > 0:
            raise ConfigError(f"`scale` is {scale}; wanted a length above 0")
        self.space = space
        axes = ratio ** torch.arange(space.digits, dtype=torch.float64, device=space.index.device)
        self.axes = axes * scale / (axes.norm() * (space.base - 1))
        self.k = torch.tensor(-1.0, dtype=torch.float64)

    def embed(self, index: Int[Tensor, " B"], *, stream: str = "B") -> Float[Tensor, "B digits"]:
        """Normal coordinates of operations; both streams are one."""
        return self.space.table[index].double() * self.axes

    def reconstruct(self, index: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Divides by the axes and rounds."""
        return self.space.tree.number((self.embed(index) / self.axes).round().long())
