"""A lior language model whose tensor field moves with what is read, one field a sequence.

After every `pace` tokens the field of a sequence takes one step under the source of their last hidden states, the way
it does after an update while learning; retrieval then reads its sites anew. Inside these tokens it stands still: what
is predicted never depends on what follows, and tokens one by one, in pieces or all at once give the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.layer import EchoLayer
from holonomy.data.bpe import BytePairTokenizer
from holonomy.data.tokenizer import CharTokenizer
from holonomy.dynamics.tensor_field import TensorField
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.nn.attention import Attention
from holonomy.nn.containers import Chain, Residual
from holonomy.nn.sites import FieldSites, site_features


def field_of(net: EchoLayer) -> FieldSites | None:
    """The field beside a network, where there is one."""
    return next((m for m in net.modules() if isinstance(m, FieldSites)), None)


@dataclass
class _Driven:
    """State of a model whose field moves.

    Attributes:
        inner: state of the model.
        fields: one a sequence.
        sources: sum over the tokens since the last step, one a sequence.
        since: number of these tokens.
    """

    inner: list[Any]
    fields: list[TensorField]
    sources: list[Tensor]
    since: int = 0


class MovingField:
    """A language model with a field that is driven by what it reads; satisfies the `LanguageModel` protocol.

    Args:
        model: a model with a field.
        pace: tokens between two steps.

    Raises:
        ConfigError: the model has no field, or `pace` is below 1.
    """

    context_limit: int | None = None

    def __init__(self, model: LiorLanguageModel, *, pace: int) -> None:
        sites = field_of(model.net)
        if sites is None:
            raise ConfigError("this run has no tensor field that could move; train one with field.enabled=true")
        if pace < 1:
            raise ConfigError(f"`pace` is {pace}; wanted 1 token or more")
        self.model, self.sites, self.pace = model, sites, pace

    @property
    def tokenizer(self) -> CharTokenizer | BytePairTokenizer:
        """The model's tokenizer."""
        return self.model.tokenizer

    @property
    def hidden_width(self) -> int:
        """Length of a last hidden state."""
        return self.model.hidden_width

    def start(self, batch: int) -> _Driven:
        """The model at its start, and the field as training left it for each sequence."""
        fields = [self.sites.copy() for _ in range(batch)]
        return _Driven(self.model.start(batch), fields, self._nothing(batch))

    def _nothing(self, batch: int) -> list[Tensor]:
        dim = self.sites.options.dim
        sites = self.sites.features().shape[1]
        return [torch.zeros(sites, dim, dim, dtype=torch.complex64) for _ in range(batch)]

    @torch.inference_mode()
    def log_probs(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Log probabilities of the token after each place, with the field at rest before the first."""
        return self.advance(ids, self.start(ids.shape[0]))[0]

    @torch.inference_mode()
    def prefill(self, ids: Int[Tensor, "B T"], state: _Driven) -> tuple[Float[Tensor, "B V"], _Driven]:
        """Takes many tokens; returns the distribution after the last one."""
        found, state = self.advance(ids, state)
        return found[:, -1], state

    def step(self, ids: Int[Tensor, " B"], state: _Driven) -> tuple[Float[Tensor, "B V"], _Driven]:
        """Takes one token a sequence; returns the distribution after it."""
        return self.prefill(ids[:, None], state)

    def advance(self, ids: Int[Tensor, "B T"], state: _Driven) -> tuple[Float[Tensor, "B T V"], _Driven]:
        """Takes many tokens at once; returns the distribution after each of them."""
        _, log_probs, state = self.advance_hidden(ids, state)
        return log_probs, state

    @torch.inference_mode()
    def advance_hidden(
        self, ids: Int[Tensor, "B T"], state: _Driven
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T V"], _Driven]:
        """Last hidden states, log probabilities of the next token after each place, and the state after all."""
        hidden, log_probs, done = list[Tensor](), list[Tensor](), 0
        while done < ids.shape[1]:
            part = ids[:, done : done + self.pace - state.since]
            states, found, state.inner = self.model.advance_hidden(part, state.inner)
            self._follow(states, state)
            hidden.append(states)
            log_probs.append(found)
            done += part.shape[1]
        return torch.cat(hidden, 1), torch.cat(log_probs, 1), state

    def _follow(self, hidden: Float[Tensor, "B T D"], state: _Driven) -> None:
        """Adds to the sources; moves the fields where the pace is full."""
        book = self.sites.re_address.device
        state.sources = [
            old + self.sites.source_of(x.T.to(book)).cpu() for old, x in zip(state.sources, hidden, strict=True)
        ]
        state.since += hidden.shape[1]
        if state.since < self.pace:
            return
        for field, source in zip(state.fields, state.sources, strict=True):
            self.sites.drive(field, source / state.since)
        features = torch.stack([site_features(torch.view_as_real(field.t)) for field in state.fields], 1)
        state.inner = _reread(self.model.net, state.inner, features)
        state.sources, state.since = self._nothing(len(state.fields)), 0


def _reread(layer: EchoLayer, state: Any, features: Tensor) -> Any:
    """The state of a layer with the sites of moved fields wherever it holds them."""
    if isinstance(layer, Chain):
        return [_reread(inner, part, features) for inner, part in zip(layer, state, strict=True)]
    if isinstance(layer, Residual):
        return _reread(layer.layer, state, features)
    if isinstance(layer, Attention) and layer.sites is not None:
        return layer.reread(state, features)
    return state
