"""`holonomy generate`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holonomy.cli import options
from holonomy.cli.console import print_json
from holonomy.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from holonomy.infer.sampling import Sampling


def generate(
    run: options.Run,
    prompt: Annotated[str, typer.Option("--prompt", help="Text to continue; - reads it from stdin.")] = "",
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Characters to write.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 is the most probable.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Keep this mass of probability.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Keep the k most probable; 0 keeps all.")] = None,
    gate: options.Gate = None,
    selector: options.Selector = None,
    memory: options.Memory = False,
    field: options.Field = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal text.")] = 1,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End before this text; may be repeated.")] = None,
    threads: options.Threads = "1",
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Continue a text.

    Example: holonomy generate first --prompt "The with statement" --max-tokens 200 --seed 7

    With --quiet the text stands alone, without a line end of its own.
    """
    from holonomy.infer.session import Session, check_max_tokens

    if max_tokens is not None:
        check_max_tokens(max_tokens)
    text = _prompt(prompt)
    chosen = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "gate": gate, "selector": selector}
    model, sampling, longest = open_model(run, root, threads, chosen)
    session = Session(with_companions(model, memory=memory, field=field), sampling, seed=seed)
    try:
        session.feed(text)
    except DataError as error:
        raise ConfigError(f"`--prompt`: {error}") from error
    begin, pieces = time.perf_counter(), []
    for piece in session.reply(max_tokens=max_tokens or longest, stop=stop or ()):
        pieces.append(piece)
        if not as_json:
            sys.stdout.write(piece)
            sys.stdout.flush()
    if as_json:
        written = "".join(pieces)
        seconds = time.perf_counter() - begin
        print_json({"run": run, "prompt": text, "text": written, "tokens": session.drawn, "seconds": seconds})
    elif not quiet:
        sys.stdout.write("\n")


def _prompt(prompt: str) -> str:
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"`--prompt -`: stdin is not UTF-8 at byte {error.start}") from error


def open_model(run: str, root: Path, threads: str | None, chosen: Mapping[str, Any]) -> tuple[Any, Sampling, int]:
    """Loads a run, its sampling with the given values in place of the configured ones, and its longest reply."""
    from holonomy.cli.process import tune_process
    from holonomy.infer.sampling import Sampling
    from holonomy.recipes import launch

    given = {name: value for name, value in chosen.items() if value is not None}
    replace(Sampling(), **given)
    tune_process(threads=options.thread_count(threads) or "auto")
    model, infer = launch.load_speaker(run, root=root)
    configured = {name: getattr(infer, name) for name in (f.name for f in fields(Sampling))}
    return model, replace(Sampling(**configured), **given), infer.max_tokens


def with_companions(model: Any, *, memory: bool, field: bool) -> Any:
    """The model with its associative memory, empty, with its tensor field moving along, or as it is.

    Raises:
        ConfigError: models of its family have none, or this one has no field.
    """
    if not (memory or field):
        return model
    from holonomy.models.lior.inference import LiorLanguageModel
    from holonomy.recipes.lior import companion

    if not isinstance(model, LiorLanguageModel):
        name = "--memory" if memory else "--field"
        raise ConfigError(f"`{name}` is for runs of the family lior; a holographic model is a memory itself: drop it")
    return companion(model, memory=memory, field=field)
