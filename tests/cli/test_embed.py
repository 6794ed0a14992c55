"""A taxonomy from WordNet's files to points on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def test_from_nouns_to_points(tmp_path: Path, holonomy) -> None:
    words = ["entity", "animal", "dog", "cat", "plant", "tree"]
    above = [None, 0, 1, 1, 0, 4]
    nouns, index = "", ""
    for at, word in enumerate(words):
        pointers = "000" if above[at] is None else f"001 @ {above[at]:08d} n 0000"
        nouns += f"{at:08d} 03 n 01 {word} 0 {pointers} | a gloss\n"
        index += f"{word} n 1 1 @ 1 0 {at:08d}\n"
    (tmp_path / "data.noun").write_text(nouns)
    (tmp_path / "index.noun").write_text(index)
    table, points = tmp_path / "pairs.tsv", tmp_path / "points.tsv"
    code, out, err = holonomy("data", "wordnet", str(tmp_path), "--out", str(table), "--json")
    assert code == 0, err
    assert json.loads(out) == {"out": str(table), "nouns": 6, "relations": 8}
    embed = ["embed", str(table), "--dim", "3", "--out", str(points), "--threads", "1"]
    code, out, err = holonomy(*embed, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["things"], found["relations"], found["map"], found["mean_rank"]) == (6, 8, 1.0, 1.0)
    names, *columns = np.loadtxt(points, dtype=str, delimiter="\t").T
    assert sorted(names) == sorted(f"{w}.n.01" for w in words)
    assert (np.linalg.norm(np.array(columns, float), axis=0) < 1).all()
    code, out, _ = holonomy(*embed, "--steps", "0")
    assert code == 0
    assert "6 things in 3 dimensions, MAP" in out
    table.write_text("a\tb\nb\ta\n")
    code, _, err = holonomy(*embed)
    assert code == 3
    assert "above itself" in err
