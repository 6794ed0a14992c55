"""The holographic model behind the learner protocol: a step learns every target of a batch once, exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.core.learner import IGNORE_INDEX, Json, Metrics, State
from holonomy.data.tokens import TokenBatch
from holonomy.models.holographic.contexts import Contexts, of_windows
from holonomy.models.holographic.drift import Sleeper
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.storage import load_into, state_of


@dataclass(frozen=True)
class LastBatch(TokenBatch):
    """The end of a pass.

    Attributes:
        text: all words that were learned, [n]; of a stream, its first ones.
        starts: where its documents begin.
        apart: words that were not learned, for the fit, and where their documents begin; without, parts of the text
            are unlearned for it.
    """

    text: np.ndarray
    starts: np.ndarray
    apart: tuple[np.ndarray, np.ndarray] | None = None


class OnePass:
    """Batches of documents in their order, each target once; its state is the number of batches drawn.

    Args:
        tokens: the words to learn, documents end to end, [n].
        batch: targets of a batch; none is of two documents.
        reach: words before a batch that its first targets may look back on.
        pad_id: stands before a document.
        starts: where each document begins, rising from 0; one document by default.

    Raises:
        DataError: no words.
    """

    def __init__(
        self, tokens: np.ndarray, *, batch: int, reach: int, pad_id: int, starts: np.ndarray | None = None
    ) -> None:
        if len(tokens) < 1:
            raise DataError("the training part has no words; give a longer text")
        self.tokens, self.reach, self.pad_id = tokens, reach, pad_id
        self.starts = np.zeros(1, dtype=np.int64) if starts is None else starts
        ends = [*self.starts[1:].tolist(), len(tokens)]
        self._cuts = [
            (begin, min(begin + batch, end), start)
            for start, end in zip(self.starts.tolist(), ends, strict=True)
            for begin in range(start, end, batch)
        ]
        self.count, self._drawn = len(self._cuts), 0

    def next(self) -> TokenBatch:
        """The next batch; after the last one there is none.

        Raises:
            DataError: the pass is over.
        """
        if self._drawn >= self.count:
            raise DataError("the text has been learned once; a second pass would count everything twice")
        begin, end, start = self._cuts[self._drawn]
        first = max(start, begin - self.reach)
        before = self.tokens[first - 1] if first > start else self.pad_id
        words = self.tokens[first:end]
        targets = torch.from_numpy(words.copy())
        targets[: begin - first] = IGNORE_INDEX
        inputs = torch.from_numpy(np.concatenate([[before], words[:-1]]))
        self._drawn += 1
        parts = inputs[None], targets[None], end - begin
        return LastBatch(*parts, self.tokens, self.starts) if self._drawn == self.count else TokenBatch(*parts)

    def first(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first words, and where their documents begin."""
        return self.tokens[:count], self.starts[self.starts < count]

    def state(self) -> dict[str, Json]:
        """Batches drawn."""
        return {"drawn": self._drawn}

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Continues after as many batches.

        Raises:
            CheckpointError: it is no such state.
        """
        drawn = state.get("drawn")
        if not isinstance(drawn, int) or not 0 <= drawn <= self.count:
            raise CheckpointError(f"the stored position in the text is {drawn!r}; wanted 0 to {self.count} batches")
        self._drawn = drawn


class HolographicLearner:
    """Learns by writing: one call per batch, no loop over targets, nothing to differentiate.

    A batch of windows gives each target the part of its window before it as context. The loss of a training step is
    that of the plain counts before they learn the batch, which costs next to nothing; evaluation asks the whole model.

    Args:
        model: what learns.
        gather: adds what other processes have learned, before anything is fitted.
        sleeper: lets the model sleep between batches.
    """

    def __init__(
        self,
        model: HolographicModel,
        *,
        gather: Callable[[HolographicModel], None] = lambda model: None,
        sleeper: Sleeper | None = None,
    ) -> None:
        self.model, self._gather, self.sleeper = model, gather, sleeper
        self.notes: list[str] = []
        """What to tell whoever watches."""

    def setup(self, example_batch: TokenBatch) -> None:
        """Checks that batches are of the model's words."""
        self._pairs(example_batch)

    def _pairs(self, batch: TokenBatch) -> tuple[Contexts, np.ndarray]:
        inputs, targets = batch.inputs.cpu().numpy(), batch.targets.cpu().numpy()
        top, pad_id = int(targets.max(initial=0)), self.model.tokenizer.pad_id
        before = int(np.where(inputs == pad_id, 0, inputs).max(initial=0))
        if max(top, before) >= self.model.vocab_size:
            raise ConfigError(f"`batch` holds id {max(top, before)}; the vocabulary has {self.model.vocab_size}")
        counted = np.flatnonzero(targets.reshape(-1) != IGNORE_INDEX)
        contexts = of_windows(inputs.astype(np.int64), pad_id)
        return contexts.part(counted), targets.reshape(-1)[counted].astype(np.int64)

    def train_step(self, batch: TokenBatch, *, progress: float) -> Metrics:
        """Learns the batch; after the last one of a pass, fits the mixture on the text that was learned."""
        contexts, targets = self._pairs(batch)
        extra: dict[str, Tensor | float] = self._slept()
        counts = self.model.memories.counts
        probs = counts.score(counts.find(*contexts.symbols(counts.order - 1)), targets)
        self.model.change(contexts, targets, sign=1)
        loss = -float(np.log(np.maximum(probs, 1e-300)).mean()) if len(targets) else 0.0
        extra["memory/grams"], extra["memory/probes"] = float(counts.num_grams), counts.mean_probes
        if self.model.mirror is not None:
            extra["memory/load"] = float(self.model.mirror.tower.load.max())
        if isinstance(batch, LastBatch) and batch.apart is not None:
            self._gather(self.model)
            self.model.consolidate(batch.text, batch.starts)
            self.model.fit_apart(*batch.apart)
        elif isinstance(batch, LastBatch) and counts.cut_off:
            # What was dropped in a sleep cannot be unlearned, so the mixture stays as it was fitted.
            self.model.consolidate(batch.text, batch.starts)
        elif isinstance(batch, LastBatch):
            self.model.fit(batch.text, batch.starts)
        if isinstance(batch, LastBatch) and self.sleeper is not None:
            self.sleeper.fitted()
        # With what the end of a pass has made.
        extra["memory/bytes"] = float(sum(self.model.stats().values()))
        return Metrics(torch.tensor(loss), len(targets), extra)

    def _slept(self) -> dict[str, Tensor | float]:
        """Sleeps if it is time to, before the next batch is learned; what is logged of it."""
        if self.sleeper is None:
            return {}
        words = self.model.memories.learned
        if self.sleeper.due(words):
            self.notes.append(self.sleeper.sleep(self.model, words))
        return dict(self.sleeper.figures())

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
        """Everything that has been learned; the tensors are those of the model."""
        return state_of(self.model, copy=False)

    def load_state(self, state: Mapping[str, Tensor | Json]) -> None:
        """Takes over a stored state."""
        load_into(self.model, state)
