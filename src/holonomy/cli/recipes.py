"""`holonomy recipes` and `holonomy config show`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from holonomy.cli import options
from holonomy.cli.console import out, print_json
from holonomy.core.config import leaves, to_json, to_yaml
from holonomy.recipes import RECIPES, configure

config_commands = typer.Typer(help="Look at configurations.", no_args_is_help=True)


def recipes(as_json: options.Json = False) -> None:
    """List the named recipes.

    Example: holonomy recipes
    """
    if as_json:
        rows = [{f: getattr(r, f) for f in ("name", "family", "trains", "data", "expect")} for r in RECIPES]
        print_json({"recipes": rows})
        return
    table = Table("recipe", "family", "what it trains", "data", "what to expect")
    for recipe in RECIPES:
        table.add_row(recipe.name, recipe.family, recipe.trains, recipe.data, recipe.expect)
    out().print(table)


@config_commands.command("show")
def show(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe.")],
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print YAML that --config reads.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show every key of a resolved configuration, its value and where the value comes from.

    Example: holonomy config show lior --set train.optim.lr=0.003
    """
    resolved = configure(recipe, file=config, overrides=overrides or ())
    if as_json:
        print_json({"config": to_json(resolved.config), "origins": resolved.origins})
    elif as_yaml:
        print(to_yaml(resolved.config), end="")
    else:
        table = Table("key", "value", "from")
        for key, value in leaves(resolved.config).items():
            table.add_row(key, str(list(value) if isinstance(value, tuple) else value), resolved.origins[key])
        out().print(table)
