"""Configurations: every mistake is found at once, named, and comes with a suggestion."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import yaml
from pydantic import Field

from holonomy.core.budget import Budget
from holonomy.core.config import (
    DEPTH_LIMIT,
    Config,
    from_json,
    leaves,
    migrate,
    parse_yaml,
    read_yaml,
    replace_text,
    resolve,
    to_json,
    to_yaml,
)
from holonomy.core.errors import ConfigError, StorageError
from holonomy.core.registry import Registry


class Inner(Config):
    rate: float = Field(default=0.1, gt=0, lt=1)
    sizes: tuple[int, int] = (1, 2)
    name: str | None = None


class Tree(Config):
    inner: Inner = Inner()
    count: int = Field(default=3, ge=1)
    flag: bool = False


def resolved(**layers):
    return resolve(Tree, base=Tree(count=5), base_origin="recipe x", **layers)


def test_layers_win_in_order_and_know_their_origin(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("inner:\n  rate: 0.2\n  sizes: [3, 4]\nflag: true\n")
    found = resolved(file=file, overrides=["inner.rate=0.3"], options={"flag": ("--flag", False)})
    assert found.config == Tree(inner=Inner(rate=0.3, sizes=(3, 4)), count=5, flag=False)
    assert found.origins == {
        "inner.rate": "--set inner.rate",
        "inner.sizes": f"{file}:3",
        "inner.name": "default",
        "count": "recipe x",
        "flag": "--flag",
    }


@pytest.mark.parametrize(
    ("override", "sizes"),
    [
        ("sizes={1: 9}", {1: 9}),
        ("sizes.3=9", {1: 2, 3: 9}),
        ("sizes.1=9", {1: 9, 3: 4}),
        ("{sizes: {3: 9}}", {3: 9}),
    ],
)
def test_a_table_that_is_given_takes_the_place_of_the_old_one(override, sizes, tmp_path: Path) -> None:
    class Table(Config):
        sizes: dict[int, int] = Field(default={1: 2, 3: 4})

    class Whole(Config):
        table: Table = Table()

    override = f"table={override}" if override.startswith("{") else f"table.{override}"
    found = resolve(Whole, base=Whole(), base_origin="x", overrides=[override])
    assert found.config.table.sizes == sizes
    assert found.origins == {"table.sizes": f"--set {override.partition('=')[0]}"}
    file = tmp_path / "my.yaml"
    file.write_text("table:\n  sizes:\n    5: 6\n")
    found = resolve(Whole, base=Whole(), base_origin="x", file=file)
    assert found.config.table.sizes == {5: 6}
    assert found.origins == {"table.sizes": f"{file}:2"}


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("inner:\n  ratee: 0.2\n  rate: 7\ncuont: 3\n")
    with pytest.raises(ConfigError) as caught:
        resolved(file=file, overrides=["flag=perhaps", "name=x", "inner.sizes=[1.5, 2]"])
    message = str(caught.value)
    for part in (
        f"{file}:2: unknown key `inner.ratee`; did you mean `inner.rate`?",
        f"{file}:3: `inner.rate` = 7: input should be less than 1",
        f"{file}:4: unknown key `cuont`; did you mean `count`?",
        '--set flag: `flag` = "perhaps"',
        "--set name: unknown key `name`; did you mean `inner.name`?",
        "--set inner.sizes: `inner.sizes`",
    ):
        assert part in message


@pytest.mark.parametrize(
    "override", ["count=true", "count=2.5", 'count="3"', "inner.rate=.nan", "inner.rate=.inf", "count=", "inner=3"]
)
def test_types_are_strict(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        resolved(overrides=[override])


def test_integers_are_fine_where_numbers_are_wanted() -> None:
    class Plain(Config):
        rate: float = 0.5

    assert resolve(Plain, base=Plain(), base_origin="x", overrides=["rate=2"]).config.rate == 2.0


@pytest.mark.parametrize(
    "override", ["count", "=3", "a..b=1", "count=[1", "count=: :", "count=!!timestamp x", "count=2001-01-01"]
)
def test_malformed_overrides(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        resolved(overrides=[override])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("count: 1\ncount: 2\n", r":2:1: `count` is given twice"),
        ("inner:\n\trate: 1\n", r":2:1: "),
        ("a: &x 1\nb: *x\n", "aliases"),
        ("a: !!python/object/apply:os.system [true]\n", "python/object"),
        ("- 1\n", "holds list"),
        ("just words\n", "holds str"),
        ("a: [1\n", r":2:1"),
        ("a: " + "[" * 60 + "]" * 60, "deeper"),
        ("a: " + "[" * 100_000, "YAML"),
        ("count: \0\n", "YAML|special"),
        ("? [a, b]\n: 1\n", "plain names"),
        ("x: " + "y" * 1_100_000, "at most"),
    ],
)
def test_hostile_files(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "hostile.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        resolved(file=file)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        resolved(file=tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2: byte 8"):
        resolved(file=tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert resolved(file=tmp_path / "empty.yaml").config == Tree(count=5)


def test_round_trips(tmp_path: Path) -> None:
    tree = Tree(inner=Inner(sizes=(7, 8), name="a: b # c"), count=9)
    (tmp_path / "t.yaml").write_text(to_yaml(tree))
    assert resolve(Tree, base=Tree(), base_origin="", file=tmp_path / "t.yaml").config == tree
    assert read_yaml(tmp_path / "t.yaml")[1]["inner.sizes"] == 3
    assert from_json(Tree, to_json(tree), origin="here") == tree
    assert leaves(tree)["inner.sizes"] == (7, 8)
    with pytest.raises(ConfigError, match="here: `count`"):
        from_json(Tree, {**to_json(tree), "count": 0}, origin="here")


def test_budget_takes_the_first_limit() -> None:
    budget = Budget(steps=100, cpu_s=10.0)
    assert budget.used(steps=50, tokens=0, cpu_s=2.0, seconds=99.0) == 0.5
    assert budget.used(steps=50, tokens=0, cpu_s=9.0, seconds=0.0) == 0.9
    assert budget.used(steps=200, tokens=0, cpu_s=0.0, seconds=0.0) == 1.0
    with pytest.raises(ValueError, match="at least one"):
        Budget()


def test_registry_suggests() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("seven", 7)
    registry.register("eleven", 11)
    assert registry.get("seven") == 7
    assert list(registry) == [7, 11]
    with pytest.raises(ConfigError, match=r"did you mean `eleven`.*seven, eleven"):
        registry.get("elven")
    with pytest.raises(ConfigError, match="registered already"):
        registry.register("seven", 8)


def test_the_environment_stands_between_file_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("inner:\n  rate: 0.2\n  name: file\n")
    variables = {"HOLONOMY__INNER__RATE": "0.3", "HOLONOMY__COUNT": "7", "HOLONOMY_DATA": "/data", "OTHER": "1"}
    found = resolved(file=file, environment=variables, overrides=["count=8"])
    assert found.config == Tree(inner=Inner(rate=0.3, name="file"), count=8)
    assert found.origins["inner.rate"] == "HOLONOMY__INNER__RATE"
    assert found.origins["count"] == "--set count"
    with pytest.raises(ConfigError, match=r"HOLONOMY__INNER__RAET: unknown key .*mean `inner\.rate`"):
        resolved(environment={"HOLONOMY__INNER__RAET": "1"})
    with pytest.raises(ConfigError, match="`HOLONOMY__COUNT`: the value is not plain YAML"):
        resolved(environment={"HOLONOMY__COUNT": "[1"})


class Renamed(Config):
    moved = {1: {"old": "middle"}, 2: {"middle": "inner.rate", "gone.deep": "count"}}  # noqa: RUF012

    version: int = 3
    inner: Inner = Inner()
    count: int = 1


def test_old_trees_are_renamed_version_by_version() -> None:
    tree = {"old": 0.7, "gone": {"deep": 5}, "inner": {"name": "x"}}
    found, notes = migrate(Renamed, tree, origin="file")
    assert found == {"version": 3, "gone": {}, "inner": {"name": "x", "rate": 0.7}, "count": 5}
    assert notes == ["`old` is now `middle`", "`middle` is now `inner.rate`", "`gone.deep` is now `count`"]
    assert tree["old"] == 0.7
    assert migrate(Renamed, {"version": 3, "count": 2}, origin="file") == ({"version": 3, "count": 2}, [])
    with pytest.raises(ConfigError, match="`version` = 'x'"):
        migrate(Renamed, {"version": "x"}, origin="file")
    with pytest.raises(ConfigError, match=r"`old` is now `middle`; `holonomy config migrate"):
        resolve(Renamed, base=Renamed(), base_origin="r", overrides=["old=3"])


def test_a_text_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("old")
    replace_text(file, "new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(StorageError, match="cannot write"):
        replace_text(tmp_path / "none" / "c.yaml", "new")


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    with pytest.raises(StorageError, match="not a file"):
        replace_text(pipe, "x")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(StorageError, match="not a file"):
        replace_text(tmp_path, "x")
    file.write_text("old")
    link.symlink_to(file)
    replace_text(link, "new")
    assert (link.is_symlink(), file.read_text()) == (True, "new")


def test_deep_nesting_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, look = [], yaml.scanner.Scanner.fetch_more_tokens
    monkeypatch.setattr(yaml.scanner.Scanner, "fetch_more_tokens", lambda self: (looks.append(1), look(self)))
    with pytest.raises(ConfigError, match=rf"f:1:{4 + DEPTH_LIMIT}: nested deeper than {DEPTH_LIMIT} levels"):
        parse_yaml("a: " + "[" * 5000, "f")
    assert len(looks) < DEPTH_LIMIT + 10


def test_brackets_of_texts_and_comments_are_no_nesting() -> None:
    text = "a: '" + "[" * 5000 + "'  # " + "{" * 5000 + "\n"
    assert parse_yaml(text, "f")[0] == {"a": "[" * 5000}
