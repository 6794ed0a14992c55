"""Texts as token stores, and what can be said about a text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from holonomy.data.relations import MAMMALS
from holonomy.data.splits import shared_documents
from holonomy.data.store import TokenStore, is_store, open_store, write_store
from holonomy.data.stream import SEPARATOR, DocumentFiles
from holonomy.data.text import KNOWN_TEXTS, data_directory, load_text
from holonomy.data.tokenizer import CharTokenizer


def _documents(source: str, field: str, skip_bad: bool) -> tuple[Callable[[], Iterator[str]], Callable[[], int]]:
    """A reader of the documents of a source, of which a plain text is one; and how many lines it has left out."""
    path = Path(source)
    if source == "pydoc" or source in KNOWN_TEXTS or (path.is_file() and not path.name.endswith((".jsonl", ".gz"))):
        text = load_text(source).text
        return lambda: iter([text]), lambda: 0
    files = DocumentFiles(path, field=field, skip_bad=skip_bad)
    return lambda: (document.rstrip("\n") + SEPARATOR for document, _ in files.read(None)), lambda: files.skipped


def prepare(
    source: str, out: Path, *, unk: bool = False, field: str = "text", skip_bad: bool = False
) -> tuple[TokenStore, int]:
    """Writes the characters of a source as a token store, reading it twice and holding one document at a time.

    Args:
        source: known name, text file, JSONL or gzipped file, or a folder of them.
        out: directory to make.
        unk: give the tokenizer a symbol for unknown characters.
        field: key of the text in JSON lines.
        skip_bad: leave bad lines out.

    Returns:
        The store, and how many lines were left out.

    Raises:
        DataError, StorageError: the source cannot be read, or the store not written.
    """
    read, left_out = _documents(source, field, skip_bad)
    symbols: set[str] = set()
    for document in read():
        symbols.update(document)
    lines = left_out()
    tokenizer = CharTokenizer.from_text("".join(sorted(symbols)), unk=unk)
    encoded = (tokenizer.encode(document) for document in read())
    return write_store(out, encoded, vocab_size=tokenizer.vocab_size, tokenizer_json=tokenizer.to_json()), lines


def describe(source: str) -> dict[str, str | int | float]:
    """Size, alphabet and digest of a text or a token store.

    Raises:
        DataError: it cannot be read.
    """
    if is_store(Path(source)):
        store = open_store(Path(source), verify=True)
        return {
            "source": source,
            "kind": "token store",
            "documents": len(store),
            "tokens": len(store.tokens),
            "vocabulary": store.vocab_size,
            "bytes_per_token": store.tokens.dtype.itemsize,
            "sha256": store.digest,
        }
    found = load_text(source)
    half = found.text[: len(found.text) // 2].split(SEPARATOR), found.text[len(found.text) // 2 :].split(SEPARATOR)
    codes = np.frombuffer(found.text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return {
        "source": source,
        "kind": "text",
        "origin": found.origin,
        "characters": len(codes),
        "distinct": len(np.unique(codes)),
        "lines": found.text.count("\n"),
        "paragraphs_of_the_second_half_seen_in_the_first": len(shared_documents(*half)),
        "sha256": hashlib.sha256(found.text.encode("utf-8", "surrogatepass")).hexdigest(),
    }


def known() -> list[dict[str, str | bool]]:
    """Data that can be asked for by name, and where they are looked for."""
    rows: list[dict[str, str | bool]] = [
        {"name": "pydoc", "where": "part of every Python", "present": True, "url": ""},
    ]
    for name, text in KNOWN_TEXTS.items():
        path = data_directory() / text.file
        rows.append({"name": name, "where": str(path), "present": path.is_file(), "url": text.url})
    path = data_directory() / f"{MAMMALS}.tsv"
    made = "holonomy data wordnet"
    rows.append({"name": MAMMALS, "where": str(path), "present": path.is_file(), "url": made})
    return rows
