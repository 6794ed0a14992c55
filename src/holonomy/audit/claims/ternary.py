"""Claims about embeddings of operations: what they decode to, how they are ordered, and what needs no training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from holonomy.audit.claim import DoesNotApply, Evidence, Figure, Setting, claim, curve
from holonomy.audit.subjects import checkpoint as newest
from holonomy.audit.subjects import model as loaded
from holonomy.geometry import normal
from holonomy.models.ternary import metrics
from holonomy.models.ternary.baseline import ClosedForm
from holonomy.models.ternary.model import TernaryVAE
from holonomy.train.checkpoint import Checkpoint

PREFIX = "model.vae."
PART = 16_384
"""Operations that are computed at once."""
MOST = 2**20
"""Operations of a space that are all computed here."""
COPY_RATIO = 4.0
LAYER_NORM_EPS = 1e-5
FLIPS = 5e-4
"""Share of operations that the rounding of float32 may decode otherwise than float64 does."""


class Replica:
    """The autoencoder in float64 numpy, from the tensors of a checkpoint and its configuration alone.

    Args:
        saved: of a ternary run.
    """

    def __init__(self, saved: Checkpoint) -> None:
        self.config: dict[str, Any] = saved.state["config"]["model"]
        data = saved.state["config"]["data"]
        self.base, self.digits = int(data["base"]), int(data["digits"])
        self.size = self.base**self.digits
        if self.size > MOST:
            raise DoesNotApply(f"the run has {self.size:,} operations; the check computes {MOST:,} at most")
        self.weights = {
            name.removeprefix(PREFIX): tensor.double().numpy()
            for name, tensor in saved.tensors.items()
            if name.startswith(PREFIX)
        }

    @property
    def curvature(self) -> float:
        """c > 0 of the sectional curvature -c; 0 in flat space."""
        if self.config["geometry"] == "euclidean":
            return 0.0
        return float(np.clip(np.log1p(np.exp(self.weights["curvature.theta"])), 1e-3, 10.0))

    def table(self, index: np.ndarray) -> np.ndarray:
        """Digits by division, least significant first."""
        found, rest = np.empty((len(index), self.digits), dtype=np.int64), index.copy()
        for place in range(self.digits):
            found[:, place], rest = rest % self.base, rest // self.base
        return found

    def net(self, name: str, x: np.ndarray, *, gated: bool) -> np.ndarray:
        """Layers in their order: a matrix is a linear map, a lone vector pair is LayerNorm, and steps lie between."""
        numbers = sorted(
            {int(key.split(".")[len(name.split("."))]) for key in self.weights if key.startswith(f"{name}.")}
        )
        last = len(numbers) - 1
        for n, number in enumerate(numbers):
            weight, bias = self.weights[f"{name}.{number}.weight"], self.weights[f"{name}.{number}.bias"]
            if weight.ndim == 2:
                x = x @ weight.T + bias
            else:
                centred = x - x.mean(-1, keepdims=True)
                x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + LAYER_NORM_EPS) * weight + bias
            normed_next = n < last and self.weights[f"{name}.{numbers[n + 1]}.weight"].ndim == 1
            hidden = n < last or name.startswith(("encoder", "decoder.prefix"))
            if hidden and not normed_next:
                x = x / (1 + np.exp(-x)) if gated else np.maximum(x, 0)
        return x

    def embed(self, table: np.ndarray, stream: str) -> np.ndarray:
        """Normal coordinates of operations."""
        config, w = self.config, self.weights
        if config["input"] == "one_hot":
            x = (table[:, :, None] == np.arange(self.base)).astype(np.float64).reshape(len(table), -1)
        else:
            x = table * (2 / (self.base - 1)) - 1
        body = self.net(f"encoder.{stream}.body", x, gated=config["encoder"] == "gated")
        head = body @ w[f"encoder.{stream}.head.weight"].T + w[f"encoder.{stream}.head.bias"]
        z = head[:, : config["latent_dim"]]
        moved = z + self.net(f"projection.{stream}.direction", z, gated=True)
        e = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        height = self.net(f"projection.{stream}.radius", z, gated=True)[:, 0]
        most = config["projection"]["max_radius"]
        if config["projection"]["init"] == "identity":
            share = np.clip(np.tanh(np.linalg.norm(z, axis=1) / most), 1e-4, 1 - 1e-4)
            height = height + np.log(share / (1 - share))
        return (most / (1 + np.exp(-height)))[:, None] * e

    def decode(self, u: np.ndarray) -> np.ndarray:
        """Digits of the entries that points stand for."""
        config, copied, seen = self.config, u, list[np.ndarray]()
        if config["decoder"] == "stepwise":
            return self.decode_stepwise(u)
        if config["decoder_copies"] == "direction":
            copied, seen = u / np.linalg.norm(u, axis=1, keepdims=True), [u]
        seen += [copied * COPY_RATIO**k for k in range(config["decoder_scales"])]
        logits = self.net("decoder.body", np.concatenate(seen, 1), gated=config["decoder"] == "gated")
        return logits.reshape(len(u), self.digits, self.base).argmax(-1)

    def decode_stepwise(self, u: np.ndarray) -> np.ndarray:
        """The same, entry by entry, from the distance to where the entries before it put the points."""
        w, known = self.weights, np.zeros((len(u), self.digits, self.base))
        for place in range(self.digits):
            at = np.broadcast_to(np.eye(self.digits)[place], (len(u), self.digits))
            context = self.net("decoder.prefix", np.concatenate([known.reshape(len(u), -1), at], 1), gated=True)
            centre = context @ w["decoder.centre.weight"].T + w["decoder.centre.bias"]
            left = (u - centre) * np.exp(w["decoder.log_scale"][place])
            left = left / np.sqrt(1 + (left**2).sum(1, keepdims=True) / 64)
            logits = self.net("decoder.rest", np.concatenate([left, context, at], 1), gated=True)
            known[np.arange(len(u)), place, logits.argmax(1)] = 1
        return known.argmax(-1)

    def parts(self) -> Iterator[np.ndarray]:
        """All operations, some at a time."""
        for begin in range(0, self.size, PART):
            yield np.arange(begin, min(begin + PART, self.size))

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        """Normal coordinates in stream B, and whether each operation comes back whole."""
        points, right = [], []
        separate = self.config["sharing"] == "separate"
        for index in self.parts():
            table = self.table(index)
            a = self.embed(table, "A")
            b = self.embed(table, "B") if separate else a
            seen = np.concatenate([a, b], 1) if self.config["decode_from"] == "concat" else a
            points.append(b)
            right.append((self.decode(seen) == table).all(1))
        return np.concatenate(points), np.concatenate(right)


def levels_of(size: int, base: int) -> np.ndarray:
    """How often `base` divides each number, by trying; the number of digits for 0."""
    levels, power = np.zeros(size, dtype=np.int64), base
    while power <= size:
        levels[::power] += 1
        power *= base
    return levels


def ranks(x: np.ndarray) -> np.ndarray:
    """Places in order, equal values sharing the mean of theirs."""
    order = np.argsort(x, kind="stable")
    ordered = x[order]
    begin = np.searchsorted(ordered, x, side="left")
    end = np.searchsorted(ordered, x, side="right")
    return (begin + end - 1) / 2


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's, as Pearson's of the ranks."""
    a, b = ranks(x), ranks(y)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 0.0


