"""Commands tune the whole process; what they set must not reach other tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def process_settings() -> Iterator[None]:
    """Puts threads and denormals back."""
    yield
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
