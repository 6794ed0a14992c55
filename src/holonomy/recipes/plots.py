"""Pictures of a ternary run: the ball, radii against levels, histograms of levels, and losses over the run."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holonomy.core.errors import ConfigError, StorageError
from holonomy.models.ternary.model import TernaryVAE
from holonomy.models.ternary.pictures import principal_plane
from holonomy.recipes import launch
from holonomy.train.monitor import read_curves
from holonomy.train.run import RunDirectory

PICTURES = ("ball", "radius", "levels", "losses")
TOTAL = "train/loss"
BIN = 0.05
"""Width of a bar of the radii."""


def _pyplot() -> Any:
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("plots want the matplotlib package; install it with `pip install 'holonomy[viz]'`")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot_run(run: str, *, root: Path, out: Path) -> list[Path]:
    """Draws the pictures of a run; gives the files.

    Args:
        run: a run directory, its name under `root`, or a checkpoint directory inside it.
        root: where run directories live.
        out: directory that gets the pictures.

    Raises:
        ConfigError: matplotlib is missing, or the run is of another family or of flat space.
        CheckpointError: there is no such run.
        StorageError: a picture cannot be written.
    """
    pyplot = _pyplot()
    vae = launch.load(run, root=root)
    if not isinstance(vae, TernaryVAE):
        raise ConfigError(f"`{run}` is not a ternary run; only their embeddings have pictures")
    if vae.config.geometry == "euclidean":
        raise ConfigError(f"`{run}` lives in flat space, which has no ball to draw")
    space, u = vae.space, vae.embed(vae.space.index).double().cpu()
    levels, rho = space.levels.cpu(), u.norm(dim=-1)
    log = RunDirectory.open(run, root).path / "metrics.jsonl"
    try:
        out.mkdir(parents=True, exist_ok=True)
        curves = read_curves(log).values
        files = []
        for name in PICTURES:
            figure, axes = pyplot.subplots(figsize=(6, 6) if name == "ball" else (7, 4.5), layout="constrained")
            if name == "losses":
                _draw_losses(axes, curves)
            else:
                k = vae.k.double().cpu()
                _draw_points(name, figure, axes, levels, rho, principal_plane(u, k), edge=float((-k).rsqrt()))
            files.append(out / f"{name}.png")
            figure.savefig(files[-1], dpi=120)
            pyplot.close(figure)
    except OSError as error:
        raise StorageError(f"cannot draw into `{out}`: {error.strerror}") from error
    return files


def _draw_points(name: str, figure: Any, axes: Any, levels: Tensor, rho: Tensor, plane: Tensor, *, edge: float) -> None:
    deepest = int(levels.max())
    if name == "ball":
        # The few deep points last, on top of the many others.
        order = levels.argsort(stable=True)
        shown = axes.scatter(*plane[order].T, c=levels[order], s=3 + levels[order], cmap="viridis", rasterized=True)
        circle = torch.linspace(0, 2 * torch.pi, 200)
        axes.plot(edge * circle.cos(), edge * circle.sin(), color="grey", linewidth=1)
        axes.set(aspect="equal", title="Poincare disk: two main directions, radius kept")
        axes.set_axis_off()
        figure.colorbar(shown, label="valuation", shrink=0.7, ticks=range(deepest + 1))
    elif name == "radius":
        spread = levels + 0.6 * (torch.rand(len(levels), generator=torch.Generator().manual_seed(0)) - 0.5)
        axes.scatter(spread, rho, c=levels, s=3 + levels, cmap="viridis", rasterized=True)
        axes.set(xlabel="valuation", ylabel="geodesic radius", xticks=range(deepest + 1), ylim=(0, None))
        axes.set_title("Radius of each operation; within a valuation spread sideways by lot")
    else:
        _draw_levels(axes, levels, rho)


def _draw_levels(axes: Any, levels: Tensor, rho: Tensor) -> None:
    """A histogram for each level in a row of its own, as high as its fullest bin: levels differ a thousandfold."""
    deepest, width = int(levels.max()), BIN
    bins = int(float(rho.max()) // width) + 1
    rows = []
    for level in range(deepest + 1):
        here = rho[levels == level]
        count = torch.histc(here, bins=bins, min=0.0, max=bins * width)
        place, height = (torch.arange(bins) + 0.5) * width, 0.85 * count / count.max()
        axes.bar(place.numpy(), height.numpy(), width, bottom=level, color=_color(level, deepest))
        axes.axhline(level, color="grey", linewidth=0.5)
        rows.append(f"{level}  ({len(here):,})")
    axes.set(xlabel="geodesic radius", ylabel="valuation (operations)", xlim=(0, bins * width))
    axes.set_yticks([level + 0.4 for level in range(deepest + 1)], rows)
    axes.tick_params(axis="y", length=0)
    axes.set_title("Radii of each valuation, rows scaled to their fullest bar")


def _color(level: int, deepest: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](level / max(1, deepest))


def _draw_losses(axes: Any, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    for name in sorted(n for n in curves if n.startswith("train/") and n.endswith("/loss") and n != TOTAL):
        axes.plot(*curves[name], label=name.split("/")[1])
    if TOTAL in curves:
        axes.plot(*curves[TOTAL], label="sum, weighted", color="black", linestyle="--")
    axes.set(xlabel="update", ylabel="loss before its weight", yscale="log")
    axes.set_title("Losses over the run")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
