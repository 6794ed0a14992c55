"""When a language model commits itself to a token, and when it had better not: none is probable enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.infer.language_model import LanguageModel
from holonomy.infer.sampling import Sampling, silenced


@runtime_checkable
class KnowsDoubt(Protocol):
    """A model that was told, on text it had not learned, how sure it is how often."""

    def confidence_bound(self, share: float) -> float:
        """The highest probability that this share of its predictions does not reach."""
        ...


def least_confidence(model: LanguageModel, sampling: Sampling) -> float:
    """The probability that the most probable token must reach, or the model does not commit itself; 0 where it may.

    Raises:
        ConfigError: a share of predictions is to be held back, and nothing says how sure the model usually is.
    """
    if not sampling.abstain:
        return sampling.least_prob
    if not isinstance(model, KnowsDoubt):
        raise ConfigError(
            f"`abstain` is {sampling.abstain}, but only holographic runs know how rare which doubt is; "
            "set abstain to 0, and least_prob instead"
        )
    return max(sampling.least_prob, model.confidence_bound(sampling.abstain))


def doubts(log_probs: Float[Tensor, "B V"], least: float, unspoken: Sequence[int] = ()) -> list[str | None]:
    """Of each distribution, why a model does not commit itself; None where its most probable token reaches `least`.

    Probabilities are those that tokens are drawn with: of what can be said, without those `unspoken`.
    """
    if not least:
        return [None] * len(log_probs)
    logs = silenced(log_probs, unspoken)
    whole = logs.logsumexp(1, keepdim=True) if unspoken else 0.0
    # Where nothing that can be said has any probability, it is no number.
    probs = (logs - whole).exp().nan_to_num(0.0)
    told = zip(probs.max(1).values.tolist(), torch.special.entr(probs).sum(1).tolist(), strict=True)
    reason = "the most probable token has probability {:.3g}, below {:.3g}; the entropy is {:.3g} nats"
    return [reason.format(p, least, entropy) if p < least else None for p, entropy in told]
