"""Configuration of the ternary family. Free of torch, so that a wrong configuration is refused at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, model_validator

from holonomy.core.budget import Budget, Cadence, Guard, Schedule
from holonomy.core.config import Config, refuse_unread

MAX_RADIUS = 3.6635616461296463
"""2 artanh(0.95): geodesic length of Euclidean radius 0.95 in the unit ball."""


class ProjectionConfig(Config):
    """From the latent vector to a point: a direction, and a radius."""

    hidden: int = Field(default=64, ge=1, le=4096, description="width inside both nets")
    max_radius: float = Field(default=MAX_RADIUS, gt=0, le=6, description="largest geodesic length, R_max")
    init: Literal["free", "identity"] = Field(
        default="free", description="identity starts at radius R_max tanh(|z| / R_max) in the direction of z"
    )
    learnable: bool = Field(default=True, description="let it learn; false keeps the identity it starts as")

    @model_validator(mode="after")
    def _check(self) -> ProjectionConfig:
        if not self.learnable and self.init != "identity":
            raise ValueError("learnable = false keeps the projection as it starts, which wants init = identity")
        return self


class CurvatureConfig(Config):
    """Sectional curvature -c."""

    value: float = Field(default=1.0, ge=1e-3, le=10, description="c at the start")
    learnable: bool = Field(default=False, description="let c receive gradients")
    lr_scale: float = Field(default=0.1, gt=0, le=10, description="learning rate of c as a share of the others'")


class TernaryModelConfig(Config):
    """Shape of the autoencoder."""

    latent_dim: int = Field(default=16, ge=2, le=64, description="dimension of the space")
    geometry: Literal["hyperbolic", "euclidean"] = Field(
        default="hyperbolic", description="distances between points; euclidean is the flat twin of equal size"
    )
    encoder: Literal["gated", "relu"] = Field(
        default="gated", description="layers of the encoder: LayerNorm, SiLU and dropout, or plain ReLU"
    )
    hidden: tuple[int, ...] = Field(
        default=(128, 64), min_length=1, max_length=8, description="widths of the layers of the encoder"
    )
    input: Literal["one_hot", "centred"] = Field(
        default="one_hot", description="entries as one-hot vectors, or as numbers in [-1, 1]"
    )
    encoder_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of encoder activations dropped")
    decoder: Literal["gated", "relu", "stepwise"] = Field(
        default="gated",
        description="SiLU or ReLU between the decoder's layers, or one entry after the other from what is left",
    )
    decoder_hidden: int = Field(default=64, ge=1, le=4096, description="width of the decoder")
    decoder_scales: int = Field(
        default=5, ge=1, le=10, description="copies that the decoder sees, each 4 times as large as the last"
    )
    decoder_copies: Literal["point", "direction"] = Field(
        default="point", description="what is copied: the point, or its direction, with the point once beside it"
    )
    decoder_norm: bool = Field(default=False, description="LayerNorm in the decoder")
    decoder_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of decoder activations dropped")
    sharing: Literal["tied", "separate"] = Field(
        default="tied", description="one encoder for coverage (A) and hierarchy (B), or one each"
    )
    decode_from: Literal["A", "concat"] = Field(
        default="A", description="what the decoder sees: stream A, or both; from B alone A would learn nothing"
    )
    posterior: Literal["gaussian", "wrapped_normal", "point"] = Field(
        default="gaussian", description="noise while learning: before the projection, around the point, or none"
    )
    logvar_init: float = Field(default=-8.0, ge=-20, le=2, description="log variance of the posterior at the start")
    logvar_min: float = Field(default=-10.0, ge=-20, le=2, description="lowest log variance")
    logvar_max: float = Field(default=2.0, ge=-20, le=10, description="highest log variance")
    projection: ProjectionConfig = Field(default=ProjectionConfig(), description="latent vector to point")
    curvature: CurvatureConfig = Field(default=CurvatureConfig(), description="of the hyperbolic space")

    @model_validator(mode="after")
    def _check(self) -> TernaryModelConfig:
        if self.logvar_min >= self.logvar_max:
            raise ValueError(f"logvar_min = {self.logvar_min} must be below logvar_max = {self.logvar_max}")
        if not self.logvar_min < self.logvar_init < self.logvar_max:
            raise ValueError(f"logvar_init = {self.logvar_init} must lie between logvar_min and logvar_max")
        if any(not 1 <= width <= 8192 for width in self.hidden):
            raise ValueError(f"hidden = {list(self.hidden)} must hold widths from 1 to 8192")
        if self.sharing == "tied" and self.decode_from != "A":
            raise ValueError(f"decode_from = {self.decode_from} wants sharing = separate; tied streams are one")
        return self


class Term(Config):
    """What every loss has."""

    weight: float = Field(default=0.0, ge=0, le=1e4, description="0 leaves the loss out altogether")
    structure: float = Field(default=1.0, ge=0, le=100, description="multiplies the weight in the first phase")
    geometry: float = Field(default=1.0, ge=0, le=100, description="multiplies the weight in the second phase")


class PairTerm(Term):
    """A loss over pairs of the batch."""

    pairs: int = Field(default=2048, ge=1, le=1_000_000, description="pairs per update, near and far in the tree alike")


class Reconstruction(Term):
    """Cross-entropy summed over the entries."""

    weight: float = Field(default=0.1, ge=0, le=1e4, description="0 leaves the loss out altogether")
    unbiased: bool = Field(default=False, description="weigh operations so that oversampled levels count once")


class Divergence(Term):
    """KL of the posterior to the standard normal."""

    weight: float = Field(default=1e-4, ge=0, le=1e4, description="0 leaves the loss out altogether")
    free_bits: float = Field(default=0.0, ge=0, le=100, description="nats per dimension that cost nothing")


class WrappedDivergence(Term):
    """KL of the wrapped normal posterior to one at the origin, by samples."""

    samples: int = Field(default=8, ge=1, le=1024, description="samples per operation")
    prior_scale: float = Field(default=1.0, gt=0, le=100, description="standard deviation of the prior")
    learn_prior: bool = Field(default=False, description="let the prior's scale receive gradients")


class RadialBands(Term):
    """Smooth-L1 of the radius to a band for each level, ordered inside by the next digits."""

    weight: float = Field(default=10.0, ge=0, le=1e4, description="0 leaves the loss out altogether")
    beta: float = Field(default=0.05, gt=0, le=10, description="where smooth-L1 turns from square to linear")


class Triplet(Term):
    """Triples whose nearer member in the tree must be the nearer point."""

    weight: float = Field(default=5.0, ge=0, le=1e4, description="0 leaves the loss out altogether")
    margin: float = Field(default=0.1, ge=0, le=10, description="by how much the nearer one must be nearer")
    temperature: float = Field(default=0.1, gt=0, le=10, description="softness of the hinge")
    measure: Literal["log", "linear"] = Field(
        default="log", description="compare log sinh(d / 2), which weighs all levels alike, or the distance d"
    )
    uniform: int = Field(default=2048, ge=0, le=1_000_000, description="triples of the batch drawn uniformly")
    uniform_weight: float = Field(default=0.2, ge=0, le=100, description="their weight beside the others'")
    tree: int = Field(default=2048, ge=0, le=1_000_000, description="triples drawn evenly over the levels of the tree")


class RadialStratification(Term):
    """Smooth-L1 of the radius to one value a level, and a margin between levels."""

    inner: float = Field(default=0.16, ge=0, le=6, description="target radius of the deepest level")
    outer: float = Field(default=2.94, gt=0, le=6, description="target radius of level 0")
    growth: Literal["linear", "exponential"] = Field(default="linear", description="weight: 1 + v/D or 1 + e^.4v")


class RichHierarchy(Term):
    """Level means at their radius, levels that keep their spread and stay apart."""

    inner: float = Field(default=0.16, ge=0, le=6, description="target radius of the deepest level")
    outer: float = Field(default=2.94, gt=0, le=6, description="target radius of level 0")
    hierarchy: float = Field(default=5.0, ge=0, le=100, description="weight of the means")
    richness: float = Field(default=2.0, ge=0, le=100, description="weight of the spread")
    separation: float = Field(default=3.0, ge=0, le=100, description="weight of the gaps")


class Geodesic(PairTerm):
    """Distances that follow D0 exp(-kappa k) for pairs that share k digits."""

    widest: float = Field(default=4.0, gt=0, le=12, description="distance D0 of pairs that share no digit")
    rate: float = Field(default=0.45, gt=0, le=10, description="kappa: how fast distances shrink with each digit")


class Temperature(Term):
    """A loss with a softness."""

    temperature: float = Field(default=0.5, gt=0, le=10, description="softness of the ranks")
    rows: int = Field(default=256, ge=2, le=8192, description="operations of the batch that are compared")


class Losses(Config):
    """All losses by name; see docs/ternary.md for the formulas."""

    reconstruction: Reconstruction = Field(default=Reconstruction(), description="entries from the point")
    kl: Divergence = Field(default=Divergence(), description="posterior to prior, before the projection")
    wrapped_kl: WrappedDivergence = Field(default=WrappedDivergence(), description="the same on the manifold")
    radial_bands: RadialBands = Field(default=RadialBands(), description="radius in a band of its level")
    padic_triplet: Triplet = Field(default=Triplet(), description="order of distances")
    rich_hierarchy: RichHierarchy = Field(default=RichHierarchy(), description="radius by level, with spread")
    radial_stratification: RadialStratification = Field(
        default=RadialStratification(), description="one radius a level"
    )
    monotone_levels: Term = Field(default=Term(), description="level means fall")
    global_rank: PairTerm = Field(default=PairTerm(), description="order of radii, by pairs")
    padic_geodesic: Geodesic = Field(default=Geodesic(), description="distances to targets")
    padic_metric: PairTerm = Field(default=PairTerm(), description="distances to a multiple of the p-adic ones")
    tree_centroid: Term = Field(default=Term(), description="operations near the mean of their subtree")
    soft_rank: Temperature = Field(default=Temperature(), description="rows of distances in soft order")
    zero_structure: Term = Field(default=Term(), description="leading zeros, read from the direction")
    fisher_rao: PairTerm = Field(default=PairTerm(), description="Fisher-Rao distance to the standard normal")
    entropy: Term = Field(default=Term(), description="outputs that differ over the batch")
    repulsion: PairTerm = Field(default=PairTerm(), description="points that keep apart")
    align: Term = Field(default=Term(), description="streams that decode to equal entropies")
    hyperbolic_reconstruction: Term = Field(default=Term(), description="entries, weighted towards the centre")
    external: tuple[tuple[str, float], ...] = Field(
        default=(), description="(name, weight) of losses that installed packages offer as entry points"
    )

    @property
    def terms(self) -> dict[str, Term]:
        """The losses of this package by name."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "external"}


