"""Charts and scores of retrieval: each mode changes what it should, and the formulas have a second road."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.tape import Tape
from holonomy.geometry.curvature import collapse_scalar, conformal_curvature
from holonomy.geometry.metric import MetricBase
from holonomy.models.lior.config import GeometryConfig, LiorConfig, ModelConfig
from holonomy.models.lior.model import build_network
from holonomy.nn.chart import Chart
from holonomy.nn.retrieval import STRESS_RATE, CurvatureSource, GeometricRetrieval, Retrieval

HEADS, N = 2, 6
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


MODES = [
    {"metric_mode": metric, "frame_mode": frame, "rotor_mode": rotor}
    for metric in ("diag_rot", "block_rot")
    for frame, rotor in (
        ("derived", "off"),
        ("derived", "derived"),
        ("learned_lowrank", "off"),
        ("learned_lowrank", "stateful"),
        ("rotor", "derived"),
        ("rotor", "stateful"),
    )
]


@pytest.mark.parametrize("mode", MODES)
def test_squares_of_mapped_vectors_are_the_metric(mode: dict[str, str]) -> None:
    chart = Chart(HEADS, N, block=3, rank=2, generator=generator(), **mode).double()  # type: ignore[arg-type]
    for p in chart.parameters():
        p.data.add_(0.3 * drawn(*p.shape, seed=4))
    v = drawn(HEADS, 50, N)
    with torch.no_grad():
        g = chart.metric().matrix()
        assert torch.linalg.eigvalsh(g).min() > 0
        expected = torch.einsum("hma,hab,hmb->hm", v, g, v)
        assert torch.allclose(chart.free(v, None).square().sum(-1), expected, rtol=1e-12)
    for p in chart.parameters():
        before = chart.metric().matrix().detach()
        p.data.add_(0.1)
        assert (chart.metric().matrix() - before).abs().max() > 1e-4


def test_derived_frames_follow_the_data() -> None:
    chart = Chart(1, N, frame_mode="derived", rotor_mode="off", frame_every=8, generator=generator())
    turn = torch.linalg.qr(drawn(N, N))[0].float()
    spread = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.5])
    for seed in range(1000):
        z = torch.randn(1, 200, N, generator=generator(seed)) * spread @ turn.T
        with torch.no_grad():
            chart.free(z, Tape())
            chart.project()
    spun = chart.frame.mT @ chart.covariance @ chart.frame
    # The covariance has moved on by less than a refresh.
    off = spun - torch.diag_embed(spun.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 0.05 * spun.diagonal(dim1=-2, dim2=-1).min()
    assert (chart.frame[0].T @ turn).abs().max(0).values.min() > 0.99
    before = chart.frame.clone()
    with torch.no_grad():
        chart.free(torch.randn(1, 9, N), None)
    assert torch.equal(chart.frame, before), "a phase without a tape learned"


def test_low_rank_columns_stay_well_conditioned() -> None:
    chart = Chart(HEADS, N, frame_mode="learned_lowrank", rotor_mode="off", rank=2, generator=generator()).double()
    assert chart.columns is not None and chart.log_weights is not None
    chart.columns.data[0, :, 1] = chart.columns.data[0, :, 0] * (1 + 1e-5)
    with torch.no_grad():
        before = chart.metric().matrix()
        chart.project()
        assert torch.allclose(chart.metric().matrix(), before, rtol=1e-6, atol=1e-6)
        assert (chart.columns[0].T @ chart.columns[0])[0, 1].abs() < 1e-9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frame_mode": "derived", "rotor_mode": "stateful"}, "legal are"),
        ({"frame_mode": "learned_lowrank", "rotor_mode": "derived"}, "learned_lowrank with off or stateful"),
        ({"metric_mode": "full"}, "diag_rot or block_rot"),
        ({"metric_mode": "block_rot", "block": 4}, "does not divide"),
    ],
)
def test_refusals(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Chart(HEADS, N, generator=generator(), **options)  # type: ignore[arg-type]


def test_curvature_factors_equal_those_by_derivatives() -> None:
    source = CurvatureSource(3, generator=generator()).double()
    y = drawn(7, 3)

    def f(point: Tensor) -> Tensor:
        return (source.heights * torch.exp(-(point - source.centres).square().sum(-1) / 2)).sum()

    scalar = conformal_curvature(f, MetricBase.identity(3, torch.float64), y)
    assert torch.allclose(source.factors(y), collapse_scalar(scalar, 3), rtol=1e-12)


def test_stress_is_a_running_mean_of_the_motion() -> None:
    layer = Retrieval(8, HEADS, window=100, out_scale=0.5, stress=True, generator=generator()).double()
    x = drawn(8, 2, 9)
    found, _ = layer.sources(x, x, None)
    for b in range(2):
        energy = 0.0
        for t in range(9):
            moved = 0.0 if t == 0 else float((x[:, b, t] - x[:, b, t - 1]).square().mean())
            energy += STRESS_RATE * (moved - energy)
            assert torch.allclose(
                found[b, :, t], torch.full((HEADS,), energy / (1 + energy), dtype=torch.float64), rtol=1e-12
            )


def test_turned_spinors_know_how_far_apart_they_are_and_nothing_else() -> None:
    """<e^{i a t} psi, e^{i a s} phi> is that of psi and e^{i a (s - t)} phi; a million tokens later too."""
    layer = GeometricRetrieval(8, HEADS, window=100, out_scale=0.5, rope=True, generator=generator()).double()
    k, m = torch.randn(2, HEADS, 6, 2 * layer.spinor + 1, generator=generator(), dtype=torch.float64)
    time = torch.arange(6)

    def scores(offset: int) -> torch.Tensor:
        placed = layer.placed(k, time + offset), layer.placed(m, time + offset)
        return layer.score(*placed, time[:, None] - time, k.new_empty(0), ())[0]

    assert (scores(1_000_000) - scores(0)).abs().max() < 1e-9
    phases = torch.exp(1j * time[:, None] * 10_000.0 ** (-torch.arange(layer.spinor) / layer.spinor))
    half = layer.spinor
    turned = layer.placed(k, time)
    assert torch.allclose(
        torch.complex(turned[..., :half], turned[..., half : 2 * half]),
        torch.complex(k[..., :half], k[..., half : 2 * half]) * phases,
    )
    assert not torch.allclose(scores(0), layer.score(k, m, time[:, None] - time, k.new_empty(0), ())[0])
    back = layer.pull_placed(turned, time)
    assert torch.allclose(back, k)
    assert torch.equal(layer.placed(k[:, 3:4], 3), turned[:, 3:4])


def test_geometric_scores_by_complex_numbers() -> None:
    layer = GeometricRetrieval(8, HEADS, window=100, out_scale=0.5, generator=generator()).double()
    layer.log_g.data.copy_(drawn(HEADS, 2))
    x = drawn(8, 1, 5)
    with torch.no_grad():
        mapped = layer.inp.free(x, None)[:20]
        k, m = layer.compared(mapped, None)
        apart = torch.zeros(5, 5, dtype=torch.int64)
        found, _ = layer.score(k, m, apart, x.new_empty(0), ())
        psi, phi = torch.complex(k[..., :2], k[..., 2:4]), torch.complex(m[..., :2], m[..., 2:4])
        a, b = torch.sigmoid(k[..., 4]), torch.sigmoid(m[..., 4])
        for h in range(HEADS):
            for i in range(5):
                for j in range(5):
                    inner = (psi[h, i].conj() * phi[h, j]).sum()
                    herm = (psi[h, i].conj() * layer.log_g[h].exp() * phi[h, j]).sum().real
                    coh = math.sqrt(float(inner.abs()) ** 2 + layer.eps)
                    mixed = 0.5 * float(inner.imag) + float(herm) + 0.5 * coh
                    expected = mixed * float(a[h, i] * b[h, j]) / 2
                    assert abs(float(found[0, h, i, j]) - expected) < 1e-12
        turned = torch.polar(torch.ones(1).double(), torch.tensor([0.7]).double())
        for z in (k, m):
            w = torch.complex(z[..., :2], z[..., 2:4]) * turned
            z[..., :2], z[..., 2:4] = w.real, w.imag
        assert torch.allclose(layer.score(k, m, apart, x.new_empty(0), ())[0], found, atol=1e-12)


def network_output(**geometry: object) -> Tensor:
    model = ModelConfig(d=16, n_osc=8, hidden=16, heads=2, pattern="rm")
    config = LiorConfig(model=model, geometry=GeometryConfig(**geometry))  # type: ignore[arg-type]
    net = build_network(config, vocab_size=7)
    with torch.no_grad():
        return net.free(torch.randint(7, (2, 40), generator=generator()), None)


def test_every_geometry_gives_other_numbers() -> None:
    found = {
        str(options): network_output(**options)
        for options in (
            {},
            {"stress": True},
            {"chart": "per_head"},
            {"chart": "shared"},
            {"chart": "shared", "n": 4},
            {"chart": "shared", "metric_mode": "block_rot"},
            {"chart": "shared", "metric_mode": "block_rot", "block": 2},
            {"chart": "shared", "rotor_mode": "derived"},
            {"chart": "shared", "rotor_layers": 2},
            {"chart": "shared", "frame_mode": "learned_lowrank", "rotor_mode": "off"},
            {"chart": "shared", "frame_mode": "learned_lowrank", "rotor_mode": "off", "rank": 2},
            {"chart": "shared", "frame_mode": "learned_lowrank"},
            {"chart": "shared", "frame_mode": "derived", "rotor_mode": "off"},
            {"chart": "shared", "source": "curvature"},
        )
    }
    names = list(found)
    for n, one in enumerate(names):
        for other in names[n + 1 :]:
            assert not torch.allclose(found[one], found[other], atol=1e-5), (one, other)


def test_rotors_of_a_derived_frame_are_that_frame() -> None:
    """The one mode that must change nothing: the same metric, its frame as Givens angles of determinant one."""
    plain, turned = (
        network_output(chart="shared", frame_mode="derived", rotor_mode=mode, metric_mode="block_rot")
        for mode in ("off", "derived")
    )
    assert torch.allclose(plain, turned, atol=1e-5)
    charts = [Chart(2, 6, frame_mode="derived", rotor_mode=m, generator=generator()) for m in ("off", "derived")]
    frame = torch.linalg.qr(torch.randn(2, 6, 6, generator=generator()))[0]
    for chart in charts:
        chart.frame.copy_(frame)
    one, other = (chart.metric().matrix() for chart in charts)
    assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(
        one, Chart(2, 6, frame_mode="derived", rotor_mode="off", generator=generator()).metric().matrix(), atol=1e-2
    )


@pytest.mark.parametrize(
    ("model", "geometry", "words"),
    [
        ({}, {"n": 4}, "not folded"),
        ({}, {"chart": "shared", "frame_mode": "derived"}, "goes with rotor_mode = off or derived"),
        ({}, {"chart": "shared", "source": "curvature", "stress": True}, "choose one"),
        ({"architecture": "causal_field"}, {"stress": True}, "none of"),
        ({"score": "geometric"}, {"stress": True}, "drop one of them"),
        ({"score": "geometric", "d": 12}, {}, "even"),
        ({}, {"chart": "per_head", "n": 4}, "width of a head"),
        ({}, {"chart": "shared", "metric_mode": "block_rot", "block": 3}, "does not divide the 8"),
        ({}, {"chart": "shared", "n": 7}, "even number"),
    ],
)
def test_illegal_geometries(model: dict[str, object], geometry: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LiorConfig(model=ModelConfig(**model), geometry=GeometryConfig(**geometry))  # type: ignore[arg-type]
