"""Associative memory beside a language model: what followed the states most like the present one.

Keys are unit vectors of the model's last hidden state, values the token that came next (Khandelwal et al. 2020 use a
Gaussian kernel and a fixed weight). With p the model's distribution, the memory's own is

    m = (1 - c) p + c sum_k softmax_k(cos_k / 0.02) onehot(token_k),    c = 0.95 max(0, (cos_max - 0.7) / 0.3),

and p' = (1 - w) p + w m. The weight w is the probability that the memory is the better of the two, by fixed share
(Herbster & Warmuth 1998): after each token w <- (1 - share) w m(token) / p'(token) + share prior. Or it follows the
entropy of p, w = most H(p) / ln V, which gains less (`benchmarks/memory.py`). `born` adds amplitudes instead of
probabilities, p' ~ (sqrt((1 - w) p) + sqrt(w m))^2, which favours what both expect. Writes are queued and committed at
the end of a window: nothing is read from the window that is being predicted.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from holonomy.core.errors import ConfigError, DataError
from holonomy.infer.language_model import Tokenizer
from holonomy.infer.sampling import bornmax

SHARPNESS = 0.02
"""Cosines this much smaller weigh e times less."""
RECOGNISED_FROM = 0.7
"""Cosine from which on memory is believed at all."""
MOST_BELIEVED = 0.95
"""Share of what was recalled in the memory's distribution where the state is the same: the rest keeps it positive."""
ALIKE = 0.98
"""Cosine beyond which two items with the same token are one."""


class Recall(NamedTuple):
    """What a memory has to say to some states.

    Attributes:
        tokens: what followed the most similar states, [n, k].
        weights: softmax of their cosines, zero below the threshold, [n, k].
        confidence: c, [n].
    """

    tokens: Int[Tensor, "n k"]
    weights: Float[Tensor, "n k"]
    confidence: Float[Tensor, " n"]


class AssociativeMemory:
    """The last `capacity` pairs of state and token, first in, first out.

    Args:
        width: length of a key.
        capacity: number of pairs.
        k: how many are read.
        threshold: cosine below which none is.

    Raises:
        ConfigError: a value is out of its range.
    """

    def __init__(self, width: int, *, capacity: int = 4096, k: int = 16, threshold: float = 0.3) -> None:
        if capacity < 1 or k < 1:
            raise ConfigError(f"`capacity` is {capacity} and `k` {k}; wanted 1 or more of both")
        if not -1 <= threshold <= 1:
            raise ConfigError(f"`threshold` is {threshold}; wanted a cosine, -1 to 1")
        self.capacity, self.k, self.threshold = capacity, min(k, capacity), threshold
        self.keys = torch.zeros(capacity, width)
        self.tokens = torch.zeros(capacity, dtype=torch.int64)
        self.pointer, self.size = 0, 0
        self._queue: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return self.size

    def write(self, states: Float[Tensor, "n d"], tokens: Int[Tensor, " n"]) -> None:
        """Queues pairs; `commit` makes them readable.

        Raises:
            ConfigError: lengths differ; nothing was queued.
        """
        if len(states) != len(tokens):
            raise ConfigError(f"`states` holds {len(states)} rows and `tokens` {len(tokens)}; wanted as many of both")
        self._queue.append((F.normalize(states, dim=-1).to(self.keys), tokens.to(self.tokens)))

    def commit(self) -> None:
        """Makes everything queued readable; the oldest pairs give way."""
        if not self._queue:
            return
        keys, tokens = (torch.cat(parts)[-self.capacity :] for parts in zip(*self._queue, strict=True))
        self._queue.clear()
        place = (self.pointer + torch.arange(len(tokens))) % self.capacity
        self.keys[place], self.tokens[place] = keys, tokens
        self.pointer = (self.pointer + len(tokens)) % self.capacity
        self.size = min(self.capacity, self.size + len(tokens))

    def read(self, states: Float[Tensor, "n d"]) -> Recall:
        """The k pairs with the largest cosine to each state; all weights are zero where none reaches the threshold."""
        if not self.size:
            nothing = states.new_zeros(len(states), self.k)
            return Recall(nothing.long(), nothing, nothing[:, 0])
        cosine = F.normalize(states, dim=-1).to(self.keys) @ self.keys[: self.size].T
        found, index = cosine.topk(min(self.k, self.size), -1)
        found = found.masked_fill(found < self.threshold, -torch.inf)
        weights = ((found - found[:, :1]) / SHARPNESS).softmax(-1).nan_to_num(0.0)
        confidence = ((found[:, 0] - RECOGNISED_FROM) / (1 - RECOGNISED_FROM)).clamp(0, 1) * MOST_BELIEVED
        return Recall(self.tokens[index], weights, confidence)

    def consolidate(self) -> int:
        """Merges pairs of nearly equal keys with the same token, keeps the newest; returns how many went."""
        order = (self.pointer - 1 - torch.arange(self.size)) % max(self.size, 1)
        keys, tokens = self.keys[order], self.tokens[order]
        alike = (keys @ keys.T > ALIKE) & (tokens[:, None] == tokens)
        alike = alike.tril(-1)
        kept = torch.ones(self.size, dtype=torch.bool)
        for n in torch.nonzero(alike.any(1)).flatten().tolist():
            kept[n] = not bool((alike[n] & kept).any())
        left = torch.nonzero(kept).flatten().flip(0)
        gone = self.size - len(left)
        self.size = len(left)
        self.keys[: self.size], self.tokens[: self.size] = keys[left], tokens[left]
        self.pointer = self.size % self.capacity
        return gone

    def _checksums(self) -> Tensor:
        rows = zip(self.keys[: self.size].numpy(), self.tokens[: self.size].numpy(), strict=True)
        return torch.tensor([zlib.crc32(key.tobytes() + token.tobytes()) for key, token in rows], dtype=torch.int64)

    def save(self, path: Path) -> None:
        """Writes the committed pairs with a checksum a row."""
        position = torch.tensor([self.pointer, self.size])
        content = {"keys": self.keys, "tokens": self.tokens, "position": position, "crc": self._checksums()}
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)

    def load(self, path: Path) -> None:
        """Reads pairs back, bit by bit.

        Raises:
            DataError: another size, or a row that is not what was written; this memory stays as it was.
        """
        try:
            found = load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"`{path}` cannot be read as a saved memory: {error}") from error
        if found["keys"].shape != self.keys.shape:
            raise DataError(f"`{path}` holds {tuple(found['keys'].shape)} keys; wanted {tuple(self.keys.shape)}")
        other = AssociativeMemory(self.keys.shape[1], capacity=self.capacity)
        other.keys, other.tokens = found["keys"], found["tokens"]
        other.pointer, other.size = found["position"].tolist()
        bad = torch.nonzero(other._checksums() != found["crc"]).flatten().tolist()
        if bad:
            raise DataError(f"`{path}` is damaged in row {bad[0]} ({len(bad)} rows in all); write the memory again")
        self.keys, self.tokens, self.pointer, self.size = other.keys, other.tokens, other.pointer, other.size
        self._queue.clear()


