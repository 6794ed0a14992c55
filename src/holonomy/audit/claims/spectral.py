"""Claims about the spectra of what a run has learned: measure first, compress second, validate always."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from holonomy.audit.claim import DoesNotApply, Evidence, Figure, Setting, claim, curve
from holonomy.audit.subjects import checkpoint as newest
from holonomy.core.errors import ConfigError
from holonomy.geometry import spectral

LEARNED = ("model.", "average.", "buffer.")
"""Beginnings of the names of weights, averages and fields."""
MATRICES, DRAWN = 16, 6
"""Matrices that are measured unless everything is, and those that are drawn; the largest first."""
WORK = 4e9
"""Multiplications of a decomposition that is still worth its time."""
SHARE, KEPT = 0.99, 0.9
"""Energy whose rank is measured, and energy that compression keeps."""
VECTORS = 64
ROUNDING = 1e-5
"""Of singular vectors, relative."""


def matrices_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Learned tensors as float64 matrices whose rows are the last axis, the largest first."""
    found = {
        name: tensor.reshape(-1, tensor.shape[-1]).double()
        for name, tensor in tensors.items()
        if name.startswith(LEARNED) and tensor.ndim >= 2 and tensor.is_floating_point()
    }
    able = {n: a for n, a in found.items() if min(a.shape) > 1 and a.numel() * min(a.shape) <= WORK and bool(a.any())}
    return dict(sorted(able.items(), key=lambda item: -item[1].numel()))


def _measured(s: np.ndarray) -> dict[str, float]:
    """Figures of a spectrum by their definitions."""
    energy = s**2 / (s**2).sum()
    kept = np.cumsum(energy)
    entropy = -(energy[energy > 0] * np.log(energy[energy > 0])).sum()
    return {
        "energy": float(np.argmax(kept >= SHARE - 1e-13) + 1),
        "effective": float((s > 0.01 * s[0]).sum()),
        "participation": float(1 / (energy**2).sum()),
        "entropy": float(np.exp(entropy)),
    }


def _diagnosed(a: Tensor) -> dict[str, float]:
    s = torch.linalg.svdvals(a)
    return {
        "energy": float(spectral.energy_rank(s, SHARE)),
        "effective": float(spectral.effective_rank(s, 0.01)),
        "participation": float(spectral.participation_ratio(s)),
        "entropy": float(spectral.entropy_rank(s)),
    }


def _beyond(a: np.ndarray, low: spectral.LowRank, random: np.random.Generator) -> tuple[float, float]:
    """Relative error of the stated bound, and the largest |A x - L x| over the bound times |x|."""
    rest = a - low.matrix().numpy()
    size, whole = float(np.linalg.norm(rest)), float(np.linalg.norm(a))
    # Besides random vectors, the one that the approximation treats worst.
    x = random.standard_normal((a.shape[1], VECTORS))
    x[:, 0] = np.linalg.svd(rest, full_matrices=False)[2][0]
    lost = np.linalg.norm(a @ x - low.u.numpy() @ (low.s.numpy()[:, None] * (low.v.numpy().T @ x)), axis=0)
    allowed = (low.error + ROUNDING * whole) * np.linalg.norm(x, axis=0)
    return abs(low.error - size) / whole, float((lost / allowed).max())


def _refusals(a: Tensor, s: np.ndarray, rank: int) -> int:
    """How often `compress` does not do what its tolerance says, of two."""
    lost = float(np.sqrt((s[rank:] ** 2).sum() / (s**2).sum()))
    wrong = 0
    try:
        wrong += spectral.compress(a, rank, tolerance=min(1.0, lost * 1.01 + ROUNDING)).s.numel() != rank
    except ConfigError:
        wrong += 1
    if lost > 1e-3:
        try:
            spectral.compress(a, rank, tolerance=lost * 0.9)
            wrong += 1
        except ConfigError as refused:
            stated = re.search(r"rank (\d+) would do", str(refused))
            needed = int(np.argmax(1 - np.cumsum(s**2) / (s**2).sum() <= (lost * 0.9) ** 2) + 1)
            wrong += stated is None or abs(int(stated[1]) - needed) > 1
    return wrong


@claim(
    "spectral.diagnostics",
    statement="Ranks of what was learned are those of its singular values, and a compression keeps its stated bound.",
    source="docs/formulas.md, Spectra",
    families=("lior", "ternary"),
)
def diagnostics(setting: Setting) -> Evidence:
    """Every figure from numpy's singular values; every bound on random vectors and the worst one."""
    random = np.random.default_rng(setting.seed)
    generator = torch.Generator().manual_seed(setting.seed)
    count = ranks = refused = 0
    shapes = bounds = products = worse = 0.0
    lines: dict[str, list[tuple[float, float]]] = {}
    for family in sorted(setting.runs):
        matrices = matrices_of(newest(setting, family).tensors)
        for name, a in list(matrices.items())[: None if setting.full else MATRICES]:
            plain = a.numpy()
            s = np.linalg.svd(plain, compute_uv=False)
            mine, theirs = _measured(s), _diagnosed(a)
            ranks += sum(mine[key] != theirs[key] for key in ("energy", "effective"))
            shapes = max(shapes, *(abs(theirs[key] / mine[key] - 1) for key in ("participation", "entropy")))
            energy = np.cumsum(s**2) / (s**2).sum()
            rank = int(np.argmax(energy >= KEPT) + 1)
            best = spectral.truncated_svd(a, rank)
            for low in (best, spectral.randomized_svd(a, rank, generator=generator)):
                bound, product = _beyond(plain, low, random)
                bounds, products = max(bounds, bound), max(products, product)
                # No approximation of this rank is better than the tail of the singular values.
                tail = float(np.sqrt((s[rank:] ** 2).sum()))
                worse = max(worse, (tail - low.error) / float(np.linalg.norm(s)))
            refused += _refusals(a, s, rank)
            count += 1
            if sum(key.startswith(family) for key in lines) < DRAWN // len(setting.runs):
                lines[f"{family} {name}"] = [(n + 1, max(float(v / s[0]), 1e-9)) for n, v in enumerate(s)]
    if not count:
        raise DoesNotApply(f"no learned matrix takes less than {WORK:.0e} multiplications to decompose")
    return Evidence(
        (
            Figure("matrices measured", count, ">=", 1),
            Figure("ranks that differ", ranks, "==", 0),
            Figure("largest relative difference of participation and entropy", shapes, "<=", 1e-6),
            Figure(
                "largest difference of a stated error from the measured one, share of the norm", bounds, "<=", ROUNDING
            ),
            Figure("largest error of a product over its bound", products, "<=", 1),
            Figure("largest gain over the best possible error, share of the norm", worse, "<=", ROUNDING),
            Figure("compressions that did not do as their tolerance says", refused, "==", 0),
        ),
        (curve("singular values", "number", "share of the largest", lines, log_x=True, log_y=True),),
    )
