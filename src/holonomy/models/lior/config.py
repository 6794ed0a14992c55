"""Configuration of the lior family. Free of torch, so that a wrong configuration is refused at once."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from holonomy.core.budget import Budget, Cadence, Guard, Schedule
from holonomy.core.config import Config, off_word, refuse_unread
from holonomy.core.inference import InferConfig
from holonomy.core.modes import COUPLED, LEGAL_ROTORS, STRONGEST_COUPLED
from holonomy.models.lior.companions import FieldConfig, MemoryConfig
from holonomy.models.lior.text_config import DataConfig

ARCHITECTURES = {"hybrid": "omrm", "causal_field": "om", "field_transformer": "rm"}
"""Letters of the first blocks of each preset; `hybrid` continues with `om`, the others repeat."""


class ModelConfig(Config):
    """Shape of the network."""

    architecture: Literal["hybrid", "causal_field", "field_transformer"] = Field(
        default="hybrid",
        description="preset of blocks: oscillators and one retrieval, oscillators only, retrieval only",
    )
    pattern: str | None = Field(
        default=None,
        pattern="^[omreqcph]+$",
        description="explicit blocks: o oscillator mixer, r retrieval, m gated map, e settling units, q biquaternions, "
        "c octonion associators, p address probe, h hamiltonian oscillators with wells before a gated map; overrides "
        "architecture and blocks",
    )
    blocks: int = Field(default=4, ge=1, le=64, description="number of mixer and map pairs of the preset")
    d: int = Field(default=128, ge=1, le=8192, description="width of the residual stream")
    bank: Literal["diagonal", "selective", "coupled", "hamiltonian", "kernel"] = Field(
        default="diagonal",
        description="oscillators of a mixer: damped; damped, with damping and turn chosen by the input at every token; "
        "damped and coupled in heads; coupled, undamped and reversible; or kernels of three modes",
    )
    reach: int = Field(default=1024, ge=2, le=2**20, description="tokens over which a kernel's power law holds")
    terms: int = Field(default=12, ge=2, le=64, description="exponentials that stand for a kernel's power law")
    power_sign: Literal[-1, 1] = Field(default=-1, description="sign of a kernel's power law at the start")
    wells: bool = Field(default=False, description="log-cosh wells in a hamiltonian bank")
    score: Literal["geodesic", "geometric"] = Field(
        default="geodesic", description="scores of retrieval: distances, or wedge, Hermitian and phase-free products"
    )
    rope: bool = Field(
        default=False, description="turn queries and keys of score = geometric by angles that grow with the position"
    )
    retrieval_fir: int = Field(
        default=1, ge=1, le=32, description="taps of a filter of the queries and keys of block r; 1 is none"
    )
    n_osc: int = Field(default=256, ge=1, le=16384, description="oscillators per mixer")
    hidden: int = Field(default=256, ge=1, le=32768, description="width inside a gated map")
    heads: int = Field(default=4, ge=1, le=128, description="retrieval heads; must divide d")
    window: int | None = Field(
        default=None, ge=1, description="tokens that retrieval sees; null is the training length data.seq_len"
    )
    fir: int = Field(default=4, ge=1, le=32, description="taps of the filter before the oscillators")
    chunk: int = Field(default=32, ge=1, le=1024, description="chunk length of the oscillator scan; speed only")
    theta_range: tuple[float, float] | None = Field(
        default=None, description="slowest and fastest initial turn, rad/token; null is (pi / data.seq_len, 3.0)"
    )
    gamma_range: tuple[float, float] = Field(
        default=(0.01, 1.0), description="weakest and strongest initial damping per token"
    )
    out_scale: float = Field(default=0.5, gt=0, le=10, description="scale of the last map of each block at the start")

    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of each block's output that is dropped while learning"
    )

    @property
    def letters(self) -> str:
        """One letter a block."""
        if self.pattern is not None:
            return self.pattern
        head = ARCHITECTURES[self.architecture]
        repeat = "om" if self.architecture == "hybrid" else head
        return (head + repeat * self.blocks)[: 2 * self.blocks]

    @property
    def hamiltonian(self) -> bool:
        """Whether there are undamped oscillators, which an echo can nudge in several ways."""
        return self.bank == "hamiltonian" or "h" in self.letters

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.pattern is not None:
            refuse_unread(self, ((key, "pattern names the blocks") for key in ("architecture", "blocks")))
        if {"r", "p"} & set(self.letters) and self.d % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide d = {self.d}")
        for letter, name in (("q", "d"), ("c", "n_osc")):
            if letter in self.letters and getattr(self, name) % 8:
                raise ValueError(f"{name} = {getattr(self, name)} must be a multiple of 8 for block {letter}")
        for name, top in (("theta_range", 3.14), ("gamma_range", 4.0)):
            bounds = getattr(self, name)
            if bounds is not None and not 0 < bounds[0] <= bounds[1] <= top:
                raise ValueError(f"{name} = {list(bounds)} must rise within (0, {top}]")
        if self.bank == "coupled" and self.n_osc % COUPLED:
            raise ValueError(f"n_osc = {self.n_osc} must be a multiple of {COUPLED} for bank = coupled")
        if self.hamiltonian and self.n_osc & (self.n_osc - 1):
            raise ValueError(f"n_osc = {self.n_osc} must be a power of two for bank = hamiltonian and block h")
        self._check_bank()
        if self.wells and self.bank != "hamiltonian":
            raise ValueError(f"wells belong to bank = hamiltonian, not to bank = {self.bank}; drop one of them")
        return self

    def _check_bank(self) -> None:
        """Refuses keys that the bank does not read."""
        readers = {
            "theta_range": ("diagonal", "selective"),
            "gamma_range": ("diagonal", "selective", "coupled"),
            "chunk": ("diagonal", "coupled"),
            "reach": ("kernel",),
            "terms": ("kernel",),
            "power_sign": ("kernel",),
        }
        plain = type(self).model_fields
        if self.rope and self.score != "geometric":
            raise ValueError("rope turns the spinors of score = geometric; set that, or drop rope")
        if self.retrieval_fir > 1 and "r" not in self.letters:
            raise ValueError("retrieval_fir filters block r, which this architecture has none of; drop it")
        for name, banks in readers.items():
            if getattr(self, name) != plain[name].default and self.bank not in banks:
                raise ValueError(f"{name} belongs to bank = {' or '.join(banks)}, not to bank = {self.bank}; drop it")
        if "o" not in self.letters:
            odd = [n for n in ("bank", "fir", *readers) if getattr(self, n) != plain[n].default]
            if odd:
                raise ValueError(f"{', '.join(odd)} are of oscillators, which this architecture has none of; drop them")
        if self.bank == "coupled" and self.gamma_range[1] > STRONGEST_COUPLED:
            raise ValueError(
                f"gamma_range = {list(self.gamma_range)} must end at {STRONGEST_COUPLED} at most for bank = coupled: "
                "beyond it no stiffness fits into all of a head's band"
            )


class GeometryConfig(Config):
    """How retrieval measures. Everything but `chart` and `stress` belongs to a chart that is not folded."""

    chart: Literal["folded", "per_head", "shared"] = Field(
        default="folded",
        description="where distances are taken: in maps that absorb the metric, in each head's own chart, or in one",
    )
    n: int = Field(default=8, ge=1, le=1024, description="dimensions of the shared chart")
    metric_mode: Literal["diag_rot", "block_rot"] = Field(
        default="diag_rot", description="metric in its frame: a diagonal, or blocks"
    )
    block: int = Field(default=4, ge=1, le=1024, description="width of the blocks of block_rot")
    frame_mode: Literal["derived", "learned_lowrank", "rotor"] = Field(
        default="rotor", description="frame: of the covariance of keys and queries, none but low rank, or Givens rotors"
    )
    rotor_mode: Literal["off", "derived", "stateful"] = Field(
        default="stateful", description="rotors of the frame: none, from an eigenframe, or learned angles"
    )
    frame_every: int = Field(default=64, ge=1, description="updates between two refreshes of a derived frame")
    rank: int = Field(default=4, ge=1, le=64, description="columns of learned_lowrank")
    rotor_layers: int | None = Field(default=None, ge=1, le=1024, description="layers of rotors; null is one an axis")
    source: Literal["constitutive", "curvature"] = Field(
        default="constitutive", description="strength of the cost: learned per head, or also by curvature at the key"
    )
    stress: bool = Field(default=False, description="keys cost more where the stream has moved far lately")

    _off = field_validator("rotor_mode", mode="before")(off_word)

    def _check_modes(self) -> None:
        """Refuses keys that the modes do not read."""
        readers = {
            "block": ("metric_mode", ("block_rot",)),
            "frame_every": ("frame_mode", ("derived",)),
            "rank": ("frame_mode", ("learned_lowrank",)),
            "rotor_layers": ("rotor_mode", ("stateful",)),
        }
        plain = type(self).model_fields
        for name, (mode, values) in readers.items():
            if getattr(self, name) != plain[name].default and getattr(self, mode) not in values:
                raise ValueError(
                    f"{name} belongs to {mode} = {' or '.join(values)}, not to {getattr(self, mode)}; drop it"
                )

    @model_validator(mode="after")
    def _check(self) -> GeometryConfig:
        plain = type(self).model_fields
        if self.chart == "folded":
            odd = [n for n in plain if n not in ("chart", "stress") and getattr(self, n) != plain[n].default]
            if odd:
                raise ValueError(f"{', '.join(odd)} need a chart that is not folded; set chart = per_head or shared")
            return self
        legal = LEGAL_ROTORS[self.frame_mode]
        if self.rotor_mode not in legal:
            raise ValueError(
                f"frame_mode = {self.frame_mode} goes with rotor_mode = {' or '.join(legal)}, not {self.rotor_mode}"
            )
        self._check_modes()
        if self.stress and self.source == "curvature":
            raise ValueError("stress and source = curvature both set the strength of the cost; choose one")
        return self


class OptimConfig(Config):
    """AdamW."""

    lr: float = Field(default=4e-3, gt=0, le=1, description="peak learning rate")
    betas: tuple[float, float] = Field(default=(0.9, 0.98), description="decay of first and second moment")
    eps: float = Field(default=1e-8, gt=0, description="added to the root of the second moment")
    decay: float = Field(default=0.5, ge=0, description="decoupled weight decay on embedding, linear maps and head")
    clip: float = Field(default=1.0, gt=0, description="largest L2 norm of the statistics")
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="decay of averaged weights, which are then evaluated and used; 0 is none"
    )

    @model_validator(mode="after")
    def _check(self) -> OptimConfig:
        if not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas = {list(self.betas)} must lie in [0, 1)")
        return self


class EchoConfig(Config):
    """The second phase of learning."""

    memory: Literal["full", "segment", "streamed"] = Field(
        default="full",
        description="what the free phase keeps: everything, the states at the borders of segments, or only the last "
        "ones (hamiltonian banks, which can go back)",
    )
    segment: int = Field(default=256, ge=1, description="tokens of a segment, for memory = segment and streamed")
    mode: Literal["tangent", "symmetric", "one_sided", "complex"] = Field(
        default="tangent", description="nudge of hamiltonian banks: infinitesimal, of both signs, of one, imaginary"
    )
    kappa: float | None = Field(
        default=None,
        ge=1e-8,
        le=10,
        description="size of a finite nudge relative to the outputs; null is 1 for quadratic banks, 1e-3 with wells",
    )
    nudge: Literal["cross_entropy", "target_embedding", "off"] = Field(
        default="cross_entropy",
        description="what the echo begins with: the error of the logits; also a pull of each last hidden state to the "
        "vector of the token to predict; or nothing",
    )
    pull: float = Field(default=0.1, ge=0, le=100, description="strength of that pull, for nudge = target_embedding")
    action: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="weight of the action of the path of last hidden states, which the echo then lowers too",
    )
    allow_biased: bool = Field(default=False, description="permits mode = one_sided")
    fixed: bool = Field(default=False, description="hamiltonian states in 32-bit fixed point: the way back is exact")

    _off = field_validator("nudge", mode="before")(off_word)

    @model_validator(mode="after")
    def _check(self) -> EchoConfig:
        if self.pull != type(self).model_fields["pull"].default and self.nudge != "target_embedding":
            raise ValueError(f"pull is for nudge = target_embedding, not {self.nudge}; drop it")
        if self.mode == "one_sided" and not self.allow_biased:
            raise ValueError("mode = one_sided is biased; use symmetric or tangent, or set allow_biased")
        if self.kappa is not None and self.mode in ("tangent", "complex"):
            raise ValueError(f"kappa is for mode = symmetric or one_sided; mode = {self.mode} has no size of a nudge")
        if self.memory != "full" and self.mode != "tangent":
            raise ValueError(f"memory = {self.memory} nudges by tangents; set mode = tangent")
        if self.memory != "full" and self.nudge == "target_embedding":
            raise ValueError(f"nudge = target_embedding sees whole sequences, not memory = {self.memory}; drop one")
        if self.action and (self.memory != "full" or self.nudge == "off"):
            raise ValueError(
                f"action sees whole sequences and is a nudge; drop it, or memory = {self.memory} with "
                f"nudge = {self.nudge}"
            )
        if self.fixed and self.mode != "tangent":
            raise ValueError("fixed states are nudged by tangents; set mode = tangent")
        return self


class PerturbationConfig(Config):
    """Small groups of parameters that are learned from differences of the loss, by SPSA, instead of by the echo."""

    groups: tuple[str, ...] = Field(
        default=(), description="last parts of the names of these parameters, such as log_radius; none by default"
    )
    samples: int = Field(default=1, ge=1, le=4096, description="directions a batch, of two evaluations each")
    epsilon: float = Field(default=0.01, gt=0, le=1, description="how far the parameters are moved")

    @model_validator(mode="after")
    def _check(self) -> PerturbationConfig:
        plain = type(self).model_fields
        odd = [n for n in ("samples", "epsilon") if getattr(self, n) != plain[n].default and not self.groups]
        if odd:
            raise ValueError(f"{', '.join(odd)} need groups; name some, or drop this")
        return self


class TrainConfig(Config):
    """How long, how often, on what."""

    budget: Budget = Field(default=Budget(cpu_s=180.0), description="stop conditions, the first one reached wins")
    cadence: Cadence = Field(default=Cadence(), description="steps between logs, evaluations and checkpoints")
    echo: EchoConfig = Field(default=EchoConfig(), description="second phase of learning")
    spsa: PerturbationConfig = Field(default=PerturbationConfig(), description="parameters that have no echo")
    optim: OptimConfig = Field(default=OptimConfig(), description="optimiser")
    schedule: Schedule = Field(default=Schedule(), description="learning rate over the budget")
    guard: Guard = Field(default=Guard(), description="what happens when training goes wrong or no longer helps")
    accumulate: int = Field(
        default=1,
        ge=1,
        le=4096,
        description="parts a batch is computed in, to save memory; must divide data.batch",
    )
    tensorboard: bool = Field(default=False, description="also write tensorboard/ for TensorBoard")
    seed: int = Field(default=1, ge=0, lt=2**32, description="initial weights and order of the windows")
    threads: int | Literal["auto"] = Field(
        default="auto", description="CPU threads; auto is cores minus load, at least 1"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes a GPU where torch sees one")

    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        default="float32",
        description="factors of matrix products while learning; bfloat16 doubles the speed on CPUs with AVX512-BF16 "
        "or AMX and slows others down, tf32 is of GPUs",
    )
    strict_cuda: bool = Field(
        default=False, description="refuse to train where torch sees no GPU, also with device auto"
    )

    cuda_graphs: bool = Field(
        default=False, description="start the kernels of an update by one call, as a CUDA graph; the results stay"
    )

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        for name in ("strict_cuda", "cuda_graphs"):
            if getattr(self, name) and self.device == "cpu":
                raise ValueError(f"{name} contradicts device = cpu; drop one of them")
        if self.threads != "auto" and not 1 <= self.threads <= 1024:
            raise ValueError(f"threads = {self.threads} must be auto or in [1, 1024]")
        return self


class LiorConfig(Config):
    """A complete lior recipe."""

    moved: ClassVar = {
        1: {"train.optim.warmup": "train.schedule.warmup", "train.optim.floor": "train.schedule.floor"},
    }

    version: Literal[2] = Field(default=2, description="of the names of these keys; see `holonomy config migrate`")
    family: Literal["lior"] = Field(default="lior", description="model family")
    model: ModelConfig = Field(default=ModelConfig(), description="network")
    geometry: GeometryConfig = Field(default=GeometryConfig(), description="geometry of retrieval")
    field: FieldConfig = Field(default=FieldConfig(), description="tensor field beside the network")
    data: DataConfig = Field(default=DataConfig(), description="text")
    train: TrainConfig = Field(default=TrainConfig(), description="training")
    memory: MemoryConfig = Field(default=MemoryConfig(), description="associative memory")
    infer: InferConfig = Field(default=InferConfig(), description="generation")

    @model_validator(mode="after")
    def _check(self) -> LiorConfig:
        if self.data.batch % self.train.accumulate:
            raise ValueError(
                f"train.accumulate = {self.train.accumulate} does not divide data.batch = {self.data.batch}"
            )
        self._check_echo()
        self._check_captured()
        self._check_geometry()
        self._check_field()
        return self

    def _check_captured(self) -> None:
        """Refuses what a captured update cannot do: draw, decide by values, or keep what is no tensor."""
        if not self.train.cuda_graphs:
            return
        changing = {
            "model.dropout": self.model.dropout,
            "model.pattern with e": "e" in self.model.letters,
            "field.enabled": self.field.enabled,
            "geometry.frame_mode = derived": self.geometry.frame_mode == "derived",
            "geometry.rotor_mode = derived": self.geometry.rotor_mode == "derived",
            "data.carried": self.data.carried > 1,
            "train.spsa.groups": self.train.spsa.groups,
            "train.echo.memory": self.train.echo.memory != "full",
        }
        odd = [name for name, there in changing.items() if there]
        if odd:
            raise ValueError(f"train.cuda_graphs cannot capture {', '.join(odd)}; drop them, or this")

    def _check_field(self) -> None:
        if not self.field.enabled:
            return
        if "r" not in self.model.letters or self.model.score != "geodesic":
            raise ValueError("field.enabled wants retrieval with model.score = geodesic, which reads the field")
        if self.geometry != GeometryConfig():
            raise ValueError("field.enabled goes with geometry.chart = folded and stress = false only; drop one")
        if self.train.echo.memory != "full":
            raise ValueError("field.enabled moves once a batch; set train.echo.memory = full")

    def _check_geometry(self) -> None:
        model, geometry = self.model, self.geometry
        changed = geometry != GeometryConfig()
        if "r" not in model.letters:
            if model.score != "geodesic" or (changed and "p" not in model.letters):
                raise ValueError("geometry and model.score are of retrieval, which this architecture has none of")
            if geometry.stress or geometry.source == "curvature":
                raise ValueError("geometry.stress and geometry.source are of block r, which model.pattern has none of")
        if "p" in model.letters and geometry.chart == "shared":
            raise ValueError("block p measures in each head's own maps; set geometry.chart = folded or per_head")
        width = model.d // model.heads
        if model.score == "geometric":
            if changed:
                raise ValueError("geometry belongs to model.score = geodesic; drop one of them")
            if width % 2:
                raise ValueError(f"model.score = geometric wants an even model.d / model.heads, not {width}")
        if geometry.chart == "per_head" and geometry.n != GeometryConfig().n:
            raise ValueError(f"geometry.n is {width} for chart = per_head, the width of a head; drop it")
        n = width if geometry.chart == "per_head" else geometry.n
        if geometry.chart != "folded":
            if geometry.metric_mode == "block_rot" and n % geometry.block:
                raise ValueError(f"geometry.block = {geometry.block} does not divide the {n} dimensions of the chart")
            if geometry.rotor_mode == "stateful" and n % 2:
                raise ValueError(f"rotors want an even number of dimensions, not {n}")

    def _check_echo(self) -> None:
        echo, plain, model = self.train.echo, EchoConfig(), self.model
        if not model.hamiltonian:
            for name in ("mode", "kappa", "allow_biased", "fixed"):
                if getattr(echo, name) != getattr(plain, name):
                    raise ValueError(
                        f"train.echo.{name} is for model.bank = hamiltonian or block h, not {model.bank}; drop it"
                    )
        whole = [f"block {letter}" for letter in "cp" if letter in model.letters]
        if "o" in model.letters and model.bank in ("coupled", "kernel"):
            whole.append(f"model.bank = {model.bank}")
        if whole and (self.data.carried > 1 or echo.memory != "full"):
            key = "data.carried" if self.data.carried > 1 else f"train.echo.memory = {echo.memory}"
            raise ValueError(f"{key} cannot learn {' and '.join(whole)}; choose another")
        if echo.memory == "full":
            if echo.segment != plain.segment:
                raise ValueError("train.echo.segment is for train.echo.memory = segment or streamed; drop it")
            return
        if self.data.carried > 1:
            raise ValueError(f"data.carried goes with train.echo.memory = full, not {echo.memory}; drop one of them")
        if echo.memory == "streamed" and {"r", "q"} & set(model.letters):
            raise ValueError(
                "train.echo.memory = streamed cannot learn blocks r and q, which forget; set model.architecture = "
                "causal_field, or memory = segment"
            )
        damped = "o" in model.letters and (model.bank != "hamiltonian" or model.fir > 1)
        if echo.memory == "streamed" and (damped or not model.hamiltonian or model.dropout):
            raise ValueError(
                "train.echo.memory = streamed wants model.bank = hamiltonian, model.fir = 1 and model.dropout = 0: "
                "damped oscillators, longer filters and masks cannot go back; memory = segment can have the first two"
            )
        if model.dropout:
            raise ValueError("train.echo.memory = segment runs every segment twice; set model.dropout = 0")
        if "o" in model.letters and model.bank == "diagonal" and echo.segment % model.chunk:
            raise ValueError(f"train.echo.segment = {echo.segment} is no multiple of model.chunk = {model.chunk}")
