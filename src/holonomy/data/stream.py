"""Documents from files of any size, shuffled, and continued exactly where they were.

Shuffling is by blocks: `buffer` documents are read, put in an order that follows from seed, epoch and block, and
given out. So the state is a place in the files and three numbers, nothing is lost or repeated after a resume, and
every document comes once an epoch.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.core.learner import Json

LINE_LIMIT = 64 * 2**20
"""Longest line, bytes."""
PARAGRAPH_LIMIT = 2**20
"""Characters after which a text without empty lines is cut, at the end of a line."""
SEPARATOR = "\n\n"
"""Stands between documents where they are put end to end."""


D = TypeVar("D")
Out = TypeVar("Out", covariant=True)


class Documents(Protocol[Out]):
    """A sequence of documents, texts or their token ids, that can be read from a place on.

    Attributes:
        skipped: lines or rows that were left out so far, by all readings together.
    """

    skipped: int

    def read(self, place: Json) -> Iterator[tuple[Out, Json]]:
        """Documents from a place on, each with the place after it; None is the beginning."""
        ...


class DocumentFiles:
    """Documents of text and JSONL files, plain, gzipped, or in a zip archive.

    A text file is cut at empty lines, and where there are none into parts of a megabyte; a JSON line is a document with
    its text under `field`. Bad lines are an error that names file, line and byte, or are counted and left out.

    Args:
        path: a file, or a folder or archive whose files are read in the order of their names.
        field: key of the text in JSON lines.
        skip_bad: leave bad lines out instead.

    Raises:
        DataError: there is no such file, or no file in the folder.
    """

    SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")

    def __init__(self, path: Path, *, field: str = "text", skip_bad: bool = False) -> None:
        self.field, self.skip_bad, self.skipped = field, skip_bad, 0
        self.files: list[Path | zipfile.Path]
        if path.is_dir():
            self.files = [p for p in sorted(path.rglob("*")) if p.is_file() and p.name.endswith(self.SUFFIXES)]
        elif path.suffix == ".zip" and path.is_file():
            self.files = self._members(path)
        else:
            self.files = [path] if path.is_file() else []
        if not self.files:
            raise DataError(f"`{path}` is not a file or a folder or archive with {', '.join(self.SUFFIXES)} files")

    def _members(self, path: Path) -> list[Path | zipfile.Path]:
        try:
            with zipfile.ZipFile(path) as archive:
                names = sorted(name for name in archive.namelist() if name.endswith(self.SUFFIXES))
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"`{path}` is not a zip archive that can be read: {error}") from error
        return [zipfile.Path(path, name) for name in names]

    def sizes(self) -> list[tuple[str, int]]:
        """Name and bytes of each file; of members of an archive, those that they unpack to."""
        return [
            (p.name, p.stat().st_size if isinstance(p, Path) else p.root.getinfo(p.at).file_size) for p in self.files
        ]

    def digest(self) -> str:
        """sha256 of the names of all files and of every byte in them.

        Raises:
            DataError: a file cannot be read.
        """
        whole = hashlib.sha256()
        for path in self.files:
            try:
                with path.open("rb") as file:
                    # A member of an archive is hashed as it unpacks.
                    found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise DataError(f"`{path}` cannot be read to its end: {error}") from error
            whole.update(f"{path.name} {found}\n".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()

    def read(self, place: Json) -> Iterator[tuple[str, Json]]:
        """Documents from a place (number of the file, byte offset, line) on."""
        number, offset, line = _place(place)
        while number < len(self.files):
            for text, after in self._read_file(self.files[number], offset, line):
                yield text, [number, *after]
            number, offset, line = number + 1, 0, 0

    def _read_file(self, path: Path | zipfile.Path, offset: int, line: int) -> Iterator[tuple[str, list[int]]]:
        try:
            with _opened(path) as file:
                # In a packed file this reads up to the place again.
                file.seek(offset)
                cut = self._lines if ".jsonl" in path.suffixes else self._paragraphs
                yield from cut(path, file, offset, line)
        except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise DataError(f"`{path}` cannot be read to its end: {reason}") from error

    def _each_line(
        self, path: Path | zipfile.Path, file: Any, offset: int, line: int
    ) -> Iterator[tuple[str | None, int, int]]:
        """Each line decoded, or None for a bad one that is left out, with offset and number after it."""
        while raw := file.readline(LINE_LIMIT + 1):
            begin, offset, line = offset, offset + len(raw), line + 1
            fault = None
            if len(raw) > LINE_LIMIT:
                fault = f"is longer than {LINE_LIMIT:,} bytes"
            elif b"\0" in raw:
                fault = f"has a NUL at byte {begin + raw.index(0)}"
            try:
                text = raw.decode("utf-8-sig" if begin == 0 else "utf-8")
            except UnicodeDecodeError as error:
                text, fault = "", fault or f"is not UTF-8 at byte {begin + error.start}"
            if fault is None:
                yield text, offset, line
            else:
                self._refuse(path, line, begin, fault)
                while len(raw) > LINE_LIMIT and not raw.endswith(b"\n") and (raw := file.readline(LINE_LIMIT + 1)):
                    offset += len(raw)
                yield None, offset, line

    def _refuse(self, path: Path | zipfile.Path, line: int, begin: int, fault: str) -> None:
        if not self.skip_bad:
            raise DataError(
                f"`{path}`:{line} (byte {begin}) {fault}; repair the file, or leave such lines out: with "
                "`data.skip_bad` of lior, `data.documents.skip_bad` of holographic streams, or `--skip-bad` of "
                "`holonomy data prepare`"
            )
        self.skipped += 1

    def _lines(self, path: Path | zipfile.Path, file: Any, offset: int, line: int) -> Iterator[tuple[str, list[int]]]:
        for text, after, number in self._each_line(path, file, offset, line):
            if text is not None and text.strip():
                document = self._json(path, text, number, after)
                if document is not None:
                    yield document, [after, number]

    def _json(self, path: Path | zipfile.Path, text: str, line: int, after: int) -> str | None:
        try:
            found = json.loads(text)[self.field]
            fault = (
                None if isinstance(found, str) else f"has {type(found).__name__} under `{self.field}`, wanted a text"
            )
        except (ValueError, RecursionError):
            found, fault = None, "is not JSON"
        except (KeyError, TypeError):
            found, fault = None, f"has no key `{self.field}`"
        if fault is not None:
            self._refuse(path, line, after - len(text.encode()), fault)
            return None
        return found

    def _paragraphs(
        self, path: Path | zipfile.Path, file: Any, offset: int, line: int
    ) -> Iterator[tuple[str, list[int]]]:
        kept: list[str] = []
        size, after, number = 0, offset, line
        for text, after, number in self._each_line(path, file, offset, line):
            words = text is not None and bool(text.strip())
            if text is not None and words:
                kept.append(text)
                size += len(text)
            if kept and text is not None and (not words or size >= PARAGRAPH_LIMIT):
                yield "".join(kept), [after, number]
                kept, size = [], 0
        if kept:
            yield "".join(kept), [after, number]


def _opened(path: Path | zipfile.Path) -> Any:
    if isinstance(path, zipfile.Path):
        member: Any = path.open("rb")
        return gzip.open(member, "rb") if path.suffix == ".gz" else member
    return gzip.open(path, "rb") if path.suffix == ".gz" else io.BufferedReader(io.FileIO(path))


def _place(place: Json) -> tuple[int, int, int]:
    if place is None:
        return 0, 0, 0
    if not isinstance(place, list) or len(place) != 3 or any(not isinstance(n, int) or n < 0 for n in place):
        raise CheckpointError(f"`place` is {place!r}; wanted the numbers of file, byte and line")
    number, offset, line = (int(n) for n in place if isinstance(n, int))
    return number, offset, line


class HubDocuments:
    """Rows of a Hugging Face streaming dataset, in its own order; shuffle in `DocumentStream` instead.

    Args:
        dataset: a `datasets.IterableDataset`, not shuffled: its own shuffled streams lose and repeat rows on resume.
        field: column of the text.
        skip_bad: leave rows without a text out.
    """

    def __init__(self, dataset: Any, *, field: str = "text", skip_bad: bool = False) -> None:
        if not hasattr(dataset, "skip") or not hasattr(dataset, "take"):
            raise ConfigError("`dataset` is not a streaming dataset; load it with streaming=True")
        self.dataset, self.field, self.skip_bad, self.skipped = dataset, field, skip_bad, 0

    def read(self, place: Json) -> Iterator[tuple[str, Json]]:
        """Documents after the first `place` rows.

        Raises:
            DataError: a row has no text under the field.
        """
        if not (place is None or (isinstance(place, int) and place >= 0)):
            raise CheckpointError(f"`place` is {place!r}; wanted a number of rows")
        begin = place or 0
        for number, row in enumerate(self.dataset.skip(begin), start=begin):
            text = row.get(self.field)
            if isinstance(text, str):
                yield text, number + 1
            elif self.skip_bad:
                self.skipped += 1
            else:
                raise DataError(f"row {number} has {type(text).__name__} in column `{self.field}`, wanted a text")


class DocumentStream(Generic[D]):
    """Shuffled documents without end, epoch after epoch.

    Args:
        documents: where they come from.
        buffer: documents that are shuffled together; 1 keeps their order.
        seed: start of the random order.
        keep: leaves out documents for which it is false, such as held-out ones.
    """

    def __init__(
        self, documents: Documents[D], *, buffer: int, seed: int, keep: Callable[[D], bool] = lambda document: True
    ) -> None:
        if buffer < 1:
            raise ConfigError(f"`buffer` is {buffer}; wanted at least 1")
        self.documents, self.buffer, self.seed, self.keep = documents, buffer, seed, keep
        self.load_state({"epoch": 0, "block": 0, "given": 0, "place": None})

    @property
    def epoch(self) -> int:
        """Rounds that are complete, seen by asking for a document after the last one."""
        return self._epoch

    @property
    def left_out(self) -> int:
        """Bad lines before the last document that was read, in every round anew."""
        return self._left

    def _fill(self) -> None:
        """Reads the next block, at the end of an epoch the first of the next one."""
        for _ in range(2):
            found: list[D] = []
            for text, after in self._reader:
                self._after, self._left = after, self._before + self.documents.skipped
                if self.keep(text):
                    found.append(text)
                    if len(found) == self.buffer:
                        break
            if found:
                order = np.random.default_rng([self.seed, self._epoch, self._block]).permutation(len(found))
                self._waiting = [found[i] for i in order]
                return
            self._epoch, self._block, self._place = self._epoch + 1, 0, None
            self._reader = self.documents.read(None)
        raise DataError("the data hold no document to train on; name files with text")

    def next(self) -> D:
        """The next document.

        Raises:
            DataError: there is none at all, or one cannot be read.
        """
        if not self._waiting:
            self._fill()
        text = self._waiting[self._given]
        self._given += 1
        if self._given == len(self._waiting):
            self._block, self._given, self._place, self._waiting = self._block + 1, 0, self._after, []
            self._left_before = self._left
        return text

    def state(self) -> dict[str, Json]:
        """Where the current block begins, what was left out before it, and how many of its documents were given out."""
        numbers = {"epoch": self._epoch, "block": self._block, "given": self._given, "left_out": self._left_before}
        return {**numbers, "place": self._place}

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Continues from a state.

        Raises:
            CheckpointError: it is not one.
        """
        # Older versions did not count what is left out.
        numbers = [state.get("left_out", 0), *(state.get(name) for name in ("epoch", "block", "given"))]
        if any(not isinstance(n, int) or n < 0 for n in numbers) or "place" not in state:
            raise CheckpointError(f"the state of a stream is {dict(state)}; wanted epoch, block, given and place")
        self._left_before, self._epoch, self._block, self._given = (n for n in numbers if isinstance(n, int))
        self._left, self._before = self._left_before, self._left_before - self.documents.skipped
        self._place: Json = state["place"]
        self._waiting: list[D] = []
        self._after: Json = None
        self._reader = self.documents.read(self._place)
        if self._given:
            given = self._given
            self._fill()
            self._given = given
