"""Generation of text, and chat sessions that can be saved and continued."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError, DataError, StorageError
from holonomy.core.inference import MAX_TOKENS
from holonomy.infer.commitment import doubts, least_confidence
from holonomy.infer.language_model import LanguageModel
from holonomy.infer.sampling import Recent, Sampling, draw, punctuation

logger = logging.getLogger(__name__)

NEWLINE = "\n"
ROWS, SPREAD = 64, 32
"""Prompts that are continued together at most, and by how many tokens their lengths may differ."""


def check_max_tokens(max_tokens: int) -> None:
    """Refuses a reply length that makes no sense.

    Raises:
        ConfigError: it is below 1 or beyond `MAX_TOKENS`.
    """
    if not 1 <= max_tokens <= MAX_TOKENS:
        raise ConfigError(f"`max_tokens` is {max_tokens}; wanted a whole number from 1 to {MAX_TOKENS:,}")


def _tells_of_tail(model: LanguageModel, size: int) -> bool:
    """Says that a model does not use all of a text, if so; whether it did."""
    limit = model.context_limit
    if limit is None or size <= limit:
        return False
    logger.warning("a text to continue has %d tokens, of which the model uses the last %d", size, limit)
    return True


@dataclass
class Written:
    """A text as it grew.

    Attributes:
        text: what was written after the prompt.
        doubt: why the model held back before the end, or None.
        fallbacks: tokens that were taken as the most probable ones, since the model was too unsure to draw.
    """

    text: str = ""
    doubt: str | None = None
    fallbacks: int = 0


class Chooser:
    """Takes the next tokens of a model, or says that it had better hold back.

    Args:
        model: the language model.
        sampling: how tokens are drawn, and when it holds back.

    Raises:
        ConfigError: the model does not know how sure it usually is.
    """

    def __init__(self, model: LanguageModel, sampling: Sampling) -> None:
        self.sampling, self._unspoken = sampling, model.tokenizer.unspoken
        self._least = least_confidence(model, sampling)
        # The most probable token, whatever the kernel.
        self._sure = replace(sampling, temperature=0.0, kernel="calibrated")
        silent = sampling.selector == "inhibition"
        self._inhibited = ~punctuation(model.tokenizer.symbols) if silent else None

    def doubts(self, ahead: Tensor) -> list[str | None]:
        """Of each distribution [B, V], why the model does not commit itself, or None."""
        return doubts(ahead, self._least, self._unspoken)

    def take(self, ahead: Tensor, recent: Recent, generator: torch.Generator, doubt: str | None = None) -> Tensor:
        """One token a sequence, [B]; of one that is in doubt the most probable one."""
        sampling = self.sampling if doubt is None else self._sure
        return draw(ahead, sampling, generator, recent, self._unspoken)

    def written(self, recent: Recent, tokens: Tensor, spoken: Sequence[bool]) -> Recent:
        """The last tokens with one more a sequence, [B], and whether the model wrote it."""
        if self._inhibited is None:
            return recent.take(tokens[:, None])
        held = self._inhibited[tokens]
        if recent.ids.shape[1]:
            # Punctuation is free, but for that which says itself again and again.
            held = held | (tokens == recent.ids[:, -1])
        return recent.take(tokens[:, None], (held & torch.tensor(spoken))[:, None])


class Session:
    """A conversation with a language model: its state, its random numbers, and what was said.

    Args:
        model: the language model.
        sampling: how tokens are drawn.
        seed: start of the random numbers; equal seeds and equal inputs give equal text.

    Attributes:
        last: the last reply, as far as it was taken.

    Raises:
        ConfigError: the seed is out of range, or the sampling asks more than the model knows.
    """

    def __init__(self, model: LanguageModel, sampling: Sampling, *, seed: int) -> None:
        _check_seed(seed)
        self.model, self.seed, self._told = model, seed, False
        self._chooser = Chooser(model, sampling)
        self.reset()

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return self._chooser.sampling

    def reset(self) -> None:
        """Forgets everything that was said and starts the random numbers again."""
        self.turns: list[tuple[str, str]] = []
        self._ids: list[list[int]] = []
        self._generator = torch.Generator().manual_seed(self.seed)
        self._state = self.model.start(1)
        self._ahead: Tensor | None = None
        self._recent = Recent.none(1)
        self.last = Written()

    def set(self, **values: float | str) -> None:
        """Changes the sampling; a wrong value leaves it as it was."""
        self._chooser = Chooser(self.model, replace(self.sampling, **values))

    def feed(self, text: str) -> None:
        """Lets the model read `text`; where it has more tokens than the model uses, their end counts.

        Raises:
            DataError: a character is outside the vocabulary; nothing was read.
        """
        foreign = self.model.tokenizer.unknown(text)
        if foreign and self.model.tokenizer.strict:
            raise DataError(
                f"the text has characters that the model never saw: {', '.join(map(repr, foreign))}; "
                "replace them or leave them out"
            )
        ids = torch.as_tensor(self.model.tokenizer.encode(text))
        if len(ids) == 0:
            return
        self._read(ids, text)

    def _read(self, ids: Tensor, text: str) -> None:
        self._ahead, self._state = self.model.prefill(ids[None], self._state)
        self._recent = self._recent.take(ids[None])
        self.turns.append(("user", text))
        self._ids.append(ids.tolist())
        self._told = self._told or _tells_of_tail(self.model, sum(map(len, self._ids)))

    def reply(self, *, max_tokens: int, stop: Sequence[str] = ()) -> Iterator[str]:
        """Yields the reply piece by piece; a stop string ends it and is not yielded.

        Leaving the iterator early keeps the session usable: what was yielded has been said.

        Raises:
            ConfigError: `max_tokens` is out of range or a stop string is empty.
        """
        check_max_tokens(max_tokens)
        _check_stop(stop)
        if self._ahead is None:
            self._read(torch.as_tensor(self.model.tokenizer.opening()), NEWLINE)
        return self._reply(max_tokens, tuple(stop))

    def _reply(self, max_tokens: int, stop: tuple[str, ...]) -> Iterator[str]:
        said, ids, self.last = list[str](), list[int](), Written()
        held, decoded = "", self.model.tokenizer.decoder()
        longest, end = max((len(s) for s in stop), default=0), None
        try:
            for _ in range(max_tokens):
                assert self._ahead is not None
                doubt = self._chooser.doubts(self._ahead)[0]
                if doubt is not None and self.sampling.doubt == "hold":
                    self.last.doubt = doubt
                    break
                self.last.fallbacks += doubt is not None
                token = self._chooser.take(self._ahead, self._recent, self._generator, doubt)
                self._recent = self._chooser.written(self._recent, token, [True])
                ids += token.tolist()
                piece = decoded(token.tolist(), False)
                self._ahead, self._state = self.model.step(token, self._state)
                said.append(piece)
                held += piece
                end = first_stop(held, stop)
                if end is not None:
                    held = held[:end]
                    break
                if len(held) >= max(longest, 1):
                    cut = len(held) - max(longest - 1, 0)
                    ready, held = held[:cut], held[cut:]
                    yield ready
            if end is None:
                # What was held back of a character that never came to its end.
                last = decoded([], True)
                said.append(last)
                held += last
            if held:
                yield held
        finally:
            self.last.text = "".join(said)
            self.turns.append(("model", self.last.text))
            self._ids.append(ids)

    def save(self, path: Path) -> None:
        """Writes seed, sampling and turns as JSON.

        Raises:
            StorageError: the file cannot be written.
        """
        content = {
            "seed": self.seed,
            "sampling": vars(self.sampling),
            "turns": self.turns,
            "ids": self._ids,
            "generator": self._generator.get_state().tolist(),
        }
        try:
            path.write_text(json.dumps(content), encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot save the session to `{path}`: {error.strerror}") from error

    def _check_turns(self, turns: list[tuple[str, str]], ids: list[Tensor]) -> None:
        """Refuses tokens that do not say, to this model, what the turns say."""
        tokenizer = self.model.tokenizer
        if len(ids) != len(turns):
            raise ValueError("it has tokens for another number of turns")
        for (role, text), tokens in zip(turns, ids, strict=True):
            said = tokens.tolist()
            if said and not 0 <= min(said) <= max(said) < tokenizer.vocab_size:
                raise ValueError("its tokens are not those of this model")
            read = role == "user" and said in (list(tokenizer.encode(text)), list(tokenizer.opening()))
            if not read and tokenizer.decode(said).strip() != text.strip():
                raise ValueError("its tokens say something else to this model than was said")

    @property
    def drawn(self) -> int:
        """Tokens of the last turn."""
        return len(self._ids[-1]) if self._ids else 0

    def load(self, path: Path) -> None:
        """Continues a saved session: reads every turn again the way it was said.

        Raises:
            DataError: the file is missing or is not a saved session; this session stays as it was.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            chooser = Chooser(self.model, Sampling(**content["sampling"]))
            seed = int(content["seed"])
            _check_seed(seed)
            turns = [(str(role), str(text)) for role, text in content["turns"]]
            generator = torch.tensor(content["generator"], dtype=torch.uint8)
            torch.Generator().set_state(generator)
            # Text alone does not say by which tokens it was written.
            known = content.get("ids") or [self.model.tokenizer.encode(text) for _, text in turns]
            ids = [torch.as_tensor(np.asarray(tokens, dtype=np.int64)) for tokens in known]
            self._check_turns(turns, ids)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ArithmeticError, ConfigError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"`{path}` is not a saved session ({reason}); save one with /save FILE") from error
        self._chooser, self.seed = chooser, seed
        self.reset()
        for (role, _), tokens in zip(turns, ids, strict=True):
            if role == "user":
                self._recent = self._recent.take(tokens[None])
                self._ahead, self._state = self.model.prefill(tokens[None], self._state)
            else:
                for token in tokens:
                    self._recent = self._chooser.written(self._recent, token[None], [True])
                    self._ahead, self._state = self.model.step(token[None], self._state)
        self.turns, self._ids = turns, [tokens.tolist() for tokens in ids]
        self._generator.set_state(generator)


