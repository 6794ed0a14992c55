"""Draw a small taxonomy into the hyperbolic plane so that distance tells what is above what.

python examples/taxonomy.py
"""

from __future__ import annotations

import torch

from holonomy.data.relations import relations_of
from holonomy.models.ternary.taxonomy import embed_relations, horocyclic_layout, reconstruction

PARENTS = {
    "mammal": "animal", "bird": "animal", "fish": "animal", "cat": "mammal", "dog": "mammal", "whale": "mammal",
    "lion": "cat", "tiger": "cat", "poodle": "dog", "beagle": "dog", "owl": "bird", "duck": "bird", "trout": "fish",
}  # fmt: skip


def main() -> None:
    pairs = []
    for below in PARENTS:
        above = below
        while above in PARENTS:
            above = PARENTS[above]
            pairs.append((below, above))
    relations = relations_of(pairs)
    random = torch.randn(len(relations.names), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name, points in (
        ("random points", random),
        ("layout in closed form", horocyclic_layout(relations, 2)),
        ("and 60 updates", embed_relations(relations, 2)),
    ):
        found = reconstruction(points, relations)
        print(f"{name:22} mean average precision {found['map']:.3f}, mean rank {found['mean_rank']:.2f}")


if __name__ == "__main__":
    main()
