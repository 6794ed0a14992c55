"""Writing on: words that were just written are held back, and a model that is too unsure may abstain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.infer.language_model import LanguageModel
from holonomy.infer.sampling import Sampling, draw

GOLDEN_TEMPERATURE = (5**0.5 - 1) / 2
"""1 / phi: the kernel samples from q^phi, normalised."""


@dataclass(frozen=True)
class Style:
    """How tokens are chosen.

    Attributes:
        sampling: temperature and truncation.
        kernel: calibrated takes the temperature of `sampling`, phi that of the golden section.
        inhibition: how much is taken from the log probability of a token just written, fading with age.
        recent: tokens written that are held back.
        fade: time constant of their release, in tokens.
        banned: tokens that are never written.
        exempt: tokens that are not held back, such as punctuation.
        stop: token that ends a text, if any.

    Raises:
        ConfigError: a value is out of range.
    """

    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0, top_p=0.95))
    kernel: Literal["calibrated", "phi"] = "calibrated"
    inhibition: float = 0.96
    recent: int = 16
    fade: float = 3.0
    banned: tuple[int, ...] = ()
    exempt: tuple[int, ...] = ()
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.kernel not in ("calibrated", "phi"):
            raise ConfigError(f"`kernel` is {self.kernel!r}; wanted calibrated or phi")
        if self.sampling.selector != "softmax" or (self.sampling.gate and self.kernel == "phi"):
            raise ConfigError(
                "`sampling` has a selector besides softmax, or a gate beside the kernel phi; the style holds tokens "
                "back by `inhibition` and sets the temperature itself: drop them"
            )
        if self.inhibition < 0 or self.recent < 1 or not self.fade > 0:
            given = f"`inhibition` is {self.inhibition}, `recent` {self.recent}, `fade` {self.fade}"
            raise ConfigError(f"{given}; wanted 0 or more, 1 or more, above 0")

    @property
    def effective(self) -> Sampling:
        """Sampling with the temperature of the kernel."""
        if self.kernel == "calibrated":
            return self.sampling
        return Sampling(GOLDEN_TEMPERATURE, self.sampling.top_k, self.sampling.top_p)

    def inhibited(self, log_probs: Float[Tensor, "B V"], written: Sequence[Sequence[int]]) -> Float[Tensor, "B V"]:
        """Log probabilities without banned tokens, lower for tokens written lately; not normalised."""
        out = log_probs.clone()
        out[:, list(self.banned)] = -torch.inf
        for row, tokens in enumerate(written):
            for age, token in enumerate(reversed(tokens[-self.recent :])):
                if token not in self.exempt:
                    out[row, token] -= self.inhibition * float(np.exp(-age / self.fade))
        return out


@dataclass(frozen=True)
class Commitment:
    """When a model may speak.

    Attributes:
        largest_entropy: of the next token, in nats.
        least_prob: the most probable token must reach it.
    """

    largest_entropy: float = float("inf")
    least_prob: float = 0.0

    @classmethod
    def abstaining(cls, log_probs: Float[Tensor, "N V"], share: float = 0.2) -> Commitment:
        """The bound on entropy that would have held back this share of given predictions.

        Raises:
            ConfigError: the share is not in [0, 1), or there is no prediction.
        """
        if not 0 <= share < 1 or not len(log_probs):
            raise ConfigError(f"`share` is {share} of {len(log_probs)} predictions; wanted [0, 1) of one or more")
        return cls(float(np.quantile(entropy(log_probs).numpy(), 1 - share)))

    def holds(self, log_probs: Float[Tensor, " V"]) -> str | None:
        """Why nothing should be said, or None."""
        spread = float(entropy(log_probs[None]))
        if spread > self.largest_entropy:
            return f"entropy {spread:.2f} is above {self.largest_entropy:.2f}"
        highest = float(log_probs.max().exp())
        return f"probability {highest:.2f} is below {self.least_prob:.2f}" if highest < self.least_prob else None


@dataclass
class Written:
    """A text as it grew.

    Attributes:
        tokens: what was written after the prompt.
        held: why the model stopped before its end, or None.
    """

    tokens: list[int]
    held: str | None = None


def entropy(log_probs: Float[Tensor, "B V"]) -> Float[Tensor, " B"]:
    """Of each row, in nats."""
    return -(log_probs.exp() * log_probs).nan_to_num(0.0).sum(1)


def write(
    model: LanguageModel,
    prompts: Int[Tensor, "B T"],
    count: int,
    style: Style,
    *,
    seed: int = 0,
    commitment: Commitment | None = None,
) -> list[Written]:
    """Writes on after prompts; a row is the same alone and among others.

    Args:
        model: any language model.
        prompts: token ids, [B, T] int64.
        count: tokens to write at most.
        style: how they are chosen.
        seed: of each row.
        commitment: when to abstain instead; never by default.

    Raises:
        ConfigError: no prompt token or nothing to write.
    """
    if prompts.dim() != 2 or not prompts.numel() or count < 1:
        raise ConfigError(f"`prompts` has shape {tuple(prompts.shape)} and `count` is {count}; wanted a token and 1")
    generators = [torch.Generator().manual_seed(seed) for _ in range(len(prompts))]
    texts = [Written([]) for _ in range(len(prompts))]
    logs, state = model.prefill(prompts, model.start(len(prompts)))
    alive = [True] * len(prompts)
    for _ in range(count):
        shown = style.inhibited(logs, [t.tokens for t in texts])
        chosen = []
        for row, text in enumerate(texts):
            if alive[row] and commitment is not None:
                text.held = commitment.holds(logs[row])
                alive[row] = text.held is None
            token = int(draw(shown[row : row + 1].log_softmax(1), style.effective, generators[row]))
            if alive[row] and token == style.stop:
                alive[row] = False
            if alive[row]:
                text.tokens.append(token)
            chosen.append(token)
        if not any(alive):
            break
        logs, state = model.step(torch.tensor(chosen), state)
    return texts
