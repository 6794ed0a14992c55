"""The `holonomy` command."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from holonomy import __version__
from holonomy.cli.console import err, make_streams_tolerant
from holonomy.core.errors import HolonomyError, StorageError

app = typer.Typer(
    name="holonomy",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


# typer brings its own copy of click in some releases and uses the installed one in others.
USAGE_ERROR: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException" and issubclass(c, Exception)
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    """Models whose state lives on a manifold, and learning that need not be back-propagation.

    Example: holonomy train lior
    """


def _register() -> None:
    from holonomy.cli import (
        audit,
        chat,
        data,
        embed,
        evaluate,
        generate,
        geometry_lint,
        harness,
        job,
        memories,
        mix,
        quickstart,
        recipes,
        runs,
        train,
    )

    app.command("train")(train.train)
    app.command("job")(job.job)
    app.command("eval")(evaluate.evaluate)
    app.command("lm-eval")(harness.lm_eval)
    app.command("mix")(mix.mix)
    app.command("merge")(memories.merge)
    app.command("forget")(memories.forget)
    app.command("sleep")(memories.sleep)
    app.command("generate")(generate.generate)
    app.command("chat")(chat.chat)
    app.command("quickstart")(quickstart.quickstart)
    app.command("recipes")(recipes.recipes)
    app.command("audit")(audit.audit)
    app.command("embed")(embed.embed)
    app.command("geometry-lint")(geometry_lint.geometry_lint)
    app.add_typer(recipes.config_commands, name="config")
    app.add_typer(runs.runs_commands, name="runs")
    app.add_typer(data.data_commands, name="data")


_register()


def run() -> None:
    """Runs the command line and exits with the code that belongs to what happened."""
    make_streams_tolerant()
    sys.exit(_guarded("--debug" in sys.argv))


def _guarded(debug: bool) -> int:
    try:
        code = app(standalone_mode=False) or 0
        # typer makes an interrupt this code, or an `Abort`, and says nothing.
        return _explain(KeyboardInterrupt(), code, debug=False) if code == 130 else code
    except HolonomyError as error:
        return _explain(error, error.exit_code, debug)
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt) as error:
        return _explain(error, 130, debug)
    except BrokenPipeError:
        # Whoever read our output has gone; point stdout elsewhere so that its flush at exit stays silent.
        sys.stdout = None  # type: ignore[assignment]
        return 0
    except OSError as error:
        where = f" `{error.filename}`" if error.filename else ""
        return _explain(StorageError(f"cannot use{where}: {error.strerror or error}"), 6, debug)
    except USAGE_ERROR as error:
        return _explain(error, 2, debug)


def _explain(error: BaseException, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    # An interrupt says nothing of its own.
    message = error.format_message() if hasattr(error, "format_message") else str(error) or "interrupted"  # type: ignore[attr-defined]
    err().print(f"error: {message}")
    return code
