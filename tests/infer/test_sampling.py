"""Sampling against sorting by hand and against frequencies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from holonomy.core.errors import ConfigError
from holonomy.data.words import WordTokenizer
from holonomy.infer import sampling as sampling_module
from holonomy.infer.sampling import Recent, Sampling, bornmax, draw, gated_temperature, punctuation, sharpen
from holonomy.infer.session import Session, generate_batch
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.model import HolographicModel

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


@pytest.mark.parametrize("many", [sampling_module.MANY_TOKENS, 3])
def test_frequencies_follow_the_probabilities(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_module, "MANY_TOKENS", many)
    count = 20_000
    drawn = draw(PROBS.log().expand(count, 4), Sampling(temperature=1.0), torch.Generator().manual_seed(0))
    for token, p in enumerate(PROBS[0].tolist()):
        share = float((drawn == token).double().mean())
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / count)
    few = draw(PROBS.log().expand(count, 4), Sampling(temperature=1.0, top_k=2), torch.Generator().manual_seed(0))
    assert set(few.tolist()) == {0, 1}


@pytest.mark.parametrize("many", [100, 2])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_what_is_no_text_is_never_drawn(temperature: float, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_module, "MANY_TOKENS", many)
    log_probs = torch.tensor([0.6, 0.2, 0.15, 0.05]).log().expand(4000, 4)
    for gate in (False, True):
        drawn = draw(log_probs, Sampling(temperature, gate=gate), torch.Generator().manual_seed(0), unspoken=(0, 2))
        assert set(drawn.tolist()) == ({1} if temperature == 0 else {1, 3})
    free = draw(log_probs, Sampling(1.0), torch.Generator().manual_seed(0))
    rest = draw(log_probs, Sampling(1.0), torch.Generator().manual_seed(0), unspoken=(0, 2))
    assert set(free.tolist()) == {0, 1, 2, 3} and float((rest == 1).float().mean()) == pytest.approx(0.8, abs=0.03)


def test_models_of_words_never_say_that_they_know_none() -> None:
    tokenizer = WordTokenizer(["a", "b"])
    config = HolographicConfig.model_validate({"counts": {"skips": [], "classes": []}, "tower": {"role": "off"}})
    model = HolographicModel(config, tokenizer)
    model.learn_text(np.array([0, 0, 0, 2, 0, 0, 0, 3] * 200))
    assert float(model.next_log_probs(np.array([[2]]))[0].exp()[0]) > 0.15
    for temperature in (0.0, 1.0):
        session = Session(model, Sampling(temperature), seed=0)
        session.feed("a")
        alone = "".join(session.reply(max_tokens=20))
        many = generate_batch(model, ["a", "b a"], sampling=Sampling(temperature), max_tokens=20, seed=0)
        assert all(
            set(text.split()) <= {"a", "b"} and len(text.split()) == 20 for text in (alone, *(w.text for w in many))
        )


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"temperature": math.nan}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_wrong_values_name_the_argument(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]


def logits(count: int = 1000, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = 5 * torch.rand(count, 1, generator=generator)
    return (scale * torch.randn(count, 30, generator=generator, dtype=torch.float64)).log_softmax(1)


def entropy(p: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(p).sum(1)


def test_the_gate_sharpens_and_the_more_the_larger_the_doubt() -> None:
    z = logits()
    plain, gated = sharpen(z, Sampling(temperature=0.8)), sharpen(z, Sampling(temperature=0.8, gate=True))
    assert (entropy(gated) <= entropy(plain) + 1e-12).all()
    tau = gated_temperature(z, 0.8).squeeze(1)
    order = entropy(plain).argsort()
    assert (tau[order].diff() <= 1e-12).all()
    assert tau.min() >= 0.8 * 0.3
    assert torch.allclose(gated, (z / tau[:, None]).softmax(1), rtol=1e-12)


def test_gibbsmax_counts_and_without_a_past_is_softmax() -> None:
    z, sampling = logits(3), Sampling(temperature=1.0, selector="gibbsmax", repetition=0.5)
    assert torch.equal(sharpen(z, sampling, Recent.none(3)), sharpen(z, Sampling(temperature=1.0)))
    recent = torch.tensor([[1, 1, 2], [0, 0, 0], [4, 5, 4]])
    expected = z.clone()
    for row, tokens in enumerate(recent.tolist()):
        for token in tokens:
            expected[row, token] -= 0.5
    found = sharpen(z, sampling, Recent.none(3).take(recent))
    assert torch.allclose(found, expected.softmax(1), rtol=1e-12)


def test_inhibition_follows_its_formula() -> None:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 30, (4, 40), generator=generator)
    held = torch.rand(4, 40, generator=generator) < 0.6
    recent = Recent.none(4)
    for cut in (slice(0, 7), slice(7, 8), slice(8, 40)):
        recent = recent.take(ids[:, cut], held[:, cut])
    z, sampling = logits(4), Sampling(temperature=1.0, selector="inhibition", inhibition=0.7)
    expected = z.clone()
    for row in range(4):
        for age in range(16):
            if held[row, 39 - age]:
                expected[row, ids[row, 39 - age]] -= 0.7 * math.exp(-age / 3)
    torch.testing.assert_close(sharpen(z, sampling, recent), expected.softmax(1), rtol=1e-5, atol=1e-12)
    assert torch.equal(sharpen(z, sampling, Recent.none(4).take(ids)), sharpen(z, Sampling(temperature=1.0)))
    assert recent.ids.shape == (4, 40) and Recent.none(4).take(ids.repeat(1, 3)).ids.shape == (4, 64)


def test_punctuation_has_neither_letter_nor_digit() -> None:
    assert punctuation(["a", ".", "don't", "--", "\n", "7", "é", ""]).tolist() == [0, 1, 0, 1, 1, 0, 0, 1]


def test_the_golden_kernel_is_a_power() -> None:
    z, phi = logits(50), (1 + 5**0.5) / 2
    expected = z.exp().pow(phi) / z.exp().pow(phi).sum(1, keepdim=True)
    assert torch.allclose(sharpen(z, Sampling(temperature=2.0, kernel="phi")), expected, atol=1e-12)
    for wrong in ({"gate": True}, {"temperature": 0.0}):
        with pytest.raises(ConfigError, match="kernel phi has a temperature of its own"):
            Sampling(kernel="phi", **wrong)  # type: ignore[arg-type]


def test_bornmax_of_one_source_is_its_distribution_and_two_interfere() -> None:
    z = logits(20)
    one = torch.ones(1, 20, dtype=torch.float64)
    assert torch.allclose(bornmax(z[None], one, torch.zeros(1, dtype=torch.float64)), z.exp(), rtol=1e-12)
    single = torch.tensor([[[-5.0, 1.0, 0.0]]], dtype=torch.float64).log_softmax(-1)
    assert bornmax(single, one[:, :1], torch.zeros(1, dtype=torch.float64)).argmax() == 1
    pair = torch.tensor([[[0.5, 0.5, 0.0]], [[0.5, 0.0, 0.5]]], dtype=torch.float64).log()
    half = torch.full((2, 1), 0.5, dtype=torch.float64)
    agreed = bornmax(pair, half, torch.zeros(2, dtype=torch.float64))[0]
    # Amplitudes 1, 1/2, 1/2: both expect the first.
    assert torch.allclose(agreed, torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64) / 6)
    opposed = bornmax(pair, half, torch.tensor([0.0, torch.pi], dtype=torch.float64))[0]
    assert opposed[0] < 1e-12


@pytest.mark.parametrize(
    "wrong", [{"selector": "hardmax"}, {"repetition": 0.0}, {"inhibition": 0.0}, {"kernel": "psi"}]
)
def test_wrong_selectors_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(wrong))}`"):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_temperatures_and_shares_next_to_zero() -> None:
    z, first = logits(20).float(), logits(20).argmax(1)
    for sampling in (Sampling(temperature=1e-6), Sampling(temperature=1.0, top_p=1e-300)):
        probs = sharpen(z, sampling)
        assert torch.equal(probs.argmax(1), first)
        torch.testing.assert_close(probs.sum(1), torch.ones(len(z)))
        assert (probs.max(1).values > 0.999).all()
    for wrong in (1e-7, 1e-300, -1e-300):
        with pytest.raises(ConfigError, match="`temperature`"):
            Sampling(temperature=wrong)
