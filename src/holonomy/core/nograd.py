"""Running without an autograd graph, without leaving a trace in the caller's process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def no_autograd() -> Iterator[None]:
    """Switches grad mode off for the block and restores the caller's mode, also after an exception."""
    with torch.no_grad():
        yield


def graph_faults(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names what should not exist after a step without autograd: a `grad_fn` or a `.grad`.

    Args:
        tensors: pairs of name and tensor, usually `model.named_parameters()`.
    """
    faults = []
    for name, tensor in tensors:
        if tensor.grad_fn is not None:
            faults.append(f"{name} has grad_fn {tensor.grad_fn.name()}")
        if tensor.is_leaf and tensor.grad is not None:
            faults.append(f"{name} has a .grad")
    return faults
