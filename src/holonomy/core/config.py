"""Typed configuration trees: unknown keys are errors, every value knows where it came from. Free of torch."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from holonomy.core.errors import ConfigError, StorageError
from holonomy.core.registry import nearest

ENVIRONMENT_PREFIX = "HOLONOMY__"
FILE_LIMIT = 16_384
"""Bytes of a configuration file, several times the largest there is: YAML takes up to 10 microseconds a byte."""
DEPTH_LIMIT = 50
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}


class Config(BaseModel):
    """Base of all configuration nodes: frozen, strict, no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    moved: ClassVar[dict[int, dict[str, str]]] = {}
    """For a whole tree with a key `version`: by older version, which dotted keys the next one renamed."""

    @classmethod
    def adopt(cls, tree: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """A tree in the names of this package, should it be of another program, and what was changed, in words."""
        return tree, []


C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Resolved:
    """A configuration and the origin of each of its leaves.

    Attributes:
        config: the validated tree.
        origins: dotted key to where its value came from.
    """

    config: Any
    origins: dict[str, str]


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys, aliases and deep nesting, and remembers lines."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name
        self.lines: dict[str, int] = {}
        self.depth = 0

    def fail(self, mark: yaml.Mark | None, text: str) -> ConfigError:
        place = f"{self.name}:{mark.line + 1}:{mark.column + 1}" if mark else self.name
        return ConfigError(f"{place}: {text}")

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        # Here and not where nodes are made: before the first of them the scanner looks at a thousand brackets, each
        # against all before it.
        if self.flow_level >= DEPTH_LIMIT:
            raise self.fail(self.get_mark(), f"nested deeper than {DEPTH_LIMIT} levels")
        super().fetch_flow_collection_start(TokenClass)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise self.fail(self.peek_event().start_mark, "YAML aliases are not allowed; repeat the value")
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise self.fail(self.peek_event().start_mark, f"nested deeper than {DEPTH_LIMIT} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def record(self, node: yaml.Node, path: str = "") -> None:
        """Notes the line of every key and refuses duplicates and values that are not plain."""
        if node.tag not in PLAIN_TAGS:
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            raise self.fail(node.start_mark, f"a value of type {kind} is not allowed; quote it if it is a text")
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise self.fail(key.start_mark, "keys must be plain names")
                dotted = f"{path}.{key.value}" if path else str(key.value)
                if key.value in seen:
                    raise self.fail(key.start_mark, f"`{dotted}` is given twice; keep one")
                seen.add(key.value)
                self.lines[dotted] = key.start_mark.line + 1
                self.record(value, dotted)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self.record(item, path)


def off_word(value: object) -> object:
    """The word `off`, a bare one of which YAML reads as false; everything else as it is."""
    return "off" if value is False else value


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Reads a configuration file.

    Returns:
        The tree, and the line of every dotted key.

    Raises:
        ConfigError: unreadable, too large, not UTF-8, not YAML, or not a mapping; names file, line and column.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"`--config` {path}: {error.strerror}; name a YAML file that can be read") from error
    if len(raw) > FILE_LIMIT:
        raise ConfigError(f"`--config` {path} has {len(raw):,} bytes; a configuration has at most {FILE_LIMIT:,}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    return parse_yaml(text, str(path))


LEFTOVER = re.compile(r"\..+\.(\d+)")
"""Names that `replace_text` writes under before it renames; the number is of the process."""


def replace_text(path: Path, text: str) -> None:
    """Replaces a file as a whole: after a crash it is the old one or the new one.

    Raises:
        StorageError: it cannot be written, or is a device or a folder; the old one is intact.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        # Renaming over it would put a file where a device was.
        raise StorageError(f"cannot write `{path}`: it is not a file; name one")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"cannot write `{path}`: {error.strerror}; {room(path, len(text.encode()))}") from error


def room(path: Path, needed: int) -> str:
    """How many bytes a file needs and its disk has, in words."""
    try:
        free = f"{shutil.disk_usage(path.parent).free:,} bytes are free"
    except OSError:
        free = "the free space is not known"
    return f"it needs {needed:,} bytes and {free}"


def remove_leftovers(directory: Path) -> None:
    """Removes what processes that died in `replace_text` left in a directory.

    Raises:
        StorageError: something cannot be removed.
    """
    for path in directory.glob(".*"):
        match = LEFTOVER.fullmatch(path.name)
        # Whoever bears our own number died before us: numbers come back, in containers at every start.
        if match and (int(match[1]) == os.getpid() or not _lives(int(match[1]))):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"cannot remove `{path}`: {error.strerror}") from error


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def parse_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Parses a configuration text; see `read_yaml`."""
    try:
        loader = _Loader(text, name)
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        loader.record(node)
        tree = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"{place}: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{name}: not valid YAML: {reason}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: holds {type(tree).__name__}, wanted keys and values such as `train:`")
    return tree, loader.lines


def parse_override(text: str) -> tuple[str, Any]:
    """Splits `dotted.key=value`; the value is YAML.

    Raises:
        ConfigError: no `=`, an empty key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key or any(not part for part in key.split(".")):
        raise ConfigError(f"`--set {text}` is not of the form dotted.key=value, such as train.optim.lr=0.003")
    try:
        return key, _plain_value(value)
    except (yaml.YAMLError, RecursionError, ValueError, ConfigError) as error:
        raise ConfigError(
            f"`--set {text}`: the value is not plain YAML; quote texts with special characters"
        ) from error


def _plain_value(text: str) -> Any:
    loader = _Loader(text, "value")
    node = loader.get_single_node()
    if node is None:
        return None
    loader.record(node)
    return loader.construct_document(node)


def leaves(config: Config, prefix: str = "") -> dict[str, Any]:
    """All values that are not nodes, by dotted key, in the order of the tree."""
    flat: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        dotted = f"{prefix}{name}"
        flat.update(leaves(value, f"{dotted}.") if isinstance(value, Config) else {dotted: value})
    return flat


def refuse_unread(config: Config, inactive: Iterable[tuple[str, str]]) -> None:
    """Refuses keys whose value was changed though nothing reads it under the other choices.

    Args:
        config: the tree, or a part of it.
        inactive: pairs of such a key, or of a node with all below it, and the reason.

    Raises:
        ValueError: names the first of them.
    """
    defaults, found = leaves(type(config).model_construct()), leaves(config)
    for prefix, reason in inactive:
        for key, value in found.items():
            if (key == prefix or key.startswith(f"{prefix}.")) and value != defaults[key]:
                raise ValueError(f"{key} has no effect: {reason}")


def to_json(config: Config) -> dict[str, Any]:
    """The tree as JSON values."""
    return config.model_dump(mode="json")


def to_yaml(config: Config) -> str:
    """The tree as YAML that `read_yaml` reads back."""
    return yaml.safe_dump(to_json(config), sort_keys=False, allow_unicode=True, default_flow_style=None)


def from_json(cls: type[C], tree: Mapping[str, Any], *, origin: str) -> C:
    """Validates a stored tree, of this version or an older one.

    Raises:
        ConfigError: all mistakes, each with the dotted key and `origin`.
    """
    return _validate(cls, migrate(cls, tree, origin=origin)[0], {}, origin)


def migrate(cls: type[Config], tree: Mapping[str, Any], *, origin: str) -> tuple[dict[str, Any], list[str]]:
    """Renames the keys of another program, then those of an older tree, version by version.

    A tree without a version is of the first.

    Returns:
        The tree as this version names it, and what was renamed, in words.

    Raises:
        ConfigError: the version is newer than this package, or no version at all.
    """
    current = max(cls.moved, default=0) + 1
    found, notes = cls.adopt(json.loads(json.dumps(tree)))
    if not cls.moved:
        return found, notes
    version = found.get("version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= current:
        raise ConfigError(f"{origin}: `version` = {version!r}; this package reads 1 to {current}, upgrade it")
    for number in range(version, current):
        for old, new in cls.moved[number].items():
            value = _take(found, old)
            if value is not _ABSENT:
                _merge(found, _nested(new, value))
                notes.append(f"`{old}` is now `{new}`")
    return {"version": current, **{k: v for k, v in found.items() if k != "version"}}, notes


_ABSENT = object()


def _take(tree: dict[str, Any], key: str) -> Any:
    """Removes a dotted key and returns its value."""
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        node = node.get(part) if isinstance(node, dict) else None
    return node.pop(last, _ABSENT) if isinstance(node, dict) else _ABSENT


def environment_overrides(environment: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    """Dotted keys, values and names of the variables `HOLONOMY__TRAIN__OPTIM__LR=0.003`; values are YAML.

    Raises:
        ConfigError: a value is not YAML.
    """
    found = []
    for name in sorted(n for n in environment if n.startswith(ENVIRONMENT_PREFIX)):
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        try:
            found.append((key, _plain_value(environment[name]), name))
        except (yaml.YAMLError, RecursionError, ValueError, ConfigError) as error:
            raise ConfigError(f"`{name}`: the value is not plain YAML; quote texts with special characters") from error
    return found


def resolve(
    cls: type[C],
    *,
    base: C,
    base_origin: str,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, tuple[str, object]] | None = None,
) -> Resolved:
    """Layers a recipe, a YAML file, the environment, `--set` overrides and dedicated options; later layers win.

    Args:
        cls: type of the tree.
        base: the recipe's configuration.
        base_origin: its name in messages.
        file: YAML file with any part of the tree.
        environment: variables that may hold keys, see `environment_overrides`.
        overrides: texts `dotted.key=value`.
        options: dotted key to (name of the option, value).

    Raises:
        ConfigError: all mistakes of all layers at once.
    """
    tree = to_json(base)
    plain = leaves_of_defaults(cls)
    origins = {k: "default" if plain.get(k) == v else base_origin for k, v in leaves(base).items()}
    layers: list[tuple[dict[str, Any], dict[str, str]]] = []
    if file is not None:
        values, lines = read_yaml(file)
        layers.append((values, {key: f"{file}:{line}" for key, line in lines.items()}))
    for key, value, name in environment_overrides(environment or {}):
        layers.append((_nested(key, value), {key: name}))
    for text in overrides:
        key, value = parse_override(text)
        layers.append((_nested(key, value), {key: f"--set {key}"}))
    for key, (option, value) in (options or {}).items():
        layers.append((_nested(key, value), {key: option}))
    places: dict[str, str] = {}
    tables = {key for key, value in plain.items() if isinstance(value, dict)}
    for values, where in layers:
        # `table.entry=value` changes an entry; a table that is given takes the place of the old one.
        entries = {t: place for t in tables - where.keys() for key, place in where.items() if key.startswith(f"{t}.")}
        _merge(tree, values, whole=tables - entries.keys())
        places.update(where)
        origins.update((key, _place(key, where, base_origin)) for key in _ends(values, tables))
        origins.update(entries)
    return Resolved(_validate(cls, tree, places, base_origin), origins)


def _place(key: str, places: Mapping[str, str], default: str) -> str:
    """Where a key, something under it, or the nearest of its parents, was given."""
    under = () if key in places else (place for given, place in places.items() if given.startswith(f"{key}."))
    for place in under:
        return place
    while key:
        if key in places:
            return places[key]
        key = key.rpartition(".")[0]
    return default


def _ends(values: Mapping[str, Any], tables: Collection[str], prefix: str = "") -> Iterator[str]:
    """Dotted keys of all values that are tables or no mappings."""
    for key, value in values.items():
        if isinstance(value, Mapping) and f"{prefix}{key}" not in tables:
            yield from _ends(value, tables, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def leaves_of_defaults(cls: type[Config]) -> dict[str, Any]:
    """Leaves of a tree that is built without any argument."""
    return leaves(cls())


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(tree: dict[str, Any], values: Mapping[str, Any], *, whole: Collection[str] = (), prefix: str = "") -> None:
    """Puts values into a tree; a mapping goes into the one there, but for those that count as whole."""
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict) and dotted not in whole:
            _merge(tree[key], value, whole=whole, prefix=f"{dotted}.")
        else:
            tree[key] = value


def _validate(cls: type[C], tree: dict[str, Any], places: Mapping[str, str], origin: str) -> C:
    try:
        # JSON mode keeps strict typing yet reads lists as tuples; round-tripping also refuses what JSON cannot hold.
        return cls.model_validate_json(json.dumps(tree, allow_nan=True), strict=True)
    except ValidationError as error:
        faults = [_fault(cls, detail, tree, places, origin) for detail in error.errors()]
    except TypeError as error:
        faults = [f"{origin}: a value has a type that a configuration cannot hold ({error})"]
    raise ConfigError("; ".join(dict.fromkeys(faults)))


def _fault(cls: type[Config], detail: Any, tree: Mapping[str, Any], places: Mapping[str, str], origin: str) -> str:
    path = [str(p) for p in detail["loc"]]
    key = _known_prefix(cls, path)
    place = _place(".".join(path), places, origin)
    if detail["type"] == "extra_forbidden":
        renamed = {old: new for names in cls.moved.values() for old, new in names.items()}
        if ".".join(path) in renamed:
            new = renamed[".".join(path)]
            return f"{place}: `{'.'.join(path)}` is now `{new}`; `holonomy config migrate FILE` renames it"
        return f"{place}: unknown key `{'.'.join(path)}`{_suggest(cls, path)}"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    # A check of several keys of a node names the one at fault first.
    named = ".".join([*path, message.split(" ", 1)[0].rstrip(":")])
    if named in all_keys(cls):
        key, place = named, _place(named, places, origin)
    came = detail["input"]
    shown = "" if isinstance(came, Mapping) else f" = {json.dumps(came, ensure_ascii=False, default=str)}"
    return f"{place}: `{key}`{shown}: {message}"


def _known_prefix(cls: type[Config], path: Sequence[str]) -> str:
    """The part of a pydantic location that is a key of the tree, without the names of union members."""
    known: list[str] = []
    node: Any = cls
    for part in path:
        fields = getattr(node, "model_fields", None)
        if not fields or part not in fields:
            break
        known.append(part)
        node = fields[part].annotation
    return ".".join(known) or "configuration"


def _suggest(cls: type[Config], path: Sequence[str]) -> str:
    keys = all_keys(cls)
    dotted = ".".join(path)
    siblings = [k for k in keys if k.rpartition(".")[0] == ".".join(path[:-1])]
    near = nearest(path[-1], [k.rpartition(".")[2] for k in siblings])
    if near:
        return f"; did you mean `{'.'.join([*path[:-1], near])}`?"
    elsewhere = [k for k in keys if k.rpartition(".")[2] == path[-1]]
    found = elsewhere[0] if elsewhere else nearest(dotted, keys)
    return f"; did you mean `{found}`?" if found else f"; known here: {', '.join(siblings)}"


def all_keys(cls: type[Config], prefix: str = "") -> list[str]:
    """Dotted names of all nodes and leaves of a tree."""
    keys: list[str] = []
    for name, field in cls.model_fields.items():
        keys.append(f"{prefix}{name}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            keys += all_keys(field.annotation, f"{prefix}{name}.")
    return keys
