"""Echo learning on long sequences, a segment at a time: exact, not truncated.

The free phase keeps only the layers' states at the borders of the segments (`segment`), or only the last ones
(`streamed`, where every layer can be run backwards: memory does not grow with the length). The echo takes the segments
from last to first, runs each one's free phase again, and carries the nudges on the states over the borders.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.flat import StatBuffer
from holonomy.core.layer import EchoLayer, EchoLoss
from holonomy.core.learner import IGNORE_INDEX
from holonomy.core.tape import Tape


def segmented_statistics(
    net: EchoLayer,
    loss: EchoLoss,
    inputs: Tensor,
    targets: Tensor,
    acc: StatBuffer,
    *,
    length: int,
    streamed: bool = False,
) -> Tensor:
    """Adds the statistics of a batch of sequences to `acc`, and returns the mean loss.

    Equal to both phases on the whole sequences, up to rounding.

    Args:
        net: maps token ids [B, T] to logits [V, B, T]; every layer learns by segments.
        loss: mean loss over the targets that count.
        inputs, targets: [B, T].
        acc: receives the statistics.
        length: tokens of a segment.
        streamed: go back by running the layers backwards instead of from kept states.

    Raises:
        ConfigError: `length` is below 1.
        IllegalMix: a layer cannot learn by segments, or not be run backwards.
    """
    if length < 1:
        raise ConfigError(f"`length` is {length}; wanted 1 token or more in a segment")
    parts = list(zip(inputs.split(length, 1), targets.split(length, 1), strict=True))
    state = net.start(inputs.shape[0])
    kept: list[Any] = []
    # The outputs of the last segment are needed only by its echo, which runs it again.
    for ids, _ in parts if streamed else parts[:-1]:
        kept.append(state)
        state = net.resume(ids, state, None)[1]
        if streamed:
            kept.clear()
    if not streamed:
        kept.append(state)
    counted = [(part != IGNORE_INDEX).sum() for _, part in parts]
    total_count = torch.stack(counted).sum().clamp_min(1)
    total, carry, dtype = torch.zeros((), dtype=torch.float64, device=inputs.device), None, acc.buffer.dtype
    for (ids, wanted), count in zip(reversed(parts), reversed(counted), strict=True):
        tape, share = Tape(), count.double() / total_count
        if streamed:
            logits, state = net.retrace(ids, state, tape)
        else:
            logits, _ = net.resume(ids, kept.pop(), tape)
        part = loss.free(logits, wanted, tape)
        total += part * share
        _, carry = net.echo_segment(tape, loss.nudge(tape) * share, carry, acc)
    return total.to(dtype)
