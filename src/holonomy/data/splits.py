"""Splitting a text into a training and a held-out part."""

from __future__ import annotations


def split_text(text: str, train_share: float) -> tuple[str, str]:
    """The first `int(len * train_share)` characters, and the rest."""
    cut = int(len(text) * train_share)
    return text[:cut], text[cut:]
