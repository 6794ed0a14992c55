"""Learn a text in one pass, ask what comes next, learn a second text, and forget it again.

    python examples/remember_text.py [TEXT] [--share 0.1] [--root runs]

Without a text it takes the reference text that comes with Python. Nothing is trained: counts are added, and taken away.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

import holonomy
from holonomy.recipes.holographic_runs import forget
from holonomy.recipes.launch import read_checkpoint

FACT = "the zebra lives in the blue house . " * 40


def likeliest(run: Path, words: str) -> list[tuple[str, float]]:
    """The three words that are most expected after `words`."""
    model = holonomy.load(run)
    ids = torch.as_tensor(model.tokenizer.encode(words))[None]
    best = model.log_probs(ids)[0, -1].exp().topk(3)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(model.tokenizer.decode([word]), round(share, 3)) for word, share in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", default="pydoc")
    parser.add_argument("--share", type=float, default=0.1, help="of the text that is learned")
    parser.add_argument("--root", default="runs")
    given = parser.parse_args()
    root, settings = Path(given.root), {"data.source": given.text, "train.share": given.share}
    report = holonomy.train("holographic-smoke", settings, root=root)
    print("perplexity", {k: round(v, 1) for k, v in report.metrics.items() if k.endswith("perplexity")})
    print("after `the zebra lives in the`:", likeliest(report.run, "the zebra lives in the"))
    with tempfile.TemporaryDirectory() as folder:
        fact = Path(folder) / "fact.txt"
        fact.write_text(FACT)
        holonomy.resume(str(report.run), root=root, data=str(fact))
        print("having read of the zebra:", likeliest(report.run, "the zebra lives in the"))
        forget(str(report.run), str(fact), root=root, read=lambda run: read_checkpoint(run, root))
    print("having forgotten it:", likeliest(report.run, "the zebra lives in the"))


if __name__ == "__main__":
    main()
