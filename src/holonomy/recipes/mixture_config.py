"""Configuration of mixtures of trained runs. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from holonomy.core.config import Config
from holonomy.core.inference import InferConfig


class MixedData(Config):
    """The text that a mixture is fitted and evaluated on."""

    source: str = Field(default="pydoc", min_length=1, description="known name or path of a UTF-8 text file")
    foreign: bool = Field(
        default=False, description="no member has learned any of it: its first part fits, the rest is held out"
    )
    share: float = Field(
        default=0.1, gt=0, lt=1, description="share of the training part, at its end (of a foreign text: at its start)"
    )


class MixingConfig(Config):
    """How the members become one."""

    pool: Literal["linear", "geometric"] = Field(
        default="geometric",
        description="linear: members are added; geometric: their sum is multiplied with powers of them that follow",
    )
    shares: tuple[float, ...] = Field(
        default=(0.3, 0.03), min_length=1, description="of the weights, dealt out evenly after each token"
    )
    prior: float = Field(default=30.0, gt=0, description="pull of the gate's weights towards no influence")
    parts: int = Field(default=4, ge=1, le=64, description="parts of that text, each predicted from all before it")
    reach: int = Field(default=4096, ge=1, description="tokens read before a text is predicted")
    block: int = Field(default=64, ge=1, description="tokens predicted before they are learned, where learning goes on")


class MixtureRunConfig(Config):
    """A mixture of runs; see `holonomy mix`."""

    version: Literal[1] = Field(default=1, description="of the names of these keys; see `holonomy config migrate`")
    family: Literal["mixture"] = Field(default="mixture", description="model family")
    members: tuple[str, ...] = Field(default=(), description="names of the runs that it was made of")
    model: MixingConfig = Field(default=MixingConfig(), description="members to one distribution")
    data: MixedData = Field(default=MixedData(), description="text")
    infer: InferConfig = Field(default=InferConfig(temperature=0.8), description="generation")
