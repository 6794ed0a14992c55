"""The protocol behind generation, chat, evaluation and serving: one path for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from jaxtyping import Float, Int
from torch import Tensor


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def symbols(self) -> Sequence[str]:
        """What each id stands for."""
        ...

    @property
    def strict(self) -> bool:
        """Whether text with unknown symbols is refused; else they are read as one unknown symbol."""
        ...

    @property
    def unspoken(self) -> Sequence[int]:
        """Ids that stand for no text of their own, such as that of unknown words: they are read, and never drawn."""
        ...

    def encode(self, text: str) -> Any: ...

    def decode(self, ids: Any) -> str: ...

    def opening(self) -> Any:
        """Ids that a text may begin with where nothing else is given."""
        ...

    def decoder(self) -> Callable[[Any, bool], str]:
        """Decodes ids as they come, given whether they are the last; pieces chained give the text."""
        ...

    def unknown(self, text: str) -> dict[str, int]: ...


class LanguageModel(Protocol):
    """Next-token distributions, in parallel or token by token, always the same numbers.

    `prefill`, `advance` and `step` may overwrite the state they are given: go on with the one they return.

    Attributes:
        tokenizer: the tokenizer the model was trained with.
        context_limit: how many of the last tokens decide what comes next, or None where all do; a state takes more.
    """

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def context_limit(self) -> int | None: ...

    def log_probs(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Log probabilities of the token after each place, normalised over the vocabulary."""
        ...

    def start(self, batch: int) -> Any:
        """State before the first token."""
        ...

    def prefill(self, ids: Int[Tensor, "B T"], state: Any) -> tuple[Float[Tensor, "B V"], Any]:
        """Takes many tokens at once; returns the distribution after the last one."""
        ...

    def advance(self, ids: Int[Tensor, "B T"], state: Any) -> tuple[Float[Tensor, "B T V"], Any]:
        """Takes many tokens at once; returns the distribution after each of them."""
        ...

    def step(self, ids: Int[Tensor, " B"], state: Any) -> tuple[Float[Tensor, "B V"], Any]:
        """Takes one token a sequence; returns the distribution after it."""
        ...
