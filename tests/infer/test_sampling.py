"""Sampling against sorting by hand and against frequencies."""

from __future__ import annotations

import math

import pytest
import torch

from holonomy.core.errors import ConfigError
from holonomy.infer.sampling import Sampling, draw, sharpen

PROBS = torch.tensor([[0.5, 0.25, 0.15, 0.1]], dtype=torch.float64)


def kept(**options: float) -> list[float]:
    settings = {"temperature": 1.0, **options}
    return [round(p, 12) for p in sharpen(PROBS.log(), Sampling(**settings))[0].tolist()]  # type: ignore[arg-type]


def test_top_k_and_top_p_keep_the_most_probable() -> None:
    assert kept(top_k=2) == [round(2 / 3, 12), round(1 / 3, 12), 0, 0]
    assert kept(top_k=9) == kept(top_k=0) == [0.5, 0.25, 0.15, 0.1]
    assert kept(top_p=0.5) == [1, 0, 0, 0]
    assert kept(top_p=0.51) == [round(2 / 3, 12), round(1 / 3, 12), 0, 0]
    assert kept(top_p=1e-9) == [1, 0, 0, 0]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature_is_a_power(temperature: float) -> None:
    power = PROBS ** (1 / temperature)
    expected = power / power.sum()
    found = sharpen(PROBS.log(), Sampling(temperature=temperature))
    assert torch.allclose(found, expected, rtol=1e-12)


def test_zero_temperature_takes_the_most_probable() -> None:
    logits = torch.tensor([[-5.0, 1.0, 0.0], [3.0, 1.0, 0.0]]).log_softmax(1)
    sampling = Sampling(temperature=0)
    assert draw(logits, sampling, torch.Generator()).tolist() == [1, 0]
    assert sharpen(logits, sampling).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_frequencies_follow_the_probabilities() -> None:
    count = 20_000
    drawn = draw(PROBS.log().expand(count, 4), Sampling(temperature=1.0), torch.Generator().manual_seed(0))
    for token, p in enumerate(PROBS[0].tolist()):
        share = float((drawn == token).double().mean())
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / count)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"temperature": math.nan}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_wrong_values_name_the_argument(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
