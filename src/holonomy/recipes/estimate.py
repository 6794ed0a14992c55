"""What a training will cost, from its sizes and a few seconds of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from holonomy.core.nograd import no_autograd
from holonomy.core.tape import Tape
from holonomy.learn.echo import EchoLearner
from holonomy.models.lior.config import LiorConfig
from holonomy.models.lior.cost import check_fits, parameter_count, weight_bytes
from holonomy.models.lior.learner import build_learner
from holonomy.recipes.lior import choose_sampler, read_corpus

CALIBRATION = 2.0
"""CPU-seconds that are spent on measuring the speed."""
RUNTIME = 440 * 2**20
"""Bytes of Python, torch, compiled kernels and one evaluation, measured on Linux with a CPU build."""


@dataclass(frozen=True)
class Estimate:
    """What a training will take.

    Attributes:
        parameters: learned scalars, exact.
        memory_mb: peak resident memory, MiB.
        tokens_per_cpu_second: measured on the first updates.
        steps: updates within the budget; with a budget in time, as many as the measured speed allows.
        cpu_seconds: process CPU time of the updates.
    """

    parameters: int
    memory_mb: float
    tokens_per_cpu_second: float
    steps: int
    cpu_seconds: float


def estimate(config: LiorConfig) -> Estimate:
    """Measures a few updates of a configuration on its own data.

    Raises:
        ConfigError, DataError: it cannot be trained.
    """
    corpus = read_corpus(config.data)
    vocabulary = corpus.tokenizer.vocab_size
    check_fits(config, vocab_size=vocabulary)
    learner = build_learner(config, vocab_size=vocabulary)
    sampler = choose_sampler(config, corpus, torch.device("cpu"))
    part, ids = config.data.batch // config.train.accumulate, sampler.next().inputs
    one, two = (_kept(learner, ids[:1].expand(n, -1)) for n in (1, 2))
    # What does not grow with the batch, such as propagators, is there once.
    tape_bytes = one + (part - 1) * (two - one)
    learner.train_step(sampler.next(), progress=0.0)
    begin, steps, tokens = time.process_time(), 0, 0
    while steps < 3 or time.process_time() - begin < CALIBRATION:
        batch = sampler.next()
        learner.train_step(batch, progress=0.0)
        steps, tokens = steps + 1, tokens + batch.count
    per_step = (time.process_time() - begin) / steps
    budget = config.train.budget
    limits = [
        None if budget.steps is None else float(budget.steps),
        None if budget.tokens is None else budget.tokens * steps / tokens,
        None if budget.cpu_s is None else budget.cpu_s / per_step,
        None if budget.seconds is None else budget.seconds / per_step,
    ]
    planned = min(limit for limit in limits if limit is not None)
    total = RUNTIME + weight_bytes(config, vocab_size=vocabulary) + tape_bytes
    return Estimate(
        parameter_count(config, vocab_size=vocabulary),
        total / 2**20,
        tokens / steps / per_step,
        int(planned),
        planned * per_step,
    )


def _kept(learner: EchoLearner, ids: Tensor) -> int:
    """Bytes that the free phase of some sequences leaves on the tape, besides the weights."""
    tape = Tape()
    with no_autograd():
        learner.net.free(ids, tape)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tape.tensors()}
    storages.pop(learner.flat.buffer.untyped_storage().data_ptr(), None)
    return sum(storages.values())
