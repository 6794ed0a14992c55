"""`holonomy chat`."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from holonomy.cli import options
from holonomy.cli.console import print_json
from holonomy.cli.generate import held_back, open_model, with_companions
from holonomy.core.errors import ConfigError, HolonomyError
from holonomy.core.registry import nearest

HELP = """\
/help               this list
/reset              forget the conversation
/set NAME=VALUE     max_tokens, or how it chooses: temperature, top_k, top_p, gate, selector, repetition,
                    inhibition, kernel, abstain, least_prob or doubt
/save FILE          write the conversation to a file
/load FILE          continue a saved conversation
/stats              what was said, and how fast
/quit               leave (so does Ctrl-D); Ctrl-C stops a reply"""
COMMANDS = tuple(line.split()[0] for line in HELP.splitlines() if line.startswith("/"))
PARAGRAPH = "\n\n"
"""A reply ends at an empty line: the model continues texts and has no other notion of a turn."""


def chat(
    run: options.Run,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 is the most probable.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Keep this mass of probability.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Keep the k most probable; 0 keeps all.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Longest reply, in tokens: characters, words or byte pairs.")
    ] = None,
    gate: options.Gate = None,
    selector: options.Selector = None,
    kernel: options.Kernel = None,
    abstain: options.Abstain = None,
    least_prob: options.LeastProb = None,
    doubt: options.Doubt = None,
    memory: options.Memory = False,
    field: options.Field = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal replies.")] = 1,
    threads: options.Threads = "1",
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Talk to a run: it continues what you type, and remembers the conversation.

    Example: holonomy chat first --temperature 0.6

    With --json the conversation goes to stderr, and stands on stdout as one object when it is over.
    """
    from holonomy.infer.session import Session, check_max_tokens

    if max_tokens is not None:
        check_max_tokens(max_tokens)
    chosen = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "gate": gate, "selector": selector}
    chosen |= {"kernel": kernel, "abstain": abstain, "least_prob": least_prob, "doubt": doubt}
    model, sampling, longest = open_model(run, root, threads, chosen)
    talk = Talk(
        Session(with_companions(model, memory=memory, field=field), sampling, seed=seed),
        max_tokens or longest,
    )
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        if sys.stdin.isatty() and not quiet:
            talk.say(f"{run}: it continues what you type. /help lists the commands.")
        ask = reader()
        while not talk.over:
            try:
                line = ask("> ")
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
            except UnicodeDecodeError as error:
                raise ConfigError(f"stdin is not UTF-8 at byte {error.start} of a line or block") from error
            talk.take(line)
    if as_json:
        print_json({"run": run, "turns": talk.session.turns, "seconds": talk.seconds})


def reader() -> Callable[[str], str]:
    """Reads a line: with history where prompt_toolkit is installed and there is a terminal."""
    if sys.stdin.isatty() and importlib.util.find_spec("prompt_toolkit"):
        from prompt_toolkit import PromptSession

        return PromptSession().prompt
    return input if sys.stdin.isatty() else lambda _: input()


def switch(text: str) -> bool:
    """Reads on or off.

    Raises:
        ValueError: it is neither.
    """
    found = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}.get(text.lower())
    if found is None:
        raise ValueError(text)
    return found


class Talk:
    """One interactive conversation: takes lines, prints replies.

    Args:
        session: the conversation.
        max_tokens: longest reply.
    """

    def __init__(self, session: Any, max_tokens: int) -> None:
        self.session, self.max_tokens = session, max_tokens
        self.over = False
        self.tokens, self.seconds = 0, 0.0
        self.held, self.fallbacks = 0, 0

    def say(self, text: str) -> None:
        """Prints a line for the user."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def take(self, line: str) -> None:
        """Obeys a command, or lets the model reply; mistakes are explained and change nothing."""
        try:
            if line.startswith("/"):
                self.obey(line)
            elif line:
                self.reply(line)
        except HolonomyError as error:
            self.say(f"note: {error}")

    def reply(self, line: str) -> None:
        """Feeds a line and prints the reply as it comes; Ctrl-C ends it."""
        # Who never saw a line end reads the line alone.
        self.session.feed(line if self.session.model.tokenizer.unknown("\n") else f"{line}\n")
        begin = time.perf_counter()
        pieces = self.session.reply(max_tokens=self.max_tokens, stop=[PARAGRAPH])
        try:
            for piece in pieces:
                self.tokens += len(piece)
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            pieces.close()
        self.seconds += time.perf_counter() - begin
        self.held += self.session.last.doubt is not None
        self.fallbacks += self.session.last.fallbacks
        self.say("")
        for line in held_back(self.session.last):
            self.say(f"note: {line}")

    def obey(self, line: str) -> None:
        """Runs a command.

        Raises:
            HolonomyError: unknown command, wrong value, or a file that cannot be used.
        """
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        if command == "/quit":
            self.over = True
        elif command == "/help":
            self.say(HELP)
        elif command == "/reset":
            self.session.reset()
            self.say("the conversation is forgotten")
        elif command == "/set":
            self.set(rest)
        elif command in ("/save", "/load"):
            if not rest:
                raise ConfigError(f"`{command}` needs a file, such as {command} talk.json")
            (self.session.save if command == "/save" else self.session.load)(Path(rest))
            self.say(f"{'saved to' if command == '/save' else 'continuing'} {rest}")
        elif command == "/stats":
            self.stats()
        else:
            near = nearest(command, COMMANDS)
            raise ConfigError(
                f"unknown command `{command}`; {f'did you mean `{near}`?' if near else '/help lists all'}"
            )

    def set(self, assignment: str) -> None:
        """Changes a setting from text such as temperature=0.8."""
        from holonomy.core.inference import InferConfig
        from holonomy.infer.session import check_max_tokens

        name, _, text = assignment.replace(" ", "").partition("=")
        readers: dict[Any, Callable[[str], Any]] = {bool: switch, int: int, float: float}
        kinds = {key: readers.get(field.annotation, str) for key, field in InferConfig.model_fields.items()}
        if name not in kinds:
            near = nearest(name, kinds)
            raise ConfigError(f"unknown setting `{name}`; {f'did you mean `{near}`?' if near else ', '.join(kinds)}")
        try:
            value = kinds[name](text)
        except ValueError as error:
            wanted = "on or off" if kinds[name] is switch else "a number"
            raise ConfigError(f"`{name}` = {text!r} is not {wanted}, such as /set {name}=1") from error
        if name == "max_tokens":
            check_max_tokens(int(value))
            self.max_tokens = int(value)
        else:
            self.session.set(**{name: value})
        self.say(f"{name} is {value}")

    def stats(self) -> None:
        """Prints what was said so far."""
        speed = self.tokens / self.seconds if self.seconds else 0.0
        self.say(
            f"{len(self.session.turns)} turns, {self.tokens} tokens written, {speed:,.0f} tokens/s, "
            f"{self.held} times held back, {self.fallbacks} tokens for want of certainty, "
            f"{self.session.sampling}, max_tokens {self.max_tokens}"
        )
