"""Windows straight from documents: every token once an epoch, any resume exact, parts and sources as they say."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.data import feed, stream
from holonomy.data.feed import StreamSampler, open_documents, read_beginning
from holonomy.data.splits import is_held_out
from holonomy.data.stream import DocumentFiles, DocumentStream
from holonomy.data.tokens import TokenBatch

SEQ_LEN, BATCH = 7, 3


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "POOL", 5)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Documents from one character to several pools long, each of characters of its own."""
    lengths = random.Random(0)
    texts = [chr(0x4E00 + n) * lengths.choice((1, 2, 9, 40, 300)) for n in range(120)]
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return path


def codes(text: str) -> np.ndarray:
    return np.array([ord(c) for c in text], dtype=np.int64)


def sampler(path: Path, **options) -> StreamSampler:
    source = DocumentStream(open_documents(str(path), field="text"), buffer=10, seed=4)
    return StreamSampler(source, codes, seq_len=SEQ_LEN, batch=BATCH, seed=4, **options)


def equal(one: TokenBatch, other: TokenBatch) -> bool:
    same = torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)
    return same and one.count == other.count


def test_windows_are_all_of_the_text_in_another_order(documents: Path) -> None:
    source = DocumentStream(open_documents(str(documents), field="text"), buffer=10, seed=4)
    text = "".join(source.next().rstrip("\n") + "\n\n" for _ in range(360))
    given, wanted = sampler(documents), Counter[tuple[int, ...]]()
    batches = [given.next() for _ in range(200)]
    assert all(b.count == SEQ_LEN * BATCH and b.fresh for b in batches)
    # Until a pool ends nobody knows how many windows are out, so whole pools are compared.
    while given._given < len(given._starts):
        batches.append(given.next())
    found = Counter(tuple(map(int, row)) for b in batches for row in torch.cat([b.inputs, b.targets[:, -1:]], dim=1))
    ids = codes(text)
    for n in range(len(batches) * BATCH):
        wanted[tuple(ids[n * SEQ_LEN : (n + 1) * SEQ_LEN + 1].tolist())] += 1
    assert found == wanted
    first = [tuple(map(int, row)) for b in batches[:5] for row in b.inputs]
    assert first != [tuple(ids[n * SEQ_LEN : (n + 1) * SEQ_LEN].tolist()) for n in range(len(first))]


def test_resumes_at_any_batch_lose_and_repeat_nothing(documents: Path) -> None:
    whole = sampler(documents)
    expected = [whole.next() for _ in range(260)]
    moments = random.Random(1)
    for stop in [0, 1, 4, 5, 6, *(moments.randrange(200) for _ in range(25))]:
        first = sampler(documents)
        found = [first.next() for _ in range(stop)]
        for _ in range(2):
            state = json.loads(json.dumps(first.state()))
            first = sampler(documents)
            first.load_state(state)
            assert first.state() == state
            found += [first.next() for _ in range(moments.randrange(1, 25))]
        assert all(map(equal, found, expected)), stop


def test_two_processes_read_the_halves_of_the_doubled_batch(documents: Path) -> None:
    whole = StreamSampler(sampler(documents).documents, codes, seq_len=SEQ_LEN, batch=4, seed=4)
    halves = [
        StreamSampler(sampler(documents).documents, codes, seq_len=SEQ_LEN, batch=4, seed=4, part=(rank, 2))
        for rank in range(2)
    ]
    for _ in range(20):
        batch, parts = whole.next(), [half.next() for half in halves]
        assert torch.equal(batch.inputs, torch.cat([p.inputs for p in parts]))
        assert parts[0].count == batch.count // 2


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"windows": 3},
        {"pool": 0, "given": -1, "skip": 0, "documents": {}},
        {"pool": 0, "given": 10**6, "skip": 0, "documents": {"epoch": 0, "block": 0, "given": 0, "place": None}},
        {"pool": 0, "given": 1, "skip": 10**6, "documents": {"epoch": 0, "block": 0, "given": 0, "place": None}},
        {"pool": 0, "given": 1, "skip": 0, "documents": {"epoch": 0}},
    ],
)
def test_states_that_are_none_are_refused(documents: Path, state: dict) -> None:
    with pytest.raises(CheckpointError):
        sampler(documents).load_state(state)


