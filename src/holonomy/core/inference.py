"""Defaults of generation and chat, the same for every language model. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from holonomy.core.config import Config


class InferConfig(Config):
    """Defaults of generation and chat."""

    temperature: float = Field(default=0.7, ge=0, le=100, description="0 takes the most probable token")
    top_k: int = Field(default=0, ge=0, description="keep the k most probable tokens; 0 keeps all")
    top_p: float = Field(default=1.0, gt=0, le=1, description="keep the most probable tokens up to this mass")
    gate: bool = Field(default=False, description="lower the temperature where the model is in doubt")
    selector: Literal["softmax", "gibbsmax"] = Field(
        default="softmax", description="gibbsmax makes tokens that were said lately cost `repetition`"
    )
    repetition: float = Field(default=0.5, gt=0, le=100, description="nats that a mention costs, for gibbsmax")
    max_tokens: int = Field(default=256, ge=1, le=10_000_000, description="tokens of one reply")
