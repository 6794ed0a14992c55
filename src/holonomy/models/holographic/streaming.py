"""Batches of a stream of documents: each word once, none kept, and exactly where it was after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from holonomy.core.errors import CheckpointError, DataError
from holonomy.core.learner import IGNORE_INDEX, Json
from holonomy.data.repeats import Repeats
from holonomy.data.stream import DocumentStream
from holonomy.data.tokens import TokenBatch
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.learner import LastBatch

SEEN = "seen"
"""Under this the state holds what was seen of held-out documents."""
Words = tuple[np.ndarray, np.ndarray]
"""Documents end to end, and where each begins."""


def beginning(documents: Callable[[], DocumentStream[Any]], tokenizer: WordTokenizer, most: int) -> Words:
    """The first `most` words that a stream gives in its first round."""
    source, parts, count = documents(), list[np.ndarray](), 0
    while count < most:
        words = _encoded(source.next(), tokenizer)
        if source.epoch:
            break
        words = words[: most - count]
        if len(words):
            parts.append(words)
            count += len(words)
    return in_a_row(parts)


def _encoded(document: str | np.ndarray, tokenizer: WordTokenizer) -> np.ndarray:
    """Ids of a document, which a cache gives as such."""
    return tokenizer.encode(document) if isinstance(document, str) else document


def in_a_row(parts: list[np.ndarray]) -> Words:
    """Documents end to end."""
    if not parts:
        return np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    return np.concatenate(parts), np.cumsum([0, *(len(p) for p in parts[:-1])])


class WordStream:
    """One round through documents, or as many words of it as are wanted; its state is a place in the files.

    The last batch brings what a mixture is fitted with: the first words of the stream once more, from which everything
    is made that counts alone do not give, and words that were held out.

    Args:
        documents: opens the stream at its beginning, of texts or of their ids.
        tokenizer: words.
        batch: targets of a batch; documents follow each other in it, each after a pad.
        reach: words before a batch that its first targets may look back on.
        replay: words to give once more at the end.
        apart: held-out documents for the fit.
        most: words to learn; None is all.
        whole: opens the stream whose first words are given once more, where this is a part of it.
        repeats: of held-out documents, told of each document that is learned.
        agreed: tells whether the streams of all processes are over, given whether this one is; until then one that is
            over gives empty batches.

    Raises:
        DataError: there is no word.
    """

    def __init__(
        self,
        documents: Callable[[], DocumentStream[Any]],
        tokenizer: WordTokenizer,
        *,
        batch: int,
        reach: int,
        replay: int,
        apart: Words,
        most: int | None = None,
        whole: Callable[[], DocumentStream[Any]] | None = None,
        repeats: Repeats | None = None,
        agreed: Callable[[bool], bool] = lambda over: over,
    ) -> None:
        self._open, self._agreed, self.repeats = whole or documents, agreed, repeats
        self.tokenizer, self.batch, self.reach = tokenizer, batch, reach
        self.replay, self.apart, self.most = replay, apart, most
        self._source = documents()
        self._at, self._words, self._given = self._source.state(), np.empty(0, dtype=np.int64), 0
        self.learned = self.drawn = 0
        self._advance()
        self.over = False
        """Whether all words were given, to all processes."""
        if agreed(self._empty()):
            raise DataError("the stream has no word to learn; name documents with text that is not all held out")

    @property
    def left_out(self) -> int:
        """Bad lines that were left out; see `DocumentStream.left_out`."""
        return self._source.left_out

    def _advance(self) -> None:
        """The next document that has words; afterwards there are some left unless the stream is over."""
        while self._given >= len(self._words) and not self._source.epoch:
            self._at, self._given = self._source.state(), 0
            words = _encoded(self._source.next(), self.tokenizer)
            self._words = words if not self._source.epoch else self._words[:0]
            if self.repeats is not None:
                self.repeats.see(self._words)

    def _empty(self) -> bool:
        return bool(self._source.epoch) or (self.most is not None and self.learned >= self.most)

    def next(self) -> TokenBatch:
        """The next batch; after the last one there is none.

        Raises:
            DataError: the stream is over, or a document cannot be read.
        """
        if self.over:
            raise DataError("the stream has been learned once; a second round would count everything twice")
        most = self.batch if self.most is None else min(self.batch, self.most - self.learned)
        inputs, targets, count = list[np.ndarray](), list[np.ndarray](), 0
        while count < most and not self._source.epoch:
            begin, end = self._given, min(len(self._words), self._given + most - count)
            first = max(0, begin - self.reach)
            before = self._words[first - 1] if first else self.tokenizer.pad_id
            words = self._words[first:end]
            inputs.append(np.concatenate([[before], words[:-1]]))
            targets.append(np.where(np.arange(first, end) < begin, IGNORE_INDEX, words))
            count, self._given = count + end - begin, end
            self._advance()
        if not inputs:
            inputs.append(np.array([self.tokenizer.pad_id]))
            targets.append(np.array([IGNORE_INDEX]))
        self.learned, self.drawn = self.learned + count, self.drawn + 1
        self.over = self._agreed(self._empty())
        row, wanted = (torch.from_numpy(np.concatenate(part))[None] for part in (inputs, targets))
        if not self.over:
            return TokenBatch(row, wanted, count)
        return LastBatch(row, wanted, count, *beginning(self._open, self.tokenizer, self.replay), self.apart)

    def state(self) -> dict[str, Json]:
        """Place of the current document, and how many of its words were given."""
        numbers = {"given": self._given, "learned": self.learned, "drawn": self.drawn, "over": self.over}
        seen = {} if self.repeats is None else {SEEN: self.repeats.state()}
        return {"documents": self._at, **numbers, **seen}

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Continues from a state.

        Raises:
            CheckpointError: it is not one of this stream.
        """
        at, over, numbers = (
            state.get("documents"),
            state.get("over"),
            [state.get(name) for name in ("given", "learned", "drawn")],
        )
        if (
            not isinstance(at, dict)
            or not isinstance(over, bool)
            or any(not isinstance(n, int) or n < 0 for n in numbers)
        ):
            raise CheckpointError(f"the state of a stream is {dict(state)}; wanted documents, numbers and over")
        # Older versions did not look for repeats.
        if self.repeats is not None and SEEN in state:
            self.repeats.load_state(state[SEEN])
        given, self.learned, self.drawn = (n for n in numbers if isinstance(n, int))
        self._source.load_state(at)
        self._words, self._given = self._words[:0], 0
        self._advance()
        if given > len(self._words):
            raise CheckpointError(f"the state of a stream gives {given} words of a document of {len(self._words)}")
        self._given, self.over = given, over
        self._advance()
