"""Can the default hybrid bring back what it saw 512 tokens ago? Associative recall and copying, without autograd.

    python benchmarks/recall.py [--task recall|copy] [--steps 600] [--distance 512] [--bank diagonal]

recall: `pairs` keys with their values, blanks, then the keys again in another order; each must be answered by its
value. copy: `pairs` tokens, blanks, then the same tokens again. Every answer lies `distance` tokens behind its
question, up to the order of the pairs. Fresh sequences at every step; accuracy is that of 256 new ones.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from holonomy.cli.process import tune_process
from holonomy.core.learner import IGNORE_INDEX
from holonomy.data.tokens import TokenBatch
from holonomy.models.lior.config import DataConfig, LiorConfig, ModelConfig, TrainConfig
from holonomy.models.lior.learner import build_learner

SYMBOLS, BLANK, ASK = 32, 64, 65
"""Keys are 0 to 31, values 32 to 63."""


def sequences(task: str, batch: int, pairs: int, distance: int, generator: torch.Generator) -> TokenBatch:
    """Inputs, and targets where an answer is due."""
    keys = torch.stack([torch.randperm(SYMBOLS, generator=generator)[:pairs] for _ in range(batch)])
    values = SYMBOLS + torch.randint(SYMBOLS, (batch, pairs), generator=generator)
    if task == "recall":
        told = torch.stack([keys, values], 2).flatten(1)
        order = torch.stack([torch.randperm(pairs, generator=generator) for _ in range(batch)])
        asked = torch.stack([keys.gather(1, order), values.gather(1, order)], 2).flatten(1)
        answers = torch.full_like(asked, IGNORE_INDEX)
        answers[:, 1::2] = asked[:, 1::2]
    else:
        told = asked = answers = values
    blanks = torch.full((batch, distance - told.shape[1] - 1), BLANK)
    ask = torch.full((batch, 1), ASK)
    whole = torch.cat([told, blanks, ask, asked], 1)
    targets = torch.full_like(whole, IGNORE_INDEX)
    targets[:, -asked.shape[1] :] = answers
    wanted = targets[:, 1:].contiguous()
    return TokenBatch(whole[:, :-1].contiguous(), wanted, int((wanted != IGNORE_INDEX).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=("recall", "copy"), default="recall")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--distance", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--bank", default="diagonal")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--decay", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    tune_process(threads=1)
    example = sequences(given.task, 1, given.pairs, given.distance, torch.Generator())
    config = LiorConfig(
        model=ModelConfig(bank=given.bank),
        data=DataConfig(seq_len=example.inputs.shape[1], batch=given.batch),
        train=TrainConfig(seed=given.seed, optim={"lr": given.lr, "decay": given.decay}),  # type: ignore[arg-type]
    )
    learner = build_learner(config, vocab_size=ASK + 1)
    generator = torch.Generator().manual_seed(given.seed)
    begin = time.process_time()

    def accuracy(count: int) -> float:
        test = torch.Generator().manual_seed(10_000 + given.seed)
        right, total = 0, 0
        for _ in range(count // 16):
            batch = sequences(given.task, 16, given.pairs, given.distance, test)
            with torch.no_grad():
                found: Tensor = learner.net.free(batch.inputs, None).argmax(0)
            due = batch.targets != IGNORE_INDEX
            right += int((found == batch.targets)[due].sum())
            total += int(due.sum())
        return right / total

    for step in range(given.steps):
        batch = sequences(given.task, given.batch, given.pairs, given.distance, generator)
        metrics = learner.train_step(batch, progress=step / given.steps)
        if step % 50 == 0:
            print(f"step {step}: loss {float(metrics.loss):.4f}, accuracy {accuracy(32):.3f}", flush=True)
    print(
        f"{given.task} over {given.distance} tokens, seed {given.seed}: accuracy {accuracy(256):.4f} after "
        f"{given.steps} updates, {time.process_time() - begin:.0f} CPU-s"
    )


if __name__ == "__main__":
    main()
