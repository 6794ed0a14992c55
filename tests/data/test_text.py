"""Texts that load, and texts that must be refused with a reason."""

from __future__ import annotations

import hashlib
import urllib.error
from pathlib import Path

import pytest

from holonomy.core.errors import DataError
from holonomy.data import text as module
from holonomy.data.splits import split_text
from holonomy.data.text import KNOWN_TEXTS, KnownText, load_text


def test_reference_text_needs_nothing() -> None:
    source = load_text("pydoc")
    assert len(source.text) > 300_000
    assert 'The "with" statement' in source.text
    assert source.text == load_text("pydoc").text


def test_files_are_read_exactly(tmp_path: Path) -> None:
    path = tmp_path / "a text.txt"
    path.write_bytes(b"\xef\xbb\xbfline\r\nna\xc3\xafve \xf0\x9f\x98\x80\n")
    assert load_text(str(path)).text == "line\r\nna\u00efve \U0001f600\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"ab\0cd", "binary.*byte 2"),
        (b"one\ntwo \xff three", r"0xff at offset 8 \(line 2\)"),
        (b"cut \xe2\x82", "0xe2 at offset 4"),
    ],
)
def test_what_is_not_text_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "odd.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        load_text(str(path))


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"did you mean `tinyshakespeare`"):
        load_text("tinyshakspeare")
    with pytest.raises(DataError, match="directory"):
        load_text(str(tmp_path))
    with pytest.raises(DataError, match="path"):
        load_text("a\0b")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A known text of five bytes, looked up in an empty directory."""
    entry = KnownText("five.txt", "https://example.invalid/five.txt", hashlib.sha256(b"12345").hexdigest())
    monkeypatch.setitem(KNOWN_TEXTS, "five", entry)
    monkeypatch.setenv("HOLONOMY_DATA", str(tmp_path))
    return tmp_path


def test_known_texts_are_checked_before_use(known: Path) -> None:
    (known / "five.txt").write_bytes(b"12345")
    assert load_text("five").text == "12345"
    (known / "five.txt").write_bytes(b"12346")
    with pytest.raises(DataError, match="sha256"):
        load_text("five")


def test_offline_names_url_path_and_variable(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(module.urllib.request, "urlopen", unreachable)
    with pytest.raises(DataError, match=r"example\.invalid.*HOLONOMY_DATA") as caught:
        load_text("five")
    assert str(known / "five.txt") in str(caught.value)


def test_downloads_are_stored_and_checked(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        def __init__(self, content: bytes) -> None:
            self.content = content

        def __enter__(self) -> Answer:
            return self

        def __exit__(self, *error: object) -> None:
            return None

        def read(self) -> bytes:
            return self.content

    monkeypatch.setattr(module.urllib.request, "urlopen", lambda url, timeout: Answer(b"12345"))
    assert load_text("five").text == "12345"
    assert [p.name for p in known.iterdir()] == ["five.txt"]


def test_split_shares() -> None:
    assert split_text("0123456789", 0.9) == ("012345678", "9")
    assert split_text("0123456789x", 0.9) == ("012345678", "9x")
