"""Hamiltonian banks: order of the nudges, reversal, and learning by segments."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError, IllegalMix
from holonomy.core.flat import FlatParams
from holonomy.core.layer import EchoLayer
from holonomy.core.learner import IGNORE_INDEX
from holonomy.core.tape import Tape
from holonomy.dynamics.symplectic import FixedPointOverflow
from holonomy.learn.echo import Part, echo_statistics
from holonomy.learn.segments import segmented_statistics
from holonomy.models.lior.config import EchoConfig, LiorConfig, ModelConfig, TrainConfig
from holonomy.models.lior.model import build_network
from holonomy.nn.hamiltonian import HamiltonianBank, log_cosh
from holonomy.nn.heads import SoftmaxCrossEntropy
from holonomy.nn.kernel import KernelBank

MODES = 16


def bank(seed: int = 0, **options: object) -> HamiltonianBank:
    return HamiltonianBank(MODES, generator=torch.Generator().manual_seed(seed), **options)  # type: ignore[arg-type]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def echoed(layer: EchoLayer, x: Tensor, g: Tensor) -> Tensor:
    acc, tape = FlatParams(layer, frozenset()).statistics(), Tape()
    with torch.no_grad():
        layer.free(x, tape)
        below = layer.echo(tape, g, acc)
    return torch.cat([acc.buffer, below.flatten()])


def exact(layer: EchoLayer, x: Tensor, g: Tensor) -> Tensor:
    twin = copy.deepcopy(layer).double()
    leaf = x.double().clone().requires_grad_()
    twin(leaf).backward(g.double())
    order = FlatParams(twin, frozenset())
    by_name = dict(twin.named_parameters())
    grads = [by_name[n].grad.flatten() for n in order.names]  # type: ignore[union-attr]
    return torch.cat([*grads, leaf.grad.flatten()])  # type: ignore[union-attr]


def test_nudges_of_both_signs_err_by_second_order_and_of_one_by_first() -> None:
    x, g = drawn(2 * MODES, 3, 24), drawn(MODES, 3, 24, seed=1)
    for mode, order in (("symmetric", 2), ("one_sided", 1)):
        errors = []
        sizes = (1e-3, 1e-2)
        for kappa in sizes:
            layer = bank(wells=True, mode=mode, kappa=kappa, allow_biased=True).double()
            truth = exact(layer, x, g)
            errors.append(float((echoed(layer, x, g) - truth).norm() / truth.norm()))
        slope = math.log(errors[1] / errors[0]) / math.log(sizes[1] / sizes[0])
        assert abs(slope - order) < 0.15, (mode, errors)


def test_imaginary_nudges_are_exact() -> None:
    layer = bank(wells=True, mode="complex").double()
    x, g = drawn(2 * MODES, 2, 20), drawn(MODES, 2, 20, seed=1)
    truth = exact(layer, x, g)
    assert (echoed(layer, x, g) - truth).norm() <= 1e-12 * truth.norm()


@pytest.mark.parametrize("kappa", [0.1, 1.0])
def test_quadratic_banks_take_nudges_of_any_size(kappa: float, dtype: torch.dtype) -> None:
    layer = bank(mode="symmetric", kappa=kappa).to(dtype)
    x, g = drawn(MODES, 2, 48), drawn(MODES, 2, 48, seed=1)
    truth = exact(layer, x, g)
    error = (echoed(layer, x.to(dtype), g.to(dtype)).double() - truth).norm() / truth.norm()
    assert error <= {torch.float32: 5e-5, torch.float64: 1e-12}[dtype]


def test_small_nudges_through_wells_in_float32() -> None:
    layer = bank(wells=True, mode="symmetric")
    x, g = drawn(2 * MODES, 2, 48).float(), drawn(MODES, 2, 48, seed=1).float()
    truth = exact(layer, x, g)
    found = echoed(layer, x, g).double()
    assert (found - truth).norm() <= 1e-2 * truth.norm()
    assert torch.cosine_similarity(found, truth, 0) >= 0.9999


@pytest.mark.parametrize("wells", [False, True])
@pytest.mark.parametrize("length", [64, 512, 4096])
def test_fixed_point_returns_to_its_start(wells: bool, length: int) -> None:
    layer = bank(wells=wells, fixed=True, step=0.7 if wells else None)
    x = 0.2 * drawn((1 + wells) * MODES, 2, length).float()
    with torch.no_grad():
        start = layer.start(2)
        y, end = layer.resume(x, start, None)
        again, back = layer.retrace(x, end, Tape())
    assert torch.equal(again, y)
    assert not any(b.any() for b in back)
    assert end[0].abs().max() > 0


def test_float_path_returns_nearly() -> None:
    layer = bank().double()
    x = drawn(MODES, 1, 4096)
    with torch.no_grad():
        _, end = layer.resume(x, layer.start(1), None)
        _, back = layer.retrace(x, end, Tape())
    assert max(float(b.abs().max()) for b in back) <= 1e-8


def test_fixed_point_refuses_what_it_cannot_hold() -> None:
    with torch.no_grad(), pytest.raises(FixedPointOverflow, match="fixed point holds"):
        bank(fixed=True).resume(torch.full((MODES, 1, 64), 1e3), bank(fixed=True).start(1), None)


def test_steps_stay_stable() -> None:
    layer = bank(wells=True, step=0.5)
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(50)
        layer.project()
        before = [p.clone() for p in layer.parameters()]
        pot = layer.potential()
        assert pot.c is not None and pot.w is not None
        top = float(torch.linalg.eigvalsh(pot.k.double()).max() + (pot.c * pot.w).max())
        layer.project()
    assert top <= 4 / 0.5**2
    for p, b in zip(layer.parameters(), before, strict=True):
        assert torch.allclose(p, b, rtol=1e-5, atol=1e-6)


def test_log_cosh() -> None:
    z = torch.linspace(-30, 30, 601, dtype=torch.float64)
    assert torch.allclose(log_cosh(z), torch.log(torch.cosh(z)), rtol=1e-12, atol=1e-14)
    w = torch.complex(z / 10, torch.full_like(z, 1e-9))
    assert torch.allclose(log_cosh(w), torch.log(torch.cosh(w)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "one_sided"}, "biased"),
        ({"mode": "backwards"}, "wanted one of"),
        ({"kappa": 20.0}, "1e-8 to 10"),
        ({"fixed": True, "mode": "symmetric"}, "tangents only"),
    ],
)
def test_refusals(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        bank(**options)


def network(kind: str, *, fixed: bool = False, fir: int = 1) -> EchoLayer:
    if kind == "block h":
        shape = ModelConfig(pattern="hmhm", d=16, n_osc=MODES, hidden=16)
        return build_network(LiorConfig(model=shape), vocab_size=11)
    config = LiorConfig(
        model=ModelConfig(
            architecture="hybrid" if "retrieval" in kind else "causal_field",
            blocks=2,
            d=16,
            n_osc=MODES,
            hidden=16,
            fir=fir,
            bank=kind.split()[0],  # type: ignore[arg-type]
            wells="wells" in kind,
            **({"chunk": 8} if "diagonal" in kind else {}),
        ),
        train=TrainConfig(echo=EchoConfig(fixed=fixed)),
    )
    return build_network(config, vocab_size=11)


def statistics(net: EchoLayer, length: int | None, *, streamed: bool = False, tokens: int = 64) -> tuple[Tensor, float]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(11, (3, tokens + 1), generator=generator)
    targets = ids[:, 1:].clone()
    targets[0, 10:50] = IGNORE_INDEX
    acc, loss = FlatParams(net, frozenset()).statistics(), SoftmaxCrossEntropy()
    with torch.no_grad():
        if length is None:
            value = echo_statistics(net, loss, Part(ids[:, :-1], targets, targets.numel()), acc)
        else:
            value = segmented_statistics(net, loss, ids[:, :-1], targets, acc, length=length, streamed=streamed)
    return acc.buffer, float(value)


@pytest.mark.parametrize(
    "kind", ["diagonal", "selective", "hamiltonian", "hamiltonian wells", "diagonal and retrieval", "block h"]
)
@pytest.mark.parametrize("length", [16, 32, 40, 64])
def test_segments_give_the_statistics_of_the_whole(kind: str, length: int) -> None:
    net = network(kind, fir=4).double()
    whole, loss = statistics(net, None)
    parts, same = statistics(net, length)
    assert abs(loss - same) <= 1e-13
    assert (whole - parts).norm() <= 1e-12 * whole.norm()


@pytest.mark.parametrize("kind", ["hamiltonian", "hamiltonian wells", "block h"])
def test_streams_give_the_statistics_of_the_whole(kind: str, dtype: torch.dtype) -> None:
    net = network(kind).to(dtype)
    whole, _ = statistics(net, None)
    parts, _ = statistics(net, 16, streamed=True)
    assert (whole - parts).norm() <= {torch.float32: 5e-5, torch.float64: 1e-12}[dtype] * whole.norm()


def test_streams_of_fixed_point_states() -> None:
    exactly = network("hamiltonian").double()
    rounded = network("hamiltonian", fixed=True)
    rounded.load_state_dict({k: v.float() for k, v in exactly.state_dict().items()})
    whole, _ = statistics(exactly, None, tokens=512)
    parts, _ = statistics(rounded, 64, streamed=True, tokens=512)
    assert (whole - parts.double()).norm() <= 1e-4 * whole.norm()


def test_what_cannot_go_back_says_so() -> None:
    with pytest.raises(IllegalMix, match="OscillatorBank cannot be run backwards"):
        statistics(network("diagonal"), 16, streamed=True)
    with pytest.raises(IllegalMix, match="CausalFIR cannot be run backwards"):
        statistics(network("hamiltonian", fir=4), 16, streamed=True)
    layer = KernelBank(8, generator=torch.Generator())
    with pytest.raises(IllegalMix, match="KernelBank cannot learn by segments"):
        layer.resume(torch.zeros(8, 1, 4), layer.start(1), None)


@pytest.mark.parametrize(
    ("model", "echo", "words"),
    [
        ({}, {"mode": "symmetric"}, "for model.bank = hamiltonian"),
        ({}, {"segment": 64}, "segment or streamed"),
        ({}, {"memory": "streamed"}, "cannot learn blocks r and q"),
        ({"architecture": "causal_field"}, {"memory": "streamed"}, "wants model.bank = hamiltonian"),
        ({"pattern": "mm"}, {"memory": "streamed"}, "wants model.bank = hamiltonian"),
        ({"pattern": "hmo"}, {"memory": "streamed"}, "wants model.bank = hamiltonian"),
        ({"architecture": "causal_field", "dropout": 0.1}, {"memory": "segment"}, "model.dropout = 0"),
        ({"architecture": "causal_field"}, {"memory": "segment", "segment": 33}, "no multiple"),
        ({"bank": "hamiltonian"}, {"mode": "one_sided"}, "biased"),
        ({"bank": "hamiltonian"}, {"fixed": True, "mode": "symmetric"}, "tangents"),
        ({"bank": "hamiltonian"}, {"memory": "segment", "mode": "symmetric"}, "tangents"),
        ({"wells": True}, {}, "wells belong"),
        ({"bank": "hamiltonian", "n_osc": 100}, {}, "power of two"),
        ({"bank": "hamiltonian"}, {"kappa": 0.1}, "no size of a nudge"),
        ({"bank": "hamiltonian", "chunk": 8}, {}, "chunk belongs to bank = diagonal or coupled"),
        ({"bank": "kernel", "theta_range": (0.1, 1.0)}, {}, "theta_range belongs to"),
        ({"bank": "coupled", "gamma_range": (0.1, 2.0)}, {}, r"must end at 1\.2"),
        ({"bank": "coupled", "architecture": "causal_field"}, {"memory": "segment"}, "cannot learn model.bank"),
        ({"architecture": "field_transformer", "bank": "kernel"}, {}, "bank are of oscillators"),
    ],
)
def test_illegal_configurations(model: dict[str, object], echo: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LiorConfig(model=ModelConfig(**model), train=TrainConfig(echo=EchoConfig(**echo)))  # type: ignore[arg-type]
