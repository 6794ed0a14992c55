"""Metrics, samples and histograms for TensorBoard, on the step axis of the run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.picture import Picture
from holonomy.train.callbacks import Action, Callback
from holonomy.train.figures import check_matplotlib, figure_of

HISTOGRAM_VALUES = 10_000
"""At most so many values of a tensor go into a histogram, evenly spaced."""


class TensorBoard(Callback):
    """Writes an event file; a run that continues hides what it wrote after its last checkpoint.

    Args:
        directory: gets the event files.
        tensors: named tensors whose histograms are written at each evaluation.
        sample: makes a text at each evaluation, if given.
        embedding: a matrix of row vectors and their labels for the projector, written once at the end, if any.
        pictures: what the model looks like inside, drawn at each evaluation.

    Raises:
        ConfigError: the tensorboard package, or matplotlib, is not installed.
    """

    name = "tensorboard"

    def __init__(
        self,
        directory: Path,
        *,
        tensors: Callable[[], Mapping[str, Tensor]] = dict,
        sample: Callable[[int], str] | None = None,
        embedding: Callable[[], tuple[Tensor, Sequence[str]] | None] = lambda: None,
        pictures: Callable[[], Sequence[Picture]] = tuple,
    ) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError(
                "`train.tensorboard` wants the tensorboard package; install it with `pip install 'holonomy[log]'`"
            )
        check_matplotlib()
        from torch.utils.tensorboard import SummaryWriter

        self.directory, self._make = directory, SummaryWriter
        self._tensors, self._sample, self._embedding, self._pictures = tensors, sample, embedding, pictures
        self._writer: Any = None
        self._last = 0

    def start(self, step: int) -> None:
        """Opens an event file; later events of an earlier process are purged."""
        if self._writer is not None:
            self._writer.close()
        self._writer = self._make(str(self.directory), purge_step=step + 1 if step else 0)

    def recorded(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes scalars."""
        self._last = step
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Action:
        """Writes scalars, histograms, figures and a sample."""
        self.recorded(step, metrics)
        for name, tensor in self._tensors().items():
            values = tensor.detach().flatten()
            self._writer.add_histogram(name, values[:: max(1, len(values) // HISTOGRAM_VALUES)].float().cpu(), step)
        for picture in self._pictures():
            self._writer.add_figure(picture.title, figure_of(picture), step)
        if self._sample is not None:
            self._writer.add_text("sample", self._sample(step), step)
        return Action.NONE

    def close(self) -> None:
        """Writes the embedding and closes the file."""
        if self._writer is None:
            return
        found = self._embedding()
        if found is not None:
            vectors, labels = found
            self._writer.add_embedding(vectors.detach().cpu(), metadata=list(labels), global_step=self._last)
        self._writer.close()
        self._writer = None
