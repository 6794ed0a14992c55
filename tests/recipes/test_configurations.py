"""Any value for any key: a configuration is taken and comes back unchanged from YAML, or refused by name."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from holonomy.cli import main
from holonomy.core.config import all_keys, leaves, to_json, to_yaml
from holonomy.core.errors import ConfigError
from holonomy.recipes import configure

RECIPE_NAMES = ("lior", "holographic", "ternary")
DEFAULTS = {name: configure(name).config for name in RECIPE_NAMES}
numbers = st.one_of(
    st.integers(-3, 9), st.integers(), st.floats(), st.floats(0, 1), st.sampled_from([0.5, 1, 64, 1024])
)
scalars = st.one_of(
    st.none(), st.booleans(), numbers, st.text(max_size=8), st.sampled_from(["auto", "yes", "1e3", ".nan"])
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner))


def like(value: Any) -> st.SearchStrategy[Any]:
    """Values near a legal one: of its type, so that many are legal too."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.integers(0, 2 * value + 4)
    if isinstance(value, float):
        return st.floats(0, 2 * abs(value) + 1)
    if isinstance(value, tuple):
        return st.lists(like(value[0]), max_size=len(value) + 1) if value else st.just([])
    return st.just(value)


@st.composite
def changes(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """Some keys of a recipe with new values."""
    known = leaves(DEFAULTS[name])
    keys = draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=3, unique=True))
    return {key: draw(st.one_of(like(known[key]), like(known[key]), values)) for key in keys}


def nested(changed: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in changed.items():
        *parents, last = key.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_a_configuration_round_trips_or_is_refused_by_name(name: str, tmp_path_factory) -> None:
    folder, seen = tmp_path_factory.mktemp("configurations"), {"taken": 0, "refused": 0}

    @given(changed=changes(name))
    def check(changed: dict[str, Any]) -> None:
        file = folder / "given.yaml"
        file.write_bytes(yaml.safe_dump(nested(changed), allow_unicode=True).encode("utf-8", "surrogatepass"))
        try:
            found = configure(name, file=file).config
        except ConfigError as error:
            seen["refused"] += 1
            complaint = str(error)
        else:
            complaint = ""
        if complaint:
            # A text that YAML has no letters for is refused with its line and column instead.
            named = {*re.findall(r"`([\w.]+)", complaint)} & {*all_keys(type(DEFAULTS[name]))}
            assert named or re.search(rf"{file.name}:\d+", complaint), complaint
            return
        seen["taken"] += 1
        again = folder / "again.yaml"
        again.write_text(to_yaml(found), encoding="utf-8")
        assert configure(name, file=again).config == found
        assert to_yaml(configure(name, file=again).config) == to_yaml(found)
        assert type(found).model_validate_json(json.dumps(to_json(found)), strict=True) == found

    check()
    assert min(seen.values()) >= 5, seen


FREE = {
    *("data.source", "data.vocabulary", "data.documents.field", "data.documents.split"),
    *(f"frozen.{part}" for part in ("encoder_A", "encoder_B", "decoder")),
}
"""Names of texts, of their parts and of runs, which may be anything."""


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_leaves_refuse_nonsense_through_the_command_line(
    name: str, step: int, tmp_path: Path, capfd, monkeypatch
) -> None:
    for n, key in list(enumerate(leaves(DEFAULTS[name])))[::step]:
        wrong = ({"a": [1]}, [[["x"]]], "\U0001f600 nonsense")[n % 3]
        file = tmp_path / "wrong.yaml"
        file.write_text(yaml.safe_dump(nested({key: wrong}), allow_unicode=True), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["holonomy", "config", "validate", str(file), "--recipe", name, "--json"])
        with pytest.raises(SystemExit) as left:
            main.run()
        out, err = capfd.readouterr()
        if left.value.code in (0, None):
            assert isinstance(wrong, str) and key in FREE, (key, wrong)
            continue
        assert left.value.code == 2, (key, wrong)
        assert out == ""
        assert f"`{key}" in err.replace("\n", ""), (key, wrong, err)
        assert f"{file.name}:" in err


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        ("holographic", "model.tower.role"),
        ("lior", "geometry.rotor_mode"),
        ("lior", "train.echo.nudge"),
    ],
)
def test_off_is_a_word(recipe: str, key: str) -> None:
    """YAML reads a bare `off` as false."""
    more = ("geometry.chart=per_head", "geometry.frame_mode=learned_lowrank") if key == "geometry.rotor_mode" else ()
    assert leaves(configure(recipe, overrides=(f"{key}=off", *more)).config)[key] == "off"


@pytest.mark.parametrize(
    ("recipe", "changed", "reason"),
    [
        ("holographic", "data.documents.shuffle=5", "data.stream is false"),
        ("holographic", "train.words=1000", "data.stream is false"),
        ("holographic", "model.replay=1000", "data.stream is false"),
        ("holographic", "data.unk=true", "data.tokens is words"),
        ("holographic", "model.mixture.pool_steps=9", "model.mixture.pool is linear"),
        ("holographic-openwebtext", "data.train_share=0.5", "held out by their hash"),
        ("holographic-openwebtext", "model.mixture.blocks=2", "documents of its own"),
        ("holographic-openwebtext", "model.mixture.rare=5", "documents of its own"),
        ("holographic-openwebtext", "train.tensorboard=true", "streams write none"),
        ("holographic-smoke", "model.tower.levels=4", "model.tower.role is off"),
        ("holographic-smoke", "model.tower.top_digits={2: 1}", "model.tower.role is off"),
        ("holographic-smoke", "model.counts.class_order=5", "model.counts.classes is empty"),
        ("holographic-chars", "model.mixture.temper=false", "model.mixture.pool is logarithmic"),
        ("holographic-chars", "model.mixture.product_positions=99", "model.mixture.pool is logarithmic"),
        ("holographic-chars", "model.similarity.positions=7", "nothing reads word vectors"),
        ("holographic-chars-shakespeare", "model.mixture.rare=5", "data.unk is false"),
        ("holographic-chars", "data.min_count=3", "data.tokens is chars"),
        ("holographic-chars", "model.similarity.dim=64", "nothing reads word vectors"),
        ("holographic-chars", "model.similarity.topics=64", "model.mixture.product is none"),
        ("lior", "train.schedule.cycles=9", "kind is cosine"),
        ("ternary", "train.schedule.table=[[0, 0.5]]", "kind is cosine"),
    ],
)
def test_what_nothing_reads_is_refused(recipe: str, changed: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"has no effect: .*{reason}"):
        configure(recipe, overrides=(changed,))


def test_explicit_blocks_leave_the_preset_nothing_to_say() -> None:
    with pytest.raises(ConfigError, match="pattern names the blocks"):
        configure("lior", overrides=("model.pattern=om", "model.blocks=2"))
