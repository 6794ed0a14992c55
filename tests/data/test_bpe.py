"""Byte-pair encoding: nothing is lost, whatever the bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.data.bpe import SMALLEST, SPECIALS, BytePairTokenizer
from holonomy.data.text import load_text
from holonomy.data.tokenizer import CharTokenizer

TEXT = load_text("pydoc").text[:60_000]
TOKENIZER = BytePairTokenizer.from_text(TEXT, vocab_size=600)


def test_text_is_shortened_and_comes_back() -> None:
    ids = TOKENIZER.encode(TEXT)
    assert TOKENIZER.vocab_size == 600
    assert len(ids) < 0.6 * len(TEXT)
    assert TOKENIZER.decode(ids) == TEXT
    assert ids.min() >= len(SPECIALS)


@given(st.binary(max_size=300))
def test_all_bytes_come_back(content: bytes) -> None:
    ids = TOKENIZER.encode_bytes(content)
    assert TOKENIZER.decode_bytes(ids) == content
    assert not len(ids) or ids.min() >= len(SPECIALS)


@given(st.text(max_size=100))
def test_all_texts_come_back(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
    assert not TOKENIZER.unknown(text)


def test_every_byte_has_a_token() -> None:
    content = bytes(range(256)) * 2
    assert TOKENIZER.decode_bytes(TOKENIZER.encode_bytes(content)) == content
    bare = BytePairTokenizer.from_text("a", vocab_size=SMALLEST)
    assert bare.vocab_size == SMALLEST
    assert len(bare.encode_bytes(content)) == len(content)


def test_special_tokens_have_ids_but_no_text() -> None:
    assert TOKENIZER.symbols[: len(SPECIALS)] == SPECIALS
    spelled = "x <endoftext> y <pad>"
    ids = TOKENIZER.encode(spelled)
    assert ids.min() >= len(SPECIALS)
    assert TOKENIZER.decode(ids) == spelled
    assert TOKENIZER.decode([0, 1, 2]) == ""


def test_equal_texts_give_equal_tokenizers_and_stored_ones_come_back() -> None:
    again = BytePairTokenizer.from_text(TEXT, vocab_size=600)
    assert again.symbols == TOKENIZER.symbols
    stored = BytePairTokenizer.from_json(TOKENIZER.to_json())
    assert stored.encode(TEXT).tolist() == TOKENIZER.encode(TEXT).tolist()


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="262 or more"):
        BytePairTokenizer.from_text("abc", vocab_size=100)
    with pytest.raises(DataError, match="empty"):
        BytePairTokenizer.from_text("", vocab_size=300)
    with pytest.raises(DataError, match="wanted 0 to 599"):
        TOKENIZER.decode([600])
    with pytest.raises(CheckpointError, match="wanted bpe"):
        BytePairTokenizer.from_json(CharTokenizer.from_text("ab").to_json().replace("symbols", "definition"))
    for broken in ("{", "[]", '{"kind": "bpe"}', '{"kind": "bpe", "definition": "{}"}'):
        with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
            BytePairTokenizer.from_json(broken)
