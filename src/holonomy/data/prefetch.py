"""Batches made ahead by worker threads: the same ones in the same order for any number of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.core.learner import Json

B = TypeVar("B")


class Prefetch(Generic[B]):
    """A source of batches, each a function of its number.

    Args:
        batch_at: makes batch number n; called from several threads at once.
        workers: threads; 0 makes each batch when it is asked for.
        ahead: batches made ahead for each worker.
    """

    def __init__(self, batch_at: Callable[[int], B], *, workers: int, ahead: int = 2) -> None:
        if workers < 0 or ahead < 1:
            raise ConfigError(f"`workers` is {workers}, `ahead` {ahead}; wanted at least 0 and 1")
        self._batch_at, self._depth = batch_at, workers * ahead
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="holonomy-data") if workers else None
        self._queue: deque[Future[B]] = deque()
        self._given = 0

    def next(self) -> B:
        """The next batch; an error of a worker comes up with the batch it belongs to."""
        if self._pool is None:
            batch = self._batch_at(self._given)
        else:
            while len(self._queue) < self._depth:
                self._queue.append(self._pool.submit(self._batch_at, self._given + len(self._queue)))
            batch = self._queue.popleft().result()
        self._given += 1
        return batch

    def state(self) -> dict[str, Json]:
        """Number of batches given out."""
        return {"batches": self._given}

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Continues after the given number of batches; what was made ahead is dropped.

        Raises:
            CheckpointError: the state is not one of this source.
        """
        given = state.get("batches")
        if not isinstance(given, int) or given < 0:
            raise CheckpointError(f"`data` state is {dict(state)}; wanted {{'batches': number}}")
        for future in self._queue:
            future.cancel()
        self._queue.clear()
        self._given = given

    def close(self) -> None:
        """Ends the workers."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