def test_the_beginning_is_split_by_documents(documents: Path) -> None:
    texts = [json.loads(line)["text"] for line in documents.read_text().splitlines()]
    found = read_beginning(DocumentFiles(documents), held_share=0.3, characters=10**9, held_characters=10**9)
    for held, text in ((False, found.train), (True, found.held_out)):
        assert text == "".join(t + "\n\n" for t in texts if is_held_out(t, 0.3) == held)
    short = read_beginning(DocumentFiles(documents), held_share=0.3, characters=500, held_characters=100)
    assert found.train.startswith(short.train)
    assert 500 <= len(short.train) < 900 and 100 <= len(short.held_out) < 500
    assert short.digest != found.digest
    again = read_beginning(DocumentFiles(documents), held_share=0.3, characters=500, held_characters=100)
    assert again == short
    with documents.open("a") as file:
        file.write('{"text": "more"}\n')
    grown = read_beginning(DocumentFiles(documents), held_share=0.3, characters=500, held_characters=100)
    assert grown.train == short.train and grown.digest != short.digest


def test_a_text_without_empty_lines_is_cut_at_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PARAGRAPH_LIMIT", 100)
    text = "".join(f"line {n}\n" for n in range(200))
    (tmp_path / "a.txt").write_text(text)
    found = list(DocumentFiles(tmp_path / "a.txt").read(None))
    assert "".join(document for document, _ in found) == text
    assert all(100 <= len(document) < 120 for document, _ in found[:-1])
    for n, (_, place) in enumerate(found):
        assert [d for d, _ in DocumentFiles(tmp_path / "a.txt").read(place)] == [d for d, _ in found[n + 1 :]]


def test_memory_does_not_follow_the_size_of_the_files(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.jsonl.gz"
        with gzip.open(path, "wt", compresslevel=1) as file:
            for n in range(count):
                file.write(json.dumps({"text": f"{n:05d} " * 20}) + "\n")
        read = sampler(path)
        tracemalloc.start()
        while read.documents._epoch == 0:
            read.next()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(10)  # what the first call imports and keeps is not memory of the texts
    small, large = peak(2000), peak(4000)  # both larger than what is read at a time
    assert large < 1.2 * small, (small, large)


def test_sources_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_documents(str(tmp_path / "nothing.txt"), field="text")
    with pytest.raises(DataError, match="not a file or a folder or archive with"):
        open_documents(str(tmp_path), field="text")
    for odd in ("hub:", "hub:x?version=3", "hub:x?revision="):
        with pytest.raises(ConfigError, match="wanted hub:NAME"):
            open_documents(odd, field="text")


def test_a_dataset_of_hugging_face_is_read_by_name(documents: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(documents.read_bytes())
    rows = open_documents(f"hub:{folder}?split=train", field="text")
    files = open_documents(str(documents), field="text")
    assert [text for text, _ in rows.read(None)] == [text for text, _ in files.read(None)]
    with pytest.raises(DataError, match="cannot be opened"):
        open_documents(f"hub:{folder}?split=valid", field="text")
    with pytest.raises(ConfigError, match="has no revisions"):
        open_documents(f"hub:{folder}?revision=main", field="text")


@pytest.mark.parametrize(
    ("options", "name", "split", "revision"),
    [("", None, "train", None), ("?revision=8c9d0e", None, "train", "8c9d0e"),
     ("?name=small&split=valid&revision=refs/pr/1", "small", "valid", "refs/pr/1")],
)  # fmt: skip
def test_parts_of_a_name_reach_the_library(
    options: str, name: str | None, split: str, revision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets, asked = pytest.importorskip("datasets"), list[tuple[tuple[object, ...], dict[str, object]]]()

    def load(*args: object, **named: object) -> object:
        asked.append((args, named))
        return datasets.IterableDataset.from_generator(lambda: iter([{"text": "a row"}]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = open_documents(f"hub:owner/texts{options}", field="text")
    wanted = {"data_files": None, "split": split, "revision": revision, "streaming": True}
    assert asked == [(("owner/texts", name), wanted)]
    assert [text for text, _ in rows.read(None)] == ["a row"]
