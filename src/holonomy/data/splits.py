"""Splitting texts into a training and a held-out part."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


def split_text(text: str, train_share: float) -> tuple[str, str]:
    """The first `int(len * train_share)` characters, and the rest."""
    cut = int(len(text) * train_share)
    return text[:cut], text[cut:]


def is_held_out(document: str, share: float, *, seed: int = 0) -> bool:
    """Whether a document belongs to the held-out part of about this share.

    It follows from the document alone, without spaces at its ends: copies fall on one side, whatever the order and
    however many processes read.
    """
    return _number(document, seed) < share * 2**64


def _number(document: str, seed: int) -> int:
    digest = hashlib.blake2b(document.strip().encode("utf-8", "surrogatepass"), key=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest()[:8], "little")


def part_of(document: str, parts: int, *, seed: int = 2) -> int:
    """Which of so many parts a document belongs to; follows from it alone, as `is_held_out`, but apart from that."""
    return _number(document, seed) % parts


@dataclass(frozen=True)
class Sides:
    """Which documents are learned, evaluated on, or fitted on: three parts without a document in two.

    Attributes:
        held_out: share to evaluate on.
        apart: share to fit on.
        least: characters of the shortest document that belongs to any part.
    """

    held_out: float
    apart: float
    least: int

    def __call__(self, document: str) -> Literal["train", "test", "apart", "none"]:
        """The part of a document, which follows from its text alone."""
        if len(document) < self.least:
            return "none"
        if is_held_out(document, self.held_out):
            return "test"
        return "apart" if is_held_out(document, self.apart, seed=1) else "train"


def split_documents(documents: Iterable[str], share: float, *, seed: int = 0) -> tuple[list[str], list[str]]:
    """Training and held-out documents, without a document in both."""
    parts: tuple[list[str], list[str]] = ([], [])
    for document in documents:
        parts[is_held_out(document, share, seed=seed)].append(document)
    return parts


def shared_documents(train: Iterable[str], held_out: Iterable[str]) -> list[str]:
    """Held-out documents that the training part has too: what a split must not leave."""
    known = {document.strip() for document in train}
    return [document for document in held_out if document.strip() in known]
