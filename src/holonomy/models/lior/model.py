"""The lior network, and the language model that wraps it for inference."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from holonomy.core.layer import EchoLayer
from holonomy.core.modes import COUPLED
from holonomy.models.lior.config import LiorConfig
from holonomy.nn.algebraic import Associator, BiquaternionBank
from holonomy.nn.chart import Chart
from holonomy.nn.containers import Chain, Residual
from holonomy.nn.coupled import CoupledBank
from holonomy.nn.embedding import Embedding
from holonomy.nn.equilibrium import EquilibriumUnit
from holonomy.nn.hamiltonian import HamiltonianBank
from holonomy.nn.heads import ActionPull, TargetPull
from holonomy.nn.kernel import KernelBank
from holonomy.nn.oscillator import OscillatorBank, OscillatorMixer
from holonomy.nn.probe import AddressProbe
from holonomy.nn.retrieval import CurvatureSource, GeometricRetrieval, Retrieval
from holonomy.nn.selective import SelectiveBank
from holonomy.nn.sites import FieldOptions, FieldProbe, FieldSites
from holonomy.nn.static import Dropout, GatedUnit, Linear, RMSNorm

FASTEST_TURN = 3.0
"""Radians per token of the fastest oscillator at the start: just below the Nyquist turn pi."""


def build_network(config: LiorConfig, *, vocab_size: int) -> Chain:
    """Builds the network from token ids [B, T] to logits [V, B, T]; equal seeds give equal weights.

    x = E[:, ids]; x += block(rms(x)) for each block; logits = W rms(x).
    """
    model = config.model
    generator = torch.Generator().manual_seed(config.train.seed)
    layers: list[EchoLayer] = [Embedding(vocab_size, model.d, std=0.5, generator=generator)]
    masks = torch.Generator().manual_seed(config.train.seed)
    dropout = [Dropout(model.dropout, generator=masks)] if model.dropout else []
    sites = _sites(config)
    for letter in model.letters:
        layers.append(Residual(Chain([RMSNorm(), *_block(letter, config, generator, sites), *dropout])))
    if config.train.precision == "bfloat16":
        # The read-out below keeps its precision: its products decide the loss directly.
        for inner in (m for layer in layers for m in layer.modules() if isinstance(m, Linear)):
            inner.product_dtype = torch.bfloat16
    layers += [RMSNorm(), *([] if sites is None else [FieldProbe(sites)])]
    if config.train.echo.action:
        layers.append(ActionPull(config.train.echo.action))
    if config.train.echo.nudge == "target_embedding":
        assert isinstance(layers[0], Embedding)
        layers.append(TargetPull(layers[0], config.train.echo.pull))
    layers += [Linear(model.d, vocab_size, std=0.5 * model.d**-0.5, generator=generator)]
    return Chain(layers)


def _sites(config: LiorConfig) -> FieldSites | None:
    options = config.field.model_dump()
    if not options.pop("enabled"):
        return None
    # Of reading, not of the field.
    options.pop("pace")
    # From a generator of its own, so that the other weights do not depend on the field.
    source = torch.Generator().manual_seed(config.train.seed)
    return FieldSites(config.model.d, FieldOptions(**options), generator=source)


def _block(letter: str, config: LiorConfig, generator: torch.Generator, sites: FieldSites | None) -> list[EchoLayer]:
    model, length = config.model, config.data.seq_len
    if letter == "m":
        return _gated_map(model.d, config, generator)
    if letter == "e":
        return [
            Linear(model.d, model.hidden, std=model.d**-0.5, generator=generator),
            EquilibriumUnit(model.hidden, generator=generator),
            Linear(model.hidden, model.d, std=model.out_scale * model.hidden**-0.5, generator=generator),
        ]
    if letter == "q":
        return [BiquaternionBank(model.d, generator=generator)]
    if letter == "c":
        return _octonions(config, generator)
    if letter == "h":
        inp = Linear(model.d, 2 * model.n_osc, std=0.5 * model.d**-0.5, generator=generator)
        wells = _hamiltonian(config, generator, wells=True)
        return [inp, wells, *_gated_map(model.n_osc, config, generator)]
    sizes = {"window": model.window or length, "out_scale": model.out_scale, "generator": generator}
    if letter == "p":
        chart = None if config.geometry.chart == "folded" else _chart(config, _source(config))
        probe = AddressProbe(model.d, model.heads, chart=chart, **sizes)
        _align(probe, config)
        return [probe]
    if letter == "r":
        sizes["taps"] = model.retrieval_fir
        if model.score == "geometric":
            return [GeometricRetrieval(model.d, model.heads, rope=model.rope, **sizes)]
        return [_retrieval(config, {**sizes, "sites": sites})]
    theta = model.theta_range or (math.pi / length, FASTEST_TURN)

    def bank(generator: torch.Generator) -> EchoLayer:
        if model.bank == "hamiltonian":
            return _hamiltonian(config, generator, wells=model.wells)
        if model.bank == "coupled":
            return CoupledBank(
                model.n_osc // COUPLED, COUPLED, gamma_range=model.gamma_range, chunk=model.chunk, generator=generator
            )
        if model.bank == "kernel":
            return KernelBank(
                model.n_osc, reach=model.reach, terms=model.terms, sign=model.power_sign, generator=generator
            )
        ranges = {"theta_range": theta, "gamma_range": model.gamma_range, "generator": generator}
        if model.bank == "selective":
            return SelectiveBank(model.n_osc, **ranges)
        return OscillatorBank(model.n_osc, chunk=model.chunk, **ranges)

    controls = {"selective": SelectiveBank.inputs - 1, "hamiltonian": int(model.wells)}.get(model.bank, 0)
    return [
        OscillatorMixer(
            model.d,
            model.n_osc,
            taps=model.fir,
            bank=bank,
            controls=controls,
            out_scale=model.out_scale,
            generator=generator,
        )
    ]


def _gated_map(inputs: int, config: LiorConfig, generator: torch.Generator) -> list[EchoLayer]:
    model = config.model
    return [
        Linear(inputs, 2 * model.hidden, std=inputs**-0.5, generator=generator),
        GatedUnit(),
        Linear(model.hidden, model.d, std=model.out_scale * model.hidden**-0.5, generator=generator),
    ]


def _hamiltonian(config: LiorConfig, generator: torch.Generator, *, wells: bool) -> HamiltonianBank:
    echo = config.train.echo
    return HamiltonianBank(
        config.model.n_osc,
        wells=wells,
        mode=echo.mode,
        kappa=echo.kappa,
        fixed=echo.fixed,
        allow_biased=echo.allow_biased,
        generator=generator,
    )


def _octonions(config: LiorConfig, generator: torch.Generator) -> list[EchoLayer]:
    """Three maps to octonions, their associator, and a kernel's memory of it against the present."""
    model = config.model
    # An associator is of third order and sums many products: at half the width of a map its variance is about 1.
    inp = Linear(model.d, 3 * model.n_osc, std=0.5 * model.d**-0.5, generator=generator)
    bank = KernelBank(model.n_osc, generator=generator)
    for amplitude in (bank.relaxation, bank.power, bank.wave):
        amplitude.data.neg_()
    out = Linear(model.n_osc, model.d, std=model.out_scale * model.n_osc**-0.5, generator=generator)
    return [inp, Associator(), bank, out]


