"""Words and punctuation as tokens, and texts cut into a training and a held-out part of words."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from holonomy.core.errors import CheckpointError, ConfigError, DataError
from holonomy.data.patterns import WORD_PATTERN, token_pattern
from holonomy.data.splits import split_text
from holonomy.data.tokenizer import CharTokenizer, Spelling, stored_kind

UNKNOWN_ID, PAD_ID = 0, 1
RESERVED = "<unk>", "<pad>"
"""Words of these ids."""
CLOSING = frozenset(".,!?;:")
"""Before these a decoded text has no space."""


class WordTokenizer:
    """One token a word; frequent words have small ids.

    Id 0 stands for words outside the vocabulary, id 1 for the place before a document's first word.

    Args:
        words: the vocabulary after those, distinct.
        pattern: regular expression of one token.

    Raises:
        ConfigError: a word stands twice or is a reserved one, or the pattern is none.
    """

    strict = False
    """Unknown words are read as such."""
    pad_id = PAD_ID
    unknown_id: int | None = UNKNOWN_ID
    unspoken = UNKNOWN_ID, PAD_ID
    """Never drawn."""
    spelling: Spelling | None = None
    """Words are not looked into."""

    def __init__(self, words: Sequence[str], *, pattern: str = WORD_PATTERN) -> None:
        self.pattern, self.symbols = pattern, (*RESERVED, *words)
        self._find = token_pattern(pattern).findall
        self._ids = {word: i for i, word in enumerate(self.symbols)}
        if len(self._ids) != len(self.symbols):
            twice = next(word for word, count in Counter(self.symbols).items() if count > 1)
            raise ConfigError(f"`words` holds {twice!r} twice or as a reserved word; give distinct words")

    @classmethod
    def train(
        cls,
        documents: Iterable[str],
        *,
        vocab_size: int = 200_000,
        min_count: int = 2,
        pattern: str = WORD_PATTERN,
        max_documents: int = 500_000,
    ) -> WordTokenizer:
        """Takes the most frequent words of documents, equal counts in code-point order.

        Args:
            documents: texts; read one at a time.
            vocab_size: largest number of ids, the reserved ones included.
            min_count: rarer words are unknown.
            pattern: regular expression of one token.
            max_documents: later ones are not read.

        Raises:
            ConfigError: no place for a word, or a count below one.
            DataError: no word at all.
        """
        if vocab_size <= len(RESERVED) or min_count < 1:
            raise ConfigError(
                f"`vocab_size` is {vocab_size} and `min_count` {min_count}; wanted more than {len(RESERVED)} and 1 or "
                "more"
            )
        find, counts = token_pattern(pattern).findall, Counter()
        for document in islice(documents, max_documents):
            counts.update(find(document))
        if not counts:
            raise DataError("`documents` hold no word; give texts with words, or another `pattern`")
        return cls.from_counts(counts, vocab_size=vocab_size, min_count=min_count, pattern=pattern)

    @classmethod
    def from_counts(
        cls,
        counts: Counter[str],
        *,
        vocab_size: int = 200_000,
        min_count: int = 2,
        pattern: str = WORD_PATTERN,
    ) -> WordTokenizer:
        """As `train`, from counted words, so that several processes may count."""
        frequent = sorted((-count, word) for word, count in counts.items() if count >= min_count)
        if not frequent:
            raise DataError(f"no word occurs `min_count` = {min_count} times; give a longer text, or a smaller number")
        return cls([word for _, word in frequent[: vocab_size - len(RESERVED)]], pattern=pattern)

    def extended(self, words: Iterable[str], *, min_count: int = 2) -> WordTokenizer:
        """With further words behind those it has, the most frequent first; ids of the others stay."""
        counts = Counter(word for word in words if word not in self._ids)
        frequent = sorted((-count, word) for word, count in counts.items() if count >= min_count)
        return self.shortened(self.vocab_size, [word for _, word in frequent])

    def shortened(self, vocab_size: int, more: Sequence[str] = ()) -> WordTokenizer:
        """The first `vocab_size` ids alone, and `more` words behind them."""
        return WordTokenizer([*self.symbols[len(RESERVED) : vocab_size], *more], pattern=self.pattern)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self.symbols)

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that decides an encoding."""
        return hashlib.sha256(self.to_json().encode("utf-8", "surrogatepass")).hexdigest()

    def words_of(self, text: str) -> list[str]:
        """The tokens of a text, in or out of the vocabulary."""
        return self._find(text)

    def encode_words(self, words: Sequence[str]) -> np.ndarray:
        """Ids of tokens, int64."""
        known = self._ids.get
        return np.fromiter((known(word, UNKNOWN_ID) for word in words), dtype=np.int64, count=len(words))

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text, int64."""
        return self.encode_words(self._find(text))

    def unknown(self, text: str) -> dict[str, int]:
        """Words of a text that are outside the vocabulary, with their counts."""
        return {word: n for word, n in sorted(Counter(self._find(text)).items()) if word not in self._ids}

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Words between single spaces, closing punctuation without; places before a document leave nothing.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        index = np.asarray(ids, dtype=np.int64).reshape(-1)
        if index.size and not 0 <= index.min() <= index.max() < self.vocab_size:
            raise DataError(f"`ids` run from {index.min()} to {index.max()}; wanted 0 to {self.vocab_size - 1}")
        words = [self.symbols[i] for i in index.tolist() if i != PAD_ID]
        return "".join([word if word in CLOSING else f" {word}" for word in words]).removeprefix(" ")

    def opening(self) -> np.ndarray:
        """The place before a document's first word."""
        return np.array([PAD_ID])

    def decoder(self) -> Callable[[Sequence[int] | np.ndarray, bool], str]:
        """Decodes ids as they come: a space before every word, none before closing punctuation."""
        return lambda ids, last: "".join(
            [w if w in CLOSING else f" {w}" for w in (self.decode([i]) for i in np.asarray(ids).reshape(-1)) if w]
        )

    def to_json(self) -> str:
        """Everything that `from_json` needs, as text."""
        words = list(self.symbols[len(RESERVED) :])
        # `ends` stays: fingerprints, which token ids on disk are known by, are of this text.
        return json.dumps({"kind": "word", "pattern": self.pattern, "ends": False, "words": words})

    @classmethod
    def from_json(cls, text: str) -> WordTokenizer:
        """Reads `to_json` back.

        Raises:
            CheckpointError: it is not a stored tokenizer.
        """
        try:
            content = json.loads(text)
            kind, pattern, ends, words = (content[key] for key in ("kind", "pattern", "ends", "words"))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"`tokenizer.json` is not a stored tokenizer ({error})") from error
        sound = kind == "word" and isinstance(pattern, str) and ends is False and isinstance(words, list)
        if not sound or not all(isinstance(word, str) for word in words):
            raise CheckpointError("`tokenizer.json` does not hold a pattern and a list of words")
        try:
            return cls(words, pattern=pattern)
        except ConfigError as error:
            raise CheckpointError(f"`tokenizer.json` is damaged: {error}") from error


