"""The geometry rules on their examples, on labelled calls and through flow; suppressions, SARIF, unreadable files."""

from __future__ import annotations

import ast
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from holonomy.audit import lint_reader
from holonomy.audit.geometry_lint import LintFinding, check_files, check_source, sarif
from holonomy.audit.lint_calls import CallReader
from holonomy.audit.lint_flow import Frame
from holonomy.audit.lint_names import Fact
from holonomy.audit.lint_operators import OperatorReader
from holonomy.audit.lint_rules import RULES
from holonomy.cli import main
from holonomy.core.errors import ConfigError

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.py"))
GEOMETRY = [f"R{n}" for n in range(1, 9)]
CALL = "def centre(z_hyp):\n    return z_hyp.mean(dim=0)"


def rules(text: str) -> list[str]:
    return [f.rule for f in check_source(text) if f.suppressed is None]


def labels() -> dict[tuple[str, int], str]:
    """Labelled calls: file and line, and the rule that must find it or `none`."""
    found = {}
    for path in FIXTURES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = re.search(r"# expect: (R[1-8]|none)$", line)
            if match:
                found[path.name, number] = match[1]
    return found


def score() -> tuple[float, float, list[str]]:
    """Precision and recall on the labelled calls, and what went wrong; a finding without a label counts against."""
    wanted = {(*place, rule) for place, rule in labels().items() if rule != "none"}
    got = {(path.name, f.line, f.rule) for path in FIXTURES for f in check_source(path.read_text("utf-8"), path.name)}
    right = len(wanted & got)
    return right / max(len(got), 1), right / len(wanted), [str(w) for w in sorted(wanted ^ got)]


def test_fixture_is_large_and_balanced() -> None:
    counts = Counter(labels().values())
    assert sum(counts.values()) >= 120
    assert all(counts[rule] >= 5 for rule in GEOMETRY), counts
    assert counts["none"] >= 60
    for path in FIXTURES:
        text = path.read_text(encoding="utf-8")
        assert text.count("# expect:") == sum(name == path.name for name, _ in labels()), "a label is misspelt"


def test_precision_and_recall() -> None:
    precision, recall, faults = score()
    assert precision >= 0.95 and recall >= 0.95, faults


