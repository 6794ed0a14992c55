"""A sleep shrinks the counts, costs little, and is undone where it costs more than allowed."""

from __future__ import annotations

import pytest
import torch

from holonomy.core.errors import ConfigError
from holonomy.data.text import load_text
from holonomy.data.words import split_words
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.sleep import sleep

CONFIG = {"tower": {"role": "off"}, "similarity": {"dim": 32}, "mixture": {"blocks": 2, "product_steps": 8}}


def test_a_sleep_pays_or_is_undone() -> None:
    split = split_words(" ".join(load_text("pydoc").text.split()[:20_000]))
    model = HolographicModel(HolographicConfig.model_validate(CONFIG), split.tokenizer)
    model.learn_text(split.train)
    model.fit(split.train)
    probe = split.test[None, :50]
    before = model.next_log_probs(probe)
    refused = sleep(model, split.train, split.test, least=50, lowest=3, bound=0.0)
    assert not refused.kept and refused.loss_after > refused.loss_before
    assert torch.equal(before, model.next_log_probs(probe))
    report = sleep(model, split.train, split.test, lowest=3, bound=0.1)
    assert report.kept and report.dropped > 1000
    assert report.bytes_after <= 0.7 * report.bytes_before
    assert not torch.equal(before, model.next_log_probs(probe))
    again = sleep(model, split.train, split.test, lowest=3, bound=0.1)
    assert again.kept and abs(again.loss_after / again.loss_before - 1) < 1e-3
    with pytest.raises(ConfigError, match="held_out"):
        sleep(model, split.train, split.test[:1])
