"""Who is too unsure holds back, or takes the most probable token, and says so: on models whose doubt is a table."""

from __future__ import annotations

import math

import pytest
import torch

from holonomy.core.errors import ConfigError
from holonomy.data.tokenizer import CharTokenizer
from holonomy.infer.commitment import doubts, least_confidence
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session, Written, generate, generate_batch

LETTERS = "abcdef"
SIZE = len(LETTERS)


class Chain:
    """The next letter depends on the last one alone."""

    context_limit: int | None = None

    def __init__(self, table: torch.Tensor) -> None:
        self.tokenizer, self.table = CharTokenizer.from_text(LETTERS), table.log_softmax(1)

    def log_probs(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids]

    def start(self, batch: int) -> None:
        return None

    def prefill(self, ids: torch.Tensor, state: None) -> tuple[torch.Tensor, None]:
        return self.table[ids[:, -1]], None

    def advance(self, ids: torch.Tensor, state: None) -> tuple[torch.Tensor, None]:
        return self.table[ids], None

    def step(self, ids: torch.Tensor, state: None) -> tuple[torch.Tensor, None]:
        return self.table[ids], None


class Doubting(Chain):
    """Knows how sure it is after each letter, one as frequent as the others."""

    def confidence_bound(self, share: float) -> float:
        return float(torch.quantile(self.table.max(1).values.exp(), share))


def unsure_after_d() -> Doubting:
    """The alphabet, sure of every letter but of that after d, where e is twice as probable as any other."""
    table = 20 * torch.eye(SIZE).roll(1, 1)
    table[3] = torch.tensor([0.0, 0, 0, 0, math.log(2), 0])
    return Doubting(table)


def test_a_share_of_predictions_is_held_back() -> None:
    random = torch.Generator().manual_seed(1)
    model = Doubting(torch.randn(500, SIZE, generator=random) * torch.rand(500, 1, generator=random) * 5)
    held = torch.tensor([d is not None for d in doubts(model.table, least_confidence(model, Sampling(abstain=0.2)))])
    assert abs(held.sum() - 100) <= 1
    assert model.table[held].max() < model.table[~held].max(1).values.min()
    assert least_confidence(model, Sampling(abstain=0.2, least_prob=0.99)) == 0.99


def test_impossible_tokens_leave_the_entropy_a_number() -> None:
    told = doubts(torch.tensor([[0.5, 0.5, 0.0]]).log(), 0.9)[0]
    assert told is not None and told.endswith(f"the entropy is {math.log(2):.3g} nats")


def test_nobody_holds_back_unasked() -> None:
    assert doubts(unsure_after_d().table, least_confidence(unsure_after_d(), Sampling())) == [None] * SIZE


def test_nobody_commits_to_what_is_never_said() -> None:
    """Nine tenths for the unknown token, then the best has 0.06 of the 0.1 that can be said."""
    row = torch.tensor([[0.9, 0.06, 0.03, 0.01]], dtype=torch.float64).log()
    # -(0.6 ln 0.6 + 0.3 ln 0.3 + 0.1 ln 0.1)
    reason = "the most probable token has probability 0.6, below 0.7; the entropy is 0.898 nats"
    assert doubts(row, 0.7, (0,)) == [reason]
    assert doubts(row, 0.59, (0,)) == [None]
    assert doubts(row, 0.7) == [None]
    (reason,) = doubts(torch.tensor([[0.0, -torch.inf]]), 0.1, (0,))
    assert reason is not None and "probability 0, below" in reason


@pytest.mark.parametrize(("least", "written"), [(0.7, ""), (0.5, "bbb")])
def test_a_text_ends_where_only_the_unknown_token_is_sure(least: float, written: str) -> None:
    tokenizer = CharTokenizer.from_text(LETTERS, unk=True)
    probs = torch.full((tokenizer.vocab_size,), 0.01)
    probs[tokenizer.unknown_id], probs[1] = 0.9, 0.06
    model = Chain(probs.log().expand(len(probs), -1))
    model.tokenizer = tokenizer
    # What is left of a tenth: 0.06 of 0.11.
    session = Session(model, Sampling(temperature=0, least_prob=least), seed=1)
    session.feed("a")
    assert "".join(session.reply(max_tokens=3)) == written
    assert (session.last.doubt is not None) == (written == "")


@pytest.mark.parametrize("how", [{"abstain": 0.1}, {"least_prob": 0.5}])
def test_a_text_ends_where_the_model_is_unsure(how: dict[str, float]) -> None:
    session = Session(unsure_after_d(), Sampling(temperature=0, **how), seed=1)  # type: ignore[arg-type]
    session.feed("a")
    assert "".join(session.reply(max_tokens=9)) == "bcd"
    assert session.last.doubt is not None and "probability 0.286, below" in session.last.doubt
    # One letter of 2 / 7 and five of 1 / 7 each.
    assert f"the entropy is {math.log(7) - 2 / 7 * math.log(2):.3g} nats" in session.last.doubt
    # What was said has been said, and the next turn begins anew.
    assert session.turns == [("user", "a"), ("model", "bcd")]
    session.feed("e")
    assert "".join(session.reply(max_tokens=3)) == "fab"
    assert session.last.doubt is None


def test_a_fallback_takes_the_most_probable_token_and_is_counted() -> None:
    hot = Sampling(temperature=1.0, least_prob=0.5, doubt="fallback")
    session = Session(unsure_after_d(), hot, seed=1)
    session.feed("a")
    assert "".join(session.reply(max_tokens=14)) == "bcdefabcdefabc"
    assert (session.last.doubt, session.last.fallbacks) == (None, 2)
    free = ["".join(generate(unsure_after_d(), "a", sampling=Sampling(1.0), max_tokens=14, seed=s)) for s in range(9)]
    assert any(text != "bcdefabcdefabc" for text in free)


@pytest.mark.parametrize("doubt", ["hold", "fallback"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batches_hold_back_as_each_alone(doubt: str, temperature: float) -> None:
    model, sampling = unsure_after_d(), Sampling(temperature, selector="inhibition", abstain=0.1, doubt=doubt)
    prompts, alone = ["a", "dd", "fed", "ab"], list[Written]()
    for n, prompt in enumerate(prompts):
        session = Session(model, sampling, seed=3 + n)
        session.feed(prompt)
        list(session.reply(max_tokens=12))
        alone.append(session.last)
    assert generate_batch(model, prompts, sampling=sampling, max_tokens=12, seed=3) == alone
    if doubt == "hold":
        assert [w.text for w in alone[1:3]] == ["", ""]
    else:
        assert all(w.fallbacks for w in alone)


def test_a_model_that_does_not_know_its_doubt_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="`abstain`.*least_prob"):
        Session(Chain(torch.zeros(SIZE, SIZE)), Sampling(abstain=0.2), seed=1)
    session = Session(Chain(torch.zeros(SIZE, SIZE)), Sampling(), seed=1)
    with pytest.raises(ConfigError, match="`abstain`"):
        session.set(abstain=0.2)
    assert session.sampling == Sampling()


@pytest.mark.parametrize(
    "wrong", [{"abstain": 1.0}, {"abstain": -0.1}, {"least_prob": 1.0}, {"doubt": "shrug"}, {"least_prob": math.nan}]
)
def test_wrong_bounds_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(wrong))}`"):
        Sampling(**wrong)  # type: ignore[arg-type]
