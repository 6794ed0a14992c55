"""Fixtures for all tests: both precisions, one thread, reproducible examples."""

from __future__ import annotations

import sys
from collections.abc import Callable

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


@pytest.fixture
def holonomy(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: from words to exit status, output and errors."""
    from holonomy.cli import main

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["holonomy", *words])
        with pytest.raises(SystemExit) as ended:
            main.run()
        # Commands tune the whole process; what they set must not reach other tests.
        torch.set_num_threads(1)
        torch.set_flush_denormal(False)
        printed = capfd.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return command
