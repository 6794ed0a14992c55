"""`replicas.py KIND BATCH FILE`: fifty updates of a small model on this process's part of each batch."""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file

from holonomy.data.tokens import WindowSampler
from holonomy.learn.autograd import AutogradLearner
from holonomy.models.lior.config import LiorConfig, ModelConfig
from holonomy.models.lior.learner import build_learner
from holonomy.models.lior.model import build_network
from holonomy.nn.heads import SoftmaxCrossEntropy
from holonomy.train.distributed import joined


def main() -> None:
    """Trains, and writes the parameters."""
    torch.set_num_threads(1)
    kind, batch, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    config = LiorConfig(model=ModelConfig(d=16, n_osc=16, hidden=16, heads=2))
    tokens = torch.randint(30, (5000,), generator=torch.Generator().manual_seed(0))
    with joined() as world:
        replicas = world if world.size > 1 else None
        if kind == "echo":
            learner = build_learner(config, vocab_size=30, replicas=replicas)
        else:
            learner = AutogradLearner(
                build_network(config, vocab_size=30),
                SoftmaxCrossEntropy(),
                betas=(0.9, 0.98),
                eps=1e-8,
                decay=0.5,
                clip=1.0,
                schedule=lambda progress: 1e-3,
                replicas=replicas,
            )
        part = (world.rank, world.size)
        sampler = WindowSampler(tokens, seq_len=32, batch=batch * world.size, seed=3, part=part)
        for step in range(50):
            metrics = learner.train_step(sampler.next(), progress=step / 50)
        assert metrics.count == 32 * batch * world.size
        state = learner.state()
        kept = {k: v.clone() for k, v in state.items() if k.startswith("model.") and isinstance(v, torch.Tensor)}
        if world.leads:
            save_file({**kept, "loss": metrics.loss.reshape(1)}, file)


if __name__ == "__main__":
    main()