def blind(*_: object, **__: object) -> None:
    return None


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (CallReader, "_norm"),
        (CallReader, "_mean"),
        (CallReader, "_gap"),
        (CallReader, "_map"),
        (CallReader, "_cut"),
        (CallReader, "_layer"),
        (CallReader, "_distance"),
        (CallReader, "_local"),
    ],
)
def test_blind_reader_misses_calls(owner: type, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score()[1]
    monkeypatch.setattr(owner, method, blind)
    assert score()[1] < whole


def test_reader_that_allows_nothing_loses_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score()[0]
    monkeypatch.setattr("holonomy.audit.lint_reader.exempt_name", lambda name: False)

    def use_all(reader: lint_reader.SourceReader, node: ast.Compare, facts: list[Fact], frame: Frame) -> None:
        for fact in facts:
            reader.reporter.use(frame, fact)

    monkeypatch.setattr(lint_reader.SourceReader, "_compare", use_all)
    monkeypatch.setattr(OperatorReader, "_conformal", staticmethod(lambda operator, a, b: a if a.origins else b))
    assert score()[0] < whole - 0.03


@pytest.mark.parametrize("rule", GEOMETRY)
def test_rule_finds_its_bad_example_only(rule: str) -> None:
    bad, good = RULES[rule].example("Bad"), RULES[rule].example("Good")
    assert bad is not None and good is not None
    assert rules(bad) == [rule]
    assert rules(good) == []


@pytest.mark.parametrize("rule", RULES)
def test_rule_is_documented(rule: str) -> None:
    assert RULES[rule].id == rule
    assert len(RULES[rule].text()) > 60 and RULES[rule].title
    text = (Path(__file__).parents[2] / "docs" / "geometry-lint.md").read_text(encoding="utf-8")
    assert f"| {rule} |" in text


FLOWS = {
    "a name": ("z = poincare.exp0(v, c)\n    y = z\n    return y.mean(0)", ["R3"]),
    "a tuple": ("a, b = v, poincare.exp0(v, c)\n    return a.mean(0), b.mean(0)", ["R3"]),
    "an attribute": ("v.z = poincare.exp0(v, c)\n    return v.z.mean(0)", ["R3"]),
    "a loop": ("for _ in range(3):\n        r = v.mean(0)\n        v = poincare.exp0(v, c)\n    return r", ["R3"]),
    "a walrus": ("return (z := poincare.exp0(v, c)).mean(0), z", ["R3"]),
    "a comprehension": ("return [p.mean(0) for p in [poincare.exp0(v, c)]]", ["R3"]),
    "a nested function": ("def ball():\n        return poincare.exp0(v, c)\n    return ball().mean(0)", ["R3"]),
    "a branch": ("if v.any():\n        v = poincare.exp0(v, c)\n    return v.mean(0)", ["R3"]),
    "the other branch": (
        "if flag:\n        v = poincare.exp0(v, c)\n    if not flag:\n        return v.mean(0)\n    return v",
        [],
    ),
    "back to the tangent space": ("v = poincare.log0(poincare.exp0(v, c), c)\n    return v.mean(0)", []),
    "the other side of a choice": (
        "z = v if flag else poincare.exp0(v, c)\n    if flag:\n        return z.mean(0)\n    return z",
        [],
    ),
    "a choice": ("z = v if flag else poincare.exp0(v, c)\n    return z.mean(0)", ["R3"]),
    "overwritten": ("z = poincare.exp0(v, c)\n    z = v\n    return z.mean(0)", []),
    "the exponential function": ("return torch.exp(v).mean(0) + v.exp().mean(0)", []),
}


@pytest.mark.parametrize("name", FLOWS)
def test_facts_flow_through(name: str) -> None:
    body, wanted = FLOWS[name]
    assert rules(f"import torch\nfrom holonomy.geometry import poincare\ndef f(v, c, flag):\n    {body}\n") == wanted


def test_facts_flow_into_called_functions() -> None:
    text = "def spread(points):\n    return points.mean(0)\ndef f(z_hyp):\n    return spread(z_hyp)\n"
    assert [(f.rule, f.line) for f in check_source(text)] == [("R3", 2)]
    assert rules(text.replace("spread(z_hyp)", "spread(z)")) == []


def test_source_without_the_ball_is_clean() -> None:
    text = "import torch\ndef f(x, y):\n    return torch.cdist(x, y), x.mean(0), x.norm(), float(x), x @ y.T\n"
    assert rules(text) == []
    assert rules(re.sub(r"\b([xy])\b", r"\1_hyp", text)) != []


def test_hypothesis_of_a_text_is_no_point() -> None:
    assert rules("def f(hyp_emb, ref_emb):\n    return hyp_emb.norm(), hyp_emb @ ref_emb.T\n") == []


def test_names_in_text_and_comments_mean_nothing() -> None:
    text = 'def f(x):\n    """z_hyp.mean(0) of poincare"""\n    return "z_hyp.norm()", x.mean(0)  # z_hyp.norm()\n'
    assert rules(text) == []


def test_project_names_its_own_functions(tmp_path: Path) -> None:
    source = tmp_path / "model.py"
    source.write_text("def f(x):\n    return embed_in_disc(x).mean(0)\n")
    assert check_files([source]) == ([], 1)
    (tmp_path / "pyproject.toml").write_text('[tool.holonomy.geometry]\nball = ["embed_in_disc"]\n')
    assert [f.rule for f in check_files([source])[0]] == ["R3"]
    (tmp_path / "pyproject.toml").write_text('[tool.holonomy.geometry]\nbal = ["embed_in_disc"]\n')
    with pytest.raises(ConfigError, match="bal"):
        check_files([source])


@pytest.mark.parametrize("mark", ["# geometry-lint: ignore[R3] a statistic for a plot", "# geometry: ok R3 for a plot"])
def test_suppression_with_a_reason(mark: str) -> None:
    (finding,) = check_source(f"{CALL}  {mark}\n")
    assert finding.rule == "R3" and finding.suppressed is not None and "for a plot" in finding.suppressed


@pytest.mark.parametrize(
    ("mark", "wanted"),
    [
        ("# geometry-lint: ignore[R3]", ["R3", "S1"]),
        ("# geometry-lint: ignore[] because", ["R3", "S1"]),
        ("# geometry-lint: ignore because", ["R3", "S1"]),
        ("# geometry-lint: ignore[R9] because", ["R3", "S1"]),
        ("# geometry-lint: ignore[R1] because", ["R3", "S2"]),
        ("# geometry-lint: ignore[R3, R1] because", ["S2"]),
        ("# geometry: ok R3", ["R3", "S1"]),
    ],
)
def test_faulty_suppressions_are_findings(mark: str, wanted: list[str]) -> None:
    assert sorted(rules(f"{CALL}  {mark}\n")) == wanted


def test_suppression_on_another_line_is_unused() -> None:
    assert sorted(rules(f"# geometry-lint: ignore[R3] why\n{CALL}\n")) == ["R3", "S2"]
    assert rules(f'{CALL}\nx = "# geometry-lint: ignore[R3] why"\n') == ["R3"]


BROKEN = ["def f(:\n", "x = 1\n  y\n", "\0", "(" * 5000, "print 1\n", "x = " + "-" * 100000 + "1"]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_python_is_reported(text: str) -> None:
    (finding,) = check_source(text)
    assert finding.rule == "E1" and finding.line >= 1


def test_file_that_is_no_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"\xff\xfe\x00x")
    (tmp_path / "b.py").write_text(CALL)
    findings, files = check_files([tmp_path])
    assert files == 2 and sorted(f.rule for f in findings) == ["E1", "R3"]


