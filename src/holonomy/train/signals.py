"""Signals that end a run gracefully."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StopSignals:
    """Notes SIGINT and SIGTERM instead of dying, for the duration of a run."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __call__(self) -> bool:
        return self.received is not None

    def note(self, signum: int, frame: object) -> None:
        """Takes a signal."""
        self.received = signum

    @contextmanager
    def installed(self) -> Iterator[StopSignals]:
        """Takes the signals while it is open; outside the main thread nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        old = {s: signal.signal(s, self.note) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for signum, handler in old.items():
                signal.signal(signum, handler)
