"""What every structure will take, before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from holonomy.core.errors import ConfigError
from holonomy.models.holographic.config import HolographicConfig
from holonomy.models.holographic.eviction import trie_bytes
from holonomy.models.holographic.spelling import MODULUS
from holonomy.models.holographic.topics import topic_runs

MIB = 2**20
DENSE = 40
"""Bytes for each number of a dense block while distributions are made and judged; see `memories.PART`."""
FITTED = 20
"""Bytes for each number of the distributions that exponents are fitted to: counts, what speaks for words, a margin."""
FITTED_MOST = 20 * 2**20
"""Numbers of these distributions, at most."""
LEAST_FITTED = 50
"""Words that exponents are fitted to at least."""
PAIR = 400
"""Bytes for each pair of neighbours while word vectors are made."""
REPLAYED = 48
"""Bytes for each word that is learned once more after a stream."""
COPIES = 2
"""Of everything that is saved: the bytes of each tensor, and those of the file."""
WORKING = 8
"""The part of a budget, one in so many, that word vectors, and that a mixture, may take while they are made."""
NEIGHBOUR = 100
"""Bytes for each context of the hashed neighbours beside its key, with what stands empty while they grow."""
CHUNK_ROWS = 1024
"""Pairs that a trie must have room for at a time; see `counts.CHUNK`."""


@dataclass(frozen=True)
class MemoryPlan:
    """What a model will take.

    Attributes:
        fixed: bytes of structures whose size does not depend on the text.
        rooms: most bytes of each trie of counts; empty without a budget, where they grow with the text.
        making: bytes of what exists for a while, one after the other: of the making of vectors, topics, mixture, and,
            with a budget, of all that a checkpoint copies.
        fitted: numbers of distributions that exponents are fitted to at a time.
        neighbours: most pairs of neighbours that word vectors are made of; None is all.
    """

    fixed: dict[str, int]
    rooms: dict[str, int]
    making: dict[str, int]
    fitted: int
    neighbours: int | None

    def table(self) -> dict[str, int]:
        """Bytes by structure, largest first, and the most of what exists for a while."""
        found = {**self.fixed, **{f"{name}, at most": room for name, room in self.rooms.items()}}
        longest = max(self.making, key=lambda name: self.making[name])
        found[f"{longest} in the making"] = self.making[longest]
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def skip_name(places: tuple[int, ...]) -> str:
    """Name of the counts of words at chosen places."""
    return f"skip {'-'.join(map(str, places))}"


def trie_shares(config: HolographicConfig) -> dict[str, tuple[int, int, int]]:
    """Order, number of symbols beside words, and share of the room, by the name of each trie of counts."""
    counts = config.counts
    found = {"counts": (counts.order, 0, 2 * counts.order)}
    found |= {skip_name(p): (len(p) + 1, 0, len(p) + 1) for p in counts.skips}
    found |= {f"spelled {'-'.join(p)}": (len(p) + 1, MODULUS, len(p) + 1) for p in counts.spelled}
    if config.mixture.pool != "logarithmic":
        found["apart"] = (2, 0, 2)
    found |= {f"class {n}": (counts.class_order, n, counts.class_order) for n in counts.classes}
    return found


def basin_bytes(config: HolographicConfig, words: int) -> int:
    """Bytes of hashed neighbours of so many words, at most."""
    basins, key = config.basins, 8 * config.similarity.dim
    tables = 4 * basins.tables * (2**basins.bits + 4 * config.similarity.dim * basins.bits)
    return tables + words * ((key + 4 * basins.tables) * 9 // 8 + NEIGHBOUR)


def _fixed(config: HolographicConfig, vocab_size: int, words: int) -> tuple[dict[str, int], dict[str, int]]:
    # What is there all the time, and what is made, but for word vectors.
    tower, similarity, mixture = config.tower, config.similarity, config.mixture
    found = {"unigram": 8 * vocab_size, "dense blocks": DENSE * max(2**21, vocab_size)}
    making = {"mixture": FITTED * mixture.product_positions * vocab_size}
    if mixture.pool != "logarithmic":
        size = 4 * similarity.dim + 1
        columns = similarity.dim + (vocab_size if similarity.readout else 0)
        found["readout"] = 8 * size * size + 12 * size * columns + 4 * vocab_size * similarity.dim
        found["classes of words"] = 8 * vocab_size * len(config.counts.classes)
        if similarity.topics:
            # Counts and ratios of each run, shares of all; made in float64.
            runs = topic_runs(config.replay, vocab_size, similarity.topics)
            found["topics"] = 8 * runs * vocab_size + 8 * vocab_size + 4 * runs
            making["topics"] = 16 * runs * vocab_size
        if config.basins.enabled:
            found["basins"] = basin_bytes(config, words)
    if tower.role != "off":
        addresses = sum(tower.top_digits.values()) * 16 ** (tower.levels - 2)
        found["tower"] = addresses * (64 * tower.channels + 4)
        found["signatures"] = 64 * tower.channels * vocab_size * (1 + len(tower.top_digits))
    return found, making


def least_room(order: int, symbols: int) -> int:
    """Bytes without which a trie cannot take one batch: all symbols, and the rows that a few pairs may bring."""
    rows = CHUNK_ROWS * (order * (order - 1) // 2 + order)
    return trie_bytes(symbols + rows, CHUNK_ROWS) * 3 // 2


def memory_plan(config: HolographicConfig, vocab_size: int, *, words: int = 0) -> MemoryPlan:
    """What a model of so many known words will take.

    With `config.memory`, what is left beside structures of fixed size is shared by the tries of counts, or less, so
    that vectors and mixture can be made, and copies of all that is saved.

    Args:
        config: of the model.
        vocab_size: words that are known.
        words: what hashed neighbours are kept of, where that is known.

    Raises:
        ConfigError: it cannot fit; names what takes most and what would fit.
    """
    (fixed, making), shares = _fixed(config, vocab_size, words), trie_shares(config)
    if config.memory is None:
        making["mixture"] = min(making["mixture"], FITTED * FITTED_MOST)
        return MemoryPlan(fixed, {}, making, FITTED_MOST, None)
    budget = config.memory * MIB
    fixed["words of the replay"] = REPLAYED * config.replay
    working = budget // WORKING if "readout" in fixed else 0
    making["word vectors"] = working
    making["mixture"] = min(making["mixture"], max(budget // WORKING, FITTED * LEAST_FITTED * vocab_size))
    saved = sum(fixed.get(name, 0) for name in ("unigram", "readout", "classes of words", "topics", "tower"))
    taken, most_made = sum(fixed.values()), max(making.values())
    free = min(budget - taken - most_made, (budget - taken - COPIES * saved) // (1 + COPIES))
    total = sum(share for _, _, share in shares.values())
    rooms = {name: free * share // total for name, (_, _, share) in shares.items()}
    short = {n: least_room(o, vocab_size + extra) for n, (o, extra, _) in shares.items()}
    if any(rooms[name] < short[name] for name in rooms):
        least = max(room * total // shares[name][2] for name, room in short.items())
        made = max((taken + least) // (WORKING - 1), *(making[name] for name in making if name != "word vectors"))
        needed = taken + max(least + made, COPIES * saved + (1 + COPIES) * least)
        most = max(fixed, key=lambda name: fixed[name])
        raise ConfigError(
            f"`model.memory` is {config.memory} MiB; {vocab_size:,} words want {needed / MIB:,.0f} MiB at least, "
            f"{fixed[most] / MIB:,.0f} of them for {most}: raise it, take fewer words "
            "(data.documents.vocab_size, data.min_count), a shorter model.replay, fewer model.counts.skips and "
            "classes, fewer model.tower.levels, or model.tower.role off"
        )
    making["checkpoint"] = COPIES * (saved + sum(rooms.values()))
    return MemoryPlan(fixed, rooms, making, making["mixture"] // FITTED, working // PAIR)
