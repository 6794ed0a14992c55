"""What the loop costs around 200 updates of `lior-smoke`: records, checkpoints and the background writer.

CPU time of the whole process on one thread; evaluation is left out. `extra_info` holds the overhead.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from holonomy.cli.process import tune_process
from holonomy.core.budget import Budget
from holonomy.learn.echo import EchoLearner
from holonomy.recipes import configure, launch
from holonomy.train.loop import fit
from holonomy.train.monitor import SilentProgress
from holonomy.train.report import Plan
from holonomy.train.run import RunDirectory

STEPS, ROUNDS = 200, 5


def test_overhead_of_the_loop(benchmark, tmp_path: Path) -> None:
    tune_process(threads=1)
    config = configure("lior-smoke").config

    def overhead(name: str) -> float:
        """CPU time of the loop outside of updates and batches, as a share of that inside."""
        work = launch._prepare(config)
        run = RunDirectory.create(tmp_path, name, prefix="bench", config=config)
        inside = 0.0

        def timed(function):
            def call(*args, **kwargs):
                nonlocal inside
                begin = time.process_time()
                result = function(*args, **kwargs)
                inside += time.process_time() - begin
                return result

            return call

        work.learner.train_step = timed(work.learner.train_step)
        work.sampler.next = timed(work.sampler.next)
        begin = time.process_time()
        with run:
            fit(
                work.learner,
                work.sampler,
                run=run,
                plan=Plan(Budget(steps=STEPS), config.train.cadence),
                evaluate=lambda stop: {"val/loss": 1.0},
                progress=SilentProgress(),
                family="lior",
                files={},
                facts={},
            )
        return (time.process_time() - begin - inside) / inside

    shares = [overhead(f"r{n}") for n in range(ROUNDS)]
    benchmark.extra_info["overhead"] = statistics.median(shares)
    benchmark.extra_info["shares"] = shares
    work = launch._prepare(config)
    batch = work.sampler.next()
    benchmark._timer = time.process_time
    benchmark.pedantic(lambda: work.learner.train_step(batch, progress=0.5), rounds=30, warmup_rounds=3)
    print(f"overhead {benchmark.extra_info['overhead']:.2%} of {[f'{share:.2%}' for share in shares]}")
    assert isinstance(work.learner, EchoLearner) and torch.isfinite(work.learner.flat.buffer).all()