def test_columns_count_characters() -> None:
    (finding,) = check_source('def f(z_hyp):\n    return "äöü", z_hyp.mean(0)\n')
    assert (finding.line, finding.column, finding.end_column) == (2, 19, 32)


def check_sarif(log: dict) -> None:
    """Holds a log against what SARIF 2.1.0 requires of it."""
    assert log["version"] == "2.1.0" and "sarif-2.1.0" in log["$schema"]
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    ids = [r["id"] for r in driver["rules"]]
    assert driver["name"] and len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"] and rule["help"]["text"] and rule["fullDescription"]["text"]
        assert rule["defaultConfiguration"]["level"] in {"none", "note", "warning", "error"}
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"] and result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]
        assert not place["artifactLocation"]["uri"].startswith("/")
        region = place["region"]
        assert 1 <= region["startLine"] <= region["endLine"] and region["startColumn"] >= 1
        assert (region["endLine"], region["endColumn"]) >= (region["startLine"], region["startColumn"])
        assert all(s["kind"] == "inSource" and s["justification"] for s in result.get("suppressions", []))


def test_sarif_shape() -> None:
    findings = [f for path in FIXTURES for f in check_source(path.read_text("utf-8"), path.name)]
    findings += check_source(f"{CALL}  # geometry-lint: ignore[R3] why\n", "/tmp/suppressed.py")
    findings += check_source("def", "broken.py")
    log = sarif(findings)
    check_sarif(log)
    results = log["runs"][0]["results"]
    assert len(results) == len(findings) > 50
    assert sum("suppressions" in r for r in results) == 1
    assert {r["ruleId"] for r in results} >= {*GEOMETRY, "E1"}


def test_sarif_check_sees_a_wrong_index() -> None:
    log = sarif([LintFinding("a.py", "R1", 1, 1, 1, 2, "wrong")])
    log["runs"][0]["results"][0]["ruleIndex"] = 3
    with pytest.raises(AssertionError):
        check_sarif(log)


