"""States that go on from one update to the next: truncated learning through time on consecutive windows.

The free phase of a window begins with the states that the window before ended with; the echo stops at its first token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from holonomy.core.errors import CheckpointError
from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer, EchoLoss
from holonomy.core.learner import Json
from holonomy.core.tape import Tape

CARRIED = "carried."
"""What the names of carried states begin with in the state of a learner."""


def continued_statistics(
    net: EchoLayer, loss: EchoLoss, inputs: Tensor, targets: Tensor, before: Any, acc: StatBuffer
) -> tuple[Tensor, Any]:
    """Adds the statistics of windows that follow the states `before` to `acc`, nothing of it reaching back over them.

    Args:
        net: maps token ids [B, T] to logits [V, B, T]; every layer can be resumed.
        loss: mean loss over the targets that count.
        inputs, targets: [B, T].
        before: the network's states before the windows.
        acc: receives the statistics.

    Returns:
        The mean loss, and the states after the windows.

    Raises:
        IllegalMix: a layer cannot be resumed.
    """
    tape = Tape()
    logits, after = net.resume(inputs, before, tape)
    value = loss.free(logits, targets, tape)
    net.echo_segment(tape, loss.nudge(tape), None, acc)
    return value, after


def state_tensors(state: Any) -> dict[str, Tensor]:
    """Everything in carried states by name, as real tensors."""
    return {f"{CARRIED}{n}": leaf for n, leaf in enumerate(_leaves(state))}


def restored_states(template: Any, stored: Mapping[str, Tensor | Json]) -> Any:
    """Carried states from what `state_tensors` gave.

    Args:
        template: states of the same structure and shapes.
        stored: may hold other names too.

    Raises:
        CheckpointError: something is missing, left over or misshapen.
    """
    wanted = state_tensors(template)
    found = {name: value for name, value in stored.items() if name.startswith(CARRIED)}
    for name in sorted(wanted.keys() | found.keys()):
        came, need = found.get(name), wanted.get(name)
        if need is None or not isinstance(came, Tensor) or came.shape != need.shape or came.dtype != need.dtype:
            raise CheckpointError(
                f"the stored state holds `{name}` as {_told(came)}, wanted {_told(need)}; "
                "load it with the configuration it was trained with"
            )
    ordered = iter([found[f"{CARRIED}{n}"] for n in range(len(wanted))])
    return _filled(template, ordered)


def _told(value: Tensor | Json) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else "nothing"


def _leaves(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield torch.view_as_real(state) if state.is_complex() else state
    elif isinstance(state, int):
        yield torch.tensor(state)
    elif state is not None:
        for part in state:
            yield from _leaves(part)


def _filled(template: Any, leaves: Iterator[Any]) -> Any:
    if isinstance(template, Tensor):
        found = next(leaves).to(template.device, copy=True)
        return torch.view_as_complex(found) if template.is_complex() else found
    if isinstance(template, int):
        return int(next(leaves))
    if template is None:
        return None
    parts = [_filled(part, leaves) for part in template]
    if isinstance(template, list):
        return parts
    return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)