def ceiling(levels: np.ndarray) -> float:
    """Best rank correlation that any order without ties can have with the levels."""
    ordered = np.sort(levels)
    return rank_correlation(ordered, np.arange(len(ordered)))


def _recorded(saved: Checkpoint) -> dict[str, float]:
    counters = saved.state["counters"]
    if counters["evaluated"] != saved.step:
        raise DoesNotApply(f"{saved.path} was saved before it was evaluated")
    return counters["metrics"]


@claim(
    "ternary.coverage",
    statement="The coverage of a run is the share of operations that its weights decode to themselves.",
    source="docs/ternary.md",
    families=("ternary",),
)
def coverage_is_recorded(setting: Setting) -> Evidence:
    """Encodes and decodes every operation in float64 numpy, from the tensors of the checkpoint."""
    saved = newest(setting, "ternary")
    recorded, replica = _recorded(saved), Replica(saved)
    points, right = replica.run()
    share = float(right.mean())
    levels = levels_of(replica.size, replica.base)
    by_level = [(float(v), float(right[levels == v].mean())) for v in range(replica.digits + 1)]
    mine = loaded(setting, "ternary").embed(torch.arange(replica.size)).double().cpu().numpy()
    off = np.linalg.norm(mine - points, axis=1).max() / max(1.0, float(np.linalg.norm(points, axis=1).max()))
    return Evidence(
        (
            Figure("difference of the recorded coverage", abs(share - recorded["val/coverage"]), "<=", FLIPS),
            Figure(
                "difference of the recorded number of faults, share of all",
                abs(recorded["val/faults"] - float((~right).sum())) / replica.size,
                "<=",
                FLIPS,
            ),
            Figure("largest relative distance of a point from that computed here", float(off), "<=", 1e-3),
            Figure("coverage", share),
        ),
        (curve("operations that come back whole", "level", "share", {"run": by_level}),),
    )


