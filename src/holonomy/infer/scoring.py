"""How probable a language model finds many continuations of many contexts, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from holonomy.infer.evaluation import EVALUATION_TOKENS, PART
from holonomy.infer.language_model import LanguageModel, Tokenizer

ELEMENTS = 2**24
"""Log probabilities that are held at once: 64 MB."""


@dataclass(frozen=True)
class Continuation:
    """Tokens after other tokens.

    Attributes:
        context: ids that are read, one or more, [n] int64.
        ids: ids that are scored, [m] int64.
    """

    context: np.ndarray
    ids: np.ndarray

    @property
    def read(self) -> np.ndarray:
        """What the model reads: all but the last token."""
        return np.concatenate([self.context, self.ids])[:-1]


class Likelihood(NamedTuple):
    """Log probability of a continuation in nats, and whether each of its tokens was the most probable one."""

    nats: float
    greedy: bool


def continuation(tokenizer: Tokenizer, context: str, text: str) -> Continuation:
    """Cuts the tokens of `context + text` where those of the context end.

    Where a token reaches over the border, as byte pairs and words may, it counts to the continuation as a whole, so
    that the two parts always spell the text. Without a token before it, a text follows `tokenizer.opening()`.

    Raises:
        DataError: a character is outside the vocabulary and there is no symbol for unknown ones.
    """
    whole, before, after = (np.asarray(tokenizer.encode(t)) for t in (context + text, context, text))
    length = min(len(whole), len(before))
    odd = np.flatnonzero(whole[:length] != before[:length])
    cut = int(odd[0]) if len(odd) else length
    if len(whole) < len(before) + len(after):
        # Grown together at the border; two unknown words look the same.
        cut = min(cut, max(len(before) - 1, 0))
    return Continuation(whole[:cut] if cut else np.asarray(tokenizer.opening()), whole[cut:])


def likelihoods(model: LanguageModel, requests: Sequence[Continuation]) -> list[Likelihood]:
    """Scores continuations, each as if it stood alone, up to rounding in the model's batched products.

    The states move on over any length, with what they keep of it. Requests that read the same share the work, and
    their order changes nothing, not even rounding.
    """
    rows: dict[bytes, list[int]] = {}
    for n, request in enumerate(requests):
        if len(request.ids):
            rows.setdefault(request.read.tobytes(), []).append(n)
    nats, greedy = np.zeros(len(requests)), np.ones(len(requests), dtype=bool)
    for batch in _batches([(np.frombuffer(key, dtype=np.int64), n) for key, n in rows.items()], requests):
        _score(model, batch, requests, nats, greedy)
    return [Likelihood(float(a), bool(b)) for a, b in zip(nats, greedy, strict=True)]


Row = tuple[np.ndarray, list[int]]
"""Ids that are read, and the requests that read them."""


def _first(row: Row, requests: Sequence[Continuation]) -> int:
    """Place in a row whose distribution is the first that is wanted."""
    return min(len(requests[n].context) for n in row[1]) - 1


def _batches(rows: list[Row], requests: Sequence[Continuation]) -> Iterator[list[Row]]:
    """Rows of like length together, the longest first."""
    rows.sort(key=lambda row: (-len(row[0]), -_first(row, requests), row[0].tobytes()))
    while rows:
        count = max(1, EVALUATION_TOKENS // len(rows[0][0]))
        yield rows[:count]
        del rows[:count]


def _score(
    model: LanguageModel,
    batch: list[Row],
    requests: Sequence[Continuation],
    nats: np.ndarray,
    greedy: np.ndarray,
) -> None:
    """Adds the log probabilities of a batch to `nats`, and marks in `greedy` what was not the most probable."""
    longest = max(len(row) for row, _ in batch)
    ids = np.zeros((len(batch), longest), dtype=np.int64)
    where: list[tuple[np.ndarray, ...]] = []
    for r, (row, owners) in enumerate(batch):
        ids[r, : len(row)] = row
        for n in owners:
            wanted = requests[n].ids
            places = np.arange(len(row) - len(wanted), len(row))
            where.append((np.full_like(wanted, n), np.full_like(wanted, r), places, wanted))
    owner, row, place, target = (np.concatenate(parts) for parts in zip(*where, strict=True))
    tokens, state = torch.from_numpy(ids), model.start(len(batch))
    # Distributions of what is only read are never made, except the last.
    start = min(_first(r, requests) for r in batch)
    if start:
        _, state = model.prefill(tokens[:, :start], state)
    width = max(1, min(PART, ELEMENTS // (len(batch) * model.tokenizer.vocab_size)))
    while start < longest:
        log_probs, state = model.advance(tokens[:, start : start + width], state)
        here = (place >= start) & (place < start + width)
        index = torch.from_numpy(row[here]), torch.from_numpy(place[here] - start)
        wanted = torch.from_numpy(target[here])
        np.add.at(nats, owner[here], log_probs[*index, wanted].double().numpy())
        np.logical_and.at(greedy, owner[here], (log_probs.argmax(2)[index] == wanted).numpy())
        start += width
