"""Retrieval weights against a plain double loop, and the thermodynamics behind its contrast."""

from __future__ import annotations

import math

import pytest
import torch

from holonomy.core.errors import ConfigError
from holonomy.nn.retrieval import Retrieval


def retrieval(window: int = 100) -> Retrieval:
    return Retrieval(8, 2, window=window, out_scale=0.5, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("window", [1, 4, 100])
def test_output_equals_a_double_loop(window: int) -> None:
    layer = retrieval(window)
    x = torch.randn(8, 2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        parts = layer.inp.free(x, None).view(3, 2, 4, 2, 9)
        gathered = torch.zeros(2, 4, 2, 9, dtype=torch.float64)
        for h in range(2):
            radius, interval = float(layer.log_radius[h].exp()), float(layer.log_interval[h].exp())
            for b in range(2):
                for i in range(9):
                    seen = range(max(0, i - window + 1), i + 1)
                    k = parts[0, h, :, b, i]
                    cost = [
                        radius
                        * math.sqrt(
                            float((k - parts[1, h, :, b, j]).square().sum()) + (interval * (i - j)) ** 2 + 0.01 * 4
                        )
                        for j in seen
                    ]
                    w = [math.exp(-c) for c in cost]
                    for j, weight in zip(seen, w, strict=True):
                        gathered[h, :, b, i] += weight / sum(w) * parts[2, h, :, b, j]
        expected = layer.out.free(gathered.view(8, 2, 9), None)
        assert (layer.free(x, None) - expected).abs().max() <= 1e-13


def test_without_cost_all_weigh_the_same_and_with_much_the_cheapest_wins() -> None:
    layer, generator = retrieval(), torch.Generator().manual_seed(3)
    k, m = torch.randn(2, 2, 9, 4, generator=generator, dtype=torch.float64).unbind(0)
    apart = torch.arange(9)[:, None] - torch.arange(9)

    def weights(log_radius: float) -> torch.Tensor:
        layer.log_radius.data.fill_(log_radius)
        return layer.weights(k, m, apart, k.new_empty(0), layer.scales())[0].detach()

    causal = (apart >= 0).double()
    assert torch.allclose(weights(0.4).sum(-1), torch.ones(2, 9, dtype=torch.float64), atol=1e-14)
    assert not weights(0.4)[:, apart < 0].any()
    assert torch.allclose(weights(-30.0), (causal / causal.sum(1, keepdim=True)).expand(2, 9, 9), atol=1e-12)
    cheapest = layer.score(k, m, apart, k.new_empty(0), layer.scales())[0].view(2, 9, 9)
    cheapest = cheapest.masked_fill(apart < 0, -torch.inf).argmax(-1, keepdim=True)
    assert bool((weights(12.0).gather(-1, cheapest) > 1 - 1e-6).all())


def test_weights_are_the_gradient_of_the_free_energy() -> None:
    cost = torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 1e-5

    def free_energy(c: torch.Tensor) -> torch.Tensor:
        return -torch.logsumexp(-c, 0)

    for j in range(7):
        unit = torch.nn.functional.one_hot(torch.tensor(j), 7).double() * step
        slope = (free_energy(cost + unit) - free_energy(cost - unit)) / (2 * step)
        assert abs(float(slope - torch.softmax(-cost, 0)[j])) < 1e-9


def test_state_does_not_grow() -> None:
    layer = retrieval(window=5)
    state = layer.start(1)
    sizes = set()
    with torch.no_grad():
        for t in range(40):
            _, state = layer.step(torch.full((8, 1), float(t), dtype=torch.float64), state)
            sizes.add((state.keys.numel(), state.values.numel(), state.time.numel()))
    assert len(sizes) == 1
    assert sorted(state.time.tolist()) == [35, 36, 37, 38, 39]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"model.heads.*divide"):
        Retrieval(8, 3, window=4, out_scale=0.5, generator=torch.Generator())
