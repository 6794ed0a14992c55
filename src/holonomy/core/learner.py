"""The seam between the training loop and every learning rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from torch import Tensor

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
State: TypeAlias = dict[str, "Tensor | Json"]

IGNORE_INDEX = -100
"""Target value of a place that takes no part in the loss, as in torch."""


@dataclass
class Metrics:
    """What one step reports.

    Attributes:
        loss: mean loss of the step in nats per token, a scalar tensor (no device sync until it is read).
        count: number of predicted tokens (or samples) the mean runs over.
        extra: further scalars by metric name, tensors or numbers.
    """

    loss: Tensor
    count: int
    extra: dict[str, Tensor | float] = field(default_factory=dict)


class Replicas(Protocol):
    """Processes that train copies of one model on different data."""

    @property
    def size(self) -> int: ...

    def mean_(self, tensor: Tensor) -> None: ...


class Learner(Protocol):
    """A learning rule bound to a model: the loop never knows what is behind it.

    `setup` is called once before anything else, with a batch like those to come, and must not learn from it.
    `train_step` performs one complete update. `progress` in [0, 1] is the used share of the budget and
    places the step on the learning-rate schedule. `state` holds everything that a bit-exact continuation
    needs, tensors and JSON values by name; `load_state` refuses unknown, missing or misshapen entries
    before it changes anything. `scale_rate` multiplies the learning rate of all later steps, and is part of the state.
    A learner may have `notes`, a list of texts for the user, which the loop shows and empties.
    """

    def setup(self, example_batch: Any) -> None: ...

    def train_step(self, batch: Any, *, progress: float) -> Metrics: ...

    def eval_step(self, batch: Any) -> Metrics: ...

    def scale_rate(self, factor: float) -> None: ...

    def state(self) -> State: ...

    def load_state(self, state: Mapping[str, Tensor | Json]) -> None: ...
