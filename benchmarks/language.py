"""lior against networks trained by back-propagation: the same text, the same CPU time, about the same size.

    python benchmarks/language.py [--cpu-seconds 150] [--seed 1] [--length T] [--batch B] [--ema D] [NAME ...]

Tinyshakespeare, characters; the losses are those of the whole held-out part in windows of 64, 128 and 256 characters
from rest. Peers: nanoGPT's recipe for CPUs (Karpathy: 4 layers, 128 wide, 12 x 64 characters, AdamW 1e-3), a GRU, a
diagonal selective state space (Mamba, Gu & Dao 2023, with its scan in log2(T) passes) and linear oscillators
(LinOSS-IM, Rusch & Rus 2025, by FFT). nanoGPT has the learning rate of its recipe, the others that of lior; all rates
follow the CPU time spent, with the same warm-up and cosine. `--length` and `--batch` give all but nanoGPT other windows
and batches, `--ema` averages the weights of all. One thread.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from holonomy.cli.process import tune_process
from holonomy.core.budget import Schedule
from holonomy.data.kneser_ney import baselines
from holonomy.data.tokens import TokenBatch, WindowSampler
from holonomy.infer.evaluation import evaluate_tokens
from holonomy.models.lior.config import DataConfig
from holonomy.optim.schedules import learning_rate
from holonomy.recipes import configure, launch
from holonomy.recipes.lior import Corpus, read_corpus
from holonomy.train.monitor import SilentProgress


class Norm(nn.Module):
    """RMS norm with a gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.gain)


class Attend(nn.Module):
    """Causal self-attention of four heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inp(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """nanoGPT: learned positions, pre-norm blocks, GELU, tied embedding."""

    def __init__(self, vocabulary: int, width: int = 128, layers: int = 4, length: int = 64) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            up, down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
            self.blocks.append(nn.ModuleList([nn.LayerNorm(width), Attend(width), nn.LayerNorm(width), up, down]))
        self.norm = nn.LayerNorm(width)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = name.endswith(("out.weight", "4.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if deep else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids) + self.place.weight[: ids.shape[1]]
        for before, attend, between, up, down in self.blocks:  # pyright: ignore[reportGeneralTypeIssues]
            x = x + attend(before(x))
            x = x + down(F.gelu(up(between(x))))
        return self.norm(x) @ self.token.weight.T


class Recurrent(nn.Module):
    """A GRU between an embedding and a read-out."""

    def __init__(self, vocabulary: int, width: int = 128, hidden: int = 432) -> None:
        super().__init__()
        self.token, self.core = nn.Embedding(vocabulary, width), nn.GRU(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.core(self.token(ids))[0])


class Selective(nn.Module):
    """Mamba's block: gate, short convolution, and a diagonal state space with input-dependent step, B and C."""

    def __init__(self, width: int, inner: int = 256, states: int = 8, rank: int = 8) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.conv = nn.Conv1d(inner, inner, 4, groups=inner, padding=3)
        self.control = nn.Linear(inner, rank + 2 * states, bias=False)
        self.step = nn.Linear(rank, inner)
        self.log_a = nn.Parameter(torch.arange(1, states + 1).float().log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.sizes = (rank, states, states)
        with torch.no_grad():
            steps = torch.exp(torch.rand(inner) * (math.log(0.1) - math.log(1e-3)) + math.log(1e-3))
            self.step.bias.copy_(steps.expm1().log())

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.inp(x).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        step, b, c = self.control(x).split(self.sizes, -1)
        step = F.softplus(self.step(step))
        decay = torch.exp(-step.unsqueeze(-1) * self.log_a.exp())
        state, span = (step * x).unsqueeze(-1) * b.unsqueeze(2), 1
        while span < state.shape[1]:
            state = torch.cat([state[:, :span], state[:, span:] + decay[:, span:] * state[:, :-span]], 1)
            decay = torch.cat([decay[:, :span], decay[:, span:] * decay[:, :-span]], 1)
            span *= 2
        y = (state * c.unsqueeze(2)).sum(-1) + self.skip * x
        return self.out(y * F.silu(gate))


class Oscillators(nn.Module):
    """LinOSS with the implicit step: y'' = -a y + B u, both read out, then a gated unit."""

    def __init__(self, width: int, states: int = 128) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.rand(states))
        self.step = nn.Parameter(torch.logit(torch.rand(states).clamp(0.05, 0.95)))
        self.b, self.c = nn.Linear(width, states, bias=False), nn.Linear(states, width, bias=False)
        self.d = nn.Parameter(torch.randn(width))
        self.gate = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        length, step = x.shape[1], torch.sigmoid(self.step)
        s = 1 / (1 + step.square() * F.relu(self.a))
        # z' = S z - dt A S y + dt S u, y' = dt S z + S y + dt^2 S u: eigenvalues S +- i sqrt(S (1 - S)).
        angle = torch.atan2((1 - s).clamp_min(1e-9).sqrt(), s.sqrt())
        lag = torch.arange(length, device=x.device)
        turned = torch.sin(angle[:, None] * (lag + 1)) / torch.sin(angle)[:, None]
        kernel = step.square()[:, None] * s.sqrt()[:, None] ** (lag + 2) * turned
        u = self.b(x).transpose(1, 2)
        size = 2 * length
        y = torch.fft.irfft(torch.fft.rfft(u, size) * torch.fft.rfft(kernel, size), size)[..., :length]
        return F.glu(self.gate(F.gelu(self.c(y.transpose(1, 2)) + self.d * x)))


