"""The closure of WordNet's mammals as points: ours beside gensim and geoopt, in 5 and 10 dimensions.

Run as `python benchmarks/tree.py [--seconds S] [--dims 5 10] [--only LABEL]` with gensim and geoopt installed
(`pip install -e '.[peers]'`) and `wordnet-mammals` in $HOLONOMY_DATA. Peers get S CPU-seconds of training each on one
thread; ours takes what its default 60 updates take. All are judged by one function, in float64; `--check` judges by
gensim's own, too, whose ranks count the thing itself as one before.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from holonomy.cli.process import tune_process
from holonomy.data.relations import MAMMALS, Relations, load_relations, relations_text
from holonomy.geometry.normal import from_ball, to_ball
from holonomy.models.ternary.taxonomy import embed_relations, horocyclic_layout, reconstruction

ONE = torch.tensor(-1.0, dtype=torch.float64)
Contestant = Callable[[Relations, int, float], tuple[Tensor, float]]
"""Relations, dimension and CPU-seconds to normal coordinates and curvature."""


def random_start(relations: Relations, dim: int) -> Tensor:
    """Points near the origin, as peers begin."""
    return 1e-2 * torch.randn(len(relations.names), dim, generator=torch.Generator().manual_seed(0)).double()


def layout(relations: Relations, dim: int, seconds: float) -> tuple[Tensor, float]:
    """The closed form alone."""
    return horocyclic_layout(relations, dim), -1.0


def ours(relations: Relations, dim: int, seconds: float) -> tuple[Tensor, float]:
    """The closed form and 60 updates."""
    return embed_relations(relations, dim), -1.0


def ours_within(relations: Relations, dim: int, seconds: float) -> tuple[Tensor, float]:
    """No point farther out than geoopt's ball allows in float64."""
    return embed_relations(relations, dim, max_radius=12.2), -1.0


def ours_random(relations: Relations, dim: int, seconds: float) -> tuple[Tensor, float]:
    """Without the layout, ten times the updates."""
    start = random_start(relations, dim)
    return embed_relations(relations, dim, start=start, steps=600, lr=0.3, temperature=(1.0, 0.05)), -1.0


def flat(relations: Relations, dim: int, seconds: float) -> tuple[Tensor, float]:
    """The same layout and updates in flat space."""
    k = -1e-9
    return embed_relations(relations, dim, k=k), k


def gensim(relations: Relations, dim: int, seconds: float) -> tuple[Tensor, float]:
    """PoincareModel with 20 negatives and one epoch of burn-in: an epoch takes it eight CPU-seconds."""
    from gensim.models.poincare import PoincareModel  # pyright: ignore[reportMissingImports]

    logging.getLogger("gensim").setLevel(logging.ERROR)
    pairs = [(relations.names[u], relations.names[v]) for u, v in relations.pairs.tolist()]
    begin = time.process_time()
    model = PoincareModel(pairs, size=dim, negative=20, burn_in=1, seed=0)
    while time.process_time() - begin < seconds:
        model.train(epochs=1, batch_size=10)
    found = np.stack([model.kv[name] for name in relations.names])
    return from_ball(torch.from_numpy(found).double(), ONE), -1.0


def geoopt_sampled(relations: Relations, dim: int, seconds: float) -> tuple[Tensor, float]:
    """Riemannian SGD on batches of 50 pairs with 50 negatives, as Nickel and Kiela but for the batch.

    Their rate of 0.3 for 10 pairs is 1.5 for 50; a tenth of it for the first tenth of the time is their burn-in.
    """
    import geoopt  # pyright: ignore[reportMissingImports]

    ball = geoopt.PoincareBall()
    x = geoopt.ManifoldParameter(0.1 * random_start(relations, dim), manifold=ball)  # pyright: ignore[reportCallIssue]
    optimiser = geoopt.optim.RiemannianSGD([x], lr=1.5)
    pairs, generator = torch.from_numpy(relations.pairs), torch.Generator().manual_seed(0)
    related = torch.eye(len(x), dtype=torch.bool)
    related[pairs[:, 0], pairs[:, 1]] = True
    begin = time.process_time()
    while (used := (time.process_time() - begin) / seconds) < 1:
        optimiser.param_groups[0]["lr"] = 0.15 if used < 0.1 else 1.5
        batch = pairs[torch.randint(len(pairs), (50,), generator=generator)]
        negatives = torch.randint(len(x), (len(batch), 50), generator=generator)
        d = ball.dist(x[batch[:, :1]], x[torch.cat([batch[:, 1:], negatives], 1)])
        wrong = related[batch[:, :1], negatives]
        d = torch.cat([d[:, :1], d[:, 1:].masked_fill(wrong, math.inf)], 1)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(-d, torch.zeros(len(batch), dtype=torch.int64)).backward()
        optimiser.step()
    return from_ball(x.detach(), ONE), -1.0


