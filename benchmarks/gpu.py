"""What a GPU gives to lior: captured updates against plain ones, TF32 and bfloat16, and the CPU beside them.

    python benchmarks/gpu.py [--steps 200] [--set key=value ...]

Each line is one configuration on one stream of batches: windows a second after a warm-up, the loss of the last update,
and the largest relative difference of the weights to those of the first line.
"""

from __future__ import annotations

import argparse
import time

import torch

from holonomy.data.tokens import TokenBatch
from holonomy.models.lior.learner import build_learner
from holonomy.recipes import configure

WARM_UP = 10
VOCABULARY = 96
WAYS = (
    ("cuda", "float32", False),
    ("cuda", "float32", True),
    ("cuda", "tf32", False),
    ("cuda", "tf32", True),
    ("cuda", "bfloat16", False),
    ("cuda", "bfloat16", True),
    ("cpu", "float32", False),
)


def measure(settings: list[str], device: str, steps: int) -> tuple[float, float, torch.Tensor]:
    """Tokens a second, last loss, weights."""
    config = configure("lior", overrides=settings).config
    high = config.train.precision == "tf32"
    torch.set_float32_matmul_precision("high" if high else "highest")
    learner = build_learner(config, vocab_size=VOCABULARY, device=torch.device(device))
    shape = (steps + WARM_UP, config.data.batch, config.data.seq_len + 1)
    ids = torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(0)).to(device)
    batches = [TokenBatch(i[:, :-1], i[:, 1:], i[:, 1:].numel()) for i in ids]
    learner.setup(batches[0])
    for batch in batches[:WARM_UP]:
        metrics = learner.train_step(batch, progress=0.0)
    if device == "cuda":
        torch.cuda.synchronize()
        # From here on nothing may wait for the device.
        torch.cuda.set_sync_debug_mode("error")
    begin = time.perf_counter()
    for batch in batches[WARM_UP:]:
        metrics = learner.train_step(batch, progress=0.5)
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    spent = time.perf_counter() - begin
    return steps * batches[0].count / spent, float(metrics.loss), learner.flat.buffer.cpu().double()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: the CPU alone is measured"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    first = None
    for device, precision, captured in WAYS:
        if device == "cuda" and not torch.cuda.is_available():
            continue
        own = [f"train.device={device}", f"train.precision={precision}", f"train.cuda_graphs={captured}"]
        steps = options.steps if device == "cuda" else max(1, options.steps // 20)
        speed, loss, weights = measure([*options.set, *own], device, steps)
        first = weights if first is None else first
        apart = float((weights - first).abs().max() / first.abs().max()) if device == "cuda" else float("nan")
        way = f"{device} {precision}{' captured' if captured else ''}"
        print(f"{way:24} {speed:12,.0f} tokens/s   loss {loss:.4f}   weights differ by {apart:.1e}", flush=True)


if __name__ == "__main__":
    main()
