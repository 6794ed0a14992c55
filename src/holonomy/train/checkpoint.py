"""Checkpoints that are whole or absent, and that notice every changed bit.

A checkpoint is a directory `step-N` with `tensors.safetensors`, further small text files, and `state.json`. It is
written under a temporary name, synced, and renamed. `state.json` is canonical JSON: it holds size and sha256 of
every other file, a digest of each tensor, and a digest of itself. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from holonomy.core.config import room
from holonomy.core.errors import CheckpointError, StorageError

SCHEMA = 1
TENSORS, STATE = "tensors.safetensors", "state.json"
TEMPORARY = ".saving-"
_STEP = re.compile(r"step-(\d+)")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        step: number of updates made.
        tensors: all tensors by name.
        state: everything that is not a tensor, JSON values.
        files: further text files by name.
        path: its directory.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    files: dict[str, str]
    path: Path


def _sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _tensor_bytes(tensor: Tensor) -> memoryview:
    # A single number counts as contiguous whatever its stride, which no view of bytes accepts.
    return tensor.contiguous().reshape(-1).as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data


def _held(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the order of their names, each with memory of its own, which safetensors wants."""
    held, seen = dict[str, Tensor](), set[int]()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        held[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return held


def save(
    directory: Path,
    *,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    files: Mapping[str, str],
) -> Path:
    """Writes `directory/step-N`; an existing one of the same step stays as it is.

    Args:
        directory: the checkpoints directory of a run.
        step: number of updates made.
        tensors: saved in the order of their names.
        state: JSON values; NaN is refused.
        files: further small text files by name.

    Raises:
        StorageError: no space or no permission; nothing of this checkpoint is left, older ones are intact.
    """
    path = directory / f"step-{step}"
    if path.exists():
        return path
    held = _held(tensors)
    contents = {TENSORS: save_tensors(held)}
    contents.update({name: text.encode("utf-8") for name, text in files.items()})
    body = {
        "schema": SCHEMA,
        "step": step,
        "state": dict(state),
        "files": {name: {"size": len(c), "sha256": _sha256(c)} for name, c in contents.items()},
        "tensors": {name: _sha256(_tensor_bytes(t)) for name, t in held.items()},
    }
    contents[STATE] = _canonical({"body": body, "sha256": _sha256(_canonical(body))})
    # A directory that is not there yet appears with the checkpoint in it.
    home = directory if directory.exists() else unborn(directory)
    temporary = home / f"{TEMPORARY}{step}-{os.getpid()}"
    try:
        if home != directory:
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
        temporary.mkdir()
        for name, content in contents.items():
            _write_synced(temporary / name, content)
        _sync_directory(temporary)
        os.rename(temporary, home / path.name)
        if home != directory:
            os.rename(home, directory)
        _sync_directory(directory)
    except OSError as error:
        with suppress(OSError):
            shutil.rmtree(temporary if home == directory else home)
        raise StorageError(
            f"cannot save `{path}`: {error.strerror or error}; {room(path, sum(map(len, contents.values())))}. "
            "Older checkpoints are intact; make room and continue with --resume"
        ) from error
    return path


def unborn(directory: Path) -> Path:
    """Where a checkpoints directory lies until it holds its first checkpoint; what a crash left there goes."""
    return directory.with_name(f".{directory.name}")


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def point(directory: Path, name: str, step: int) -> None:
    """Makes the pointer file `name` (`latest` or `best`) name a checkpoint.

    Raises:
        StorageError: it cannot be written; the old pointer is intact.
    """
    temporary, content = directory / f"{TEMPORARY}{name}-{os.getpid()}", f"step-{step}\n".encode()
    try:
        _write_synced(temporary, content)
        os.replace(temporary, directory / name)
        _sync_directory(directory)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        lacking = room(directory / name, len(content))
        raise StorageError(f"cannot write `{directory / name}`: {error.strerror}; {lacking}") from error


def steps(directory: Path) -> list[int]:
    """Steps of all checkpoints in a checkpoints directory, rising."""
    if not directory.is_dir():
        return []
    matches = (_STEP.fullmatch(p.name) for p in directory.iterdir())
    return sorted(int(m.group(1)) for m in matches if m)


def find(directory: Path, which: str) -> Path | None:
    """The checkpoint that `latest` or `best` names, if it exists; else the newest one; else None."""
    try:
        step = _STEP.fullmatch((directory / which).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        step = None
    if step and (directory / step.group(0)).is_dir():
        return directory / step.group(0)
    known = steps(directory)
    return directory / f"step-{known[-1]}" if known else None


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint and verifies every byte of it.

    Raises:
        CheckpointError: something is missing, changed, foreign or newer; names the file and, for tensors, the
            first one that differs.
    """
    body = read_state(path)
    listed = set(body["files"]) | {STATE}
    for name in listed:
        if not _NAME.fullmatch(name):
            raise CheckpointError(f"`{path / STATE}` lists the file name {name!r}, which is not allowed")
    present = {p.name for p in path.iterdir()}
    if present != listed:
        odd = sorted(present ^ listed)
        raise CheckpointError(f"`{path}` should hold {sorted(listed)}; these are missing or foreign: {odd}")
    contents = {name: _read_verified(path / name, entry, body) for name, entry in body["files"].items()}
    try:
        tensors = load_tensors(contents.pop(TENSORS))
        files = {name: content.decode("utf-8") for name, content in contents.items()}
    except (SafetensorError, UnicodeDecodeError) as error:
        raise CheckpointError(f"`{path}` cannot be decoded: {error}") from error
    return Checkpoint(body["step"], tensors, body["state"], files, path)


def _read_plain(path: Path, limit: int) -> bytes:
    try:
        if path.is_symlink() or not path.is_file():
            raise CheckpointError(f"`{path}` is missing or not a plain file")
        size = path.stat().st_size
        if size > limit:
            raise CheckpointError(f"`{path}` has {size:,} bytes, at most {limit:,} were expected")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"`{path}` cannot be read: {error.strerror}") from error


STATE_LIMIT = 64 * 2**20


def read_state(path: Path) -> dict[str, Any]:
    """The verified content of `state.json` alone, without the tensors.

    Raises:
        CheckpointError: it is missing, damaged or newer.
    """
    if path.is_symlink() or not path.is_dir():
        raise CheckpointError(f"`{path}` is not a checkpoint directory")
    file = path / STATE
    raw = _read_plain(file, STATE_LIMIT)
    try:
        whole = json.loads(raw)
        body, digest = whole["body"], whole["sha256"]
        # Reading and writing again must give the same bytes: a flipped bit anywhere breaks that or the digest.
        sound = _canonical(whole) == raw and _sha256(_canonical(body)) == digest
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"`{file}` is damaged: not the JSON that was written") from error
    if not sound:
        raise CheckpointError(f"`{file}` is damaged: its digest does not match")
    if body["schema"] > SCHEMA:
        raise CheckpointError(
            f"`{file}` has schema {body['schema']}, this version reads up to {SCHEMA}; upgrade holonomy"
        )
    return body


def _read_verified(path: Path, entry: Mapping[str, Any], body: Mapping[str, Any]) -> bytes:
    content = _read_plain(path, entry["size"])
    if len(content) == entry["size"] and _sha256(content) == entry["sha256"]:
        return content
    where = _first_bad_tensor(content, body["tensors"]) if path.name == TENSORS else ""
    if len(content) < entry["size"]:
        raise CheckpointError(f"`{path}` is cut short: {len(content):,} of {entry['size']:,} bytes{where}")
    raise CheckpointError(f"`{path}` is damaged: its sha256 does not match{where}")


def _first_bad_tensor(content: bytes, digests: Mapping[str, str]) -> str:
    try:
        tensors = load_tensors(content)
    except SafetensorError:
        return " (its header does not fit its data)"
    bad = [n for n, d in digests.items() if n not in tensors or _sha256(_tensor_bytes(tensors[n])) != d]
    return f"; the first tensor that differs is `{bad[0]}`" if bad else " (outside the tensors)"


def newest_valid(directory: Path) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that is whole, and why newer ones were passed over.

    Raises:
        CheckpointError: there is none.
    """
    faults: list[str] = []
    for step in reversed(steps(directory)):
        try:
            return read(directory / f"step-{step}"), faults
        except CheckpointError as error:
            faults.append(str(error))
    reasons = f": {'; '.join(faults)}" if faults else ""
    raise CheckpointError(f"`{directory}` holds no whole checkpoint{reasons}")


def prune(directory: Path, *, keep_last: int, keep: Iterable[int] = (), up_to: int | None = None) -> None:
    """Removes what a crash left half-written, and all checkpoints but the last few and the named ones.

    Args:
        directory: the checkpoints directory of a run.
        keep_last: how many of the newest to keep.
        keep: steps to keep besides.
        up_to: removes every later checkpoint too: a run that fell back past a damaged one makes it again.

    Raises:
        StorageError: something cannot be removed.
    """
    sound = [s for s in steps(directory) if up_to is None or s <= up_to]
    kept = {*sound[max(0, len(sound) - keep_last) :], *(s for s in keep if s in sound)}
    doomed = [directory / f"step-{s}" for s in steps(directory) if s not in kept]
    doomed += [p for p in directory.iterdir() if p.name.startswith(TEMPORARY)]
    try:
        for path in doomed:
            if path.is_dir():
                # Renamed first: whoever dies while removing files leaves no half of a checkpoint under its name.
                aside = path.with_name(f"{TEMPORARY}{path.name.removeprefix(TEMPORARY)}-removed")
                os.rename(path, aside)
                shutil.rmtree(aside)
            else:
                path.unlink()
    except OSError as error:
        raise StorageError(f"cannot remove `{error.filename}`: {error.strerror}") from error
