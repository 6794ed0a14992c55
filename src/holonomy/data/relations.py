"""Directed relations such as `a dog is a mammal`: from a table of pairs, or from the noun files of WordNet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from holonomy.core.errors import DataError
from holonomy.data.text import DATA_VARIABLE, data_directory, read_text

MAMMALS = "wordnet-mammals"
"""Known name of the closure of `mammal.n.01` in WordNet 3.0, as Nickel and Kiela (2017) cut it: 1,180 nouns."""
MAMMALS_SHA256 = "f5e7d8fb3f3e18184a3ace8bdb79ea6f92467d19c7f9ca9682433575cff6ff7c"
MAMMALS_WITHOUT = ("tusker.n.01", "female_mammal.n.01")


@dataclass(frozen=True)
class Relations:
    """Things and what stands above them.

    Attributes:
        names: of the things, sorted.
        pairs: int64 [m, 2], sorted and distinct; a row (u, v) says that v is above u.
    """

    names: tuple[str, ...]
    pairs: np.ndarray

    def ancestors(self) -> list[frozenset[int]]:
        """Everything above each thing, directly or not.

        Raises:
            DataError: something is above itself.
        """
        above: list[list[int]] = [[] for _ in self.names]
        below: list[list[int]] = [[] for _ in self.names]
        for u, v in self.pairs.tolist():
            above[u].append(v)
            below[v].append(u)
        waiting = [len(a) for a in above]
        ready = [u for u, count in enumerate(waiting) if count == 0]
        found: list[frozenset[int]] = [frozenset()] * len(self.names)
        done = 0
        while ready:
            v = ready.pop()
            done += 1
            found[v] = frozenset(above[v]).union(*(found[a] for a in above[v]))
            for u in below[v]:
                waiting[u] -= 1
                if waiting[u] == 0:
                    ready.append(u)
        if done < len(self.names):
            stuck = next(u for u, count in enumerate(waiting) if count)
            raise DataError(f"relations: `{self.names[stuck]}` is, over others, above itself; remove the cycle")
        return found


def relations_of(pairs: Iterable[tuple[str, str]]) -> Relations:
    """Numbers the names of pairs (below, above)."""
    distinct = sorted(set(pairs))
    names = sorted({name for pair in distinct for name in pair})
    number = {name: at for at, name in enumerate(names)}
    rows = np.array([[number[u], number[v]] for u, v in distinct], dtype=np.int64).reshape(-1, 2)
    return Relations(tuple(names), rows)


def load_relations(source: str) -> Relations:
    """Reads `wordnet-mammals`, or a UTF-8 file with a pair (below, tab, above) a line.

    Raises:
        DataError: missing, unreadable, a wrong digest, or a line that is not a pair.
    """
    path = Path(source)
    if source == MAMMALS:
        path = data_directory() / f"{MAMMALS}.tsv"
        if not path.is_file():
            raise DataError(
                f"`{MAMMALS}`: {path} does not exist; write it with `holonomy data wordnet FOLDER --root mammal.n.01 "
                f"{' '.join(f'--without {name}' for name in MAMMALS_WITHOUT)} --out {path}`, where FOLDER holds "
                f"data.noun of WordNet 3.0 (Debian: package wordnet-base), or set {DATA_VARIABLE}"
            )
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != MAMMALS_SHA256:
            raise DataError(
                f"`{MAMMALS}`: {path} has sha256 {found[:12]}..., wanted {MAMMALS_SHA256[:12]}...; WordNet 3.0 gives it"
            )
    pairs = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        parts = line.split("\t")
        if len(parts) != 2 or not all(parts):
            raise DataError(f"{path}:{number}: {line[:60]!r} is not a pair; wanted two names with one tab between them")
        pairs.append((parts[0], parts[1]))
    return relations_of(pairs)


def wordnet_relations(folder: Path, *, root: str | None = None, without: Iterable[str] = ()) -> Relations:
    """All pairs of nouns of which one is, directly or not, a kind or an instance of the other.

    Nouns are named as in NLTK: first word of the set of synonyms, `.n.`, number of the sense of that word.

    Args:
        folder: where `data.noun` and `index.noun` of a WordNet lie (format: wndb(5WN)).
        root: leave out all that is not this noun or below it.
        without: names to leave out.

    Raises:
        DataError: a file is missing or malformed, or `root` is no noun of it.
    """
    words: dict[str, str] = {}
    direct: list[tuple[str, str]] = []
    for number, line in _lines(folder / "data.noun"):
        fields = line.split(" | ", 1)[0].split()
        try:
            offset, first = fields[0], 4 + 2 * int(fields[3], 16)
            words[offset] = fields[4].lower()
            pointers = fields[first + 1 : first + 1 + 4 * int(fields[first])]
            direct += [(offset, t) for s, t in zip(pointers[::4], pointers[1::4], strict=True) if s in ("@", "@i")]
        except (IndexError, ValueError) as error:
            raise DataError(f"{folder / 'data.noun'}:{number}: not a noun of a WordNet database") from error
    if lost := next((t for _, t in direct if t not in words), None):
        raise DataError(f"{folder / 'data.noun'} points to a noun at {lost}, where it has none; it is cut short")
    sense: dict[tuple[str, str], int] = {}
    for _, line in _lines(folder / "index.noun"):
        word, *fields = line.split()
        sense |= {(word, o): at for at, o in enumerate((f for f in fields if len(f) == 8 and f.isdigit()), 1)}
    missing = [o for o, word in words.items() if (word, o) not in sense]
    if missing:
        raise DataError(f"{folder / 'index.noun'} does not list `{words[missing[0]]}` of data.noun at {missing[0]}")
    name = {o: f"{word}.n.{sense[word, o]:02d}" for o, word in words.items()}
    whole = relations_of((name[u], name[v]) for u, v in direct)
    above = whole.ancestors()
    if root is not None and root not in whole.names:
        raise DataError(f"`root` {root!r} is no noun of {folder}; wanted a name such as mammal.n.01")
    at = None if root is None else whole.names.index(root)
    kept = [u for u, a in enumerate(above) if whole.names[u] not in set(without) and (at is None or u == at or at in a)]
    inside = set(kept)
    return relations_of((whole.names[u], whole.names[v]) for u in kept for v in above[u] if v in inside)


def _lines(path: Path) -> Iterable[tuple[int, str]]:
    """Numbered lines without those of the licence, which begin with a blank."""
    return ((n, line) for n, line in enumerate(read_text(path).splitlines(), 1) if line and not line.startswith(" "))


def relations_text(relations: Relations) -> str:
    """The pairs as `load_relations` reads them."""
    return "".join(f"{relations.names[u]}\t{relations.names[v]}\n" for u, v in relations.pairs.tolist())
