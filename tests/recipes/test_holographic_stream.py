"""Holographic runs on streams: one round, exact resume, held-out documents apart, within a budget."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from holonomy.core.errors import ConfigError, DataError
from holonomy.data.repeats import Repeats
from holonomy.data.text import load_text
from holonomy.data.words import WordTokenizer
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import Session
from holonomy.models.holographic.config import HolographicRunConfig
from holonomy.models.holographic.learner import LastBatch
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.streaming import WordStream, beginning
from holonomy.recipes import configure, launch
from holonomy.recipes.holographic_runs import forget
from holonomy.recipes.holographic_stream import (
    FirstPart,
    cache_of,
    documents_of,
    prepare_stream,
    read_first,
    sides_of,
    stream_baselines,
    training_stream,
    unrepeated,
)
from holonomy.recipes.results import loss_rows
from holonomy.train.distributed import World
from holonomy.train.monitor import SilentProgress

SMALL = (
    "model.batch_size=400",
    "model.counts.classes=[20]",
    "model.similarity.dim=16",
    "model.mixture.product_steps=5",
    "model.mixture.em_steps=20",
    "model.replay=4000",
    "model.memory=192",
    "data.documents.first=60",
    "data.documents.held_out=0.1",
    "data.documents.apart=0.1",
    "data.documents.shuffle=16",
    "train.cadence.save_every=3",
)


def texts() -> list[str]:
    whole = load_text("pydoc").text[:60_000]
    return [p for p in re.split(r"\n\n+", whole) if len(p) > 20]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream") / "all.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts()))
    return path


def configured(source: Path | str, *overrides: str) -> HolographicRunConfig:
    config = configure("holographic-openwebtext", overrides=(f"data.source={source}", *SMALL, *overrides)).config
    assert isinstance(config, HolographicRunConfig)
    return config


def trained(config: HolographicRunConfig, root: Path, name: str = "a"):
    return launch.train(config, recipe="h", run=name, root=root, progress=SilentProgress())


def interrupted(config: HolographicRunConfig, root: Path, batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run `cut` that ends where it wants one batch more."""
    honest, drawn = WordStream.next, []

    def failing(self: WordStream):
        drawn.append(1)
        if len(drawn) == batches:
            raise OSError("the power fails")
        return honest(self)

    with monkeypatch.context() as patch:
        patch.setattr(WordStream, "next", failing)
        with pytest.raises(OSError, match="power"):
            trained(config, root, "cut")


def streamed(config: HolographicRunConfig, batch: int = 400) -> WordStream:
    first = read_first(config.data)
    return WordStream(
        lambda: training_stream(config.data), first.tokenizer, batch=batch, reach=6, replay=3000, apart=first.apart
    )


def drained(source: WordStream) -> list[tuple[list[int], list[int]]]:
    batches = []
    while not source.over:
        batch = source.next()
        batches.append((batch.inputs[0].tolist(), batch.targets[0].tolist()))
    return batches


def test_a_stream_gives_each_training_word_once_and_no_other(lines: Path) -> None:
    config = configured(lines)
    source = streamed(config)
    tokenizer, stream, wanted = source.tokenizer, training_stream(config.data), []
    while True:
        words = tokenizer.encode(stream.next()).tolist()
        if stream.epoch:
            break
        wanted += words
    batches = drained(source)
    assert [t for _, targets in batches for t in targets if t >= 0] == wanted
    assert max(sum(t >= 0 for t in targets) for _, targets in batches) == 400
    kept = [t for t in texts() if len(t) >= 50]
    sides = [sides_of(config.data)(t) for t in kept]
    assert {"train", "test", "apart"} == set(sides)
    assert len(wanted) == sum(len(tokenizer.encode(t)) for t, s in zip(kept, sides, strict=True) if s == "train")
    with pytest.raises(DataError, match="second round"):
        source.next()


def test_short_documents_are_counted(lines: Path) -> None:
    for first, least in ((60, 50), (60, 200), (10_000, 50)):
        config = configured(lines, f"data.documents.first={first}", f"data.documents.least={least}")
        found, wanted = read_first(config.data), [len(t) < least for t in texts()[:first]]
        assert (found.short, found.documents) == (sum(wanted), len(wanted)) and found.short > 0
    work = prepare_stream(config, "tokenizer.json", saved=None, world=World())
    assert (
        work.header["documents skipped"]
        == f"{sum(wanted):,} of the first {len(wanted):,}, shorter than data.documents.least"
    )


