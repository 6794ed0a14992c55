"""A trained lior network as a language model with incremental state."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.data.bpe import BytePairTokenizer
from holonomy.data.tokenizer import CharTokenizer
from holonomy.data.tokens import TokenBatch
from holonomy.models.lior.config import LiorConfig
from holonomy.nn.containers import Chain
from holonomy.nn.heads import SoftmaxCrossEntropy

PREFILL = 512
"""Tokens taken at once by `prefill`: bounds its memory for prompts of any length."""


class LiorLanguageModel:
    """Implements the `LanguageModel` protocol on a network of echo layers.

    The state has constant size: two numbers a mode for oscillators, a few inputs for filters, and the last
    `window` keys and values for retrieval. There is no context limit. Ids and log probabilities live on the CPU,
    wherever the network does.

    Args:
        net: maps token ids [B, T] to logits [V, B, T].
        tokenizer: the tokenizer the network was trained with.
        config: the configuration the network was built from.
    """

    context_limit: int | None = None

    def __init__(self, net: Chain, tokenizer: CharTokenizer | BytePairTokenizer, config: LiorConfig) -> None:
        self.net, self.tokenizer, self.config = net, tokenizer, config
        self.device = next(net.parameters()).device

    @torch.inference_mode()
    def loss(self, batch: TokenBatch) -> Float[Tensor, ""]:
        """Mean negative log probability of the targets of a batch, nats per token."""
        return SoftmaxCrossEntropy().free(self.net.free(batch.inputs, None), batch.targets, None)

    @torch.inference_mode()
    def log_probs(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Log probabilities of the token after each place."""
        return self.net.free(ids.to(self.device), None).log_softmax(0).permute(1, 2, 0).cpu()

    @property
    def hidden_width(self) -> int:
        """Length of a last hidden state."""
        return self.config.model.d

    @torch.inference_mode()
    def advance_hidden(
        self, ids: Int[Tensor, "B T"], state: list[Any]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T V"], list[Any]]:
        """Last hidden states, log probabilities of the next token after each place, and the state after all."""
        *body, head = self.net
        x, after = ids.to(self.device), list[Any]()
        for layer, before in zip(body, state[:-1], strict=True):
            x, moved = layer.advance(x, before)
            after.append(moved)
        logits, moved = head.advance(x, state[-1])
        return x.permute(1, 2, 0).cpu(), logits.log_softmax(0).permute(1, 2, 0).cpu(), [*after, moved]

    def advance(self, ids: Int[Tensor, "B T"], state: list[Any]) -> tuple[Float[Tensor, "B T V"], list[Any]]:
        """Takes many tokens at once; returns the distribution after each of them."""
        _, log_probs, state = self.advance_hidden(ids, state)
        return log_probs, state

    @torch.inference_mode()
    def start(self, batch: int) -> list[Any]:
        """State before the first token."""
        return self.net.start(batch)

    @torch.inference_mode()
    def prefill(self, ids: Int[Tensor, "B T"], state: list[Any]) -> tuple[Float[Tensor, "B V"], list[Any]]:
        """Takes many tokens at once; returns the distribution after the last one."""
        *parts, last = ids.to(self.device).split(PREFILL, 1)
        for part in parts:
            _, state = self.net.advance(part, state)
        logits, state = self.net.advance(last, state)
        return logits[..., -1].log_softmax(0).T.cpu(), state

    @torch.inference_mode()
    def step(self, ids: Int[Tensor, " B"], state: list[Any]) -> tuple[Float[Tensor, "B V"], list[Any]]:
        """Takes one token a sequence; returns the distribution after it."""
        logits, state = self.net.step(ids.to(self.device), state)
        return logits.log_softmax(0).T.cpu(), state
