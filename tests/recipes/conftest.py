"""What tests of recipes train on, unless they bring a text of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from holonomy.data.text import load_text


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the beginning of the reference text; nobody changes it."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(load_text("pydoc").text[:30_000])
    return path
