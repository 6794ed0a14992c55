"""Claims about stored runs: damage is refused, and what is recorded can be measured again."""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from holonomy.audit.claim import DoesNotApply, Evidence, Figure, Setting, claim
from holonomy.audit.subjects import checkpoint as newest
from holonomy.core.errors import CheckpointError, DataError, HolonomyError
from holonomy.recipes import launch
from holonomy.train import catalogue
from holonomy.train.checkpoint import STATE, TENSORS, Checkpoint, find, read
from holonomy.train.run import RunDirectory

FAMILIES = ("holographic", "lior", "mixture", "ternary")
READ_AT_MOST = 2 * 2**30
"""Bytes that all damaged copies of one checkpoint may take to read: a large one is damaged fewer times."""
FEWEST = 24
ODD_ERRORS = (HolonomyError, OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError)
WITHIN = 1e-3
"""What `holonomy runs verify` allows."""
USED = {
    "lior": ("average.", "model."),
    "ternary": ("model.vae.",),
    "holographic": ("",),
    "mixture": ("0/average.", "0/model.", "0/"),
}
"""Beginnings of the names of tensors that loading a model reads; the first that any has."""


class Stored(NamedTuple):
    """A tensor in a file of safetensors."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes


class Damage(NamedTuple):
    """What is done to a checkpoint.

    Attributes:
        what: in words.
        file: that the refusal has to name.
        contents: what files hold afterwards; None removes one.
    """

    what: str
    file: str
    contents: dict[str, bytes | None]


def hostile(mark: Path) -> bytes:
    """A pickle that, read by whoever unpickles, opens a file for writing: protocol 0, the call `open(mark, "w")`."""
    return b"cbuiltins\nopen\n(V" + str(mark).encode("raw_unicode_escape") + b"\nVw\ntR."


def parsed(raw: bytes) -> dict[str, Stored]:
    """The tensors of a safetensors file, by its format alone."""
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    begin = 8 + length
    places = {name: entry["data_offsets"] for name, entry in header.items()}
    return {
        name: Stored(entry["dtype"], tuple(entry["shape"]), raw[begin + places[name][0] : begin + places[name][1]])
        for name, entry in header.items()
    }


def _written(tensors: dict[str, Stored]) -> bytes:
    header, at = {}, 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(content)]}
        at += len(content)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(t.content for t in tensors.values())


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sealed(body: dict[str, Any]) -> bytes:
    """`state.json` with the digest that belongs to it."""
    return _canonical({"body": body, "sha256": _digest(_canonical(body))})


def _forged(files: dict[str, bytes], tensors: dict[str, Stored]) -> dict[str, bytes]:
    """The files of a checkpoint with other tensors, all digests in order."""
    body, content = json.loads(files[STATE])["body"], _written(tensors)
    body["files"][TENSORS] = {"size": len(content), "sha256": _digest(content)}
    body["tensors"] = {name: _digest(t.content) for name, t in tensors.items()}
    return {**files, TENSORS: content, STATE: _sealed(body)}


def _flips_and_cuts(files: dict[str, bytes], count: int, chance: random.Random) -> Iterator[Damage]:
    names = sorted(files)
    for n in range(count):
        # Every file in turn, both kinds of damage.
        name = names[n // 2 % len(names)]
        content = bytearray(files[name])
        if n % 2:
            cut = chance.randrange(len(content))
            yield Damage(f"{name} cut to {cut} bytes", name, {name: bytes(content[:cut])})
        else:
            bit = chance.randrange(8 * len(content))
            content[bit // 8] ^= 1 << bit % 8
            yield Damage(f"bit {bit} of {name} flipped", name, {name: bytes(content)})


def _substitutions(files: dict[str, bytes], mark: Path) -> Iterator[Damage]:
    tensors = parsed(files[TENSORS])
    first = next(name for name, t in tensors.items() if t.content)
    flipped = tensors[first]._replace(content=bytes([tensors[first].content[0] ^ 1]) + tensors[first].content[1:])
    other = _forged(files, {**tensors, first: flipped})
    for name in (TENSORS, STATE):
        yield Damage(f"{name} of another checkpoint", TENSORS, {name: other[name]})
    yield Damage("a pickle for the tensors", TENSORS, {TENSORS: hostile(mark)})
    yield Damage("a pickle for the state", STATE, {STATE: hostile(mark)})
    body = json.loads(files[STATE])["body"]
    yield Damage("a newer schema", STATE, {STATE: _sealed({**body, "schema": body["schema"] + 1})})
    fewer = {name: t for name, t in tensors.items() if name != first}
    yield Damage("a tensor less", TENSORS, {TENSORS: _written(fewer)})
    yield Damage("a tensor more", TENSORS, {TENSORS: _written({**tensors, "foreign": tensors[first]})})
    yield Damage("no tensors", TENSORS, {TENSORS: None})
    yield Damage("no state", STATE, {STATE: None})
    yield Damage("a file more", "foreign.bin", {"foreign.bin": b"\0"})


def _refusal(work: Callable[[], object]) -> str | None:
    """What a refusal says; `?` for one that is no CheckpointError, None for none at all."""
    try:
        work()
    except CheckpointError as refused:
        return str(refused)
    except ODD_ERRORS as odd:
        return f"? {type(odd).__name__}: {odd}"
    return None


def _tried(place: Path, files: dict[str, bytes], damages: Iterator[Damage]) -> tuple[int, dict[str, list[str]]]:
    """Reads every damaged checkpoint; what went wrong, by kind."""
    faults: dict[str, list[str]] = {"accepted": [], "odd": [], "unnamed": []}
    tried = 0
    for what, name, contents in damages:
        for changed, content in contents.items():
            if content is None:
                (place / changed).unlink()
            else:
                (place / changed).write_bytes(content)
        said = _refusal(lambda: read(place))
        kind = "accepted" if said is None else "odd" if said[0] == "?" else "unnamed" if name not in said else ""
        if kind:
            faults[kind].append(what)
        for changed in contents:
            (place / changed).write_bytes(files[changed]) if changed in files else (place / changed).unlink()
        tried += 1
    return tried, faults


def _accepted_forgeries(saved: Checkpoint, family: str, files: dict[str, bytes], scratch: Path) -> list[str]:
    """Checkpoints whose digests are in order, but that lack a tensor of the model or have one too many."""
    tensors = parsed(files[TENSORS])
    prefix = next(p for p in USED[family] if any(name.startswith(p) for name in tensors))
    name = next(n for n, t in tensors.items() if n.startswith(prefix) and t.content)
    forgeries = {
        "lacking": {n: t for n, t in tensors.items() if n != name},
        "foreign": {**tensors, f"{prefix}foreign": tensors[name]},
    }
    accepted = []
    for what, forged in forgeries.items():
        place = scratch / what / saved.path.name
        place.mkdir(parents=True)
        for file, content in _forged(files, forged).items():
            (place / file).write_bytes(content)
        said = _refusal(lambda at=place: launch.family_of(read(at)).parts.load(read(at)))
        if said is None or said[0] == "?":
            accepted.append(f"{what} {name}")
    return accepted


def _unequal(saved: Checkpoint, files: dict[str, bytes]) -> int:
    """Tensors that differ from those in the file, and digests from those of its bytes."""
    tensors, body = parsed(files[TENSORS]), json.loads(files[STATE])["body"]
    wrong = len(tensors.keys() ^ saved.tensors.keys()) + len(tensors.keys() ^ body["tensors"].keys())
    for name in tensors.keys() & saved.tensors.keys():
        mine = saved.tensors[name].contiguous()
        same = tuple(mine.shape) == tensors[name].shape
        same &= mine.reshape(-1).view(torch.uint8).numpy().tobytes() == tensors[name].content
        wrong += not (same and body["tensors"].get(name) == _digest(tensors[name].content))
    for name, entry in body["files"].items():
        wrong += entry != {"size": len(files[name]), "sha256": _digest(files[name])}
    return wrong + (json.loads(files[STATE])["sha256"] != _digest(_canonical(body)))


@claim(
    "checkpoint.safety",
    statement="A checkpoint that is changed anywhere is refused with its file named, and never runs a program.",
    source="README.md",
    families=FAMILIES,
)
def safety(setting: Setting) -> Evidence:
    """Damages a copy in many ways, and reads the sound one by the definition of its format."""
    tried, unequal, faults, executed = 0, 0, list[str](), 0
    counts = Counter[str]()
    for family in sorted(setting.runs):
        saved, chance = newest(setting, family), random.Random(setting.seed)
        place, mark = setting.scratch / family / saved.path.name, setting.scratch / f"{family}-ran"
        shutil.copytree(saved.path, place)
        files = {p.name: p.read_bytes() for p in place.iterdir()}
        unequal += _unequal(read(place), files)
        size = sum(map(len, files.values()))
        wanted = (1_000 if setting.full else 60) // len(setting.runs)
        count = min(wanted, max(FEWEST, READ_AT_MOST // size))
        for damages in (_flips_and_cuts(files, count, chance), _substitutions(files, mark)):
            number, found = _tried(place, files, damages)
            tried += number
            for kind, whats in found.items():
                counts[kind] += len(whats)
                faults += [f"{family}, {kind}: {what}" for what in whats[:3]]
        forged = _accepted_forgeries(saved, family, files, setting.scratch / f"{family}-forged")
        tried, counts["accepted"] = tried + 2, counts["accepted"] + len(forged)
        faults += [f"{family}, accepted: {what}" for what in forged]
        executed += mark.exists()
    return Evidence(
        (
            Figure("damaged checkpoints tried", tried, ">=", FEWEST),
            Figure("of them accepted", counts["accepted"], "==", 0),
            Figure("refused with another error than CheckpointError", counts["odd"], "==", 0),
            Figure("refused without naming the file", counts["unnamed"], "==", 0),
            Figure("pickled programs that ran", executed, "==", 0),
            Figure("tensors and digests of sound ones that differ", unequal, "==", 0),
        ),
        detail="; ".join(faults),
    )


def _recorded(saved: Checkpoint, run: Path) -> tuple[dict[str, float], list[str]]:
    """Held-out metrics of a checkpoint, and how the other records of them contradict."""
    counters = saved.state["counters"]
    if counters["evaluated"] != saved.step:
        raise DoesNotApply(f"{saved.path} was saved before it was evaluated")
    found = {name: value for name, value in counters["metrics"].items() if name.startswith("val/")}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    first = saved.state.get("since", 0)
    losses = [(n["step"], n["val/loss"]) for n in lines if "val/loss" in n and first <= n["step"] <= saved.step]
    faults = []
    if not losses or losses[-1] != (saved.step, found["val/loss"]):
        faults.append(f"metrics.jsonl has {losses[-1:]}, the checkpoint {found['val/loss']}")
    # The best is the lowest of all that were logged since the run last slept or forgot a text.
    if losses and counters["best"]["value"] > min(loss for _, loss in losses):
        faults.append(f"the best loss is said to be {counters['best']}")
    if "val/perplexity" in found and not math.isclose(found["val/perplexity"], math.exp(found["val/loss"])):
        faults.append("the perplexity is not that of the loss")
    return found, faults


def _catalogued(run: Path, scratch: Path) -> list[str]:
    """How the catalogue contradicts the files of a run, read without the package."""
    scratch.mkdir()
    (scratch / run.name).symlink_to(run.resolve(), target_is_directory=True)
    (record,) = catalogue.Catalogue(scratch).records()
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    latest = find(run / "checkpoints", "latest")
    assert latest is not None
    counters = json.loads((latest / STATE).read_bytes())["body"]["state"]["counters"]
    wanted = {
        "name": run.name,
        "family": config["family"],
        "data": config["data"]["source"],
        "step": counters["step"],
        "cpu_s": counters["cpu_s"],
        "loss": counters["metrics"].get("val/loss"),
        "best": counters["best"].get("value"),
    }
    return [
        f"the catalogue says {name} {getattr(record, name)}, the files {value}"
        for name, value in wanted.items()
        if getattr(record, name) != value
    ]


@claim(
    "run.metrics-verify",
    statement="A run measured again has the metrics recorded in it, and its catalogue entry says what its files say.",
    source="README.md",
    families=FAMILIES,
)
def metrics_verify(setting: Setting) -> Evidence:
    """What `holonomy runs verify` does, for every held-out metric, beside records read without the package."""
    worst_loss, worst, compared, faults = 0.0, 0.0, 0, list[str]()
    for family in sorted(setting.runs):
        saved = newest(setting, family)
        run = RunDirectory.open(saved.path, setting.scratch).path
        recorded, contradictions = _recorded(saved, run)
        faults += contradictions + _catalogued(run, setting.scratch / f"{family}-catalogue")
        try:
            launch.family_of(saved).parts.check_data(saved)
            again = launch.evaluate(str(saved.path), root=run.parent)
        except DataError as error:
            raise DoesNotApply(f"its data cannot be read: {error}") from error
        worst_loss = max(worst_loss, abs(again["val/loss"] - recorded["val/loss"]))
        for name in recorded.keys() & again.keys():
            off = abs(again[name] - recorded[name]) / max(1.0, abs(recorded[name]))
            compared, worst = compared + 1, max(worst, off)
            if not off <= WITHIN:
                faults.append(f"{family} {name} was {recorded[name]:.6g} and is {again[name]:.6g}")
    return Evidence(
        (
            Figure("difference of the held-out loss", worst_loss, "<=", WITHIN),
            Figure("largest difference of a metric relative to 1 and itself", worst, "<=", WITHIN),
            Figure("metrics compared", compared, ">=", 1),
            Figure("records that contradict each other", len(faults), "==", 0),
        ),
        detail="; ".join(faults),
    )
