"""What pictures of models show, against responses, matrices and counts made in another way."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from holonomy.core.nograd import no_autograd
from holonomy.data.tokenizer import CharTokenizer
from holonomy.data.words import split_words
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.pictures import holographic_pictures
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.models.lior.model import build_network
from holonomy.models.lior.pictures import lior_pictures
from holonomy.models.ternary.model import build_model
from holonomy.models.ternary.pictures import principal_plane, ternary_pictures
from holonomy.nn.chart import Chart
from holonomy.nn.coupled import CoupledBank
from holonomy.nn.hamiltonian import HamiltonianBank
from holonomy.nn.kernel import KernelBank
from holonomy.nn.oscillator import OscillatorBank
from holonomy.nn.retrieval import GeometricRetrieval, Retrieval
from holonomy.nn.selective import SelectiveBank
from holonomy.recipes import configure
from holonomy.recipes.ternary import space_of

RANGES = {"theta_range": (0.05, 3.0), "gamma_range": (0.01, 0.5)}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def responses(bank, modes: int, length: int, inputs: int, size: float = 1.0) -> np.ndarray:
    """Outputs [time, N, N] to an impulse into each mode."""
    x = torch.zeros(inputs * modes, modes, length, dtype=torch.float64)
    x[torch.arange(modes), torch.arange(modes), 0] = size
    with no_autograd():
        return bank.double().free(x, None).permute(2, 0, 1).numpy() / size


@pytest.mark.parametrize(
    ("bank", "inputs", "size"),
    [
        (OscillatorBank(6, chunk=4, generator=seeded(), **RANGES), 1, 1.0),
        (SelectiveBank(6, generator=seeded(), **RANGES), 3, 1.0),
        (CoupledBank(2, 4, rank=2, gamma_range=(0.01, 0.5), chunk=4, generator=seeded()), 1, 1.0),
        (HamiltonianBank(8, generator=seeded()), 1, 1.0),
        (HamiltonianBank(8, wells=True, generator=seeded()), 2, 1e-7),
    ],
    ids=lambda v: type(v).__name__,
)
def test_poles_are_those_of_the_impulse_response(bank, inputs: int, size: float) -> None:
    poles = bank.double().poles().detach().to(torch.complex128).numpy()
    h = responses(bank, len(poles), 3, inputs, size)
    rho2 = float(np.abs(poles[0]) ** 2)
    if np.allclose(np.abs(poles) ** 2, rho2):
        # h_2 + rho^2 h_0 = (2 rho cos theta) h_1 in the modes' own basis, whatever it is.
        found = np.linalg.eigvals((h[2] + rho2 * h[0]) @ np.linalg.inv(h[1])).real
        assert np.allclose(np.sort(found), np.sort(2 * poles.real), atol=1e-6)
        return
    if isinstance(bank, CoupledBank):
        # Dampings differ by head, and heads do not mix.
        for head in range(bank.heads):
            part = slice(head * bank.size, (head + 1) * bank.size)
            a, b, c = (m[part, part] for m in h)
            found = np.linalg.eigvals((c + np.abs(poles[part][0]) ** 2 * a) @ np.linalg.inv(b)).real
            assert np.allclose(np.sort(found), np.sort(2 * poles[part].real), atol=1e-8)
        return
    own = np.stack([np.diagonal(m) for m in h])
    assert np.allclose(own[2] - 2 * poles.real * own[1] + np.abs(poles) ** 2 * own[0], 0, atol=1e-12)


def test_kernel_poles_annihilate_the_kernel() -> None:
    bank = KernelBank(4, reach=16, terms=2, generator=seeded()).double()
    kernel = bank.kernel(40).detach().numpy()
    for channel, poles in enumerate(bank.poles().detach().numpy()):
        roots = np.concatenate([poles, poles[poles.imag != 0].conj()])
        left = np.convolve(kernel[channel], np.poly(roots).real)[len(roots) : 40]
        assert np.abs(left).max() < 1e-10 * np.abs(kernel[channel]).max()


def jacobian(layer, which: int) -> np.ndarray:
    """Derivative of queries (0) or keys (1) by the stream, [heads, features, D], from one vector at a time."""
    channels = layer.inp.weight.shape[1]
    with no_autograd():
        x = layer.inp.free(torch.eye(channels, dtype=torch.float64).unsqueeze(1), None)
        return layer.compared(x[: 2 * channels], None)[which].permute(0, 2, 1).numpy()


def test_spectra_are_those_of_the_metric_on_the_stream() -> None:
    sizes = {"window": 8, "out_scale": 0.1}
    layer = Retrieval(12, 3, generator=seeded(), **sizes).double()
    for which, name in enumerate(("queries", "keys")):
        maps = jacobian(layer, which)
        metric = maps.transpose(0, 2, 1) @ maps
        top = np.linalg.eigvalsh(metric)[:, ::-1][:, : maps.shape[1]]
        assert np.allclose(layer.spectra()[name].detach().numpy(), top, atol=1e-10)
    chart = Chart(3, 4, generator=seeded()).double()
    layer = Retrieval(12, 3, chart=chart, generator=seeded(), **sizes).double()
    with no_autograd():
        maps = chart.free(torch.eye(4, dtype=torch.float64).expand(3, 4, 4), None).numpy().transpose(0, 2, 1)
    squares = np.linalg.svd(maps, compute_uv=False) ** 2
    assert np.allclose(layer.spectra()["chart"].detach().numpy(), squares, atol=1e-10)
    spinors = GeometricRetrieval(12, 3, generator=seeded(), **sizes)
    with torch.no_grad():
        spinors.log_g.copy_(torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.5, 0.7]]))
    assert torch.allclose(spinors.spectra()["Hermitian form"][1], torch.tensor([2.0, -1.0]).exp())


def test_lior_pictures_show_every_bank_and_metric() -> None:
    settings = ["model.d=16", "model.n_osc=16", "model.hidden=16", "model.heads=2", "data.seq_len=32"]
    config = configure("lior", overrides=settings).config
    tokenizer = CharTokenizer.from_text("abc")
    model = LiorLanguageModel(build_network(config, vocab_size=tokenizer.vocab_size), tokenizer, config)
    banks = [m for m in model.net.modules() if isinstance(m, OscillatorBank)]
    poles, decay, *spectra = lior_pictures(model)
    assert len(poles.series) == len(decay.series) == len(banks)
    for series, times, bank in zip(poles.series, decay.series, banks, strict=True):
        theta, gamma = (v.detach().numpy() for v in bank.angles())
        assert np.allclose(np.sort(series.x), np.sort(np.tile(np.exp(-gamma) * np.cos(theta), 2)), atol=1e-6)
        assert sum(series.y) == pytest.approx(0, abs=1e-9)
        assert np.allclose(times.x, 2 * math.pi / theta, rtol=1e-4)
        assert np.allclose(times.y, 1 / gamma, rtol=1e-3)
    retrievals = sum(isinstance(m, Retrieval) for m in model.net.modules())
    assert len(spectra) == 2 * retrievals
    assert all(len(p.series) == 2 and len(p.series[0].y) == 8 for p in spectra)
    for bank, odd in (("hamiltonian", None), ("kernel", f"{len(banks) * 16 * 13:,} that never turn")):
        net = build_network(configure("lior", overrides=[*settings, f"model.bank={bank}"]).config, vocab_size=3)
        found = {p.title: p for p in lior_pictures(LiorLanguageModel(net, tokenizer, config))}
        # Undamped modes forget nothing, rounding or not.
        assert ("Periods and memories" in found) == (odd is not None)
        assert odd is None or odd in found["Periods and memories"].words


@pytest.mark.parametrize("geometry", ["hyperbolic", "euclidean"])
def test_ternary_pictures_keep_radius_and_valuation(geometry: str) -> None:
    config = configure("ternary", overrides=["data.digits=4", "data.batch=81", f"model.geometry={geometry}"]).config
    vae = build_model(config, space_of(config.data)).eval()
    disk, radii = ternary_pictures(vae)
    u = vae.embed(vae.space.index).double()

    def valuation(n: int) -> int:
        return 4 if n == 0 else next(v for v in range(5) if n % 3 ** (v + 1))

    by_level: dict[int, list[float]] = {}
    for n in range(81):
        by_level.setdefault(valuation(n), []).append(float(u[n].norm()))
    assert disk.circle == (None if geometry == "euclidean" else 1.0)
    for v, (points, column) in enumerate(zip(disk.series, radii.series, strict=True)):
        assert sorted(column.y) == pytest.approx(sorted(by_level[v]))
        assert all(abs(x - v) <= 0.35 for x in column.x)
        lengths = [math.hypot(a, b) for a, b in zip(points.x, points.y, strict=True)]
        ball = lengths if geometry == "euclidean" else [2 * math.atanh(r) for r in lengths]
        assert sorted(ball) == pytest.approx(sorted(by_level[v]), rel=1e-6)


def test_large_levels_are_drawn_by_lot() -> None:
    config = configure("ternary").config
    vae = build_model(config, space_of(config.data)).eval()
    disk, _ = ternary_pictures(vae)
    assert [len(s.x) for s in disk.series] == [1500, 1500, 1458, 486, 162, 54, 18, 6, 2, 1]
    assert "5,187 of 19,683 operations" in disk.words
    assert disk == ternary_pictures(vae)[0]


def test_the_plane_keeps_radii() -> None:
    u = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plane = principal_plane(u, torch.tensor(-1.0, dtype=torch.float64))
    assert torch.allclose(2 * torch.atanh(plane.norm(dim=-1)), u.norm(dim=-1))


def test_loads_of_satellites_are_counted() -> None:
    tower = {"levels": 3, "channels": 4}
    config = HolographicConfig.model_validate({"counts": {"classes": []}, "tower": tower})
    model = HolographicModel(config, split_words("one two three " * 9, train_share=0.9, min_count=1).tokenizer)
    assert model.mirror is not None
    held = [(n * n) % 401 if n % 3 else 0 for n in range(len(model.mirror.tower.load))]
    model.mirror.tower.load = torch.tensor(held, dtype=torch.int32)
    loads, by_order, shares, sizes = holographic_pictures(model)
    assert loads.width == 7, "sixty bars at most, as many numbers in each"
    bins = Counter(v // 7 for v in held)
    assert list(loads.series[0].y) == [bins[n] for n in range(max(bins) + 1)]
    assert loads.series[0].x[0] == 3, "the middle of 0 to 6"
    assert loads.table is not None
    digits, below = config.tower.top_digits, 16 ** (config.tower.levels - 2)
    start = 0
    for row, (order, top) in zip(loads.table[1], digits.items(), strict=True):
        part = held[start * below : (start + top) * below]
        start += top
        used = sum(v > 0 for v in part) / len(part)
        assert row == [f"order {order}", len(part), used, sum(part) / len(part), max(part), sum(part)]
    assert by_order.series[0].y == [row[2] for row in loads.table[1]]
    assert by_order.series[1].y == [row[5] / sum(held) for row in loads.table[1]]
    assert shares.series[0].y == pytest.approx([1 / len(shares.labels)] * len(shares.labels))
    assert "Nothing has been fitted yet" in shares.words
    assert list(sizes.labels) == [*model.memories.nbytes, "tower", "signatures"]
