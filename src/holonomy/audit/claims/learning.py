"""Claims about how lior and ternary models learn: without a graph, by the true gradient, with every parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from holonomy.audit.claim import Evidence, Figure, Setting, claim, curve
from holonomy.core.flat import FlatParams
from holonomy.data.ternary_ops import OperationSpace, StratifiedBatches
from holonomy.data.tokens import TokenBatch
from holonomy.learn.echo import EchoLearner, echo_statistics
from holonomy.models.lior.config import DataConfig, LiorConfig, ModelConfig
from holonomy.models.lior.learner import build_learner
from holonomy.models.lior.model import build_network
from holonomy.models.ternary.config import TernaryConfig
from holonomy.models.ternary.learner import TernaryLearner
from holonomy.nn.coupled import CoupledBank
from holonomy.nn.heads import SoftmaxCrossEntropy
from holonomy.nn.kernel import KernelBank
from holonomy.nn.oscillator import OscillatorBank, OscillatorMixer
from holonomy.nn.retrieval import Retrieval
from holonomy.nn.selective import SelectiveBank
from holonomy.nn.static import Linear

VOCABULARY = 23
BANKS = ("diagonal", "selective", "coupled", "kernel")
UPDATES = 4
PARITY = 1e-8
"""Of gradients in float64 by echo and by automatic differentiation, relative to the largest of a parameter."""


def small(bank: str, length: int = 21) -> LiorConfig:
    """The default recipe with fewer channels, for sequences longer than a chunk."""
    model: dict[str, Any] = {"d": 16, "n_osc": 32, "hidden": 24, "heads": 2, "blocks": 2, "bank": bank}
    if bank in ("diagonal", "coupled"):
        model["chunk"] = 8
    return LiorConfig(model=ModelConfig(**model), data=DataConfig(seq_len=length, batch=3))


def draw_batch(generator: torch.Generator, config: LiorConfig, vocabulary: int = VOCABULARY) -> TokenBatch:
    """Random tokens and, as targets, others."""
    shape = (2, config.data.batch, config.data.seq_len)
    inputs, targets = torch.randint(vocabulary, shape, generator=generator)
    return TokenBatch(inputs, targets, targets.numel())


class GraphWatch:
    """What automatic differentiation was asked to do: tensors saved for it, and calls of it."""

    def __init__(self) -> None:
        self.saved = self.calls = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Counts while it is open."""

        def pack(tensor: Tensor) -> Tensor:
            self.saved += 1
            return tensor

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **keys: Any) -> Any:
                self.calls += 1
                return function(*args, **keys)

            return call

        with (
            mock.patch.object(torch.autograd, "grad", counted(torch.autograd.grad)),
            mock.patch.object(torch.autograd, "backward", counted(torch.autograd.backward)),
            mock.patch.object(torch.Tensor, "backward", counted(torch.Tensor.backward)),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        ):
            yield


def _updated(config: LiorConfig, batches: list[TokenBatch]) -> EchoLearner:
    learner = build_learner(config, vocab_size=VOCABULARY)
    for n, batch in enumerate(batches):
        learner.train_step(batch, progress=n / len(batches))
    return learner


