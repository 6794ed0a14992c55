"""Static check of Python sources against the geometry rules R1 to R8, with suppressions, JSON and SARIF."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holonomy import __version__
from holonomy.audit.lint_flow import ModuleFacts
from holonomy.audit.lint_names import Vocabulary
from holonomy.audit.lint_reader import read_module
from holonomy.audit.lint_rules import RULES, Origin
from holonomy.core.errors import ConfigError

MARK = re.compile(r"#\s*geometry(?:-lint)?:")
SUPPRESSION = re.compile(
    r"#\s*(?:geometry-lint:\s*ignore\[(?P<listed>[^\]]*)\]|geometry:\s*ok\s+(?P<named>R\d(?:\s*,\s*R\d)*))\s*(?P<reason>.*)"
)
SKIPPED = frozenset({"__pycache__", "node_modules", "build", "dist", "site-packages"})


@dataclass(frozen=True)
class LintFinding:
    """A finding in a file.

    Args:
        path: the file.
        rule: identifier of the rule.
        line: first line, from 1.
        column: first character, from 1.
        end_line: last line.
        end_column: behind the last character, from 1.
        message: what is wrong.
        suppressed: reason given for ignoring it, or None.
    """

    path: str
    rule: str
    line: int
    column: int
    end_line: int
    end_column: int
    message: str
    suppressed: str | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.rule} {self.message}"


@dataclass(frozen=True)
class _Suppression:
    line: int
    column: int
    rules: tuple[str, ...]
    reason: str
    text: str


def check_source(text: str, path: str = "<text>", vocabulary: Vocabulary | None = None) -> list[LintFinding]:
    """Findings in a source, the suppressed ones marked.

    Args:
        text: Python.
        path: name in the findings.
        vocabulary: names of the project.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except SyntaxError as error:
        line, column = error.lineno or 1, max(error.offset or 1, 1)
        return [LintFinding(path, "E1", line, column, line, column, f"cannot be parsed: {error.msg}")]
    except (ValueError, RecursionError, MemoryError) as error:
        return [LintFinding(path, "E1", 1, 1, 1, 1, f"cannot be parsed: {error}")]
    try:
        origins = read_module(ModuleFacts(tree, vocabulary or Vocabulary()))
    except RecursionError:
        return [LintFinding(path, "E1", 1, 1, 1, 1, "cannot be parsed: expressions are nested too deeply")]
    lines = text.splitlines()
    findings = [_finding(path, origin, lines) for origin in origins]
    return _suppress(findings, _suppressions(text), path) if MARK.search(text) else findings


def _finding(path: str, origin: Origin, lines: Sequence[str]) -> LintFinding:
    spot = origin.spot

    def character(line: int, offset: int) -> int:
        source = lines[line - 1] if line <= len(lines) else ""
        return len(source.encode()[:offset].decode(errors="ignore")) + 1

    start, end = character(spot.line, spot.column), character(spot.end_line, spot.end_column)
    return LintFinding(path, origin.rule, spot.line, start, spot.end_line, end, origin.message)


def _suppressions(text: str) -> list[_Suppression]:
    found = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT or not MARK.search(token.string):
            continue
        match = SUPPRESSION.search(token.string)
        listed = (match["listed"] or match["named"] or "") if match else ""
        rules = tuple(r.strip() for r in listed.split(",") if r.strip())
        reason = match["reason"].strip() if match else ""
        found.append(_Suppression(token.start[0], token.start[1] + 1, rules, reason, token.string))
    return found


def _suppress(findings: list[LintFinding], marks: list[_Suppression], path: str) -> list[LintFinding]:
    kept = list(findings)
    extra = []
    for mark in marks:
        place = (mark.line, mark.column, mark.line, mark.column + len(mark.text))
        unknown = [r for r in mark.rules if not re.fullmatch(r"R[1-8]", r)]
        if not mark.rules or not mark.reason or unknown:
            fault = f"`{unknown[0]}` is not a rule" if unknown else "no reason" if mark.rules else "no rule"
            text = f"{fault}; write `# geometry-lint: ignore[R3] why it is right here`"
            extra.append(LintFinding(path, "S1", *place, text))
            continue
        for rule in mark.rules:
            hit = [i for i, f in enumerate(kept) if f.rule == rule and f.line <= mark.line <= f.end_line]
            for i in hit:
                kept[i] = replace(kept[i], suppressed=mark.reason)
            if not hit:
                extra.append(LintFinding(path, "S2", *place, f"{rule} finds nothing on this line; remove it"))
    return sorted([*kept, *extra], key=lambda f: (f.line, f.column, f.rule))