def test_own_source_is_clean() -> None:
    findings, files = check_files([Path(main.__file__).parents[1]])
    assert files > 100
    assert [str(f) for f in findings if f.suppressed is None] == []


def test_time_is_a_small_multiple_of_parsing() -> None:
    """600 files of 200 lines take 2 s to parse on one slow core, so that 20 times as long is out of bounds."""
    texts = [p.read_text(encoding="utf-8") for p in sorted(Path(main.__file__).parents[1].rglob("*.py"))]

    def spent(work: object) -> float:
        before = time.process_time()
        for text in texts:
            work(text)  # type: ignore[operator]
        return time.process_time() - before

    spent(ast.parse)
    assert spent(check_source) < 20 * spent(ast.parse)


def test_deep_recursion_of_calls_ends() -> None:
    chain = "".join(f"def f{n}(z):\n    return f{(n + 1) % 40}(f{(n * 7) % 40}(z))\n" for n in range(40))
    assert rules(chain + "def g(z_hyp):\n    return f0(z_hyp), z_hyp.mean(0)\n") == ["R3"]


def lint(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Runs `holonomy geometry-lint` in this process."""
    monkeypatch.setattr(sys, "argv", ["holonomy", "geometry-lint", *words])
    with pytest.raises(SystemExit) as ended:
        main.run()
    printed = capfd.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.py").write_text(f"{CALL}\n")
    Path("good.py").write_text(f"{CALL}  # geometry-lint: ignore[R3] for a plot\n")
    code, out, err = lint(monkeypatch, capfd, "bad.py", "good.py", "--sarif", "log.sarif")
    assert (code, out) == (1, "bad.py:2:12: R3 `mean` of ball points in their coordinates\n")
    assert "R3 1, 1 suppressed" in err
    check_sarif(json.loads(Path("log.sarif").read_text()))
    assert lint(monkeypatch, capfd, "good.py", "--quiet") == (0, "", "")
    code, out, err = lint(monkeypatch, capfd, ".", "--json")
    report = json.loads(out)
    assert code == 1 and err == ""
    assert report["files"] == 2 and len(report["findings"]) == len(report["suppressed"]) == 1
    assert report["findings"][0] | {"message": ""} == {
        "path": "bad.py",
        "rule": "R3",
        "line": 2,
        "column": 12,
        "end_line": 2,
        "end_column": 29,
        "message": "",
        "suppressed": None,
    }


def test_command_line_explains_rules(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lint(monkeypatch, capfd, "--explain", "R5")
    assert code == 0 and "Bad:" in out and "linear" in out


@pytest.mark.parametrize(
    ("words", "wanted"), [([], "no PATH"), (["missing"], "does not exist"), (["--explain", "R77"], "unknown rule")]
)
def test_command_line_refuses(
    words: list[str], wanted: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = lint(monkeypatch, capfd, *words)
    assert code == 2 and out == "" and wanted in err


def test_folder_without_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no Python"):
        check_files([tmp_path])


MISTAKES = [
    ("losses_pair", "poincare.dist(centres[node], points, k)", "(centres[node] - points).norm(dim=-1)", "R2"),
    ("losses_pair", "mean(towards)", "mean(points)", "R3"),
    ("losses_pair", "return normal.from_ball(centres, k), sizes", "return centres.norm(dim=-1), sizes", "R1"),
    ("losses_pair", "step = mean(towards)", "step = points @ centres.T", "R4"),
    ("posterior", "poincare.plain_mobius_add(m, step, k)", "(m + step)", "R3"),
]


@pytest.mark.parametrize(("module", "right", "wrong", "rule"), MISTAKES)
def test_mistake_put_into_own_code_is_found(module: str, right: str, wrong: str, rule: str) -> None:
    path = Path(main.__file__).parents[1] / "models" / "ternary" / f"{module}.py"
    text = path.read_text(encoding="utf-8")
    assert text.count(right) == 1
    assert rules(text) == []
    assert set(rules(text.replace(right, wrong))) == {rule}
