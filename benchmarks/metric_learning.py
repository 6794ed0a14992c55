"""Can retrieval learn, without autograd, which directions of its chart tell anything?

    python benchmarks/metric_learning.py [--kinds lowrank rotor] [--seeds 1 2 3] [--spread 1.1] [--learner autograd]

40 labelled prototypes, normal in 8 dimensions, are asked for by noisy copies: deviation 0.15 in three dimensions, 2 in
the other five, all turned by one random rotation. A sequence holds the prototypes and then 64 copies; the answer is
the label that retrieval gives most weight, of cost 2 sqrt(g(x - prototype) + 0.08). Only the metric g is learned, all
else of the layer stays as it was built. With a spread of 1.1 of the prototypes the Euclidean metric answers 0.36 right.
"best" is the share that the classifier gets right which knows the noise and its directions: no metric can do more,
but for the 4,000 copies it happens to be judged by.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from holonomy.cli.process import tune_process
from holonomy.core.budget import Schedule
from holonomy.core.flat import StatBuffer
from holonomy.core.layer import PointwiseLayer
from holonomy.core.learner import IGNORE_INDEX
from holonomy.core.tape import Tape
from holonomy.learn.autograd import AutogradLearner
from holonomy.learn.echo import EchoLearner, Part
from holonomy.nn.chart import Chart
from holonomy.nn.containers import Chain
from holonomy.nn.heads import SoftmaxCrossEntropy
from holonomy.nn.retrieval import Retrieval
from holonomy.optim.contrastive import AdamW
from holonomy.optim.schedules import learning_rate

N, INFORMATIVE, LABELS, COPIES = 8, 3, 40, 64
NOISE = torch.tensor([0.15] * INFORMATIVE + [2.0] * (N - INFORMATIVE))
UPDATES = {"lowrank": 400, "rotor": 1500}
BETAS, EPS, CLIP = (0.9, 0.98), 1e-8, 1.0


@dataclass
class Nuisance:
    """One drawing of the task.

    Attributes:
        turn: the rotation, [n, n].
        prototypes: before the rotation, [labels, n].
        generator: source of the copies.
    """

    turn: Tensor
    prototypes: Tensor
    generator: torch.Generator

    @classmethod
    def drawn(cls, seed: int, spread: float) -> Nuisance:
        """Rotation and prototypes of a seed."""
        generator = torch.Generator().manual_seed(seed)
        turn, _ = torch.linalg.qr(torch.randn(N, N, generator=generator))
        return cls(turn, spread * torch.randn(LABELS, N, generator=generator), generator)

    def copies(self, count: int) -> tuple[Tensor, Tensor]:
        """Noisy copies [count, n] and their labels."""
        label = torch.randint(LABELS, (count,), generator=self.generator)
        noise = NOISE * torch.randn(count, N, generator=self.generator)
        return (self.prototypes[label] + noise) @ self.turn.T, label

    def batch(self, count: int = COPIES) -> Part:
        """Prototypes with their labels, then copies without; [n + labels, 1, labels + count]."""
        x, label = self.copies(count)
        inputs = torch.zeros(N + LABELS, 1, LABELS + count)
        inputs[:N, 0] = torch.cat([self.prototypes @ self.turn.T, x]).T
        inputs[N:, 0, :LABELS] = torch.eye(LABELS)
        targets = torch.full((1, LABELS + count), IGNORE_INDEX)
        targets[0, LABELS:] = label
        return Part(inputs, targets, count)

    def best(self, count: int) -> float:
        """Share of copies that the classifier which knows the noise gets right."""
        x, label = self.copies(count)
        nearest = torch.cdist(x @ self.turn / NOISE, self.prototypes / NOISE).argmin(-1)
        return float((nearest == label).float().mean())


class LogShares(PointwiseLayer):
    """Logarithm of the weight that each label got: its softmax leaves out what copies without label got."""

    def free(self, x: Tensor, tape: Tape | None) -> Tensor:
        """Drops the chart's channels."""
        shares = x[N:].clamp_min(torch.finfo(x.dtype).tiny)
        if tape is not None:
            tape.push(self, shares)
        return shares.log()

    def echo(self, tape: Tape, g: Tensor, acc: StatBuffer) -> Tensor:
        """dx = g / x."""
        (shares,) = tape.pop(self)
        return torch.cat([g.new_zeros(N, *g.shape[1:]), g / shares])


