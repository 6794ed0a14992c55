"""Token ids on disk, read through the memory map: documents end to end, their bounds beside them.

A store is a directory with `tokens.bin` (little-endian uint16 or uint32), `bounds.bin` (uint64, one more than
documents), `tokenizer.json`, and `store.json` with sizes and sha256 of the others. It is written under another name
and renamed, so that half a store never stands under its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from holonomy.core.errors import DataError, StorageError

TOKENS, BOUNDS, TOKENIZER, INDEX = "tokens.bin", "bounds.bin", "tokenizer.json", "store.json"
SCHEMA = 1
HASH_BYTES = 2**20


@dataclass(frozen=True)
class TokenStore:
    """An open store.

    Attributes:
        path: its directory.
        tokens: all ids, memory-mapped, [n] uint16 or uint32.
        bounds: where documents begin, and the end of the last, [documents + 1] uint64.
        tokenizer_json: the stored tokenizer.
        vocab_size: number of token ids.
        digest: sha256 of the tokens.
    """

    path: Path
    tokens: np.ndarray
    bounds: np.ndarray
    tokenizer_json: str
    vocab_size: int
    digest: str

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def document(self, number: int) -> np.ndarray:
        """Ids of one document, int64.

        Raises:
            DataError: there is no such document.
        """
        if not 0 <= number < len(self):
            raise DataError(f"`number` is {number}; `{self.path}` has documents 0 to {len(self) - 1}")
        begin, end = int(self.bounds[number]), int(self.bounds[number + 1])
        return self.tokens[begin:end].astype(np.int64)

    def documents(self) -> Iterator[np.ndarray]:
        """All documents in order."""
        for number in range(len(self)):
            yield self.document(number)


def is_store(path: Path) -> bool:
    """Whether a path looks like a store."""
    return (path / INDEX).is_file()


def write_store(path: Path, documents: Iterable[np.ndarray], *, vocab_size: int, tokenizer_json: str) -> TokenStore:
    """Writes token ids document by document, in memory for one of them.

    Args:
        path: the directory to make.
        documents: ids of each document; empty ones are kept.
        vocab_size: number of token ids; up to 65,536 take two bytes each.
        tokenizer_json: text that gives the tokenizer back.

    Raises:
        DataError: the directory exists, an id is out of range, or there is no token at all.
        StorageError: no space or no permission; nothing of the store is left.
    """
    if path.exists():
        raise DataError(f"`{path}` exists already; remove it, or choose another name")
    temporary = path.with_name(f".writing-{path.name}-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        _write_files(temporary, documents, vocab_size, tokenizer_json)
        os.rename(temporary, path)
    except OSError as error:
        raise StorageError(f"cannot write the token store `{path}`: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_store(path)


def _write_files(directory: Path, documents: Iterable[np.ndarray], vocab_size: int, tokenizer_json: str) -> None:
    kind, bounds = np.dtype("<u2" if vocab_size <= 2**16 else "<u4"), [0]
    with (directory / TOKENS).open("wb") as file:
        for ids in documents:
            array = np.asarray(ids)
            if array.size and not 0 <= int(array.min()) <= int(array.max()) < vocab_size:
                raise DataError(
                    f"document {len(bounds) - 1} has ids from {array.min()} to {array.max()}; "
                    f"`vocab_size` {vocab_size} allows 0 to {vocab_size - 1}"
                )
            file.write(array.astype(kind).tobytes())
            bounds.append(bounds[-1] + array.size)
        file.flush()
        os.fsync(file.fileno())
    if bounds[-1] == 0:
        raise DataError("`documents` hold no token at all; name data with text")
    (directory / BOUNDS).write_bytes(np.asarray(bounds, dtype="<u8").tobytes())
    (directory / TOKENIZER).write_text(tokenizer_json, encoding="utf-8")
    listed = {name: _sha256(directory / name) for name in (TOKENS, BOUNDS, TOKENIZER)}
    index = {"schema": SCHEMA, "dtype": kind.str, "tokens": bounds[-1], "documents": len(bounds) - 1}
    index |= {"vocab_size": vocab_size, "sha256": listed}
    (directory / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        sound = index["schema"] == SCHEMA and index["dtype"] in ("<u2", "<u4")
        sizes = {TOKENS: index["tokens"] * int(index["dtype"][2]), BOUNDS: (index["documents"] + 1) * 8}
        sound = sound and index["tokens"] > 0 and set(index["sha256"]) == {TOKENS, BOUNDS, TOKENIZER}
        sound = sound and isinstance(index["vocab_size"], int)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"`{path}` is not a token store ({error}); make one with `holonomy data prepare`") from error
    if not sound:
        raise DataError(f"`{path / INDEX}` does not describe a token store of schema {SCHEMA}")
    for name, size in sizes.items():
        found = (path / name).stat().st_size if (path / name).is_file() else -1
        if found != size:
            raise DataError(f"`{path / name}` has {max(found, 0):,} bytes, {INDEX} says {size:,}; make the store again")
    return index


def open_store(path: Path, *, verify: bool = False) -> TokenStore:
    """Opens a store; sizes are checked always, contents on demand.

    Args:
        path: its directory.
        verify: hash every file.

    Raises:
        DataError: it is not a store, is cut short, or, with `verify`, was changed; names the file.
    """
    index = _index(path)
    if verify:
        for name, wanted in index["sha256"].items():
            if _sha256(path / name) != wanted:
                raise DataError(f"`{path / name}` is damaged: its sha256 does not match; make the store again")
    # Copy on write: what reads it may treat it as an array of its own, the file stays as it is.
    tokens = np.memmap(path / TOKENS, dtype=index["dtype"], mode="c")
    bounds = np.fromfile(path / BOUNDS, dtype="<u8")
    if bounds[0] != 0 or bounds[-1] != len(tokens) or bool((np.diff(bounds.astype(np.int64)) < 0).any()):
        raise DataError(f"`{path / BOUNDS}` does not rise from 0 to {len(tokens):,}; make the store again")
    text = (path / TOKENIZER).read_text(encoding="utf-8")
    return TokenStore(path, tokens, bounds, text, index["vocab_size"], index["sha256"][TOKENS])
