"""Settings of the whole process that make numerics fast; made by commands, never at import."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Literal

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's mallopt."""


def tune_process(*, threads: int | Literal["auto"]) -> int:
    """Sets threads, flushes denormals to zero, and keeps freed memory for the next step.

    Without the last, glibc gives every large activation back to the system and faults its pages in again, which
    costs more than the arithmetic on it.

    Args:
        threads: CPU threads of torch; auto is the number of cores minus the load, at least 1.

    Returns:
        The number of threads.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(MMAP_THRESHOLD, 32 * 2**20)
            libc.mallopt(TRIM_THRESHOLD, 2**30)
    import torch

    if threads == "auto":
        threads = max(1, round((os.cpu_count() or 1) - os.getloadavg()[0]))
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    return threads