@claim(
    "ternary.hierarchy",
    statement="The hierarchy of a run is the rank correlation of levels and geodesic radii, and keeps its ceiling.",
    source="docs/ternary.md",
    families=("ternary",),
)
def hierarchy(setting: Setting) -> Evidence:
    """Ranks and radii in numpy; radii against the closed form in the ball, distances against the law of cosines."""
    saved = newest(setting, "ternary")
    recorded, replica = _recorded(saved), Replica(saved)
    vae = loaded(setting, "ternary")
    points = vae.embed(torch.arange(replica.size)).double().cpu().numpy()
    levels, radii = levels_of(replica.size, replica.base), np.linalg.norm(points, axis=1)
    found, most = rank_correlation(levels, radii), ceiling(levels)
    norm = -recorded["val/hierarchy"] / most
    figures = [
        Figure("difference of the recorded hierarchy", abs(found - recorded["val/hierarchy"]), "<=", 1e-4),
        Figure("recorded hierarchy beyond its ceiling", -recorded["val/hierarchy"] - most, "<=", 1e-9),
        Figure("difference of the hierarchy over its ceiling", abs(norm - recorded["val/hierarchy_norm"]), "<=", 1e-9),
        Figure("hierarchy", found),
    ]
    c = replica.curvature
    if c:
        figures += _geodesics(setting, vae, points, c)
    means = [(float(v), float(radii[levels == v].mean())) for v in range(replica.digits + 1)]
    low = [(float(v), float(radii[levels == v].min())) for v in range(replica.digits + 1)]
    high = [(float(v), float(radii[levels == v].max())) for v in range(replica.digits + 1)]
    lines = {"mean": means, "smallest": low, "largest": high}
    return Evidence(tuple(figures), (curve("geodesic radius by level", "level", "radius", lines),))


