"""Associative memory: what it recalls, when it speaks, and that it never reads the window it predicts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from holonomy.core.errors import ConfigError, DataError
from holonomy.data.tokenizer import CharTokenizer
from holonomy.infer.evaluation import stream_loss
from holonomy.infer.memory import AssociativeMemory, RecallingModel
from holonomy.models.lior.config import DataConfig, LiorConfig, ModelConfig
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.models.lior.model import build_network

WIDTH = 32


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def keys(count: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, WIDTH, generator=generator(seed)), dim=-1)


def filled(count: int, **options: object) -> tuple[AssociativeMemory, Tensor, Tensor]:
    memory = AssociativeMemory(WIDTH, **options)  # type: ignore[arg-type]
    states, tokens = keys(count), torch.randint(1000, (count,), generator=generator(1))
    memory.write(states, tokens)
    memory.commit()
    return memory, states, tokens


def test_noisy_keys_find_their_tokens() -> None:
    memory, states, tokens = filled(1000)
    other = keys(1000, seed=2)
    other = F.normalize(other - (other * states).sum(-1, keepdim=True) * states, dim=-1)
    noisy = 0.95 * states + (1 - 0.95**2) ** 0.5 * other
    found = memory.read(noisy)
    assert (found.tokens[:, 0] == tokens).double().mean() >= 0.99
    assert torch.allclose(found.weights.sum(-1), torch.ones(1000))
    assert torch.allclose(found.confidence, torch.full((1000,), 0.95 * 0.25 / 0.3), atol=0.02)


def test_nothing_is_read_before_the_window_ends() -> None:
    memory = AssociativeMemory(WIDTH)
    memory.write(keys(3), torch.tensor([1, 2, 3]))
    assert memory.read(keys(3)).weights.sum() == 0
    memory.commit()
    assert torch.equal(memory.read(keys(3)).tokens[:, 0], torch.tensor([1, 2, 3]))
    assert memory.read(-keys(1)).confidence == 0


def test_the_oldest_give_way() -> None:
    memory = AssociativeMemory(WIDTH, capacity=5, k=1)
    states = keys(13)
    for start in (0, 4, 8):
        memory.write(states[start : start + 4], torch.arange(start, start + 4))
        memory.commit()
    assert memory.read(states[7:12]).tokens.flatten().tolist() == [7, 8, 9, 10, 11]
    assert memory.read(states[6:7]).tokens.item() != 6
    memory.write(states, torch.arange(13))
    memory.commit()
    assert sorted(memory.tokens.tolist()) == [8, 9, 10, 11, 12]


def test_saved_memories_come_back_and_damage_is_named(tmp_path: Path) -> None:
    memory, states, _ = filled(300, capacity=400)
    memory.save(tmp_path / "m.safetensors")
    other = AssociativeMemory(WIDTH, capacity=400)
    other.load(tmp_path / "m.safetensors")
    assert torch.equal(other.keys, memory.keys)
    assert other.pointer == memory.pointer
    assert torch.equal(other.read(states).tokens, memory.read(states).tokens)
    content = load_file(tmp_path / "m.safetensors")
    content["keys"].view(torch.int32)[17, 3] ^= 1
    save_file(content, tmp_path / "bad.safetensors")
    with pytest.raises(DataError, match=r"damaged in row 17 \(1 rows"):
        other.load(tmp_path / "bad.safetensors")
    with pytest.raises(DataError, match="wanted"):
        AssociativeMemory(WIDTH, capacity=5).load(tmp_path / "m.safetensors")
    assert torch.equal(other.keys, memory.keys)


def test_consolidation_merges_what_is_the_same() -> None:
    memory = AssociativeMemory(WIDTH, capacity=50)
    states = keys(10)
    for _ in range(3):
        memory.write(states, torch.arange(10))
    memory.write(states, torch.arange(10, 20))
    memory.commit()
    before = memory.read(states)
    assert memory.consolidate() == 20
    assert len(memory) == 20
    found = memory.read(states)
    assert set(found.tokens[:, :2].flatten().tolist()) == set(range(20))
    assert torch.equal(before.confidence, found.confidence)


@pytest.mark.parametrize("most", [None, 0.4])
def test_amplitudes_are_squared_and_normalised(most: float | None) -> None:
    """The mixture by amplitudes, from the weights that the mixture by sums shows."""
    inner, ids = language_model(), tokens(60).repeat(3)[None]
    alone = inner.log_probs(ids).exp()
    plain = RecallingModel(inner, window=16, most=most)
    born = RecallingModel(inner, window=16, most=most, born=True).log_probs(ids).exp()
    found = dict[str, Tensor]()

    def noted(p: Tensor, m: Tensor, weight: Tensor) -> Tensor:
        found.setdefault("p", torch.empty(0, 10))
        for name, value in (("p", p), ("m", m), ("w", weight)):
            found[name] = torch.cat([found.get(name, value[:0]), value])
        return torch.lerp(p, m, weight).log()

    plain._mixed = noted  # type: ignore[method-assign]
    sums = plain.log_probs(ids).exp()
    p, m, w = (found[name] for name in ("p", "m", "w"))
    squares = ((1 - w) * p).sqrt().add((w * m).sqrt()).square()
    expected = squares / squares.sum(-1, keepdim=True)
    assert torch.allclose(born[0, -len(expected) :], expected, atol=1e-5)
    assert torch.allclose(born.sum(-1), torch.ones(1, 180), atol=1e-5)
    assert not torch.allclose(born, sums, atol=1e-3)
    # Before anything was committed there is the model alone.
    assert torch.allclose(born[0, :16], alone[0, :16], atol=1e-5)
    if most is not None:
        doubt = -(p * p.log()).sum(-1, keepdim=True) / torch.tensor(10.0).log()
        assert torch.allclose(w, most * doubt, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"), [({"capacity": 0}, "capacity"), ({"k": 0}, "capacity"), ({"threshold": 2.0}, "cosine")]
)
def test_refusals(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AssociativeMemory(WIDTH, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="as many"):
        AssociativeMemory(WIDTH).write(keys(2), torch.tensor([1]))
    for wrong in ({"window": 0}, {"share": 0.0}, {"prior": 1.0}, {"most": 0.0}):
        with pytest.raises(ConfigError, match="wanted"):
            RecallingModel(language_model(), **wrong)  # type: ignore[arg-type]


def language_model() -> LiorLanguageModel:
    tokenizer = CharTokenizer.from_text("abcdefghij")
    config = LiorConfig(
        model=ModelConfig(d=32, n_osc=32, hidden=32, heads=2, blocks=2, gamma_range=(0.1, 1.0)),
        data=DataConfig(seq_len=16),
    )
    net = build_network(config, vocab_size=10).requires_grad_(False)
    return LiorLanguageModel(net, tokenizer, config)


def tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randint(10, (count,), generator=generator(seed))


def test_distributions_are_normalised_and_chunks_do_not_matter() -> None:
    model = RecallingModel(language_model(), window=16)
    ids = torch.stack([tokens(100).repeat(2), tokens(200, seed=1)])
    whole = model.log_probs(ids)
    assert torch.allclose(whole.exp().sum(-1), torch.ones(2, 200), atol=1e-5)
    state, parts = model.start(2), []
    for part in ids.split([1, 30, 2, 67, 100], 1):
        found, state = model.advance(part, state)
        parts.append(found)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)
    state, ahead = model.start(2), None
    for t in range(60):
        ahead, state = model.step(ids[:, t], state)
    assert ahead is not None
    assert torch.allclose(ahead, whole[:, 59], atol=1e-4)


def test_a_window_is_predicted_without_itself() -> None:
    model = RecallingModel(language_model(), window=20)
    once = tokens(60)
    scrambled = once.clone()
    scrambled[45:] = tokens(15, seed=9)
    a, b = model.log_probs(once[None]), model.log_probs(scrambled[None])
    assert torch.equal(a[:, :45], b[:, :45])
    plain = model.model.advance_hidden(once[None], model.model.start(1))[1]  # type: ignore[attr-defined]
    assert torch.allclose(a[:, :20], plain[:, :20], atol=1e-5)
    assert not torch.allclose(a[:, 20:], plain[:, 20:])


def test_repetitions_are_recalled() -> None:
    inner = language_model()
    model = RecallingModel(inner, window=16)
    passage, between = tokens(300), tokens(100, seed=3)
    ids = torch.cat([passage, between, passage])

    def second(found: Tensor) -> float:
        return -float(found[0, 400:699].gather(-1, ids[401:, None]).mean())

    plain = second(inner.log_probs(ids[None]))
    assert second(model.log_probs(ids[None])) <= 0.5 * plain
    alone = torch.cat([between, tokens(600, seed=7)])
    loss, count = stream_loss(model, alone)
    without, _ = stream_loss(inner, alone)
    assert count == 699
    # Of noise nothing can be recalled: believing in it must cost little.
    assert loss <= without * 1.2


def test_streams_are_judged_token_by_token() -> None:
    model, ids = language_model(), tokens(1200)
    found = stream_loss(model, ids)
    log_probs = model.log_probs(ids[None])[0]
    assert abs(found[0] + float(log_probs[:-1].gather(-1, ids[1:, None]).double().mean())) < 1e-5
    with pytest.raises(DataError, match="1 tokens"):
        stream_loss(model, ids[:1])
