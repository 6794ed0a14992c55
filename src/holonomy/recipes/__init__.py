"""Named, complete configurations: what `holonomy train NAME` runs. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holonomy.core.budget import Budget, Cadence
from holonomy.core.config import Config, Resolved, resolve
from holonomy.core.inference import InferConfig
from holonomy.core.registry import Registry
from holonomy.models.holographic.config import (
    CountsConfig,
    DocumentsConfig,
    HolographicConfig,
    HolographicRunConfig,
    MixtureConfig,
    PassConfig,
    RecencyConfig,
    TowerConfig,
    WordsConfig,
)
from holonomy.models.lior.config import DataConfig, LiorConfig, TrainConfig
from holonomy.models.ternary.config import (
    Divergence,
    Losses,
    PhasesConfig,
    ProjectionConfig,
    RadialBands,
    Reconstruction,
    TargetsConfig,
    TernaryConfig,
    TernaryDataConfig,
    TernaryModelConfig,
    TernaryTrainConfig,
    Triplet,
)


@dataclass(frozen=True)
class Recipe:
    """A named configuration.

    Attributes:
        name: what the command line calls it.
        family: model family.
        trains: what it trains, in one line.
        data: known name of its text, or what else it learns.
        expect: time and metric to expect, in words.
        config: builds the configuration.
    """

    name: str
    family: str
    trains: str
    data: str
    expect: str
    config: Callable[[], Config]


def lior() -> LiorConfig:
    """Hybrid oscillator and retrieval model on the reference text of Python, two CPU minutes."""
    return LiorConfig(
        data=DataConfig(source="pydoc", unk=True),
        train=TrainConfig(budget=Budget(cpu_s=100.0)),
    )


def lior_shakespeare() -> LiorConfig:
    """The same model on tinyshakespeare, 150 CPU-seconds."""
    return LiorConfig(
        data=DataConfig(source="tinyshakespeare"),
        train=TrainConfig(budget=Budget(cpu_s=150.0)),
    )


def lior_smoke() -> LiorConfig:
    """The default model for 200 updates: a check that everything works."""
    return LiorConfig(
        data=DataConfig(source="pydoc", unk=True),
        train=TrainConfig(budget=Budget(steps=200), cadence=Cadence(log_every=10, eval_every=100, save_every=100)),
    )


def holographic() -> HolographicRunConfig:
    """One pass over the words of the reference text of Python."""
    return HolographicRunConfig()


def holographic_shakespeare() -> HolographicRunConfig:
    """One pass over the words of tinyshakespeare."""
    return HolographicRunConfig(data=WordsConfig(source="tinyshakespeare"))


def holographic_smoke() -> HolographicRunConfig:
    """The same, of a tenth of the text, without word classes and superposed store."""
    model = HolographicConfig(tower=TowerConfig(role="off"), counts=CountsConfig(classes=()))
    return HolographicRunConfig(model=model, train=PassConfig(share=0.1))


def holographic_chars(source: str = "pydoc") -> HolographicRunConfig:
    """One pass over the characters of a text: all orders, words begun, columns and working memory multiplied."""
    counts = CountsConfig(
        order=8,
        skips=(),
        classes=(),
        spelled=(
            ("flow0", "flow1", "flow2"),
            ("flow0", "flow2"),
            ("char1", "flow1+flow2"),
            ("column+length", "char1"),
            ("line", "head1+head2"),
        ),
    )
    traces = ((3, 3000, 1000.0), (5, 3000, 2000.0), (8, 3000, 2000.0), (4, 3000, 400.0))
    mixture = MixtureConfig(product="none", pool="logarithmic", lowest=4, positions=30_000, em_steps=40, rehearsal=0.5)
    model = HolographicConfig(
        tower=TowerConfig(role="off"), counts=counts, recency=RecencyConfig(traces=traces), mixture=mixture
    )
    data = WordsConfig(source=source, tokens="chars", unk=source == "pydoc")
    return HolographicRunConfig(model=model, data=data, infer=InferConfig(temperature=0.8))


def holographic_chars_shakespeare() -> HolographicRunConfig:
    """The same on tinyshakespeare."""
    return holographic_chars("tinyshakespeare")


def holographic_openwebtext() -> HolographicRunConfig:
    """One pass over OpenWebText, read as it is needed, within 2 GiB."""
    model = HolographicConfig(tower=TowerConfig(role="off"), memory=2048)
    data = WordsConfig(
        source="hub:Skylion007/openwebtext", stream=True, documents=DocumentsConfig(vocab_size=30_000), min_count=3
    )
    cadence = PassConfig().cadence.model_copy(update={"log_every": 10, "save_every": 500, "keep": 1})
    # Four times as many would take a quarter of the pass.
    return HolographicRunConfig(model=model, data=data, train=PassConfig(cadence=cadence, words=10**8, positions=1024))


def ternary() -> TernaryConfig:
    """All 19,683 binary operations on {-1, 0, 1} in hyperbolic space, twenty CPU-seconds."""
    return TernaryConfig()


def ternary_smoke() -> TernaryConfig:
    """The default model for 100 updates: a check that everything works."""
    cadence = Cadence(log_every=10, eval_every=50, save_every=50)
    return TernaryConfig(train=TernaryTrainConfig(budget=Budget(steps=100), cadence=cadence))


def ternary_fast() -> TernaryConfig:
    """The default model for 650 updates: full coverage and hierarchy as soon as they are there."""
    return TernaryConfig(train=TernaryTrainConfig(budget=Budget(steps=650)))


def ternary_small() -> TernaryConfig:
    """Six dimensions, fewer than entries of a table: entries are read one after the other from what is left."""
    return TernaryConfig(
        model=TernaryModelConfig(latent_dim=6, decoder="stepwise", logvar_init=-12.0, logvar_min=-18.0),
        # Order first; what the decoder then still misses comes back in the last part.
        loss=Losses(
            reconstruction=Reconstruction(weight=0.2, geometry=5.0),
            padic_triplet=Triplet(weight=8.0, uniform_weight=1.2),
        ),
        phases=PhasesConfig(geometry_start=0.6),
        data=TernaryDataConfig(siblings=4),
        train=TernaryTrainConfig(budget=Budget(steps=3300)),
    )


def ternary_heldout() -> TernaryConfig:
    """A tenth of the operations is trained on; plain inputs and real noise let the rest come out right."""
    return TernaryConfig(
        model=TernaryModelConfig(input="centred", logvar_init=-1.0, decoder_scales=1, decoder_copies="direction"),
        # Triples fit the few deep operations of the training part too closely: one seed of five missed three others.
        loss=Losses(
            reconstruction=Reconstruction(weight=1.0), kl=Divergence(weight=1e-3), padic_triplet=Triplet(weight=0.0)
        ),
        data=TernaryDataConfig(holdout=0.9),
        train=TernaryTrainConfig(budget=Budget(steps=800)),
    )


def ternary_foundation() -> TernaryConfig:
    """An autoencoder without order: every operation comes back after four CPU-seconds; parts for `frozen.*`."""
    return TernaryConfig(
        model=TernaryModelConfig(logvar_init=-6.0, projection=ProjectionConfig(init="identity", learnable=False)),
        loss=Losses(
            reconstruction=Reconstruction(weight=1.0),
            kl=Divergence(weight=1e-3),
            radial_bands=RadialBands(weight=0.0),
            padic_triplet=Triplet(weight=0.0),
        ),
        train=TernaryTrainConfig(budget=Budget(steps=400)),
        targets=TargetsConfig(hierarchy=1.0, triplet_concordance=0.0),
    )


def ternary_dual() -> TernaryConfig:
    """An encoder and a projection each for coverage and for hierarchy."""
    return TernaryConfig(model=TernaryModelConfig(sharing="separate"))


RECIPES: Registry[Recipe] = Registry("recipe")
for _recipe in (
    Recipe(
        "lior",
        "lior",
        "oscillators and retrieval, no autograd, on the reference text of Python",
        "pydoc",
        "about 2 minutes",
        lior,
    ),
    Recipe(
        "lior-shakespeare",
        "lior",
        "the same model on tinyshakespeare",
        "tinyshakespeare",
        "150 CPU-seconds",
        lior_shakespeare,
    ),
    Recipe("lior-smoke", "lior", "the same model for 200 updates", "pydoc", "about 20 seconds", lior_smoke),
    Recipe(
        "holographic",
        "holographic",
        "words in one pass, without gradients, on the reference text of Python",
        "pydoc",
        "about a minute",
        holographic,
    ),
    Recipe(
        "holographic-shakespeare",
        "holographic",
        "the same on tinyshakespeare",
        "tinyshakespeare",
        "a few minutes",
        holographic_shakespeare,
    ),
    Recipe(
        "holographic-smoke", "holographic", "the same on a tenth of the text", "pydoc", "seconds", holographic_smoke
    ),
    Recipe(
        "holographic-chars",
        "holographic",
        "characters in one pass, without gradients, on the reference text of Python",
        "pydoc",
        "about a minute",
        holographic_chars,
    ),
    Recipe(
        "holographic-chars-shakespeare",
        "holographic",
        "the same on tinyshakespeare",
        "tinyshakespeare",
        "about two minutes",
        holographic_chars_shakespeare,
    ),
    Recipe(
        "holographic-openwebtext",
        "holographic",
        "a hundred million words of a stream, within 2 GiB",
        "hub:Skylion007/openwebtext",
        "about an hour",
        holographic_openwebtext,
    ),
    Recipe(
        "ternary",
        "ternary",
        "hyperbolic autoencoder of all operations on three values, arranged by the 3-adic tree",
        "operations",
        "about 20 CPU-seconds",
        ternary,
    ),
    Recipe("ternary-smoke", "ternary", "the same model for 100 updates", "operations", "a few seconds", ternary_smoke),
    Recipe(
        "ternary-fast",
        "ternary",
        "the same model until coverage and hierarchy are full",
        "operations",
        "about 9 CPU-seconds",
        ternary_fast,
    ),
    Recipe(
        "ternary-small",
        "ternary",
        "the same operations in six dimensions",
        "operations",
        "about 50 CPU-seconds",
        ternary_small,
    ),
    Recipe(
        "ternary-heldout",
        "ternary",
        "a tenth of the operations, measured on the others",
        "operations",
        "about 8 CPU-seconds",
        ternary_heldout,
    ),
    Recipe(
        "ternary-foundation",
        "ternary",
        "the autoencoder alone, whose parts other runs can take over and leave as they are",
        "operations",
        "about 4 CPU-seconds",
        ternary_foundation,
    ),
    Recipe(
        "ternary-dual",
        "ternary",
        "an encoder each for coverage and for hierarchy",
        "operations",
        "about 30 CPU-seconds",
        ternary_dual,
    ),
):
    RECIPES.register(_recipe.name, _recipe)


def planned_memory(config: Config) -> dict[str, int]:
    """Bytes by structure that a run will take, where its configuration says how many words it knows; else nothing.

    Raises:
        ConfigError: they do not fit into `model.memory`.
    """
    if not isinstance(config, HolographicRunConfig) or not config.data.stream:
        return {}
    from holonomy.models.holographic.plan import memory_plan

    return memory_plan(config.model, config.data.documents.vocab_size).table()


def configure(
    recipe: str,
    *,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, tuple[str, object]] = {},
) -> Resolved:
    """Resolves a recipe, a YAML file, the environment, `a.b=value` overrides and command-line options, in that order.

    Args:
        recipe: name of the recipe.
        file: YAML file with some of the recipe's keys.
        overrides: texts `dotted.key=value`, the value in YAML.
        options: dotted key to (name of the option, value).

    Raises:
        ConfigError: unknown recipe or key, wrong type or range; all mistakes at once.
    """
    base = RECIPES.get(recipe).config()
    return resolve(
        type(base),
        base=base,
        base_origin=f"recipe {recipe}",
        file=file,
        environment=os.environ,
        overrides=overrides,
        options=options,
    )
