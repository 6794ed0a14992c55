"""Options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from holonomy.core.errors import ConfigError

Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Run directory, its name under the root, or a checkpoint directory."),
]
Root = Annotated[Path, typer.Option("--root", help="Where run directories live.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="No progress, tables or notes: errors, and what --json or a file asks for.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE.yaml", help="YAML file with some of the recipe's keys."),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b=VALUE", help="Set one key; may be repeated.")
]
Threads = Annotated[str | None, typer.Option("--threads", metavar="N", help="CPU threads, or auto: cores minus load.")]
Gate = Annotated[bool | None, typer.Option("--gate/--no-gate", help="Lower the temperature in doubt.")]
Selector = Annotated[
    str | None,
    typer.Option(
        "--selector",
        help="softmax, gibbsmax: what was said lately costs infer.repetition, or inhibition: what was just written "
        "costs infer.inhibition.",
    ),
]
Kernel = Annotated[
    str | None, typer.Option("--kernel", help="calibrated, or phi: the temperature of the golden section, 0.618.")
]
Abstain = Annotated[
    float | None,
    typer.Option("--abstain", metavar="SHARE", help="Hold back where the model is as unsure as this rarely."),
]
LeastProb = Annotated[
    float | None, typer.Option("--least-prob", metavar="P", help="Hold back where no token is as probable.")
]
Doubt = Annotated[
    str | None,
    typer.Option("--doubt", help="hold ends a text there, fallback goes on with the most probable token."),
]
Memory = Annotated[bool, typer.Option("--memory", help="Remember what was read and recall what followed it.")]
Field = Annotated[bool, typer.Option("--field", help="Let the run's tensor field move with what is read.")]
ROOT = Path("runs")
THREADS = 1024
"""Most threads that may be asked for, as in configurations."""


def thread_count(text: str | None) -> int | Literal["auto"] | None:
    """The value of --threads, or None when it was not given.

    Raises:
        ConfigError: neither auto nor a number from 1 to `THREADS`.
    """
    if text is None or text == "auto":
        return text
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= THREADS:
        raise ConfigError(f"`--threads` is {text!r}; wanted auto or a number from 1 to {THREADS}, such as --threads 2")
    return int(text)
