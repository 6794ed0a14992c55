"""Slow writes in the background: one thread, in order, joined before anybody relies on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class BackgroundWriter:
    """Runs jobs one after the other in a thread of its own; their errors come up at the next call.

    As a context manager it waits for the last job, also when an exception passes through.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="holonomy-writer")
        self._jobs: list[Future[None]] = []
        self.cpu_s = 0.0
        """CPU-seconds of finished jobs, so that they are not taken for training."""

    def submit(self, job: Callable[[], None]) -> None:
        """Queues a job; waits while another one is queued already, so that memory stays bounded.

        Raises:
            Whatever an earlier job raised.
        """
        while len(self._jobs) > 1:
            self._jobs.pop(0).result()
        self._raise_finished()
        self._jobs.append(self._pool.submit(self._timed, job))

    def _timed(self, job: Callable[[], None]) -> None:
        begin = time.thread_time()
        try:
            job()
        finally:
            self.cpu_s += time.thread_time() - begin

    def _raise_finished(self) -> None:
        while self._jobs and self._jobs[0].done():
            self._jobs.pop(0).result()

    @property
    def pending(self) -> bool:
        """Whether jobs are left whose end nobody has seen."""
        return bool(self._jobs)

    def join(self) -> None:
        """Waits for every job up to the first that fails; those behind it stay pending.

        Raises:
            Whatever a job raised.
        """
        while self._jobs:
            self._jobs.pop(0).result()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            self.join()
