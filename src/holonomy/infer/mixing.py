"""Language models over one vocabulary as one: their distributions are added or multiplied, by what they said lately.

Weights follow the text by fixed share (Herbster & Warmuth 1998): with p_i the probability that member i gave to the
token that came, v_i <- (1 - share) v_i p_i / sum_j v_j p_j + share / M: no weight depends on the distant past. Shares
of several sizes are weighed the same way: a small one leaves little to a member that is never right. A gate turns
log v, and what the distributions give away themselves (their doubt, how sure they are of their first choice, the mass
they share), into weights; an even gate takes v as it is.

A geometric pool multiplies the members and their sum with exponents that the same clues decide (`infer.exponents`).
Shares and exponents are states, as hidden units are: they begin anew with every text, and no parameter moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import ConfigError, DataError
from holonomy.geometry.compiled import compiled
from holonomy.infer.exponents import multiplied
from holonomy.infer.language_model import LanguageModel, Tokenizer
from holonomy.models.holographic.metrics import Predictions, chained, judged
from holonomy.models.holographic.mixture import Gate

SHARES = (0.3, 0.03)
"""Parts of the weights that are dealt out evenly after each token."""
EXCHANGE = 0.01
"""The same for the weights of the shares."""
REACH = 3072
"""Tokens of a prompt that weights look back on: the memory of exponents. Shares forget within a thousand."""
Pooling = Literal["linear", "geometric"]
SMALLEST = -87.0
"""Log probability below which float32 has no number."""


@lru_cache(maxsize=1)
def share_kernel() -> Any:
    """`follow(own, weights, shares, exchange, out)`: weights before each token, and after the last one in `weights`."""

    def follow(own, weights, shares, exchange, out):
        # own[b, t, i]: log probability of token t from member i; weights[b, k, i]: of share k and member i together.
        rows, length, members = own.shape
        kinds = len(shares)
        mass = np.empty(kinds)
        for b in range(rows):
            for t in range(length):
                top = own[b, t].max()
                for i in range(members):
                    out[b, t, i] = weights[b, :, i].sum()
                    weights[b, :, i] *= np.exp(own[b, t, i] - top)
                for k in range(kinds):
                    mass[k] = weights[b, k].sum()
                total = mass.sum()
                for k in range(kinds):
                    kept = (1 - exchange) * mass[k] / total + exchange / kinds
                    for i in range(members):
                        own_share = weights[b, k, i] / mass[k]
                        weights[b, k, i] = kept * ((1 - shares[k]) * own_share + shares[k] / members)

    return compiled(follow)


def num_clues(members: int) -> int:
    """How many numbers `clues` gives for so many members."""
    return 1 + 3 * members + members * (members - 1) // 2


def clues(logs: Float[Tensor, "B M V"], weights: Float[Tensor, "B M"]) -> np.ndarray:
    """One; log weight, entropy and largest log probability of each member; mass that each two share; [B, d] float64."""
    probs = logs.exp()
    entropy = -(probs * logs).sum(2)
    shared = [torch.minimum(probs[:, i], probs[:, j]).sum(1) for i, j in combinations(range(logs.shape[1]), 2)]
    columns = [torch.ones(len(logs), 1), weights.log(), entropy, logs.max(2).values, *(s[:, None] for s in shared)]
    return torch.cat(columns, 1).double().numpy()


def even_gate(members: int) -> Gate:
    """The gate that takes the weights as they are."""
    size = num_clues(members)
    scores = np.zeros((size, members))
    scores[1 : 1 + members] = np.eye(members)
    return Gate(np.zeros(size), np.ones(size), scores)


@dataclass
class Joint:
    """State of a mixture.

    Attributes:
        states: of the members.
        weights: of shares and members, [B, shares, M] float64; v is their sum over shares.
        moved: W of a pool, [B, d, C].
        curvature: H of a pool, [B, d C, d C].
        ahead: what the members expect next, [B, M, V]; None before the first token.
    """

    states: list[Any]
    weights: np.ndarray
    moved: np.ndarray
    curvature: np.ndarray
    ahead: Tensor | None = None


@dataclass(frozen=True)
class Panel:
    """What members say before the tokens of a block.

    Attributes:
        logs: log probabilities, [n, M, V].
        weights: v, [n, M].
        said: log probabilities of the mixture, [n, V].
        targets: the tokens, [n].
    """

    logs: Tensor
    weights: Tensor
    said: Tensor
    targets: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """What decides the weights."""
        return clues(self.logs, self.weights)

    @property
    def own(self) -> np.ndarray:
        """Probability of each token from each member, [n, M] float64."""
        index = torch.from_numpy(self.targets)[:, None, None].expand(-1, self.logs.shape[1], 1)
        return self.logs.gather(2, index).squeeze(2).double().exp().numpy()


def fitted_gate(panels: Iterable[Panel], *, prior: float) -> Gate:
    """The gate that makes the tokens of a text most likely, which no member has learned.

    Args:
        panels: what they say about it.
        prior: pull of its weights, as of `Gate.fit`.

    Raises:
        DataError: there is no text.
    """
    found = [(panel.own, panel.numbers) for panel in panels]
    if not found:
        raise DataError("there is no text to fit the mixture on; name one with `--data`")
    own, numbers = zip(*found, strict=True)
    return Gate.fit(np.concatenate(own), np.concatenate(numbers), prior=prior)


class MixedModel:
    """Implements the `LanguageModel` protocol on members that read the same tokens.

    Args:
        members: language models over one vocabulary.
        gate: from clues to weights; None takes what fixed share gives.
        shares: of the weights, dealt out evenly after each token.
        pool: linear adds the members, geometric multiplies their sum with them.

    Raises:
        ConfigError: fewer than two members, vocabularies of different sizes, a share outside of (0, 1), or a pool that
            is none.
    """

    def __init__(
        self,
        members: Sequence[LanguageModel],
        gate: Gate | None = None,
        *,
        shares: Sequence[float] = SHARES,
        pool: Pooling = "linear",
    ) -> None:
        sizes = [m.tokenizer.vocab_size for m in members]
        if len(members) < 2 or len(set(sizes)) > 1:
            raise ConfigError(f"`members` have vocabularies of {sizes} tokens; wanted two or more of one size")
        if not shares or not all(0 < share < 1 for share in shares):
            raise ConfigError(f"`shares` is {tuple(shares)}; wanted numbers between 0 and 1")
        if pool not in get_args(Pooling):
            raise ConfigError(f"`pool` is {pool!r}; wanted one of {', '.join(get_args(Pooling))}")
        self.members, self.shares = list(members), np.array(shares, dtype=np.float64)
        self.gate = gate or even_gate(len(members))
        self.pool: Pooling = pool

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of all members."""
        return self.members[0].tokenizer

    @property
    def context_limit(self) -> int | None:
        """The largest of the members' limits, if all have one."""
        limits = [m.context_limit for m in self.members]
        return None if None in limits else max(limit for limit in limits if limit is not None)

    def start(self, batch: int) -> Joint:
        """State before the first token: one of each member."""
        return self._joint([m.start(batch) for m in self.members], batch)

    def _joint(self, states: list[Any], batch: int) -> Joint:
        kinds, members = len(self.shares), len(self.members)
        weights = np.full((batch, kinds, members), 1 / (kinds * members))
        return Joint(states, weights, *self._exponents(batch))

    def _exponents(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        numbers, voices = num_clues(len(self.members)), len(self.members) + 1
        numbers = numbers if self.pool == "geometric" else 0
        return np.zeros((batch, numbers, voices)), np.zeros((batch, numbers * voices, numbers * voices))

    def _read(self, ids: Int[Tensor, "B T"], state: Joint) -> tuple[Tensor, Tensor, Tensor, Joint]:
        """What members say after each token, [B, T, M, V], the weights there, the mixture there, and the state."""
        found = [m.advance(ids, s) for m, s in zip(self.members, state.states, strict=True)]
        logs = torch.stack([said.clamp_min(SMALLEST) for said, _ in found], 2)
        # The place before the first token counts where it was reached before; that after the last one is open.
        places = logs if state.ahead is None else torch.cat([state.ahead[:, None], logs], 1)
        count = places.shape[1] - 1
        known = ids[:, ids.shape[1] - count :]
        index = known[:, :, None, None].expand(-1, -1, len(self.members), 1)
        own = places[:, :-1].gather(3, index).squeeze(3).double().numpy()
        shares, out = state.weights.copy(), np.empty(own.shape)
        share_kernel()(np.ascontiguousarray(own), shares, self.shares, EXCHANGE, out)
        weights = torch.from_numpy(np.concatenate([out, shares.sum(1)[:, None]], 1)).float()
        x = clues(places.flatten(0, 1), weights.flatten(0, 1))
        gated = torch.from_numpy(self.gate(x)).float().view(weights.shape)
        said = (places + gated.log()[..., None]).logsumexp(2).log_softmax(2)
        moved, curvature = state.moved.copy(), state.curvature.copy()
        if self.pool == "geometric":
            voices, x = torch.cat([places, said[:, :, None]], 2).numpy(), x.reshape(len(ids), count + 1, -1)
            said = torch.from_numpy(multiplied(voices, x, known.numpy(), moved, curvature))
        cut = slice(count + 1 - ids.shape[1], None)
        state = Joint([s for _, s in found], shares, moved, curvature, logs[:, -1])
        return logs, weights[:, cut], said[:, cut], state

    def advance(self, ids: Int[Tensor, "B T"], state: Joint) -> tuple[Float[Tensor, "B T V"], Joint]:
        """Takes many tokens at once; returns the distribution after each of them."""
        return self._read(ids, state)[2:]

    def log_probs(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Log probabilities of the token after each place."""
        return self.advance(ids, self.start(len(ids)))[0]

    def prefill(self, ids: Int[Tensor, "B T"], state: Joint) -> tuple[Float[Tensor, "B V"], Joint]:
        """Takes many tokens at once; returns the distribution after the last one."""
        if ids.shape[1] > REACH:
            early, ids = ids[:, :-REACH], ids[:, -REACH:]
            states = [m.prefill(early, s)[1] for m, s in zip(self.members, state.states, strict=True)]
            state = self._joint(states, len(ids))
        logs, state = self.advance(ids, state)
        return logs[:, -1], state

    def step(self, ids: Int[Tensor, " B"], state: Joint) -> tuple[Float[Tensor, "B V"], Joint]:
        """Takes one token a sequence; returns the distribution after it."""
        logs, state = self.advance(ids[:, None], state)
        return logs[:, 0], state

    def panels(self, before: np.ndarray, tokens: np.ndarray, *, block: int) -> Iterator[Panel]:
        """What the members say about a text, block by block, each token after all that stand before it.

        Whoever asks may let members learn a block before asking for the next one.

        Args:
            before: tokens that stand before the text; not empty.
            tokens: the text.
            block: tokens of a block.

        Raises:
            DataError: nothing stands before the text.
        """
        if not len(before):
            raise DataError("`before` is empty; a first token cannot be predicted from nothing")
        state, last = self.start(1), before[-1:]
        if len(before) > 1:
            _, state = self.prefill(torch.from_numpy(before[:-1])[None], state)
            # Members may have learned what stands before: exponents found there would trust a network too much.
            state.moved, state.curvature = self._exponents(1)
        for begin in range(0, len(tokens), block):
            part = tokens[begin : begin + block]
            # A token is taken when it is asked what follows it: what was learned meanwhile counts.
            inputs = torch.from_numpy(np.concatenate([last, part[:-1]]))
            logs, weights, said, state = self._read(inputs[None], state)
            last = part[-1:]
            yield Panel(logs[0], weights[0], said[0], part)


def read_through(
    model: MixedModel,
    before: np.ndarray,
    tokens: np.ndarray,
    *,
    block: int,
    learn: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Predicts a text as one stream.

    Args:
        model: the mixture.
        before: tokens that stand before it.
        tokens: the text.
        block: tokens predicted before `learn` is told.
        learn: told the first place of each block that was predicted, and the one behind it.
    """
    parts, at = list[Predictions](), 0
    for panel in model.panels(before, tokens, block=block):
        parts.append(judged(panel.said, panel.targets))
        if learn is not None:
            learn(at, at + len(panel.targets))
        at += len(panel.targets)
    return chained(parts)
