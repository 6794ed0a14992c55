"""A model as named tensors and plain values, and back, and the sum of two models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from holonomy.core.errors import CheckpointError, ConfigError
from holonomy.core.learner import Json, State
from holonomy.data.tokenizer import CharTokenizer
from holonomy.data.words import WordTokenizer
from holonomy.models.holographic.basins import Basins
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.fit import Mixture
from holonomy.models.holographic.following import Multiplied
from holonomy.models.holographic.kernels import RELEASED
from holonomy.models.holographic.memories import Memories
from holonomy.models.holographic.mixture import Certainty, Gate
from holonomy.models.holographic.model import HolographicModel
from holonomy.models.holographic.pooling import Pool
from holonomy.models.holographic.similarity import ContextFeatures, Readout
from holonomy.models.holographic.topics import Topics
from holonomy.models.holographic.transfer import check_addable, merge_counts

META = "holographic"
FORGOTTEN = "forgotten"
"""Says that contexts have a column for what was dropped below them; earlier checkpoints have none."""
TILTS, TOPICS = "tilts", "topics"
"""Exponents of topics and whether there are any; earlier checkpoints have none."""
CONFIDENCES = "confidences"
"""Quantiles of how sure the mixture is; earlier checkpoints have none."""
REHEARSED = "rehearsed/"
"""Before the names of what a mixture learned from following its text, where it did."""
KEYS = {"fingerprint", "config", "classes", "vectors", "power", "slope", "product", "calibrated", "tempers"}


def state_of(model: HolographicModel, *, copy: bool = True) -> State:
    """Everything that the model has learned and fitted, as it is now or, without `copy`, as it goes on to change."""
    memories, mixture = model.memories, model.mixture
    named = [*memories.grams, memories.apart, *memories.classes]
    state: State = {
        f"grams/{gram.name}/{key}": torch.from_numpy(array.copy() if copy else array)
        for gram in named
        for key, array in gram.trie.state().items()
    }
    state |= {f"group/{g.name}": torch.from_numpy(g.group.copy()) for g in memories.classes if g.group is not None}
    state["unigram"] = torch.from_numpy(memories.unigram.copy())
    state |= {f"gate/{key}": torch.from_numpy(array.copy()) for key, array in mixture.gate.state().items()}
    for name, pool in (("pool", mixture.pool), ("certainty", mixture.certainty)):
        if pool is not None:
            state |= {f"{name}/{key}": torch.from_numpy(array.copy()) for key, array in pool.state().items()}
    state |= {f"{REHEARSED}{key}": torch.from_numpy(array.copy()) for key, array in (mixture.rehearsed or {}).items()}
    if memories.readout is not None:
        held = {f"readout/{key}": tensor for key, tensor in memories.readout.state().items()}
        held["vectors"] = memories.readout.features.vectors
        state |= {name: tensor.clone() if copy else tensor for name, tensor in held.items()}
    if memories.topics is not None:
        state[TOPICS] = torch.from_numpy(memories.topics.counts.copy())
    if memories.basins is not None:
        state |= {f"basins/{key}": torch.from_numpy(array) for key, array in memories.basins.state().items()}
    if model.mirror is not None:
        bound = model.mirror.tower.state().items()
        state |= {f"tower/{key}": tensor.clone() if copy else tensor for key, tensor in bound}
        state["tower/shares"] = torch.from_numpy(model.mirror.shares.copy())
    state[META] = {
        "fingerprint": model.tokenizer.fingerprint,
        "config": model.config.model_dump_json(),
        "classes": [len(np.unique(g.group)) for g in memories.classes if g.group is not None],
        "vectors": memories.readout is not None,
        "power": mixture.power,
        "slope": mixture.slope,
        "product": mixture.product,
        "calibrated": mixture.calibrated,
        "tempers": mixture.certainty is not None,
        TILTS: list(mixture.tilts),
        TOPICS: memories.topics is not None,
        FORGOTTEN: True,
        CONFIDENCES: list(mixture.confidences),
    }
    return state


def load_into(model: HolographicModel, state: Mapping[str, Tensor | Json]) -> None:
    """Takes over what `state_of` gave.

    Raises:
        CheckpointError: another tokenizer or configuration, or a piece that is missing, foreign or damaged; the model
            is then as before.
    """
    meta = state.get(META)
    if isinstance(meta, dict) and set(meta) in (KEYS, KEYS | {FORGOTTEN}):
        state = _of_today(state)
        meta = state[META]
    if isinstance(meta, dict) and CONFIDENCES not in meta:
        meta = {**meta, CONFIDENCES: []}
    wanted = KEYS | {FORGOTTEN, TILTS, TOPICS, CONFIDENCES}
    if not isinstance(meta, dict) or set(meta) != wanted:
        raise CheckpointError(f"`{META}` is missing or incomplete; wanted {', '.join(sorted(wanted))}")
    if meta["fingerprint"] != model.tokenizer.fingerprint:
        raise CheckpointError("`tokenizer` is not the one that the checkpoint was made with; load that one")
    if HolographicConfig.model_validate_json(str(meta["config"])) != model.config:
        raise CheckpointError("`config` is not the one that the checkpoint was made with; load that one")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    fresh = HolographicModel(model.config, model.tokenizer)
    _load_memories(fresh.memories, tensors, meta)
    fresh.mixture = _mixture(fresh.memories, tensors, meta)
    if fresh.mirror is not None:
        held = {k.removeprefix("tower/"): t.cpu() for k, t in tensors.items() if k.startswith("tower/")}
        shares = held.pop("shares", torch.empty(0)).numpy()
        fresh.mirror.tower.load_state(held)
        if shares.shape != fresh.mirror.shares.shape or not np.isfinite(shares).all():
            raise CheckpointError("`tower/shares` is damaged")
        fresh.mirror.shares = shares.copy()
    known = set(state_of(fresh, copy=False))
    if known != set(state):
        foreign = sorted(set(state) ^ known)
        raise CheckpointError(f"`{foreign[0]}` does not belong to this model, or is missing")
    model.memories, model.mixture, model.mirror = fresh.memories, fresh.mixture, fresh.mirror
    model.attach()


def _lacks_column(name: str, value: Tensor) -> bool:
    return name.endswith("/inner") and value.dim() == 2 and value.shape[1] == RELEASED


def _of_today(state: Mapping[str, Tensor | Json]) -> State:
    """An earlier state with the column of what was dropped, since nothing was, and without topics."""
    found: State = {
        name: F.pad(value, (0, 1)) if isinstance(value, Tensor) and _lacks_column(name, value) else value
        for name, value in state.items()
    }
    meta = found.pop(META)
    assert isinstance(meta, dict)
    found[META] = {**meta, FORGOTTEN: True, TILTS: [], TOPICS: False}
    return found


def _take(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"`{name}` is missing")
    return tensors[name].cpu()


def _load_memories(memories: Memories, tensors: Mapping[str, Tensor], meta: dict[str, Json]) -> None:
    vocab_size, numbers = memories.vocab_size, memories.config.counts.classes
    made = [memories.class_grams(n, np.empty(0, np.int64)) for n in numbers] if meta["classes"] else []
    for gram, number in zip(made, numbers, strict=False):
        group = _take(tensors, f"group/{gram.name}").numpy()
        if group.shape != (vocab_size,) or not vocab_size <= group.min() <= group.max() < vocab_size + number:
            raise CheckpointError(f"`group/{gram.name}` does not give each word one of {number} classes")
        gram.group = group.copy()
    for gram in [*memories.grams, memories.apart, *made]:
        prefix = f"grams/{gram.name}/"
        gram.trie.load_state(
            {k.removeprefix(prefix): t.cpu().numpy() for k, t in tensors.items() if k.startswith(prefix)}
        )
    memories.classes = made
    unigram = _take(tensors, "unigram").numpy()
    if unigram.shape != (vocab_size,) or unigram.min() < 0:
        raise CheckpointError("`unigram` is damaged")
    memories.unigram = unigram.copy()
    if meta["vectors"]:
        similarity, vectors = memories.config.similarity, _take(tensors, "vectors").clone()
        if vectors.shape != (vocab_size, similarity.dim) or not bool(vectors.isfinite().all()):
            raise CheckpointError("`vectors` is damaged or of another size")
        features = ContextFeatures(vectors, positions=similarity.positions, decay=similarity.decay)
        readout = Readout(features, ridge=similarity.ridge, words=similarity.readout)
        readout.load_state({k: _take(tensors, f"readout/{k}") for k in readout.state()})
        memories.readout = readout
        if memories.config.basins.enabled:
            memories.basins = Basins(memories.config.basins, readout)
            kept = {k.removeprefix("basins/"): t.cpu().numpy() for k, t in tensors.items() if k.startswith("basins/")}
            memories.basins.load_state(kept)
    if meta[TOPICS]:
        counts = _take(tensors, TOPICS).numpy()
        if counts.ndim != 2 or counts.shape[1] != vocab_size or counts.dtype != np.int32 or counts.sum(1).min() < 1:
            raise CheckpointError("`topics` is damaged or of another vocabulary")
        memories.topics = Topics(counts.copy(), memories.unknown)


def _mixture(memories: Memories, tensors: Mapping[str, Tensor], meta: dict[str, Json]) -> Mixture:
    def arrays(name: str) -> dict[str, np.ndarray]:
        return {key: _take(tensors, f"{name}/{key}").numpy() for key in ("mean", "scale", "weights")}

    gate = Gate.from_state(arrays("gate"), memories.num_numbers, len(memories.experts))
    power, slope, tempers = meta["power"], meta["slope"], meta["tempers"]
    if (
        not isinstance(power, float)
        or not isinstance(slope, float)
        or meta["product"] not in ("episodic", "all", "none")
    ):
        raise CheckpointError("`power`, `slope` or `product` of the mixture is damaged")
    if isinstance(tempers, list):
        raise CheckpointError("`tempers` of the mixture are exponents by order, which are gone; train the run anew")
    tilts = meta[TILTS]
    if not isinstance(tilts, list) or len(tilts) not in (0, 2) or not np.isfinite(np.array(tilts, dtype=float)).all():
        raise CheckpointError("`tilts` of the mixture is damaged")
    pool = certainty = None
    if memories.pooled and meta["calibrated"]:
        pool = Pool.from_state(arrays("pool"), memories.num_numbers, len(memories.voices))
    if tempers:
        certainty = Certainty.from_state(arrays("certainty"), 3, 1)
    sure = meta[CONFIDENCES]
    if not isinstance(sure, list) or not all(isinstance(p, float) and 0 <= p <= 1 for p in sure):
        raise CheckpointError(f"`{CONFIDENCES}` of the mixture is damaged")
    fitted = Mixture(gate, power, slope, str(meta["product"]), certainty, bool(meta["calibrated"]), pool)
    held = {k.removeprefix(REHEARSED): t.cpu().numpy() for k, t in tensors.items() if k.startswith(REHEARSED)}
    if held and pool is not None:
        follows = Multiplied(memories, pool)
        follows.load_state(held)
        fitted = replace(fitted, rehearsed=follows.state())
    known = tuple(float(str(p)) for p in sure)
    return replace(fitted, tilts=tuple(float(str(t)) for t in tilts), confidences=known)


def resized(state: State, tokenizer: WordTokenizer | CharTokenizer) -> State:
    """The learned part of a state with another number of words behind those it shares with its own tokenizer.

    Counts and bindings stay. Vectors, classes and what hangs on them go: fit the model again.

    Args:
        state: what `state_of` gave.
        tokenizer: with the same first words; what is counted must be among them.
    """
    gone = ("grams/class ", "group/", "readout/", "vectors", TOPICS, "basins/", REHEARSED)
    kept: State = {k: v for k, v in state.items() if not k.startswith(gone)}
    unigram, meta = state["unigram"], state[META]
    assert isinstance(unigram, Tensor) and isinstance(meta, dict)
    size = tokenizer.vocab_size
    kept["unigram"] = torch.cat([unigram[:size], unigram.new_zeros(max(0, size - len(unigram)))])
    kept[META] = {**meta, "fingerprint": tokenizer.fingerprint, "classes": [], "vectors": False, TOPICS: False}
    return kept


def learned_tensors(model: HolographicModel) -> dict[str, Tensor]:
    """What `merged` takes: everything that is learned from pairs, as it goes on to change."""
    state = state_of(model, copy=False)
    return {k: v for k, v in state.items() if isinstance(v, Tensor) and k.startswith(("grams/", "unigram", "tower/"))}


def merged(model: HolographicModel, parts: Iterable[Mapping[str, Tensor]]) -> None:
    """Makes a model the sum of what models of its kind have learned, its own part among them.

    Args:
        model: nothing of it is fitted yet.
        parts: `learned_tensors` of each, one at a time.
    """
    whole = HolographicModel(model.config, model.tokenizer)
    for part in parts:
        other = HolographicModel(model.config, model.tokenizer)
        load_into(other, {**state_of(model, copy=False), **part})
        merge_into(whole, other)
    model.memories, model.mirror = whole.memories, whole.mirror
    model.attach()


def _as_high(config: HolographicConfig, other: HolographicConfig) -> HolographicConfig:
    """A configuration with a tower of as many levels as that of another."""
    tower = config.tower.model_copy(update={"levels": other.tower.levels})
    return config.model_copy(update={"tower": tower})


def merge_into(model: HolographicModel, other: HolographicModel) -> None:
    """Adds all pairs that another model has learned: counts and bindings are then those of one pass over both texts.

    Vectors, classes and what hangs on them are dropped, since they mean different things in both: consolidate. A tower
    with more levels than the model's is folded.

    Raises:
        ConfigError: another tokenizer or configuration, or a tower with fewer levels.
        DataError: counts or bindings would overflow. Nothing has changed then.
    """
    if model.tokenizer.fingerprint != other.tokenizer.fingerprint or model.config != _as_high(
        other.config, model.config
    ):
        raise ConfigError(
            "`other` has another tokenizer or configuration; merge models of one kind: runs with one `data.vocabulary`"
        )
    mine, theirs = model.memories, other.memories
    merged: list[tuple[CountTrie, CountTrie]] = [
        (a.trie, b.trie) for a, b in zip([*mine.grams, mine.apart], [*theirs.grams, theirs.apart], strict=True)
    ]
    for trie, added in merged:
        check_addable(trie, added)
    if model.mirror is not None and other.mirror is not None:
        # The last that may fail, and before it changes anything.
        model.mirror.merge(other.mirror, mine.counts, theirs.counts)
    for trie, added in merged:
        merge_counts(trie, added)
    mine.drop_made()
    mine.unigram += theirs.unigram
