"""Parts of a model through `torch.compile`, held to what they gave before; at the first fault the plain ones go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

FAULTS = (RuntimeError, ImportError, OSError)
"""What a compiler raises: its own errors, and those of a C++ compiler that is missing or fails."""
REPEATS = 3
"""Passes that are timed on either side."""


class CheckedCompilation:
    """Compiled forwards of modules, for learning only: evaluation has other shapes, and stays as it is.

    Args:
        modules: each a function of tensors, without random numbers of its own.
        tolerance: largest difference to the plain modules, relative to the largest value of a tensor.

    Attributes:
        active: whether the compiled forwards are in use.
        notes: what happened, for the user.
    """

    def __init__(self, modules: Sequence[nn.Module], *, tolerance: float) -> None:
        self.modules, self.tolerance = tuple(modules), tolerance
        self.active, self.notes = False, list[str]()

    def begin(self, trial: Callable[[], Sequence[Tensor]]) -> None:
        """Compiles, compares and times.

        Args:
            trial: a pass forwards and backwards that changes nothing; gives what must stay.
        """
        wanted, eager = _timed(trial)
        self.active = True
        for module in self.modules:
            module.forward = self._compiled(module)  # type: ignore[method-assign]
        begin = time.perf_counter()
        try:
            found = trial()
        except FAULTS as error:
            # The way back is compiled apart from the way there.
            self._give_up(error)
            return
        spent = time.perf_counter() - begin
        if not self.active:
            return
        worst = max(float((f - w).abs().max() / w.abs().max().clamp_min(1)) for f, w in zip(found, wanted, strict=True))
        if not worst <= self.tolerance:
            self._give_up(f"its results differ by {worst:.1e}, wanted {self.tolerance:.0e} at most")
            return
        share = _timed(trial)[1] / eager
        self.notes.append(
            f"compiled in {spent:.1f} s; results differ by {worst:.1e}, forward and backward pass take "
            f"{share:.2f} times the CPU time of the plain ones"
        )

    def _compiled(self, module: nn.Module) -> Callable[..., Any]:
        plain = module.forward
        fast = torch.compile(plain, dynamic=False)

        def call(*arguments: Tensor) -> Any:
            if self.active and module.training and torch.is_grad_enabled():
                try:
                    return fast(*arguments)
                except FAULTS as error:
                    self._give_up(error)
            return plain(*arguments)

        return call

    def _give_up(self, reason: object) -> None:
        self.active = False
        for module in self.modules:
            module.__dict__.pop("forward", None)
        words = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        self.notes.append(f"`train.compile` is given up, training goes on without it: {words}")


def _timed(trial: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], float]:
    """What a trial gives, and its CPU-seconds after a first pass."""
    found = trial()
    begin = time.process_time()
    for _ in range(REPEATS):
        trial()
    return found, (time.process_time() - begin) / REPEATS
