"""Where text comes from: the reference text of Python, known downloads, or a file."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from holonomy.core.errors import DataError
from holonomy.core.registry import nearest

logger = logging.getLogger(__name__)

DATA_VARIABLE = "HOLONOMY_DATA"
DOWNLOAD_TIMEOUT = 30.0
"""Seconds without an answer after which a download counts as failed."""


@dataclass(frozen=True)
class KnownText:
    """A text that can be asked for by name.

    Attributes:
        file: its file name in the data directory.
        url: where it is downloaded from.
        sha256: of the file, checked before every use.
    """

    file: str
    url: str
    sha256: str


KNOWN_TEXTS = {
    "tinyshakespeare": KnownText(
        "tinyshakespeare.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


@dataclass(frozen=True)
class TextSource:
    """A text and where it came from."""

    name: str
    text: str
    origin: str


def load_text(source: str) -> TextSource:
    """Loads `pydoc`, a known name, or a UTF-8 file.

    Raises:
        DataError: missing, unreadable, empty, binary or not UTF-8, a wrong hash, or no network.
    """
    if source == "pydoc":
        return TextSource(source, _python_reference(), "pydoc_data.topics of this Python")
    if source in KNOWN_TEXTS:
        path = known_file(source)
        return TextSource(source, read_text(path), str(path))
    return TextSource(Path(source).stem, read_text(Path(source)), source)


def _python_reference() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def data_directory() -> Path:
    """`$HOLONOMY_DATA`, or `~/.cache/holonomy/data`."""
    return Path(os.environ.get(DATA_VARIABLE) or Path.home() / ".cache" / "holonomy" / "data")


def known_file(name: str) -> Path:
    """The file of a known text, downloaded where it is missing.

    Raises:
        DataError: there is no network for that, or the file has another hash.
    """
    known = KNOWN_TEXTS[name]
    path = data_directory() / known.file
    if not path.exists():
        _download(known, path)
    found = hashlib.sha256(_read_bytes(path)).hexdigest()
    if found != known.sha256:
        raise DataError(
            f"`{name}`: {path} has sha256 {found[:12]}..., wanted {known.sha256[:12]}...; "
            "delete the file to download it again"
        )
    return path


def _download(known: KnownText, path: Path) -> None:
    logger.info("downloading %s", known.url)
    try:
        with urllib.request.urlopen(known.url, timeout=DOWNLOAD_TIMEOUT) as answer:
            content = answer.read()
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"{path} does not exist and {known.url} cannot be reached ({error}); put the file there, "
            f"or set {DATA_VARIABLE} to the directory that holds {known.file}"
        ) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        os.replace(file.name, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; set {DATA_VARIABLE} elsewhere") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        near = nearest(str(path), ["pydoc", *KNOWN_TEXTS])
        hint = f"did you mean `{near}`? " if near else ""
        raise DataError(
            f"`data` {path} does not exist; {hint}name a text file, or one of pydoc, {', '.join(KNOWN_TEXTS)}"
        ) from error
    except IsADirectoryError as error:
        raise DataError(f"`data` {path} is a directory; name a text file in it") from error
    except OSError as error:
        raise DataError(f"`data` {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"`data` {str(path)!r} is not a path: {error}") from error


def read_text(path: Path) -> str:
    """Reads a UTF-8 file exactly; only a leading byte-order mark is dropped.

    Raises:
        DataError: missing, unreadable, empty, binary (a NUL byte) or not UTF-8; names byte and line.
    """
    raw = _read_bytes(path)
    if not raw:
        raise DataError(f"`data` {path} is empty; name a file with text")
    nul = raw.find(b"\0")
    if nul >= 0:
        raise DataError(f"`data` {path} is binary (NUL at byte {nul}); name a UTF-8 text file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"`data` {path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start} (line {line}); "
            f"convert it, for example with `iconv -f latin1 -t utf-8 {path}`"
        ) from error
