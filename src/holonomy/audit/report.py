"""The page of an audit, and the page that lists all claims."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Sequence

import torch

from holonomy import __version__
from holonomy.audit.charts import chart
from holonomy.audit.claim import Claim, Verdict
from holonomy.audit.page import Page, grid, notice
from holonomy.audit.verdicts import tally, verdict_table


def audit_page(verdicts: Sequence[Verdict], audited: str) -> str:
    """A page in one file: what was claimed, what was found, and the curves behind it.

    Args:
        verdicts: of an audit.
        audited: what was audited, in words.
    """
    rows = [v.to_json() for v in verdicts]
    stands = all(v.stands for v in verdicts)
    machine = f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}"
    page = Page(f"Audit of {audited}", f"holonomy {__version__}, {machine}")
    page.section(
        "Verdicts",
        notice(tally(rows), "good" if stands else "bad"),
        verdict_table([row for row, v in zip(rows, verdicts, strict=True) if not v.stands]) if not stands else "",
        verdict_table([row for row, v in zip(rows, verdicts, strict=True) if v.stands]),
    )
    drawn = [v for v in verdicts if v.curves]
    for verdict in drawn:
        page.section(verdict.id, verdict.statement, grid(*(chart(picture) for picture in verdict.curves)))
    return page.render()


def claims_page(claims: Sequence[Claim]) -> str:
    """The claims as Markdown, by subject; docs/claims.md is this text."""
    groups: dict[str, list[Claim]] = defaultdict(list)
    for subject in claims:
        groups[subject.id.partition(".")[0]].append(subject)
    lines = [
        "# Claims",
        "",
        "What this package says of itself, each with a program that can refute it. `holonomy audit` runs them on",
        "the package, `holonomy audit RUN` those about trained runs on a run of yours; `--claim ID` runs one, `--full`",
        "takes the larger settings, `--report FILE.html` writes a page with plots. This file is written by",
        "`holonomy audit --list --markdown`; a test holds it to the registry.",
        "",
    ]
    for name, members in groups.items():
        lines += [f"## {name}", "", "| claim | what is claimed | looks at | stated in |", "|---|---|---|---|"]
        for c in members:
            looks_at = f"runs of {', '.join(c.families)}" if c.families else "the package"
            extent = "" if c.small else ", only with `--full`"
            lines.append(f"| `{c.id}` | {c.statement} | {looks_at}{extent} | {c.source} |")
        lines.append("")
    return "\n".join(lines)
