"""`holonomy data`: known texts, what is in a text, token stores, and the nouns of WordNet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from holonomy.cli import options
from holonomy.cli.console import out, print_json

data_commands = typer.Typer(help="Known texts, what is in them, and token stores.", no_args_is_help=True)
Source = Annotated[str, typer.Argument(help="Known name, file, folder or token store.")]


@data_commands.command("list")
def list_data(as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the data that have a name, and where they are looked for.

    Example: holonomy data list
    """
    from holonomy.recipes.prepare import known

    rows = known()
    if as_json:
        print_json({"data": rows})
    if as_json or quiet:
        return
    table = Table("name", "there", Column("where", overflow="fold"), Column("comes from", overflow="fold"))
    for row in rows:
        table.add_row(str(row["name"]), "yes" if row["present"] else "no", str(row["where"]), str(row["url"]))
    out().print(table)


@data_commands.command("info")
def info(source: Source, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Show size, alphabet and digest of a text or a token store.

    Example: holonomy data info pydoc
    """
    from holonomy.recipes.prepare import describe

    found = describe(source)
    if as_json:
        print_json(found)
    if as_json or quiet:
        return
    table = Table(Column(), Column(overflow="fold"), show_header=False)
    for name, value in found.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
    out().print(table)


@data_commands.command("prepare")
def prepare_data(
    source: Source,
    store: Annotated[Path, typer.Option("--out", help="Directory to make.")],
    unk: Annotated[bool, typer.Option("--unk", help="Add a symbol for unknown characters.")] = False,
    field: Annotated[str, typer.Option("--field", help="Key of the text in JSON lines.")] = "text",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad lines out instead of stopping.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a text, a JSONL file or a folder as a token store, which `train --data` reads from disk.

    Example: holonomy data prepare books/ --out books.tokens
    """
    from holonomy.recipes.prepare import prepare

    made, lines = prepare(source, store, unk=unk, field=field, skip_bad=skip_bad)
    if as_json:
        sizes = {"documents": len(made), "tokens": len(made.tokens), "lines_left_out": lines}
        print_json({"store": str(store), **sizes, "sha256": made.digest})
    elif not quiet:
        out().print(
            f"{store}: {len(made):,} documents, {len(made.tokens):,} tokens, {made.vocab_size} symbols"
            f"{f'; {lines:,} bad lines were left out' if lines else ''}",
        )


@data_commands.command("wordnet")
def wordnet(
    folder: Annotated[Path, typer.Argument(help="Folder with data.noun and index.noun of a WordNet.")],
    table: Annotated[Path, typer.Option("--out", help="File to write.")],
    root: Annotated[str | None, typer.Option("--root", help="Only this noun and all below it.")] = None,
    without: Annotated[list[str] | None, typer.Option("--without", help="Noun to leave out; may be repeated.")] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write every pair of nouns of which one is a kind of the other, as `embed` reads them.

    Example: holonomy data wordnet /usr/share/wordnet --root mammal.n.01 --out mammals.tsv
    """
    from holonomy.core.config import replace_text
    from holonomy.data.relations import relations_text, wordnet_relations

    made = wordnet_relations(folder, root=root, without=without or ())
    replace_text(table, relations_text(made))
    if as_json:
        print_json({"out": str(table), "nouns": len(made.names), "relations": len(made.pairs)})
    elif not quiet:
        out().print(f"{table}: {len(made.names):,} nouns, {len(made.pairs):,} relations")
