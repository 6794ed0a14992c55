"""Streams of documents: nothing lost or repeated after any resume, faults named, splits without leaks."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.data.prefetch import Prefetch
from holonomy.data.splits import is_held_out, shared_documents, split_documents
from holonomy.data.stream import DocumentFiles, DocumentStream, HubDocuments
from holonomy.data.tokens import WindowSampler

NUM = 230
TEXTS = [f"document {n} says é{n * n}" for n in range(NUM)]


@pytest.fixture(params=["txt", "jsonl", "txt.gz", "jsonl.gz", "folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same documents in every form."""

    def content(texts: list[str], kind: str) -> bytes:
        lines = "\n\n\n".join(texts) if "txt" in kind else "".join(json.dumps({"text": t}) + "\n" for t in texts)
        raw = lines.encode()
        return gzip.compress(raw) if kind.endswith("gz") else raw

    if request.param != "folder":
        path = tmp_path / f"all.{request.param}"
        path.write_bytes(content(TEXTS, request.param))
        return path
    for n, kind in enumerate(("txt", "jsonl", "txt.gz", "jsonl.gz")):
        part = TEXTS[n * 60 : (n + 1) * 60]
        (tmp_path / f"{n}-part.{kind}").write_bytes(content(part, kind))
    (tmp_path / "notes.md").write_text("not read")
    return tmp_path


def stripped(texts: list[str]) -> list[str]:
    return [t.strip() for t in texts]


def test_all_documents_in_order(source: Path) -> None:
    stream = DocumentStream(DocumentFiles(source), buffer=1, seed=0)
    assert stripped([stream.next() for _ in range(NUM)]) == TEXTS