def test_words_are_what_the_pattern_says(lines: Path, tmp_path: Path) -> None:
    pattern = "[a-z]+|[.]"
    config = configured(lines, f"data.pattern='{pattern}'", f"data.documents.cache={tmp_path}")
    first, plain = read_first(config.data), read_first(configured(lines).data)
    train = [t for t in texts()[:60] if len(t) >= 50 and sides_of(config.data)(t) == "train"]
    counts = Counter(word for text in train for word in re.findall(pattern, text))
    assert set(first.tokenizer.symbols[2:]) == {word for word, n in counts.items() if n >= config.data.min_count}
    assert not first.tokenizer.unknown(" ".join(first.tokenizer.symbols[2:])) and "," in plain.tokenizer.symbols
    # Ids on disk are those of one pattern, too.
    made = [cache_of(config.data, t) for t in (first.tokenizer, plain.tokenizer)]
    whole = [t for t in texts() if len(t) >= 50 and sides_of(config.data)(t) == "train"]
    assert len(list(tmp_path.iterdir())) == 2
    for cached, tokenizer in zip(made, (first.tokenizer, plain.tokenizer), strict=True):
        assert cached is not None
        assert [ids.tolist() for ids, _ in cached.read(None)] == [tokenizer.encode(t).tolist() for t in whole]


def test_a_stream_goes_on_exactly_from_every_place(lines: Path) -> None:
    config = configured(lines)
    whole = drained(streamed(config, 900))
    for stop in range(1, len(whole), 2):
        one, other = streamed(config, 900), streamed(config, 900)
        for _ in range(stop):
            one.next()
        other.load_state(json.loads(json.dumps(one.state())))
        assert drained(other) == whole[stop:]


def test_the_last_batch_brings_what_the_fit_needs(lines: Path) -> None:
    config = configured(lines)
    source, batch = streamed(config), None
    while not source.over:
        batch = source.next()
    assert isinstance(batch, LastBatch) and batch.apart is not None
    again = beginning(lambda: training_stream(config.data), source.tokenizer, 3000)
    assert len(batch.text) == 3000 and np.array_equal(batch.text, again[0]) and np.array_equal(batch.starts, again[1])
    assert np.array_equal(batch.apart[0], read_first(config.data).apart[0])


def test_token_ids_on_disk_make_the_same_run(lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("train.words=2000", "model.replay=1000")
    plain = trained(configured(lines, *few), tmp_path, "plain")
    config = configured(lines, *few, f"data.documents.cache={tmp_path / 'ids'}", "data.documents.workers=2")
    cached = trained(config, tmp_path, "cached")
    assert cached.metrics["val/loss"] == plain.metrics["val/loss"] and cached.steps == plain.steps
    one, other = (launch.read_checkpoint(n, tmp_path).tensors for n in ("plain", "cached"))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)

    interrupted(config, tmp_path, 4, monkeypatch)
    shutil.rmtree(tmp_path / "ids")
    again = launch.resume("cut", root=tmp_path, progress=SilentProgress())
    assert again.metrics["val/loss"] == plain.metrics["val/loss"]


