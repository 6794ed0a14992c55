"""Signals that end a run gracefully: SIGINT, SIGTERM, and SIGUSR1, by which batch systems announce SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from holonomy.core.errors import Interrupted

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def _meaning(signum: int) -> int:
    return signal.SIGTERM if signum == signal.SIGUSR1 else signum


@contextmanager
def _handled(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Gives the signals to a handler while it is open; outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {s: signal.signal(s, handler) for s in STOPPING}
    try:
        yield
    finally:
        for signum, before in old.items():
            signal.signal(signum, before)


@contextmanager
def leaving() -> Iterator[None]:
    """Lets signals end what is done before and after the loop, where there is nothing to save.

    Raises:
        Interrupted: a signal came.
    """

    def leave(signum: int, frame: object) -> None:
        raise Interrupted(_meaning(signum), None)

    with _handled(leave):
        yield


class StopSignals:
    """Notes signals instead of dying, for the duration of a run."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __call__(self) -> bool:
        return self.received is not None

    def note(self, signum: int, frame: object) -> None:
        """Takes a signal."""
        self.received = _meaning(signum)

    @contextmanager
    def installed(self) -> Iterator[StopSignals]:
        """Takes the signals while it is open; outside the main thread nothing changes."""
        with _handled(self.note):
            yield self
