"""Hebbian learning of a linear read-out on fixed features, in one pass and without gradients.

Each token adds the outer product of what came and the features before it; each adds the features' own outer product,
by which the read-out is whitened: W = A (C + lambda n I)^-1 with A = sum y f^T, C = sum f f^T (Kohonen 1989,
chapter 6). That is the ridge regression of one-hot targets; for one-hot features it is the conditional frequency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.learner import IGNORE_INDEX, Json, Metrics, State
from holonomy.core.nograd import no_autograd
from holonomy.learn.echo import SequenceBatch, check_tensors


class HebbianLearner:
    """Learns which token follows which features.

    Scores become probabilities by a floor: p = (max(W f, 0) + floor) normalised.

    Args:
        features: fixed map from token ids [B, T] to features [B, T, D] that see no later token.
        vocab_size: number of token ids.
        dim: D.
        ridge: lambda, in units of the mean of C per token.
        floor: added to every score.
        dtype: of the sums.

    Raises:
        ConfigError: ridge or floor is not above zero.
    """

    def __init__(
        self,
        features: Callable[[Tensor], Tensor],
        *,
        vocab_size: int,
        dim: int,
        ridge: float = 1e-6,
        floor: float = 1e-4,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if not ridge > 0 or not floor > 0:
            raise ConfigError(f"`ridge` is {ridge}, `floor` {floor}; wanted both above zero")
        self.features, self.ridge, self.floor = features, ridge, floor
        self.cross = torch.zeros(vocab_size, dim, dtype=dtype)
        self.moment = torch.zeros(dim, dim, dtype=dtype)
        self.seen = torch.zeros((), dtype=torch.float64)
        self._readout: Tensor | None = None

    def setup(self, example_batch: SequenceBatch) -> None:
        """Nothing depends on the shape of a batch."""

    def readout(self) -> Tensor:
        """W, [V, D]; solved again only after something was learned."""
        if self._readout is not None:
            return self._readout
        identity = torch.eye(len(self.moment), dtype=self.moment.dtype)
        damped = self.moment + self.ridge * self.seen.clamp_min(1).to(self.moment.dtype) * identity
        self._readout = solved = torch.linalg.solve(damped, self.cross.T).T
        return solved

    def log_probs(self, inputs: Tensor) -> Tensor:
        """log p(next token) after each token, [B, T, V]."""
        scores = (self.features(inputs).to(self.cross.dtype) @ self.readout().T).clamp_min(0) + self.floor
        return (scores / scores.sum(-1, keepdim=True)).log()

    def _loss(self, batch: SequenceBatch) -> Tensor:
        scores = self.log_probs(batch.inputs)
        return torch.nn.functional.nll_loss(scores.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX)

    def train_step(self, batch: SequenceBatch, *, progress: float) -> Metrics:
        """Predicts the batch with what is known, then adds it; nothing depends on `progress`."""
        with no_autograd():
            loss = self._loss(batch)
            fits = batch.targets.flatten() != IGNORE_INDEX
            seen = self.features(batch.inputs).to(self.cross.dtype).flatten(0, 1)[fits]
            self.cross.index_add_(0, batch.targets.flatten()[fits], seen)
            self.moment += seen.T @ seen
            self.seen += len(seen)
            self._readout = None
        return Metrics(loss, batch.count)

    def eval_step(self, batch: SequenceBatch) -> Metrics:
        """Loss of one batch; nothing changes."""
        with no_autograd():
            return Metrics(self._loss(batch), batch.count)

    def scale_rate(self, factor: float) -> None:
        """There is no rate: every token counts alike."""

    def merge(self, other: HebbianLearner) -> None:
        """Adds what another learner saw: the sums are as if this one had seen both texts."""
        self.cross += other.cross
        self.moment += other.moment
        self.seen += other.seen
        self._readout = None

    def state(self) -> State:
        """The sums."""
        return {"cross": self.cross, "moment": self.moment, "seen": self.seen}

    def load_state(self, state: Mapping[str, Tensor | Json]) -> None:
        """Copies the sums in.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape or dtype differs; nothing was changed.
        """
        mine = {"cross": self.cross, "moment": self.moment, "seen": self.seen}
        check_tensors(mine, state)
        for name, tensor in mine.items():
            tensor.copy_(state[name])  # type: ignore[arg-type]
        self._readout = None
