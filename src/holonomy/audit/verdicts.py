"""Verdicts of audits as a table. What it reads may be damaged: whatever is not understood is shown as it came."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from holonomy.audit.page import Cell, Markup, Tone, badge, escaped, folded, preformatted, short_number, table

TONES: dict[str, Tone] = {"pass": "good", "fail": "bad", "error": "bad", "skip": "plain"}


def verdict_table(verdicts: Sequence[Mapping[str, Any]]) -> Markup:
    """A row for each verdict: what was claimed, whether it holds, the figures with their bounds, and how to check it.

    Args:
        verdicts: objects with `id`, `statement`, `status` (pass, fail, skip or error), `figures` (each with `name`,
            `value`, `relation`, `bound` and `unit`), `seed`, `command`, `seconds` and `detail`; all may be missing.
    """
    return table(["status", "claim", "figures", "seconds", "how to check it"], [_row(v) for v in verdicts])


def tally(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """How many verdicts there are of each status, in words."""
    counts = Counter(str(v.get("status", "?")) for v in verdicts)
    order = [*TONES, *sorted(set(counts) - set(TONES))]
    return ", ".join(f"{counts[s]:,} {s}" for s in order if counts[s]) or "no verdicts"


def _row(verdict: Mapping[str, Any]) -> list[Cell]:
    status = str(verdict.get("status", "?"))
    figures = verdict.get("figures")
    shown = [_figure(f) for f in figures] if isinstance(figures, list) else []
    claim = f"<strong>{escaped(_text(verdict.get('id')))}</strong><br>{escaped(_text(verdict.get('statement')))}"
    seconds = verdict.get("seconds")
    how = [f"<code>{escaped(_text(verdict['command']))}</code>"] if verdict.get("command") else []
    if verdict.get("seed") is not None:
        how.append(str(escaped(f"seed {_text(verdict['seed'])}")))
    if verdict.get("detail"):
        how.append(folded("detail", preformatted(_text(verdict["detail"]))))
    return [
        badge(status, TONES.get(status, "warn")),
        Markup(claim),
        Markup("<br>".join(shown)),
        seconds if isinstance(seconds, int | float) and not isinstance(seconds, bool) else None,
        Markup("<br>".join(how)),
    ]


def _figure(figure: Any) -> str:
    if not isinstance(figure, Mapping):
        return escaped(_text(figure))
    relation = " ".join(_text(figure[key]) for key in ("relation", "bound") if figure.get(key) is not None)
    words = [_text(figure.get(key)) for key in ("name", "value", "unit")]
    return escaped(" ".join(word for word in [*words, f"(wanted {relation})" if relation else ""] if word))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return short_number(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
