"""Every layer's echo statistics against torch.autograd of its forward pass in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import TapeError
from holonomy.core.flat import FlatParams, StatBuffer
from holonomy.core.layer import EchoLayer
from holonomy.core.tape import Tape
from holonomy.nn.algebraic import Associator, BiquaternionBank
from holonomy.nn.chart import Chart
from holonomy.nn.containers import Chain, Residual
from holonomy.nn.coupled import CoupledBank
from holonomy.nn.embedding import Embedding
from holonomy.nn.hamiltonian import HamiltonianBank
from holonomy.nn.kernel import KernelBank
from holonomy.nn.oscillator import OscillatorBank, OscillatorMixer
from holonomy.nn.probe import AddressProbe
from holonomy.nn.retrieval import CurvatureSource, GeometricRetrieval, Retrieval
from holonomy.nn.selective import SelectiveBank
from holonomy.nn.sites import FieldOptions, FieldSites
from holonomy.nn.static import CausalFIR, Dropout, GatedUnit, Linear, RMSNorm

WIDTH, VOCABULARY = 8, 11
TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-12}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def bank() -> OscillatorBank:
    return OscillatorBank(WIDTH, theta_range=(0.02, 3.0), gamma_range=(0.01, 1.0), chunk=32, generator=generator())


def mixer(kind: str = "diagonal") -> OscillatorMixer:
    def bank(source: torch.Generator) -> EchoLayer:
        if kind == "selective":
            return SelectiveBank(16, theta_range=(0.02, 3.0), gamma_range=(0.01, 1.0), generator=source)
        return OscillatorBank(16, theta_range=(0.02, 3.0), gamma_range=(0.01, 1.0), chunk=32, generator=source)

    controls = 2 if kind == "selective" else 0
    return OscillatorMixer(WIDTH, 16, taps=4, bank=bank, controls=controls, out_scale=0.5, generator=generator())


def hamiltonian(*, wells: bool = False, mode: str = "tangent", kappa: float | None = None) -> EchoLayer:
    """Coupled oscillators, driven (and biased) through a linear map."""
    found = HamiltonianBank(WIDTH, wells=wells, mode=mode, kappa=kappa, generator=generator())
    return Chain([Linear(WIDTH, found.inputs * WIDTH, std=0.5, generator=generator()), found])


def field_sites() -> FieldSites:
    return FieldSites(WIDTH, FieldOptions(size=(3, 2), dim=2), generator=generator())


def charted(*, shared: bool = False, curvature: CurvatureSource | None = None, **options: object) -> Retrieval:
    """Retrieval in a chart of four dimensions with blocks of two."""
    chart = Chart(2, 4, block=2, generator=generator(), **options)  # type: ignore[arg-type]
    return Retrieval(
        WIDTH, 2, window=70, out_scale=0.5, chart=chart, shared=shared, curvature=curvature, generator=generator()
    )


def selective() -> EchoLayer:
    """A selective bank that listens: its three inputs are linear in x."""
    found = SelectiveBank(WIDTH, theta_range=(0.02, 3.0), gamma_range=(0.01, 1.0), generator=generator())
    return Chain([Linear(WIDTH, 3 * WIDTH, std=0.5, generator=generator()), found])


def octonions() -> EchoLayer:
    """An associator of three linear maps, with a memory of what it found."""
    return Chain(
        [
            Linear(WIDTH, 6 * WIDTH, std=0.3, generator=generator()),
            Associator(),
            KernelBank(2 * WIDTH, reach=100, terms=8, generator=generator()),
        ]
    )


def probe(*, window: int = 1000, chart: bool = False) -> EchoLayer:
    """A probe whose channels weigh in."""
    metric = Chart(2, WIDTH // 2, frame_mode="rotor", generator=generator()) if chart else None
    found = AddressProbe(WIDTH, 2, window=window, out_scale=0.5, chart=metric, generator=generator())
    found.mix.data.copy_(torch.randn(2, 5, generator=generator()))
    return found


LAYERS: dict[str, Callable[[], EchoLayer]] = {
    "linear": lambda: Linear(WIDTH, 5, std=0.3, generator=generator()),
    "norm": RMSNorm,
    "gate": GatedUnit,
    "fir": lambda: CausalFIR(WIDTH, 4, generator=generator()),
    "bank": bank,
    "mixer": mixer,
    "selective bank": selective,
    "kernel": lambda: KernelBank(WIDTH, reach=100, terms=8, generator=generator()),
    "biquaternions": lambda: BiquaternionBank(WIDTH, gamma_range=(0.05, 0.5), generator=generator()),
    "octonions": octonions,
    "probe": probe,
    "windowed probe": lambda: probe(window=5, chart=True),
    "coupled": lambda: CoupledBank(2, 4, rank=2, gamma_range=(0.05, 0.5), chunk=16, generator=generator()),
    "hamiltonian": hamiltonian,
    "wells": lambda: hamiltonian(wells=True),
    "symmetric nudge": lambda: hamiltonian(mode="symmetric", kappa=0.1),
    "selective mixer": lambda: mixer("selective"),
    "retrieval": lambda: Retrieval(WIDTH, 2, window=1000, out_scale=0.5, generator=generator()),
    "windowed retrieval": lambda: Retrieval(WIDTH, 2, window=5, out_scale=0.5, generator=generator()),
    "derived chart": lambda: charted(frame_mode="derived", rotor_mode="off"),
    "derived rotor chart": lambda: charted(frame_mode="derived", rotor_mode="derived", metric_mode="block_rot"),
    "low-rank chart": lambda: charted(frame_mode="learned_lowrank", rotor_mode="off", rank=2),
    "turned low-rank chart": lambda: charted(frame_mode="learned_lowrank", rotor_mode="stateful", rank=2),
    "rotor chart": lambda: charted(metric_mode="block_rot"),
    "aligned rotor chart": lambda: charted(rotor_mode="derived"),
    "shared chart": lambda: charted(shared=True),
    "stressed retrieval": lambda: Retrieval(WIDTH, 2, window=1000, out_scale=0.5, stress=True, generator=generator()),
    "curved retrieval": lambda: charted(shared=True, curvature=CurvatureSource(4, generator=generator())),
    "retrieval with a field": lambda: Retrieval(
        WIDTH, 2, window=70, out_scale=0.5, sites=field_sites(), generator=generator()
    ),
    "geometric retrieval": lambda: GeometricRetrieval(WIDTH, 2, window=5, out_scale=0.5, generator=generator()),
    "filtered retrieval": lambda: Retrieval(WIDTH, 2, window=5, out_scale=0.5, taps=3, generator=generator()),
    "turned geometric retrieval": lambda: GeometricRetrieval(
        WIDTH, 2, window=20, out_scale=0.5, taps=2, rope=True, generator=generator()
    ),
    "chain": lambda: Chain([RMSNorm(), Residual(mixer()), Linear(WIDTH, 5, std=0.3, generator=generator())]),
    "shared layer": lambda: Chain([shared := Residual(bank()), RMSNorm(), shared]),
}
LENGTHS = (1, 7, 48, 64)


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|; where b is zero (or what autograd leaves of it), a must be zero exactly."""
    size = b.norm()
    return float((a.double() - b).norm() / size) if size > 1e-14 else float(a.abs().max())


