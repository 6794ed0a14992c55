"""Facts about values, carried through the statements of a function and into the functions it calls."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from holonomy.audit.lint_names import (
    CURVATURES,
    HINTS,
    LOSS_WORDS,
    NOTHING,
    OTHER_SPACES,
    SPACES,
    Fact,
    Kind,
    Vocabulary,
    exempt_name,
    name_kind,
    words,
)
from holonomy.audit.lint_rules import Origin, Spot

Function = ast.FunctionDef | ast.AsyncFunctionDef
Environment = dict[str, Fact]
DEPTH = 4
"""Calls that facts are followed into."""
MAP_RULES = frozenset({"R1", "R2", "R3", "R4"})
"""Rules that do not hold for the code of the geometry itself."""


@dataclass
class LocalClass:
    """A class of the module.

    Args:
        name: its name.
        methods: by name.
        attributes: facts about `self.x`.
        built: constructor calls of `self.x`.
        curved: whether its objects have a curvature.
        other_space: whether it is a space other than the ball.
        curvatures: which of `self.c` and `self.k` are its curvature.
        loss: methods that a forward pass or loss may reach.
    """

    name: str
    methods: dict[str, Function] = field(default_factory=dict)
    attributes: Environment = field(default_factory=dict)
    built: dict[str, ast.Call] = field(default_factory=dict)
    curved: bool = False
    other_space: bool = False
    curvatures: set[str] = field(default_factory=set)
    loss: set[str] = field(default_factory=set)


def loss_name(name: str) -> bool:
    """Whether a function of this name is a forward pass or a loss."""
    return name in {"forward", "__call__", "training_step", "encode", "decode"} or bool(words(name) & LOSS_WORDS)


def call_parts(call: ast.Call) -> tuple[str, ast.expr | None]:
    """Name of what is called, and what it is called on."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr, call.func.value
    return (call.func.id if isinstance(call.func, ast.Name) else ""), None


def dotted(node: ast.expr | None) -> str:
    """`a.b.c` for a chain of names, and an empty text for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def identifiers(tree: ast.Module) -> Iterable[str]:
    """All names in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg | ast.keyword):
            yield node.arg or ""
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.alias):
            yield node.name