def _geodesics(setting: Setting, vae: TernaryVAE, points: np.ndarray, c: float) -> list[Figure]:
    """Radii through the ball, and distances of random pairs through the law of cosines."""
    root, radii = np.sqrt(c), np.linalg.norm(points, axis=1)
    # Beyond that the ball of float32 has no room.
    inside = np.flatnonzero(root * radii <= 8)
    if not len(inside):
        return []
    ball = vae.ball(torch.from_numpy(inside)).double().cpu().numpy()
    by_ball = 2 / root * np.arctanh(np.minimum(root * np.linalg.norm(ball, axis=1), 1 - 1e-16))
    off_radius = float((np.abs(by_ball - radii[inside]) / np.maximum(radii[inside], 1e-3)).max())
    rows = np.random.default_rng(setting.seed).integers(0, len(points), (2, 2_000))
    rows = rows[:, rows[0] != rows[1]]
    a, b = radii[rows[0]], radii[rows[1]]
    cosine = (points[rows[0]] * points[rows[1]]).sum(1) / (a * b)
    # cosh(a - b) with what the angle adds: keeps the digits of near points.
    half = np.sinh(root * (a - b) / 2) ** 2 + np.sinh(root * a) * np.sinh(root * b) * (1 - cosine) / 2
    distances = 2 / root * np.arcsinh(np.sqrt(np.maximum(half, 0)))
    x, y = (torch.from_numpy(points[row]) for row in rows)
    measured = normal.dist(x, y, torch.tensor(-c, dtype=torch.float64)).numpy()
    off_pairs = float((np.abs(measured - distances) / np.maximum(distances, 1e-3)).max())
    return [
        Figure("largest relative difference of a radius from the distance to the centre", off_radius, "<=", 1e-3),
        Figure("largest relative difference of a distance from the law of cosines", off_pairs, "<=", 1e-6),
    ]


def closed_points(size: int, base: int, digits: int, *, ratio: float, scale: float) -> np.ndarray:
    """Digits times falling powers of a ratio, the longest of length `scale`."""
    axes = ratio ** np.arange(digits)
    axes = axes * scale / (np.linalg.norm(axes) * (base - 1))
    places = base ** np.arange(digits)
    return np.arange(size)[:, None] // places % base * axes


@claim(
    "ternary.closed-form-baseline",
    statement="An embedding without training stands beside every run: whole, and as good as its formula says.",
    source="docs/ternary.md",
    families=("ternary",),
)
def closed_form(setting: Setting) -> Evidence:
    """The formula in numpy on the operations of the run, every figure computed here; the run is shown beside it."""
    saved = newest(setting, "ternary")
    replica = Replica(saved)
    space = loaded(setting, "ternary").space
    given = ClosedForm(space)
    found = metrics.measure(given, neighbours=False)
    points = closed_points(replica.size, replica.base, replica.digits, ratio=0.3, scale=1.0)
    apart = float(np.abs(given.embed(space.index).cpu().numpy() - points).max())
    levels = levels_of(replica.size, replica.base)
    order = rank_correlation(levels, np.linalg.norm(points, axis=1))
    drawn = np.random.default_rng(setting.seed).integers(0, replica.size, (3, 200_000 if setting.full else 20_000))
    i, j, k = drawn[:, (drawn[0] != drawn[1]) & (drawn[0] != drawn[2])]
    near, far = levels[np.abs(i - j)], levels[np.abs(i - k)]
    use = near != far
    a, b = (((points[i] - points[other]) ** 2).sum(1)[use] for other in (j, k))
    in_order = float(((a < b) == (near > far)[use]).mean())
    name = "share of triples in the order of the tree, in flat space"
    # The first digit that differs outweighs all others where (base - 1)^2 ratio^2 < 1 - ratio^2.
    ordered = Figure(name, in_order, "==", 1) if replica.base <= 3 else Figure(name, in_order)
    recorded = saved.state["counters"]["metrics"]
    beside = [
        Figure(f"{name} of the run", recorded[f"val/{name}"])
        for name in ("coverage", "hierarchy", "triplet_concordance")
        if f"val/{name}" in recorded
    ]
    return Evidence(
        (
            Figure("coverage without training", found["coverage"], "==", 1),
            Figure("largest difference of a coordinate from the formula", apart, "<=", 1e-12),
            Figure("difference of its hierarchy from that computed here", abs(order - found["hierarchy"]), "<=", 1e-6),
            ordered,
            Figure("hierarchy without training", found["hierarchy"]),
            *beside,
        )
    )