@claim(
    "lior.no-autograd",
    statement="Lior learns without a graph: nothing is saved for one, and inference mode changes no bit.",
    source="README.md; docs/lior.md",
)
def no_graph(setting: Setting) -> Evidence:
    """Updates under hooks that see every saved tensor, and the same updates where a graph is impossible."""
    control = GraphWatch()
    with control.open(), torch.enable_grad():
        x = torch.ones(3, requires_grad=True)
        x.square().sum().backward()
    saved = calls = flagged = differing = 0
    for bank in BANKS:
        config = small(bank)
        generator = torch.Generator().manual_seed(setting.seed)
        batches = [draw_batch(generator, config) for _ in range(10 * UPDATES if setting.full else UPDATES)]
        watch = GraphWatch()
        with watch.open(), torch.enable_grad():
            outside = _updated(config, batches)
        saved, calls = saved + watch.saved, calls + watch.calls
        named = dict(outside.net.named_parameters())
        flagged += sum(p.requires_grad or p.grad is not None or p.grad_fn is not None for p in named.values())
        try:
            with torch.inference_mode():
                inside = _updated(config, batches)
        except RuntimeError as error:
            raise AssertionError(f"updates are impossible in inference mode: {error}") from error
        differing += int((outside.flat.buffer != inside.flat.buffer).sum())
    return Evidence(
        (
            Figure("tensors saved by a graph that is one, for comparison", control.saved, ">=", 1),
            Figure("calls of autograd then", control.calls, ">=", 1),
            Figure("tensors saved for a graph", saved, "==", 0),
            Figure("calls of autograd", calls, "==", 0),
            Figure("parameters with a gradient, a history or a wish for one", flagged, "==", 0),
            Figure("numbers that inference mode changes", differing, "==", 0),
        )
    )


