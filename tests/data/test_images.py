"""Pictures and clips from files, and a model that learns to name what it sees."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError, DataError
from holonomy.core.flat import FlatParams
from holonomy.core.learner import IGNORE_INDEX
from holonomy.core.tape import Tape
from holonomy.data.images import Caption, WeightedSources, load_frames, patches, read_captions
from holonomy.data.tokenizer import CharTokenizer
from holonomy.learn.echo import EchoLearner, Part
from holonomy.models.lior.config import DataConfig, LiorConfig, ModelConfig, OptimConfig
from holonomy.models.lior.learner import flat_adamw
from holonomy.models.lior.model import build_network
from holonomy.nn.containers import Chain
from holonomy.nn.embedding import Embedding
from holonomy.nn.heads import SoftmaxCrossEntropy
from holonomy.nn.prefix import Prefixed, PrefixEmbedding

PIL = pytest.importorskip("PIL.Image")


def drawn(path: Path, color: tuple[int, int, int]) -> None:
    PIL.new("RGB", (20, 12), color).save(path)


def test_pictures_come_from_lines_and_from_folders(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    drawn(tmp_path / "images" / "red.png", (255, 0, 0))
    drawn(tmp_path / "images" / "blue.png", (0, 0, 255))
    listing = tmp_path / "list.jsonl"
    listing.write_text('{"image": "images/red.png", "text": "red"}\n\n{"image": "images/blue.png", "text": "blue"}\n')
    (tmp_path / "captions.json").write_text(json.dumps({"red.png": "red", "blue.png": "blue"}))
    by_line, by_folder = read_captions(listing), read_captions(tmp_path)
    assert [c.text for c in by_line] == ["red", "blue"]
    assert {(c.files, c.text) for c in by_folder} == {(c.files, c.text) for c in by_line}
    pixels = load_frames(by_line[0], size=8)
    assert pixels.shape == (1, 3, 8, 8)
    assert torch.equal(pixels[0, :, 4, 4], torch.tensor([1.0, -1.0, -1.0]))


def test_clips_are_evenly_spread_frames(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for n in range(10):
        drawn(tmp_path / "clip" / f"frame_{n:04d}.png", (25 * n, 0, 0))
    (tmp_path / "list.jsonl").write_text('{"frames_dir": "clip", "text": "dawn"}\n')
    (caption,) = read_captions(tmp_path / "list.jsonl")
    red = load_frames(caption, size=4, frames=4)[:, 0, 0, 0]
    assert torch.allclose(red, torch.tensor([0, 75, 150, 225]) / 127.5 - 1)


def test_patches_are_cut_row_by_row_and_clips_are_pooled() -> None:
    frame = torch.arange(3 * 8 * 8).float().view(1, 3, 8, 8)
    rows = patches(frame, 4)
    assert rows.shape == (4, 48)
    for n, (y, x) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
        assert torch.equal(rows[n], frame[0, :, y : y + 4, x : x + 4].flatten())
    clip = torch.randn(5, 3, 3, 8, 8)
    pooled = patches(clip, 2)
    assert pooled.shape == (5, 3 * 4, 12)
    alone = patches(clip[:, :1], 2)
    assert torch.allclose(pooled[:, 0], alone[:, [0, 1, 4, 5]].mean(1), atol=1e-6)
    with pytest.raises(ConfigError, match="does not divide"):
        patches(frame, 3)
    with pytest.raises(ConfigError, match="odd"):
        patches(torch.zeros(2, 3, 6, 6), 2)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"image": "no.png", "text": "a"}', "line 1: .*is not there"),
        ('{"image": "no.png"}', "line 1 has no `text`"),
        ("nonsense", "line 1 has no"),
        ('{"image": 3, "text": "a"}', "strings"),
        ("", "names no picture"),
    ],
)
def test_bad_listings_name_the_line(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "list.jsonl").write_text(line)
    with pytest.raises(DataError, match=words):
        read_captions(tmp_path / "list.jsonl")
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(DataError, match="is no picture"):
        load_frames(Caption((tmp_path / "bad.png",), "x"), size=4)
    with pytest.raises(DataError, match=r"captions\.json"):
        read_captions(tmp_path)


def test_sources_are_drawn_by_weight_and_from_any_place() -> None:
    sources = WeightedSources([0.7, 0.2, 0.1], seed=3)
    found = list(islice(sources.draw(), 30_000))
    expected = np.array([0.7, 0.2, 0.1]) * len(found)
    square = float(((np.bincount(found) - expected) ** 2 / expected).sum())
    assert square < 9.2, "chi-square with two degrees of freedom, 1 %"
    assert list(islice(sources.draw(5000), 3000)) == found[5000:8000]
    with pytest.raises(ConfigError, match="not all zero"):
        WeightedSources([0.0], seed=0)


NAMES, CLASSES = "abcdefgh", 8


def pictures(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy pictures of eight kinds: a bright patch in one of eight places."""
    kind = torch.randint(CLASSES, (count,), generator=generator)
    frames = torch.randn(count, 1, 3, 16, 16, generator=generator) * 0.5
    for n, k in enumerate(kind.tolist()):
        y, x = divmod(k, 4)
        frames[n, :, :, 8 * y : 8 * y + 8, 4 * x : 4 * x + 4] += 1.0
    return patches(frames, 4), kind


def captioned(count: int, generator: torch.Generator, *, shuffled: bool = False) -> tuple[Prefixed, Tensor]:
    rows, kind = pictures(count, generator)
    if shuffled:
        rows = rows[torch.randperm(count, generator=generator)]
    ids = torch.stack([torch.full_like(kind, CLASSES), kind], 1)
    targets = torch.full((count, rows.shape[1] + 2), IGNORE_INDEX)
    targets[:, -2] = kind
    return Prefixed(ids, rows, torch.zeros(count, dtype=torch.int64)), targets