class ModuleFacts:
    """What a module defines, and whether it has to do with the ball at all.

    Args:
        tree: of the module.
        vocabulary: names of the project.
    """

    def __init__(self, tree: ast.Module, vocabulary: Vocabulary) -> None:
        self.tree, self.vocabulary = tree, vocabulary
        self.functions: dict[str, Function] = {}
        self.classes: dict[str, LocalClass] = {}
        self.constants: Environment = {}
        self.foreign: set[str] = set()
        seen = set(identifiers(tree))
        self.hyperbolic = bool(seen & vocabulary.names()) or any(
            words(n) & HINTS or name_kind(n) not in (Kind.UNKNOWN, Kind.EDGE) for n in seen
        )
        if self.hyperbolic:
            for node in tree.body:
                self._define(node)

    def _define(self, node: ast.stmt) -> None:
        if isinstance(node, Function):
            self.functions[node.name] = node
        elif isinstance(node, ast.ClassDef):
            self.classes[node.name] = self._class(node)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            for alias in node.names:
                if OTHER_SPACES.search(alias.name.rpartition(".")[2]):
                    self.foreign.add(alias.asname or alias.name)
        elif isinstance(node, ast.If | ast.Try):
            for inner in node.body:
                self._define(inner)

    def _class(self, node: ast.ClassDef) -> LocalClass:
        found = LocalClass(node.name)
        bases = " ".join(dotted(b) for b in node.bases)
        found.other_space = bool(OTHER_SPACES.search(node.name)) or (
            bool(OTHER_SPACES.search(bases)) and not SPACES.search(node.name)
        )
        for item in node.body:
            if isinstance(item, Function):
                found.methods[item.name] = item
                found.curved |= item.name in CURVATURES
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                found.curved |= item.target.id in CURVATURES
        for method in found.methods.values():
            for part in ast.walk(method):
                if isinstance(part, ast.Assign):
                    for target in part.targets:
                        self._attribute(found, target, part.value)
                elif isinstance(part, ast.AnnAssign) and part.value is not None:
                    self._attribute(found, part.target, part.value)
        found.loss = self._reached(found)
        return found

    def _attribute(self, found: LocalClass, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for a, b in zip(target.elts, value.elts, strict=False):
                self._attribute(found, a, b)
        if not isinstance(target, ast.Attribute) or dotted(target.value) != "self":
            return
        name = target.attr
        found.curved |= name in CURVATURES or self.vocabulary.kind(name) is Kind.CURVATURE
        if name in ("c", "k") and self._sets_curvature(found, name, value):
            found.curvatures.add(name)
            found.curved = True
        if isinstance(value, ast.Call):
            found.built.setdefault(name, value)
            ball = re.search(r"Poincare|Ball|Stereographic", call_parts(value)[0])
            found.curved |= ball is not None

    @staticmethod
    def _sets_curvature(found: LocalClass, name: str, value: ast.expr) -> bool:
        text = ast.unparse(value)
        if re.search(r"Parameter|softplus|curv", text) or SPACES.search(found.name):
            return True
        if name == "c" and isinstance(value, ast.Name) and value.id == "c":
            return True
        passed = (
            k
            for method in found.methods.values()
            for part in ast.walk(method)
            if isinstance(part, ast.Call)
            for k in part.keywords
        )
        return any(k.arg in ("c", "k", "curvature") and dotted(k.value) == f"self.{name}" for k in passed)

    @staticmethod
    def _reached(found: LocalClass) -> set[str]:
        reached = {name for name in found.methods if loss_name(name)}
        waiting = list(reached)
        while waiting:
            for part in ast.walk(found.methods[waiting.pop()]):
                name = part.attr if isinstance(part, ast.Attribute) and dotted(part.value) == "self" else ""
                if name in found.methods and name not in reached:
                    reached.add(name)
                    waiting.append(name)
        return reached


@dataclass
class Frame:
    """The function that is being read.

    Args:
        environment: facts about names.
        owner: its class.
        exempt: whether it implements the geometry.
        loss: whether a forward pass or loss may run it.
        detached: whether gradients are off.
        logging: whether the expression at hand is only shown.
        returned: what it returns.
        depth: calls above it.
        nested: functions defined in it.
        divisors: names that something is divided by.
    """

    environment: Environment
    owner: LocalClass | None = None
    exempt: bool = False
    loss: bool = False
    detached: bool = False
    logging: bool = False
    returned: list[Fact] = field(default_factory=list)
    depth: int = 0
    nested: dict[str, Function] = field(default_factory=dict)
    divisors: frozenset[str] = frozenset()


def meet(facts: Iterable[Fact]) -> Fact:
    """What may be true of a value that is one of these."""
    known = [f for f in facts if f.kind is not Kind.UNKNOWN or f.parts or f.origins]
    if not known:
        return NOTHING
    first = known[0]
    if first.parts and all(len(f.parts) == len(first.parts) for f in known):
        first = replace(first, parts=tuple(meet(f.parts[i] for f in known) for i in range(len(first.parts))))
    return replace(first, origins=frozenset().union(*(f.origins for f in known)))


class Reporter:
    """Collects findings, each once.

    Args:
        None.
    """

    def __init__(self) -> None:
        self.found: dict[tuple[str, Spot], Origin] = {}

    def report(self, frame: Frame, origin: Origin) -> None:
        """Keeps a finding unless the function implements the geometry."""
        if frame.exempt and origin.rule in MAP_RULES:
            return
        self.found.setdefault((origin.rule, origin.spot), origin)

    def use(self, frame: Frame, fact: Fact) -> None:
        """Says that a value leaves for a use that no rule allows."""
        for origin in fact.origins:
            self.report(frame, origin)
        for part in fact.parts:
            self.use(frame, part)


def spot_of(node: ast.AST) -> Spot:
    """Where a node stands."""
    line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    return Spot(
        line, column, getattr(node, "end_lineno", None) or line, getattr(node, "end_col_offset", None) or column
    )


def without(environment: Environment, guard: tuple[str, bool]) -> Environment:
    """The environment where a condition holds: what is known only where it does not is forgotten."""
    opposite = (guard[0], not guard[1])
    return {n: NOTHING if opposite in f.guards else f for n, f in environment.items()}


def condition(test: ast.expr) -> tuple[str, bool]:
    """The source of a condition without its negation, and whether it must hold."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return ast.unparse(test.operand), False
    return ast.unparse(test), True


def either(a: Fact, b: Fact, guard: tuple[str, bool]) -> Fact:
    """What is known of a value that is one thing where a condition holds, and another where it does not."""
    fact = meet((a, b))
    if b.kind is Kind.UNKNOWN and a.kind is not Kind.UNKNOWN:
        return replace(fact, guards=fact.guards | {guard})
    if a.kind is Kind.UNKNOWN and b.kind is not Kind.UNKNOWN:
        return replace(fact, guards=fact.guards | {(guard[0], not guard[1])})
    return fact


def join(a: Environment, b: Environment, guard: tuple[str, bool]) -> Environment:
    """The environment after both branches of a condition; what only one of them knows remembers the condition."""
    joined: Environment = {}
    for name in a.keys() | b.keys():
        left, right = a.get(name, NOTHING), b.get(name, NOTHING)
        joined[name] = left if left == right else either(left, right, guard)
    return joined


def parameter_facts(function: Function, vocabulary: Vocabulary) -> Environment:
    """Facts about parameters from their annotations and names."""
    facts: Environment = {}
    a = function.args
    for parameter in (*a.posonlyargs, *a.args, *a.kwonlyargs):
        note = ast.unparse(parameter.annotation) if parameter.annotation is not None else ""
        head = note.strip("'\"").partition("[")[0].rpartition(".")[2]
        annotated = {"Ball": Kind.BALL, "Tangent": Kind.TANGENT, "Normal": Kind.TANGENT, "GeoLength": Kind.GEODESIC}
        annotated |= {"EucLength": Kind.EUCLIDEAN}
        plain = note in {"int", "bool", "str", "dict"} or "Callable" in note or "Config" in note
        kind = annotated.get(head) or vocabulary.kind(parameter.arg)
        if kind is None and parameter.arg not in ("self", "cls"):
            kind = name_kind(parameter.arg)
            if plain or (note == "float" and kind is not Kind.EDGE and kind is not Kind.GEODESIC):
                kind = Kind.UNKNOWN
        facts[parameter.arg] = Fact(kind or Kind.UNKNOWN, text=parameter.arg)
    return facts


def divisor_names(function: Function) -> frozenset[str]:
    """Names in the denominators of a function: a norm among them is there to make a direction or to clamp."""
    below = (n.right for n in ast.walk(function) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div))
    return frozenset(n.id for part in below for n in ast.walk(part) if isinstance(n, ast.Name))


def certain(nodes: Iterable[ast.AST]) -> Iterable[ast.AST]:
    """Nodes below some that no condition keeps from being evaluated."""
    for node in nodes:
        if isinstance(node, ast.If | ast.IfExp):
            yield from certain([node.test])
        elif not isinstance(node, ast.Try | ast.Match | ast.BoolOp | ast.Lambda | Function):
            yield node
            yield from certain(ast.iter_child_nodes(node))


def point_parameters(function: Function, foreign: set[str]) -> set[str]:
    """Parameters that are never assigned and go into a distance or logarithm of the ball, whatever the conditions."""
    a = function.args
    free = {p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)}
    free -= {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    found: set[str] = set()
    for node in certain(function.body):
        name, receiver = call_parts(node) if isinstance(node, ast.Call) else ("", None)
        if not isinstance(node, ast.Call) or name not in ("dist", "dist0", "distance", "log0", "logmap0"):
            continue
        last = dotted(receiver).rpartition(".")[2]
        if SPACES.search(last) and not OTHER_SPACES.search(last) and dotted(receiver).partition(".")[0] not in foreign:
            count = 2 if name in ("dist", "distance") else 1
            found |= {n.id for n in node.args[:count] if isinstance(n, ast.Name) and n.id in free}
    return found


def curvature_parameters(function: Function, maps: frozenset[str]) -> set[str]:
    """Parameters and locals named c or k that are passed as curvature to a function of the geometry."""
    found: set[str] = set()
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        name, receiver = call_parts(node)
        spatial = exempt_name(name) and (receiver is None or bool(SPACES.search(dotted(receiver))))
        for keyword in node.keywords:
            if (
                keyword.arg in ("c", "k", "curvature")
                and isinstance(keyword.value, ast.Name)
                and (spatial or name in maps)
            ):
                found.add(keyword.value.id)
        if spatial and len(node.args) > 1 and isinstance(node.args[-1], ast.Name) and node.args[-1].id in ("c", "k"):
            found.add(node.args[-1].id)
    return found
