"""The kernels of the selective bank against the same recurrence by tensor operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holonomy.nn.selective import (
    Chosen,
    SelectiveState,
    compiled_mirror,
    compiled_scan,
    doubled_mirror,
    doubled_scan,
)

BOUND = {torch.float32: 3e-6, torch.float64: 1e-14}


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= BOUND[a.dtype] * b.abs().max())


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("length", [2, 33])
def test_kernels_equal_doubling(length: int, carried: bool, dtype: torch.dtype) -> None:
    f, lift, theta, g = drawn(4, 5, 2, length, dtype=dtype)
    angle = drawn(5, dtype=dtype)
    # Slopes near 0 and near 1 too: hardly any damping, and a state that is forgotten at once.
    chosen = Chosen(f, torch.sigmoid(6 * lift), torch.cos(theta), torch.sin(theta))
    reading = torch.sin(angle), torch.cos(angle)
    before, after = (SelectiveState(*drawn(2, 5, 2, dtype=dtype)) if carried else None for _ in range(2))
    h, out = doubled_scan(chosen, reading, before)
    fast, fast_out = compiled_scan(chosen, reading, before)
    assert close(fast_out, out)
    assert all(map(close, fast, h))
    below, state, *sums = doubled_mirror(chosen, h, reading, g, after)
    fast_below, fast_state, *fast_sums = compiled_mirror(chosen, h, reading, g, after)
    assert all(map(close, fast_below, below))
    assert all(map(close, fast_state, state))
    assert all(map(close, fast_sums, sums))
