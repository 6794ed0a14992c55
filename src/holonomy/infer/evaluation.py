"""How well a language model predicts a text: in windows from rest, or as one stream in constant memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from holonomy.core.errors import DataError
from holonomy.data.tokens import TokenBatch, validation_batches
from holonomy.infer.language_model import LanguageModel

PART = 512
"""Tokens that are taken at once."""
EVALUATION_TOKENS = 8_192
"""Tokens of one evaluation batch: large enough for speed, small enough for memory."""


def stream_loss(model: LanguageModel, tokens: Int[Tensor, " n"]) -> tuple[float, int]:
    """Mean negative log probability of each token given all before it, and how many were predicted.

    The state is carried over the whole text; the first token is read, not predicted.

    Raises:
        DataError: fewer than two tokens.
    """
    if len(tokens) < 2:
        raise DataError(f"the text has {len(tokens)} tokens; wanted 2 or more, to predict one from another")
    state, total = model.start(1), 0.0
    for start in range(0, len(tokens) - 1, PART):
        targets = tokens[start + 1 : start + 1 + PART]
        log_probs, state = model.advance(tokens[start : start + len(targets)][None], state)
        total -= float(log_probs[0].gather(-1, targets[:, None]).double().sum())
    return total / (len(tokens) - 1), len(tokens) - 1


def evaluate_tokens(
    loss_of: Callable[[TokenBatch], Tensor],
    tokens: Tensor,
    seq_len: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Held-out metrics by non-overlapping windows over all tokens; None when `should_stop` said so.

    Args:
        loss_of: mean loss of one batch, nats per token.
        tokens: token ids, [n].
        seq_len: tokens per window.
        should_stop: asked before every batch.
    """
    total, count = torch.zeros((), dtype=torch.float64, device=tokens.device), 0
    batch = max(1, EVALUATION_TOKENS // seq_len)
    for part in validation_batches(tokens, seq_len=seq_len, batch=batch):
        if should_stop():
            return None
        total += loss_of(part).double() * part.count
        count += part.count
    return loss_metrics(float(total) / count, count)


def loss_metrics(loss: float, count: int) -> dict[str, float]:
    """Metrics that say the same as a mean loss in nats over `count` tokens."""
    return {
        "val/loss": loss,
        "val/bits_per_char": loss / math.log(2),
        "val/perplexity": math.exp(min(loss, 700.0)),
        "val/tokens": float(count),
    }
