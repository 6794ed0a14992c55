"""Learning on tinyshakespeare: loss at equal CPU time over seeds, and the autograd twin at equal tokens.

Run: `python benchmarks/learning.py budget --cpu-seconds 150 --seeds 1 2 3` or
`python benchmarks/learning.py twin --steps 200 --seeds 1 2 3`. Needs tinyshakespeare in `$HOLONOMY_DATA` or a
network. Losses are nats per character on the full validation split (last 10 %).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

import torch

from holonomy.cli.process import tune_process
from holonomy.core.learner import Learner
from holonomy.data.kneser_ney import baselines
from holonomy.data.tokens import WindowSampler
from holonomy.infer.evaluation import evaluate_tokens
from holonomy.learn.autograd import AutogradLearner
from holonomy.models.lior.config import LiorConfig
from holonomy.models.lior.learner import build_learner
from holonomy.models.lior.model import build_network
from holonomy.nn.heads import SoftmaxCrossEntropy
from holonomy.optim.schedules import learning_rate
from holonomy.recipes import configure
from holonomy.recipes.lior import read_corpus


def spread(values: list[float]) -> str:
    """Mean, and the range over seeds."""
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f}, {len(values)} seeds)"


def budget(args: argparse.Namespace) -> None:
    """Trains the recipe with each seed for the same CPU time, one process a seed."""
    losses, speeds, memory = [], [], []
    with tempfile.TemporaryDirectory() as root:
        for seed in args.seeds:
            command = [
                sys.executable,
                "-m",
                "holonomy",
                "train",
                "lior-shakespeare",
                "--json",
                "--threads",
                "1",
            ]
            command += ["--root", root, "--run", f"seed-{seed}", "--seed", str(seed)]
            command += ["--steps", str(args.steps)] if args.steps else ["--cpu-seconds", str(args.cpu_seconds)]
            for override in args.set:
                command += ["--set", override]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            report = json.loads(done.stdout.splitlines()[-1])
            losses.append(report["metrics"]["val/loss"])
            speeds.append(report["tokens_or_samples"] / report["cpu_seconds"])
            memory.append(report["peak_rss_mb"])
            known = {k: round(v, 4) for k, v in report["metrics"].items() if k.startswith("baseline/")}
            print(
                f"seed {seed}: {losses[-1]:.4f} nats/char after {report['steps']} steps, "
                f"{report['tokens_or_samples']:,} characters, {report['cpu_seconds']:.1f} CPU-s, "
                f"{memory[-1]:.0f} MB; {known}",
                flush=True,
            )
    print(f"loss {spread(losses)}; {statistics.median(speeds):,.0f} characters per CPU-second")


def twin(args: argparse.Namespace) -> None:
    """Trains echo and autograd on the same batches, turn by turn in one process."""
    tune_process(threads=1)
    config = configure("lior-shakespeare", overrides=args.set).config
    assert isinstance(config, LiorConfig)
    corpus = read_corpus(config.data)
    train, validation = torch.from_numpy(corpus.train), torch.from_numpy(corpus.validation)
    vocabulary = corpus.tokenizer.vocab_size
    optim = config.train.optim
    print(baselines(corpus.train, corpus.validation, vocabulary))
    for seed in args.seeds:
        seeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
        autograd = AutogradLearner(
            build_network(seeded, vocab_size=vocabulary),
            SoftmaxCrossEntropy(),
            betas=optim.betas,
            eps=optim.eps,
            decay=optim.decay,
            clip=optim.clip,
            schedule=lambda p: learning_rate(p, config.train.schedule, optim.lr),
        )
        learners: dict[str, Learner] = {
            "echo": build_learner(seeded, vocab_size=vocabulary),
            "autograd": autograd,
        }
        sampler = WindowSampler(train, seq_len=config.data.seq_len, batch=config.data.batch, seed=seed)
        seconds = dict.fromkeys(learners, 0.0)
        for step in range(args.steps):
            batch = sampler.next()
            for name, learner in learners.items():
                begin = time.process_time()
                learner.train_step(batch, progress=step / args.steps)
                seconds[name] += time.process_time() - begin
        ends = {}
        for name, learner in learners.items():
            metrics = evaluate_tokens(lambda b, of=learner: of.eval_step(b).loss, validation, config.data.seq_len)
            assert metrics is not None
            ends[name] = metrics["val/loss"]
        print(
            f"seed {seed}, {args.steps} steps: echo {ends['echo']:.4f} in {seconds['echo']:.1f} CPU-s, autograd "
            f"{ends['autograd']:.4f} in {seconds['autograd']:.1f} CPU-s; difference "
            f"{ends['echo'] - ends['autograd']:+.5f}, CPU ratio {seconds['echo'] / seconds['autograd']:.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, run in (("budget", budget), ("twin", twin)):
        command = commands.add_parser(name)
        command.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
        command.add_argument("--steps", type=int, default=200 if name == "twin" else None)
        command.add_argument("--set", action="append", default=[], help="a.b=value of the recipe")
        command.set_defaults(run=run)
        if name == "budget":
            command.add_argument("--cpu-seconds", type=float, default=150.0)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
