"""Windows: every token is used, targets follow inputs, and the order continues exactly."""

from __future__ import annotations

import itertools

import pytest
import torch

from holonomy.core.errors import CheckpointError, DataError
from holonomy.core.learner import IGNORE_INDEX
from holonomy.data.tokens import PassageSampler, WindowSampler, validation_batches


def sampler(length: int = 1000, seed: int = 3, batch: int = 4, seq_len: int = 10) -> WindowSampler:
    return WindowSampler(torch.arange(length), seq_len=seq_len, batch=batch, seed=seed)


def test_targets_are_the_next_tokens() -> None:
    source = sampler()
    for _ in range(60):
        batch = source.next()
        assert batch.inputs.shape == batch.targets.shape == (4, 10)
        assert batch.count == 40
        assert torch.equal(batch.targets, batch.inputs + 1)
        assert torch.equal(batch.inputs, batch.inputs[:, :1] + torch.arange(10))


def test_an_epoch_visits_each_window_once() -> None:
    source = sampler()
    per_epoch = (1000 - 10) // 10
    starts = torch.cat([source.next().inputs[:, 0] for _ in range(per_epoch)]).tolist()
    epochs = [starts[i * per_epoch : (i + 1) * per_epoch] for i in range(4)]
    for epoch in epochs:
        assert len(set(epoch)) == per_epoch
        assert len({s % 10 for s in epoch}) == 1
    assert len({tuple(e) for e in epochs}) == 4
    assert len({e[0] % 10 for e in epochs}) > 1


@pytest.mark.parametrize("drawn", [0, 1, 24, 25, 77])
def test_state_continues_exactly(drawn: int) -> None:
    first = sampler()
    for _ in range(drawn):
        first.next()
    second = sampler()
    second.load_state(first.state())
    for _ in range(60):
        assert torch.equal(first.next().inputs, second.next().inputs)


def test_seeds_give_different_orders() -> None:
    assert not torch.equal(sampler(seed=1).next().inputs, sampler(seed=2).next().inputs)


def test_the_shortest_text_works_and_a_shorter_one_is_refused() -> None:
    batch = sampler(length=41).next()
    assert torch.equal(batch.targets, batch.inputs + 1)
    with pytest.raises(DataError, match=r"40 tokens, one batch needs 41.*data.batch.*data.seq_len"):
        sampler(length=40)


def test_a_foreign_state_is_refused() -> None:
    for state in ({}, {"windows": -1}, {"windows": "3"}):
        with pytest.raises(CheckpointError, match="windows"):
            sampler().load_state(state)


@pytest.mark.parametrize("length", [2, 10, 11, 12, 101, 128])
def test_validation_predicts_each_token_once(length: int) -> None:
    tokens = torch.arange(length) + 7
    targets, count = [], 0
    for batch in validation_batches(tokens, seq_len=10, batch=3):
        valid = batch.targets != IGNORE_INDEX
        assert torch.equal(batch.targets[valid], batch.inputs[valid] + 1)
        assert batch.count == int(valid.sum())
        targets += batch.targets[valid].tolist()
        count += batch.count
    assert targets == (torch.arange(1, length) + 7).tolist()
    assert count == length - 1


def test_one_token_cannot_be_evaluated() -> None:
    with pytest.raises(DataError, match="at least 2"):
        next(validation_batches(torch.tensor([1]), seq_len=4, batch=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_windows_of_a_passage_go_on_where_the_last_ones_ended(workers: int) -> None:
    options = {"windows": 5, "seq_len": 10, "batch": 4, "seed": 3}
    source = PassageSampler(torch.arange(1003), workers=workers, **options)
    batches = [source.next() for _ in range(95)]
    assert [n for n, batch in enumerate(batches) if batch.fresh] == list(range(0, 95, 5))
    for before, after in itertools.pairwise(batches):
        assert torch.equal(after.targets, after.inputs + 1)
        assert after.fresh or torch.equal(after.inputs[:, 0], before.targets[:, -1])
    # Nineteen passages an epoch: the first four batches of them and three of the fifth.
    passages = torch.cat([torch.cat([b.inputs for b in batches[n : n + 5]], 1) for n in range(0, 25, 5)])
    assert len(passages[:19].unique()) == 19 * 50
    again = PassageSampler(torch.arange(1003), **options)
    again.load_state({"batches": 33})
    assert torch.equal(again.next().inputs, batches[33].inputs)
    with pytest.raises(DataError, match="one batch needs 201"):
        PassageSampler(torch.arange(200), **options)