def network(places: int = 16, vocab_size: int = CLASSES + 1) -> Chain:
    """A lior network whose tokens stand behind patches of 48 numbers."""
    config = LiorConfig(
        model=ModelConfig(d=32, n_osc=32, hidden=32, heads=2, blocks=2, window=32), data=DataConfig(seq_len=18)
    )
    first, *rest = build_network(config, vocab_size=vocab_size)
    assert isinstance(first, Embedding)
    generator = torch.Generator().manual_seed(0)
    return Chain([PrefixEmbedding(first, features=48, places=places, modalities=3, generator=generator), *rest])


def echo_learner(net: Chain) -> EchoLearner:
    optim = OptimConfig()
    return EchoLearner(
        net,
        SoftmaxCrossEntropy(),
        optimiser=lambda params, decayed: flat_adamw(optim, params, decayed),
        schedule=lambda progress: 4e-3 * (1 - progress),
    )


def test_prefix_statistics_equal_autograd() -> None:
    net, generator = network().double(), torch.Generator().manual_seed(1)
    batch, targets = captioned(5, generator)
    batch = batch._replace(patches=batch.patches.double(), modality=torch.tensor([0, 2, 0, 1, 2]))
    loss, acc, tape = SoftmaxCrossEntropy(), FlatParams(net, frozenset()).statistics(), Tape()
    loss.free(net.free(batch, None), targets, None).backward()
    with torch.no_grad():
        loss.free(net.free(batch, tape), targets, tape)
        net.echo(tape, loss.nudge(tape), acc)
    for name, p in net.named_parameters():
        assert p.grad is not None
        assert torch.allclose(acc[p], p.grad, rtol=1e-9, atol=1e-13), name


def test_captions_follow_the_pictures() -> None:
    learner = echo_learner(network())
    generator, steps = torch.Generator().manual_seed(2), 250
    for step in range(steps):
        batch, targets = captioned(32, generator)
        learner.train_step(Part(batch, targets, 32), progress=step / steps)  # type: ignore[arg-type]

    def accuracy(*, shuffled: bool) -> float:
        batch, targets = captioned(400, torch.Generator().manual_seed(9), shuffled=shuffled)
        with torch.no_grad():
            found = learner.net.free(batch, None).argmax(0)
        return float((found[:, -2] == targets[:, -2]).double().mean())

    assert accuracy(shuffled=False) >= 0.95
    assert accuracy(shuffled=True) <= 0.2


LIGHTS = {"dawn": (0, 1, 2, 3), "dusk": (3, 2, 1, 0), "noon": (0, 3, 3, 0), "wink": (3, 0, 0, 3)}


def film(folder: Path, light: str, generator: torch.Generator) -> None:
    """Seven frames of a noisy ground whose light changes; evenly spread ones are numbers 0, 2, 4 and 6."""
    folder.mkdir()
    for n in range(7):
        frame = torch.randint(90, (16, 16, 3), generator=generator, dtype=torch.uint8)
        PIL.fromarray((frame + 50 * LIGHTS[light][n // 2]).numpy()).save(folder / f"frame_{n:04d}.png")


def test_words_follow_the_light_in_films_from_disk(tmp_path: Path) -> None:
    """Films and captions as files, read, cut into pooled patches, learned by echo, named by incremental steps."""
    generator, lines = torch.Generator().manual_seed(0), []
    for n in range(200):
        light = list(LIGHTS)[n % 4]
        film(tmp_path / f"film{n}", light, generator)
        lines.append(json.dumps({"frames_dir": f"film{n}", "text": light}))
    (tmp_path / "films.jsonl").write_text("\n".join(lines))
    captions = read_captions(tmp_path / "films.jsonl")
    rows = torch.stack([patches(load_frames(c, size=16, frames=4), 4) for c in captions])
    assert rows.shape == (200, 4 * 4, 48)
    tokenizer = CharTokenizer.from_text("\n" + "".join(LIGHTS))
    words = [torch.as_tensor(tokenizer.encode(f"\n{c.text}\n")) for c in captions]
    text = torch.stack(words)
    targets = torch.full((200, 16 + 5), IGNORE_INDEX)
    targets[:, 16:] = text[:, 1:]
    learner, shown = echo_learner(network(16, tokenizer.vocab_size)), 160
    kind = torch.full((200,), 2)
    for step in range(120):
        batch = torch.randperm(shown, generator=generator)[:32]
        inputs = Prefixed(text[batch, :-1], rows[batch], kind[batch])
        learner.train_step(Part(inputs, targets[batch], 32), progress=step / 120)  # type: ignore[arg-type]

    def named(clips: Tensor) -> list[str]:
        """What greedy steps write behind clips that were never seen."""
        with torch.no_grad():
            state = learner.net.start(len(clips))
            logits, state = learner.net.advance(Prefixed(text[shown:, :1], clips, kind[shown:]), state)
            logits, found = logits[..., -1], []
            for _ in range(4):
                found.append(logits.argmax(0))
                logits, state = learner.net.step(found[-1], state)
        return [tokenizer.decode(ids).strip() for ids in torch.stack(found, 1).tolist()]

    wanted = [c.text for c in captions[shown:]]
    right = sum(a == b for a, b in zip(named(rows[shown:]), wanted, strict=True))
    assert right >= 0.9 * len(wanted)
    # The first frame of a film does not say how the light changes.
    still = rows[shown:].unflatten(1, (4, 4))[:, :1].expand(-1, 4, -1, -1).flatten(1, 2)
    assert sum(a == b for a, b in zip(named(still), wanted, strict=True)) <= 0.5 * len(wanted)
