"""Batches of token windows for training and for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from holonomy.core.errors import CheckpointError, DataError
from holonomy.core.learner import IGNORE_INDEX, Json
from holonomy.data.prefetch import Prefetch


@dataclass(frozen=True)
class TokenBatch:
    """Token ids and the ids to predict, [batch, time] int64; `IGNORE_INDEX` marks places without a target.

    Attributes:
        count: number of targets that count.
        fresh: the sequences begin here; else they go on where those of the batch before ended.
    """

    inputs: Tensor
    targets: Tensor
    count: int
    fresh: bool = field(default=True, kw_only=True)


class WindowSampler:
    """Training windows without replacement.

    Each epoch shifts the grid of windows by a random offset and visits the windows in random order; both follow
    from (seed, epoch), so the number of windows drawn is the whole state.

    Args:
        tokens: the training tokens, [n] of any integer type.
        seq_len: tokens per window.
        batch: windows per batch.
        seed: start of the random order.
        part: (number, of how many): only this part of each batch is read; `batch` counts all parts.
        workers: threads that read batches ahead; the batches are the same for any number of them.

    Raises:
        DataError: the text is shorter than one batch.
    """

    def __init__(
        self,
        tokens: Tensor,
        *,
        seq_len: int,
        batch: int,
        seed: int,
        part: tuple[int, int] = (0, 1),
        workers: int = 0,
    ) -> None:
        needed = seq_len * batch + 1
        if len(tokens) < needed:
            raise DataError(
                f"the training part has {len(tokens):,} tokens, one batch needs {needed:,} "
                f"(`data.batch` {batch} x `data.seq_len` {seq_len} + 1); give a longer text or "
                "lower one of them with --set"
            )
        self.seq_len, self.batch, self.seed, self.part = seq_len, batch, seed, part
        self._tokens = tokens
        # Every epoch has the same number of windows: what the largest offset leaves.
        self._per_epoch = max(1, (len(tokens) - seq_len) // seq_len)
        self._first = 0
        self._starts = lru_cache(maxsize=2)(self._epoch_starts)
        self._reach = torch.arange(seq_len + 1, device=tokens.device)
        self._ahead = Prefetch(self.batch_at, workers=workers)

    def _epoch_starts(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng([self.seed, epoch])
        spare = len(self._tokens) - 1 - self._per_epoch * self.seq_len
        offset = order.integers(min(spare, self.seq_len - 1) + 1)
        return offset + self.seq_len * order.permutation(self._per_epoch)

    def next(self) -> TokenBatch:
        """The next batch; a batch may end one epoch and begin the next."""
        return self._ahead.next()

    def batch_at(self, which: int) -> TokenBatch:
        """Batch number `which` after the state that was loaded last."""
        starts: list[int] = []
        drawn = self._first + which * self.batch
        while len(starts) < self.batch:
            epoch, position = divmod(drawn + len(starts), self._per_epoch)
            starts += self._starts(epoch)[position : position + self.batch - len(starts)].tolist()
        number, parts = self.part
        mine = starts[number * self.batch // parts : (number + 1) * self.batch // parts]
        index = torch.tensor(mine, device=self._tokens.device)[:, None] + self._reach
        windows = self._tokens[index].long()
        return TokenBatch(windows[:, :-1].clone(), windows[:, 1:].clone(), len(mine) * self.seq_len)

    def state(self) -> dict[str, Json]:
        """Number of windows drawn."""
        given = self._ahead.state()["batches"]
        assert isinstance(given, int)
        return {"windows": self._first + given * self.batch}

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Continues after the given number of windows.

        Raises:
            CheckpointError: the state is not one of this sampler.
        """
        drawn = state.get("windows")
        if not isinstance(drawn, int) or drawn < 0:
            raise CheckpointError(f"`data` state is {dict(state)}; wanted {{'windows': number}}")
        self._ahead.load_state({"batches": 0})
        self._first = drawn


class PassageSampler:
    """Training windows that go on where those of the batch before ended, for the length of a passage.

    Passages are drawn as `WindowSampler` draws windows, without replacement and in random order, and read window by
    window: the number of batches drawn is the whole state.

    Args:
        tokens: the training tokens, [n] of any integer type.
        windows: windows of a passage.
        seq_len: tokens per window.
        batch: windows per batch.
        seed: start of the random order.
        workers: threads that read batches ahead; the batches are the same for any number of them.

    Raises:
        DataError: the text is shorter than one batch of passages.
    """

    def __init__(self, tokens: Tensor, *, windows: int, seq_len: int, batch: int, seed: int, workers: int = 0) -> None:
        self.windows, self.seq_len = windows, seq_len
        passages = WindowSampler(tokens, seq_len=windows * seq_len, batch=batch, seed=seed)
        self._passages = lru_cache(maxsize=2)(passages.batch_at)
        self._ahead = Prefetch(self._batch_at, workers=workers)

    def next(self) -> TokenBatch:
        """The next batch; it is fresh where passages begin."""
        return self._ahead.next()

    def _batch_at(self, which: int) -> TokenBatch:
        number, window = divmod(which, self.windows)
        whole = self._passages(number)
        part = slice(window * self.seq_len, (window + 1) * self.seq_len)
        ids, targets = (side[:, part].contiguous() for side in (whole.inputs, whole.targets))
        return TokenBatch(ids, targets, ids.numel(), fresh=window == 0)

    def state(self) -> dict[str, Json]:
        """Number of batches drawn."""
        return self._ahead.state()

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Continues after the given number of batches.

        Raises:
            CheckpointError: the state is not one of this sampler.
        """
        self._ahead.load_state(state)


def validation_batches(tokens: Tensor, *, seq_len: int, batch: int) -> Iterator[TokenBatch]:
    """Protocol `windows`: cuts all tokens into windows and predicts each token but the first exactly once.

    The last window is filled with token 0 and ignored targets; no context is carried from window to window.

    Args:
        tokens: the held-out tokens, [n] int64.
        seq_len: tokens per window.
        batch: windows per batch.

    Raises:
        DataError: fewer than two tokens.
    """
    count = len(tokens) - 1
    if count < 1:
        raise DataError(
            f"the held-out part has {len(tokens)} tokens, wanted at least 2; give a longer text or lower "
            "`data.train_share`"
        )
    fill = -count % seq_len
    inputs = F.pad(tokens[:-1], (0, fill)).view(-1, seq_len)
    targets = F.pad(tokens[1:], (0, fill), value=IGNORE_INDEX).view(-1, seq_len)
    for first in range(0, len(inputs), batch):
        part = slice(first, first + batch)
        places = min(count, (first + batch) * seq_len) - first * seq_len
        yield TokenBatch(inputs[part], targets[part], places)
