"""An HTML page in one file: nothing is fetched, nothing runs, and every text that comes from elsewhere is escaped.

A block is a text, which becomes a paragraph, or `Markup` from the functions of this module and of `charts`. Only
`Markup` reaches the page as it is; joining it with a text gives a text, so that a forgotten escape is seen, not run.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from holonomy.audit.page_style import STYLE

Tone = Literal["good", "bad", "warn", "plain"]
CONTROL = {n: 0x2400 + n for n in range(32) if n not in (9, 10)} | {127: 0x2421}
"""Control characters and the pictures of them that are shown instead."""


class Markup(str):
    """HTML that is sound already."""

    __slots__ = ()


Cell = str | int | float | Markup | None
"""Content of a table: None is a dash, a float is rounded for the eye and whole in the page."""


def escaped(text: str) -> Markup:
    """A text as HTML that shows it, control characters and broken surrogates too."""
    shown = text.replace("\r\n", "\n").translate(CONTROL).encode("utf-8", "replace").decode("utf-8")
    return Markup(html.escape(shown, quote=True))


def short_number(value: float) -> str:
    """A number in six digits; those that are none are named."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite" if value > 0 else "-infinite"
    return f"{value:,.0f}" if abs(value) >= 1e6 and value == int(value) else f"{value:.6g}"


def number(value: float) -> Markup:
    """A number for the eye, with all its digits in the attribute `value`."""
    whole = repr(float(value) if isinstance(value, float) else int(value))
    return Markup(f'<data value="{whole}">{short_number(value)}</data>')


def _cell(content: Cell) -> Markup:
    if content is None:
        return Markup("&ndash;")
    if isinstance(content, Markup):
        return content
    if isinstance(content, bool | str):
        return escaped(str(content))
    return number(content)


def _numeric(cells: Sequence[Cell]) -> bool:
    """Whether a column holds numbers and nothing else."""
    found = [c for c in cells if c is not None]
    return bool(found) and all(isinstance(c, int | float) and not isinstance(c, bool) for c in found)


def _block(content: str) -> str:
    return content if isinstance(content, Markup) else f"<p>{escaped(content)}</p>"


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], *, caption: str = "") -> Markup:
    """A table; columns of numbers are set to the right, and a wide one scrolls in its own frame."""
    content = [list(row) for row in rows]
    numeric = [_numeric([row[place] for row in content if place < len(row)]) for place in range(len(header))]
    head = "".join(
        f'<th scope="col"{" class=n" if right else ""}>{escaped(name)}</th>'
        for name, right in zip(header, numeric, strict=True)
    )
    body = []
    for row in content:
        cells = []
        for place, cell in enumerate(row):
            right = place < len(numeric) and numeric[place]
            tag, scope = ("th", ' scope="row"') if place == 0 and not right else ("td", "")
            cells.append(f"<{tag}{scope}{' class=n' if right else ''}>{_cell(cell)}</{tag}>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    words = f"<caption>{escaped(caption)}</caption>" if caption else ""
    inner = f"<table>{words}<thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(body)}\n</tbody></table>"
    return Markup(f'<div class="scroll" tabindex="0">{inner}</div>')


def preformatted(text: str) -> Markup:
    """A text in its own lines; long ones are broken."""
    return Markup(f"<pre>{escaped(text)}</pre>")


def folded(summary: str, *blocks: str) -> Markup:
    """Blocks that open when their summary is clicked."""
    return Markup(f"<details><summary>{escaped(summary)}</summary>{''.join(map(_block, blocks))}</details>")


def grid(*blocks: str) -> Markup:
    """Blocks beside each other, as many as there is room for."""
    return Markup(f'<div class="grid">{"".join(map(_block, blocks))}</div>')


def badge(text: str, tone: Tone) -> Markup:
    """A word in a coloured frame; the colour says nothing that the word does not."""
    return Markup(f'<span class="badge {tone}">{escaped(text)}</span>')


def notice(text: str, tone: Tone = "warn") -> Markup:
    """A paragraph that should not be passed over."""
    return Markup(f'<p class="notice {tone}">{escaped(text)}</p>')


class Page:
    """A page that grows section by section.

    Args:
        title: of the page.
        lead: what it is about, in a sentence.
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self.title, self.lead = title, lead
        self._sections: list[tuple[str, str]] = []

    def section(self, heading: str, *blocks: str) -> Page:
        """Adds a section; gives the page, so that calls can follow each other."""
        self._sections.append((heading, "".join(map(_block, blocks))))
        return self

    def render(self) -> str:
        """The whole page; equal content gives equal bytes."""
        links, bodies = [], []
        for place, (heading, body) in enumerate(self._sections):
            name = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") or "section"
            name = f"{name}-{place}"
            links.append(f'<a href="#{name}">{escaped(heading)}</a>')
            bodies.append(
                f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escaped(heading)}</h2>\n{body}</section>'
            )
        lead = f"<p>{escaped(self.lead)}</p>" if self.lead else ""
        # The policy lets the browser itself refuse whatever a page like this has no business with.
        return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(self.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{escaped(self.title)}</h1>{lead}</header>
<nav aria-label="Sections">{"".join(links)}</nav>
<main>
{chr(10).join(bodies)}
</main>
</body>
</html>
"""