def generate(
    model: LanguageModel,
    prompt: str,
    *,
    sampling: Sampling,
    max_tokens: int,
    seed: int,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """Continues `prompt`; yields the new text piece by piece."""
    session = Session(model, sampling, seed=seed)
    session.feed(prompt)
    return session.reply(max_tokens=max_tokens, stop=stop)


def generate_batch(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    sampling: Sampling,
    max_tokens: int,
    seed: int,
    stop: Sequence[str] = (),
) -> list[Written]:
    """Continues many prompts together, each after its last tokens where it has more than the model uses.

    Prompt n is continued as `generate` would with seed + n, up to rounding in the model's batched products.

    Raises:
        ConfigError: `max_tokens` is out of range, a stop string or a prompt is empty.
        DataError: a prompt has characters that the model never saw.
    """
    encoded = []
    for n, prompt in enumerate(prompts):
        if not prompt:
            raise ConfigError(f"`prompts` is empty at place {n}; give some text to continue")
        if (foreign := model.tokenizer.unknown(prompt)) and model.tokenizer.strict:
            raise DataError(f"prompt {n} has characters that the model never saw: {', '.join(map(repr, foreign))}")
        encoded.append(model.tokenizer.encode(prompt))
    return continue_batch(model, encoded, sampling=sampling, max_tokens=max_tokens, seed=seed, stop=stop)


def continue_batch(
    model: LanguageModel,
    prompts: Sequence[np.ndarray],
    *,
    sampling: Sampling,
    max_tokens: int,
    seed: int,
    stop: Sequence[str] = (),
) -> list[Written]:
    """As `generate_batch`, from token ids; without any, a reply follows `tokenizer.opening()`.

    Raises:
        ConfigError: `max_tokens` is out of range, or a stop string is empty.
    """
    check_max_tokens(max_tokens)
    _check_stop(stop)
    rows = [torch.as_tensor(ids if len(ids) else model.tokenizer.opening()) for ids in prompts]
    order, texts = sorted(range(len(rows)), key=lambda n: len(rows[n])), [Written()] * len(rows)
    chooser = Chooser(model, sampling)
    _tells_of_tail(model, max(map(len, rows), default=0))
    while order:
        shortest = len(rows[order[0]])
        places = [n for n in order[:ROWS] if len(rows[n]) <= shortest + SPREAD]
        del order[: len(places)]
        found = _continue_together(
            model, [rows[n] for n in places], chooser, max_tokens, [seed + n for n in places], stop
        )
        for n, text in zip(places, found, strict=True):
            texts[n] = text
    return texts


def _continue_together(
    model: LanguageModel,
    prompts: Sequence[Tensor],
    chooser: Chooser,
    max_tokens: int,
    seeds: Sequence[int],
    stop: Sequence[str],
) -> list[Written]:
    """Continues prompts of like length in lockstep: where one still has words of its own, they are what is said."""
    shortest, longest = len(prompts[0]), len(prompts[-1])
    generators, holds = [torch.Generator().manual_seed(seed) for seed in seeds], chooser.sampling.doubt == "hold"
    decoders = [model.tokenizer.decoder() for _ in prompts]
    texts, done = [Written() for _ in prompts], [False] * len(prompts)
    ids = torch.stack([prompt[:shortest] for prompt in prompts])
    ahead, state = model.prefill(ids, model.start(len(prompts)))
    recent = Recent.none(len(prompts)).take(ids)
    for place in range(shortest, longest + max_tokens):
        speaks, unsure = [place >= len(prompt) for prompt in prompts], chooser.doubts(ahead)
        for n in (n for n, doubt in enumerate(unsure) if doubt is not None and speaks[n] and not done[n]):
            texts[n].fallbacks += not holds
            if holds:
                texts[n].doubt, done[n] = unsure[n], True
                texts[n].text += decoders[n]([], True)
        if chooser.sampling.temperature == 0:
            token = chooser.take(ahead, recent, generators[0])
        else:
            token = torch.zeros(len(prompts), dtype=torch.int64)
            for n in (n for n, speaking in enumerate(speaks) if speaking and not done[n]):
                row = slice(n, n + 1)
                token[n] = chooser.take(ahead[row], recent.part(row), generators[n], unsure[n])
        for n, prompt in enumerate(prompts):
            if not speaks[n]:
                token[n] = prompt[place]
            elif not done[n]:
                last = place + 1 == len(prompt) + max_tokens
                text = texts[n].text + decoders[n]([int(token[n])], False) + (decoders[n]([], True) if last else "")
                end = first_stop(text, stop)
                done[n] = last or end is not None
                texts[n].text = text[:end]
        if all(done):
            break
        recent = chooser.written(recent, token, speaks)
        ahead, state = model.step(token, state)
    return texts


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins in a text, or None."""
    return min((at for s in stop if (at := text.find(s)) >= 0), default=None)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise ConfigError(f"`seed` is {seed}; wanted a whole number from 0 to 2^64 - 1")


def _check_stop(stop: Sequence[str]) -> None:
    if any(not s for s in stop):
        raise ConfigError("`stop` holds an empty string; leave it out or name some text")
