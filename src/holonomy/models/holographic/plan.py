"""What every structure will take, before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holonomy.core.errors import ConfigError
from holonomy.core.machine import available_memory
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
MANY_WORDS = 32_768
"""With more words than these, some things are done for a part of them only."""
MOST_CANDIDATES = 4096
"""Candidates where nothing else is said."""
FOLLOWED = 16
"""The part of all words, one in so many, that followed a context, or less on average."""
PAIR = 400
"""Bytes for each pair of neighbours while word vectors are made."""
REPLAYED = 48
"""Bytes for each word that is learned once more after a stream."""
COPIES = 2
"""Of everything that is saved: the bytes of each tensor, and those of the file."""
WAITING = 3
"""The same where learning goes on meanwhile: two checkpoints may wait, and one of them becomes a file."""
WORKING = 8
"""The part of a budget, one in so many, that word vectors, and that a mixture, may take while they are made."""
NEIGHBOUR = 100
"""Bytes for each context of the hashed neighbours beside its key, with what stands empty while they grow."""
FEW_WORDS = 1000
"""No fewer words are proposed where more of them do not fit."""
CHUNK_ROWS = 1024
"""Pairs that a trie must have room for at a time; see `counts.CHUNK`."""


@dataclass(frozen=True)
class MemoryPlan:
    """What a model will take.

    Attributes:
        fixed: bytes of structures whose size does not depend on the text.
        rooms: most bytes of each trie of counts; empty without a budget, where they grow with the text.
        making: bytes of what exists for a while, one after the other: of the making of vectors, topics, mixture, and
            of what a checkpoint copies; without a budget, counts are not among it.
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

    def header(self) -> dict[str, str]:
        """The same for the head of a run."""
        return {f"bytes of {name}": f"{size:,}" for name, size in self.table().items()}


def num_candidates(config: HolographicConfig, vocab_size: int) -> int | None:
    """How many words of each context similarity speaks of; None is all of them.

    Raises:
        ConfigError: something needs all of them, and there are too many.
    """
    most, pooled = config.similarity.candidates, config.mixture.pool == "logarithmic"
    if most is None:
        most = MOST_CANDIDATES if vocab_size > MANY_WORDS else vocab_size
    if most >= vocab_size or pooled:
        return None
    if config.similarity.readout:
        raise ConfigError(
            f"`model.similarity.readout` is true, which expects all {vocab_size:,} words, and similarity speaks of "
            f"{most:,} candidates: set it to false, or take {MANY_WORDS:,} words or fewer and no candidates"
        )
    return most


def settled_candidates(config: HolographicConfig, vocab_size: int) -> int | None:
    """How many words of each context a settled state may hold; None is all of them."""
    if config.tower.cleanup == "full":
        return None
    if config.tower.cleanup == "auto":
        return num_candidates(config, vocab_size)
    most = config.similarity.candidates or MOST_CANDIDATES
    return most if most < vocab_size else None


