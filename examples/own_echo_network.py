"""A network of your own that learns without autograd: say again what was said some tokens ago.

    python examples/own_echo_network.py [--steps 300]

A bank of damped oscillators is all the memory there is. `EchoLearner` runs the network once freely and once nudged at
its output; the echo of that nudge gives every layer what it needs. No `.grad` is written and no graph is built.
"""

from __future__ import annotations

import argparse
import math

import torch

from holonomy.core.budget import Schedule
from holonomy.learn.echo import EchoLearner, Part
from holonomy.nn.containers import Chain, Residual
from holonomy.nn.embedding import Embedding
from holonomy.nn.heads import SoftmaxCrossEntropy
from holonomy.nn.oscillator import OscillatorBank, OscillatorMixer
from holonomy.nn.static import Linear, RMSNorm
from holonomy.optim.contrastive import AdamW
from holonomy.optim.schedules import learning_rate

SYMBOLS, DELAY, LENGTH, WIDTH = 8, 5, 64, 48


def network(generator: torch.Generator) -> Chain:
    """Token ids [batch, time] to logits [symbols, batch, time]."""

    def bank(source: torch.Generator) -> OscillatorBank:
        return OscillatorBank(WIDTH, theta_range=(0.05, 3.0), gamma_range=(0.02, 0.5), chunk=16, generator=source)

    mixer = OscillatorMixer(WIDTH, WIDTH, taps=1, bank=bank, out_scale=1.0, generator=generator)
    return Chain(
        [
            Embedding(SYMBOLS, WIDTH, std=1.0, generator=generator),
            Residual(Chain([RMSNorm(), mixer])),
            RMSNorm(),
            Linear(WIDTH, SYMBOLS, std=WIDTH**-0.5, generator=generator),
        ]
    )


def batch(generator: torch.Generator) -> Part:
    """Sixteen sequences; the first tokens, before anything was said, are not asked for."""
    ids = torch.randint(SYMBOLS, (16, LENGTH), generator=generator)
    targets = ids.roll(DELAY, 1)
    targets[:, :DELAY] = -100
    return Part(ids, targets, 16 * (LENGTH - DELAY))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    generator = torch.Generator().manual_seed(0)
    net = network(generator)
    learner = EchoLearner(
        net,
        SoftmaxCrossEntropy(),
        optimiser=lambda weights, count: AdamW(
            weights, num_decayed=count, betas=(0.9, 0.98), eps=1e-8, decay=0.0, clip=1.0
        ),
        schedule=lambda used: learning_rate(used, Schedule(), 0.02),
    )
    print(f"chance: {math.log(SYMBOLS):.3f} nats")
    for step in range(steps):
        metrics = learner.train_step(batch(generator), progress=step / steps)
        if step % 50 == 0 or step == steps - 1:
            print(f"update {step:4d}: {float(metrics.loss):.3f} nats")
    test = batch(generator)
    asked = test.targets != -100
    right = net.free(test.inputs, None).argmax(0)[asked] == test.targets[asked]
    print(f"said again after {DELAY} tokens: {float(right.float().mean()):.1%} right")


if __name__ == "__main__":
    main()
