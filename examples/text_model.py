"""Train lior on a text, go on with it, and let it write.

    python examples/text_model.py [TEXT] [--steps 200] [--root runs]

Without a text it takes the reference text that comes with Python.
"""

from __future__ import annotations

import argparse

import holonomy
from holonomy.infer.sampling import Sampling
from holonomy.infer.session import generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", default="pydoc")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--root", default="runs")
    given = parser.parse_args()
    settings = {"data.source": given.text, "train.budget": {"steps": given.steps}, "train.threads": 1}
    report = holonomy.train("lior", settings, root=given.root)
    shown = ("val/loss", "baseline/unigram", "baseline/kn5")
    print({name: round(report.metrics[name], 3) for name in shown}, "nats a character")

    model = holonomy.load(report.run)
    written = generate(model, "the ", sampling=Sampling(temperature=0.7), max_tokens=200, seed=1)
    print("the " + "".join(written))
    print(f"`holonomy chat {report.run}` talks to it")


if __name__ == "__main__":
    main()
