"""Captured updates: the same as plain ones, on whatever batch is copied in, and refused where they cannot be."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from holonomy.core.errors import ConfigError
from holonomy.data.tokens import TokenBatch
from holonomy.learn.graphs import WARM_UP, CapturedStatistics
from holonomy.models.lior.config import DataConfig, LiorConfig, ModelConfig, TrainConfig
from holonomy.models.lior.learner import build_learner
from holonomy.recipes import configure, launch

VOCABULARY = 20
MODEL = ModelConfig(d=16, n_osc=16, hidden=16, heads=2, blocks=2)


def batches(count: int, device: str) -> list[TokenBatch]:
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (count, 4, 33), generator=drawn).to(device)
    # The last ones are of another shape.
    return [TokenBatch(i[: 4 - n // 15, :-1], i[: 4 - n // 15, 1:], 32 * (4 - n // 15)) for n, i in enumerate(ids)]


def trained(device: str, *, captured: bool, accumulate: int = 1) -> tuple[torch.Tensor, list[float]]:
    train = TrainConfig(cuda_graphs=captured, accumulate=accumulate)
    config = LiorConfig(model=MODEL, train=train, data=DataConfig(batch=4))
    learner = build_learner(config, vocab_size=VOCABULARY, device=torch.device(device))
    given = batches(20 if accumulate == 1 else 15, device)
    learner.setup(given[0])
    losses = [float(learner.train_step(batch, progress=n / 20).loss) for n, batch in enumerate(given)]
    return learner.flat.buffer.clone(), losses


class Recording:
    """Stands for a graph: what was captured is computed again, into the same memory."""

    def __init__(self, captured: CapturedStatistics, count: int) -> None:
        self.captured, self.count = captured, count

    def replay(self) -> None:
        mine = self.captured
        mine._loss.copy_(mine.statistics(mine._inputs, mine._targets, self.count))


class Stream:
    def wait_stream(self, other: object) -> None:
        """There is only one."""


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    made, capture = list[Recording](), CapturedStatistics._captured

    @contextmanager
    def nothing(_: object):
        yield

    def noted(self: CapturedStatistics, inputs, targets, count: int) -> Recording:
        capture(self, inputs, targets, count)
        made.append(Recording(self, count))
        return made[-1]

    for name, double in (("Stream", Stream), ("current_stream", Stream), ("CUDAGraph", object)):
        monkeypatch.setattr(torch.cuda, name, double)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, nothing)
    monkeypatch.setattr(CapturedStatistics, "_captured", noted)
    return made


@pytest.mark.parametrize("accumulate", [1, 2])
def test_replayed_updates_are_the_plain_ones(accumulate: int, recording: list[Recording]) -> None:
    plain, wanted = trained("cpu", captured=False, accumulate=accumulate)
    assert recording == []
    found, losses = trained("cpu", captured=True, accumulate=accumulate)
    assert losses == wanted
    assert torch.equal(found, plain)
    assert len(recording) == (2 if accumulate == 1 else 1)


def test_the_first_runs_are_not_captured(recording: list[Recording]) -> None:
    calls = []
    captured = CapturedStatistics(lambda ids, targets, count: torch.tensor(float(calls.append(count) or len(calls))))
    captured(torch.zeros(2, 3), torch.zeros(2, 3), 6)
    assert len(calls) == WARM_UP + 1 + 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_captured_updates_are_the_plain_ones(accumulate: int) -> None:
    plain, wanted = trained("cuda", captured=False, accumulate=accumulate)
    found, losses = trained("cuda", captured=True, accumulate=accumulate)
    assert losses == pytest.approx(wanted, rel=1e-6)
    assert float((found - plain).abs().max() / plain.abs().max()) <= 1e-6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("train.device=cpu",), "cuda_graphs contradicts device = cpu"),
        (("model.dropout=0.1", "data.carried=2"), r"cannot capture model\.dropout, data\.carried"),
        (("field.enabled=true",), r"field\.enabled"),
        (("train.spsa.groups=[log_radius]",), r"train\.spsa\.groups"),
        (("train.echo.memory=segment",), r"train\.echo\.memory"),
        (("model.pattern=ome",), "with e"),
    ],
)
def test_what_cannot_be_captured_is_refused(settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configure("lior", overrides=("train.cuda_graphs=true", *settings))


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
@pytest.mark.parametrize("setting", ["train.cuda_graphs=true", "train.precision=tf32"])
def test_options_of_gpus_are_refused_without_one(setting: str) -> None:
    with pytest.raises(ConfigError, match="torch sees none|only GPUs have"):
        launch._prepare(configure("lior", overrides=(setting,)).config)
