"""A field that moves with what is read: one by one as all at once, each sequence its own, saved with a conversation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.tape import Tape
from holonomy.data.tokenizer import CharTokenizer
from holonomy.infer.memory import RecallingModel
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session
from holonomy.models.lior.config import DataConfig, FieldConfig, LiorConfig, ModelConfig
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.models.lior.model import build_network
from holonomy.models.lior.moving import MovingField, field_of
from holonomy.nn.sites import FieldProbe

LETTERS = "\nabcdefghi"
DRIVEN = {"dissipative": {"eta": 2.0}, "symplectic": {"eta": 2.0}, "unitary": {}}


def model(dynamics: str = "dissipative", **options: object) -> LiorLanguageModel:
    """Two retrievals that read a field which moves far with every step."""
    field = {"size": (2, 3), "dim": 3, "dt": 0.5, "collapse_every": 4, **DRIVEN[dynamics], **options}
    config = LiorConfig(
        model=ModelConfig(d=32, n_osc=32, hidden=32, heads=2, pattern="omrmrm"),
        data=DataConfig(seq_len=16),
        field=FieldConfig(enabled=True, dynamics=dynamics, **field),  # type: ignore[arg-type]
    )
    net = build_network(config, vocab_size=len(LETTERS)).requires_grad_(False)
    return LiorLanguageModel(net, CharTokenizer.from_text(LETTERS), config)


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(len(LETTERS), shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pace", [1, 7])
@pytest.mark.parametrize("dynamics", DRIVEN)
def test_one_by_one_equals_the_whole(dynamics: str, pace: int) -> None:
    inner = model(dynamics)
    moving, ids = MovingField(inner, pace=pace), tokens(3, 50)
    whole = moving.log_probs(ids)
    assert (whole - inner.log_probs(ids)).abs().max() > 0.1, "the field does not matter"
    state, ones = moving.start(3), []
    for t in range(50):
        found, state = moving.step(ids[:, t], state)
        ones.append(found)
    assert (torch.stack(ones, 1) - whole).abs().max() <= 1e-5
    state, parts = moving.start(3), []
    for part in ids.split([1, 20, 3, 26], 1):
        found, state = moving.advance(part, state)
        parts.append(found)
    assert (torch.cat(parts, 1) - whole).abs().max() <= 1e-5
    assert (moving.log_probs(ids[1:2]) - whole[1:2]).abs().max() <= 1e-5, "sequences share a field"


def test_the_field_moves_as_it_does_after_updates() -> None:
    inner, ids = model(adaptive=True, collapse="hard"), tokens(1, 42)
    moving = MovingField(inner, pace=6)
    state, field = moving.start(1), field_of(inner.net)
    assert field is not None
    probe, before = FieldProbe(field), field.features().clone()
    for part in ids.split(6, 1):
        hidden, _, state = moving.advance_hidden(part, state)
        probe.free(hidden.permute(2, 0, 1), Tape())
        # Settles the network's own field, which the moving one is a copy of.
        probe.project()
    assert not torch.equal(field.features(), before)
    assert torch.allclose(state.fields[0].t, field.copy().t, atol=2e-5)
    assert state.fields[0].steps == 7


def test_nothing_is_read_from_what_follows_and_a_slow_field_stands_still() -> None:
    inner, ids = model(), tokens(2, 40)
    other = ids.clone()
    other[:, 25:] = tokens(2, 15, seed=5)
    moving = MovingField(inner, pace=4)
    assert torch.equal(moving.log_probs(ids)[:, :25], moving.log_probs(other)[:, :25])
    assert (MovingField(inner, pace=100).log_probs(ids) - inner.log_probs(ids)).abs().max() <= 1e-5
    assert torch.equal(moving.log_probs(ids), moving.log_probs(ids)), "reading moved the network's own field"


def test_a_saved_conversation_brings_its_field_back(tmp_path: Path) -> None:
    moving, warm = MovingField(model(collapse="hard"), pace=3), Sampling(temperature=1.0)
    session = Session(moving, warm, seed=4)
    session.feed("abcabc\n")
    "".join(session.reply(max_tokens=40))
    session.save(tmp_path / "talk.json")
    other = Session(moving, warm, seed=9)
    other.load(tmp_path / "talk.json")
    mine, theirs = session._state.fields[0].snapshot(), other._state.fields[0].snapshot()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert "".join(session.reply(max_tokens=40)) == "".join(other.reply(max_tokens=40))


def test_a_memory_goes_with_it() -> None:
    ids = tokens(1, 60).repeat(1, 3)
    moving = MovingField(model(), pace=10)
    both = RecallingModel(moving, window=16).log_probs(ids)
    assert torch.allclose(both.exp().sum(-1), torch.ones(1, 180), atol=1e-5)
    assert not torch.allclose(both[:, 120:], moving.log_probs(ids)[:, 120:], atol=1e-2)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="1 token or more"):
        MovingField(model(), pace=0)
    plain = LiorConfig(model=ModelConfig(d=16, n_osc=8, hidden=16, heads=2))
    net = build_network(plain, vocab_size=len(LETTERS))
    with pytest.raises(ConfigError, match=r"train one with field\.enabled=true"):
        MovingField(LiorLanguageModel(net, CharTokenizer.from_text(LETTERS), plain), pace=1)
