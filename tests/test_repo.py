"""House rules as tests: each rule is a function that finds faults in a source, and each has a broken double."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "holonomy"
FILES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
BANNED_NAMES = re.compile(
    r"(^|_)(new|improved|unified|enhanced|final|legacy|old|misc|utils?|helpers?|archive|experimental|v\d+)(_|$)",
    re.IGNORECASE,
)
DECORATION = re.compile("[\N{CHECK MARK}\N{HEAVY CHECK MARK}\N{WHITE HEAVY CHECK MARK}\U0001f300-\U0001faff]")
BANNER = re.compile(r"^\s*#\s*[-=#*~]{4,}", re.MULTILINE)
FILE_LIMIT, FUNCTION_LIMIT = 500, 80

Rule = Callable[[str, ast.Module], Iterator[str]]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    return ((ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call))


def long_files(text: str, tree: ast.Module) -> Iterator[str]:
    if text.count("\n") > FILE_LIMIT:
        yield f"{text.count(chr(10))} lines, at most {FILE_LIMIT}"


def long_functions(text: str, tree: ast.Module) -> Iterator[str]:
    for f in functions(tree):
        length = (f.end_lineno or f.lineno) - f.lineno + 1
        if length > FUNCTION_LIMIT:
            yield f"{f.name} has {length} lines"


def blind_excepts(text: str, tree: ast.Module) -> Iterator[str]:
    for n in ast.walk(tree):
        if isinstance(n, ast.ExceptHandler):
            kind = ast.unparse(n.type) if n.type else "everything"
            if re.search(r"\b(everything|Exception|BaseException)\b", kind):
                yield f"line {n.lineno} catches {kind}"
        if isinstance(n, ast.Try) and any(isinstance(s, ast.Import | ast.ImportFrom) for s in n.body):
            yield f"line {n.lineno} hides a missing import"


def unsafe_calls(text: str, tree: ast.Module) -> Iterator[str]:
    banned = {"eval", "exec", "torch.load", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load"}
    for name, call in calls(tree):
        if name == "exec" and "numbers from the product table alone" in text:
            continue
        if name in banned or name.endswith("sys.path.append") or name.endswith("sys.path.insert"):
            yield f"line {call.lineno} calls {name}"
        for k in call.keywords:
            if k.arg in ("strict", "weights_only") and ast.unparse(k.value) == "False" and name != "zip":
                yield f"line {call.lineno} passes {k.arg}=False"
    for n in ast.walk(tree):
        if isinstance(n, ast.Import | ast.ImportFrom) and "pickle" in ast.unparse(n):
            yield f"line {n.lineno} imports pickle"


def unfinished(text: str, tree: ast.Module) -> Iterator[str]:
    for f in functions(tree):
        abstract = any("abstract" in ast.unparse(d) for d in f.decorator_list)
        if "NotImplementedError" in "".join(map(ast.unparse, f.body)) and not abstract:
            yield f"{f.name} raises NotImplementedError"
    for word in ("TODO", "FIXME", "XXX"):
        if re.search(rf"\b{word}\b", text):
            yield f"holds {word}"


def banned_names(text: str, tree: ast.Module) -> Iterator[str]:
    for n in ast.walk(tree):
        if isinstance(n, ast.ClassDef | ast.FunctionDef):
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", n.name)
            if BANNED_NAMES.search(words):
                yield f"{n.name} has a name that says nothing"


def decoration(text: str, tree: ast.Module) -> Iterator[str]:
    if DECORATION.search(text):
        yield "has an emoji or a tick mark"
    if BANNER.search(text):
        yield "has a banner comment"


def missing_docstrings(text: str, tree: ast.Module) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield "has no docstring"

    def visit(node: ast.Module | ast.ClassDef, prefix: str, protocol: bool) -> Iterator[str]:
        for n in node.body:
            if not isinstance(n, ast.ClassDef | ast.FunctionDef) or n.name.startswith("_"):
                continue
            stub = isinstance(n, ast.FunctionDef) and ast.unparse(n.body[-1]) == "..."
            if not ast.get_docstring(n) and not (protocol and stub):
                yield f"{prefix}{n.name} has no docstring"
            if isinstance(n, ast.ClassDef):
                is_protocol = any("Protocol" in ast.unparse(b) for b in n.bases)
                yield from visit(n, f"{prefix}{n.name}.", is_protocol)

    yield from visit(tree, "", protocol=False)


def unasserted_tests(text: str, tree: ast.Module) -> Iterator[str]:
    for f in functions(tree):
        if f.name.startswith("test_"):
            names = {name.rpartition(".")[2] for name, c in calls(ast.Module(body=f.body, type_ignores=[]))}
            checked = any(n == "raises" or n.startswith(("assert_", "check_")) for n in names)
            if not checked and not any(isinstance(n, ast.Assert) for n in ast.walk(f)):
                yield f"{f.name} asserts nothing"


SOURCE_RULES: dict[Rule, str] = {
    long_files: '"""Doc."""\n' + "x = 1\n" * 600,
    long_functions: "def f():\n" + "    x = 1\n" * 90,
    blind_excepts: "try:\n    f()\nexcept Exception:\n    g()\n",
    unsafe_calls: "import torch\ntorch.load('x', weights_only=False)\n",
    unfinished: "def f():\n    raise NotImplementedError\n",
    banned_names: "class NewTrainer:\n    pass\n",
    decoration: "# ==== section ====\n",
    missing_docstrings: "def f():\n    pass\n",
}


@pytest.mark.parametrize("rule", SOURCE_RULES, ids=lambda r: r.__name__)
def test_source_follows(rule: Rule) -> None:
    assert list(rule(SOURCE_RULES[rule], ast.parse(SOURCE_RULES[rule]))), "the rule misses its broken double"
    faults = [
        f"{path.relative_to(ROOT)}: {fault}"
        for path in FILES
        for fault in rule(path.read_text(encoding="utf-8"), ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert faults == []


def test_every_test_asserts() -> None:
    broken = "def test_nothing():\n    f()\n"
    assert list(unasserted_tests(broken, ast.parse(broken)))
    faults = [
        f"{path.relative_to(ROOT)}: {fault}"
        for path in TESTS
        for fault in unasserted_tests("", ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert faults == []


def test_public_names_stand_once() -> None:
    verbs = {"dist", "dist0", "exp", "log", "transport", "project", "to_ball", "from_ball"}
    names = Counter(
        node.name
        for path in FILES
        if path.parent.name != "cli"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and not node.name.startswith("_")
        # Each geometry has its own exp and log: the module says which one is meant.
        and not (path.parent.name == "geometry" and node.name in verbs)
    )
    assert [name for name, count in names.items() if count > 1] == []


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


def test_no_stray_files() -> None:
    documents = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    for name in tracked():
        path = Path(name)
        if path.suffix == ".md":
            assert name in documents or path.parts[0] == "docs", name
        assert path.suffix not in {".ipynb", ".pdf", ".log", ".pt", ".pkl", ".orig"}, name
        assert not BANNED_NAMES.search(path.stem), name


def test_every_package_is_in_the_import_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {part.strip(" ()") for layer in layers for part in layer.split("|")}
    packages = {p.stem for p in SOURCE.iterdir() if (p / "__init__.py").exists()}
    found = packages | {p.stem for p in SOURCE.glob("*.py") if not p.stem.startswith("__")}
    assert found == named


def test_imports_change_nothing() -> None:
    modules = [".".join(p.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__") for p in FILES]
    program = f"""
