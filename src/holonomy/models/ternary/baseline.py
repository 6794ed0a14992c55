"""The embedding that needs no training: what every learned model is printed beside."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.data.ternary_ops import OperationSpace


class ClosedForm:
    """Normal coordinates in which digit k adds lambda^k t_k to axis k mod d, scaled so that the longest is `scale`.

    With lambda^2 < 1/5 and an axis for each digit, the first entry that differs decides which of two distances is the
    longer; with lambda < 1/5 it does so on a single axis, since 1 - 2 s > 2 s for the sum s of the powers from the
    first on.

    Args:
        space: the operations.
        ratio: lambda.
        scale: largest radius.
        dimension: number of axes, d; None is one for each digit.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self, space: OperationSpace, *, ratio: float = 0.3, scale: float = 1.0, dimension: int | None = None
    ) -> None:
        if not 0 < ratio < 1:
            raise ConfigError(f"`ratio` is {ratio}; wanted a number between 0 and 1")
        if not scale > 0:
            raise ConfigError(f"`scale` is {scale}; wanted a length above 0")
        width = space.digits if dimension is None else dimension
        if not 1 <= width <= space.digits:
            raise ConfigError(f"`dimension` is {width}; wanted 1 to {space.digits}")
        self.space, self.width = space, width
        device = space.index.device
        axes = ratio ** torch.arange(space.digits, dtype=torch.float64, device=device)
        place = torch.nn.functional.one_hot(torch.arange(space.digits, device=device) % width, width)
        longest = (axes @ place.double()).norm() * (space.base - 1)
        self.axes = axes * scale / longest
        self.directions = self.axes.unsqueeze(1) * place
        self.k = torch.tensor(-1.0, dtype=torch.float64)

    def embed(self, index: Int[Tensor, " B"], *, stream: str = "B") -> Float[Tensor, "B d"]:
        """Normal coordinates of operations; both streams are one."""
        return self.space.table[index].double() @ self.directions

    def reconstruct(self, index: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Takes the digits off the axes, the first one first."""
        left, found = self.embed(index), []
        for k, step in enumerate(self.axes):
            # What later digits add stays below a step; half of the last step keeps rounding from borrowing one.
            digit = ((left[:, k % self.width] + self.axes[-1] / 2) / step).floor().clamp(0, self.space.base - 1)
            left = left - digit.unsqueeze(1) * self.directions[k]
            found.append(digit.long())
        return self.space.tree.number(torch.stack(found, -1))
