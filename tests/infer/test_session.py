"""Sessions on a toy model whose next-token distribution is known: the next letter of the alphabet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError, DataError
from holonomy.data.tokenizer import CharTokenizer
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session, generate, generate_batch

LETTERS = "\nabcdefghijklmnopqrstuvwxyz"


class Alphabet:
    """After a letter comes the next one with probability 0.7, any other with equal shares of the rest."""

    context_limit: int | None = None

    def __init__(self) -> None:
        self.tokenizer = CharTokenizer.from_text(LETTERS)

    def log_probs(self, ids: Tensor) -> Tensor:
        size = len(LETTERS)
        probs = torch.full((*ids.shape, size), 0.3 / (size - 1), dtype=torch.float64)
        return probs.scatter_(-1, ((ids + 1) % size).unsqueeze(-1), 0.7).log()

    def start(self, batch: int) -> int:
        return 0

    def prefill(self, ids: Tensor, state: int) -> tuple[Tensor, int]:
        return self.log_probs(ids)[:, -1], state + ids.shape[1]

    def advance(self, ids: Tensor, state: int) -> tuple[Tensor, int]:
        return self.log_probs(ids), state + ids.shape[1]

    def step(self, ids: Tensor, state: int) -> tuple[Tensor, int]:
        return self.log_probs(ids), state + 1


GREEDY, WARM = Sampling(temperature=0), Sampling(temperature=1.0)


def said(model: Alphabet, prompt: str, sampling: Sampling = GREEDY, **options) -> str:
    settings = {"max_tokens": 10, "seed": 1, **options}
    return "".join(generate(model, prompt, sampling=sampling, **settings))


def test_greedy_reply_is_the_alphabet() -> None:
    assert said(Alphabet(), "xyzabc") == "defghijklm"
    assert said(Alphabet(), "") == "abcdefghij"


def test_stop_strings_end_the_reply_and_are_not_shown() -> None:
    assert said(Alphabet(), "a", stop=["efg", "zz"]) == "bcd"
    assert said(Alphabet(), "a", stop=["b"]) == ""
    assert said(Alphabet(), "a", stop=["nothing"]) == "bcdefghijk"


def test_equal_seeds_give_equal_text() -> None:
    model = Alphabet()
    texts = [said(model, "q", WARM, seed=seed, max_tokens=60) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    session = Session(model, WARM, seed=1)
    session.feed("q")
    assert "".join(session.reply(max_tokens=60)) == texts[0]


def test_saved_session_continues_exactly(tmp_path: Path) -> None:
    model, path = Alphabet(), tmp_path / "talk.json"
    session = Session(model, WARM, seed=5)
    session.feed("hello\n")
    first = "".join(session.reply(max_tokens=30))
    session.save(path)
    session.feed("again\n")
    expected = "".join(session.reply(max_tokens=30))
    other = Session(model, GREEDY, seed=9)
    other.load(path)
    assert other.turns == [("user", "hello\n"), ("model", first)]
    other.feed("again\n")
    assert "".join(other.reply(max_tokens=30)) == expected


def test_a_reply_left_early_has_been_said() -> None:
    session = Session(Alphabet(), GREEDY, seed=1)
    session.feed("a")
    reply = session.reply(max_tokens=100)
    pieces = [next(reply) for _ in range(3)]
    reply.close()  # type: ignore[attr-defined]
    assert pieces == ["b", "c", "d"]
    assert session.turns[-1] == ("model", "bcd")
    assert "".join(session.reply(max_tokens=2)) == "ef"


def test_reset_starts_again() -> None:
    session = Session(Alphabet(), WARM, seed=3)
    session.feed("k")
    before = "".join(session.reply(max_tokens=20))
    session.reset()
    assert session.turns == []
    session.feed("k")
    assert "".join(session.reply(max_tokens=20)) == before


@pytest.mark.parametrize("max_tokens", [0, -1, 10**9])
def test_absurd_lengths_are_refused(max_tokens: int) -> None:
    with pytest.raises(ConfigError, match="max_tokens"):
        said(Alphabet(), "a", max_tokens=max_tokens)


def test_unknown_characters_leave_the_session_as_it_was() -> None:
    session = Session(Alphabet(), GREEDY, seed=1)
    session.feed("a")
    with pytest.raises(DataError, match="é"):
        session.feed("bé")
    assert session.turns == [("user", "a")]
    assert "".join(session.reply(max_tokens=2)) == "bc"


def test_a_foreign_file_is_no_session(tmp_path: Path) -> None:
    session = Session(Alphabet(), GREEDY, seed=1)
    for name, content in {"a.json": "{}", "b.json": "not json", "c.json": '{"seed": 1}'}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=name):
            session.load(tmp_path / name)
    with pytest.raises(DataError, match=r"missing\.json"):
        session.load(tmp_path / "missing.json")


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(seed: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`seed` is"):
        Session(Alphabet(), GREEDY, seed=seed)
    session, file = Session(Alphabet(), GREEDY, seed=1), tmp_path / "talk.json"
    session.save(file)
    file.write_text(file.read_text().replace('"seed": 1,', f'"seed": {seed},'))
    with pytest.raises(DataError, match="not a saved session"):
        session.load(file)
    file.write_text('{"seed": 1e999, "turns": []}')
    with pytest.raises(DataError, match="not a saved session"):
        session.load(file)


def test_wrong_sampling_changes_nothing() -> None:
    session = Session(Alphabet(), WARM, seed=1)
    with pytest.raises(ConfigError, match="temperature"):
        session.set(temperature=-1)
    assert session.sampling == WARM
    session.set(temperature=0.5)
    assert session.sampling.temperature == 0.5


def test_batches_continue_each_prompt_as_alone() -> None:
    model, prompts = Alphabet(), ["abc", "x", "hello", "m", "foo"]
    found = generate_batch(model, prompts, sampling=WARM, max_tokens=20, seed=5)
    assert [w.text for w in found] == [said(model, p, WARM, max_tokens=20, seed=5 + n) for n, p in enumerate(prompts)]
    stop = ["def", "y"]
    lengths = [prompt * n for n, prompt in enumerate(["abc", "x", "hello", "m", "foo"], 1)] + ["a" * 90]
    found = generate_batch(model, lengths, sampling=WARM, max_tokens=20, seed=5, stop=stop)
    alone = [said(model, p, WARM, max_tokens=20, seed=5 + n, stop=stop) for n, p in enumerate(lengths)]
    assert [w.text for w in found] == alone
    found = generate_batch(model, ["ab", "lmno"], sampling=GREEDY, max_tokens=4, seed=0)
    assert [w.text for w in found] == ["cdef", "pqrs"]
    with pytest.raises(ConfigError, match="empty at place 1"):
        generate_batch(model, ["a", ""], sampling=WARM, max_tokens=2, seed=0)
    with pytest.raises(DataError, match="prompt 1 has characters"):
        generate_batch(model, ["a", "?"], sampling=WARM, max_tokens=2, seed=0)


def test_gibbsmax_avoids_what_was_said() -> None:
    shy = Sampling(temperature=0, selector="gibbsmax", repetition=50.0)
    assert sorted(said(Alphabet(), "a", shy, max_tokens=26)) == sorted(LETTERS.replace("a", ""))
    # The alphabet comes round to "a" again, which was said 26 tokens ago.
    assert said(Alphabet(), "a", max_tokens=27)[-1] == "a"
    assert said(Alphabet(), "a", shy, max_tokens=27)[-1] != "b"


def test_punctuation_is_free_unless_it_follows_itself() -> None:
    class Dots(Alphabet):
        """A dot with probability 0.7, whatever was before."""

        def __init__(self) -> None:
            self.tokenizer = CharTokenizer.from_text("\n.ab")

        def log_probs(self, ids: Tensor) -> Tensor:
            return torch.tensor([0.05, 0.7, 0.15, 0.1]).log().expand(*ids.shape, 4)

    shy = Sampling(temperature=0, selector="inhibition", inhibition=2.0)
    assert said(Dots(), "b", GREEDY, max_tokens=4) == "...."
    # The second one is free, and the third one would be the second that follows itself.
    assert said(Dots(), "b", shy, max_tokens=3) == "..a"


def test_inhibition_holds_back_what_the_model_wrote_alone(tmp_path: Path) -> None:
    shy = Sampling(temperature=0, selector="inhibition", inhibition=50.0)
    # The prompt may be said again, what was written may not, until it has faded.
    assert said(Alphabet(), "bcbcbcbca", shy, max_tokens=3) == "bcd"
    session = Session(Alphabet(), shy, seed=1)
    for _ in range(2):
        session.feed("a")
        list(session.reply(max_tokens=1))
    assert session.turns[1] == ("model", "b") and session.turns[3][1] != "b"
    session.save(tmp_path / "talk.json")
    again = Session(Alphabet(), GREEDY, seed=1)
    again.load(tmp_path / "talk.json")
    pieces = []
    for talk in (session, again):
        talk.feed("a")
        pieces.append("".join(talk.reply(max_tokens=5)))
    assert pieces[0] == pieces[1] and again.sampling == shy
