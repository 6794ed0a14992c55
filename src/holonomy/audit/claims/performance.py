"""Claims about what runs cost: memory to the byte, and speed beside that of a plain matrix product."""

from __future__ import annotations

import json
import math
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holonomy.audit.claim import Evidence, Figure, Setting, claim
from holonomy.audit.subjects import checkpoint as newest
from holonomy.audit.subjects import model as loaded
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.lior import cost
from holonomy.models.ternary import model as ternary_model
from holonomy.recipes import launch
from holonomy.train.checkpoint import TENSORS, Checkpoint

FAMILIES = ("holographic", "lior", "ternary")
WITHIN = 0.01
"""Share of a model's bytes that small arrays, such as cached marginals, may take beside what is reported."""
REFERENCE = 384
"""Side of the matrices whose product tells how fast this machine is right now."""
ROUNDS = 5
FLOORS = {"lior": 0.002, "holographic": 0.0002, "ternary": 0.0005}
"""Least share of the speed of a plain matrix product that a prediction reaches, see `throughput`."""


def _arrays(things: list[object]) -> int:
    """Bytes of every array that hangs on some objects, each block of memory once."""
    blocks, seen = dict[int, int](), set[int]()
    while things:
        thing = things.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, np.ndarray):
            while isinstance(thing.base, np.ndarray):
                thing = thing.base
            blocks[thing.__array_interface__["data"][0]] = thing.nbytes
        elif isinstance(thing, Tensor):
            blocks[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        elif isinstance(thing, (list, tuple)):
            things += thing
        elif isinstance(thing, dict):
            things += thing.values()
        elif type(thing).__module__.startswith("holonomy.models"):
            things += vars(thing).values()
    return sum(blocks.values())


def _holographic(model: HolographicModel) -> tuple[int, int]:
    """Bytes that the model reports, and those of every array that it holds."""
    return sum(model.stats().values()), _arrays([model.memories, model.mirror])


def _lior(saved: Checkpoint) -> tuple[dict[str, float], float]:
    """Parameters as stated and as stored, and bytes of all stored copies over those estimated."""
    config = launch.config_of(saved)
    vocabulary = loaded_vocabulary(saved)
    stated = cost.parameter_count(config, vocab_size=vocabulary)
    stored = sum(t.numel() for name, t in saved.tensors.items() if name.startswith("model."))
    copies = sum(t.nbytes for name, t in saved.tensors.items() if not name.startswith("buffer."))
    return {"stated": stated, "stored": stored}, copies / cost.weight_bytes(config, vocab_size=vocabulary)


def loaded_vocabulary(saved: Checkpoint) -> int:
    """Number of tokens, from the stored embedding: the only matrix whose one axis is d and whose name is first."""
    width = saved.state["config"]["model"]["d"]
    first = min(
        (n for n in saved.tensors if n.startswith("model.") and saved.tensors[n].ndim == 2),
        key=lambda n: int(n.split(".")[2]),
    )
    return saved.tensors[first].numel() // width


def _ternary(saved: Checkpoint, vae: ternary_model.TernaryVAE) -> int:
    """Difference of the parameters that are counted, now and in the checkpoint, from those that are stored."""
    counted, wrong = ternary_model.parameter_counts(vae), 0
    for part in ("encoder", "projection", "decoder"):
        prefix = f"model.vae.{part}."
        stored = sum(t.numel() for name, t in saved.tensors.items() if name.startswith(prefix))
        wrong += abs(counted[part] - stored) + abs(saved.state["parameters"][part] - stored)
    return wrong


def _stored_bytes(saved: Checkpoint) -> int:
    """Difference of the size of the tensors' file from its header and all tensors."""
    file = saved.path / TENSORS
    with file.open("rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        header = json.loads(handle.read(length))
    header.pop("__metadata__", None)
    sizes = {
        "F64": 8,
        "F32": 4,
        "F16": 2,
        "BF16": 2,
        "I64": 8,
        "I32": 4,
        "I16": 2,
        "I8": 1,
        "U8": 1,
        "BOOL": 1,
        "C64": 8,
    }
    inside = sum(math.prod(e["shape"]) * sizes[e["dtype"]] for e in header.values())
    in_memory = sum(t.nbytes for t in saved.tensors.values())
    return abs(file.stat().st_size - 8 - length - inside) + abs(in_memory - inside)


@claim(
    "performance.memory",
    statement="The memory that a run reports is that of all its arrays, and its copies of weights fit the estimate.",
    source="docs/performance.md",
    families=FAMILIES,
)
def memory(setting: Setting) -> Evidence:
    """Sums of the bytes of tensors in the checkpoint and of arrays found by walking through the model."""
    figures, off = list[Figure](), 0
    for family in sorted(setting.runs):
        saved = newest(setting, family)
        off += _stored_bytes(saved)
        if family == "lior":
            count, share = _lior(saved)
            figures += [
                Figure("lior: parameters stated beyond those stored", abs(count["stated"] - count["stored"]), "==", 0),
                Figure("lior: stored copies of weights over the estimate", share, "<=", 1 + WITHIN),
                Figure("lior: parameters", count["stored"]),
            ]
        elif family == "ternary":
            vae = loaded(setting, family)
            figures += [Figure("ternary: parameters counted beyond those stored", _ternary(saved, vae), "==", 0)]
        else:
            reported, found = _holographic(loaded(setting, family))
            figures += [
                Figure(
                    "holographic: relative difference of reported bytes from all arrays",
                    abs(reported / found - 1),
                    "<=",
                    WITHIN,
                ),
                Figure("holographic: bytes", found, unit="bytes"),
            ]
    return Evidence((*figures, Figure("bytes of checkpoints that nothing accounts for", off, "==", 0)))


def _fastest(work: Callable[[], object]) -> float:
    """Least CPU-seconds of several tries, after one that warms up."""
    work()
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return max(min(times), 1e-6)


def matrix_speed() -> float:
    """Multiplications and additions of float32 a CPU-second in a plain product."""
    a = torch.ones(REFERENCE, REFERENCE)
    return 20 * 2 * REFERENCE**3 / _fastest(lambda: [a @ a for _ in range(20)])


def _predictions(family: str, model: Any, setting: Setting) -> tuple[int, float, Callable[[], object]]:
    """How many are predicted, the arithmetic of one that no implementation can do without, and the prediction."""
    random = torch.Generator().manual_seed(setting.seed)
    if family == "ternary":
        # Those of a small space several times.
        wanted = 8_192 * (4 if setting.full else 1)
        index = model.space.index.repeat(-(-wanted // model.space.size))[:wanted]
        work = 2 * sum(p.numel() for p in model.parameters())
        return len(index), work, lambda: model.reconstruct(index)
    vocabulary, length = model.tokenizer.vocab_size, 64
    rows = 64 if setting.full else 16
    ids = torch.randint(2, vocabulary, (rows, length), generator=random)
    if family == "lior":
        # The embedding is a look-up.
        work = 2 * (sum(p.numel() for p in model.net.parameters()) - vocabulary * model.config.model.d)
    else:
        # A distribution is made and added for every expert.
        work = 2 * vocabulary * len(model.memories.experts)
    return ids.numel(), work, lambda: model.log_probs(ids)


@claim(
    "performance.throughput",
    statement="Predictions run at a stated share of what a plain matrix product reaches on the same machine.",
    source="docs/performance.md",
    families=FAMILIES,
)
def throughput(setting: Setting) -> Evidence:
    """Tokens a CPU-second times the arithmetic of a token, over the arithmetic a CPU-second of a matrix product.

    Both are measured in this process, one right after the other, so a slow or busy machine slows both. The floors lie
    far below what a healthy build reaches: small models spend their time between the products. They catch a loop over
    tokens in a hot path, which costs a factor of hundreds.
    """
    figures = list[Figure]()
    for family in sorted(setting.runs):
        count, work, predict = _predictions(family, loaded(setting, family), setting)
        before = matrix_speed()
        seconds = _fastest(predict)
        reference = min(before, matrix_speed())
        trained = newest(setting, family).state["counters"]
        figures += [
            Figure(
                f"{family}: share of the speed of a matrix product",
                count * work / seconds / reference,
                ">=",
                FLOORS[family],
            ),
            Figure(
                f"{family}: predicted {launch.family_of(newest(setting, family)).unit}s",
                count / seconds,
                unit="a CPU-second",
            ),
            Figure(
                f"{family}: trained, as recorded", trained["tokens"] / max(trained["cpu_s"], 1e-9), unit="a CPU-second"
            ),
        ]
    return Evidence((*figures, Figure("matrix product", matrix_speed() / 1e9, unit="GFLOP a CPU-second")))