class PlainForward:
    """The network written again from the formulas of docs/lior.md, token after token, for automatic derivatives.

    Args:
        net: its parameters are copied, in float64.
    """

    def __init__(self, net: Any) -> None:
        self.net = net
        self.leaves = {n: p.detach().double().clone().requires_grad_() for n, p in net.named_parameters()}
        self._by_id = {id(p): self.leaves[n] for n, p in net.named_parameters()}

    def of(self, parameter: Tensor) -> Tensor:
        """The copy of a parameter."""
        return self._by_id[id(parameter)]

    def loss(self, batch: TokenBatch) -> Tensor:
        """Mean cross entropy of the targets."""
        embedding, *blocks, _, head = self.net
        x = self.of(embedding.weight)[:, batch.inputs]
        for block in blocks:
            _, *body = block.layer
            x = x + self._block(body, self._norm(x))
        logits = torch.einsum("vd,dbt->btv", self.of(head.weight), self._norm(x))
        return F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())

    def _norm(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(0) + 1e-5).sqrt()

    def _map(self, layer: Linear, x: Tensor) -> Tensor:
        return torch.einsum("od,dbt->obt", self.of(layer.weight), x)

    def _block(self, body: list[Any], x: Tensor) -> Tensor:
        if isinstance(body[0], OscillatorMixer):
            return self._mixer(body[0], x)
        if isinstance(body[0], Retrieval):
            return self._retrieval(body[0], x)
        first, _, last = body
        a, b = self._map(first, x).chunk(2)
        return self._map(last, a * torch.sigmoid(a) * b)

    def _mixer(self, mixer: OscillatorMixer, x: Tensor) -> Tensor:
        skip, taps = self.of(mixer.skip), self.of(mixer.fir.weight)
        n = len(skip)
        mapped = self._map(mixer.inp, x)
        a, drive, control = mapped[:n], mapped[n : 2 * n], mapped[2 * n :]
        padded = F.pad(drive, (taps.shape[1] - 1, 0))
        f = sum(
            taps[:, k, None, None] * padded[..., taps.shape[1] - 1 - k :][..., : x.shape[-1]]
            for k in range(taps.shape[1])
        )
        assert isinstance(f, Tensor)
        bank: Any = mixer.bank
        q = self.BANK[type(bank)](self, bank, f, control)
        return self._map(mixer.out, a * torch.sigmoid(a) * (q + skip[:, None, None] * f))

    def _convolve(self, kernel: Tensor, f: Tensor) -> Tensor:
        """sum over tau of kernel(tau) f(t - tau), term by term."""
        shifted = [F.pad(f, (tau, 0))[..., : f.shape[-1]] * kernel[:, tau, None, None] for tau in range(f.shape[-1])]
        return torch.stack(shifted).sum(0)

    def _damped(self, bank: OscillatorBank, f: Tensor, control: Tensor) -> Tensor:
        theta, gamma = math.pi * torch.sigmoid(self.of(bank.turn)), self.of(bank.damping).exp()
        tau = torch.arange(f.shape[-1], dtype=f.dtype)
        scale = (2 * (1 - torch.exp(-2 * gamma))).sqrt()
        response = torch.exp(-gamma[:, None] * tau) * torch.sin(theta[:, None] * (tau + 1))
        return self._convolve(scale[:, None] * response, f)

    def _selective(self, bank: SelectiveBank, f: Tensor, control: Tensor) -> Tensor:
        r, phi = control.chunk(2)
        theta = math.pi * torch.sigmoid(self.of(bank.turn))[:, None, None]
        gamma = 1e-4 + F.softplus(r + self.of(bank.damping)[:, None, None])
        rho, turn = torch.exp(-gamma), theta + phi
        drive = (2 * (1 - torch.exp(-2 * gamma))).sqrt() * f
        real, imag, found = torch.zeros_like(f[..., 0]), torch.zeros_like(f[..., 0]), []
        for t in range(f.shape[-1]):
            c, s = rho[..., t] * torch.cos(turn[..., t]), rho[..., t] * torch.sin(turn[..., t])
            real, imag = c * real - s * imag + drive[..., t], s * real + c * imag
            found.append(torch.cos(theta[..., 0]) * imag + torch.sin(theta[..., 0]) * real)
        return torch.stack(found, -1)

    def _coupled(self, bank: CoupledBank, f: Tensor, control: Tensor) -> Tensor:
        centre = torch.tensor(bank.centre, dtype=f.dtype)
        rho = torch.exp(-centre * 1.5 ** torch.tanh(self.of(bank.damping)))
        low, high = torch.exp(-centre * 1.5), torch.exp(-centre / 1.5)
        floor = 1.01 * (1 - low).square() / low
        room = 0.99 * (1 + high).square() / high - 0.5 - floor
        values = floor[:, None] + room[:, None] * torch.sigmoid(self.of(bank.stiffness))
        columns, extra = self.of(bank.columns), 0.5 * torch.sigmoid(self.of(bank.weights))
        q = self._rotations(bank)
        k = q @ torch.diag_embed(values) @ q.mT + columns @ torch.diag_embed(extra) @ columns.mT
        square = rho.square()[:, None, None]
        a = (1 + square) * torch.eye(bank.size, dtype=f.dtype) - rho[:, None, None] * k
        heads = f.unflatten(0, (bank.heads, bank.size))
        before = last = torch.zeros_like(heads[..., 0])
        found = []
        for t in range(f.shape[-1]):
            before, last = last, a @ last - square * before + heads[..., t]
            found.append(last)
        return torch.stack(found, -1).flatten(0, 1)

    def _rotations(self, bank: CoupledBank) -> Tensor:
        """Product of plane rotations, one after the other."""
        angles = self.of(bank.angles)
        heads, layers, _ = angles.shape
        q = torch.eye(bank.size, dtype=angles.dtype).expand(heads, -1, -1)
        for layer in range(layers):
            cos, sin = torch.cos(angles[:, layer]), torch.sin(angles[:, layer])
            first, second = bank.planes[layer].unbind(-1)
            turn = torch.zeros(heads, bank.size, bank.size, dtype=angles.dtype)
            turn[:, first, first], turn[:, second, second] = cos, cos
            turn[:, first, second], turn[:, second, first] = -sin, sin
            q = turn @ q
        return q

    def _kernel(self, bank: KernelBank, f: Tensor, control: Tensor) -> Tensor:
        tau = torch.arange(f.shape[-1], dtype=f.dtype)

        def fading(rate: Tensor) -> Tensor:
            return torch.exp(-self.of(rate).exp()[:, None] * tau)

        slow = (bank.shares.double()[..., None] * torch.exp(-bank.rates.double()[..., None] * tau)).sum(1)
        angle = math.pi * torch.sigmoid(self.of(bank.turn))[:, None] * tau + self.of(bank.phase)[:, None]
        kernel = self.of(bank.relaxation)[:, None] * fading(bank.relaxation_rate)
        kernel = kernel + self.of(bank.power)[:, None] * slow * fading(bank.power_rate)
        kernel = kernel + self.of(bank.wave)[:, None] * fading(bank.wave_rate) * torch.cos(angle)
        w = torch.sigmoid(self.of(bank.direct))[:, None, None]
        return w * f + (1 - w) * self._convolve(kernel, f)

    def _retrieval(self, layer: Retrieval, x: Tensor) -> Tensor:
        mapped = self._map(layer.inp, x).unflatten(0, (3, layer.heads, layer.width))
        query, key, value = mapped.permute(0, 3, 1, 4, 2)
        age = torch.arange(x.shape[-1])[:, None] - torch.arange(x.shape[-1])
        square = (query[..., :, None, :] - key[..., None, :, :]).square().sum(-1)
        radius = self.of(layer.log_radius).exp()[:, None, None]
        slope = (2 * self.of(layer.log_interval)).exp()[:, None, None]
        cost = radius * (square + slope * age.square() + 0.01 * layer.width).sqrt()
        seen = (age >= 0) & (age < layer.window)
        weights = torch.where(seen, -cost, -math.inf).softmax(-1)
        return self._map(layer.out, (weights @ value).permute(1, 3, 0, 2).flatten(0, 1))

    BANK: Mapping[type, Callable[[Any, Any, Tensor, Tensor], Tensor]] = {
        OscillatorBank: _damped,
        SelectiveBank: _selective,
        CoupledBank: _coupled,
        KernelBank: _kernel,
    }