def network(kind: str, seed: int, layers: int | None = None) -> tuple[Chain, frozenset[str]]:
    """Retrieval in one shared chart whose maps copy points and labels, and the names of the metric's parameters."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "lowrank":
        chart = Chart(1, N, frame_mode="learned_lowrank", rotor_mode="off", rank=INFORMATIVE, generator=generator)
    else:
        chart = Chart(1, N, rotor_layers=layers, generator=generator)
    width = N + LABELS
    retrieval = Retrieval(width, 1, window=1 << 20, out_scale=1.0, chart=chart, shared=True, generator=generator)
    with torch.no_grad():
        retrieval.inp.weight.copy_(F.pad(torch.eye(width), (0, 0, N, 0)))
        retrieval.inp.weight[:N] = torch.eye(N, width)
        retrieval.inp.weight[N : 2 * N] = 0
        retrieval.out.weight.copy_(torch.eye(width))
        retrieval.log_radius.fill_(math.log(2.0))
        # Order says nothing: no time lies between any two.
        retrieval.log_interval.fill_(-40.0)
    net = Chain([retrieval, LogShares()])
    return net, frozenset(name for name, _ in net.named_parameters() if ".chart." in name)


def learner(net: Chain, only: frozenset[str], *, autograd: bool, lr: float) -> EchoLearner | AutogradLearner:
    """Adam on the metric alone, by the echo or by its twin."""

    def schedule(progress: float) -> float:
        return learning_rate(progress, Schedule(), lr)

    if autograd:
        for name, param in net.named_parameters():
            param.requires_grad_(name in only)
        settings = {"betas": BETAS, "eps": EPS, "decay": 0.0, "clip": CLIP}
        return AutogradLearner(net, SoftmaxCrossEntropy(), schedule=schedule, **settings)
    return EchoLearner(
        net,
        SoftmaxCrossEntropy(),
        optimiser=lambda params, count: AdamW(params, num_decayed=count, betas=BETAS, eps=EPS, decay=0.0, clip=CLIP),
        schedule=schedule,
        only=only,
    )


def accuracy(net: Chain, task: Nuisance, count: int = 4000) -> float:
    """Share of right answers to new copies."""
    right = 0
    for _ in range(count // 500):
        batch = task.batch(500)
        with torch.no_grad():
            right += int((net.free(batch.inputs, None).argmax(0) == batch.targets).sum())
    return right / count


def trained(
    kind: str, seed: int, *, steps: int, spread: float, lr: float, autograd: bool = False, layers: int | None = None
) -> dict[str, float]:
    """Accuracy before and after, the best that the task allows, CPU-seconds of training."""
    task = Nuisance.drawn(seed, spread)
    net, only = network(kind, seed, layers)
    teacher = learner(net, only, autograd=autograd, lr=lr)
    begin = time.process_time()
    for step in range(steps):
        teacher.train_step(task.batch(), progress=step / steps)
    spent = time.process_time() - begin
    found = {"learned": accuracy(net, task), "best": task.best(100_000), "cpu_s": spent}
    plain, _ = network("rotor", seed)
    for name, param in plain.named_parameters():
        if ".chart." in name:
            param.data.zero_()
    return {"fixed": accuracy(plain, task)} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=tuple(UPDATES), default=list(UPDATES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--learner", choices=("echo", "autograd"), default="echo")
    parser.add_argument("--spread", type=float, default=1.1, help="deviation of the prototypes")
    parser.add_argument("--steps", type=int, help="updates; by default 400 for lowrank and 1,500 for rotor")
    parser.add_argument("--layers", type=int, help="of rotors; one an axis by default, which reach every rotation")
    parser.add_argument("--lr", type=float, default=0.05)
    given = parser.parse_args()
    tune_process(threads=1)
    print(f"{'metric':9}{'seed':>5}{'updates':>9}{'fixed':>8}{'learned':>9}{'best':>8}{'CPU-s':>7}", flush=True)
    for kind in given.kinds:
        steps = given.steps or UPDATES[kind]
        for seed in given.seeds:
            found = trained(
                kind,
                seed,
                steps=steps,
                spread=given.spread,
                lr=given.lr,
                autograd=given.learner == "autograd",
                layers=given.layers,
            )
            figures = "".join(
                f"{found[name]:{width}.3f}" for name, width in (("fixed", 8), ("learned", 9), ("best", 8))
            )
            print(f"{kind:9}{seed:5}{steps:9}{figures}{found['cpu_s']:7.1f}", flush=True)


if __name__ == "__main__":
    main()