def drawn(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def statistics(layer: EchoLayer) -> StatBuffer:
    """A zeroed buffer for the layer's statistics, empty for a layer without parameters."""
    if not list(layer.parameters()):
        return StatBuffer(torch.zeros(0), {})
    return FlatParams(layer, frozenset()).statistics()


def worst_error(layer: EchoLayer, dtype: torch.dtype, x: Tensor) -> float:
    """Worst relative error over all parameters and the nudge below, layer in `dtype`, autograd in float64."""
    layer = layer.to(dtype)
    reference = copy.deepcopy(layer).double()
    x = x.to(dtype)
    leaf = x.double().requires_grad_()
    y = reference(leaf)
    g = drawn(tuple(y.shape), seed=1).to(dtype)
    y.backward(g.double())
    acc, tape = statistics(layer), Tape()
    with torch.no_grad():
        layer.free(x, tape)
        below = layer.echo(tape, g, acc)
    assert len(tape) == 0
    errors = [relative(below, leaf.grad)]  # type: ignore[arg-type]
    pairs = zip(layer.parameters(), reference.parameters(), strict=True)
    errors += [relative(acc[mine], theirs.grad) for mine, theirs in pairs]  # type: ignore[arg-type]
    return max(errors)


@pytest.mark.parametrize("name", LAYERS)
def test_echo_equals_autograd(name: str, dtype: torch.dtype) -> None:
    for batch in (1, 2, 3):
        for length in LENGTHS:
            error = worst_error(LAYERS[name](), dtype, drawn((WIDTH, batch, length)))
            assert error <= TOLERANCE[dtype], (batch, length, error)


def test_dropout_hides_the_same_places_from_both_phases(dtype: torch.dtype) -> None:
    layer, x = Dropout(0.25, generator=generator()), torch.ones(50, 20, 10, dtype=dtype)
    first, second = Tape(), Tape()
    y, other = layer.free(x, first), layer.free(x, second)
    assert torch.equal(layer.echo(first, x, statistics(layer)), y)
    assert torch.equal(layer.echo(second, x, statistics(layer)), other)
    assert not torch.equal(y, other)
    assert abs(float((y == 0).double().mean()) - 0.25) < 0.02
    assert abs(float(y.mean()) - 1) < 0.02
    assert torch.equal(layer.free(x, None), x)


@pytest.mark.parametrize("name", [n for n in LAYERS if "retriev" in n or "chart" in n or n == "biquaternions"])
@pytest.mark.parametrize("lengths", [(7, 1, 40, 16), (3, 3, 3, 55)])
def test_segments_equal_the_whole(name: str, lengths: tuple[int, ...]) -> None:
    """Nudges on keys and values cross the borders, also where the window is shorter than a segment, or longer."""
    layer, x = LAYERS[name]().double(), drawn((WIDTH, 2, sum(lengths)))
    whole, parts, tape = statistics(layer), statistics(layer), Tape()
    with torch.no_grad():
        y = layer.free(x, tape)
        g = drawn(tuple(y.shape), seed=1)
        below = layer.echo(tape, g, whole)
        state, tapes, outputs = layer.start(2), [Tape() for _ in lengths], []
        for part, own in zip(x.split(lengths, -1), tapes, strict=True):
            found, state = layer.resume(part, state, own)
            outputs.append(found)
        carry, nudges = None, []
        for part, own in zip(reversed(g.split(lengths, -1)), reversed(tapes), strict=True):
            nudge, carry = layer.echo_segment(own, part, carry, parts)
            nudges.append(nudge)
    assert relative(torch.cat(outputs, -1), y) <= 1e-13
    assert relative(torch.cat(nudges[::-1], -1), below) <= 1e-12
    assert all(relative(parts[p], whole[p]) <= 1e-12 for p in layer.parameters())


@pytest.mark.parametrize("vocabulary", [VOCABULARY, 1500])
def test_embedding_statistic_equals_autograd(vocabulary: int, dtype: torch.dtype) -> None:
    layer = Embedding(vocabulary, WIDTH, std=0.5, generator=generator()).to(dtype)
    ids = torch.randint(vocabulary, (3, 40), generator=generator())
    reference = copy.deepcopy(layer).double()
    y = reference(ids)
    g = drawn(tuple(y.shape), seed=1).to(dtype)
    y.backward(g.double())
    flat, tape = FlatParams(layer, frozenset({"weight"})), Tape()
    acc = flat.statistics()
    with torch.no_grad():
        layer.free(ids, tape)
        layer.echo(tape, g, acc)
    assert relative(acc[layer.weight], reference.weight.grad) <= TOLERANCE[dtype]  # type: ignore[arg-type]


def test_parity_check_catches_a_wrong_statistic(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = RMSNorm.echo

    def biased(self: RMSNorm, tape: Tape, g: Tensor, acc: object) -> Tensor:
        return honest(self, tape, g, acc) * (1 + 1e-9)  # type: ignore[arg-type]

    monkeypatch.setattr(RMSNorm, "echo", biased)
    assert worst_error(RMSNorm(), torch.float64, drawn((WIDTH, 2, 7))) > TOLERANCE[torch.float64]


@pytest.mark.parametrize("name", LAYERS)
def test_nudge_drives_the_statistics(name: str) -> None:
    layer, x = LAYERS[name]().double(), drawn((WIDTH, 2, 7))
    if not list(layer.parameters()):
        return
    flat = FlatParams(layer, frozenset())

    def driven(scale: float) -> Tensor:
        acc, tape = flat.statistics(), Tape()
        with torch.no_grad():
            y = layer.free(x, tape)
            layer.echo(tape, scale * drawn(tuple(y.shape), seed=1), acc)
        return acc.buffer

    assert not driven(0.0).any()
    assert torch.allclose(driven(2.0), 2 * driven(1.0), rtol=1e-12, atol=1e-14)
    assert driven(1.0).abs().max() > 1e-3


@pytest.mark.parametrize("name", LAYERS)
def test_causality_is_exact(name: str, dtype: torch.dtype) -> None:
    layer, x = LAYERS[name]().to(dtype), drawn((WIDTH, 2, 70)).to(dtype)
    for cut in (1, 5, 31, 32, 33, 64, 69):
        scrambled = x.clone()
        scrambled[..., cut:] = drawn((WIDTH, 2, 70 - cut), seed=2).to(dtype) * 3
        tape = Tape()
        with torch.no_grad():
            before, after = layer.free(x, tape), layer.free(scrambled, None)
            assert torch.equal(before[..., :cut], after[..., :cut])
            assert not torch.equal(before[..., cut:], after[..., cut:])


@pytest.mark.parametrize("name", LAYERS)
def test_nudges_never_reach_the_future(name: str) -> None:
    layer, x = LAYERS[name]().double(), drawn((WIDTH, 2, 70))
    acc, tape = statistics(layer), Tape()
    with torch.no_grad():
        y = layer.free(x, tape)
        g = drawn(tuple(y.shape), seed=1)
        g[..., 33:] = 0
        below = layer.echo(tape, g, acc)
    assert not below[..., 33:].any()
    assert below[..., :33].any()


@pytest.mark.parametrize("name", LAYERS)
def test_incremental_equals_whole(name: str, dtype: torch.dtype) -> None:
    layer, x = LAYERS[name]().to(dtype), drawn((WIDTH, 2, 90)).to(dtype)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    with torch.no_grad():
        whole = layer.free(x, None)
        state, ones = layer.start(2), []
        for t in range(90):
            y, state = layer.step(x[..., t], state)
            ones.append(y)
        state, parts = layer.start(2), []
        for part in x.split([1, 3, 30, 1, 33, 5, 17], -1):
            y, state = layer.advance(part, state)
            parts.append(y)
    scale = float(whole.abs().max())
    assert (torch.stack(ones, -1) - whole).abs().max() <= tolerance * scale
    assert (torch.cat(parts, -1) - whole).abs().max() <= tolerance * scale


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in LAYERS
        if n
        not in (
            "chain",
            "shared layer",
            "octonions",
            "norm",
            "gate",
            "selective bank",
            "hamiltonian",
            "wells",
            "symmetric nudge",
        )
    ],
)
def test_tape_misuse_raises(name: str) -> None:
    layer, other, x = LAYERS[name](), RMSNorm(), drawn((WIDTH, 1, 4)).float()
    acc, tape = statistics(layer), Tape()
    with torch.no_grad():
        y = layer.free(x, tape)
        layer.echo(tape, torch.ones_like(y), acc)
        with pytest.raises(TapeError, match="no record"):
            layer.echo(tape, torch.ones_like(y), acc)
        other.free(x, tape)
        with pytest.raises(TapeError, match="RMSNorm"):
            layer.echo(tape, torch.ones_like(y), acc)
