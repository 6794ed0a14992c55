"""Relations: tables, closures and the noun files of WordNet."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from holonomy.core.errors import DataError
from holonomy.data.relations import MAMMALS, load_relations, relations_of, relations_text, wordnet_relations

NOUNS = """\
  1 a line of the licence
00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | all there is
00000002 05 n 02 Animal 0 beast 0 002 @ 00000001 n 0000 ~ 00000003 n 0000 | it lives | and moves
00000003 05 n 01 dog 0 002 @ 00000002 n 0000 + 00000009 v 0101 | barks
00000004 05 n 01 dog 0 001 @ 00000001 n 0000 | a machine part
00000005 18 n 01 Laika 0 001 @i 00000003 n 0000 | went to space
00000006 05 n 01 pet 0 001 @ 00000002 n 0000 | is kept
00000007 05 n 01 lapdog 0 002 @ 00000003 n 0000 @ 00000006 n 0000 | small
"""
INDEX = """\
  1 a line of the licence
entity n 1 1 ~ 1 0 00000001
animal n 1 2 @ ~ 1 0 00000002
beast n 1 2 @ ~ 1 0 00000002
dog n 2 2 @ ~ 2 1 00000004 00000003
laika n 1 1 @i 1 0 00000005
pet n 1 1 @ 1 0 00000006
lapdog n 1 1 @ 1 0 00000007
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "index.noun").write_text(INDEX)
    return tmp_path


def test_nouns_are_named_by_their_sense_and_closed(wordnet: Path) -> None:
    found = wordnet_relations(wordnet)
    pairs = {(found.names[u], found.names[v]) for u, v in found.pairs}
    assert ("laika.n.01", "entity.n.01") in pairs
    assert ("dog.n.01", "animal.n.01") not in pairs
    below_animal = wordnet_relations(wordnet, root="animal.n.01", without=["pet.n.01"])
    assert relations_text(below_animal).splitlines() == [
        "dog.n.02\tanimal.n.01",
        "laika.n.01\tanimal.n.01",
        "laika.n.01\tdog.n.02",
        "lapdog.n.01\tanimal.n.01",
        "lapdog.n.01\tdog.n.02",
    ]


def test_files_that_are_no_wordnet(wordnet: Path) -> None:
    with pytest.raises(DataError, match=r"`root` 'dog\.n\.07'"):
        wordnet_relations(wordnet, root="dog.n.07")
    (wordnet / "index.noun").write_text(INDEX.replace("00000003", "00000008"))
    with pytest.raises(DataError, match=r"index\.noun does not list `dog`"):
        wordnet_relations(wordnet)
    (wordnet / "data.noun").write_text(NOUNS + "00000008 05 n zz\n")
    with pytest.raises(DataError, match=r"data\.noun:9: not a noun"):
        wordnet_relations(wordnet)
    (wordnet / "data.noun").write_text("00000001 05 n 01 thing 0 002 @ 00000002 n 0000 @ | cut short\n")
    with pytest.raises(DataError, match=r"data\.noun:1: not a noun"):
        wordnet_relations(wordnet)
    (wordnet / "data.noun").write_text("00000001 05 n 01 thing 0 001 @ 00000002 n 0000 | cut short\n")
    with pytest.raises(DataError, match="points to a noun at 00000002"):
        wordnet_relations(wordnet)


def test_ancestors_are_the_powers_of_the_matrix() -> None:
    draw = random.Random(0)
    pairs = {(str(a), str(b)) for a in range(30) for b in range(a) if draw.random() < 0.1}
    found = relations_of(pairs)
    n = len(found.names)
    step = np.zeros((n, n), bool)
    step[found.pairs[:, 0], found.pairs[:, 1]] = True
    reach = step.copy()
    for _ in range(n):
        reach |= (reach.astype(int) @ step.astype(int)) > 0
    assert [set(np.flatnonzero(row)) for row in reach] == [set(a) for a in found.ancestors()]


def test_tables_and_what_is_wrong_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("b\ta\nc d\tb\nb\ta\n")
    found = load_relations(str(path))
    assert found.names == ("a", "b", "c d")
    assert found.pairs.tolist() == [[1, 0], [2, 1]]
    assert relations_text(found) == "b\ta\nc d\tb\n"
    path.write_text("b\ta\nc b\n")
    with pytest.raises(DataError, match=r"pairs\.tsv:2: 'c b' is not a pair"):
        load_relations(str(path))
    with pytest.raises(DataError, match="above itself"):
        relations_of([("a", "b"), ("b", "c"), ("c", "a")]).ancestors()
    monkeypatch.setenv("HOLONOMY_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"holonomy data wordnet FOLDER --root mammal\.n\.01 --without tusker"):
        load_relations(MAMMALS)
    (tmp_path / f"{MAMMALS}.tsv").write_text("b\ta\n")
    with pytest.raises(DataError, match="sha256"):
        load_relations(MAMMALS)