def fitted_breadth(config: HolographicConfig, vocab_size: int) -> int:
    """Numbers that exponents are fitted to at each place: all words, or candidates and what followed."""
    most = num_candidates(config, vocab_size)
    if most is None or config.mixture.product != "episodic":
        return vocab_size
    return max(most, vocab_size // FOLLOWED)


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


SAVED = ("unigram", "readout", "classes of words", "topics", "tower")
"""Structures that a checkpoint copies, beside counts and contexts of neighbours."""


def _fixed(config: HolographicConfig, vocab_size: int, learned: int) -> tuple[dict[str, int], dict[str, int]]:
    # What is there all the time, and what is made, but for word vectors.
    tower, similarity, mixture = config.tower, config.similarity, config.mixture
    found = {"unigram": 8 * vocab_size, "dense blocks": DENSE * max(2**21, vocab_size)}
    traces = config.recency.traces
    found["recency"] = 8 * len(traces) * (max((window for _, window, _ in traces), default=0) + 2)
    breadth = fitted_breadth(config, vocab_size)
    making = {"mixture": FITTED * mixture.product_positions * breadth}
    if num_candidates(config, vocab_size) is not None:
        # Words by frequency and by cell, marks of a batch, lowest distributions and a power of one, a row.
        found["candidates"] = 48 * vocab_size
    if mixture.pool != "logarithmic":
        size = 4 * similarity.dim + 1
        columns = similarity.dim + (vocab_size if similarity.readout else 0)
        found["readout"] = 8 * size * size + 12 * size * columns + 4 * vocab_size * similarity.dim
        found["classes of words"] = 8 * vocab_size * len(config.counts.classes)
        if similarity.topics:
            # Counts, shares and ratios of each run, and common shares; made in float64.
            runs = topic_runs(learned, vocab_size, similarity.topics)
            found["topics"] = 12 * runs * vocab_size + 4 * vocab_size
            making["topics"] = 16 * runs * vocab_size
        if config.basins.enabled:
            found["basins"] = basin_bytes(config, learned)
    if tower.role != "off":
        addresses = sum(tower.top_digits.values()) * 16 ** (tower.levels - 2)
        found["tower"] = addresses * (64 * tower.channels + 4)
        placed = len(tower.top_digits) if vocab_size <= MANY_WORDS else 0
        found["signatures"] = 64 * tower.channels * vocab_size * (1 + placed)
    return found, making


def least_room(order: int, symbols: int) -> int:
    """Bytes without which a trie cannot take one batch: all symbols, and the rows that a few pairs may bring."""
    rows = CHUNK_ROWS * (order * (order - 1) // 2 + order)
    return trie_bytes(symbols + rows, CHUNK_ROWS) * 3 // 2


def memory_plan(config: HolographicConfig, vocab_size: int, words: int | None = None) -> MemoryPlan:
    """What a model of so many different words will take, that learns `words` of them; None is any number.

    With `config.memory`, what is left beside structures of fixed size is shared by the tries of counts, or less, so
    that vectors and mixture can be made, and copies of all that is saved.

    Raises:
        ConfigError: it cannot fit; names what takes most and what would fit.
    """
    plan, wanted = _divided(config, vocab_size, words)
    if wanted:
        most = max(plan.fixed, key=lambda name: plan.fixed[name])
        found = _fitting(config, vocab_size, lambda less, fewer: not _divided(less, fewer, words)[1])
        raise ConfigError(
            f"`model.memory` is {config.memory} MiB; {vocab_size:,} words want {wanted / MIB:,.0f} MiB at least, "
            f"{plan.fixed[most] / MIB:,.0f} of them for {most}: raise it{', or take ' * bool(found)}{found}; a shorter "
            "model.replay, and fewer model.counts.skips and classes, help, too"
        )
    return plan


def plan_for_machine(
    config: HolographicConfig, vocab_size: int, words: int | None = None, *, available: int | None = None
) -> MemoryPlan:
    """The plan of a model that is to be trained here; arguments as of `memory_plan`.

    Args:
        config: of the model.
        vocab_size: number of different words.
        words: that it learns.
        available: bytes; None is the memory of this machine.

    Raises:
        ConfigError: it is too large for `config.memory` or this machine; names what takes most and what would fit.
    """
    room = available_memory() if available is None else available

    def total(less: HolographicConfig, fewer: int) -> int:
        return sum(_divided(less, fewer, words)[0].table().values())

    plan = memory_plan(config, vocab_size, words)
    if (needed := total(config, vocab_size)) > room:
        sizes = plan.fixed | plan.rooms
        most = max(sizes, key=lambda name: sizes[name])
        found = f"model.memory {room // MIB} or less"
        if config.memory is None:
            found = _fitting(config, vocab_size, lambda less, fewer: total(less, fewer) <= room)
        raise ConfigError(
            f"{vocab_size:,} words want {needed / MIB:,.0f} MiB{' beside counts' * (not plan.rooms)}, "
            f"{sizes[most] / MIB:,.0f} of them for {most}; there are {room / MIB:,.0f} here: "
            f"take {found or 'a larger machine'}"
        )
    return plan


def _fitting(config: HolographicConfig, vocab_size: int, fits: Callable[[HolographicConfig, int], bool]) -> str:
    """Which levels, channels and number of words would fit, each of them alone; without the store where none does."""
    tower, found = config.tower, list[str]()

    def having(**values: int | str) -> HolographicConfig:
        return config.model_copy(update={"tower": tower.model_copy(update=values)})

    def most_words(less: HolographicConfig) -> int:
        low, high = 0, vocab_size
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(less, middle) else (low, middle)
        return low

    if tower.role != "off":
        levels = next((n for n in range(tower.levels - 1, 2, -1) if fits(having(levels=n), vocab_size)), None)
        halves = (tower.channels >> k for k in range(1, tower.channels.bit_length()))
        channels = next((n for n in halves if fits(having(channels=n), vocab_size)), None)
        found += [f"model.tower.levels {levels}"] if levels else []
        found += [f"model.tower.channels {channels}"] if channels else []
    if (words := most_words(config)) >= FEW_WORDS:
        found.append(f"{words:,} words (data.min_count, data.documents.vocab_size)")
    if not found and tower.role != "off":
        without = having(role="off")
        if fits(without, vocab_size):
            found.append("model.tower.role off")
        elif (words := most_words(without)) >= FEW_WORDS:
            found.append(f"{words:,} words and model.tower.role off")
    return " or ".join(found)


def _divided(config: HolographicConfig, vocab_size: int, words: int | None) -> tuple[MemoryPlan, int]:
    """The plan of a model, and the bytes that `config.memory` lacks for it to be one: what it wants, or 0."""
    learned = words or config.replay
    (fixed, making), shares = _fixed(config, vocab_size, learned), trie_shares(config)
    saved = sum(fixed.get(name, 0) for name in SAVED)
    if config.basins.enabled:
        # The words of contexts, and what followed them: keys are made anew.
        saved += 4 * learned * (config.similarity.positions + 4)
    if config.memory is None:
        making["checkpoint"] = WAITING * saved
        making["mixture"] = min(making["mixture"], FITTED * FITTED_MOST)
        return MemoryPlan(fixed, {}, making, FITTED_MOST, None), 0
    budget = config.memory * MIB
    fixed["words of the replay"] = REPLAYED * config.replay
    working = budget // WORKING if "readout" in fixed else 0
    making["word vectors"] = working
    making["mixture"] = min(
        making["mixture"], max(budget // WORKING, FITTED * LEAST_FITTED * fitted_breadth(config, vocab_size))
    )
    taken, most_made = sum(fixed.values()), max(making.values())
    free = min(budget - taken - most_made, (budget - taken - COPIES * saved) // (1 + COPIES))
    total = sum(share for _, _, share in shares.values())
    rooms = {name: free * share // total for name, (_, _, share) in shares.items()}
    short = {n: least_room(o, vocab_size + extra) for n, (o, extra, _) in shares.items()}
    wanted = 0
    if any(rooms[name] < short[name] for name in rooms):
        least = max(room * total // shares[name][2] for name, room in short.items())
        made = max((taken + least) // (WORKING - 1), *(making[name] for name in making if name != "word vectors"))
        wanted = taken + max(least + made, COPIES * saved + (1 + COPIES) * least)
    making["checkpoint"] = COPIES * (saved + sum(rooms.values()))
    return MemoryPlan(fixed, rooms, making, making["mixture"] // FITTED, working // PAIR), wanted
