"""`holonomy generate`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holonomy.cli import options
from holonomy.cli.console import err, print_json
from holonomy.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from holonomy.infer.sampling import Sampling
    from holonomy.infer.session import Written


def generate(
    run: options.Run,
    prompt: Annotated[str, typer.Option("--prompt", help="Text to continue; - reads it from stdin.")] = "",
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Continue each line of a file that is not empty, many at a time, as JSON lines.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Tokens to write: characters, words or byte pairs.")
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 is the most probable.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Keep this mass of probability.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Keep the k most probable; 0 keeps all.")] = None,
    gate: options.Gate = None,
    selector: options.Selector = None,
    kernel: options.Kernel = None,
    abstain: options.Abstain = None,
    least_prob: options.LeastProb = None,
    doubt: options.Doubt = None,
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

    With --quiet the text stands alone, without a line end of its own. The first text of
    --prompts is continued with --seed, the next with --seed + 1, and so on.

    With --abstain or --least-prob a model that is too unsure holds back, and says why.
    """
    from holonomy.infer.session import Session, check_max_tokens

    if max_tokens is not None:
        check_max_tokens(max_tokens)
    if prompts is not None and prompt:
        raise ConfigError("`--prompt` and `--prompts` say both what to continue; give one of them")
    text, lines = _prompt(prompt), [] if prompts is None else _lines(prompts)
    chosen = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "gate": gate, "selector": selector}
    chosen |= {"kernel": kernel, "abstain": abstain, "least_prob": least_prob, "doubt": doubt}
    model, sampling, longest = open_model(run, root, threads, chosen)
    speaker = with_companions(model, memory=memory, field=field)
    if prompts is not None:
        options_of = {"sampling": sampling, "max_tokens": max_tokens or longest, "seed": seed, "stop": stop or ()}
        _continue_all(run, speaker, lines, options_of, as_json=as_json)
        return
    session = Session(speaker, sampling, seed=seed)
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
        said = {"text": written, "tokens": session.drawn, "doubt": session.last.doubt}
        print_json({"run": run, "prompt": text, **said, "fallbacks": session.last.fallbacks, "seconds": seconds})
    elif not quiet:
        sys.stdout.write("\n")
        for line in held_back(session.last):
            err().print(f"note: {line}", markup=False)


def held_back(written: Written) -> list[str]:
    """What to tell of a text that a model did not write as surely as it was asked to."""
    told = list[str]()
    if written.fallbacks:
        told.append(f"{written.fallbacks} token(s) are the most probable ones; the model was too unsure to draw them")
    if written.doubt is not None:
        told.append(f"the model holds back: {written.doubt}")
    return told


def _lines(path: Path) -> list[str]:
    try:
        found = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`--prompts` {path} cannot be read as UTF-8 text: {error}") from error
    if not found:
        raise DataError(f"`--prompts` {path} is empty; write one text to continue on each line")
    return found


def _continue_all(run: str, model: Any, prompts: list[str], chosen: dict[str, Any], *, as_json: bool) -> None:
    """Prints what follows each prompt: one object a line, or one for all."""
    from holonomy.infer.session import generate_batch

    begin = time.perf_counter()
    found = generate_batch(model, prompts, **chosen)
    pairs = [{"prompt": prompt, **vars(text)} for prompt, text in zip(prompts, found, strict=True)]
    if as_json:
        print_json({"run": run, "texts": pairs, "seconds": time.perf_counter() - begin})
        return
    for pair in pairs:
        sys.stdout.write(json.dumps(pair, ensure_ascii=False) + "\n")


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
    from holonomy.recipes.work import sampling_of

    given = {name: value for name, value in chosen.items() if value is not None}
    replace(Sampling(), **given)
    if given.get("kernel") == "phi" and "temperature" in given:
        raise ConfigError("`--kernel` phi has a temperature of its own; drop it, or `--temperature`")
    tune_process(threads=options.thread_count(threads) or "auto")
    model, infer = launch.load_speaker(run, root=root)
    return model, replace(sampling_of(infer), **given), infer.max_tokens


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
