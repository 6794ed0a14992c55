"""Scores and replies of a run in batches beside one request after the other, CPU time on one thread.

Run: `python benchmarks/scoring.py RUN TEXT`, with a run directory and a text file that the run knows all symbols of.
A request is 200 characters of context and 20 of continuation, four a context as in a multiple choice; a reply has 64
tokens or ends at an empty line.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from holonomy.infer.sampling import Sampling
from holonomy.infer.scoring import continuation, likelihoods
from holonomy.infer.session import continue_batch, generate
from holonomy.recipes import launch

GREEDY = Sampling(temperature=0.0)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    work()
    begin = time.process_time()
    return work(), time.process_time() - begin


def main(run: str, file: str) -> None:
    torch.set_num_threads(1)
    model, text = launch.load(run), Path(file).read_text(encoding="utf-8")
    tokenizer = model.tokenizer
    whole = continuation(tokenizer, "", text)
    ((nats, _),), spent = timed(lambda: likelihoods(model, [whole]))
    words = len(re.split(r"\s+", text))
    print(f"text: {len(whole.ids):,} tokens, {len(whole.ids) / spent:,.0f} tokens/CPU-s, {nats:.3f} nats, ", end="")
    print(f"perplexity a word {math.exp(-nats / words):.6g}")
    starts = [at for at in range(0, min(len(text), 20_000) - 250, 250) for _ in range(4)]
    requests = [
        continuation(tokenizer, text[at : at + 200], text[at + 200 + 5 * (n % 4) :][:20]) for n, at in enumerate(starts)
    ]
    together, fast = timed(lambda: likelihoods(model, requests))
    alone, slow = timed(lambda: [likelihoods(model, [request])[0] for request in requests])
    apart = max(abs(a.nats - b.nats) for a, b in zip(together, alone, strict=True))
    print(
        f"{len(requests)} requests: {len(requests) / fast:,.0f}/CPU-s together, {len(requests) / slow:,.0f} alone, ",
        end="",
    )
    print(f"{slow / fast:.1f} times; largest difference {apart:.1e} nats")
    prompts = [text[at : at + 100 + at // 250 % 30] for at in range(0, 8_000, 250)]
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    stop = ["\n\n"]
    found, fast = timed(lambda: continue_batch(model, ids, sampling=GREEDY, max_tokens=64, seed=1, stop=stop))
    single, slow = timed(
        lambda: ["".join(generate(model, p, sampling=GREEDY, max_tokens=64, seed=1, stop=stop)) for p in prompts]
    )
    equal = sum(a.text == b for a, b in zip(found, single, strict=True))
    print(
        f"{len(prompts)} replies: {fast:.2f} CPU-s together, {slow:.2f} alone, {slow / fast:.1f} times; {equal} equal"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
