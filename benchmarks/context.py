"""Held-out loss by how long the state is carried, for a run that was trained on short windows.

    python benchmarks/context.py RUN [--root runs] [--longest 4096]

The held-out text is cut into passages of 64, 128, ... characters; each is read from rest with its state carried to its
end, and all characters but the first of the text are predicted once. The second table cuts the longest passages into
bands: what is lost where the state has been carried so far.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from holonomy.cli.process import tune_process
from holonomy.data.tokens import validation_batches
from holonomy.models.lior.inference import LiorLanguageModel
from holonomy.recipes import launch
from holonomy.recipes.lior import read_corpus

SHORTEST = 64
"""Characters of the shortest passages."""
AT_ONCE = 128
"""Characters that one call reads."""


def passage_losses(model: LiorLanguageModel, ids: Tensor, length: int) -> Tensor:
    """Loss by character, [passages, length]; NaN where the last passage is filled up."""
    (batch,) = validation_batches(ids, seq_len=length, batch=len(ids))
    state, found = model.start(len(batch.inputs)), []
    for inputs, targets in zip(batch.inputs.split(AT_ONCE, 1), batch.targets.split(AT_ONCE, 1), strict=True):
        log_probs, state = model.advance(inputs, state)
        loss = -log_probs.gather(-1, targets.clamp_min(0)[..., None])[..., 0]
        found.append(loss.masked_fill(targets < 0, torch.nan))
    return torch.cat(found, 1).double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("--longest", type=int, default=4096)
    given = parser.parse_args()
    tune_process(threads=1)
    model = launch.load(given.run, root=given.root)
    assert isinstance(model, LiorLanguageModel)
    ids = torch.from_numpy(read_corpus(model.config.data, model.tokenizer).validation)
    print(f"trained on windows of {model.config.data.seq_len}", flush=True)
    length = SHORTEST
    while length <= given.longest:
        losses = passage_losses(model, ids, length)
        print(f"carried over {length:6,}: {losses.nanmean():.4f} nats/char", flush=True)
        length *= 2
    first = 0
    while first < losses.shape[1]:
        last = max(2 * first, SHORTEST)
        print(f"characters {first:6,} to {last:6,}: {losses[:, first:last].nanmean():.4f}", flush=True)
        first = last


if __name__ == "__main__":
    main()
