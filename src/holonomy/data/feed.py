"""Training windows straight from documents of any number, and the beginning of them that a run is prepared with."""

from __future__ import annotations

import hashlib
import importlib.util
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import torch

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.core.learner import Json
from holonomy.data.splits import is_held_out
from holonomy.data.stream import SEPARATOR, DocumentFiles, Documents, DocumentStream, HubDocuments
from holonomy.data.text import KNOWN_TEXTS, known_file
from holonomy.data.tokens import TokenBatch

HUB = "hub:"
"""Begins the name of a dataset of Hugging Face."""
ROW_FILES = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}
"""Files that `datasets` reads by themselves, and what it calls their kinds."""
POOL = 64
"""Batches whose windows are shuffled together."""


def open_documents(source: str, *, field: str, split: str = "train", skip_bad: bool = False) -> Documents[str]:
    """Documents of a known text, of files, or of a dataset of Hugging Face, read as they are asked for.

    Args:
        source: known name, file, folder, archive, or `hub:NAME?name=CONFIG&split=SPLIT&revision=COMMIT`, all but NAME
            optional. Parquet is read by `datasets`.
        field: key of the text in JSON lines and columns.
        split: of a dataset whose name tells none.
        skip_bad: leave bad lines and rows out.

    Raises:
        ConfigError: the name of the dataset has unknown parts, a revision of what lies here is wanted, or `datasets` is
            not installed.
        DataError: there is no such source.
    """
    if source.startswith(HUB):
        return _hub(source, field, split, skip_bad)
    path = known_file(source) if source in KNOWN_TEXTS else Path(source)
    if not path.exists():
        raise DataError(
            f"`data.source` {source} does not exist; name a file, a folder or archive of files, or {HUB}NAME"
        )
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet"))):
        return _rows(source, field, split, source, skip_bad)
    return DocumentFiles(path, field=field, skip_bad=skip_bad)


def _hub(source: str, field: str, split: str, skip_bad: bool) -> HubDocuments:
    name, _, rest = source.removeprefix(HUB).partition("?")
    options = dict(parse_qsl(rest, keep_blank_values=True))
    if not name or options.keys() - {"name", "split", "revision"} or "" in options.values():
        raise ConfigError(f"`data.source` is {source}; wanted {HUB}NAME?name=CONFIG&split=SPLIT&revision=COMMIT")
    if "revision" in options and Path(name).exists():
        raise ConfigError(f"`data.source` is {source}, but `{name}` lies here and has no revisions; drop the revision")
    split = options.pop("split", split)
    return _rows(source, field, split, name, skip_bad, **options)


def _rows(
    source: str,
    field: str,
    split: str,
    path: str,
    skip_bad: bool,
    *,
    name: str | None = None,
    revision: str | None = None,
) -> HubDocuments:
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError(
            f"`data.source` {source} wants the datasets package; install it with `pip install 'holonomy[data]'`"
        )
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    kind = ROW_FILES.get(Path(path).suffix) if Path(path).is_file() else None
    try:
        files = path if kind else None
        rows = load_dataset(kind or path, name, data_files=files, split=split, revision=revision, streaming=True)
    except (OSError, ValueError, ImportError, DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"`data.source` {source} cannot be opened: {reason}") from error
    return HubDocuments(rows, field=field, skip_bad=skip_bad)


@dataclass(frozen=True)
class Beginning:
    """The first documents of a stream.

    Attributes:
        train: texts of the training part, end to end.
        held_out: texts that are held out, end to end.
        digest: sha256 of both, and of names and sizes of the files.
    """

    train: str
    held_out: str
    digest: str


def read_beginning(documents: Documents[str], *, held_share: float, characters: int, held_characters: int) -> Beginning:
    """Reads documents until there are so many characters of both parts, or to the end.

    Which part a document belongs to follows from its text alone; see `is_held_out`. What is read beyond is forgotten.

    Args:
        documents: read from their beginning.
        held_share: share of documents that are held out.
        characters: of the training part.
        held_characters: of the part that is held out.
    """
    kept, sizes, limits = ([], []), [0, 0], (characters, held_characters)
    digest = hashlib.sha256()
    if isinstance(documents, DocumentFiles):
        for name, size in documents.sizes():
            digest.update(f"{name} {size}\n".encode("utf-8", "surrogateescape"))
    for document, _ in documents.read(None):
        part = int(is_held_out(document, held_share))
        if sizes[part] < limits[part]:
            text = ended(document)
            kept[part].append(text)
            sizes[part] += len(text)
            digest.update(text.encode("utf-8", "surrogatepass"))
        if sizes[0] >= limits[0] and sizes[1] >= limits[1]:
            break
    return Beginning("".join(kept[0]), "".join(kept[1]), digest.hexdigest())


def ended(document: str) -> str:
    """A document with an empty line behind it."""
    return document.rstrip("\n") + SEPARATOR


