"""Charts in which retrieval measures: a learned metric for each head, applied to keys and queries alike.

With A from `geometry.metric.Metric`, g(v, v) = |A v|^2: both sides are mapped by A, then distances are Euclidean. The
statistics of A give those of its parameters by the product rule; positive parameters are kept as logarithms.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holonomy.core.errors import ConfigError
from holonomy.core.flat import StatBuffer
from holonomy.core.layer import PointwiseLayer
from holonomy.core.modes import LEGAL_ROTORS
from holonomy.core.tape import Tape
from holonomy.geometry.frames import (
    Rotor,
    brickwork,
    condition_number,
    covariance_step,
    derived_frame,
    givens_angles,
    orthogonal_columns,
    wrap_angles,
)
from holonomy.geometry.metric import LIMITS, Metric, MetricBase, block_factor, bounded_exp


@lru_cache(maxsize=8)
def _flat(n: int, dtype: torch.dtype, device: torch.device) -> MetricBase:
    return MetricBase(torch.eye(n, dtype=dtype, device=device))


FRAME_DECAY = 0.99
"""Of the moving average that a derived frame is the eigenframe of, per update."""
WORST_CONDITION = 1e3
"""Low-rank columns beyond this condition number are replaced by orthogonal ones with the same metric."""


def check_frames(frame_mode: str, rotor_mode: str) -> None:
    """Refuses a frame and a rotor that do not go together.

    Raises:
        ConfigError: names the legal pairs.
    """
    if rotor_mode not in LEGAL_ROTORS.get(frame_mode, ()):
        legal = "; ".join(f"{frame} with {' or '.join(modes)}" for frame, modes in LEGAL_ROTORS.items())
        raise ConfigError(f"`frame_mode` {frame_mode} does not go with `rotor_mode` {rotor_mode}; legal are {legal}")


class Chart(PointwiseLayer):
    """y = A x with one metric a head.

    Args:
        heads: number of heads.
        n: dimensions of the chart.
        metric_mode: diag_rot, a diagonal in a frame; block_rot, blocks in a frame.
        block: width of the blocks.
        frame_mode: derived, the eigenframe of keys and queries; learned_lowrank, low rank only; rotor, Givens layers.
        rotor_mode: off; derived, the frame as (or started as) the rotors of an eigenframe; stateful, learned angles.
        frame_every: batches between two refreshes of a derived frame.
        rank: columns of the low-rank part.
        rotor_layers: layers of Givens rotations; None is n, which reach all rotations.
        generator: source of the initial parameters.

    Raises:
        ConfigError: frame and rotor do not go together, the block does not divide n, or n is odd with a rotor.
    """

    frame: Tensor
    covariance: Tensor
    batches: Tensor

    def __init__(
        self,
        heads: int,
        n: int,
        *,
        metric_mode: str = "diag_rot",
        block: int = 4,
        frame_mode: str = "rotor",
        rotor_mode: str = "stateful",
        frame_every: int = 64,
        rank: int = 4,
        rotor_layers: int | None = None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_frames(frame_mode, rotor_mode)
        if metric_mode not in ("diag_rot", "block_rot"):
            raise ConfigError(f"`metric_mode` is {metric_mode}; wanted diag_rot or block_rot")
        if metric_mode == "block_rot" and n % block:
            raise ConfigError(f"`block` is {block}, which does not divide the {n} dimensions of the chart")
        self.n, self.rotor_mode, self.derives = n, rotor_mode, frame_mode == "derived"
        self.frame_every, self._seen = frame_every, list[Tensor]()
        self.log_lam = self.raw_blocks = None
        if metric_mode == "diag_rot":
            self.log_lam = nn.Parameter(0.1 * torch.randn(heads, n, generator=generator))
        else:
            raw = 0.1 * torch.randn(heads, n // block, block, block, generator=generator)
            # softplus(0.53) + 0.01 is about 1: the metric starts near the Euclidean one.
            self.raw_blocks = nn.Parameter(raw + 0.53 * torch.eye(block))
        self.log_omega = nn.Parameter(torch.zeros(heads))
        self.columns = self.log_weights = self.theta = None
        self.planes = torch.empty(0)
        if frame_mode == "learned_lowrank":
            self.columns = nn.Parameter(torch.randn(heads, n, rank, generator=generator) * n**-0.5)
            self.log_weights = nn.Parameter(torch.full((heads, rank), math.log(0.1)))
        if frame_mode == "rotor" and rotor_mode == "derived":
            self.planes, theta = givens_angles(torch.eye(n).repeat(heads, 1, 1))
            self.theta = nn.Parameter(theta)
        elif rotor_mode == "stateful":
            self.planes = brickwork(n, rotor_layers)
            self.theta = nn.Parameter(0.1 * torch.randn(heads, *self.planes.shape[:2], generator=generator))
        if self.derives:
            eye = torch.eye(n).repeat(heads, 1, 1)
            self.register_buffer("frame", eye)
            self.register_buffer("covariance", eye.clone())
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def align(self, covariance: Float[Tensor, "heads n n"]) -> None:
        """Turns the rotors of `rotor_mode` derived to the eigenframe of a covariance; they are learned from there."""
        assert self.theta is not None
        self.theta.data.copy_(givens_angles(derived_frame(covariance))[1])

    def _rotor(self) -> Rotor | None:
        return None if self.theta is None else Rotor(self.n, self.planes.to(self.theta.device), self.theta)

    def metric(self) -> Metric:
        """The metric at the present parameters."""
        rotor, like = self._rotor(), self.log_omega
        frame = rotor.matrix() if rotor is not None else None
        if self.derives:
            frame = self.frame
            if self.rotor_mode == "derived":
                frame = Rotor(self.n, *givens_angles(frame)).matrix()
        return Metric(
            _flat(self.n, like.dtype, like.device),
            lam_local=None if self.log_lam is None else bounded_exp(self.log_lam),
            blocks=None if self.raw_blocks is None else block_factor(self.raw_blocks),
            omega=bounded_exp(self.log_omega),
            frame=frame,
            U=self.columns,
            D=None if self.log_weights is None else bounded_exp(self.log_weights),
        )

    def free(self, x: Float[Tensor, "heads m n"], tape: Tape | None) -> Float[Tensor, "heads m rows"]:
        """Maps the vectors of every head; the record is the vectors and the map."""
        metric = self.metric()
        a = metric.map()
        if tape is not None:
            tape.push(self, x, a)
            if self.derives:
                self._seen.append(covariance_step(torch.zeros_like(self.covariance), x.detach(), decay=0.0))
        return x @ a.mT

    def _follow(self) -> None:
        """A derived frame follows the vectors of past updates; the echo of an update still sees the frame before."""
        seen = torch.stack(self._seen).mean(0)
        self._seen.clear()
        if not bool(seen.isfinite().all()):
            # An update that is left out must leave no trace here either.
            return
        self.covariance.lerp_(seen, 1 - FRAME_DECAY)
        self.batches += 1
        due = self.batches % self.frame_every == 0
        if bool(due):
            previous = self.frame if bool(self.batches > self.frame_every) else None
            self.frame.copy_(derived_frame(self.covariance, previous))

    def echo(self, tape: Tape, g: Float[Tensor, "heads m rows"], acc: StatBuffer) -> Float[Tensor, "heads m n"]:
        """dA = g^T x, from it the statistics of the parameters; dx = g A."""
        x, a = tape.pop(self)
        found = self.metric().pull(g.mT @ x)
        acc[self.log_omega].add_(found["omega"] * bounded_exp(self.log_omega))
        if self.log_lam is not None:
            acc[self.log_lam].add_(found["lam_local"] * bounded_exp(self.log_lam))
        if self.raw_blocks is not None:
            dc = found["blocks"]
            slope = torch.sigmoid(self.raw_blocks.diagonal(dim1=-2, dim2=-1))
            acc[self.raw_blocks].add_(dc.tril(-1) + torch.diag_embed(dc.diagonal(dim1=-2, dim2=-1) * slope))
        if self.columns is not None and self.log_weights is not None:
            acc[self.columns].add_(found["U"])
            acc[self.log_weights].add_(found["D"] * bounded_exp(self.log_weights))
        if (rotor := self._rotor()) is not None and self.theta is not None:
            acc[self.theta].add_(rotor.stat(found["frame"]))
        return g @ a

    def project(self) -> None:
        """Holds logarithms to their bounds, wraps angles, keeps columns well conditioned, moves a derived frame."""
        if self.derives and self._seen:
            self._follow()
        low, high = map(math.log, LIMITS)
        for log in (self.log_lam, self.log_omega, self.log_weights):
            if log is not None:
                log.data.clamp_(low, high)
        if self.theta is not None:
            self.theta.data.copy_(wrap_angles(self.theta.data))
        if self.columns is not None and self.log_weights is not None:
            bad = condition_number(self.columns.data) > WORST_CONDITION
            u, d = orthogonal_columns(self.columns.data, bounded_exp(self.log_weights.data))
            self.columns.data.copy_(torch.where(bad[:, None, None], u, self.columns.data))
            self.log_weights.data.copy_(torch.where(bad[:, None], d.log(), self.log_weights.data))
