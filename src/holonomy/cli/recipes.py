"""`holonomy recipes` and `holonomy config show|validate|migrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.table import Column, Table

from holonomy.cli import options
from holonomy.cli.console import err, out, print_json
from holonomy.core.config import leaves, migrate, read_yaml, replace_text, to_json, to_yaml
from holonomy.core.errors import ConfigError
from holonomy.core.registry import nearest
from holonomy.recipes import RECIPES, configure, planned_memory

config_commands = typer.Typer(help="Look at configurations, check and migrate them.", no_args_is_help=True)


def recipes(as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the named recipes.

    Example: holonomy recipes
    """
    if as_json:
        rows = [{f: getattr(r, f) for f in ("name", "family", "trains", "data", "expect")} for r in RECIPES]
        print_json({"recipes": rows})
    if as_json or quiet:
        return
    # No table: eighty columns would cut the names, and a name is what comes after `holonomy train`.
    for recipe in RECIPES:
        out().print(f"{recipe.name}\n    {recipe.trains}\n    {recipe.family}, data {recipe.data}, {recipe.expect}")


@config_commands.command("show")
def show(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe.")],
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print YAML that --config reads.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show every key of a resolved configuration, its value and where the value comes from.

    Example: holonomy config show lior --set train.optim.lr=0.003
    """
    resolved = configure(recipe, file=config, overrides=overrides or ())
    memory = planned_memory(resolved.config)
    if as_json:
        said = {"memory": memory} if memory else {}
        print_json({"config": to_json(resolved.config), "origins": resolved.origins, **said})
    elif as_yaml:
        print(to_yaml(resolved.config), end="")
    elif not quiet:
        table = Table(Column("key", no_wrap=True), Column("value", overflow="fold"), Column("from", overflow="fold"))
        for key, value in leaves(resolved.config).items():
            table.add_row(key, str(list(value) if isinstance(value, tuple) else value), resolved.origins[key])
        out().print(table)
        if memory:
            table = Table("structure", "bytes", title="memory, for as many words as may be known")
            for name, size in memory.items():
                table.add_row(name, f"{size:,}")
            out().print(table)


Recipe = Annotated[
    str | None, typer.Option("--recipe", help="Recipe that the file changes; by default that of its `family`, or lior.")
]


def _recipe_of(file: Path, recipe: str | None) -> str:
    """The recipe that a file is about: the given one, or the main one of its family."""
    if recipe is not None:
        return recipe
    # Most files name no family, and a hostile one should not be parsed twice. Who reads it next says what is wrong.
    try:
        if b"family" not in file.read_bytes():
            return "lior"
    except OSError:
        return "lior"
    tree, lines = read_yaml(file)
    family, known = tree.get("family", "lior"), list(dict.fromkeys(r.family for r in RECIPES))
    if family not in known:
        near = nearest(str(family), known)
        raise ConfigError(
            f"{file}:{lines['family']}: `family` = {family!r}; {f'did you mean `{near}`? ' if near else ''}"
            f"configurations are of {', '.join(known)}"
        )
    return family


@config_commands.command("validate")
def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="A configuration file.")],
    recipe: Recipe = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check a configuration file: all mistakes at once, with line, key and the nearest name.

    Example: holonomy config validate my.yaml
    """
    resolved = configure(_recipe_of(file, recipe), file=file)
    given = [key for key, origin in resolved.origins.items() if origin.startswith(f"{file}:")]
    if as_json:
        print_json({"file": str(file), "valid": True, "keys": given})
    elif not quiet:
        out().print(f"{file} is valid; it sets {len(given)} of {len(resolved.origins)} keys")


@config_commands.command("migrate")
def migrate_file(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="A configuration file of any version.")],
    recipe: Recipe = None,
    write: Annotated[bool, typer.Option("--write", help="Change the file instead of printing it.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a key had to be dropped.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Rename the keys of an older configuration file, or of an earlier program that `recipe`'s family knows.

    Example: holonomy config migrate runs/old/config.yaml
    """
    kind = type(RECIPES.get(_recipe_of(file, recipe)).config())
    tree, notes = migrate(kind, read_yaml(file)[0], origin=str(file))
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=None)
    for note in () if quiet else notes:
        err().print(note)
    if write:
        replace_text(file, text)
    if as_json:
        print_json({"file": str(file), "written": write, "renamed": notes, "config": tree})
    elif not write:
        print(text, end="")
    if strict and any("is dropped" in note for note in notes):
        raise typer.Exit(1)