class Stack(nn.Module):
    """Mixers with pre-norm and residuals, and a gated map after each if `hidden` is given."""

    def __init__(
        self, vocabulary: int, mixer: Callable[[int], nn.Module], layers: int, width: int = 128, hidden: int = 0
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.mixers = nn.ModuleList(nn.ModuleList([Norm(width), mixer(width)]) for _ in range(layers))
        self.maps = nn.ModuleList(
            nn.ModuleList([Norm(width), nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)])
            for _ in range(layers if hidden else 0)
        )
        self.norm, self.head = Norm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids)
        for n, (norm, mixer) in enumerate(self.mixers):  # pyright: ignore[reportGeneralTypeIssues]
            x = x + mixer(norm(x))
            if len(self.maps):
                before, up, down = self.maps[n]  # pyright: ignore[reportGeneralTypeIssues]
                a, b = up(before(x)).chunk(2, -1)
                x = x + down(F.silu(a) * b)
        return self.head(self.norm(x))


Found: TypeAlias = tuple[list[float], int, int]
WINDOWS = (64, 128, 256)
"""Characters of the windows that held-out losses are taken in."""


@dataclass(frozen=True)
class Peer:
    """A network, its batch, its windows, and its learning rate."""

    build: Callable[[int], nn.Module]
    batch: int
    length: int
    lr: float


PEERS = {
    "nanoGPT (CPU recipe)": Peer(Transformer, 12, 64, 1e-3),
    "GRU": Peer(Recurrent, 16, 128, 4e-3),
    "selective state space (Mamba)": Peer(lambda v: Stack(v, Selective, layers=6), 8, 128, 4e-3),
    "linear oscillators (LinOSS)": Peer(lambda v: Stack(v, Oscillators, layers=4, hidden=256), 8, 128, 4e-3),
}


@torch.no_grad()
def held_out(logits: Callable[[Tensor], Tensor], corpus: Corpus, *, longest: int = WINDOWS[-1]) -> list[float]:
    """Loss of the whole held-out part in windows of each of `WINDOWS`; NaN for windows beyond `longest`."""

    def loss_of(batch: TokenBatch) -> Tensor:
        return F.cross_entropy(logits(batch.inputs).flatten(0, 1), batch.targets.flatten())

    found = [math.nan] * len(WINDOWS)
    for n, length in enumerate(n for n in WINDOWS if n <= longest):
        metrics = evaluate_tokens(loss_of, torch.from_numpy(corpus.validation), length)
        assert metrics is not None
        found[n] = metrics["val/loss"]
    return found


