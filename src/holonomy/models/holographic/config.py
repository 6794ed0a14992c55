"""Configuration of the holographic family. Free of torch, so that a wrong configuration is refused at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator, model_validator

from holonomy.core.budget import Cadence, Guard
from holonomy.core.config import Config, off_word, refuse_unread
from holonomy.core.errors import ConfigError
from holonomy.core.inference import InferConfig
from holonomy.data.patterns import WORD_PATTERN, token_pattern


class TowerConfig(Config):
    """Superposed bindings."""

    role: Literal["mirror", "overflow", "off"] = Field(
        default="mirror",
        description="mirror: every pair is bound beside its exact count; overflow: those that model.memory drops; off",
    )
    levels: int = Field(default=5, ge=3, le=10, description="of the tower; 16^levels multivectors at 16 channels")
    channels: int = Field(default=16, ge=1, le=1024, description="multivectors at an address; a power of two")
    top_digits: dict[int, int] = Field(default={2: 4, 3: 6, 4: 6}, description="first digits for each order")
    promote_at: int | None = Field(
        default=4, ge=1, description="count from which a pair leaves the store to its exact count; null is never"
    )
    cleanup: Literal["auto", "full", "candidates"] = Field(
        default="auto",
        description="words that a settled state may hold: all, candidates, or what similarity speaks of",
    )
    seed: int = Field(default=7, ge=0, lt=2**31, description="of rotations and addresses")

    _off = field_validator("role", mode="before")(off_word)

    @model_validator(mode="after")
    def _check(self) -> TowerConfig:
        orders = sorted(self.top_digits)
        if not orders or orders != list(range(2, 2 + len(orders))) or min(self.top_digits.values()) < 1:
            raise ValueError(f"top_digits = {self.top_digits} must give one digit or more to orders 2, 3, ...")
        if sum(self.top_digits.values()) > 16 or self.channels & (self.channels - 1):
            raise ValueError(f"top_digits must sum to 16 at most, and channels = {self.channels} be a power of two")
        return self


class CountsConfig(Config):
    """Exact counts."""

    order: int = Field(default=5, ge=2, le=12, description="longest gram of words in a row")
    skips: tuple[tuple[int, ...], ...] = Field(
        default=((1, 3, 4), (2, 3, 4)), description="further contexts of chosen places, 1 the last word"
    )
    spelled: tuple[tuple[str, ...], ...] = Field(
        default=(),
        description="contexts of characters: word0 (begun) to word3, flow0 to flow2 (over line ends), column in "
        "the line, char1 (last) to char8, line, length (of the one before), head1 (first line of the part), head2 (of "
        "the one before), after2 to after4 (what followed the last two to four the last time)",
    )
    classes: tuple[int, ...] = Field(default=(100, 400), description="numbers of word classes to read contexts in")
    class_order: int = Field(default=4, ge=2, le=8, description="longest gram of a word after classes")

    @model_validator(mode="after")
    def _check(self) -> CountsConfig:
        for places in self.skips:
            if not places or list(places) != sorted(set(places)) or places[0] < 1 or places[-1] > 16:
                raise ValueError(f"skips: {list(places)} must rise from 1 or more to 16 at most")
        sources = {*(f"word{k}" for k in range(4)), "column", *(f"char{k}" for k in range(1, 9))}
        sources |= {"flow0", "flow1", "flow2", "line", "length", "head1", "head2", "after2", "after3", "after4"}
        for parts in self.spelled:
            asked = [source for symbol in parts for source in symbol.split("+")]
            if not parts or len(asked) > 8 or len(set(asked)) < len(asked) or not set(asked) <= sources:
                raise ValueError(f"spelled: {list(parts)} wants 1 to 8 of {', '.join(sorted(sources))}")
        if any(number < 2 for number in self.classes) or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes = {list(self.classes)} must be distinct and 2 or more")
        return self


class SimilarityConfig(Config):
    """Word vectors and what contexts expect of them."""

    dim: int = Field(default=128, ge=16, le=4096, description="numbers of a word vector; a multiple of 16")
    ridge: float = Field(default=5.0, gt=0, description="added to the diagonal of the sum of squares")
    decay: float = Field(default=0.618, gt=0, le=1, description="weight of a word relative to the one after it")
    positions: int = Field(default=6, ge=2, le=64, description="words of a context that are superposed")
    topics: int = Field(
        default=128, ge=0, le=4096, description="runs of the learned text that a text may resemble, at most; 0 is none"
    )
    candidates: int | None = Field(
        default=None,
        ge=64,
        le=4096,
        description="words that similarity speaks of after each context; null is all of them up to 32,768, else 4,096",
    )
    readout: bool = Field(default=False, description="also expect words directly; features times vocabulary numbers")

    @model_validator(mode="after")
    def _check(self) -> SimilarityConfig:
        if self.dim % 16:
            raise ValueError(f"dim = {self.dim} must be a multiple of 16")
        return self


class BasinsConfig(Config):
    """What followed the contexts that look most like the one asked for."""

    enabled: bool = Field(default=False, description="keep the key of every learned context, 8 dim bytes and more each")
    bits: int = Field(default=14, ge=1, le=24, description="hyperplanes of a table")
    tables: int = Field(default=8, ge=1, le=64, description="of buckets")
    probes: int = Field(default=4, ge=1, le=2**16, description="buckets of each table that are looked into")
    neighbours: int = Field(default=64, ge=1, le=4096, description="contexts that count, the nearest of those found")


class RecencyConfig(Config):
    """What the text itself remembers."""

    traces: tuple[tuple[int, int, float], ...] = Field(
        default=(
            (0, 600, 200.0),
            (0, 600, 15.0),
            (1, 3000, 400.0),
            (2, 3000, 400.0),
            (3, 3000, 400.0),
            (5, 3000, 400.0),
        ),
        description="last words that must match, words back, time constant of forgetting",
    )

    @model_validator(mode="after")
    def _check(self) -> RecencyConfig:
        for match, window, tau in self.traces:
            if not 0 <= match <= 32 or not 1 <= window <= 65536 or not tau > 0:
                raise ValueError(f"traces: {[match, window, tau]} wants match 0 to 32, window 1 to 65536, tau above 0")
        return self


class MixtureConfig(Config):
    """How the experts become one distribution."""

    product: Literal["episodic", "all", "none"] = Field(
        default="episodic", description="what is sharpened by similarity: exact counts, the whole mixture, or nothing"
    )
    blocks: int = Field(default=4, ge=1, le=16, description="parts of the training text that are held out to fit")
    span: float = Field(default=0.5, gt=0, lt=1, description="share of the training text, at its end, that they lie in")
    block_share: float = Field(default=0.05, gt=0, lt=0.5, description="share of the training text in each of them")
    rare: int = Field(
        default=2, ge=0, description="held-out words seen fewer times before are asked for as unknown; 0 is never"
    )
    positions: int = Field(default=20_000, ge=100, description="held-out words that the fit takes at most")
    product_positions: int = Field(default=1500, ge=50, description="held-out words that fit the exponents")
    product_steps: int = Field(default=40, ge=1, description="evaluations that the exponents may take")
    temper: bool = Field(default=True, description="correct how sure the whole is of its first word")
    em_steps: int = Field(default=300, ge=1, description="steps of expectation and maximisation")
    pool: Literal["linear", "logarithmic"] = Field(
        default="linear",
        description="linear: experts are added; logarithmic: multiplied, each order a voice, for up to 4,096 ids",
    )
    lowest: int = Field(default=2, ge=1, le=8, description="lowest order of the counts with a voice, if logarithmic")
    pool_prior: float = Field(default=30.0, gt=0, description="pull of the weights of a logarithmic pool")
    pool_steps: int = Field(default=8, ge=1, description="Newton steps that fit a logarithmic pool")
    rehearsal: float = Field(
        default=0.0, ge=0, lt=1, description="share of the text, its end, that a logarithmic pool follows once fitted"
    )
    prior: float = Field(default=10.0, gt=0, description="pull of each gate weight towards no influence")


class EvaluationConfig(Config):
    """What is measured."""

    block: int = Field(default=64, ge=1, description="words predicted before they are learned, when learning goes on")
    follow: bool = Field(default=True, description="then weights of the mixture follow what was read, too")
    bins: int = Field(default=15, ge=2, le=100, description="equal-mass bins of the calibration error")


class DocumentsConfig(Config):
    """Documents of a stream, which is never read as a whole."""

    field: str = Field(default="text", min_length=1, description="column of the text in JSON lines and data sets")
    split: str = Field(default="train", min_length=1, description="part of a data set")
    skip_bad: bool = Field(default=False, description="leave damaged lines of files out instead of stopping")
    least: int = Field(default=50, ge=1, description="characters of the shortest document that is taken")
    shuffle: int = Field(default=10_000, ge=1, le=10**7, description="documents put in random order together")
    seed: int = Field(default=0, ge=0, lt=2**31, description="of that order")
    first: int = Field(
        default=20_000, ge=2, description="documents, the first ones, whose words are known and whose part is held out"
    )
    vocab_size: int = Field(default=200_000, ge=3, le=2**24, description="words known at most, the most frequent ones")
    held_out: float = Field(default=0.01, gt=0, lt=0.5, description="share of documents, by their hash, to evaluate on")
    apart: float = Field(default=0.01, gt=0, lt=0.5, description="share of documents, by their hash, to fit on")
    cache: str | None = Field(
        default=None,
        min_length=1,
        description="folder that keeps the token ids of files for later runs; null reads the texts each time",
    )
    workers: int = Field(default=1, ge=1, le=256, description="processes that make these ids")

    @model_validator(mode="after")
    def _check(self) -> DocumentsConfig:
        refuse_unread(self, self._inactive())
        return self

    def _inactive(self) -> Iterator[tuple[str, str]]:
        if self.cache is None:
            yield "workers", "cache is null"


class WordsConfig(Config):
    """Text and its words or characters."""

    source: str = Field(
        default="pydoc",
        min_length=1,
        description="known name or path of a UTF-8 text file; of a stream also a folder, archive, or "
        "hub:DATASET?revision=COMMIT",
    )
    stream: bool = Field(default=False, description="learn documents as they are read, instead of one text")
    documents: DocumentsConfig = Field(default=DocumentsConfig(), description="of a stream")
    train_share: float = Field(default=0.9, gt=0, lt=1, description="first share of them, which is learned")
    tokens: Literal["words", "chars"] = Field(default="words", description="what is learned one after the other")
    pattern: str = Field(
        default=WORD_PATTERN, description="regular expression of one word; what lies between is dropped"
    )
    min_count: int = Field(default=2, ge=1, description="words seen fewer times in it are unknown")
    vocabulary: str | None = Field(
        default=None, description="known name or path of a text whose words are known instead; for runs to be merged"
    )
    unk: bool = Field(default=False, description="characters not seen in it become U+FFFD instead of an error")

    @field_validator("pattern")
    @classmethod
    def _token(cls, pattern: str) -> str:
        try:
            token_pattern(pattern)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return pattern

    @model_validator(mode="after")
    def _check(self) -> WordsConfig:
        if self.stream and self.tokens != "words":
            raise ValueError(f"stream learns words, not {self.tokens}; set tokens to words, or stream to false")
        return self


class SleepConfig(Config):
    """Sleeps between the batches of a pass."""

    drift: bool = Field(default=False, description="sleep when the held-out loss leaves its course; see train.cadence")
    every: int | None = Field(default=None, ge=1, description="also sleep each time so many words were learned")
    least: int = Field(default=1, ge=1, description="drop long grams that occurred less often; 1 drops none")
    lowest: int = Field(default=3, ge=2, le=12, description="order of the shortest grams that may go")
    bound: float = Field(default=0.01, ge=0, le=10, description="rise of the perplexity that undoes a sleep, relative")

    @model_validator(mode="after")
    def _check(self) -> SleepConfig:
        refuse_unread(self, self._inactive())
        return self

    def _inactive(self) -> Iterator[tuple[str, str]]:
        if not self.drift and self.every is None:
            for key in ("least", "lowest", "bound"):
                yield key, "drift is false and every null"
        if self.least == 1:
            yield "lowest", "least is 1"


class PassConfig(Config):
    """The one pass over the text."""

    cadence: Cadence = Field(
        default=Cadence(
            log_every=1,
            save_every=50,
            eval_every=200,
            eval_table=((500, 50), (2000, 100)),
            eval_halve=0.01,
            eval_least=4,
            samples=32,
        ),
        description="batches between logs, evaluations and checkpoints",
    )
    guard: Guard = Field(default=Guard(), description="what happens when something goes wrong")
    share: float = Field(default=1.0, gt=0, le=1, description="share of the training words that are learned")
    words: int | None = Field(default=None, ge=1, description="most words to learn of a stream; null is all")
    positions: int = Field(default=4096, ge=100, description="held-out words of an evaluation before the end")
    sleep: SleepConfig = Field(default=SleepConfig(), description="between batches, of one text")
    threads: int | Literal["auto"] = Field(
        default="auto", description="CPU threads; auto is cores minus load, at least 1"
    )
    tensorboard: bool = Field(default=False, description="also write tensorboard/ with a projector of word vectors")

    @model_validator(mode="after")
    def _check(self) -> PassConfig:
        if self.threads != "auto" and not 1 <= self.threads <= 1024:
            raise ValueError(f"threads = {self.threads} must be auto or in [1, 1024]")
        return self


class HolographicConfig(Config):
    """The model."""

    tower: TowerConfig = Field(default=TowerConfig(), description="superposed bindings")
    counts: CountsConfig = Field(default=CountsConfig(), description="exact counts")
    similarity: SimilarityConfig = Field(default=SimilarityConfig(), description="word vectors")
    basins: BasinsConfig = Field(default=BasinsConfig(), description="hashed neighbours")
    recency: RecencyConfig = Field(default=RecencyConfig(), description="working memory")
    mixture: MixtureConfig = Field(default=MixtureConfig(), description="experts to one distribution")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="measurements")
    batch_size: int = Field(default=8192, ge=1, le=2**20, description="targets learned at a time")
    memory: int | None = Field(
        default=None,
        ge=1,
        le=2**24,
        description="MiB that all structures may take; rare long grams are dropped to keep it. null is no limit",
    )
    replay: int = Field(
        default=1_000_000,
        ge=1,
        le=10**9,
        description="first words of a stream that vectors, classes and what hangs on them are made of",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="of the held-out words that the fit takes")

    @model_validator(mode="after")
    def _check(self) -> HolographicConfig:
        if max(self.tower.top_digits) > self.counts.order - 1 and self.tower.role != "off":
            raise ValueError(
                f"tower.top_digits has order {max(self.tower.top_digits)}; counts.order must be higher than that"
            )
        if self.tower.role == "overflow" and self.memory is None:
            raise ValueError("tower.role = overflow binds what a full memory drops: set memory, or another role")
        wordy = self.mixture.product != "none" or self.counts.classes or self.similarity.readout or self.basins.enabled
        if self.mixture.pool == "logarithmic" and wordy:
            raise ValueError(
                f"a logarithmic pool reads no vectors: set mixture.product to none (it is {self.mixture.product}), "
                f"counts.classes to [] ({list(self.counts.classes)}), similarity.readout and basins.enabled to false"
            )
        if self.basins.enabled and self.memory is not None:
            raise ValueError(
                "basins.enabled keeps every context, which no budget holds; set memory to null, or leave it"
            )
        if self.mixture.lowest > self.counts.order:
            raise ValueError(f"mixture.lowest = {self.mixture.lowest} is above counts.order = {self.counts.order}")
        return self


class HolographicRunConfig(Config):
    """A complete holographic recipe."""

    version: Literal[1] = Field(default=1, description="of the names of these keys; see `holonomy config migrate`")
    family: Literal["holographic"] = Field(default="holographic", description="model family")
    model: HolographicConfig = Field(default=HolographicConfig(), description="memories and their mixture")
    data: WordsConfig = Field(default=WordsConfig(), description="text")
    train: PassConfig = Field(default=PassConfig(), description="the pass over the text")
    # A memory of what was just said says it again: what was just written must cost something.
    infer: InferConfig = Field(
        default=InferConfig(temperature=1.0, selector="inhibition", inhibition=2.5), description="generation"
    )

    @model_validator(mode="after")
    def _check(self) -> HolographicRunConfig:
        refuse_unread(self, self._inactive())
        lowest, order = self.train.sleep.lowest, self.model.counts.order
        if lowest > order:
            raise ValueError(f"train.sleep.lowest = {lowest} is above model.counts.order = {order}")
        return self

    def _inactive(self) -> Iterator[tuple[str, str]]:
        """Keys that nothing reads under the other choices, and why."""
        model, data, mixture = self.model, self.data, self.model.mixture
        if data.stream:
            for key in ("data.train_share", "train.share"):
                yield key, "documents of a stream are held out by their hash, see data.documents; drop it"
            for key in ("blocks", "span", "block_share", "rare", "rehearsal"):
                yield f"model.mixture.{key}", "a stream is fitted on documents of its own, see data.documents.apart"
            yield "train.tensorboard", "runs on streams write none"
            yield "train.sleep", "a sleep is tried on the text learned so far, which a stream does not keep"
        else:
            for key in ("data.documents", "train.words", "model.replay"):
                yield key, "data.stream is false"
        for key in ("unk",) if data.tokens == "words" else ("min_count", "pattern"):
            yield f"data.{key}", f"data.tokens is {data.tokens}"
        if model.tower.role == "off":
            for key in ("channels", "levels", "top_digits", "promote_at", "cleanup", "seed"):
                yield f"model.tower.{key}", "model.tower.role is off"
        if mixture.product == "none":
            for key in ("model.mixture.product_steps", "model.similarity.topics"):
                yield key, "model.mixture.product is none"
            if model.tower.role == "off" or model.tower.cleanup == "full":
                yield "model.similarity.candidates", "model.mixture.product is none and nothing else has candidates"
            if not (model.counts.classes or model.similarity.readout or model.basins.enabled):
                for key in ("dim", "ridge", "decay", "positions"):
                    yield f"model.similarity.{key}", "nothing reads word vectors"
        if data.tokens == "chars" and not data.unk:
            yield "model.mixture.rare", "data.unk is false, so nothing is unknown"
        if not model.counts.classes:
            yield "model.counts.class_order", "model.counts.classes is empty"
        if not model.basins.enabled:
            for key in ("bits", "tables", "probes", "neighbours"):
                yield f"model.basins.{key}", "model.basins.enabled is false"
        if mixture.pool == "linear":
            for key in ("lowest", "pool_prior", "pool_steps", "rehearsal"):
                yield f"model.mixture.{key}", "model.mixture.pool is linear"
        else:
            for key in ("temper", "product_positions"):
                yield f"model.mixture.{key}", "model.mixture.pool is logarithmic"
