"""What sleeping, further texts, forgetting and merging do to holographic runs, each against what it should equal.

Run: `HOLONOMY_DATA=... python benchmarks/afterwards.py MODE [--root runs] NAME...`; with one thread.

sleep RUN...   ten sleeps of a run: bytes, held-out loss, top-1 on words it learned, seconds to read before and after
drop RUN...    what dropping grams that occurred once, the longest first, costs on the held-out text
joint RUN      a run that learned further texts against one that learned all at once, every word known from the start
apart RUN RUN  largest difference of any log probability over the held-out text of the first; for what was forgotten:
               `train holographic-shakespeare --run plays`, and again as `--run both`, then `train --resume both --data
               pydoc`, `forget both --data pydoc`, `apart plays both`
shards TEXT    four models of a quarter each, merged, against one pass over the four
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from holonomy.core.config import from_json
from holonomy.data.text import load_text
from holonomy.data.words import split_words
from holonomy.models.holographic.config import HolographicConfig, HolographicRunConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.memories import PART
from holonomy.models.holographic.metrics import predict
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.sleep import sleep
from holonomy.models.holographic.storage import merge_into
from holonomy.recipes import launch
from holonomy.recipes.holographic import learned_texts, learned_words, read_words, vocabulary_of

PROBES = 1000
EXACT = ("counts", "skip", "class", "spelled", "apart")


class Run:
    """A run, its held-out words, and what it learned."""

    def __init__(self, name: str, root: Path) -> None:
        self.saved = launch.read_checkpoint(name, root)
        self.config = from_json(HolographicRunConfig, self.saved.state["config"], origin=name)
        self.texts, self.tokenizer = learned_texts(self.saved), vocabulary_of(self.saved)
        self.model = launch.load(name, root=root)
        split = read_words(self.config.data, self.tokenizer).split
        self.whole = np.concatenate([split.train, split.test])
        self.held = len(split.train) + np.arange(len(split.test))
        self.words, self.starts = learned_words(self.config, self.texts, self.tokenizer)

    def loss(self, model: HolographicModel) -> float:
        return float(predict(model, self.whole, self.held).losses.mean())

    def probes(self) -> np.ndarray:
        return self.held[:: max(1, len(self.held) // PROBES)]


def distributions(model: HolographicModel, tokens: np.ndarray, places: np.ndarray) -> torch.Tensor:
    return model.distributions(of_text(tokens, np.zeros(1, dtype=np.int64), places))


def asleep(run: Run) -> None:
    model, some = run.model, np.random.default_rng(0).choice(len(run.words), 2000, replace=False)

    def look() -> tuple[float, float, float]:
        begin = time.process_time()
        loss = run.loss(model)
        spent = time.process_time() - begin
        return loss, float((predict(model, run.words, some, starts=run.starts).ranks == 1).mean()), spent

    look()
    before, said = look(), distributions(model, run.whole, run.probes())
    sizes = [model.stats()]
    begin = time.process_time()
    for _ in range(10):
        report = sleep(model, run.words, starts=run.starts)
        sizes.append(model.stats())
    spent = time.process_time() - begin
    look()
    after = look()
    kinds = {
        "everything": lambda name: True,
        "exact counts": lambda name: name.split()[0] in EXACT,
        "bindings": lambda name: name == "tower",
    }
    for kind, chosen in kinds.items():
        own = [sum(v for k, v in size.items() if chosen(k)) for size in sizes]
        share = own[1] / max(1, own[0])
        print(f"{kind:14}{own[0]:14,} bytes, {own[1]:12,} after one sleep ({share:.1%}), {own[-1]:12,} after ten")
    print(f"held-out loss {before[0]!r} to {after[0]!r}; recall {before[1]:.4f} to {after[1]:.4f}")
    print(f"seconds to read {before[2]:.1f} to {after[2]:.1f}, for ten sleeps {spent:.2f}; dropped {report.dropped}")
    print(f"log probabilities equal: {torch.equal(said, distributions(model, run.whole, run.probes()))}")


def dropping(run: Run) -> None:
    before = run.loss(run.model)
    for lowest in (5, 4, 3):
        tries = [g.trie for g in [*run.model.memories.grams, *run.model.memories.classes]]
        dropped = sum(trie.prune(2, lowest=min(lowest, trie.order)) for trie in tries)
        held = np.expm1(run.loss(run.model) - before)
        print(f"from order {lowest}: {dropped:,} grams more, perplexity of the held-out text {held:+.2%}", flush=True)


def joined(run: Run) -> None:
    words = [
        read_words(run.config.data.model_copy(update={"source": t.source}), run.tokenizer).split.train
        for t in run.texts
    ]
    starts, tokens = np.cumsum([0, *(len(w) for w in words[:-1])]), np.concatenate(words)
    joint = HolographicModel(run.config.model, run.tokenizer)
    joint.learn_text(tokens, starts)
    joint.fit(tokens, starts)
    own, best = (float(np.exp(run.loss(model))) for model in (run.model, joint))
    print(f"perplexity of the first text: {own:.3f}, all at once {best:.3f}, ratio {own / best:.4f}")


def difference(one: HolographicModel, other: HolographicModel, tokens: np.ndarray, places: np.ndarray) -> None:
    step, largest = max(1, PART // one.vocab_size), 0.0
    for begin in range(0, len(places), step):
        said = [distributions(model, tokens, places[begin : begin + step]) for model in (one, other)]
        largest = max(largest, float((said[0] - said[1]).abs().max()))
    print(f"largest difference of {len(places) * one.vocab_size:,} log probabilities: {largest:.2e}", flush=True)


def shards(name: str) -> None:
    split = split_words(load_text(name).text)
    quarters = np.array_split(split.train, 4)
    starts = np.cumsum([0, *(len(q) for q in quarters[:-1])])
    models = [HolographicModel(HolographicConfig(), split.tokenizer) for _ in range(5)]
    for model, quarter in zip(models, quarters, strict=False):
        model.learn_text(quarter)
    for model in models[1:4]:
        merge_into(models[0], model)
    models[4].learn_text(split.train, starts)
    for model in (models[0], models[4]):
        model.fit(split.train, starts)
    whole = np.concatenate([split.train, split.test])
    difference(models[0], models[4], whole, len(split.train) + np.arange(len(split.test)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("sleep", "drop", "joint", "apart", "shards"))
    parser.add_argument("names", nargs="+")
    parser.add_argument("--root", type=Path, default=Path("runs"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.mode == "apart":
        one, other = (Run(name, chosen.root) for name in chosen.names)
        difference(one.model, other.model, one.whole, one.held)
        return
    for name in chosen.names:
        print(f"{chosen.mode} {name}", flush=True)
        if chosen.mode == "shards":
            shards(name)
        else:
            {"sleep": asleep, "drop": dropping, "joint": joined}[chosen.mode](Run(name, chosen.root))


if __name__ == "__main__":
    main()
