"""Causal retrieval over past tokens by Boltzmann weights of a geodesic cost.

For query k_i and key m_j of one head, score_ij = -R_j sqrt(g(k_i - m_j) + c^2 (i - j)^2 + 0.01 n), with R_j = R times a
factor of the key, R and c learned per head. g is Euclidean (its metric is then absorbed by the maps to queries and
keys), or learned in a chart. See `nn.attention` for the weights and their contrast.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holonomy.core.flat import StatBuffer
from holonomy.core.modes import BUMPS
from holonomy.core.tape import Tape
from holonomy.geometry.curvature import collapse_scalar, conformal_scalar
from holonomy.nn.attention import Attention
from holonomy.nn.chart import Chart
from holonomy.nn.oscillator import log_spaced
from holonomy.nn.sites import FieldSites
from holonomy.nn.static import Linear

FARTHEST = 2.56
"""c times the window, at most, of the head that sees farthest at the start."""
ROPE_BASE = 10_000.0
"""The slowest component turns by about one radian in so many tokens (Su et al. 2021)."""
STRESS_RATE = 0.1
"""Weight of the newest token in the running mean of how far tokens move."""


class CurvatureSource(nn.Module):
    """Factors of the keys from the curvature of e^(2f) g at their places, f a sum of Gaussian bumps.

    R_sc = sqrt(|scalar curvature| / n^2 + eps) in the flat coordinates y of the chart, with
    f = sum_k a_k exp(-|y - mu_k|^2 / (2 s^2)).

    Args:
        n: dimensions of the chart.
        bumps: number of bumps.
        width: s.
        learned: the heights are parameters, for a rule that knows only the loss (`learn.perturbation`): they have no
            local statistic.
        generator: source of heights and centres.
    """

    heights: Tensor
    centres: Tensor

    def __init__(
        self, n: int, *, bumps: int = BUMPS, width: float = 1.0, learned: bool = False, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.n, self.bend = n, width
        heights = 0.1 * torch.randn(bumps, generator=generator)
        if learned:
            self.heights = nn.Parameter(heights)
        else:
            self.register_buffer("heights", heights)
        self.register_buffer("centres", torch.randn(bumps, n, generator=generator))

    def factors(self, y: Float[Tensor, "*batch rows"]) -> Float[Tensor, "*batch"]:
        """R_sc at each point; the first n coordinates are those of the full-rank part of the metric."""
        # In float64: second derivatives of bumps lose digits.
        away = y[..., None, : self.n].double() - self.centres.double()
        square, s2 = away.square().sum(-1), self.bend**2
        bump = self.heights * torch.exp(-square / (2 * s2))
        slope = (bump.unsqueeze(-1) * away).sum(-2) / s2
        laplacian = (bump * (square / s2 - self.n)).sum(-1) / s2
        scalar = conformal_scalar(bump.sum(-1), slope.square().sum(-1), laplacian, self.n)
        return collapse_scalar(scalar, self.n).to(y.dtype)


class Retrieval(Attention):
    """Multi-head retrieval: queries, keys and values are linear in x, the result returns through a linear map.

    Args:
        channels: width of the residual stream, a multiple of `heads`.
        heads: number of heads.
        window: how many tokens, the current one included, a query sees.
        out_scale: standard deviation of the last map is `out_scale / sqrt(channels)`.
        chart: learned metrics of the heads; None is the Euclidean one.
        shared: with a chart, one map to its n dimensions for the queries and keys of all heads.
        stress: keys repel the more, the further the stream has moved lately: R_j = R (1 + kappa e_j / (1 + e_j)), kappa
            learned, e a running mean of |x_j - x_{j-1}|^2 / D.
        curvature: factors of the keys from a field of curvature in the chart.
        sites: a field that is read too; not together with a chart, stress or curvature.
        taps: length of a filter of queries and keys; 1 is none.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        window: int,
        out_scale: float,
        chart: Chart | None = None,
        shared: bool = False,
        stress: bool = False,
        curvature: CurvatureSource | None = None,
        sites: FieldSites | None = None,
        taps: int = 1,
        generator: torch.Generator,
    ) -> None:
        features = chart.n if shared and chart is not None else 2 * channels
        super().__init__(channels, heads, window=window, features=features, sites=sites, taps=taps, generator=generator)
        self.shared, self.chart, self.curvature = shared and chart is not None, chart, curvature
        self.log_radius = nn.Parameter(torch.full((heads,), math.log(1.5)))
        # A longer window needs a head that sees to its end: the cost of distance grows with c times the window.
        farthest = min(0.02, FARTHEST / window)
        self.log_interval = nn.Parameter(log_spaced((farthest, 1.0), heads).log().float())
        self.stress = nn.Parameter(torch.zeros(heads)) if stress else None
        self.out = Linear(channels, channels, std=out_scale * channels**-0.5, generator=generator)

    def compared(self, x: Tensor, tape: Tape | None) -> tuple[Tensor, Tensor]:
        """Queries and keys, mapped by the chart where there is one."""
        batch, time = x.shape[1:]
        if self.chart is None:
            k, m = self.split(x, 2)
            return k, m
        if self.shared:
            points = x.permute(1, 2, 0).reshape(1, -1, x.shape[0]).expand(self.heads, -1, -1)
            mapped = self.chart.free(points, tape)
            (both,) = self._by_sequence(mapped.unsqueeze(0), batch, time)
            return both, both
        both = self.split(x, 2).view(2, batch, self.heads, time, -1).transpose(1, 2)
        mapped = self.chart.free(both.transpose(0, 1).reshape(self.heads, 2 * batch * time, -1), tape)
        by_part = mapped.view(self.heads, 2, batch * time, -1).transpose(0, 1)
        k, m = self._by_sequence(by_part, batch, time)
        return k, m

    def spectra(self) -> dict[str, Float[Tensor, "heads n"]]:
        """Eigenvalues of the metrics of the heads, largest first.

        Without a chart the maps to queries and keys absorb the metric: then those of W W^T, which are the ones other
        than zero of the metric W^T W that a map W pulls back to the stream.
        """
        if self.chart is not None:
            return {"chart": torch.linalg.eigvalsh(self.chart.metric().matrix()).flip(-1)}
        queries, keys = self.inp.weight[: 2 * self.heads * self.width].unflatten(0, (2, self.heads, self.width))
        return {
            "queries": torch.linalg.svdvals(queries).square(),
            "keys": torch.linalg.svdvals(keys).square(),
        }

    def _by_sequence(self, x: Tensor, batch: int, time: int) -> Tensor:
        """[parts, heads, B * T, d] as [parts, B * heads, T, d]."""
        return x.reshape(len(x), self.heads, batch, time, -1).transpose(1, 2).flatten(1, 2)

    def _by_chart(self, x: Tensor, batch: int) -> Tensor:
        """[parts, B * heads, T, d] as [parts, heads, B * T, d]."""
        return x.unflatten(1, (batch, self.heads)).transpose(1, 2).flatten(2, 3)

    def pull_compared(self, tape: Tape, dk: Tensor, dm: Tensor, acc: StatBuffer) -> Tensor:
        """Through the chart, where there is one."""
        batch = len(dk) // self.heads
        if self.chart is None:
            return self.join(torch.stack([dk, dm]), batch)
        if self.shared:
            (g,) = self._by_chart((dk + dm).unsqueeze(0), batch)
            below = self.chart.echo(tape, g, acc).sum(0)
            return below.view(batch, -1, below.shape[-1]).permute(2, 0, 1)
        by_head = self._by_chart(torch.stack([dk, dm]), batch).transpose(0, 1).flatten(1, 2)
        below = self.chart.echo(tape, by_head, acc)
        parts = below.unflatten(1, (2, -1)).transpose(0, 1)
        return self.join(self._by_sequence(parts, batch, dk.shape[1]), batch)

    def sources(self, x: Tensor, k: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """Stress of the stream or curvature at the keys; both are constants of the free phase."""
        if self.curvature is not None:
            return self.curvature.factors(k.detach()).view(-1, self.heads, k.shape[1]), None
        if self.stress is None:
            return x.new_empty(0), None
        x = x.detach()
        before, energy = carry if carry is not None else (x[..., 0], x.new_zeros(x.shape[1]))
        moved = (x - torch.cat([before.unsqueeze(-1), x[..., :-1]], -1)).square().mean(0)
        lag = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
        memory = (1 - STRESS_RATE) ** (lag[:, None] - lag).clamp_min(0) * STRESS_RATE
        energy = moved @ memory.tril().mT + energy[:, None] * (1 - STRESS_RATE) ** (lag + 1)
        share = energy / (1 + energy)
        return share.unsqueeze(1).expand(-1, self.heads, -1), (x[..., -1], energy[:, -1])

    def scales(self) -> tuple[Tensor, ...]:
        """R and c^2 of each head, [heads, 1, 1]."""
        return self.log_radius.exp()[:, None, None], (2 * self.log_interval).exp()[:, None, None]

    def _radius(self, radius: Tensor, source: Tensor) -> Tensor:
        """R of each head, times the factors of the keys where there are any."""
        if not len(source):
            return radius
        if self.stress is None:
            return radius * source.unsqueeze(2)
        return radius * (1 + F.softplus(self.stress)[:, None, None] * source.unsqueeze(2))

    def score(
        self, k: Tensor, m: Tensor, apart: Tensor, source: Tensor, scales: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """-R_j times the geodesic length of every pair."""
        if self.shared:
            # Queries and keys are the same points: of near pairs a matrix product would leave no digits.
            square = torch.cdist(k, m, compute_mode="donot_use_mm_for_euclid_dist").square()
        else:
            square = torch.baddbmm(k.square().sum(-1, keepdim=True), k, m.mT, alpha=-2)
            square = (square + m.square().sum(-1).unsqueeze(1)).clamp_min(0)
        radius, interval = scales
        dimensions = self.width if self.chart is None else self.chart.n
        length = (square.view(-1, self.heads, *apart.shape) + (interval * apart.square() + 0.01 * dimensions)).sqrt()
        return -self._radius(radius, source) * length, (k, m, length, source)

    def pull_score(
        self, dscore: Tensor, apart: Tensor, kept: tuple[Tensor, ...], acc: StatBuffer
    ) -> tuple[Tensor, Tensor]:
        """With P = dL/d(length^2): dR = -sum dscore length R_j / R, dc^2 = sum P (i - j)^2,
        dk_i = 2 (k_i sum_j P_ij - sum_j P_ij m_j), dm_j = 2 (m_j sum_i P_ij - sum_i P_ij k_i).
        """
        k, m, length, source = kept
        radius = self._radius(self.scales()[0], source)
        cost = dscore * length
        acc[self.log_radius].sub_((cost * radius).sum((0, 2, 3)))
        if self.stress is not None:
            slope = self.log_radius.exp() * torch.sigmoid(self.stress)
            acc[self.stress].sub_((cost * source.unsqueeze(2)).sum((0, 2, 3)) * slope)
        p = dscore.div_(length).mul_(radius / -2)
        by_age = p.sum(0).flatten(1) @ apart.square().to(p.dtype).view(-1)
        acc[self.log_interval].add_(2 * self.log_interval.exp().square() * by_age)
        p = p.view(len(k), *apart.shape)
        if self.shared:
            # A point pulls itself by exactly nothing; the sums below would leave rounding errors of it.
            p.diagonal(apart.shape[1] - apart.shape[0], 1, 2).zero_()
        dk = torch.bmm(p, m).neg_().addcmul_(k, p.sum(2, keepdim=True)).mul_(2)
        dm = torch.bmm(p.mT, k).neg_().addcmul_(m, p.sum(1).unsqueeze(-1)).mul_(2)
        return dk, dm


class GeometricRetrieval(Attention):
    """Scores by invariants of a pair of spinors instead of a distance.

    psi_i, phi_j in C^(d/2) are linear in x, with <psi, phi> = sum conj(psi) phi:
    wedge = Im <psi_i, phi_j> (changes its sign when the two are exchanged), herm = Re <psi_i, G phi_j> with G diagonal
    and positive, coh = sqrt(|<psi_i, phi_j>|^2 + eps). score = (w1 wedge + w2 herm + w3 coh) a_i b_j / sqrt(d) with
    a, b in (0, 1) linear in x through a logistic function. All three do not change under a common phase of psi and phi.

    Args:
        channels, heads, window, out_scale, taps, generator: as for `Retrieval`; channels / heads must be even.
        rope: turn psi and phi by angles that grow with their position (rotary embedding, Su et al. 2021, eq. 14-15):
            component f by 10000^(-2 f / d) a token, so that a score knows how far apart the two are.
    """

    eps = 1e-6

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        window: int,
        out_scale: float,
        taps: int = 1,
        rope: bool = False,
        generator: torch.Generator,
    ) -> None:
        features = 2 * channels + 2 * heads
        super().__init__(channels, heads, window=window, features=features, taps=taps, generator=generator)
        self.spinor, self.rope = self.width // 2, rope
        self.mix = nn.Parameter(torch.tensor([0.5, 1.0, 0.5]).repeat(heads, 1))
        self.log_g = nn.Parameter(torch.zeros(heads, self.spinor))
        self.out = Linear(channels, channels, std=out_scale * channels**-0.5, generator=generator)

    def compared(self, x: Tensor, tape: Tape | None) -> tuple[Tensor, Tensor]:
        """Spinors as real and imaginary part, and the logit of their factor in the last channel."""
        k, m = self.split(x, 2)
        return k, m

    def pull_compared(self, tape: Tape, dk: Tensor, dm: Tensor, acc: StatBuffer) -> Tensor:
        """Queries and keys are the channels themselves."""
        return self.join(torch.stack([dk, dm]), len(dk) // self.heads)

    def placed(self, x: Float[Tensor, "BH time features"], time: Int[Tensor, " time"] | int) -> Tensor:
        """Turned by the position, with `rope`."""
        return self._turned(x, time, 1) if self.rope else x

    def pull_placed(self, g: Float[Tensor, "BH time features"], time: Int[Tensor, " time"] | int) -> Tensor:
        """Turned back."""
        return self._turned(g, time, -1) if self.rope else g

    def _turned(self, x: Tensor, time: Tensor | int, sign: int) -> Tensor:
        # In float64: positions grow without bound, and float32 would lose the angle.
        place = torch.as_tensor(time, dtype=torch.float64, device=x.device).view(-1, 1)
        rate = ROPE_BASE ** (-torch.arange(self.spinor, dtype=torch.float64, device=x.device) / self.spinor)
        cos, sin = torch.cos(place * rate).to(x.dtype), (sign * torch.sin(place * rate)).to(x.dtype)
        real, imag, factor = x.split([self.spinor, self.spinor, x.shape[-1] - 2 * self.spinor], -1)
        return torch.cat([real * cos - imag * sin, real * sin + imag * cos, factor], -1)

    def spectra(self) -> dict[str, Float[Tensor, "heads n"]]:
        """Diagonals of the Hermitian forms of the heads, largest first."""
        return {"Hermitian form": self.log_g.exp().sort(descending=True).values}

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        half = self.spinor
        return x[..., :half], x[..., half : 2 * half], torch.sigmoid(x[..., 2 * half :])

    def score(
        self, k: Tensor, m: Tensor, apart: Tensor, source: Tensor, scales: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The mixed invariants of every pair."""
        (kr, ki, a), (mr, mi, b) = self._parts(k), self._parts(m)
        g = self.log_g.exp().repeat(len(k) // self.heads, 1).unsqueeze(1)
        real = torch.bmm(kr, mr.mT) + torch.bmm(ki, mi.mT)
        imag = torch.bmm(kr, mi.mT) - torch.bmm(ki, mr.mT)
        herm = torch.bmm(kr * g, mr.mT) + torch.bmm(ki * g, mi.mT)
        coh = (real.square() + imag.square() + self.eps).sqrt()
        w1, w2, w3 = self.mix.repeat(len(k) // self.heads, 1)[:, :, None, None].unbind(1)
        inner = w1 * imag + w2 * herm + w3 * coh
        score = inner * a * b.mT / math.sqrt(self.width)
        return score.view(-1, self.heads, *apart.shape), (k, m, real, imag, herm, coh)

    def pull_score(
        self, dscore: Tensor, apart: Tensor, kept: tuple[Tensor, ...], acc: StatBuffer
    ) -> tuple[Tensor, Tensor]:
        """Product rule through factors, mixture and invariants."""
        k, m, real, imag, herm, coh = kept
        (kr, ki, a), (mr, mi, b) = self._parts(k), self._parts(m)
        copies = len(k) // self.heads
        g = self.log_g.exp().repeat(copies, 1).unsqueeze(1)
        w1, w2, w3 = self.mix.repeat(copies, 1)[:, :, None, None].unbind(1)
        d = dscore.view(len(k), *apart.shape) / math.sqrt(self.width)
        inner = w1 * imag + w2 * herm + w3 * coh
        da = (d * inner * b.mT).sum(2, keepdim=True) * a * (1 - a)
        db = (d * inner * a).sum(1).unsqueeze(-1) * b * (1 - b)
        d = d * a * b.mT
        by_head = torch.stack([(d * t).sum((1, 2)) for t in (imag, herm, coh)], 1)
        acc[self.mix].add_(by_head.view(copies, self.heads, 3).sum(0))
        dreal, dimag, dherm = d * w3 * real / coh, d * (w1 + w3 * imag / coh), d * w2
        pulled_r, pulled_i = torch.bmm(dherm, mr), torch.bmm(dherm, mi)
        dg = (kr * pulled_r + ki * pulled_i).sum(1).view(copies, self.heads, -1).sum(0)
        acc[self.log_g].add_(dg * self.log_g.exp())
        dkr = torch.bmm(dreal, mr) + torch.bmm(dimag, mi) + g * pulled_r
        dki = torch.bmm(dreal, mi) - torch.bmm(dimag, mr) + g * pulled_i
        dmr = torch.bmm(dreal.mT, kr) - torch.bmm(dimag.mT, ki) + torch.bmm(dherm.mT, kr * g)
        dmi = torch.bmm(dreal.mT, ki) + torch.bmm(dimag.mT, kr) + torch.bmm(dherm.mT, ki * g)
        return torch.cat([dkr, dki, da], -1), torch.cat([dmr, dmi, db], -1)
