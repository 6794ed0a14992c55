"""Token ids of the documents of files, kept on disk: made once, by several processes, and mapped ever after.

A cache lies in a folder whose name follows from the bytes of the files, how they are read, the tokenizer and which
documents are taken. Its parts are token stores; `cache.json` lists them, with the place in the files where the next
one begins: what was interrupted goes on there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import multiprocessing
import shutil
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from holonomy.core.errors import CheckpointError, ConfigError, DataError, StorageError
from holonomy.data.splits import Sides
from holonomy.data.words import WordTokenizer

if TYPE_CHECKING:
    # Processes that read words do without torch.
    from holonomy.core.learner import Json
    from holonomy.data.store import TokenStore
    from holonomy.data.stream import DocumentFiles

logger = logging.getLogger(__name__)

SCHEMA = 2
LIST = "cache.json"
TASK = 256
"""Documents that a process reads at a time."""
WAITING = 4
"""Tasks of each process that may wait for it or for the disk."""
PART_TOKENS = 2**26
"""Tokens after which a part ends."""

_Ids = tuple[np.ndarray, np.ndarray]
"""Documents end to end, and how many ids each has."""
_READER: list[tuple[WordTokenizer, Sides]] = []
"""What a process reads words with, given once when it starts."""


@dataclass(frozen=True)
class _Step:
    """Ids of the documents taken from one task, the place after it, and the bad lines before that."""

    ids: np.ndarray
    lengths: np.ndarray
    place: Json
    left_out: int

    def documents(self) -> list[np.ndarray]:
        """Ids of each document."""
        return np.split(self.ids, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []


@dataclass
class _Listed:
    """What `cache.json` says: digests of the parts, where the next begins, bad lines before it, whether it is all."""

    parts: list[str] = field(default_factory=list)
    place: Json = None
    left_out: int = 0
    complete: bool = False

    @classmethod
    def read(cls, path: Path) -> _Listed:
        """What stands in a file, or the beginning where there is none."""
        if not path.exists():
            return cls()
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["schema"] != SCHEMA:
                raise ValueError(f"schema is not {SCHEMA}")
            listed = cls(**found["listed"])
            if found["sha256"] != listed._sha256():
                raise ValueError("it was changed")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"`{path}` does not list a token cache ({error}); remove its folder") from error
        return listed

    def write(self, path: Path) -> None:
        """Replaces the file as a whole."""
        from holonomy.core.config import replace_text

        # A part has its own digests; a place that was changed would go on elsewhere in the files.
        kept = {"schema": SCHEMA, "sha256": self._sha256(), "listed": asdict(self)}
        replace_text(path, json.dumps(kept, indent=1))

    def _sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class CachedDocuments:
    """Documents of a cache as token ids; a place is the number of documents before it.

    Args:
        parts: of the cache.
        left_out: bad lines that were left out when it was made.
        part: (number, of how many): only this one of every so many documents.
    """

    def __init__(self, parts: Sequence[TokenStore], left_out: int, part: tuple[int, int] = (0, 1)) -> None:
        self.parts, self.left_out, self.part, self.skipped = parts, left_out, part, 0
        self._begins = np.cumsum([0, *(len(p) for p in parts)]).tolist()

    def __len__(self) -> int:
        return self._begins[-1]

    def read(self, place: Json) -> Iterator[tuple[np.ndarray, Json]]:
        """Ids of each document from a place on, int64; all bad lines count as left out before the last of them.

        Raises:
            CheckpointError: there is no such place.
        """
        begin = 0 if place is None else place
        if not isinstance(begin, int) or isinstance(begin, bool) or not 0 <= begin <= len(self):
            raise CheckpointError(f"`place` is {place!r}; wanted a number of documents up to {len(self)}")
        number, parts = self.part
        mine = range(begin + (number - begin) % parts, len(self), parts)
        for document in mine:
            if document == mine[-1]:
                self.skipped += self.left_out
            at = bisect_right(self._begins, document) - 1
            yield self.parts[at].document(document - self._begins[at]), document + 1


def cached_documents(
    files: DocumentFiles, tokenizer: WordTokenizer, directory: Path, *, sides: Sides, workers: int = 1
) -> CachedDocuments:
    """Documents to learn of some files as token ids, from a cache that is made where it is missing.

    Args:
        files: the documents.
        tokenizer: words.
        directory: holds caches of any number of sources.
        sides: says which documents are to be learned; the others are not kept.
        workers: processes that make it; what they make is the same for any number.

    Raises:
        ConfigError: no process.
        DataError: a file cannot be read, or the cache is damaged.
        StorageError: it cannot be written.
    """
    if workers < 1:
        raise ConfigError(f"`workers` is {workers}; wanted 1 or more")
    made_of = {
        "schema": SCHEMA,
        "files": files.digest(),
        "field": files.field,
        "skip_bad": files.skip_bad,
        "tokenizer": tokenizer.fingerprint,
        "sides": asdict(sides),
    }
    path = directory / hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]
    listed = _Listed.read(path / LIST)
    # What is complete is only read, and may lie where nobody can write.
    if not listed.complete:
        with _held(path):
            listed = _Listed.read(path / LIST)
            if not listed.complete:
                logger.info("making the token cache %s", path)
                _make(path, listed, files, tokenizer, sides, workers)
    return CachedDocuments(_open(path, listed), listed.left_out)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keeps others from making the same cache at the same time: they wait, and find it made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with (path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise StorageError(f"cannot write the token cache `{path}`: {error.strerror}") from error


def _open(path: Path, listed: _Listed) -> list[TokenStore]:
    from holonomy.data.store import open_store

    try:
        stores = [open_store(path / _name(n), verify=True) for n in range(len(listed.parts))]
        for n, (store, digest) in enumerate(zip(stores, listed.parts, strict=True)):
            if store.digest != digest:
                raise DataError(f"`{path / _name(n)}` is another part than `{LIST}` lists")
    except DataError as error:
        raise DataError(
            f"the token cache `{path}` is damaged: {str(error).partition(';')[0]}; remove it, and it is made anew"
        ) from error
    return stores


def _name(number: int) -> str:
    return f"{number:05d}"


def _make(
    path: Path, listed: _Listed, files: DocumentFiles, tokenizer: WordTokenizer, sides: Sides, workers: int
) -> None:
    """Makes the parts that are missing, each listed as soon as it is whole."""
    from holonomy.data.store import write_store

    steps = _steps(_tasks(files, listed), tokenizer, sides, workers)
    kept = tokenizer.to_json()
    ahead = list[_Step]()
    for step in steps:
        # A store is never empty: documents without a word wait for one that has some, and go if none comes.
        ahead.append(step)
        if not len(step.ids):
            continue
        part, target = _Part(chain(ahead, steps)), path / _name(len(listed.parts))
        # What was written but not listed before an interruption.
        shutil.rmtree(target, ignore_errors=True)
        store = write_store(target, part.documents(), vocab_size=tokenizer.vocab_size, tokenizer_json=kept)
        ahead = []
        listed.parts.append(store.digest)
        listed.place, listed.left_out = part.last.place, part.last.left_out
        listed.write(path / LIST)
    if ahead:
        listed.left_out = ahead[-1].left_out
    listed.complete = True
    listed.write(path / LIST)


class _Part:
    """The documents of one part, drawn from steps until it has enough tokens."""

    def __init__(self, steps: Iterable[_Step]) -> None:
        self._steps = steps

    def documents(self) -> Iterator[np.ndarray]:
        count = 0
        for step in self._steps:
            self.last = step
            yield from step.documents()
            count += len(step.ids)
            if count >= PART_TOKENS:
                return


def _tasks(files: DocumentFiles, listed: _Listed) -> Iterator[tuple[list[str], Json, int]]:
    """Texts of some documents, the place after them, and the bad lines before that."""
    texts, place, before = list[str](), listed.place, listed.left_out - files.skipped
    for text, after in files.read(listed.place):
        texts.append(text)
        place = after
        if len(texts) == TASK:
            yield texts, place, before + files.skipped
            texts = []
    # Bad lines may stand behind the last document.
    if texts or before + files.skipped > listed.left_out:
        yield texts, place, before + files.skipped


def _steps(
    tasks: Iterable[tuple[list[str], Json, int]], tokenizer: WordTokenizer, sides: Sides, workers: int
) -> Iterator[_Step]:
    """Ids of all tasks in their order, whoever finds them."""
    if workers == 1:
        for texts, place, left_out in tasks:
            yield _Step(*_ids(texts, tokenizer, sides), place, left_out)
        return
    spawn, given = multiprocessing.get_context("spawn"), (tokenizer.to_json(), sides)
    try:
        with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start, initargs=given) as pool:
            waiting: deque[tuple[Future[_Ids], Json, int]] = deque()
            for texts, place, left_out in tasks:
                waiting.append((pool.submit(_ids_of, texts), place, left_out))
                if len(waiting) > WAITING * workers:
                    yield _done(*waiting.popleft())
            for task in waiting:
                yield _done(*task)
    except BrokenProcessPool as error:
        raise DataError("a process that reads words has died; give fewer `workers`, or more memory") from error


def _done(found: Future[_Ids], place: Json, left_out: int) -> _Step:
    return _Step(*found.result(), place, left_out)


def _start(tokenizer: str, sides: Sides) -> None:
    _READER[:] = [(WordTokenizer.from_json(tokenizer), sides)]


def _ids_of(texts: list[str]) -> _Ids:
    return _ids(texts, *_READER[0])


def _ids(texts: list[str], tokenizer: WordTokenizer, sides: Sides) -> _Ids:
    """Ids of the documents to learn, end to end in four bytes each, since they travel; and how many each has."""
    found = [tokenizer.encode(text) for text in texts if sides(text) == "train"]
    whole = np.concatenate(found) if found else np.empty(0)
    return whole.astype(np.uint32), np.array([len(ids) for ids in found], dtype=np.int64)
