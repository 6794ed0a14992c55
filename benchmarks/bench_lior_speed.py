"""CPU time of one update, its forward pass and its autograd twin, and of generation, on one thread.

Run: `make bench`. Times are process CPU-seconds, not wall time;
`extra_info` holds tokens per CPU-second. Warm-up first, all rows in one run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from holonomy.cli.process import tune_process
from holonomy.data.tokens import TokenBatch
from holonomy.infer.sampling import Sampling, draw
from holonomy.learn.autograd import AutogradLearner
from holonomy.models.lior.config import LiorConfig
from holonomy.models.lior.learner import build_learner
from holonomy.models.lior.model import build_network
from holonomy.nn.heads import SoftmaxCrossEntropy

VOCABULARY = 65
CONFIG = LiorConfig()


@pytest.fixture(scope="module", autouse=True)
def process() -> None:
    """The settings that the command line uses."""
    tune_process(threads=1)


@pytest.fixture(scope="module")
def batch() -> TokenBatch:
    """Random tokens in the shape of the default recipe."""
    shape = (CONFIG.data.batch, CONFIG.data.seq_len + 1)
    ids = torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(0))
    return TokenBatch(ids[:, :-1].clone(), ids[:, 1:].clone(), CONFIG.data.batch * CONFIG.data.seq_len)


def measure(benchmark, tokens: int, run: Callable[[], object]) -> None:
    """Times `run` and notes tokens per CPU-second."""
    benchmark.pedantic(run, rounds=30, warmup_rounds=3)
    benchmark.extra_info["tokens_per_cpu_second"] = round(tokens / benchmark.stats.stats.median)


@pytest.mark.benchmark(group="update of 8 x 128 tokens, 775,688 parameters", timer=time.process_time)
class TestUpdate:
    """Echo against autograd with torch AdamW; the forward pass is the unit."""

    def test_forward(self, benchmark, batch: TokenBatch) -> None:
        learner = build_learner(CONFIG, vocab_size=VOCABULARY)
        measure(benchmark, batch.count, lambda: learner.eval_step(batch))

    def test_echo_update(self, benchmark, batch: TokenBatch) -> None:
        learner = build_learner(CONFIG, vocab_size=VOCABULARY)
        measure(benchmark, batch.count, lambda: learner.train_step(batch, progress=0.5))

    def test_autograd_update(self, benchmark, batch: TokenBatch) -> None:
        optim = CONFIG.train.optim
        learner = AutogradLearner(
            build_network(CONFIG, vocab_size=VOCABULARY),
            SoftmaxCrossEntropy(),
            betas=optim.betas,
            eps=optim.eps,
            decay=optim.decay,
            clip=optim.clip,
            schedule=lambda progress: optim.lr,
        )
        measure(benchmark, batch.count, lambda: learner.train_step(batch, progress=0.5))


@pytest.mark.benchmark(group="generation, one sequence", timer=time.process_time)
def test_generate_200_tokens(benchmark) -> None:
    """One token at a time through the whole network, sampling included."""
    net = build_network(CONFIG, vocab_size=VOCABULARY)
    generator, sampling = torch.Generator().manual_seed(0), Sampling(temperature=0.8)

    @torch.inference_mode()
    def generate() -> None:
        state, token = net.start(1), torch.zeros(1, dtype=torch.int64)
        for _ in range(200):
            logits, state = net.step(token, state)
            token = draw(logits.log_softmax(0).T, sampling, generator)
            token.item()

    measure(benchmark, 200, generate)