RADIUS_TARGETS = ("radial_bands", "rich_hierarchy", "radial_stratification")
"""Losses that give the radius a target; two at once would contradict each other."""


class PhasesConfig(Config):
    """Two phases of the budget, in which losses may weigh differently."""

    geometry_start: float = Field(default=0.2, gt=0, lt=1, description="share of the budget the second phase begins at")


class WeightingConfig(Config):
    """Who sets the weights of the losses while training."""

    kind: Literal["fixed", "controller", "uncertainty", "gradnorm"] = Field(
        default="fixed",
        description="as configured, by a controller on held-out gradients, by learned variances, or by gradient norms",
    )
    every: int = Field(default=40, ge=1, le=10_000, description="updates between two of the weights")
    lr: float = Field(default=1e-3, gt=0, le=1, description="learning rate of the weights")
    limit: float = Field(
        default=10.0, gt=1, le=1000, description="largest multiple of a configured weight that the controller sets"
    )
    exchange: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="let pair losses hold for stream A, too, at points that have up to this share of stream B",
    )
    restoring: float = Field(
        default=1.5, ge=0, le=10, description="alpha of gradnorm: how much losses that fall slowly are favoured"
    )


class HomeostasisConfig(Config):
    """Freezing and unfreezing of the parts by what evaluations say."""

    enabled: bool = Field(default=False, description="watch the parts")
    warmup: int = Field(default=5, ge=0, le=10_000, description="evaluations before anything changes")
    hysteresis: int = Field(default=2, ge=0, le=10_000, description="evaluations between two changes of one part")
    coverage_freeze: float = Field(default=0.995, gt=0, lt=1, description="coverage below which encoder A is restored")
    coverage_unfreeze: float = Field(default=1.0, gt=0, le=1, description="coverage from which it may learn again")
    coverage_floor: float = Field(default=0.95, gt=0, lt=1, description="lowest coverage_freeze of the annealing")
    annealing: bool = Field(default=True, description="loosen what helped, tighten what hurt")
    annealing_step: float = Field(default=0.003, gt=0, lt=0.1, description="change of the thresholds per cycle")
    plateau: float = Field(default=1e-3, gt=0, lt=1, description="range of the hierarchy that counts as standstill")
    patience: int = Field(default=5, ge=1, le=1000, description="evaluations of standstill before encoder B is frozen")
    patience_ceiling: int = Field(default=15, ge=1, le=1000, description="highest patience of the annealing")

    @model_validator(mode="after")
    def _check(self) -> HomeostasisConfig:
        if self.coverage_unfreeze < self.coverage_freeze:
            raise ValueError(f"coverage_unfreeze = {self.coverage_unfreeze} must not be below coverage_freeze")
        return self


