"""Several processes that train one model on different windows; started by `torchrun`.

Statistics are averaged over the processes, so all of them make the same update. The first process leads: it alone
writes records and checkpoints, and what it says about the budget and about held-out loss holds for all.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from holonomy.core.errors import HolonomyError

TIMEOUT = datetime.timedelta(minutes=10)
"""How long a process waits for the others."""


class CommunicationError(HolonomyError):
    """Another process of the run is gone or silent; the last checkpoint is sound."""

    exit_code = 6


class World:
    """The processes of a run.

    Args:
        rank: number of this process, from 0.
        size: how many there are.
        restarts: how often `torchrun` has started them again.
    """

    def __init__(self, rank: int = 0, size: int = 1, restarts: int = 0) -> None:
        self.rank, self.size, self.restarts = rank, size, restarts

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0].split(". ")[0]
            raise CommunicationError(
                f"process {self.rank} of {self.size} lost the others ({reason}); "
                "continue the run with --resume, or let torchrun do it with --max-restarts"
            ) from error

    def mean_(self, tensor: Tensor) -> None:
        """Averages a tensor over the processes, in place.

        Raises:
            CommunicationError: a process is gone.
        """
        if self.size > 1:
            with self._talking():
                dist.all_reduce(tensor)
                tensor.div_(self.size)

    def agree(self, share: float, signum: int | None) -> tuple[float, int | None]:
        """The used share of the budget that the leader sees, and a signal if any process got one.

        Raises:
            CommunicationError: a process is gone.
        """
        if self.size == 1:
            return share, signum
        said = torch.tensor([share if self.leads else -1.0, signum or 0], dtype=torch.float64)
        with self._talking():
            dist.all_reduce(said, op=dist.ReduceOp.MAX)
        found, received = said.tolist()
        return found, int(received) or None

    def same(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The leader's metrics, of which it may have computed more than the others.

        Raises:
            CommunicationError: a process is gone.
        """
        if self.size == 1:
            return dict(metrics)
        with self._talking():
            return json.loads(self._text(json.dumps(dict(metrics)), 0))

    def _text(self, own: str, rank: int) -> str:
        # What a process says, for all of them.
        said = torch.frombuffer(bytearray(own, "utf-8"), dtype=torch.uint8)
        size = torch.tensor([len(said)])
        dist.broadcast(size, rank)
        text = said if rank == self.rank else torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(text, rank)
        return bytes(text.tolist()).decode()

    def all_of(self, said: bool) -> bool:
        """Whether all processes say so.

        Raises:
            CommunicationError: a process is gone.
        """
        if self.size == 1:
            return said
        answer = torch.tensor([int(said)])
        with self._talking():
            dist.all_reduce(answer, op=dist.ReduceOp.MIN)
        return bool(answer.item())

    def each(self, tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """The tensors of every process in the order of their numbers, for all of them; sizes may differ.

        Raises:
            CommunicationError: a process is gone.
        """
        listed = json.dumps([(n, str(t.dtype).removeprefix("torch."), t.shape) for n, t in tensors.items()])
        for rank in range(self.size):
            with self._talking():
                found = dict[str, Tensor]()
                for name, kind, shape in json.loads(self._text(listed, rank)):
                    empty = torch.empty(shape, dtype=getattr(torch, kind))
                    found[name] = tensors[name].contiguous() if rank == self.rank else empty
                    dist.broadcast(found[name], rank)
            yield found

    def barrier(self) -> None:
        """Waits for all processes.

        Raises:
            CommunicationError: a process is gone.
        """
        if self.size > 1:
            with self._talking():
                dist.barrier()


@contextmanager
def joined() -> Iterator[World]:
    """The processes that `torchrun` started; a world of one where it did not.

    Raises:
        CommunicationError: they do not find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    world = World(int(os.environ["RANK"]), size, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    with world._talking():
        # Control values are on the CPU also where statistics are on a GPU.
        kinds = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store, rank, number = next(iter(rendezvous("env://", timeout=TIMEOUT)))
        # Under a name of this start: addresses of processes that died must not be taken for those of their successors.
        fresh = dist.PrefixStore(f"start-{world.restarts}", store)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(kinds, store=fresh, rank=rank, world_size=number, timeout=TIMEOUT)
    try:
        yield world
    finally:
        dist.destroy_process_group()