def echo_gradient(net: Any, batch: TokenBatch) -> tuple[dict[str, Tensor], float]:
    """What an echo gives for each parameter, and the loss of the free phase."""
    net.requires_grad_(False)
    flat = FlatParams(net, frozenset())
    stats = flat.statistics()
    value = echo_statistics(net, SoftmaxCrossEntropy(), batch, stats)
    return flat.named_views(stats.buffer), float(value)


@claim(
    "lior.gradient-parity",
    statement="The echo of a nudge is the gradient of the loss, for every parameter.",
    source="README.md; docs/lior.md",
)
def gradient_parity(setting: Setting) -> Evidence:
    """Against automatic differentiation of another forward pass, and central differences of it, in float64."""
    figures, lines, step = [], {}, 1e-6
    for bank in BANKS:
        generator = torch.Generator().manual_seed(setting.seed)
        config = small(bank, 70 if setting.full else 21)
        net = build_network(config, vocab_size=VOCABULARY).double()
        with torch.no_grad():
            for parameter in net.parameters():
                # Away from the start, where many parameters are alike.
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            for layer in net.modules():
                getattr(layer, "project", lambda: None)()
        batch = draw_batch(generator, config)
        plain = PlainForward(net)
        found, value = echo_gradient(net, batch)
        loss = plain.loss(batch)
        wanted = dict(zip(plain.leaves, torch.autograd.grad(loss, list(plain.leaves.values())), strict=True))
        off = {n: float((found[n] - g).abs().max() / g.abs().max()) for n, g in wanted.items()}
        worst = 0.0
        for _ in range(40 if setting.full else 3):
            way = {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in plain.leaves.items()}
            with torch.no_grad():
                ends = []
                for sign in (1.0, -2.0, 1.0):
                    for name, leaf in plain.leaves.items():
                        leaf += sign * step * way[name]
                    ends.append(float(plain.loss(batch)))
            slope = (ends[0] - ends[1]) / (2 * step)
            along = sum(float((found[n] * way[n]).sum()) for n in way)
            worst = max(worst, abs(slope - along) / abs(slope))
        lines[bank] = [(float(n), max(v, 1e-18)) for n, v in enumerate(sorted(off.values()))]
        figures += [
            Figure(f"{bank}: loss differs by", abs(float(loss.detach()) - value), "<=", 1e-10),
            Figure(f"{bank}: worst parameter, relative", max(off.values()), "<=", PARITY),
            Figure(f"{bank}: worst direction by differences, relative", worst, "<=", 1e-5),
        ]
    picture = curve("distance of echo and gradient", "parameter, in order", "relative distance", lines, log_y=True)
    return Evidence(tuple(figures), (picture,))