class CurriculumConfig(Config):
    """From radii to distances over the first part of the budget."""

    enabled: bool = Field(default=False, description="shift weight from radial to pair losses")
    ramp: float = Field(default=0.7, gt=0, le=1, description="share of the budget after which only pairs have weight")
    hold: float = Field(default=-0.62, ge=-1, le=1, description="no shift while the hierarchy is above this")
    floor: float = Field(default=0.2, ge=0, le=1, description="weight that either side keeps")


class FrozenConfig(Config):
    """Parts that are taken from trained runs, named as on the command line, and do not learn."""

    encoder_A: str | None = Field(
        default=None, min_length=1, description="run whose encoder A, with its projection, is used as it is"
    )
    encoder_B: str | None = Field(default=None, min_length=1, description="run whose encoder B, or A where it is tied")
    decoder: str | None = Field(default=None, min_length=1, description="run whose decoder is used as it is")


class TernaryDataConfig(Config):
    """The operations and their batches."""

    source: Literal["operations"] = Field(default="operations", description="all tables; nothing is read")
    base: int = Field(default=3, ge=2, le=97, description="values an entry takes; a prime")
    digits: int = Field(default=9, ge=2, le=24, description="entries of a table")
    batch: int = Field(default=1024, ge=2, le=1_000_000, description="operations of an epoch's permutation per update")
    extra_per_level: int = Field(default=8, ge=0, le=10_000, description="draws per deep level in every batch")
    extra_from_level: int = Field(default=4, ge=0, le=24, description="first deep level")
    high_budget: float | None = Field(
        default=None, gt=0, lt=1, description="instead: share of each batch that comes from the deep levels"
    )
    siblings: int = Field(
        default=0, ge=0, le=24, description="last digits in which groups of a permutation differ at most; 0 for none"
    )
    holdout: float = Field(default=0.0, ge=0, lt=1, description="share of the operations that is never trained on")
    holdout_seed: int = Field(default=0, ge=0, lt=2**32, description="which ones")
    always_train: tuple[int, ...] = Field(default=(0,), max_length=1000, description="which are never withheld")

    @model_validator(mode="after")
    def _check(self) -> TernaryDataConfig:
        if any(self.base % d == 0 for d in range(2, self.base)):
            raise ValueError(f"base = {self.base} must be a prime, such as 2, 3 or 5")
        size = self.base**self.digits
        if self.siblings > self.digits:
            raise ValueError(f"siblings = {self.siblings}: a table has {self.digits} entries")
        if size > 2**24:
            raise ValueError(f"digits = {self.digits}: {self.base}^{self.digits} is more than 2^24 operations")
        if any(not 0 <= n < size for n in self.always_train):
            raise ValueError(f"always_train = {list(self.always_train)} must hold operations from 0 to {size - 1}")
        if self.extra_per_level and self.extra_from_level > self.digits:
            raise ValueError(f"extra_from_level = {self.extra_from_level} lies below the deepest level, {self.digits}")
        return self


