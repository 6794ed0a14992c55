"""Fixtures for all tests: both precisions, one thread, reproducible examples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("holonomy", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("holonomy")


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Every numeric test runs in both precisions, with a tolerance for each."""
    return request.param