def test_every_epoch_holds_every_document_once_in_another_order(source: Path) -> None:
    stream = DocumentStream(DocumentFiles(source), buffer=50, seed=0)
    epochs = [stripped([stream.next() for _ in range(NUM)]) for _ in range(3)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(TEXTS)
    assert epochs[0] != epochs[1] != epochs[2] != TEXTS
    assert epochs[0][:50] != TEXTS[:50]
    other = DocumentStream(DocumentFiles(source), buffer=50, seed=1)
    assert stripped([other.next() for _ in range(NUM)]) != epochs[0]


def test_a_hundred_resumes_lose_and_repeat_nothing(source: Path) -> None:
    whole = DocumentStream(DocumentFiles(source), buffer=37, seed=3)
    expected = [whole.next() for _ in range(2 * NUM)]
    moments = random.Random(0)
    for stop in [0, 1, 36, 37, 38, NUM - 1, NUM, NUM + 1, *(moments.randrange(2 * NUM - 40) for _ in range(92))]:
        first = DocumentStream(DocumentFiles(source), buffer=37, seed=3)
        found = [first.next() for _ in range(stop)]
        for _ in range(2):
            state = json.loads(json.dumps(first.state()))
            first = DocumentStream(DocumentFiles(source), buffer=37, seed=3)
            first.load_state(state)
            found += [first.next() for _ in range(moments.randrange(1, 20))]
        assert found == expected[: len(found)]


def test_left_out_documents_do_not_disturb_a_resume(source: Path) -> None:
    def make() -> DocumentStream:
        return DocumentStream(DocumentFiles(source), buffer=20, seed=3, keep=lambda t: not is_held_out(t, 0.3))

    whole, first = make(), make()
    expected = [whole.next() for _ in range(200)]
    found = [first.next() for _ in range(77)]
    second = make()
    second.load_state(first.state())
    assert found + [second.next() for _ in range(123)] == expected
    assert not any(is_held_out(t, 0.3) for t in expected)


def test_rows_of_a_streaming_dataset_resume_exactly(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for n in range(3):
        lines = "".join(json.dumps({"text": t}) + "\n" for t in TEXTS[n * 80 : (n + 1) * 80])
        (tmp_path / f"{n}.jsonl").write_text(lines)
    files = sorted(map(str, tmp_path.glob("*.jsonl")))

    def make() -> DocumentStream:
        rows = datasets.load_dataset("json", data_files=files, split="train", streaming=True, cache_dir=str(tmp_path))
        return DocumentStream(HubDocuments(rows), buffer=30, seed=1)

    whole = make()
    expected = [whole.next() for _ in range(300)]
    assert Counter(expected[:NUM]) == Counter(TEXTS)
    for stop in (1, 29, 30, 31, 100, 229, 230, 260):
        first, second = make(), make()
        found = [first.next() for _ in range(stop)]
        second.load_state(json.loads(json.dumps(first.state())))
        assert found + [second.next() for _ in range(40)] == expected[: stop + 40]
    with pytest.raises(DataError, match="column `body`"):
        next(HubDocuments(make().documents.dataset, field="body").read(None))  # type: ignore[attr-defined]
    tolerant = HubDocuments(make().documents.dataset, field="body", skip_bad=True)  # type: ignore[attr-defined]
    assert list(tolerant.read(None)) == [] and tolerant.skipped == NUM
    with pytest.raises(ConfigError, match="streaming=True"):
        HubDocuments([{"text": "x"}])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"fine\n\nbro\xffken\n\nfine\n", r"a\.txt`:3 \(byte 6\) is not UTF-8 at byte 9"),
        ("a.txt", b"fine\n\nbro\0ken\n\nfine\n", r":3 \(byte 6\) has a NUL at byte 9"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n{"text": "fine"}\n', r"a\.jsonl`:2 \(byte 17\) is not JSON"),
        ("a.jsonl", b'{"text": "fine"}\n{"body": 1}\n{"text": "fine"}\n', ":2 .* has no key `text`"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": 3}\n{"text": "fine"}\n', ":2 .* has int under `text`"),
        ("a.jsonl", b'{"text": "fine"}\n[1]\n{"text": "fine"}\n', ":2 .* has no key"),
    ],
)
def test_bad_lines_are_named_or_counted(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    strict = DocumentStream(DocumentFiles(path), buffer=1, seed=0)
    assert strict.next().strip() == "fine"
    with pytest.raises(DataError, match=words):
        strict.next()
    files = DocumentFiles(path, skip_bad=True)
    tolerant = DocumentStream(files, buffer=1, seed=0)
    assert [tolerant.next().strip() for _ in range(2)] == ["fine", "fine"]
    assert files.skipped == 1


def test_the_count_of_what_is_left_out_survives_a_resume(tmp_path: Path) -> None:
    bad = [b"{broken\n" * (n % 3) for n in range(40)]
    lines = b"".join(json.dumps({"text": f"d{n}"}).encode() + b"\n" + bad[n] for n in range(40))
    (tmp_path / "a.jsonl").write_bytes(lines)

    def make() -> DocumentStream:
        return DocumentStream(DocumentFiles(tmp_path / "a.jsonl", skip_bad=True), buffer=7, seed=0)

    whole, counts = make(), list[int]()
    for _ in range(100):
        whole.next()
        counts.append(whole.left_out)
    # Those behind the last document are met on the way to the next round.
    assert counts[6] == 6 and counts[39] == 39 - bad[39].count(b"\n") and counts[40] == 39 + 6
    for stop in range(1, 99):
        first, second = make(), make()
        for _ in range(stop):
            first.next()
        second.load_state(json.loads(json.dumps(first.state())))
        assert second.left_out == counts[stop - 1]
        second.next()
        assert second.left_out == counts[stop]


def test_long_lines_are_left_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holonomy.data.stream.LINE_LIMIT", 100)
    path = tmp_path / "a.txt"
    path.write_text("fine\n\n" + "x" * 350 + "\n\nfine too\n")
    files = DocumentFiles(path, skip_bad=True)
    stream = DocumentStream(files, buffer=1, seed=0)
    assert [stream.next().strip() for _ in range(3)] == ["fine", "fine too", "fine"]
    assert files.skipped == 1
    with pytest.raises(DataError, match="longer than 100 bytes"):
        list(DocumentFiles(path).read(None))


def test_broken_archives_and_empty_data(tmp_path: Path) -> None:
    whole = gzip.compress("\n\n".join(TEXTS).encode())
    (tmp_path / "cut.txt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.txt\.gz` cannot be read to its end"):
        list(DocumentFiles(tmp_path / "cut.txt.gz").read(None))
    (tmp_path / "plain.txt.gz").write_text("not an archive")
    with pytest.raises(DataError, match=r"plain\.txt\.gz"):
        list(DocumentFiles(tmp_path / "plain.txt.gz").read(None))
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(DataError, match="no document"):
        DocumentStream(DocumentFiles(tmp_path / "empty.txt"), buffer=3, seed=0).next()
    with pytest.raises(DataError, match="is not a file or a folder"):
        DocumentFiles(tmp_path / "none")
    files = DocumentFiles(tmp_path / "empty.txt")
    (tmp_path / "empty.txt").unlink()
    with pytest.raises(DataError, match="No such file"):
        list(files.read(None))


@pytest.mark.parametrize("state", [{}, {"epoch": -1, "block": 0, "given": 0, "place": None}, {"epoch": 0, "block": 0}])
def test_states_that_are_none_are_refused(tmp_path: Path, state: dict) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CheckpointError, match="wanted epoch"):
        DocumentStream(DocumentFiles(tmp_path / "a.txt"), buffer=1, seed=0).load_state(state)
    with pytest.raises(CheckpointError, match="`place`"):
        list(DocumentFiles(tmp_path / "a.txt").read([0, "x", 1]))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_windows_are_the_same_for_any_number_of_workers(workers: int) -> None:
    tokens = torch.arange(1000, dtype=torch.int32)
    plain, ahead = (WindowSampler(tokens, seq_len=10, batch=7, seed=3, workers=n) for n in (0, workers))
    for step in range(60):
        mine, found = plain.next(), ahead.next()
        assert torch.equal(mine.inputs, found.inputs) and torch.equal(mine.targets, found.targets)
        if step == 23:
            state = ahead.state()
            ahead = WindowSampler(tokens, seq_len=10, batch=7, seed=3, workers=workers)
            ahead.load_state(state)


def test_copies_fall_on_one_side_of_a_split() -> None:
    documents = [*TEXTS, *TEXTS[:50], *(f" {t}\n" for t in TEXTS[50:100])] * 3
    random.Random(1).shuffle(documents)
    train, held_out = split_documents(documents, 0.2)
    assert len(train) + len(held_out) == len(documents)
    assert shared_documents(train, held_out) == []
    assert shared_documents(["a", "b "], [" b", "c"]) == [" b"]
    many = [str(n) for n in range(20_000)]
    assert abs(sum(is_held_out(d, 0.2) for d in many) / len(many) - 0.2) < 0.01
    assert [is_held_out(d, 0.2) for d in many] != [is_held_out(d, 0.2, seed=1) for d in many]


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_batches_made_ahead_are_the_same(workers: int) -> None:
    moments = random.Random(workers)

    def slow(number: int) -> int:
        sum(range(moments.randrange(2000)))
        if number == 90:
            raise DataError("batch 90")
        return number * number

    source = Prefetch(slow, workers=workers)
    found = [source.next() for _ in range(40)]
    source.load_state({"batches": 35})
    found += [source.next() for _ in range(55)]
    assert found == [n * n for n in range(40)] + [n * n for n in range(35, 90)]
    with pytest.raises(DataError, match="batch 90"):
        source.next()
    source.close()
    with pytest.raises(CheckpointError):
        source.load_state({"batches": "x"})
    with pytest.raises(ConfigError, match="`workers`"):
        Prefetch(slow, workers=-1)
