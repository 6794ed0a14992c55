"""Byte-level byte-pair encoding: every string of bytes has tokens, and they give it back."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.data.tokenizer import CharTokenizer, stored_kind

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIALS = ("<pad>", "<endoftext>", "<text>", "<image>", "<video>", "<unk>")
"""Ids 0 to 5; they are never made from text."""
SMALLEST = len(SPECIALS) + 256
TRAINING_CHARACTERS = 100_000
"""Characters handed over at once while merges are learned."""


def _bytes_as_characters() -> dict[int, str]:
    """The alphabet of byte-level BPE (Radford et al. 2019): printable bytes stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    found, extra = {}, 0
    for byte in range(256):
        if byte in printable:
            found[byte] = chr(byte)
        else:
            found[byte] = chr(256 + extra)
            extra += 1
    return found


class BytePairTokenizer:
    """Tokens are frequent strings of bytes, learned from a text; the 256 bytes themselves are always among them.

    Args:
        definition: the JSON of a byte-level `tokenizers.Tokenizer`.

    Raises:
        CheckpointError: it is not one, or its special tokens are not ids 0 to 5.
    """

    unk = False

    strict = True
    unspoken = tuple(range(len(SPECIALS)))
    """Never drawn."""

    def __init__(self, definition: str) -> None:
        from tokenizers import Tokenizer

        try:
            kind = json.loads(definition)["model"]["type"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"`tokenizer.json` is not a byte-pair tokenizer ({error})") from error
        if kind != "BPE":
            raise CheckpointError(f"`tokenizer.json` holds a model of type {kind!r}; wanted BPE")
        inner: Tokenizer = Tokenizer.from_str(definition)
        if [inner.token_to_id(s) for s in SPECIALS] != list(range(len(SPECIALS))):
            raise CheckpointError(f"`tokenizer.json` lacks the special tokens {', '.join(SPECIALS)} at ids 0 to 5")
        self._inner, self._definition = inner, definition
        self._of_byte = {c: n for c, n in inner.get_vocab().items() if len(c) == 1}
        characters = {c: b for b, c in _bytes_as_characters().items()}
        names = sorted(inner.get_vocab(), key=inner.get_vocab().__getitem__)
        self._bytes = [b"" if n < len(SPECIALS) else bytes(characters[c] for c in s) for n, s in enumerate(names)]

    @classmethod
    def from_text(cls, text: str, *, vocab_size: int) -> BytePairTokenizer:
        """Learns the merges from a text; equal texts give equal tokenizers.

        Raises:
            ConfigError: `vocab_size` has no room for the bytes and the special tokens.
            DataError: the text is empty.
        """
        from tokenizers import Tokenizer
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel
        from tokenizers.trainers import BpeTrainer

        if vocab_size < SMALLEST:
            raise ConfigError(
                f"`vocab_size` is {vocab_size}; wanted {SMALLEST} or more: 256 bytes and 6 special tokens"
            )
        if not text:
            raise DataError("the training part of the text is empty; give a longer text")
        inner = Tokenizer(BPE())
        inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(_pieces(text), trainer)
        # A text that spells a special token is text: the tokenizer must not find it there.
        inner.encode_special_tokens = True
        return cls(inner.to_str())

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self._bytes)

    @property
    def symbols(self) -> tuple[str, ...]:
        """What each token stands for, bytes that are no text replaced; for labels."""
        return (*SPECIALS, *(b.decode("utf-8", "replace") for b in self._bytes[len(SPECIALS) :]))

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text, int64.

        Raises:
            DataError: a character is half of a pair, which no UTF-8 has.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"`text` has {text[error.start]!r} at position {error.start}, which is no character"
            ) from error
        self._inner.encode_special_tokens = True
        return np.array(self._inner.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def encode_bytes(self, content: bytes) -> np.ndarray:
        """Token ids of any bytes, int64: each byte that is no UTF-8 becomes the token of that byte."""
        ids: list[int] = []
        alphabet = _bytes_as_characters()
        while content:
            try:
                return np.array([*ids, *self.encode(content.decode("utf-8"))], dtype=np.int64)
            except UnicodeDecodeError as error:
                ids += self.encode(content[: error.start].decode("utf-8")).tolist()
                ids += [self._of_byte[alphabet[b]] for b in content[error.start : error.end]]
                content = content[error.end :]
        return np.array(ids, dtype=np.int64)

    def unknown(self, text: str) -> dict[str, int]:
        """Nothing is unknown."""
        return {}

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of token ids; special tokens stand for none.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        index = np.asarray(ids, dtype=np.int64).reshape(-1)
        if index.size and not 0 <= index.min() <= index.max() < self.vocab_size:
            raise DataError(f"`ids` run from {index.min()} to {index.max()}; wanted 0 to {self.vocab_size - 1}")
        return b"".join([self._bytes[i] for i in index.tolist()])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decoder(self) -> Callable[[Sequence[int] | np.ndarray, bool], str]:
        """Decodes ids as they come: a character is held back until all its bytes are there."""
        inner = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda ids, last: inner.decode(self.decode_bytes(ids), last)

    def opening(self) -> np.ndarray:
        """A line end."""
        return self.encode("\n")

    def to_json(self) -> str:
        """Everything that `from_json` needs, as text."""
        return json.dumps({"kind": "bpe", "definition": self._definition})

    @classmethod
    def from_json(cls, text: str) -> BytePairTokenizer:
        """Reads `to_json` back.

        Raises:
            CheckpointError: it is not a stored tokenizer.
        """
        try:
            content = json.loads(text)
            kind, definition = content["kind"], content["definition"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"`tokenizer.json` is not a stored tokenizer ({error})") from error
        if kind != "bpe" or not isinstance(definition, str):
            raise CheckpointError(f"`tokenizer.json` is of kind {kind!r}; wanted bpe")
        return cls(definition)


def read_tokenizer(text: str) -> CharTokenizer | BytePairTokenizer:
    """Reads a stored tokenizer of any kind back.

    Raises:
        CheckpointError: it is none.
    """
    return BytePairTokenizer.from_json(text) if stored_kind(text) == "bpe" else CharTokenizer.from_json(text)


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that end at line ends; what stands across two of them is not learned as one token."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + TRAINING_CHARACTERS)
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end
