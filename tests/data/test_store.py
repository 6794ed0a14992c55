"""Token stores: exact round trips through the memory map, and damage that is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holonomy.core.errors import DataError
from holonomy.data.store import BOUNDS, INDEX, TOKENS, open_store, write_store

DOCUMENTS = [np.array([1, 2, 3]), np.array([], dtype=np.int64), np.array([0, 9])]


@pytest.mark.parametrize(("vocab_size", "kind"), [(10, "<u2"), (65_536, "<u2"), (65_537, "<u4"), (200_000, "<u4")])
def test_round_trip(tmp_path: Path, vocab_size: int, kind: str) -> None:
    documents = [*DOCUMENTS, np.array([vocab_size - 1])]
    write_store(tmp_path / "s", documents, vocab_size=vocab_size, tokenizer_json="{}")
    store = open_store(tmp_path / "s", verify=True)
    assert store.tokens.dtype == kind
    assert isinstance(store.tokens, np.memmap)
    assert len(store) == 4
    assert store.tokenizer_json == "{}"
    assert store.vocab_size == vocab_size
    for mine, found in zip(documents, store.documents(), strict=True):
        assert found.dtype == np.int64
        assert np.array_equal(mine, found)
    with pytest.raises(DataError, match="documents 0 to 3"):
        store.document(4)


@given(st.lists(st.lists(st.integers(0, 99), max_size=20), min_size=1, max_size=20).filter(any))
def test_any_documents_come_back(tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]]) -> None:
    path = tmp_path_factory.mktemp("stores") / "s"
    made = write_store(path, map(np.array, documents), vocab_size=100, tokenizer_json="")
    assert [d.tolist() for d in made.documents()] == documents
    assert sorted(p.name for p in path.parent.iterdir()) == ["s"]


def test_equal_tokens_have_equal_digests(tmp_path: Path) -> None:
    stores = [write_store(tmp_path / n, DOCUMENTS, vocab_size=10, tokenizer_json="") for n in "ab"]
    other = write_store(tmp_path / "c", DOCUMENTS[::-1], vocab_size=10, tokenizer_json="")
    assert stores[0].digest == stores[1].digest != other.digest


@pytest.mark.parametrize(
    ("documents", "words"),
    [([np.array([10])], "`vocab_size` 10 allows 0 to 9"), ([np.array([-1])], "from -1"), ([np.array([])], "no token")],
)
def test_what_cannot_be_stored_leaves_nothing(tmp_path: Path, documents: list[np.ndarray], words: str) -> None:
    with pytest.raises(DataError, match=words):
        write_store(tmp_path / "s", documents, vocab_size=10, tokenizer_json="")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_not_overwritten(tmp_path: Path) -> None:
    write_store(tmp_path / "s", DOCUMENTS, vocab_size=10, tokenizer_json="")
    with pytest.raises(DataError, match="exists already"):
        write_store(tmp_path / "s", DOCUMENTS, vocab_size=10, tokenizer_json="")


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_store(path, DOCUMENTS, vocab_size=10, tokenizer_json="")
    tokens, bounds = (path / TOKENS).read_bytes(), (path / BOUNDS).read_bytes()
    (path / TOKENS).write_bytes(tokens[:-1])
    with pytest.raises(DataError, match=r"tokens\.bin` has 9 bytes.*says 10"):
        open_store(path)
    (path / TOKENS).write_bytes(bytes([tokens[0] ^ 1]) + tokens[1:])
    open_store(path)
    with pytest.raises(DataError, match=r"tokens\.bin` is damaged"):
        open_store(path, verify=True)
    (path / TOKENS).write_bytes(tokens)
    (path / BOUNDS).write_bytes(bounds[8:16] + bounds[:8] + bounds[16:])
    with pytest.raises(DataError, match="does not rise"):
        open_store(path)
    index = json.loads((path / INDEX).read_text())
    (path / INDEX).write_text(json.dumps({**index, "schema": 2}))
    with pytest.raises(DataError, match="schema 1"):
        open_store(path)
    for sizes in ({}, {"vocab_size": "10"}):
        (path / INDEX).write_text(json.dumps({k: v for k, v in index.items() if k != "vocab_size"} | sizes))
        with pytest.raises(DataError, match="token store"):
            open_store(path)
    with pytest.raises(DataError, match="not a token store"):
        open_store(tmp_path)
