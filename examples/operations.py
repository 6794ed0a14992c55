"""Place all ternary operations in hyperbolic space, and look at what was learned beside what needs no learning.

python examples/operations.py [--digits 9] [--steps 650] [--root runs]
"""

from __future__ import annotations

import argparse

import holonomy

FIGURES = ("coverage", "hierarchy", "triplet_concordance", "pair_spearman")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=int, default=9, help="entries of a table; 3^digits operations")
    parser.add_argument("--steps", type=int, default=650)
    parser.add_argument("--root", default="runs")
    given = parser.parse_args()
    settings = {
        "data.digits": given.digits,
        "data.batch": min(1024, 3**given.digits // 4),
        "train.budget": {"steps": given.steps},
        "train.threads": 1,
    }
    report = holonomy.train("ternary-fast", settings, root=given.root)
    print(f"{'':22}{'model':>10}{'closed form':>13}{'untrained':>11}")
    for name in FIGURES:
        row = (report.metrics[f"{kind}/{name}"] for kind in ("val", "baseline", "untrained"))
        print(f"{name:22}" + "{:10.4f}{:13.4f}{:11.4f}".format(*row))
    print(f"`holonomy runs plot {report.run}` draws it")


if __name__ == "__main__":
    main()