def _geoopt_whole(relations: Relations, start: Tensor, seconds: float, lr: float) -> tuple[Tensor, float]:
    """Our loss over all others, by geoopt's distance and Riemannian Adam."""
    import geoopt  # pyright: ignore[reportMissingImports]

    ball = geoopt.PoincareBall()
    n = len(relations.names)
    x = geoopt.ManifoldParameter(ball.projx(to_ball(start, ONE)), manifold=ball)  # pyright: ignore[reportCallIssue]
    optimiser = geoopt.optim.RiemannianAdam([x], lr=lr, betas=(0.9, 0.99))
    lower, upper = torch.from_numpy(relations.pairs).unbind(1)
    hidden = torch.eye(n, dtype=torch.bool)
    hidden[lower, upper] = True
    share = 1 / torch.bincount(lower, minlength=n)[lower]
    begin = time.process_time()
    while (used := (time.process_time() - begin) / seconds) < 1:
        optimiser.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * used)) / 2
        near = -ball.dist(x[:, None], x[None]) / (0.3 * (0.05 / 0.3) ** used)
        others = near.masked_fill(hidden, -math.inf).logsumexp(1)
        optimiser.zero_grad()
        (torch.nn.functional.softplus(others[lower] - near[lower, upper]) * share).sum().div(n).backward()
        optimiser.step()
    return from_ball(x.detach(), ONE), -1.0


def geoopt_whole(relations: Relations, dim: int, seconds: float) -> tuple[Tensor, float]:
    """The same loss as ours from random points."""
    return _geoopt_whole(relations, random_start(relations, dim), seconds, lr=0.05)


def geoopt_layout(relations: Relations, dim: int, seconds: float) -> tuple[Tensor, float]:
    """The same loss as ours from our layout."""
    return _geoopt_whole(relations, horocyclic_layout(relations, dim), seconds, lr=0.1)


CONTESTANTS: dict[str, Contestant] = {
    "layout in closed form": layout,
    "layout and 60 updates": ours,
    "the same within radius 12.2": ours_within,
    "random start, 600 updates": ours_random,
    "flat twin of the layout and updates": flat,
    "gensim PoincareModel": gensim,
    "geoopt, 50 negatives, RSGD": geoopt_sampled,
    "geoopt, all others, RAdam": geoopt_whole,
    "geoopt, all others, from our layout": geoopt_layout,
}


def judged_by_gensim(v: Tensor, relations: Relations) -> tuple[float, float]:
    """MAP and mean rank by gensim's evaluation of ball coordinates."""
    from gensim.models.poincare import PoincareKeyedVectors, ReconstructionEvaluation  # pyright: ignore[reportMissingImports]

    vectors = PoincareKeyedVectors(v.shape[1], 0, dtype=np.float64)
    vectors.add_vectors(list(relations.names), to_ball(v, ONE).numpy())
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
        file.write(relations_text(relations))
        file.flush()
        rank, precision = ReconstructionEvaluation(file.name, vectors).evaluate_mean_rank_and_map()
    return float(precision), float(rank)


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--dims", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    tune_process(threads=1)
    relations = load_relations(MAMMALS)
    embed_relations(relations, 2, steps=1)  # Compiles the kernels.
    print("| learner | dimensions | MAP | mean rank | largest radius | CPU-s |\n|---|---|---|---|---|---|")
    for dim in arguments.dims:
        for label in arguments.only:
            begin = time.process_time()
            v, k = CONTESTANTS[label](relations, dim, arguments.seconds)
            spent = time.process_time() - begin
            found = reconstruction(v, relations, k=k)
            reach = float(v.norm(dim=1).max())
            print(
                f"| {label} | {dim} | {found['map']:.4f} | {found['mean_rank']:.3f} | {reach:.1f} | {spent:.1f} |",
                flush=True,
            )
            if arguments.check and k == -1:
                print("gensim's judgement: MAP {:.4f}, mean rank {:.3f}".format(*judged_by_gensim(v, relations)))


if __name__ == "__main__":
    main()
