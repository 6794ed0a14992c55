"""`holonomy job`: a training as a job file for other machines, around the command that trains here."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from holonomy import __version__
from holonomy.cli import options
from holonomy.cli.console import err, out, print_json
from holonomy.core.config import replace_text
from holonomy.core.errors import ConfigError
from holonomy.recipes import configure

DISK, WORK = "/holonomy", "/work"
"""What stays when the machine is gone, and where the working directory is laid."""
START = {"torchrun": "sh {}", "skypilot": "sky jobs launch {}", "modal": "modal run --detach {}"}
PYTHON = "3.12"
LEFT_BEHIND = [".git", ".venv", ".env*", "runs", "**/__pycache__"]
"""What is not uploaded of the working directory."""


def job(
    kind: Annotated[Literal["torchrun", "skypilot", "modal"], typer.Argument(help="Who starts it.")],
    arguments: Annotated[list[str], typer.Argument(metavar="-- RECIPE ...", help="As of `holonomy train`.")],
    gpu: Annotated[str | None, typer.Option("--gpu", help="Kind of the GPU, such as H100; none by default.")] = None,
    cpus: Annotated[int, typer.Option("--cpus", min=1, max=1024, help="Cores of the machine.")] = 8,
    hours: Annotated[int, typer.Option("--hours", min=1, max=24, help="Most that Modal lets it run.")] = 24,
    processes: Annotated[int, typer.Option("--processes", min=1, max=256, help="Processes that torchrun starts.")] = 1,
    install: Annotated[
        str, typer.Option("--install", help="What pip installs there; . is the working directory.")
    ] = f"holonomy[data]=={__version__}",
    file: Annotated[Path | None, typer.Option("--out", help="File to write instead of stdout.")] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Print a job file that trains elsewhere: a torchrun script, a SkyPilot task or a Modal app.

    Example: holonomy job skypilot --gpu H100 --out job.yaml -- holographic-openwebtext --run web

    The configuration is checked here, nothing is started. The working directory is uploaded; runs and downloaded data
    stay on a mounted disk, from which a job that was interrupted continues its run. No account is touched, and no
    variable of this machine gets into the file.
    """
    run = _checked(kind, arguments, gpu=gpu, processes=processes)
    text = _text(kind, run, arguments, gpu=gpu, cpus=cpus, hours=hours, processes=processes, install=install)
    start = START[kind].format(shlex.quote(str(file)) if file else "FILE")
    if file is not None:
        replace_text(file, text)
    if as_json:
        print_json({"job": text, "start": start})
    elif file is None:
        out().file.write(text)
    if not quiet and not as_json:
        err().print(f"start it with `{start}`")


def _checked(kind: str, arguments: list[str], *, gpu: str | None, processes: int) -> str:
    """The name of the run, of a command that could train here."""
    from holonomy.cli.main import app

    given: dict[str, Any] = typer.main.get_command(app).commands["train"].make_context("train", list(arguments)).params  # type: ignore[attr-defined]
    if given["run"] is None or given["resume"] is not None:
        raise ConfigError("`--run` names what an interrupted job continues; give --run NAME, without --resume")
    if given["root"] != options.ROOT and kind != "torchrun":
        raise ConfigError(f"`--root` is on the mounted disk, {DISK}/runs; drop it")
    if gpu is not None and (kind == "torchrun" or not re.fullmatch(r"[A-Za-z0-9-]{1,40}(:[1-9][0-9]?)?", gpu)):
        raise ConfigError(f"`--gpu` is {gpu!r}; wanted a name such as H100 or A100:2, for skypilot or modal")
    if kind == "torchrun" and processes == 1:
        raise ConfigError("`--processes` is 1, which needs no torchrun; give 2 or more")
    data = {} if given["data"] is None else {"data.source": ("--data", given["data"])}
    config: Any = configure(
        given["recipe"], file=given["config"], overrides=given["overrides"] or (), options=data
    ).config
    if kind != "torchrun":
        for name, path in _paths(given["config"], config):
            if Path(path).is_absolute() or (Path(path).exists() and ".." in Path(path).parts):
                raise ConfigError(
                    f"`{name}` {path} would not be there: name a path below the working directory, which is uploaded"
                )
    return given["run"]


def _paths(file: Path | None, config: Any) -> Iterator[tuple[str, str]]:
    if file is not None:
        yield "--config", str(file)
    for key in ("source", "vocabulary"):
        value = getattr(getattr(config, "data", None), key, None)
        if isinstance(value, str):
            yield f"data.{key}", value


def _script(kind: str, run: str, arguments: list[str], processes: int) -> str:
    """Trains, or goes on where a run of that name stopped."""
    here = kind == "torchrun"
    root = ["--root", f"{DISK}/runs"] if not here else []
    words = ["torchrun", "--nproc-per-node", str(processes), "-m", "--", "holonomy"] if processes > 1 else ["holonomy"]
    begin, again = [*words, "train", *arguments, *root], [*words, "train", "--resume", run, *root]
    folder = str(options.ROOT / run) if here else f"{DISK}/runs/{run}"
    lines = ["set -eu", *([] if here else [f"export HOLONOMY_DATA={DISK}/data"])]
    lines += [
        f"if [ -e {shlex.quote(folder)} ]; then",
        f"  {shlex.join(again)}",
        "else",
        f"  {shlex.join(begin)}",
        "fi",
    ]
    return "\n".join(lines) + "\n"


def _text(
    kind: str,
    run: str,
    arguments: list[str],
    *,
    gpu: str | None,
    cpus: int,
    hours: int,
    processes: int,
    install: str,
) -> str:
    script = _script(kind, run, arguments, processes)
    if kind == "torchrun":
        return f"#!/bin/sh\n{script}"
    name = "holonomy-" + re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    if kind == "skypilot":
        task = {
            "name": name,
            "workdir": ".",
            "resources": {"cpus": f"{cpus}+"} | ({} if gpu is None else {"accelerators": gpu}),
            "file_mounts": {DISK: {"name": "holonomy-runs", "mode": "MOUNT_CACHED"}},
            "setup": f"pip install {shlex.quote(install)}\n",
            "run": script,
        }
        return yaml.dump(task, Dumper=_Blocks, sort_keys=False)
    return MODAL.format(
        name=json.dumps(name),
        script=json.dumps(script),
        python=json.dumps(PYTHON),
        left=json.dumps(LEFT_BEHIND),
        work=json.dumps(WORK),
        install=json.dumps(f"cd {WORK} && pip install {shlex.quote(install)}"),
        how=f"cpu={cpus}, timeout={hours * 3600}" + ("" if gpu is None else f", gpu={json.dumps(gpu)}"),
        disk=json.dumps(DISK),
    )


class _Blocks(yaml.SafeDumper):
    """Writes text of several lines as it stands."""


_Blocks.add_representer(
    str, lambda to, text: to.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)
)

MODAL = """\
import subprocess

import modal

SCRIPT = {script}
image = (
    modal.Image.debian_slim(python_version={python})
    .add_local_dir(".", {work}, copy=True, ignore={left})
    .run_commands({install})
)
disk = modal.Volume.from_name("holonomy-runs", create_if_missing=True)
app = modal.App({name})


@app.function(image=image, volumes={{{disk}: disk}}, {how})
def train() -> None:
    try:
        subprocess.run(["sh", "-c", SCRIPT], cwd={work}, check=True)
    finally:
        disk.commit()


@app.local_entrypoint()
def main() -> None:
    train.remote()
"""
