"""What this machine has."""

from __future__ import annotations

import os
import resource


def available_memory() -> int:
    """Bytes of memory of this machine, or that this process may take (`ulimit -v`), if that is less."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return physical if limit == resource.RLIM_INFINITY else min(limit, physical)
