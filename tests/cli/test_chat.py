"""Chat: commands, mistakes and replies, on a model that counts letters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from holonomy.cli.chat import Talk
from holonomy.data.tokenizer import CharTokenizer
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session

LETTERS = "\nabcdefgh"


class Alphabet:
    """The next letter, always."""

    context_limit = None
    tokenizer = CharTokenizer.from_text(LETTERS)

    def log_probs(self, ids):
        return torch.nn.functional.one_hot((ids + 1) % len(LETTERS), len(LETTERS)).double().log()

    def start(self, batch):
        return None

    def prefill(self, ids, state):
        return self.log_probs(ids)[:, -1], state

    def step(self, ids, state):
        return self.log_probs(ids), state


@pytest.fixture
def talk() -> Talk:
    return Talk(Session(Alphabet(), Sampling(temperature=1.0), seed=1), max_tokens=12)


def said(talk: Talk, capsys: pytest.CaptureFixture[str], line: str) -> str:
    talk.take(line)
    return capsys.readouterr().out


def test_replies_continue_the_line(talk: Talk, capsys) -> None:
    assert said(talk, capsys, "abc") == "abcdefgh\nabc\n"
    assert talk.session.turns[0] == ("user", "abc\n")


def test_settings(talk: Talk, capsys) -> None:
    assert said(talk, capsys, "/set max_tokens=3") == "max_tokens is 3\n"
    assert said(talk, capsys, "a") == "abc\n"
    assert said(talk, capsys, "/set temperature = 0.5") == "temperature is 0.5\n"
    for line, words in (
        ("/set temperatur=1", "did you mean `temperature`"),
        ("/set temperature=warm", "not a number"),
        ("/set temperature=-1", "greater than or equal to 0"),
        ("/set max_tokens=0", "max_tokens"),
        ("/sett", "did you mean `/set`"),
        ("/save", "needs a file"),
        ("/load none.json", "not a saved session"),
        ("xyz", "'x'"),
    ):
        assert words in said(talk, capsys, line)
    assert talk.session.sampling.temperature == 0.5
    assert talk.max_tokens == 3


class Hesitant(Alphabet):
    """The next letter with probability 0.7."""

    def log_probs(self, ids):
        return (0.6625 * super().log_probs(ids).exp() + 0.3375 / len(LETTERS)).log()


def test_a_talk_says_when_it_holds_back(capsys) -> None:
    talk = Talk(Session(Hesitant(), Sampling(temperature=1.0), seed=1), max_tokens=12)
    for line, words in (
        ("/set abstain=0.2", "note: `abstain` is 0.2, but only holographic runs"),
        ("/set doubt=shrug", "'hold' or 'fallback'"),
        ("/set kernel=phi", "kernel is phi"),
        ("/set least_prob=0.9", "least_prob is 0.9"),
    ):
        assert words in said(talk, capsys, line)
    assert said(talk, capsys, "abc") == (
        "\nnote: the model holds back: the most probable token has probability 0.7, below 0.9; "
        "the entropy is 1.23 nats\n"
    )
    said(talk, capsys, "/set doubt=fallback")
    found = said(talk, capsys, "abc")
    assert "note: 12 token(s) are the most probable ones" in found and found.startswith("abcdefgh")
    assert "1 times held back, 12 tokens for want of certainty" in said(talk, capsys, "/stats")


def test_save_load_reset_stats_quit(talk: Talk, capsys, tmp_path: Path) -> None:
    said(talk, capsys, "abc")
    turns = list(talk.session.turns)
    said(talk, capsys, f"/save {tmp_path / 't.json'}")
    said(talk, capsys, "/reset")
    assert talk.session.turns == []
    said(talk, capsys, f"/load {tmp_path / 't.json'}")
    assert talk.session.turns == turns
    assert "2 turns" in said(talk, capsys, "/stats")
    assert "/reset" in said(talk, capsys, "/help")
    assert not talk.over
    said(talk, capsys, "/quit")
    assert talk.over


def test_interrupting_a_reply_keeps_the_session(talk: Talk, capsys, monkeypatch) -> None:
    steps = []

    def step(ids, state):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return talk.session.model.log_probs(ids), state

    monkeypatch.setattr(talk.session.model, "step", step)
    said(talk, capsys, "abc")
    monkeypatch.undo()
    assert len(said(talk, capsys, "abc")) > 5


def test_a_model_without_line_ends_talks(capsys) -> None:
    class Line(Hesitant):
        tokenizer = CharTokenizer.from_text("abcdefghi")

    talk = Talk(Session(Line(), Sampling(temperature=0.0), seed=1), max_tokens=5)
    assert said(talk, capsys, "abc") == "defgh\n"
    assert talk.session.turns[0] == ("user", "abc")
