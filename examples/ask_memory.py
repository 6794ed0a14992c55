"""Ask a holographic run what a few contexts bring to mind, which part of the model says so, and who contradicts.

    python examples/ask_memory.py [TEXT] [--run RUN] [--ask WORDS ...] [--share 0.3] [--root runs]

Without a text it takes the reference text that comes with Python; without a run it learns `--share` of the text first,
in one pass. Afterwards 1,000 places of the end of the text are asked, which the run has not learned.
"""

from __future__ import annotations

import argparse

import numpy as np

import holonomy
from holonomy.data.text import load_text
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.retrieval import Recollection, retrieve, retrieve_batch

PLACES, REACH = 1000, 40
ASKED = ("the following statement is", "The with statement is used to wrap the execution of", "nobody wrote qwertz")


def tell(model: HolographicModel, words: str, found: Recollection) -> None:
    """Prints the answer to one context."""
    word, brought = model.tokenizer.decode(found.tokens[:1]), found.shares[0]
    alone = model.tokenizer.decode(found.recalled[:1]) if found.recalled[0] >= 0 else "no word, or several"
    stands = f"noise of a count {found.sd[0]:.2f}, coherence {found.coherence[0]:.3f}"
    print(f"\n{words} ... {word}\n  probability {found.probs[0]:.3f}, source: {found.sources[0]}")
    for i in brought.argsort()[::-1][:3]:
        print(f"  {found.experts[i]}: gives {found.said[0, i]:.3f}, share {brought[i]:.2f}")
    print(f"  counts know the last {found.order[0]} word(s); followed them alone: {alone}")
    print(f"  bindings give {found.bound[0]:.3f};", "nothing stands there" if np.isnan(found.sd[0]) else stands)
    print(f"  divergence {found.divergence[0]:.3f} nats, conflict: {'yes' if found.conflict[0] else 'no'}")


def tell_many(found: Recollection, came: np.ndarray) -> None:
    """Prints what many answers have in common."""
    right = found.tokens == came
    for name, some in (("right", right), ("wrong", ~right), ("in conflict", found.conflict)):
        print(f"  {some.sum()} {name}", end="" if some.any() else "\n")
        if some.any():
            means = (f"{a[some].mean():.3f}" for a in (found.coherence, found.probs, found.divergence))
            print(": coherence {}, probability {}, divergence {}".format(*means))
    noise = found.sd[~np.isnan(found.sd)]
    if len(noise):
        print(f"  {len(noise)} where bindings stand: noise of a count {np.median(noise):.2f}, the median")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", default="pydoc")
    parser.add_argument("--run", help="a holographic run of words, instead of a new one")
    parser.add_argument("--ask", nargs="+", default=ASKED, metavar="WORDS")
    parser.add_argument("--share", type=float, default=0.3, help="of the text that a new run learns")
    parser.add_argument("--root", default="runs")
    given = parser.parse_args()
    run = given.run
    if run is None:
        settings = {"data.source": given.text, "train.share": given.share}
        run = holonomy.train("holographic", settings, root=given.root).run
    model = holonomy.load(run, root=given.root)
    for words in given.ask:
        tell(model, words, retrieve(model, model.tokenizer.encode(words).tolist()))
    ids = model.tokenizer.encode(load_text(given.text).text)[-PLACES - REACH :]
    windows = np.lib.stride_tricks.sliding_window_view(ids, REACH + 1)
    print(f"\nof {len(windows)} places that were not learned:")
    tell_many(retrieve_batch(model, windows[:, :-1].copy()), windows[:, -1])


if __name__ == "__main__":
    main()
