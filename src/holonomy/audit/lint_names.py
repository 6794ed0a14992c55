"""What names say about values: the vocabulary of the geometry rules."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache

from holonomy.audit.lint_rules import Origin


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


class Kind(Enum):
    """What a value is, as far as the rules need to know."""

    UNKNOWN = auto()
    BALL = auto()
    TANGENT = auto()
    GEODESIC = auto()
    EUCLIDEAN = auto()
    SQUARE = auto()
    GAP = auto()
    SQUARES = auto()
    GAP_SQUARES = auto()
    PRODUCT = auto()
    DIRECTION = auto()
    CURVATURE = auto()
    EDGE = auto()
    WEIGHTS = auto()
    CONFORMAL = auto()
    MATRIX = auto()
    LINEAR = auto()
    MANIFOLD = auto()
    OTHER_SPACE = auto()


@dataclass(frozen=True)
class Fact:
    """What is known about a value.

    Args:
        kind: what it is.
        origins: measurements it was computed from that no rule has accepted yet.
        parts: of a tuple or list.
        number: value of a literal.
        text: source of the expression, which tells x * x from x * y.
        guards: conditions under which it is this, and their truth.
    """

    kind: Kind = Kind.UNKNOWN
    origins: frozenset[Origin] = frozenset()
    parts: tuple[Fact, ...] = ()
    number: float | None = None
    text: str = ""
    guards: frozenset[tuple[str, bool]] = frozenset()


NOTHING = Fact()


@dataclass(frozen=True)
class Vocabulary:
    """Names of a project, from `[tool.holonomy.geometry]`, beside those that are built in.

    Args:
        ball: functions and values that are points of the ball.
        tangent: functions and values that are tangent vectors or normal coordinates.
        length: functions and values that are geodesic lengths.
        curvature: values that are curvatures.
        exempt: functions that implement the geometry, where the rules do not apply.
    """

    ball: frozenset[str] = field(default_factory=frozenset)
    tangent: frozenset[str] = field(default_factory=frozenset)
    length: frozenset[str] = field(default_factory=frozenset)
    curvature: frozenset[str] = field(default_factory=frozenset)
    exempt: frozenset[str] = field(default_factory=frozenset)

    def kind(self, name: str) -> Kind | None:
        """What the project says that a name is."""
        if name in self.ball:
            return Kind.BALL
        if name in self.tangent:
            return Kind.TANGENT
        if name in self.length:
            return Kind.GEODESIC
        return Kind.CURVATURE if name in self.curvature else None

    def names(self) -> frozenset[str]:
        """All of them."""
        return self.ball | self.tangent | self.length | self.curvature


LIBRARIES = word_set("torch np numpy math jnp jax tf F functional cmath scipy sp linalg")
HINTS = word_set(
    "poincare hyperbolic hyp mobius expmap expmap0 logmap logmap0 exp0 log0 geoopt hypll manifold ball horoball "
    "gyro stereographic projx normal lorentz"
)
CURVATURES = word_set("curvature curv log_c raw_c c_raw ball_c hyp_c log_curvature raw_curvature curvature_param")
CURVATURE_KEYWORDS = frozenset(["c", "k", "curvature", "curv"])
EDGES = word_set(
    "max_ball_radius ball_radius maxnorm max_norm euclidean_radius max_euclidean_radius ball_edge boundary_norm "
    "ball_boundary"
)
NO_POINT = word_set(
    "dist dists distance distances radius radii loss losses norm norms c k curv curvature dim dims lr weight "
    "weights num n config cfg args manifold layer layers linear encoder decoder mlp use is has model optimizer "
    "params ball disk plot fig ax axes name names path file flag enabled mode type kind module net fn func error "
    "errors length lengths score scores logits metric metrics acc 3d xyz grad grads gradient gradients log logmap "
    "log0 tangent tan normal test check loader dataset tokens token ids text str init dropout norm0 idx index mask "
    "count size shape std sigma variance var scale temperature attention attn linear1 head heads kernel projection "
    "layernorm radial euclid euclidean"
)
POINT_HEADS = word_set("emb embs embedding embeddings x y z points point features feats latent latents mean mu")
EXEMPT_WORDS = word_set(
    "exp exp0 expmap expmap0 log0 logmap logmap0 dist dist0 dist2 dist2plane distance distances mobius gyro project "
    "proj projx conformal lambda lambda_x lam transport transp transp0 retr geodesic gyration klein lorentz "
    "antipode egrad2rgrad sproj asinh acosh artanh arcosh arsinh coadd cosub horosphere busemann"
)
LOSS_WORDS = word_set("loss losses objective criterion penalty regulariser regularizer")
DIST_WORDS = word_set("dist dists dist0 distance distances distmat")
NO_GEODESIC = word_set(
    "euclidean euclid cosine hamming levenshtein edit padic manhattan l1 l2 cdist pdist tree graph hop jaccard "
    "wasserstein loss plot dists2 get set all distributed distribution"
)
CLAMPS = word_set("clamp clip bound boundary edge")
SPACES = re.compile(r"manifold|ball|poincare|pmath|gmath|hyper|stereographic|hyp_?math|geom(etry)?$", re.IGNORECASE)
OTHER_SPACES = re.compile(
    r"lorentz|hyperboloid|sphere|spherical|euclid|stiefel|minkowski|torus|simplex|siegel|spd|symmetric|birkhoff|flat|"
    r"clifford|unitary|orthogonal|half_?space|klein|grassmann|canonical|upper_?half|halfplane|rotation",
    re.IGNORECASE,
)
LINEAR_CLASSES = word_set(
    "Linear LazyLinear Bilinear MLP Mlp FeedForward Dense Conv1d Conv2d Conv3d GRU LSTM RNN GRUCell LSTMCell"
)
MAP_NAME = re.compile(r"(\w*_)?(log|inner(_product|0)?|log_map\w*|log_x|(to|from)_(normal|ball|poincare|tangent))")
LINEAR_NAME = re.compile(r"^_?(fc|linear|lin|mlp|ffn|dense)_?\d*$")
WEIGHT_NAME = re.compile(r"^(attn|attention|weights?|adj|adjacency|alphas?|attn_weights|attention_weights|assign\w*)$")
MATRIX_NAME = re.compile(r"^(W|w|weight|W_\w+|w_\w+|kernel)$")
LOG_CALL = re.compile(r"^(print|debug|info|warning|log|log_dict|add_scalar|add_scalars|logger|repr|str|format|record)$")
LOG_STORE = re.compile(r"(metrics|logs?|stats|info|history|diagnostics|summary|report|telemetry)$")


@lru_cache(maxsize=65536)
def words(name: str) -> frozenset[str]:
    """The parts of a name, in lower case."""
    return frozenset(w for w in re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_") if w)


@lru_cache(maxsize=65536)
def name_kind(name: str) -> Kind:
    """What a variable, field or key of this name holds."""
    if name in CURVATURES:
        return Kind.CURVATURE
    if name in EDGES or (words(name) & CLAMPS and words(name) & {"radius", "norm"} and name == name.lower()):
        return Kind.EDGE
    if name != name.lower() and not re.fullmatch(r"[A-Z]_hyp|[A-Z]_ball|[A-Z]_poincare", name):
        return Kind.UNKNOWN
    parts = words(name)
    space = parts & {"geodesic", "hyperbolic", "hyp", "poincare"}
    if space and parts & {"dist", "dists", "distance", "distances", "radius", "radii", "length", "lengths"}:
        return Kind.UNKNOWN if parts & (NO_GEODESIC | {"max", "min", "target", "fn", "func"}) else Kind.GEODESIC
    if re.search(r"_tan(gent)?$|^tangent(_vec(tor)?s?)?$|_tangents?$", name):
        return Kind.TANGENT
    if parts & NO_POINT and not re.fullmatch(r"(.*_)?(x|y|z|point|points|mean|mu|emb|embeddings)_ball", name):
        return Kind.UNKNOWN
    if re.match(r"z_hyp", name) or re.search(r"_hyp$|_ball$", name):
        return Kind.BALL
    if "poincare" in parts and parts != {"poincare"}:
        return Kind.BALL
    # Not hyp_emb: where text is compared, that is a hypothesis.
    if "hyperbolic" in parts and parts & POINT_HEADS:
        return Kind.BALL
    return Kind.UNKNOWN


def says_norm(text: str) -> bool:
    """Whether a label calls a number what it is, a norm: what is shown or kept under such a label is no radius."""
    return bool(re.search(r"norm|[|\N{DOUBLE VERTICAL LINE}]", text, re.IGNORECASE)) and "radius" not in text.lower()


def limit_name(name: str) -> bool:
    """Whether a name may be that of the bound that keeps points inside the ball."""
    return bool(words(name) & {"max", "ball", "edge", "boundary", "bound", "limit"})


@lru_cache(maxsize=65536)
def exempt_name(name: str) -> bool:
    """Whether a function of this name implements the geometry, so that norms and products are its business."""
    parts = words(name)
    maps = re.fullmatch(
        r"(\w*_)?(log|inner(_product|0)?|log_map\w*|log_x|(to|from)_(normal|ball|poincare|tangent))", name.lower()
    )
    plane = "dist2plane" in name
    return bool(parts & EXEMPT_WORDS or maps or plane) and not parts & LOSS_WORDS


@lru_cache(maxsize=65536)
def distance_name(name: str) -> bool:
    """Whether a function of this name may return a geodesic distance."""
    parts = words(name)
    return bool(parts & DIST_WORDS or name == "radius") and not parts & NO_GEODESIC and name == name.lower()


def radius_name(name: str) -> bool:
    """Whether a function takes one point and returns its distance from the origin."""
    return name in {"radius", "dist0"} or name.endswith("dist0")


@lru_cache(maxsize=65536)
def map_kind(name: str) -> Kind | None:
    """What a function of the geometry returns: BALL, TANGENT, or None for another function."""
    if re.fullmatch(r"_?(exp0|exp_?map(0|_zero)?|from_normal|projx|to_poincare|to_ball)", name):
        return Kind.BALL
    if re.fullmatch(r"_?(log0|log_?map(0|_zero)?|to_normal|from_ball|transp0?)", name):
        return Kind.TANGENT
    parts = words(name)
    if "conformal" in parts or re.fullmatch(r"_?(lambda|lam)(_?x|_?z|0|_factor)?", name):
        return Kind.CONFORMAL
    if re.search(r"mobius_?(add|sub|co|scalar|pointwise|mat|fn|mul|lin)", name) or parts & {"expmap", "expmap0"}:
        return None if parts & NO_POINT else Kind.BALL
    if parts & {"logmap", "logmap0"}:
        return Kind.TANGENT
    return None
