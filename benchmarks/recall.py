"""Can the default hybrid bring back what it saw 512 tokens ago? Associative recall and copying, without autograd.

    python benchmarks/recall.py [--task recall|copy] [--steps 2000] [--distance 512] [--bank diagonal] [--seed 1]

recall: `pairs` keys with their values, blanks, then the keys again in another order; each must be answered by its
value. copy: `pairs` tokens, blanks, then the same tokens again. Every answer lies `distance` tokens behind its
question, up to the order of the pairs. Fresh sequences at every step; accuracy is that of 256 new ones.

A query that compares itself with hundreds of places gives each of them a hundredth of the nudge: over 512 tokens from
the start nothing is found to learn from. So distances begin at 32 and double whenever the loss says "solved".
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from holonomy.cli.process import tune_process
from holonomy.core.layer import EchoLayer
from holonomy.core.learner import IGNORE_INDEX
from holonomy.data.tokens import TokenBatch
from holonomy.models.lior.config import DataConfig, LiorConfig, ModelConfig, TrainConfig
from holonomy.models.lior.learner import build_learner

SYMBOLS, BLANK, ASK = 32, 64, 65
"""Keys are 0 to 31, values 32 to 63."""
SOLVED, RECENT = 0.3, 0.05
"""Mean loss of the last batches below which the distance doubles, and the weight of the newest in it."""


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


def accuracy(net: EchoLayer, task: str, pairs: int, distance: int, *, count: int, seed: int) -> float:
    """Share of right answers in sequences that were not trained on."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    right, total = 0, 0
    for _ in range(count // 16):
        batch = sequences(task, 16, pairs, distance, generator)
        with torch.no_grad():
            found: Tensor = net.free(batch.inputs, None).argmax(0)
        due = batch.targets != IGNORE_INDEX
        right += int((found == batch.targets)[due].sum())
        total += int(due.sum())
    return right / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=("recall", "copy"), default="recall")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--distance", type=int, default=512)
    parser.add_argument("--first", type=int, default=32, help="distance that training starts with")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1024, help="of a batch, about")
    parser.add_argument("--bank", default="diagonal")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    tune_process(threads=1)
    longest = sequences(given.task, 1, given.pairs, given.distance, torch.Generator()).inputs.shape[1]
    config = LiorConfig(
        model=ModelConfig(bank=given.bank),
        data=DataConfig(seq_len=longest),
        train=TrainConfig(seed=given.seed, optim={"lr": given.lr, "decay": given.decay}),  # type: ignore[arg-type]
    )
    learner = build_learner(config, vocab_size=ASK + 1)
    generator = torch.Generator().manual_seed(given.seed)
    begin, limit, mean = time.process_time(), min(given.first, given.distance), 3.0
    for step in range(given.steps):
        distance = int(torch.randint(max(limit // 2, 2 * given.pairs + 2), limit + 1, (1,), generator=generator))
        size = max(1, given.tokens // (distance + 2 * given.pairs))
        batch = sequences(given.task, size, given.pairs, distance, generator)
        loss = float(learner.train_step(batch, progress=step / given.steps).loss)
        mean += RECENT * (loss - mean)
        if step % 100 == 99:
            print(f"step {step + 1}: up to {limit} tokens, mean loss {mean:.3f}", flush=True)
        if mean < SOLVED and limit < given.distance:
            print(f"step {step}: {limit} tokens solved, {time.process_time() - begin:.0f} CPU-s", flush=True)
            limit, mean = min(2 * limit, given.distance), 3.0
    spent = time.process_time() - begin
    ends = [given.distance // 2**n for n in range(4)]
    shares = {d: accuracy(learner.net, given.task, given.pairs, d, count=256, seed=given.seed) for d in ends}
    print(
        f"{given.task}, seed {given.seed}, {given.steps} updates, {spent:.0f} CPU-s: accuracy "
        + ", ".join(f"{share:.4f} over {d} tokens" for d, share in shares.items())
    )


if __name__ == "__main__":
    main()
