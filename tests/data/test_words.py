"""Words as tokens against a plain loop, and the reference texts against their known sizes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.data.text import KNOWN_TEXTS, data_directory, load_text
from holonomy.data.words import UNKNOWN_ID, WordTokenizer, split_words

TEXT = 'The cat, the dog; "the" bird! Don\'t ask: why? The cat (again) sat.'


def test_tokens_follow_the_pattern_and_the_counts() -> None:
    tokenizer = WordTokenizer.train([TEXT, TEXT], min_count=2)
    words = re.findall(r"""[\w']+|[.,!?;:"]""", TEXT)
    order = sorted(Counter(words), key=lambda w: (-Counter(words)[w], w))
    assert list(tokenizer.symbols) == ["<unk>", "<pad>", *order]
    assert [tokenizer.symbols[i] for i in tokenizer.encode(TEXT)] == words


def test_small_vocabularies_keep_the_most_frequent_words() -> None:
    tokenizer = WordTokenizer.train(["b b b a a a c c d"], vocab_size=4, min_count=2)
    assert tokenizer.symbols == ("<unk>", "<pad>", "a", "b")
    assert tokenizer.encode("a c b").tolist() == [2, UNKNOWN_ID, 3]
    assert tokenizer.unknown("a c c x") == {"c": 2, "x": 1}


@given(st.lists(st.sampled_from(["a", "B", "it's", ".", ",", "!", "?", ";", ":", '"', "'"]), max_size=30))
def test_decoded_words_encode_to_themselves(words: list[str]) -> None:
    tokenizer = WordTokenizer(["a", "B", "it's", ".", ",", "!", "?", ";", ":", '"', "'"])
    ids = tokenizer.encode_words(words)
    assert tokenizer.encode(tokenizer.decode(ids)).tolist() == ids.tolist()


def test_decoding_spaces_words_as_a_writer_would() -> None:
    tokenizer = WordTokenizer.train([TEXT], min_count=1)
    assert tokenizer.decode(tokenizer.encode("The cat, the dog; why?")) == "The cat, the dog; why?"
    assert tokenizer.decode([1, 1, *tokenizer.encode("The dog").tolist()]) == "The dog"


def test_a_stored_tokenizer_is_the_same() -> None:
    tokenizer = WordTokenizer.train([TEXT], min_count=1)
    again = WordTokenizer.from_json(tokenizer.to_json())
    assert again.symbols == tokenizer.symbols and again.fingerprint == tokenizer.fingerprint
    assert WordTokenizer.train([TEXT], min_count=2).fingerprint != tokenizer.fingerprint
    # Token ids on disk, and runs, are of tokenizers that were stored before: their text stays as it was.
    stored = '{"kind": "word", "pattern": "a+|b+", "ends": false, "words": ["b", "a"]}'
    before = WordTokenizer.from_json(stored)
    assert before.fingerprint == hashlib.sha256(stored.encode()).hexdigest()
    assert before.encode("ab c").tolist() == [3, 2]
    ended = stored.replace("false", "true")
    for damaged in ("{", '{"kind": "char"}', tokenizer.to_json().replace('"cat"', '"dog"'), ended):
        with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
            WordTokenizer.from_json(damaged)


@pytest.mark.parametrize(
    ("call", "kind", "named"),
    [
        (lambda: WordTokenizer.train([], min_count=1), DataError, "documents"),
        (lambda: WordTokenizer.train(["a"], vocab_size=2), ConfigError, "vocab_size"),
        (lambda: WordTokenizer.train(["a"], pattern="("), ConfigError, "pattern"),
        (lambda: WordTokenizer.train(["a"], pattern="(a)b"), ConfigError, "pattern"),
        (lambda: split_words("one two", pattern="a*"), ConfigError, "pattern"),
        (lambda: WordTokenizer(["a", "a"]), ConfigError, "words"),
        (lambda: WordTokenizer(["a"]).decode([3]), DataError, "ids"),
        (lambda: split_words("one"), DataError, "text"),
        (lambda: split_words("one two", train_share=1.0), ConfigError, "train_share"),
    ],
)
def test_wrong_input_is_named(call, kind: type[Exception], named: str) -> None:
    with pytest.raises(kind, match=f"`{named}`"):
        call()


def test_the_reference_of_python_has_its_known_sizes() -> None:
    text = load_text("pydoc").text
    split = split_words(text)
    assert len(split.train) == int(0.9 * (len(split.train) + len(split.test)))
    assert np.bincount(split.train)[2:].min() >= 2
    if hashlib.sha256(text.encode()).hexdigest().startswith("71f2ff5d"):
        # CPython 3.11.7, the text of the reference figures.
        assert (len(split.train), len(split.test), split.tokenizer.vocab_size) == (75_002, 8_334, 2_889)
        assert np.allclose(split.unknown_shares, (0.0167, 0.0568), atol=5e-5)


def test_tinyshakespeare_has_its_known_sizes() -> None:
    if not (data_directory() / KNOWN_TEXTS["tinyshakespeare"].file).exists():
        pytest.skip("the text is not here")
    split = split_words(load_text("tinyshakespeare").text)
    assert (len(split.train), len(split.test), split.tokenizer.vocab_size) == (225_358, 25_040, 7_183)
    assert np.allclose(split.unknown_shares, (0.0290, 0.0720), atol=5e-5)