def train_peer(peer: Peer, corpus: Corpus, budget: float, seed: int, ema: float) -> Found:
    """Held-out losses, characters trained on, and parameters; `ema` is the decay of averaged weights, 0 is none."""
    torch.manual_seed(seed)
    net = peer.build(corpus.tokenizer.vocab_size)
    groups = [
        {"params": [p for p in net.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in net.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=peer.lr, betas=(0.9, 0.99))
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema else None
    train = torch.from_numpy(corpus.train)
    sampler = WindowSampler(train, seq_len=peer.length, batch=peer.batch, seed=seed)
    spent, characters = 0.0, 0
    while spent < budget:
        begin = time.process_time()
        batch = sampler.next()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(spent / budget, Schedule(), peer.lr)
        loss = F.cross_entropy(net(batch.inputs).flatten(0, 1), batch.targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        if averaged is not None:
            averaged.update_parameters(net)
        characters += batch.count
        spent += time.process_time() - begin

    judged = net if averaged is None else averaged
    longest = peer.length if peer.build is Transformer else WINDOWS[-1]
    return held_out(judged, corpus, longest=longest), characters, sum(p.numel() for p in net.parameters())


def train_lior(corpus: Corpus, budget: float, seed: int, settings: list[str]) -> Found:
    """Held-out losses, characters trained on, and parameters of the recipe `lior-shakespeare`."""
    options = {
        "train.budget": ("", {"steps": None, "tokens": None, "cpu_s": budget, "seconds": None}),
        "train.seed": ("", seed),
    }
    config = configure("lior-shakespeare", overrides=settings, options=options).config
    with tempfile.TemporaryDirectory() as root:
        report = launch.train(config, recipe="lior", run="a", root=Path(root), progress=SilentProgress())
        net = launch.load("a", root=Path(root)).net

    def logits(ids: Tensor) -> Tensor:
        return net.free(ids, None).permute(1, 2, 0)

    return held_out(logits, corpus), report.tokens, sum(p.numel() for p in net.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="lior, or a peer; all of them by default")
    parser.add_argument("--cpu-seconds", type=float, default=150.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="a.b=value of lior's recipe")
    parser.add_argument("--length", type=int, help="characters of a window, for all but nanoGPT")
    parser.add_argument("--batch", type=int, help="windows of an update, for all but nanoGPT")
    parser.add_argument("--ema", type=float, default=0.0, help="decay of averaged weights; 0 is none")
    given = parser.parse_args()
    sizes = {name: value for name in ("length", "batch") if (value := getattr(given, name))}
    settings = [f"data.{'seq_len' if name == 'length' else name}={value}" for name, value in sizes.items()]
    settings += [f"train.optim.ema={given.ema}", *given.set]
    tune_process(threads=1)
    corpus = read_corpus(DataConfig(source="tinyshakespeare"))
    plain = baselines(corpus.train, corpus.validation, corpus.tokenizer.vocab_size)
    print(", ".join(f"{name} {value:.4f}" for name, value in plain.items()), flush=True)
    print(f"{'model':32}{'parameters':>12}{'characters':>12}" + "".join(f"{n:>10}" for n in WINDOWS), flush=True)
    for name in given.names or ["lior", *PEERS]:
        if name == "lior":
            losses, characters, size = train_lior(corpus, given.cpu_seconds, given.seed, settings)
        else:
            peer = PEERS[name] if PEERS[name].build is Transformer else replace(PEERS[name], **sizes)
            losses, characters, size = train_peer(peer, corpus, given.cpu_seconds, given.seed, given.ema)
        print(f"{name:32}{size:12,}{characters:12,}" + "".join(f"{x:10.4f}" for x in losses), flush=True)


if __name__ == "__main__":
    main()