@dataclass(frozen=True)
class WordSplit:
    """One text as words or characters: the vocabulary is that of the training part.

    Attributes:
        tokenizer: words or characters of the training part.
        train: ids of the first part.
        test: ids of the rest.
    """

    tokenizer: WordTokenizer | CharTokenizer
    train: np.ndarray
    test: np.ndarray

    @property
    def unknown_shares(self) -> tuple[float, float]:
        """Share of unknown words or characters in both parts."""
        unknown = self.tokenizer.unknown_id
        if unknown is None:
            return 0.0, 0.0
        return float((self.train == unknown).mean()), float((self.test == unknown).mean())


def split_words(text: str, *, train_share: float = 0.9, min_count: int = 2, pattern: str = WORD_PATTERN) -> WordSplit:
    """The first `int(words * train_share)` words of a text to train on, the rest to test on.

    Raises:
        ConfigError: the share is outside (0, 1).
        DataError: a part would be empty.
    """
    if not 0 < train_share < 1:
        raise ConfigError(f"`train_share` is {train_share}; wanted a number in (0, 1)")
    words = token_pattern(pattern).findall(text)
    cut = int(len(words) * train_share)
    if not 0 < cut < len(words):
        raise DataError(f"`text` has {len(words)} words, too few for two parts; give a longer text")
    tokenizer = WordTokenizer.from_counts(Counter(words[:cut]), min_count=min_count, pattern=pattern)
    ids = tokenizer.encode_words(words)
    return WordSplit(tokenizer, ids[:cut], ids[cut:])


def split_characters(
    text: str,
    *,
    train_share: float = 0.9,
    unk: bool = False,
    tokenizer: WordTokenizer | CharTokenizer | None = None,
) -> WordSplit:
    """The first `int(characters * train_share)` characters of a text to train on, the rest to test on.

    Args:
        text: the text.
        train_share: of the first part.
        unk: characters that the first part lacks become U+FFFD.
        tokenizer: use this one instead of the characters of the first part.

    Raises:
        ConfigError: the share is outside (0, 1).
        DataError: a part would be empty, or the rest has characters that the first part lacks and `unk` is not set.
    """
    if not 0 < train_share < 1:
        raise ConfigError(f"`train_share` is {train_share}; wanted a number in (0, 1)")
    first, rest = split_text(text, train_share)
    if not first or not rest:
        raise DataError(f"`text` has {len(text)} characters, too few for two parts; give a longer text")
    tokenizer = tokenizer or CharTokenizer.from_text(first, unk=unk)
    return WordSplit(tokenizer, tokenizer.encode(first), tokenizer.encode(rest))


def tokenizer_from_json(text: str) -> WordTokenizer | CharTokenizer:
    """Reads back what `to_json` of either kind gave.

    Raises:
        CheckpointError: it is neither.
    """
    return CharTokenizer.from_json(text) if stored_kind(text) == "char" else WordTokenizer.from_json(text)