class TernaryOptimConfig(Config):
    """AdamW."""

    lr: float = Field(default=5e-3, gt=0, le=1, description="peak learning rate")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="decay of first and second moment")
    eps: float = Field(default=1e-8, gt=0, description="added to the root of the second moment")
    decay: float = Field(default=1e-5, ge=0, description="decoupled weight decay")
    clip: float = Field(default=1.0, gt=0, description="largest L2 norm of the gradient")
    encoder_scale: float = Field(default=1.0, gt=0, le=100, description="learning rate of the encoders beside the rest")

    @model_validator(mode="after")
    def _check(self) -> TernaryOptimConfig:
        if not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas = {list(self.betas)} must lie in [0, 1)")
        return self


class TernaryTrainConfig(Config):
    """How long, how often, on what."""

    budget: Budget = Field(default=Budget(steps=1500), description="stop conditions, the first one reached wins")
    cadence: Cadence = Field(
        default=Cadence(log_every=20, eval_every=250, save_every=250),
        description="steps between logs, evaluations and checkpoints",
    )
    optim: TernaryOptimConfig = Field(default=TernaryOptimConfig(), description="optimiser")
    schedule: Schedule = Field(default=Schedule(warmup=0.05, floor=0.01), description="learning rate over the budget")
    guard: Guard = Field(default=Guard(), description="what happens when training goes wrong or no longer helps")
    tensorboard: bool = Field(default=False, description="also write tensorboard/ with a projector of the points")
    seed: int = Field(default=0, ge=0, lt=2**32, description="initial weights, order of the batches and noise")
    threads: int | Literal["auto"] = Field(
        default="auto", description="CPU threads; auto is cores minus load, at least 1"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes a GPU where torch sees one")
    strict_cuda: bool = Field(
        default=False, description="refuse to train where torch sees no GPU, also with device auto"
    )
    compile: bool = Field(
        default=False,
        description="learn through torch.compile, as long as it gives the same results; needs a C++ compiler",
    )

    @model_validator(mode="after")
    def _check(self) -> TernaryTrainConfig:
        if self.cadence.samples:
            raise ValueError("cadence.samples has no effect: operations are no text; drop it")
        if self.strict_cuda and self.device == "cpu":
            raise ValueError("strict_cuda contradicts device = cpu; drop one of them")
        if self.threads != "auto" and not 1 <= self.threads <= 1024:
            raise ValueError(f"threads = {self.threads} must be auto or in [1, 1024]")
        return self


class TargetsConfig(Config):
    """What `holonomy eval --check` holds a run to."""

    coverage: float = Field(default=1.0, ge=0, le=1, description="lowest share of operations decoded without a fault")
    hierarchy: float = Field(default=-0.832, ge=-1, le=1, description="highest correlation of level and radius")
    triplet_concordance: float = Field(default=0.995, ge=0, le=1, description="lowest share of triples in order")


class TernaryConfig(Config):
    """A complete ternary recipe."""

    family: Literal["ternary"] = Field(default="ternary", description="model family")
    model: TernaryModelConfig = Field(default=TernaryModelConfig(), description="autoencoder")
    loss: Losses = Field(default=Losses(), description="what is minimised")
    frozen: FrozenConfig = Field(default=FrozenConfig(), description="parts from trained runs")
    phases: PhasesConfig = Field(default=PhasesConfig(), description="two phases of weights")
    weighting: WeightingConfig = Field(default=WeightingConfig(), description="who sets the weights")
    homeostasis: HomeostasisConfig = Field(default=HomeostasisConfig(), description="freezing of the parts")
    curriculum: CurriculumConfig = Field(default=CurriculumConfig(), description="from radii to distances")
    data: TernaryDataConfig = Field(default=TernaryDataConfig(), description="operations")
    train: TernaryTrainConfig = Field(default=TernaryTrainConfig(), description="training")
    targets: TargetsConfig = Field(default=TargetsConfig(), description="what a finished run is held to")

    @model_validator(mode="after")
    def _check(self) -> TernaryConfig:
        active = [name for name in RADIUS_TARGETS if getattr(self.loss, name).weight]
        if len(active) > 1:
            raise ValueError(f"loss.{active[1]}.weight contradicts loss.{active[0]}: one loss may set radii")
        if self.loss.padic_geodesic.weight and self.loss.padic_geodesic.widest > 2 * self.model.projection.max_radius:
            raise ValueError("loss.padic_geodesic.widest exceeds twice model.projection.max_radius: out of reach")
        if self.loss.padic_triplet.weight and not (self.loss.padic_triplet.uniform or self.loss.padic_triplet.tree):
            raise ValueError("loss.padic_triplet.tree and uniform are both 0: the loss has no triples")
        if self.model.sharing == "tied" and self.frozen.encoder_B is not None:
            raise ValueError("frozen.encoder_B wants model.sharing = separate; tied streams have one encoder, A")
        if self.frozen.encoder_A and self.frozen.decoder and self.model.sharing == "tied":
            raise ValueError("frozen.encoder_A and frozen.decoder leave a tied model nothing to learn")
        if self.train.compile and (self.model.encoder_dropout or self.model.decoder_dropout):
            raise ValueError(
                "train.compile would draw other masks than the plain model: set the dropouts of model to 0"
            )
        if self.train.compile and self.model.decoder == "stepwise":
            raise ValueError("train.compile does not reach the steps of model.decoder = stepwise: set it to false")
        for name in ("radial_stratification", "rich_hierarchy"):
            term = getattr(self.loss, name)
            if term.weight and not term.inner < term.outer <= self.model.projection.max_radius:
                raise ValueError(f"loss.{name}.outer must lie between inner and model.projection.max_radius")
        refuse_unread(self, self._inactive())
        return self

    @classmethod
    def adopt(cls, tree: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Takes the keys of three earlier programs; see `holonomy.models.ternary.historic`."""
        from holonomy.models.ternary.historic import convert

        return convert(tree)

    def _inactive(self) -> Iterator[tuple[str, str]]:
        """Keys that nothing reads under the other choices, and why."""
        model, data = self.model, self.data
        for name, term in self.loss.terms.items():
            if not term.weight:
                for key in type(term).model_fields:
                    if key != "weight":
                        yield f"loss.{name}.{key}", f"loss.{name}.weight is 0"
        if all(t.structure == t.geometry for t in self.loss.terms.values() if t.weight):
            yield "phases.geometry_start", "no loss weighs differently in the two phases"
        if not self.homeostasis.enabled:
            yield "homeostasis", "homeostasis.enabled is false"
        elif not self.homeostasis.annealing:
            for key in ("coverage_floor", "annealing_step", "patience_ceiling"):
                yield f"homeostasis.{key}", "homeostasis.annealing is false"
        if not self.curriculum.enabled:
            yield "curriculum", "curriculum.enabled is false"
        kind = self.weighting.kind
        if kind not in ("controller", "gradnorm"):
            for key in ("every", "lr"):
                yield f"weighting.{key}", f"weighting.kind is {kind}"
        if kind != "controller":
            for key in ("limit", "exchange"):
                yield f"weighting.{key}", "weighting.kind is not controller"
        if model.sharing == "tied":
            yield "weighting.exchange", "model.sharing is tied"
        if kind != "gradnorm":
            yield "weighting.restoring", "weighting.kind is not gradnorm"
        if not model.projection.learnable:
            yield "model.projection.hidden", "model.projection.learnable is false"
        if model.geometry == "euclidean":
            yield "model.curvature", "model.geometry is euclidean"
        elif not model.curvature.learnable:
            yield "model.curvature.lr_scale", "model.curvature.learnable is false"
        if model.posterior == "point":
            for key in ("logvar_init", "logvar_min", "logvar_max"):
                yield f"model.{key}", "model.posterior is point"
        if model.encoder == "relu":
            yield "model.encoder_dropout", "model.encoder is relu"
        if model.decoder == "stepwise":
            for key in ("decoder_scales", "decoder_copies"):
                yield f"model.{key}", "model.decoder is stepwise"
        if model.decoder != "gated":
            for key in ("decoder_norm", "decoder_dropout"):
                yield f"model.{key}", f"model.decoder is {model.decoder}"
        if data.high_budget is not None:
            yield "data.extra_per_level", "data.high_budget is set"
        elif not data.extra_per_level:
            yield "data.extra_from_level", "data.extra_per_level is 0"
        if not data.holdout:
            for key in ("holdout_seed", "always_train"):
                yield f"data.{key}", "data.holdout is 0"
        triplet = self.loss.padic_triplet
        if not (triplet.uniform and triplet.tree):
            yield "loss.padic_triplet.uniform_weight", "only one kind of triples is drawn"
