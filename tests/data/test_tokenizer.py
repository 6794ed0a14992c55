"""Characters to ids and back, exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holonomy.core.errors import CheckpointError, DataError
from holonomy.data.tokenizer import UNKNOWN, CharTokenizer


@given(st.text(min_size=1))
def test_round_trip(text: str) -> None:
    tokenizer = CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    assert ids.tolist() == [sorted(set(text)).index(c) for c in text]
    assert tokenizer.decode(ids) == text
    again = CharTokenizer.from_json(tokenizer.to_json())
    assert again.symbols == tokenizer.symbols
    assert again.decode(again.encode(text)) == text


def test_ids_follow_sorted_characters() -> None:
    tokenizer = CharTokenizer.from_text("banana\n\0\U0001f600")
    assert tokenizer.symbols == ("\0", "\n", "a", "b", "n", "\U0001f600")
    assert tokenizer.encode("ab").tolist() == [2, 3]
    assert tokenizer.encode("").tolist() == []


def test_foreign_characters_are_named() -> None:
    tokenizer = CharTokenizer.from_text("abc\n")
    with pytest.raises(DataError, match=r"'z' \(U\+007A\), 'é' \(U\+00E9\);.*'z' at position 4 \(line 2\)") as caught:
        tokenizer.encode("abc\nzéz")
    assert "data.unk=true" in str(caught.value)
    assert tokenizer.unknown("zéz a") == {" ": 1, "z": 2, "é": 1}


def test_unknown_symbol_takes_foreign_characters() -> None:
    tokenizer = CharTokenizer.from_text("abc", unk=True)
    assert UNKNOWN in tokenizer.symbols
    assert tokenizer.decode(tokenizer.encode("azb")) == f"a{UNKNOWN}b"
    assert CharTokenizer.from_json(tokenizer.to_json()).unk


def test_a_lone_surrogate_is_an_error_not_a_crash() -> None:
    with pytest.raises(DataError, match="D800"):
        CharTokenizer.from_text("abc").encode("a\ud800")


@pytest.mark.parametrize("ids", [[-1], [3]])
def test_ids_outside_the_vocabulary(ids: list[int]) -> None:
    with pytest.raises(DataError, match="wanted 0 to 2"):
        CharTokenizer.from_text("abc").decode(np.array(ids))


@pytest.mark.parametrize(
    "stored",
    ["", "{}", "[1]", '{"kind":"char","unk":false,"symbols":"ba"}', '{"kind":"char","unk":true,"symbols":"ab"}',
     '{"kind":"word","unk":false,"symbols":"ab"}', '{"kind":"char","unk":false,"symbols":""}'],
)  # fmt: skip
def test_damaged_files_are_refused(stored: str) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        CharTokenizer.from_json(stored)


def test_empty_text_has_no_vocabulary() -> None:
    with pytest.raises(DataError, match="empty"):
        CharTokenizer.from_text("")


@pytest.mark.parametrize(("text", "opening"), [("a b\nc", "\n"), ("a b", " "), ("ba", "a")])
def test_speech_opens_with_a_character_that_is_known(text: str, opening: str) -> None:
    for unk in (False, True):
        tokenizer = CharTokenizer.from_text(text, unk=unk)
        assert tokenizer.decode(tokenizer.opening()) == opening