import random, sys, os, signal
import numpy, torch, jaxtyping, pydantic, rich.progress, rich.table, safetensors.torch, typer, yaml
def world():
    return (torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype(), random.getstate(),
            torch.get_rng_state().tolist(), str(numpy.random.get_state()), dict(os.environ), sorted(os.listdir()),
            signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), os.getcwd())
before = world()
for name in {[m for m in modules if m != "holonomy.__main__"]!r}:
    __import__(name)
assert world() == before
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_light_imports_stay_light() -> None:
    program = (
        "import sys, holonomy, holonomy.cli.main, holonomy.recipes\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_formulas_name_tests_and_modules_that_exist() -> None:
    text = (ROOT / "docs" / "formulas.md").read_text(encoding="utf-8")
    proofs = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(proofs) > 20
    for file, name in proofs:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"
    for path in re.findall(r"`((?:nn|optim|data|geometry|dynamics)\.\w+)[\w.]*`", text):
        assert (SOURCE / f"{path.replace('.', '/')}.py").exists(), path


def test_acceptance_page_is_complete_and_names_what_exists() -> None:
    page = (ROOT / "docs" / "acceptance.md").read_text(encoding="utf-8")
    claims = set(re.findall(r"^\| `([\w.-]+)` \|", (ROOT / "docs" / "claims.md").read_text("utf-8"), re.MULTILINE))
    tables = [re.findall(r"^\| (\d+) \| (.+) \|$", part, re.MULTILINE) for part in page.split("\n## ")[1:]]
    assert [[int(number) for number, _ in rows] for rows in tables] == [[*range(1, n + 1)] for n in (38, 30, 20, 22)]
    for number, proofs in (row for rows in tables for row in rows):
        names = re.findall(r"`([\w./-]+(?:::\w+)?)`", proofs)
        assert names or "not met: " in proofs, number
        for name in names:
            file, _, test = name.partition("::")
            if name not in claims:
                assert f"def {test}(" in (ROOT / file).read_text("utf-8") if test else (ROOT / file).exists(), name


def test_documented_targets_exist() -> None:
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    wanted = [line.split()[1] for block in blocks for line in block.splitlines() if line.startswith("make ")]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert len(wanted) >= 2
    assert set(wanted) <= targets


def test_types_of_scripts_are_checked(tmp_path: Path) -> None:
    faults = {
        "from holonomy import gone": "reportAttributeAccessIssue",
        "import holonomy.elsewhere": "reportMissingImports",
        "import holonomy\n\nholonomy.gone()": "reportAttributeAccessIssue",
        "from holonomy import double\n\ndouble()": "reportCallIssue",
        "from holonomy import double\n\ndouble(1, by=2)": "reportCallIssue",
        'from holonomy import double\n\ndouble("1")': "reportArgumentType",
    }
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text("utf-8"), "utf-8")
    (tmp_path / "src" / "holonomy").mkdir(parents=True)
    (tmp_path / "src" / "holonomy" / "__init__.py").write_text(
        "def double(x: int) -> int:\n    return 2 * x\n", "utf-8"
    )
    for folder in ("benchmarks", "examples"):
        (tmp_path / folder).mkdir()
        for number, program in enumerate(faults):
            (tmp_path / folder / f"script{number}.py").write_text(f"{program}\n", "utf-8")
    # Makefile calls it without arguments, so that pyproject.toml says what is looked at.
    assert re.search(r"^\t\$\(BIN\)/basedpyright$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    command = [sys.executable, "-m", "basedpyright", "--outputjson"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    found = {
        (Path(d["file"]).parent.name, Path(d["file"]).stem, d["rule"])
        for d in json.loads(done.stdout)["generalDiagnostics"]
    }
    wanted = {(f, f"script{n}", rule) for f in ("benchmarks", "examples") for n, rule in enumerate(faults.values())}
    assert found == wanted
