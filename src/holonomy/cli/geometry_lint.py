"""`holonomy geometry-lint`: static rules about points of the ball."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from holonomy.cli import options
from holonomy.cli.console import err, out, print_json
from holonomy.core.errors import ConfigError


def geometry_lint(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH...", help="Python files or folders.")] = None,
    as_json: options.Json = False,
    sarif_file: Annotated[
        Path | None, typer.Option("--sarif", metavar="FILE", help="Also write SARIF 2.1.0 to a file.")
    ] = None,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="RULE", help="Show what a rule forbids, and why.")
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Find Euclidean operations on points of the ball in Python sources; exit code 1 when there are any.

    Example: holonomy geometry-lint src
    """
    from holonomy.audit.geometry_lint import check_files, sarif
    from holonomy.audit.lint_rules import RULES

    if explain is not None:
        if explain not in RULES:
            raise ConfigError(f"unknown rule `{explain}`; known: {', '.join(RULES)}")
        if as_json:
            print_json({"rule": explain, "title": RULES[explain].title, "text": RULES[explain].text()})
        else:
            out().print(f"{explain}: {RULES[explain].title}\n\n{RULES[explain].text()}")
        return
    if not paths:
        raise ConfigError("no PATH was given; name Python files or folders, such as `holonomy geometry-lint src`")
    findings, files = check_files(paths)
    if sarif_file is not None:
        sarif_file.write_text(json.dumps(sarif(findings), indent=1) + "\n", encoding="utf-8")
    standing = [f for f in findings if f.suppressed is None]
    if as_json:
        print_json(
            {
                "files": files,
                "findings": [asdict(f) for f in standing],
                "suppressed": [asdict(f) for f in findings if f.suppressed is not None],
            }
        )
    else:
        for finding in standing:
            out().print(str(finding))
    if not quiet and not as_json:
        counts = ", ".join(f"{rule} {n}" for rule, n in sorted(Counter(f.rule for f in standing).items()))
        hidden = len(findings) - len(standing)
        err().print(f"{files} files: {counts or 'nothing found'}{f', {hidden} suppressed' if hidden else ''}")
    if standing:
        raise typer.Exit(1)