def test_what_is_learned_almost_word_for_word_is_not_evaluated_on(
    lines: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = ("train.cadence.eval_every=100000",)
    plain = trained(configured(lines, *few), tmp_path, "plain")
    sides = sides_of(configured(lines).data)
    held = next(t for t in texts() if sides(t) == "test" and len(t) > 300)
    # One word more makes another document, which is on the side to learn for some word.
    copies = (f"{held} {word}" for word in ["one", "two", "three", "four", "five"])
    copy = next(c for c in copies if sides(c) == "train")
    path = tmp_path / "more.jsonl"
    path.write_text(lines.read_text() + json.dumps({"text": copy}) + "\n")
    found = trained(configured(path, *few), tmp_path, "more")
    assert plain.metrics["val/repeated_documents"] + 1 == found.metrics["val/repeated_documents"]
    assert "are repeated" in caplog.text
    assert launch.evaluate("more", root=tmp_path)["val/loss"] == found.metrics["val/loss"]
    tokens = WordTokenizer.train(texts()).encode(held)
    first = read_first(configured(path).data)
    assert len(first.test[0]) > len(unrepeated(first, again(first, path))[0].test[0]) > len(tokens)


def again(first: FirstPart, path: Path) -> Repeats:
    """What the whole training side of some lines repeats."""
    found, stream = Repeats(*first.test), training_stream(configured(path).data)
    while True:
        words = first.tokenizer.encode(stream.next())
        if stream.epoch:
            return found
        found.see(words)


def test_token_ids_of_data_sets_are_not_kept(lines: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    source = tmp_path / "set"
    source.mkdir()
    (source / "a.jsonl").write_text(lines.read_text())
    config = configured(f"hub:{source}", f"data.documents.cache={tmp_path / 'ids'}")
    with pytest.raises(ConfigError, match=r"`data.documents.cache`.*drop the key"):
        trained(config, tmp_path)
    assert not (tmp_path / "ids").exists() and not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match=r"workers.*cache is null"):
        configured(lines, "data.documents.workers=2")


def test_a_run_learns_a_stream_and_an_interrupted_one_goes_on_exactly(
    lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(lines)
    whole = trained(config, tmp_path, "whole")
    assert whole.steps > 8
    assert max(whole.metrics["val/loss"], whole.metrics["baseline/kn5"]) < whole.metrics["baseline/unigram"]
    if hashlib.sha256(load_text("pydoc").text.encode()).hexdigest().startswith("71f2ff5d"):
        # So little of the reference text of another Python need not do.
        assert whole.metrics["val/loss"] < whole.metrics["baseline/kn5"]
    interrupted(config, tmp_path, 6, monkeypatch)
    again = launch.resume("cut", root=tmp_path, progress=SilentProgress())
    assert again.metrics["val/loss"] == whole.metrics["val/loss"]
    one, other = (launch.read_checkpoint(n, tmp_path).tensors for n in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)
    # The same counts as those of all its training documents at once.
    first = read_first(config.data)
    plain = HolographicModel(config.model, first.tokenizer)
    plain.learn_text(*beginning(lambda: training_stream(config.data), first.tokenizer, 10**9))
    found = launch.load("whole", root=tmp_path)
    for mine, theirs in zip(found.memories.grams, plain.memories.grams, strict=True):
        for order in range(1, mine.trie.order + 1):
            assert all(
                np.array_equal(a, b) for a, b in zip(mine.trie.grams(order), theirs.trie.grams(order), strict=True)
            )
    metrics = launch.evaluate("whole", root=tmp_path, with_baselines=True)
    assert metrics["val/loss"] == pytest.approx(whole.metrics["val/loss"], abs=1e-9)
    assert metrics["baseline/kn5"] == pytest.approx(whole.metrics["baseline/kn5"])
    stored, measured = launch.verify("whole", root=tmp_path)
    assert stored == measured
    with pytest.raises(ConfigError, match="not kept"):
        forget("whole", str(lines), root=tmp_path, read=lambda run: launch.read_checkpoint(run, tmp_path))
    lines_before = lines.read_text()
    lines.write_text(lines_before.replace("the", "teh", 5))
    with pytest.raises(DataError, match="does not begin with"):
        launch.verify("whole", root=tmp_path)
    lines.write_text(lines_before)


def test_counts_that_dropped_grams_are_not_called_kneser_ney(lines: Path) -> None:
    config = configured(lines)
    first = read_first(config.data)
    words, starts = beginning(lambda: training_stream(config.data), first.tokenizer, 10**9)
    model = HolographicModel(config.model, first.tokenizer)
    model.learn_text(words, starts)
    whole = stream_baselines(model, first)
    assert whole.keys() == {"baseline/unigram", "baseline/kn5"}
    counts = model.memories.counts
    counts.prune(2, lowest=2)
    less = stream_baselines(model, first)
    assert less.keys() == {"baseline/unigram", "baseline/counts"}
    assert less["baseline/unigram"] == whole["baseline/unigram"]
    assert less["baseline/counts"] > whole["baseline/kn5"]
    assert "exact counts, rare ones dropped" in [name for name, _, _ in loss_rows(less)]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kept"), [(2, False), (2, True), (4, False)])
def test_several_processes_learn_what_one_does(processes: int, kept: bool, lines: Path, tmp_path: Path) -> None:
    settings = ["model.tower.role=mirror", "model.tower.levels=3", "model.tower.channels=4", f"data.source={lines}"]
    one = trained(configured(lines, *settings), tmp_path / "runs", "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    # All kinds may run at the same time.
    command += ["--master-port", str(29651 + processes + kept), "-m", "--", "holonomy", "train"]
    command += ["holographic-openwebtext", "--run", "two", "--threads", "1", "--quiet"]
    settings += ["data.documents.cache=ids"] if kept else []
    command += [part for setting in [*SMALL, *settings] for part in ("--set", setting)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    alone, both = (launch.load(name, root=tmp_path / "runs") for name in ("one", "two"))
    for mine, theirs in zip(alone.memories.grams, both.memories.grams, strict=True):
        for order in range(1, mine.trie.order + 1):
            assert all(
                np.array_equal(a, b) for a, b in zip(mine.trie.grams(order), theirs.trie.grams(order), strict=True)
            )
    assert torch.equal(alone.mirror.tower.store, both.mirror.tower.store)
    assert np.array_equal(alone.memories.unigram, both.memories.unigram)
    ids = torch.from_numpy(read_first(configured(lines).data).test[0][:100])[None]
    assert float((alone.log_probs(ids) - both.log_probs(ids)).abs().max()) < 1e-6
    assert launch.evaluate("two", root=tmp_path / "runs")["val/loss"] == pytest.approx(one.metrics["val/loss"])


def test_every_kind_of_source_gives_the_same_documents(lines: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("pyarrow")
    wanted = [text for text, _ in documents_of(configured(lines).data).read(None)]
    packed, folder = tmp_path / "all.jsonl.gz", tmp_path / "folder"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    folder.mkdir()
    raw = lines.read_text().splitlines(keepends=True)
    (folder / "a.jsonl").write_text("".join(raw[:50]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("".join(raw[50:]).encode()))
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "a.jsonl", "a.jsonl")
        archive.write(folder / "b.jsonl.gz", "b.jsonl.gz")
    datasets.Dataset.from_dict({"text": wanted}).to_parquet(str(tmp_path / "all.parquet"))
    sources = [packed, folder, tmp_path / "all.zip", tmp_path / "all.parquet", f"hub:{lines}"]
    for source in sources:
        documents = documents_of(configured(source).data)
        found = list(documents.read(None))
        assert [text for text, _ in found] == wanted, source
        assert [text for text, _ in documents.read(found[59][1])] == wanted[60:], source
    with pytest.raises(DataError, match="cannot be opened"):
        documents_of(configured(f"hub:{tmp_path / 'nothing'}").data)


def test_a_run_learns_parquet_through_the_library(lines: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "all.parquet"))
    one = streamed(configured(lines))
    other = streamed(configured(tmp_path / "all.parquet"))
    for _ in range(3):
        one.next()
        other.next()
    assert drained(one) == drained(other)
    stopped = streamed(configured(tmp_path / "all.parquet"))
    stopped.load_state(streamed(configured(lines)).state() | {"documents": streamed_place(tmp_path / "all.parquet")})
    assert not stopped.over


def streamed_place(path: Path):
    return streamed(configured(path)).state()["documents"]


def test_what_cannot_work_is_refused(lines: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.documents\.held_out"):
        read_first(configured(lines, "data.documents.held_out=0.000001").data)
    with pytest.raises(ConfigError, match="tokens"):
        configured(lines, "data.tokens=chars")
    with pytest.raises(ConfigError, match=r"model\.memory.*MiB at least"):
        trained(configured(lines, "model.memory=20"), tmp_path)
    assert not (tmp_path / "a").exists()
    (tmp_path / "bad.zip").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="zip archive"):
        documents_of(configured(tmp_path / "bad.zip").data)


def test_a_stream_with_too_few_words_to_evaluate_on_is_refused(tmp_path: Path) -> None:
    whole = texts()
    sides = sides_of(configured(tmp_path).data)
    held = [t for t in whole if sides(t) == "test" and 50 <= len(t) < 300][:2]
    rest = [t for t in whole if sides(t) != "test"]
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in held + rest))
    config = configured(path)
    count = len(read_first(config.data).test[0])
    assert 2 <= count < 100
    with pytest.raises(
        DataError, match=rf"has {count} held-out words, .*data.documents.held_out.*data.documents.first"
    ):
        trained(config, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", [34_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_a_large_vocabulary_trains_evaluates_and_talks(words: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frequent = np.exp(random.random(words // 2) * np.log(words)).astype(int)
    said = random.permutation(np.concatenate([frequent, np.arange(words + words // 10)]))
    documents = [" ".join(f"w{n}" for n in part) for part in np.array_split(said, len(said) // 200)]
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    config = configured(
        path, "data.documents.first=20000", f"data.documents.vocab_size={words}", "data.min_count=1",
        f"data.documents.held_out={700 / words}", f"data.documents.apart={700 / words}", "model.memory=null",
        "model.batch_size=8192", "model.counts.order=3", "model.counts.skips=[]", "model.mixture.positions=100",
        "model.mixture.product_positions=50",
    )  # fmt: skip
    report = trained(config, tmp_path)
    model, _ = launch.load_speaker("a", root=tmp_path)
    assert model.vocab_size == words and model.memories.most == 4096
    found = launch.evaluate("a", root=tmp_path)
    assert found["val/loss"] == pytest.approx(report.metrics["val/loss"], abs=1e-6)
    session = Session(model, Sampling(temperature=1.0, selector="gibbsmax", repetition=1.5), seed=1)
    session.feed("w1 w2 w3")
    assert "w" in "".join(session.reply(max_tokens=4))
