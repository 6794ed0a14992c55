"""Address probing: what is chosen and what is said of it, against loops over single pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.nn.chart import Chart
from holonomy.nn.probe import AGAINST, ALONG, BLOCK, BLOCKS_HELD, NEAREST, AddressProbe, probe_channels

WIDTH, HEADS = 8, 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def probe(window: int, *, chart: bool = True) -> AddressProbe:
    metric = Chart(HEADS, WIDTH // HEADS, generator=generator()) if chart else None
    layer = AddressProbe(WIDTH, HEADS, window=window, out_scale=0.5, chart=metric, generator=generator()).double()
    layer.mix.data.copy_(drawn(HEADS, 5, seed=2))
    return layer


def spoken(layer: AddressProbe, x: Tensor, t: int, head: int) -> Tensor:
    """What one head says at token t of the only sequence, pair by pair."""
    d = WIDTH // HEADS
    k, m, v = (layer.inp.weight @ x[:, 0]).view(3, HEADS, d, -1)[:, head].mT
    metric = torch.eye(d, dtype=torch.float64) if layer.chart is None else layer.chart.metric().matrix()[head]
    pool = [(m[b : b + BLOCK].mean(0), v[b : b + BLOCK].mean(0)) for b in range(0, t - BLOCK + 1, BLOCK)]
    pool = pool[-BLOCKS_HELD:]
    pool += [(m[j], v[j]) for j in range(max(0, t - layer.window), t)]
    q = k[t]

    def length(z: Tensor) -> float:
        return math.sqrt(float(z @ metric @ z))

    def cosine(c: Tensor) -> float:
        return float(q @ metric @ c) / (length(q) * length(c))

    rest = sorted(range(len(pool)), key=lambda j: length(q - pool[j][0]))
    rank = {j: n for n, j in enumerate(rest)}
    near, rest = rest[:NEAREST], rest[NEAREST:]
    rest.sort(key=lambda j: -cosine(pool[j][0]))
    near, rest = near + rest[:ALONG], rest[ALONG:]
    far = rest[::-1][:AGAINST]
    mapped = torch.eye(d, dtype=torch.float64) if layer.chart is None else layer.chart.metric().map()[head]

    def score(j: int) -> float:
        c, cos = pool[j][0], cosine(pool[j][0])
        overlap = float(((mapped @ q).abs() * (mapped @ c).abs()).sum()) / (length(q) * length(c))
        nearness = -1 / (length(q - c) ** 2 + 1)
        channels = [cos, math.sqrt(1 - cos**2), overlap, nearness, min(rank[j], 64) / 64]
        mixed = sum(float(w) * ch for w, ch in zip(layer.mix[head], channels, strict=True))
        return float(q @ metric @ c) / math.sqrt(d) + mixed

    found = torch.zeros(d, dtype=torch.float64)
    for chosen, weight in ((near, 1.0), (far, -float(torch.sigmoid(layer.against[head])))):
        if chosen:
            w = torch.tensor([score(j) for j in chosen], dtype=torch.float64).softmax(0)
            found += weight * sum(wj * pool[j][1] for wj, j in zip(w, chosen, strict=True))
    return found


@pytest.mark.parametrize(("window", "chart"), [(1000, True), (40, True), (1000, False)])
def test_what_is_said_equals_that_of_single_pairs(window: int, *, chart: bool) -> None:
    layer, x = probe(window, chart=chart), drawn(WIDTH, 1, 100)
    layer.out.weight.data.copy_(torch.eye(WIDTH))
    with torch.no_grad():
        y = layer.free(x, None)
        for t in (0, 1, 31, 32, 33, 50, 64, 99):
            for head in range(HEADS):
                found = y[:, 0, t].view(HEADS, -1)[head]
                assert torch.allclose(found, spoken(layer, x, t, head), rtol=1e-9, atol=1e-10), (t, head)


def test_no_candidate_is_taken_twice() -> None:
    k, keys = drawn(HEADS, 1, 3, 4), drawn(HEADS, 1, 200, 4, seed=1)
    seen = torch.ones(3, 200, dtype=torch.bool)
    seen[0, 20:], seen[1, 55:] = False, False
    channels, near, far = probe_channels(k, keys, k @ keys.mT, seen)
    assert not (near & far).any()
    assert not ((near | far) & ~seen).any()
    assert near.sum(-1).unique(dim=0).tolist() == [[[20, 48, 48]]]
    assert far.sum(-1).unique(dim=0).tolist() == [[[0, 7, 16]]]
    assert channels.isfinite().all() and channels.abs().max() <= 1 + 1e-12


def test_the_state_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the last blocks that are held, whole sequences and single tokens still agree."""
    monkeypatch.setattr("holonomy.nn.probe.BLOCKS_HELD", 2)
    layer, x = probe(10), drawn(WIDTH, 2, 150)
    with torch.no_grad():
        whole, state, parts = layer.free(x, None), layer.start(2), []
        sizes = [t.numel() for t in state[:-1]]
        for t in range(150):
            y, state = layer.step(x[..., t], state)
            parts.append(y)
    assert [t.numel() for t in state[:-1]] == sizes
    assert torch.allclose(torch.stack(parts, -1), whole, rtol=1e-10, atol=1e-12)


def test_positions_differ() -> None:
    """An output that were the same everywhere would tell nothing."""
    layer, x = probe(1000), drawn(WIDTH, 4, 128)
    with torch.no_grad():
        y = layer.free(x, None)
    assert y.std(-1).mean() / y.square().mean().sqrt() > 0.1 * x.std(-1).mean() / x.square().mean().sqrt()


def test_heads_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="does not divide"):
        AddressProbe(9, 2, window=4, out_scale=0.5, generator=generator())
