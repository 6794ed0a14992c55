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
    if name == "ball":
        shown = axes.scatter(*plane.T, c=levels, s=3, cmap="viridis", rasterized=True)
        circle = torch.linspace(0, 2 * torch.pi, 200)
        axes.plot(edge * circle.cos(), edge * circle.sin(), color="grey", linewidth=1)
        axes.set(aspect="equal", title="two main directions, geodesic radius kept")
        figure.colorbar(shown, label="valuation", shrink=0.7)
    elif name == "radius":
        spread = levels + 0.6 * (torch.rand(len(levels), generator=torch.Generator().manual_seed(0)) - 0.5)
        axes.scatter(spread, rho, s=3, alpha=0.4, rasterized=True)
        axes.set(xlabel="valuation", ylabel="geodesic radius")
    else:
        for level in range(int(levels.max()) + 1):
            axes.hist(rho[levels == level].numpy(), bins=40, density=True, alpha=0.6, label=str(level))
        axes.set(xlabel="geodesic radius", ylabel="density within the level")
        axes.legend(title="valuation", ncols=2)


def _draw_losses(axes: Any, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    for name in sorted(n for n in curves if n.startswith("train/") and n.endswith("/loss")):
        axes.plot(*curves[name], label=name.split("/")[1])
    axes.set(xlabel="update", ylabel="loss before its weight", yscale="log")
    axes.legend()
