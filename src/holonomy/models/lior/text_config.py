"""Configuration of the texts that the lior family reads. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from holonomy.core.config import Config


class DataConfig(Config):
    """Text and how it is cut."""

    source: str = Field(
        default="pydoc",
        min_length=1,
        description="known name or path of a UTF-8 text file; for a stream also JSON lines, gzipped files, a folder "
        "of them, or hub:NAME?name=CONFIG&split=SPLIT&revision=COMMIT of Hugging Face datasets",
    )
    seq_len: int = Field(default=128, ge=2, le=65536, description="characters per training window")
    batch: int = Field(default=8, ge=1, le=4096, description="windows per update")
    carried: int = Field(
        default=1,
        ge=1,
        le=2**20,
        description="windows of a passage, read in order: each begins with the states that the one before ended with",
    )
    train_share: float = Field(
        default=0.9, gt=0, lt=1, description="first share of the text that is trained on; of a stream, of its documents"
    )
    stream: bool = Field(
        default=False,
        description="read documents while training, without the text in memory; those to hold out follow from their "
        "hashes",
    )
    field: str = Field(default="text", min_length=1, description="key of the text in JSON lines of a stream")
    skip_bad: bool = Field(default=False, description="leave damaged lines of a stream out instead of stopping")
    shuffle: int = Field(default=1000, ge=1, le=10**7, description="documents of a stream that are shuffled together")
    first: int = Field(
        default=1_000_000, ge=1, description="characters of a stream's beginning that its tokens are made from"
    )
    held_out: int = Field(
        default=200_000, ge=2, description="characters of a stream's first held-out documents that are evaluated"
    )
    workers: int = Field(
        default=0, ge=0, le=64, description="threads that read batches ahead; speed only, the batches stay the same"
    )
    tokenizer: Literal["char", "bpe"] = Field(
        default="char", description="tokens: characters, or byte pairs learned from the training part"
    )
    bpe_vocab: int = Field(default=4096, ge=262, le=200_000, description="tokens of the byte-pair vocabulary")
    unk: bool = Field(
        default=False,
        description="give characters that the training part lacks one common symbol instead of an error",
    )

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.tokenizer == "bpe" and self.unk:
            raise ValueError("unk is for tokenizer = char: byte pairs know every text; set it to false")
        if self.tokenizer == "char" and self.bpe_vocab != type(self).model_fields["bpe_vocab"].default:
            raise ValueError("bpe_vocab is for tokenizer = bpe; set it, or drop this")
        self._check_stream()
        return self

    def _check_stream(self) -> None:
        plain = type(self).model_fields
        if not self.stream:
            odd = [
                n for n in ("field", "skip_bad", "shuffle", "first", "held_out") if getattr(self, n) != plain[n].default
            ]
            if odd:
                raise ValueError(f"{', '.join(odd)} are of streams; set stream = true, or drop them")
            return
        if self.source == "pydoc":
            raise ValueError("stream reads documents of files, and pydoc is no file; name another source (--data)")
        odd = [n for n in ("carried", "workers") if getattr(self, n) != plain[n].default]
        if odd:
            raise ValueError(f"{', '.join(odd)} jump about in a text, which a stream cannot; drop them")
        if self.tokenizer == "char" and not self.unk:
            raise ValueError("stream may bring characters that its beginning lacks; set unk = true, or tokenizer = bpe")
