"""Defaults of generation and chat, the same for every language model. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from holonomy.core.config import Config

COLDEST = 1e-6
"""Lowest temperature above zero: log probabilities divided by it are still numbers."""
MAX_TOKENS = 10_000_000
"""Largest reply that may be asked for: beyond it is a typing mistake, not a wish."""


class InferConfig(Config):
    """Defaults of generation and chat."""

    temperature: float = Field(default=0.7, ge=0, le=100, description="0 takes the most probable token")
    top_k: int = Field(default=0, ge=0, description="keep the k most probable tokens; 0 keeps all")
    top_p: float = Field(default=1.0, gt=0, le=1, description="keep the most probable tokens up to this mass")
    gate: bool = Field(default=False, description="lower the temperature where the model is in doubt")
    selector: Literal["softmax", "gibbsmax", "inhibition"] = Field(
        default="softmax",
        description="gibbsmax makes tokens that were said lately cost `repetition`, inhibition what was just written",
    )
    repetition: float = Field(default=0.5, gt=0, le=100, description="nats that a mention costs, for gibbsmax")
    inhibition: float = Field(default=0.96, gt=0, le=100, description="nats that the last token costs, for inhibition")
    kernel: Literal["calibrated", "phi"] = Field(
        default="calibrated", description="phi sets the temperature to that of the golden section, 0.618"
    )
    abstain: float = Field(
        default=0.0, ge=0, lt=1, description="share of predictions, the least sure ones, that are held back"
    )
    least_prob: float = Field(default=0.0, ge=0, lt=1, description="hold back where no token is as probable")
    doubt: Literal["hold", "fallback"] = Field(
        default="hold", description="hold ends a text where it is held back, fallback takes the most probable token"
    )
    max_tokens: int = Field(default=256, ge=1, le=MAX_TOKENS, description="tokens of one reply")

    @model_validator(mode="after")
    def _check(self) -> InferConfig:
        if 0 < self.temperature < COLDEST:
            raise ValueError(f"temperature = {self.temperature} is below {COLDEST:g}; wanted 0, or more than that")
        if self.kernel == "phi" and (self.gate or self.temperature == 0):
            raise ValueError("kernel phi has a temperature of its own; drop gate, or temperature 0")
        return self
