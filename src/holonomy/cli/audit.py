"""`holonomy audit`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holonomy.cli import options
from holonomy.cli.console import err, out, print_json
from holonomy.core.config import replace_text
from holonomy.core.errors import ConfigError

if TYPE_CHECKING:
    from holonomy.audit.claim import Claim, Verdict

MARKS = {"pass": "holds", "fail": "FAILS", "error": "BROKE", "skip": "skipped"}


def audit(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Run to audit; without one, the package is.")
    ] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option("--claim", metavar="ID", help="Only this claim, or those whose names begin so; may be repeated."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the claims and where they are made.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="With --list: the text of docs/claims.md.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Larger settings, and the claims that take long.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Also write a page with plots.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")] = 0,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes side by side.")] = 2,
    root: options.Root = options.ROOT,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run the programs that can refute what the package says, or what a run says; exit code 1 if one does.

    Example: holonomy audit --claim geometry

    Verdicts on a run are kept in its directory as audit.json.
    """
    from holonomy.audit import claims, runner

    claims.register_claims()
    place, family = (None, None) if run is None else _place_of(run, root)
    chosen = runner.select(claim, family=family, full=full or listed)
    if listed:
        if as_json or not quiet:
            _list(chosen, as_json, markdown)
        return
    if markdown:
        raise ConfigError("`--markdown` goes with --list; add it, or drop --markdown")
    if report is not None and (report.is_dir() or not report.parent.is_dir()):
        fault = "that is a folder" if report.is_dir() else f"the folder {report.parent} does not exist"
        raise ConfigError(f"`--report` {report}: {fault}; name a file, such as audit.html")
    begin = time.perf_counter()
    verdicts = runner.audit(
        chosen,
        run=place,
        audited=run or "",
        family=family,
        seed=seed,
        full=full,
        jobs=jobs,
        watch=(lambda v: None) if quiet or as_json else _show,
    )
    content = _summary(verdicts, run, seed, full, time.perf_counter() - begin)
    if place is not None:
        from holonomy.train.run import AUDIT

        text = json.dumps({k: v for k, v in content.items() if k != "run"}, indent=1) + "\n"
        replace_text(_directory_of(place) / AUDIT, text)
    if report is not None:
        from holonomy.audit.report import audit_page

        replace_text(report, audit_page(verdicts, run or "the package"))
    if as_json:
        print_json(content)
    elif not quiet:
        err().print(_counts(content))
    if not content["passed"]:
        raise typer.Exit(1)


def _place_of(run: str, root: Path) -> tuple[Path, str]:
    from holonomy.recipes import launch

    saved = launch.read_checkpoint(run, root)
    return saved.path, launch.family_of(saved).name


def _directory_of(checkpoint: Path) -> Path:
    return checkpoint.parent.parent


def _summary(verdicts: list[Verdict], run: str | None, seed: int, full: bool, seconds: float) -> dict[str, Any]:
    return {
        "run": run,
        "passed": all(v.stands for v in verdicts),
        "seed": seed,
        "full": full,
        "seconds": round(seconds, 1),
        "verdicts": [v.to_json() for v in verdicts],
    }


def _counts(content: dict[str, Any]) -> str:
    statuses = [v["status"] for v in content["verdicts"]]
    words = ", ".join(f"{statuses.count(s)} {word}" for s, word in MARKS.items() if s in statuses)
    return f"{len(statuses)} claims in {content['seconds']:.0f} s: {words}"


def _show(verdict: Verdict) -> None:
    console = out()
    console.print(f"{MARKS[verdict.status]:<7} {verdict.id} ({verdict.seconds:.1f} s): {verdict.statement}")
    for figure in verdict.figures:
        console.print(f"        {'' if figure.holds else 'BREAKS ITS BOUND: '}{figure}")
    if verdict.detail:
        console.print(f"        {verdict.detail}")
    if not verdict.stands:
        console.print(f"        repeat it: {verdict.command}")


def _list(chosen: list[Claim], as_json: bool, markdown: bool) -> None:
    if as_json:
        rows = [
            {"id": c.id, "statement": c.statement, "source": c.source, "families": c.families, "small": c.small}
            for c in chosen
        ]
        print_json({"claims": rows})
        return
    if markdown:
        from holonomy.audit.report import claims_page

        out().print(claims_page(chosen), end="")
        return
    for c in chosen:
        looks_at = f" [{', '.join(c.families)}]" if c.families else ""
        out().print(f"{c.id}{looks_at}{'' if c.small else ' (--full)'}: {c.statement}")