@claim(
    "lior.parameters-live",
    statement="Every parameter of the default model moves its output and is told how by the echo.",
    source="docs/lior.md",
)
def lior_parameters_live(setting: Setting) -> Evidence:
    """Echo statistics of each number, and the output before and after each parameter is pushed."""
    generator = torch.Generator().manual_seed(setting.seed)
    config = LiorConfig(data=DataConfig(batch=4))
    net = build_network(config, vocab_size=64)
    batch = draw_batch(generator, config, 64)
    with torch.no_grad():
        found, _ = echo_gradient(net, batch)
        silent = sum(int((g == 0).sum()) for g in found.values())
        unheard = [n for n, g in found.items() if not float(g.abs().max()) > 0]
        short = batch.inputs[:1, :48]
        before, unmoved = net.free(short, None), []
        for name, parameter in net.named_parameters():
            kept = parameter.clone()
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator) * (kept.abs().mean() + 0.01)
            if not float((net.free(short, None) - before).abs().max()) > 1e-7:
                unmoved.append(name)
            parameter.copy_(kept)
    count = sum(g.numel() for g in found.values())
    return Evidence(
        (
            Figure("parameters", len(found), ">=", 20),
            Figure("without any statistic", len(unheard), "==", 0),
            Figure("that do not move the output", len(unmoved), "==", 0),
            Figure("share of single numbers without a statistic", silent / count, "<=", 1e-3),
        ),
        detail=", ".join(sorted({*unheard, *unmoved})),
    )


@claim(
    "ternary.parameters-live",
    statement="Every parameter of the default ternary model moves its output and receives a gradient.",
    source="docs/ternary.md",
)
def ternary_parameters_live(setting: Setting) -> Evidence:
    """Gradients of the weighted losses after a few updates, and the output before and after each push."""
    config = TernaryConfig()
    space = OperationSpace(config.data.base, config.data.digits)
    batches = StratifiedBatches(
        space, space.index, batch_size=256, extra_per_level=8, extra_from_level=4, high_budget=None, seed=setting.seed
    )
    learner = TernaryLearner(config, space)
    # The last maps of the projection begin at zero, so that what is below them hears nothing at first.
    for _ in range(3):
        learner.train_step(batches.next(), progress=0.5)
    named = dict(learner.module.named_parameters())
    learner.module.zero_grad(set_to_none=True)
    batch = batches.next()
    learner.objective(batch, 0.5)[0].backward()
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named.items()}
    unheard = [n for n, g in gradients.items() if not float(g.abs().max()) > 0]
    silent = sum(int((g == 0).sum()) for g in gradients.values())
    generator, unmoved = torch.Generator().manual_seed(setting.seed), []

    def output() -> Tensor:
        out = learner.vae(learner.vae.table_of(batch.index), generator=torch.Generator().manual_seed(1))
        return torch.cat([out.B.u.flatten(), out.logits.flatten()])

    with torch.no_grad():
        before = output()
        for name, parameter in learner.vae.named_parameters():
            kept = parameter.clone()
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator) * (kept.abs().mean() + 0.01)
            if not float((output() - before).abs().max()) > 1e-7:
                unmoved.append(name)
            parameter.copy_(kept)
    count = sum(g.numel() for g in gradients.values())
    return Evidence(
        (
            Figure("parameters", len(named), ">=", 15),
            Figure("without a gradient", len(unheard), "==", 0),
            Figure("that do not move the output", len(unmoved), "==", 0),
            Figure("share of single numbers without a gradient", silent / count, "<=", 1e-2),
        ),
        detail=", ".join(sorted({*unheard, *unmoved})),
    )