def _source(config: LiorConfig) -> torch.Generator:
    """What charts are drawn from, so that the other weights do not depend on them."""
    return torch.Generator().manual_seed(config.train.seed)


def _chart(config: LiorConfig, source: torch.Generator) -> Chart:
    model, geometry = config.model, config.geometry
    return Chart(
        model.heads,
        geometry.n if geometry.chart == "shared" else model.d // model.heads,
        metric_mode=geometry.metric_mode,
        block=geometry.block,
        frame_mode=geometry.frame_mode,
        rotor_mode=geometry.rotor_mode,
        frame_every=geometry.frame_every,
        rank=geometry.rank,
        rotor_layers=geometry.rotor_layers,
        generator=source,
    )


def _retrieval(config: LiorConfig, sizes: dict[str, Any]) -> Retrieval:
    model, geometry = config.model, config.geometry
    if geometry.chart == "folded":
        return Retrieval(model.d, model.heads, stress=geometry.stress, **sizes)
    source = _source(config)
    chart = _chart(config, source)
    learned = "heights" in config.train.spsa.groups
    curved = CurvatureSource(chart.n, learned=learned, generator=source) if geometry.source == "curvature" else None
    found = Retrieval(
        model.d,
        model.heads,
        chart=chart,
        shared=geometry.chart == "shared",
        stress=geometry.stress,
        curvature=curved,
        **sizes,
    )
    _align(found, config)
    return found


def _align(layer: Retrieval | AddressProbe, config: LiorConfig) -> None:
    """Turns rotors that begin derived to the eigenframe of what they measure."""
    geometry = config.geometry
    if layer.chart is not None and geometry.frame_mode == "rotor" and geometry.rotor_mode == "derived":
        layer.chart.align(_covariance(layer, geometry.chart == "shared"))


def _covariance(layer: Retrieval | AddressProbe, shared: bool) -> Tensor:
    """Covariance of keys and queries at the start, for a white stream, [heads, n, n]."""
    weight = layer.inp.weight.detach()
    if shared:
        assert layer.chart is not None
        w = weight[: layer.chart.n]
        return (w @ w.T).expand(layer.heads, -1, -1)
    maps = weight[: 2 * layer.heads * layer.width].view(2, layer.heads, layer.width, -1)
    return (maps @ maps.mT).sum(0)


def count_parameters(net: EchoLayer) -> int:
    """Number of learned scalars."""
    return sum(p.numel() for p in net.parameters())
