"""Claims about bindings and counts: true of the code, and red for each broken double."""

from __future__ import annotations

from copy import copy

import numpy as np
import pytest
from mutants import Mutant

from holonomy.audit.claims import holographic as claims
from holonomy.models.holographic import mirror
from holonomy.models.holographic.counts import CountTrie
from holonomy.models.holographic.mirror import Mirror
from holonomy.models.holographic.settle import spread_counts as plain_counts
from holonomy.models.holographic.signatures import Signatures
from holonomy.models.holographic.tower import Tower


def channels_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Signatures.__init__

    def alike(self: Signatures, *arguments: int) -> None:
        plain(self, *arguments)
        self.words = self.words[:, ::2].repeat_interleave(2, 1).contiguous()
        self._placed = self.placed[:, :, ::2].repeat_interleave(2, 2).contiguous()

    monkeypatch.setattr(Signatures, "__init__", alike)


def sums_overstated(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Tower.crosstalk
    monkeypatch.setattr(Tower, "crosstalk", lambda self: 1.1 * plain(self))


def rare_grams_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CountTrie.learn

    def forgetful(self: CountTrie, pairs) -> None:
        plain(self, pairs)
        self.prune(2)

    monkeypatch.setattr(CountTrie, "learn", forgetful)


def all_is_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = claims.of_text
    monkeypatch.setattr(claims, "of_text", lambda tokens, starts: plain(tokens, np.zeros(1, dtype=np.int64)))


def store_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Mirror.follow

    def stubborn(self: Mirror, contexts, targets, weights, sign, counts) -> None:
        if sign > 0:
            plain(self, contexts, targets, weights, sign, counts)

    monkeypatch.setattr(Mirror, "follow", stubborn)


def promotion_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mirror, "merge", lambda self, other, mine, theirs: self.tower.merge(other.tower))


def read_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Tower.read

    def read(self: Tower, symbols, order):
        other = copy(self)
        other.seed = self.seed + 1
        return plain(other, symbols, order)

    monkeypatch.setattr(Tower, "read", read)


def states_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "spread_counts", lambda state, size: (plain_counts(state, size) - 1).clamp(min=0))


MUTANTS = [
    Mutant("holographic.capacity", "every two channels are the same", channels_alike),
    Mutant("holographic.capacity", "the sum of squares is a tenth too large", sums_overstated),
    Mutant("holographic.exact-counts", "grams seen once are forgotten", rare_grams_forgotten),
    Mutant("holographic.exact-counts", "grams reach over the border of documents", all_is_a_document),
    Mutant("holographic.one-path", "the read-out takes another address", read_elsewhere),
    Mutant("holographic.one-path", "the bindings' distribution leaves counts of one out", states_unasked),
    Mutant("holographic.unlearning", "the store keeps what is unlearned", store_remembers),
    Mutant("holographic.unlearning", "pairs frequent in both together stay in the store", promotion_forgotten),
]


def test_the_law_of_recall_is_that_of_known_capacities() -> None:
    """Published for 64 channels and ten thousand words."""
    for load, wanted in ((25, 0.990), (56, 0.647), (125, 0.168), (250, 0.039)):
        found = claims.predicted_recall(np.array([(load / (16 * 64)) ** 0.5]), 64, 10_000)
        assert abs(found - wanted) < 5e-3, load
