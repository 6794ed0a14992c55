"""The holographic model behind the learner protocol: a step learns every target of a batch once, exactly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.learner import IGNORE_INDEX, Json, Metrics, State
from holonomy.data.tokens import TokenBatch
from holonomy.models.holographic.contexts import Contexts
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.storage import load_into, state_of


class HolographicLearner:
    """Learns by writing: one call per batch, no loop over targets, nothing to differentiate.

    A batch of windows gives each target the part of its window before it as context. The loss of a training step is
    that of the plain counts before they learn the batch, which costs next to nothing; evaluation asks the whole model.

    Args:
        model: what learns.
    """

    def __init__(self, model: HolographicModel) -> None:
        self.model = model

    def setup(self, example_batch: TokenBatch) -> None:
        """Checks that batches are of the model's words."""
        self._pairs(example_batch)

    def _pairs(self, batch: TokenBatch) -> tuple[Contexts, np.ndarray]:
        inputs, targets = batch.inputs.cpu().numpy(), batch.targets.cpu().numpy()
        top = max(int(inputs.max(initial=0)), int(targets.max(initial=0)))
        if top >= self.model.vocab_size:
            raise ConfigError(f"`batch` holds id {top}; the vocabulary has {self.model.vocab_size}")
        rows, width = inputs.shape
        begins = np.repeat(np.arange(rows) * width, width)
        ends = (np.arange(rows)[:, None] * width + np.arange(1, width + 1)).reshape(-1)
        counted = np.flatnonzero(targets.reshape(-1) != IGNORE_INDEX)
        contexts = Contexts(np.ascontiguousarray(inputs.reshape(-1), dtype=np.int64), begins, ends)
        return contexts.part(counted), targets.reshape(-1)[counted].astype(np.int64)

    def train_step(self, batch: TokenBatch, *, progress: float) -> Metrics:
        """Learns the batch."""
        contexts, targets = self._pairs(batch)
        counts = self.model.memories.counts
        probs = counts.score(counts.find(*contexts.symbols(counts.order - 1)), targets)
        self.model.change(contexts, targets, sign=1)
        loss = -float(np.log(np.maximum(probs, 1e-300)).mean()) if len(targets) else 0.0
        extra: dict[str, Tensor | float] = {
            "memory/bytes": float(sum(self.model.stats().values())),
            "memory/grams": float(counts.num_grams),
            "memory/probes": counts.mean_probes,
        }
        if self.model.mirror is not None:
            extra["memory/load"] = float(self.model.mirror.tower.load.max())
        return Metrics(torch.tensor(loss), len(targets), extra)

    def eval_step(self, batch: TokenBatch) -> Metrics:
        """Mean loss of the whole model."""
        contexts, targets = self._pairs(batch)
        logs = self.model.distributions(contexts).gather(1, torch.from_numpy(targets)[:, None])
        return Metrics(-logs.mean() if len(targets) else torch.zeros(()), len(targets))

    def scale_rate(self, factor: float) -> None:
        """Exact counts have no rate: nothing can be scaled.

        Raises:
            ConfigError: always, unless the factor is one.
        """
        if factor != 1:
            raise ConfigError(f"`factor` is {factor}; a model that learns by counting has no learning rate to scale")

    def state(self) -> State:
        """Everything that has been learned."""
        return state_of(self.model)

    def load_state(self, state: Mapping[str, Tensor | Json]) -> None:
        """Takes over a stored state."""
        load_into(self.model, state)
