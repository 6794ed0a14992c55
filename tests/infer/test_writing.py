"""Inhibition, the golden kernel and abstention on a model whose distributions are a table."""

from __future__ import annotations

import math

import pytest
import torch

from holonomy.core.errors import ConfigError
from holonomy.infer.sampling import Sampling, sharpen
from holonomy.infer.writing import Commitment, Style, entropy, write

SIZE = 6


class Chain:
    """The next token depends on the last one alone."""

    tokenizer = None
    context_limit = None

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table.log_softmax(1)

    def log_probs(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids]

    def start(self, batch: int) -> None:
        return None

    def prefill(self, ids: torch.Tensor, state: None) -> tuple[torch.Tensor, None]:
        return self.table[ids[:, -1]], None

    def step(self, ids: torch.Tensor, state: None) -> tuple[torch.Tensor, None]:
        return self.table[ids], None


def chain(scale: float = 2.0) -> Chain:
    return Chain(scale * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0)))


def test_the_golden_kernel_is_a_power() -> None:
    logs = chain().table
    phi = (1 + 5**0.5) / 2
    expected = logs.exp().pow(phi) / logs.exp().pow(phi).sum(1, keepdim=True)
    found = sharpen(logs, Style(Sampling(1.0), kernel="phi").effective)
    assert torch.allclose(found, expected, atol=1e-6)


def test_inhibition_follows_its_formula() -> None:
    style = Style(inhibition=0.5, recent=3, fade=2.0, banned=(4,), exempt=(2,))
    logs = torch.zeros(2, SIZE)
    found = style.inhibited(logs, [[1, 0, 2, 1], []])
    expected = torch.zeros(2, SIZE)
    expected[0, 1] = -0.5
    expected[0, 0] = -0.5 * math.exp(-1)
    expected[:, 4] = -torch.inf
    assert torch.allclose(found, expected)
    assert not logs.any()


def test_a_text_is_the_same_alone_and_among_others() -> None:
    model, prompts = chain(), torch.tensor([[0], [3], [0]])
    together = write(model, prompts, 30, Style(banned=(5,)), seed=4)
    alone = [write(model, prompts[i : i + 1], 30, Style(banned=(5,)), seed=4)[0] for i in range(3)]
    assert [t.tokens for t in together] == [t.tokens for t in alone]
    assert together[0].tokens == together[2].tokens
    assert all(len(t.tokens) == 30 and 5 not in t.tokens and t.held is None for t in together)
    assert write(model, prompts, 30, Style(), seed=5)[0].tokens != together[0].tokens


def test_inhibition_keeps_a_text_from_repeating() -> None:
    table = torch.zeros(SIZE, SIZE)
    table[:, 0] = 1.5
    free, held = (write(Chain(table), torch.tensor([[1]]), 300, Style(inhibition=i), seed=0)[0] for i in (0.0, 3.0))
    again = [sum(a == b for a, b in zip(t.tokens, t.tokens[1:], strict=False)) for t in (free, held)]
    assert again[1] < again[0] / 2


def test_a_text_ends_at_its_end() -> None:
    table = torch.full((SIZE, SIZE), -50.0)
    table[0, 1] = table[1, 2] = table[2, 3] = 0
    assert write(Chain(table), torch.tensor([[0]]), 9, Style(stop=3))[0].tokens == [1, 2]


def test_the_gate_abstains_as_often_as_asked() -> None:
    random = torch.Generator().manual_seed(1)
    logs = (torch.randn(500, SIZE, generator=random) * torch.rand(500, 1, generator=random) * 5).log_softmax(1)
    gate = Commitment.abstaining(logs, 0.2)
    held = [gate.holds(row) for row in logs]
    assert abs(sum(h is not None for h in held) - 100) <= 1
    assert torch.isclose(entropy(torch.full((1, SIZE), 1 / SIZE).log()), torch.tensor(math.log(SIZE)))
    sure = Chain(torch.eye(SIZE).roll(1, 1) * 20)
    sure.table[3] = -math.log(SIZE)
    text = write(sure, torch.tensor([[0]]), 9, Style(Sampling(0.0)), commitment=Commitment(1.0))[0]
    assert text.tokens == [1, 2, 3] and text.held is not None and "entropy" in text.held
    text = write(sure, torch.tensor([[0]]), 9, Style(Sampling(0.0)), commitment=Commitment(least_prob=0.5))[0]
    assert text.held is not None and "probability" in text.held


@pytest.mark.parametrize(
    "call",
    [
        lambda: Style(inhibition=-1.0),
        lambda: Style(recent=0),
        lambda: Style(kernel="psi"),
        lambda: Commitment.abstaining(torch.zeros(0, 3)),
        lambda: write(chain(), torch.zeros(1, 0, dtype=torch.int64), 3, Style()),
    ],
)
def test_wrong_input_is_named(call) -> None:
    with pytest.raises(ConfigError, match="`"):
        call()