class StreamSampler:
    """Training windows of documents as they come.

    Documents are put end to end and cut into windows, each of which begins with the last token of the one before; the
    windows of `POOL` batches are shuffled together, and what is left over goes on in the next pool. The state is the
    document and token that the pool begins with, and how many of its batches were given out. In memory are a block of
    the documents, and the tokens of a pool.

    Args:
        documents: without end.
        encode: gives the token ids of a text.
        seq_len: tokens per window.
        batch: windows per batch.
        seed: start of the random order.
        part: (number, of how many): only this part of each batch is given out; `batch` counts all parts.
        device: of the batches.
    """

    def __init__(
        self,
        documents: DocumentStream[str],
        encode: Callable[[str], np.ndarray],
        *,
        seq_len: int,
        batch: int,
        seed: int,
        part: tuple[int, int] = (0, 1),
        device: torch.device | None = None,
    ) -> None:
        self.documents, self.encode, self.seq_len, self.batch = documents, encode, seq_len, batch
        self.seed, self.part, self.device = seed, part, device
        self._reach = np.arange(seq_len + 1)
        self._begin(0, documents.state(), 0)

    def _begin(self, pool: int, place: Mapping[str, Json], skip: int) -> None:
        """The pool that begins with some token of the document at a place is still to be read."""
        self._pool, self._place, self._skip, self._given = pool, dict(place), skip, 0
        self._starts: np.ndarray | None = None
        self._rest: list[tuple[dict[str, Json], int, np.ndarray]] = []

    def _fill(self) -> np.ndarray:
        """Reads the pool; gives where its windows begin, in random order, [batches, batch]."""
        wanted, size = POOL * self.batch * self.seq_len + 1, self.batch * self.seq_len
        # Each with the place of its document and the token of that which it begins with.
        pieces, count, skip = self._rest, sum(len(ids) for _, _, ids in self._rest), 0 if self._rest else self._skip
        while count < wanted:
            place = self.documents.state()
            ids = self.encode(ended(self.documents.next()))
            if skip > len(ids):
                raise CheckpointError(f"the document at {place} has {len(ids)} tokens, the stored state skips {skip}")
            pieces.append((place, skip, ids[skip:]))
            count, skip = count + len(ids) - skip, 0
        self._tokens = np.concatenate([ids for _, _, ids in pieces])
        used = (count - 1) // size * size
        # The last token of the last window begins the next pool, for the windows overlap by one.
        edges = np.cumsum([0, *(len(ids) for _, _, ids in pieces)])
        first = bisect_right(edges, used) - 1
        place, skipped, ids = pieces[first]
        cut = used - int(edges[first])
        self._rest = [(place, skipped + cut, ids[cut:]), *pieces[first + 1 :]]
        starts = np.arange(0, used, self.seq_len)
        return np.random.default_rng([self.seed, self._pool]).permutation(starts).reshape(-1, self.batch)

    def next(self) -> TokenBatch:
        """The next batch.

        Raises:
            DataError: a document cannot be read.
        """
        if self._starts is None:
            self._starts = self._fill()
        if self._given == len(self._starts):
            rest = self._rest
            self._begin(self._pool + 1, rest[0][0], rest[0][1])
            self._rest = rest
            self._starts = self._fill()
        number, parts = self.part
        mine = self._starts[self._given][number * self.batch // parts : (number + 1) * self.batch // parts]
        self._given += 1
        windows = torch.from_numpy(self._tokens[mine[:, None] + self._reach]).to(self.device)
        return TokenBatch(windows[:, :-1].clone(), windows[:, 1:].clone(), len(mine) * self.seq_len)

    @property
    def left_out(self) -> int:
        """Bad lines that were left out; see `DocumentStream.left_out`."""
        return self.documents.left_out

    def state(self) -> dict[str, Json]:
        """Where the pool begins, and the batches of it that were given out."""
        return {"pool": self._pool, "given": self._given, "skip": self._skip, "documents": dict(self._place)}

    def load_state(self, state: Mapping[str, Json]) -> None:
        """Continues from a state.

        Raises:
            CheckpointError: it is not one, or does not fit the documents.
        """
        pool, given, skip = (state.get(name) for name in ("pool", "given", "skip"))
        place = state.get("documents")
        counts = [n for n in (pool, given, skip) if isinstance(n, int) and not isinstance(n, bool) and n >= 0]
        if len(counts) < 3 or not isinstance(place, dict):
            raise CheckpointError(f"`data` state is {dict(state)}; wanted pool, given, skip and documents")
        self.documents.load_state(place)
        self._begin(counts[0], place, counts[2])
        if counts[1]:
            self._starts = self._fill()
            if counts[1] > len(self._starts):
                raise CheckpointError(f"`data` state gave out {counts[1]} batches of {len(self._starts)}")
            self._given = counts[1]
