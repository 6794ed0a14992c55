"""Pictures and clips with captions, from files, as patches for a model that reads them before the text.

Pictures: a JSON-lines file of {"image": path, "text": caption}, or a folder with images/ and captions.json (name to
caption). Clips: a JSON-lines file of {"frames_dir": folder of frame_0001.png ..., "text": caption}. Paths are relative
to the file that names them.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.errors import ConfigError, DataError


@dataclass(frozen=True)
class Caption:
    """A picture or the frames of a clip, with its text.

    Attributes:
        files: one file a frame, in order; one for a picture.
        text: the caption.
    """

    files: tuple[Path, ...]
    text: str


def read_captions(path: Path) -> list[Caption]:
    """The pictures and clips that a file or folder names.

    Raises:
        DataError: it is missing, empty or malformed, or names a file that is not there; says which line.
    """
    if path.is_dir():
        return _from_folder(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`{path}` cannot be read as JSON lines of captions: {error}") from error
    found = [_parsed(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f'`{path}` names no picture; wanted lines such as {{"image": "a.png", "text": "a cat"}}')
    return found


def _parsed(path: Path, number: int, line: str) -> Caption:
    try:
        content = json.loads(line)
        text = content["text"]
        where = content.get("frames_dir") or content["image"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"`{path}` line {number} has no `text` with an `image` or `frames_dir`: {error}") from error
    if not isinstance(text, str) or not isinstance(where, str):
        raise DataError(f"`{path}` line {number}: `text`, `image` and `frames_dir` are strings")
    place = path.parent / where
    files = tuple(sorted(place.glob("frame_*.*"))) if "frames_dir" in content else (place,)
    if not files or not all(f.is_file() for f in files):
        raise DataError(f"`{path}` line {number}: {place} is not there, or holds no frame_0001.png and so on")
    return Caption(files, text)


def _from_folder(path: Path) -> list[Caption]:
    listing = path / "captions.json"
    try:
        captions: dict[str, Any] = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"`{path}` wants images/ and captions.json (name to caption): {error}") from error
    found = []
    for name, text in sorted(captions.items()):
        file = path / "images" / name
        if not file.is_file() or not isinstance(text, str):
            raise DataError(f"`{listing}` names {name!r}, which images/ does not hold, or gives it no text")
        found.append(Caption((file,), text))
    if not found:
        raise DataError(f"`{listing}` is empty; name some pictures")
    return found


def load_frames(caption: Caption, *, size: int, frames: int = 1) -> Float[Tensor, "frames 3 size size"]:
    """Pixels in [-1, 1] of evenly spread frames; a picture is repeated.

    Raises:
        DataError: a file is no picture.
        ConfigError: pillow is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise ConfigError("pictures are read with pillow, which is not installed; pip install 'holonomy[data]'")
    from PIL import Image, UnidentifiedImageError

    chosen = np.linspace(0, len(caption.files) - 1, frames).round().astype(int)
    found = []
    for n in chosen:
        try:
            with Image.open(caption.files[n]) as picture:
                pixels = np.asarray(picture.convert("RGB").resize((size, size)), dtype=np.float32)
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"`{caption.files[n]}` is no picture: {error}") from error
        found.append(torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1))
    return torch.stack(found)


def patches(frames: Float[Tensor, "*batch frames 3 size size"], width: int) -> Float[Tensor, "*batch n features"]:
    """Square patches as rows of 3 width^2 numbers, frame by frame; in clips, means over two by two patches.

    Raises:
        ConfigError: the width does not divide the size.
    """
    size = frames.shape[-1]
    if size % width:
        raise ConfigError(f"`width` is {width}, which does not divide the {size} pixels of a frame")
    cut = frames.unfold(-2, width, width).unfold(-2, width, width)
    rows = cut.movedim(-5, -3).flatten(-3)
    if frames.shape[-4] > 1:
        side = size // width
        if side % 2:
            raise ConfigError(f"clips pool two by two patches; {side} a side is odd: choose another `width`")
        rows = rows.unflatten(-2, (side // 2, 2)).mean(-2).unflatten(-3, (side // 2, 2)).mean(-3)
    return rows.flatten(-4, -2)


class WeightedSources:
    """Draws from several sources by weight, by a seed alone.

    Args:
        weights: one a source, not all zero.
        seed: start of the draws.

    Raises:
        ConfigError: a weight is negative, or all are zero.
    """

    def __init__(self, weights: list[float], *, seed: int) -> None:
        if not weights or min(weights) < 0 or sum(weights) == 0:
            raise ConfigError(f"`weights` are {weights}; wanted numbers from 0 on, not all zero")
        self._shares, self._seed = np.array(weights) / sum(weights), seed

    def draw(self, start: int = 0) -> Iterator[int]:
        """Numbers of sources from the draw `start` on: the same whatever was drawn before."""
        block = 1024
        while True:
            random = np.random.default_rng([self._seed, start // block])
            chosen = random.choice(len(self._shares), size=block, p=self._shares)
            yield from chosen[start % block :].tolist()
            start += block - start % block
