"""Characters as tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from holonomy.core.errors import CheckpointError, DataError

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
SHOWN = 5
"""How many foreign characters an error names."""


class Spelling(NamedTuple):
    """How characters make words and lines.

    Attributes:
        letters: one more than the id of the small letter of each character of words, 0 for others, [V] int64.
        breaks: which characters end a line, [V] bool.
        blank: the character that a break stands for where text flows, the space, or -1 if there is none.
    """

    letters: np.ndarray
    breaks: np.ndarray
    blank: int


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def stored_kind(text: str) -> str:
    """Kind of a stored tokenizer: char, word or bpe.

    Raises:
        CheckpointError: it is none.
    """
    try:
        return str(json.loads(text)["kind"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"`tokenizer.json` is not a stored tokenizer ({error})") from error


class CharTokenizer:
    """One token a character; ids follow the sorted characters.

    Args:
        symbols: the characters, sorted and distinct.
        unk: characters outside `symbols` become U+FFFD, which must be one of them, instead of an error.
    """

    strict = True
    """Text with unknown characters is refused in conversations."""

    def __init__(self, symbols: Sequence[str], *, unk: bool) -> None:
        self.symbols, self.unk = tuple(symbols), unk
        self._codes = _codes("".join(self.symbols))

    @classmethod
    def from_text(cls, text: str, *, unk: bool = False) -> CharTokenizer:
        """Takes the characters of a text, and U+FFFD if `unk`.

        Raises:
            DataError: the text is empty.
        """
        if not text:
            raise DataError("the training part of the text is empty; give a longer text")
        codes = np.unique(_codes(text))
        if unk:
            codes = np.union1d(codes, _codes(UNKNOWN))
        return cls([chr(c) for c in codes.tolist()], unk=unk)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self.symbols)

    @property
    def unknown_id(self) -> int | None:
        """Id that unknown characters get; None where `unk` is not set."""
        return self.symbols.index(UNKNOWN) if self.unk else None

    @property
    def unspoken(self) -> tuple[int, ...]:
        """The id of unknown characters, which is never drawn."""
        return () if self.unknown_id is None else (self.unknown_id,)

    @property
    def pad_id(self) -> int:
        """Stands before a text; one more than the characters, so that it has no probability."""
        return self.vocab_size

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that decides an encoding."""
        return hashlib.sha256(self.to_json().encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def spelling(self) -> Spelling:
        """Which characters make words and lines."""
        inside = [c.isalnum() or c == "'" for c in self.symbols]
        ids = {c: i for i, c in enumerate(self.symbols)}
        folded = [
            ids.get(c.lower(), i) + 1 if word else 0
            for i, (c, word) in enumerate(zip(self.symbols, inside, strict=True))
        ]
        breaks = np.array([c == "\n" for c in self.symbols])
        return Spelling(np.array(folded, dtype=np.int64), breaks, ids.get(" ", -1))

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text, int64.

        Raises:
            DataError: a character is not in the vocabulary and there is no symbol for unknown ones.
        """
        codes = _codes(text)
        ids = np.searchsorted(self._codes, codes).clip(max=self.vocab_size - 1)
        foreign = self._codes[ids] != codes
        if foreign.any():
            if not self.unk:
                raise DataError(self._complaint(text, codes, foreign))
            ids[foreign] = self.unknown_id
        return ids.astype(np.int64, copy=False)

    def _complaint(self, text: str, codes: np.ndarray, foreign: np.ndarray) -> str:
        at = int(foreign.argmax())
        line = text.count("\n", 0, at) + 1
        distinct = [chr(c) for c in np.unique(codes[foreign]).tolist()]
        names = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in distinct[:SHOWN])
        more = f" and {len(distinct) - SHOWN} more" if len(distinct) > SHOWN else ""
        return (
            f"the text has characters outside the vocabulary of {self.vocab_size}: {names}{more}; "
            f"the first is {text[at]!r} at position {at} (line {line}). "
            "Remove or replace them, or train with --set data.unk=true"
        )

    def unknown(self, text: str) -> dict[str, int]:
        """Characters of a text that are outside the vocabulary, with their counts."""
        codes, counts = np.unique(_codes(text), return_counts=True)
        outside = ~np.isin(codes, self._codes)
        return {chr(c): n for c, n in zip(codes[outside].tolist(), counts[outside].tolist(), strict=True)}

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of token ids.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        index = np.asarray(ids, dtype=np.int64).reshape(-1)
        if index.size and not 0 <= index.min() <= index.max() < self.vocab_size:
            raise DataError(f"`ids` run from {index.min()} to {index.max()}; wanted 0 to {self.vocab_size - 1}")
        # numpy strips trailing NULs from its strings, so the characters are joined one by one.
        return "".join([self.symbols[i] for i in index.tolist()])

    def decoder(self) -> Callable[[Sequence[int] | np.ndarray, bool], str]:
        """Decodes ids as they come."""
        return lambda ids, last: self.decode(ids)

    def opening(self) -> np.ndarray:
        """A line end; where no text had one, a space, and at last the first character."""
        return self.encode(next((c for c in "\n " if c in self.symbols), self.symbols[0]))

    def to_json(self) -> str:
        """Everything that `from_json` needs, as text."""
        return json.dumps({"kind": "char", "unk": self.unk, "symbols": "".join(self.symbols)})

    @classmethod
    def from_json(cls, text: str) -> CharTokenizer:
        """Reads `to_json` back.

        Raises:
            CheckpointError: it is not a stored tokenizer.
        """
        try:
            content = json.loads(text)
            kind, unk, symbols = content["kind"], content["unk"], content["symbols"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"`tokenizer.json` is not a stored tokenizer ({error})") from error
        sound = kind == "char" and isinstance(unk, bool) and isinstance(symbols, str) and len(symbols) > 0
        if not sound or list(symbols) != sorted(set(symbols)) or (unk and UNKNOWN not in symbols):
            raise CheckpointError("`tokenizer.json` does not hold sorted, distinct characters")
        return cls(symbols, unk=unk)