def read_vocabulary(start: Path) -> Vocabulary:
    """Names of the project a path lies in, from `[tool.holonomy.geometry]` of the nearest pyproject.toml.

    Raises:
        ConfigError: the table has an unknown key or something that is no list of names.
    """
    folder = start.resolve() if start.is_dir() else start.resolve().parent
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        if file.is_file():
            try:
                table = (
                    tomllib.loads(file.read_text(encoding="utf-8"))
                    .get("tool", {})
                    .get("holonomy", {})
                    .get("geometry", {})
                )
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise ConfigError(f"`{file}` is not TOML: {error}; repair it") from error
            known = list(Vocabulary.__dataclass_fields__)
            for key, names in table.items():
                if key not in known:
                    raise ConfigError(f"{file}: unknown key `tool.holonomy.geometry.{key}`; known: {', '.join(known)}")
                if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                    raise ConfigError(f"{file}: `tool.holonomy.geometry.{key}` must be a list of names")
            return Vocabulary(**{key: frozenset(names) for key, names in table.items()})
    return Vocabulary()


def python_files(paths: Iterable[Path]) -> list[Path]:
    """Files named, and all Python below folders named, once each and in order.

    Raises:
        ConfigError: a path does not exist, or there is no Python below it.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_file():
            found[path] = None
            continue
        if not path.is_dir():
            raise ConfigError(f"`{path}` does not exist; name Python files or folders")
        below = [
            f
            for f in sorted(path.rglob("*.py"))
            if f.is_file() and not any(p in SKIPPED or p.startswith(".") for p in f.relative_to(path).parts[:-1])
        ]
        if not below:
            raise ConfigError(f"there is no Python below `{path}`; name Python files or folders")
        found.update(dict.fromkeys(below))
    return list(found)


def check_files(paths: Sequence[Path]) -> tuple[list[LintFinding], int]:
    """Findings in files and folders, and how many files were read.

    Raises:
        ConfigError: a path does not exist or holds no Python, or the project's table of names is wrong.
    """
    files = python_files(paths)
    vocabularies: dict[Path, Vocabulary] = {}
    findings = []
    for file in files:
        if file.parent not in vocabularies:
            vocabularies[file.parent] = read_vocabulary(file)
        try:
            with tokenize.open(file) as stream:
                text = stream.read()
        except (SyntaxError, UnicodeDecodeError) as error:
            findings.append(LintFinding(str(file), "E1", 1, 1, 1, 1, f"cannot be parsed: {error}"))
            continue
        findings += check_source(text, str(file), vocabularies[file.parent])
    return findings, len(files)


def sarif(findings: Sequence[LintFinding]) -> dict[str, Any]:
    """Findings as a SARIF 2.1.0 log.

    Args:
        findings: suppressed ones become results with a suppression.
    """
    order = list(RULES)
    rules = [
        {
            "id": rule.id,
            "name": rule.__name__,
            "shortDescription": {"text": rule.title},
            "fullDescription": {"text": rule.text().partition("\n\n")[0].replace("\n", " ")},
            "help": {"text": rule.text(), "markdown": f"```text\n{rule.text()}\n```"},
            "defaultConfiguration": {"level": rule.level},
        }
        for rule in RULES.values()
    ]
    results = []
    for f in findings:
        region = {"startLine": f.line, "startColumn": f.column, "endLine": f.end_line, "endColumn": f.end_column}
        uri = Path(f.path).as_uri() if Path(f.path).is_absolute() else Path(f.path).as_posix()
        result: dict[str, Any] = {
            "ruleId": f.rule,
            "ruleIndex": order.index(f.rule),
            "level": RULES[f.rule].level,
            "message": {"text": f.message},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}}],
        }
        if f.suppressed is not None:
            result["suppressions"] = [{"kind": "inSource", "justification": f.suppressed}]
        results.append(result)
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "holonomy-geometry-lint", "version": __version__, "rules": rules}},
                "columnKind": "unicodeCodePoints",
                "results": results,
            }
        ],
    }