class HiddenStates(Protocol):
    """A language model that shows its last hidden states."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def hidden_width(self) -> int: ...

    def start(self, batch: int) -> Any: ...

    def advance_hidden(
        self, ids: Int[Tensor, "B T"], state: Any
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T V"], Any]:
        """Hidden states, log probabilities of the next token, and the state after."""
        ...


@dataclass
class _Trust:
    """Weight of a memory, and what both had expected of the token to come.

    Attributes:
        weight: w.
        ahead: distributions of memory and model for the next token, or None at the start.
    """

    weight: float
    ahead: tuple[Tensor, Tensor] | None = None


@dataclass
class _Memories:
    """State of a model with memory: one memory a sequence.

    Attributes:
        inner: state of the model.
        memories: one a sequence.
        trust: one a sequence.
        last: hidden state of the last token, whose next token is not known yet, [B, D].
        since: tokens since the last commit.
    """

    inner: Any
    memories: list[AssociativeMemory]
    trust: list[_Trust]
    last: Tensor | None = None
    since: int = 0


class RecallingModel:
    """A language model with a memory for what it has read; satisfies the `LanguageModel` protocol.

    Args:
        model: shows its hidden states.
        window: tokens that are read before they can be remembered.
        share: how fast the weight of the memory may change.
        prior: what the weight goes back to.
        most: largest weight, where it follows the entropy of the model instead; None is trust.
        born: mix by `bornmax` instead of a weighted sum.
        capacity, k, threshold: see `AssociativeMemory`.

    Raises:
        ConfigError: `window`, `share`, `prior` or `most` is out of its range.
    """

    context_limit: int | None = None

    def __init__(
        self,
        model: HiddenStates,
        *,
        window: int = 128,
        share: float = 0.1,
        prior: float = 0.3,
        most: float | None = None,
        born: bool = False,
        capacity: int = 4096,
        k: int = 16,
        threshold: float = 0.3,
    ) -> None:
        if window < 1:
            raise ConfigError(f"`window` is {window}; wanted 1 token or more")
        if not (0 < share <= 1 and 0 <= prior < 1):
            raise ConfigError(f"`share` is {share} and `prior` {prior}; wanted above 0 up to 1, and 0 up to below 1")
        if most is not None and not 0 < most <= 1:
            raise ConfigError(f"`most` is {most}; wanted above 0, up to 1")
        self.model, self.window, self.share, self.prior = model, window, share, prior
        self.most, self.born = most, born
        self.capacity, self.k, self.threshold = capacity, k, threshold

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.model.tokenizer

    def start(self, batch: int) -> _Memories:
        """The model at its start, with empty memories."""
        width = self.model.hidden_width
        sizes = {"capacity": self.capacity, "k": self.k, "threshold": self.threshold}
        memories = [AssociativeMemory(width, **sizes) for _ in range(batch)]
        return _Memories(self.model.start(batch), memories, [_Trust(self.prior) for _ in range(batch)])

    @torch.inference_mode()
    def log_probs(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Log probabilities of the token after each place, with what the sequence itself taught the memory."""
        return self.advance(ids, self.start(ids.shape[0]))[0]

    @torch.inference_mode()
    def prefill(self, ids: Int[Tensor, "B T"], state: _Memories) -> tuple[Float[Tensor, "B V"], _Memories]:
        """Takes many tokens; returns the distribution after the last one."""
        found, state = self.advance(ids, state)
        return found[:, -1], state

    def step(self, ids: Int[Tensor, " B"], state: _Memories) -> tuple[Float[Tensor, "B V"], _Memories]:
        """Takes one token a sequence; returns the distribution after it."""
        return self.prefill(ids[:, None], state)

    @torch.inference_mode()
    def advance(self, ids: Int[Tensor, "B T"], state: _Memories) -> tuple[Float[Tensor, "B T V"], _Memories]:
        """Takes many tokens at once; returns the distribution after each of them."""
        parts, done = [], 0
        while done < ids.shape[1]:
            part = ids[:, done : done + self.window - state.since]
            parts.append(self._part(part, state))
            done += part.shape[1]
        return torch.cat(parts, 1), state

    def _part(self, ids: Tensor, state: _Memories) -> Tensor:
        """Tokens of one window: predicted by what was committed before it."""
        hidden, log_probs, state.inner = self.model.advance_hidden(ids, state.inner)
        known = hidden[:, :-1] if state.last is None else torch.cat([state.last.unsqueeze(1), hidden[:, :-1]], 1)
        next_ids = ids[:, 1:] if state.last is None else ids
        rows = zip(state.memories, state.trust, hidden, log_probs, ids, strict=True)
        mixed = torch.stack([self._mix(*row) for row in rows])
        for memory, states, tokens in zip(state.memories, known, next_ids, strict=True):
            memory.write(states, tokens)
        state.last, state.since = hidden[:, -1], state.since + ids.shape[1]
        if state.since >= self.window:
            state.since = 0
            for memory in state.memories:
                memory.commit()
        return mixed

    def _mix(self, memory: AssociativeMemory, trust: _Trust, hidden: Tensor, log_probs: Tensor, ids: Tensor) -> Tensor:
        """Log probabilities after each of `ids`; each token first shows whom to trust with the next."""
        p = log_probs.exp()
        if not len(memory):
            return log_probs
        found = memory.read(hidden)
        recalled = torch.zeros_like(p).scatter_add_(-1, found.tokens, found.weights.to(p))
        m = torch.lerp(p, recalled, found.confidence.to(p).unsqueeze(-1))
        if self.most is not None:
            doubt = -torch.xlogy(p, p).sum(-1, keepdim=True) / math.log(max(p.shape[-1], 2))
            return self._mixed(p, m, self.most * doubt)
        before = (m[:1], p[:1]) if trust.ahead is None else trust.ahead
        expected = [
            torch.cat([old, new[:-1]]).gather(-1, ids[:, None]).flatten().tolist()
            for old, new in zip(before, (m, p), strict=True)
        ]
        weights = []
        for n, (by_memory, by_model) in enumerate(zip(*expected, strict=True)):
            if n or trust.ahead is not None:
                mine = trust.weight * by_memory
                posterior = mine / max(mine + (1 - trust.weight) * by_model, 1e-300)
                trust.weight = (1 - self.share) * posterior + self.share * self.prior
            weights.append(trust.weight)
        trust.ahead = (m[-1:], p[-1:])
        return self._mixed(p, m, torch.tensor(weights, dtype=p.dtype).unsqueeze(-1))

    def _mixed(self, p: Tensor, m: Tensor, weight: Tensor) -> Tensor:
        """Log of the mixture of model and memory, [n, V]."""
        if not self.born:
            return torch.lerp(p, m, weight).log()
        shares = torch.stack([1 - weight, weight]).squeeze(-1)
        return bornmax(torch.stack([p, m]).log(), shares, p.new_zeros(2)).log()
