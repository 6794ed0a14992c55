"""Token ids on disk: the same whoever makes them, made once, continued where they stopped, and never read damaged."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.data import cache
from holonomy.data.cache import CachedDocuments, cached_documents
from holonomy.data.splits import Sides
from holonomy.data.stream import DocumentFiles, DocumentStream
from holonomy.data.text import load_text
from holonomy.data.words import WordTokenizer

SIDES = Sides(held_out=0.1, apart=0.1, least=20)


def texts() -> list[str]:
    return [t for t in load_text("pydoc").text[:80_000].split("\n\n") if t.strip()]


@pytest.fixture(scope="module")
def tokenizer() -> WordTokenizer:
    return WordTokenizer.train(texts())


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "all.jsonl"
    bad = ['{"text": 3}\n', "not JSON\n"]
    path.write_text(
        "".join(json.dumps({"text": t}) + "\n" + (bad[n % 2] if n % 40 == 7 else "") for n, t in enumerate(texts()))
    )
    return path


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "PART_TOKENS", 2_000)
    monkeypatch.setattr(cache, "TASK", 16)


def made(path: Path, tokenizer: WordTokenizer, folder: Path, workers: int = 1) -> CachedDocuments:
    return cached_documents(DocumentFiles(path, skip_bad=True), tokenizer, folder, sides=SIDES, workers=workers)


def drawn(stream: DocumentStream) -> tuple[list, int]:
    """Documents of one round, and the bad lines of it."""
    found, left_out = list[object](), 0
    while True:
        document = stream.next()
        if stream.epoch:
            return found, left_out
        found.append(document)
        left_out = stream.left_out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_it_gives_what_the_texts_give(lines: Path, tokenizer: WordTokenizer, tmp_path: Path) -> None:
    files = DocumentFiles(lines, skip_bad=True)
    plain = DocumentStream(files, buffer=16, seed=3, keep=lambda t: SIDES(t) == "train")
    kept = DocumentStream(made(lines, tokenizer, tmp_path / "c"), buffer=16, seed=3)
    (wanted, bad), (found, left_out) = drawn(plain), drawn(kept)
    assert len(wanted) > 100 and len(wanted) == len(found)
    assert all(np.array_equal(tokenizer.encode(w), f) for w, f in zip(wanted, found, strict=True))
    assert left_out == bad > 5


@pytest.mark.parametrize("workers", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_any_number_of_processes_makes_the_same_bytes(
    workers: int, lines: Path, tokenizer: WordTokenizer, tmp_path: Path
) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    made(lines, tokenizer, one)
    made(lines, tokenizer, several, workers)
    assert len([n for n in contents(one) if n.endswith("tokens.bin")]) > 3
    assert contents(one) == contents(several)


def test_it_is_made_once(
    lines: Path, tokenizer: WordTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(lines, tokenizer, tmp_path / "c")

    def refused(*_: object) -> None:
        raise AssertionError("the texts were read again")

    monkeypatch.setattr(DocumentFiles, "read", refused)
    (lock,) = (tmp_path / "c").glob("*/lock")
    lock.unlink()
    before = contents(tmp_path / "c")
    again = made(lines, tokenizer, tmp_path / "c")
    assert contents(tmp_path / "c") == before, "a complete cache may lie where nobody can write"
    assert [p.digest for p in again.parts] == [p.digest for p in first.parts] and again.left_out == first.left_out


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_what_was_interrupted_goes_on_where_it_stopped(
    stop: int, lines: Path, tokenizer: WordTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holonomy.core import config

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    made(lines, tokenizer, whole)
    honest, listed = config.replace_text, list[str]()

    def failing(path: Path, text: str) -> None:
        listed.append(text)
        if len(listed) == stop:
            raise KeyboardInterrupt
        honest(path, text)

    monkeypatch.setattr(config, "replace_text", failing)
    with pytest.raises(KeyboardInterrupt):
        made(lines, tokenizer, cut)
    read, places = DocumentFiles.read, list[object]()

    def noticed(self: DocumentFiles, place: object):
        places.append(place)
        return read(self, place)

    monkeypatch.setattr(DocumentFiles, "read", noticed)
    made(lines, tokenizer, cut)
    assert contents(whole) == contents(cut)
    assert (places == [None]) == (stop == 1)


def test_other_bytes_words_or_parts_are_another_cache(lines: Path, tokenizer: WordTokenizer, tmp_path: Path) -> None:
    folder, packed = tmp_path / "c", tmp_path / "all.jsonl.gz"
    made(lines, tokenizer, folder)
    names = {p.name for p in folder.iterdir()}
    made(lines, tokenizer, folder)
    assert {p.name for p in folder.iterdir()} == names and len(names) == 1
    cached_documents(DocumentFiles(lines, skip_bad=True), tokenizer, folder, sides=Sides(0.2, 0.1, 20))
    made(lines, tokenizer.shortened(50), folder)
    lines.write_text(lines.read_text().replace("Python", "python", 1))
    made(lines, tokenizer, folder)
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    made(packed, tokenizer, folder)
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(lines, "b.jsonl")
    made(tmp_path / "all.zip", tokenizer, folder)
    assert len(list(folder.iterdir())) == 6


def test_parts_of_several_processes_make_the_whole(lines: Path, tokenizer: WordTokenizer, tmp_path: Path) -> None:
    whole = made(lines, tokenizer, tmp_path / "c")
    wanted = [ids.tolist() for ids, _ in whole.read(None)]
    for begin in (0, 5, len(whole)):
        found = {}
        for number in range(3):
            part = CachedDocuments(whole.parts, whole.left_out, (number, 3))
            found |= {after: ids.tolist() for ids, after in part.read(begin)}
        assert [found[n] for n in sorted(found)] == wanted[begin:]


@pytest.mark.parametrize("name", ["tokens.bin", "bounds.bin", "tokenizer.json", "store.json"])
def test_damage_is_named(name: str, lines: Path, tokenizer: WordTokenizer, tmp_path: Path) -> None:
    made(lines, tokenizer, tmp_path / "c")
    (part,) = (tmp_path / "c").glob("*/00001")
    raw = bytearray((part / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (part / name).write_bytes(raw)
    with pytest.raises(DataError, match=r"token cache .* is damaged: .*00001.*remove it, and it is made anew"):
        made(lines, tokenizer, tmp_path / "c")


def test_foreign_parts_and_lists_are_refused(lines: Path, tokenizer: WordTokenizer, tmp_path: Path) -> None:
    made(lines, tokenizer, tmp_path / "c")
    (path,) = (tmp_path / "c").iterdir()
    (path / "00000").rename(path / "x")
    (path / "00001").rename(path / "00000")
    (path / "x").rename(path / "00001")
    with pytest.raises(DataError, match="another part"):
        made(lines, tokenizer, tmp_path / "c")
    for text in ("[]", "{", "3", '{"schema": 1}', '{"schema": 2}', '{"schema": 2, "listed": {"page": 3}}'):
        (path / "cache.json").write_text(text)
        with pytest.raises(DataError, match="does not list a token cache"):
            made(lines, tokenizer, tmp_path / "c")


@pytest.mark.parametrize("complete", [True, False])
def test_a_list_that_was_changed_is_refused(
    complete: bool, lines: Path, tokenizer: WordTokenizer, tmp_path: Path
) -> None:
    made(lines, tokenizer, tmp_path / "c")
    (file,) = (tmp_path / "c").glob("*/cache.json")
    if not complete:
        listed = cache._Listed.read(file)
        listed.complete = False
        listed.write(file)
    raw = file.read_bytes()
    # Digits of the place and of the lines left out stand behind the digests of the parts.
    for at in range(raw.index(b'"place"'), len(raw)):
        if chr(raw[at]).isspace():
            continue
        file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(DataError, match="does not list a token cache"):
            made(lines, tokenizer, tmp_path / "c")


def test_mistakes_are_named(lines: Path, tokenizer: WordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`workers` is 0"):
        made(lines, tokenizer, tmp_path / "c", 0)
    whole = made(lines, tokenizer, tmp_path / "c")
    for place in (-1, len(whole) + 1, True, [0, 1]):
        with pytest.raises(CheckpointError, match="`place`"):
            next(whole.read(place))


def test_processes_that_read_words_do_without_torch() -> None:
    code = "import sys, holonomy.data.cache; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
