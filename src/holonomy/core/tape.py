"""The tape: what a free phase leaves behind for the echo phase, owned by the caller and never by a layer."""

from __future__ import annotations

from torch import Tensor

from holonomy.core.errors import TapeError


class Tape:
    """A last-in, first-out list of records (owner, tensors)."""

    def __init__(self) -> None:
        self._records: list[tuple[object, tuple[Tensor, ...]]] = []
        self._notes: dict[object, tuple[Tensor, ...]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def tensors(self) -> list[Tensor]:
        """Everything that lies on the tape."""
        return [tensor for _, record in self._records for tensor in record]

    def push(self, owner: object, *tensors: Tensor) -> None:
        """Stores the record of one call of `owner`."""
        self._records.append((owner, tensors))

    def pop(self, owner: object) -> tuple[Tensor, ...]:
        """Takes back the newest record.

        Raises:
            TapeError: the tape is empty or the newest record belongs to another layer.
        """
        if not self._records:
            raise TapeError(
                f"`tape` holds no record for {type(owner).__name__}: run the free phase with this tape first, "
                "and echo every layer once"
            )
        found, tensors = self._records[-1]
        if found is not owner:
            raise TapeError(
                f"`tape` ends with a record of {type(found).__name__}, not of {type(owner).__name__}: "
                "echo the layers in the reverse order of the free phase"
            )
        self._records.pop()
        return tensors

    def leave(self, reader: object, *tensors: Tensor) -> None:
        """Leaves a note for a layer that has pushed its record already: what only the loss knows."""
        self._notes[reader] = tensors

    def take(self, reader: object) -> tuple[Tensor, ...]:
        """Takes the note that was left for `reader`.

        Raises:
            TapeError: there is none.
        """
        if reader not in self._notes:
            raise TapeError(
                f"`tape` holds no note for {type(reader).__name__}: give the loss this tape, and this layer as `pull`"
            )
        return self._notes.pop(reader)
