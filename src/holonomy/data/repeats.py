"""Held-out documents that come again in what is learned, almost word for word; exact copies never get that far."""

from __future__ import annotations

import numpy as np

from holonomy.core.errors import CheckpointError

LENGTH = 13
"""Words in a row that hardly come again by chance; as Brown et al. (2020, appendix C) look for them."""
SHARE = 0.5
"""Share of its runs of words from which on a document counts as repeated."""
STEP = np.uint64(0x9E3779B97F4A7C15)
MIXES = ((30, np.uint64(0xBF58476D1CE4E5B9)), (27, np.uint64(0x94D049BB133111EB)))


def run_hashes(words: np.ndarray) -> np.ndarray:
    """A number of 64 bits for each run of `LENGTH` words, [max(0, n - LENGTH + 1)] uint64."""
    count = max(0, len(words) - LENGTH + 1)
    # Each word as splitmix64 mixes it, so that neighbouring ids do not add up to those of another run.
    mixed = words.astype(np.uint64) * STEP + STEP
    for shift, factor in MIXES:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * factor
    found = np.zeros(count, dtype=np.uint64)
    for k in range(LENGTH):
        found = found * STEP + mixed[k : k + count]
    return found


class Repeats:
    """Marks the runs of words of held-out documents that are seen in others.

    Args:
        words: held-out documents end to end.
        starts: where each begins.
    """

    def __init__(self, words: np.ndarray, starts: np.ndarray) -> None:
        documents = np.split(words, starts[1:])
        hashes = [run_hashes(document) for document in documents]
        self._runs, at = np.unique(np.concatenate(hashes), return_inverse=True)
        self._of = np.split(at, np.cumsum([len(h) for h in hashes])[:-1])
        self._words, self._seen = documents, np.zeros(len(self._runs), dtype=bool)

    @property
    def seen(self) -> np.ndarray:
        """Which runs were seen; one process may add what others saw."""
        return self._seen

    def see(self, words: np.ndarray) -> None:
        """Notices what a document to learn shares with those that are held out."""
        if not len(self._runs):
            return
        hashes = run_hashes(words)
        at = np.minimum(np.searchsorted(self._runs, hashes), len(self._runs) - 1)
        self._seen[at[self._runs[at] == hashes]] = True

    def repeated(self) -> np.ndarray:
        """Which documents have half of their runs in what was seen; shorter ones than a run never."""
        return np.array([len(at) > 0 and self._seen[at].mean() >= SHARE for at in self._of])

    def rest(self) -> list[np.ndarray]:
        """The documents that are not repeated."""
        return [words for words, again in zip(self._words, self.repeated(), strict=True) if not again]

    def state(self) -> str:
        """What was seen, as text."""
        return np.packbits(self._seen).tobytes().hex()

    def load_state(self, state: object) -> None:
        """Takes back what `state` gave.

        Raises:
            CheckpointError: it is of other documents.
        """
        wanted = -(-len(self._seen) // 8)
        try:
            raw = bytes.fromhex(state) if isinstance(state, str) else None
        except ValueError:
            raw = None
        if raw is None or len(raw) != wanted:
            raise CheckpointError(f"what was seen of held-out documents is damaged; wanted {wanted} bytes in hex")
        self._seen[:] = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=len(self._seen)).astype(bool)
