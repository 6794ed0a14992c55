"""When the held-out loss is found to leave its course: texts that go on as they began, and one that another follows.

Run: `HOLONOMY_DATA=... python benchmarks/drift.py [--every 1 2 4]`; tinyshakespeare and the reference text of Python.
A model without word classes and bindings learns 1,024 words a batch; 600 held-out words are predicted after every
batch. Printed: the words after which there is an alarm, if evaluations are that many batches apart, and the largest
sum of the chart, in standard deviations.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch

from holonomy.data.text import load_text
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.contexts import of_text
from holonomy.models.holographic.drift import Course
from holonomy.models.holographic.metrics import predict
from holonomy.models.holographic.model import HolographicModel

BATCH, ASKED = 1024, 600


def losses(parts: Sequence[str], held: str) -> tuple[list[tuple[int, float]], int]:
    """Words learned and held-out loss after each batch, and the words of all parts but the last."""
    tokenizer = WordTokenizer.train([*parts, held], min_count=2)
    config = HolographicConfig.model_validate({"tower": {"role": "off"}, "counts": {"classes": []}})
    model, words, test = HolographicModel(config, tokenizer), tokenizer.encode(" ".join(parts)), tokenizer.encode(held)
    asked = np.sort(np.random.default_rng(0).choice(len(test), ASKED, replace=False))
    contexts, found = of_text(words, np.zeros(1, dtype=np.int64)), list[tuple[int, float]]()
    for begin in range(0, len(words) - BATCH, BATCH):
        cut = slice(begin, begin + BATCH)
        model.change(contexts.part(cut), words[cut], sign=1)
        found.append((begin + BATCH, float(predict(model, test, asked).losses.mean())))
    return found, sum(len(tokenizer.encode(part)) for part in parts[:-1])


def main() -> None:
    """Prints one line for each text and distance of evaluations."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, nargs="+", default=[1, 2, 4])
    args = parser.parse_args()
    torch.set_num_threads(1)
    plays, topics = load_text("tinyshakespeare").text[:800_000], " ".join(load_text("pydoc").text.split())[:400_000]
    both = (topics[:250_000], plays[:300_000])
    texts = {
        "plays": ((plays[:500_000],), plays[-60_000:]),
        "topics": ((topics[:-40_000],), topics[-40_000:]),
        "topics, then plays; plays held out": (both, plays[-60_000:]),
        "topics, then plays; topics held out": (both, topics[-40_000:]),
    }
    for name, (parts, held) in texts.items():
        found, change = losses(parts, held)
        for every in args.every:
            course, alarms, top = Course(), list[int](), 0.0
            for words, loss in found[every - 1 :: every]:
                if course.add(words, loss):
                    alarms.append(words)
                    course = Course()
                top = max(top, course.chart.height)
            print(
                f"{name}, change after {change:,}, every {every}: alarms {alarms}, largest sum else {top:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
