"""Reads the statements and expressions of a module and reports what breaks the geometry rules."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from holonomy.audit import lint_ops as ops
from holonomy.audit.lint_calls import Call, mixed
from holonomy.audit.lint_flow import (
    DEPTH,
    Environment,
    Frame,
    Function,
    LocalClass,
    ModuleFacts,
    Reporter,
    call_parts,
    condition,
    curvature_parameters,
    divisor_names,
    dotted,
    either,
    join,
    loss_name,
    meet,
    parameter_facts,
    point_parameters,
    without,
)
from holonomy.audit.lint_names import (
    LOG_STORE,
    MATRIX_NAME,
    NOTHING,
    OTHER_SPACES,
    SPACES,
    WEIGHT_NAME,
    Fact,
    Kind,
    exempt_name,
    limit_name,
    name_kind,
    says_norm,
    words,
)
from holonomy.audit.lint_operators import OperatorReader
from holonomy.audit.lint_rules import Origin

CARRIED = (Kind.BALL, Kind.TANGENT, Kind.GEODESIC, Kind.CURVATURE, Kind.DIRECTION, Kind.GAP, Kind.EDGE, Kind.MANIFOLD)
CARRIED += (Kind.OTHER_SPACE,)
NAMED = (Kind.BALL, Kind.TANGENT, Kind.CURVATURE, Kind.EDGE)
"""What the name of a variable is believed about a value that nothing else is known of."""


class SourceReader(OperatorReader):
    """Reads a module.

    Args:
        module: what it defines.
        reporter: where findings go.
    """

    def __init__(self, module: ModuleFacts, reporter: Reporter) -> None:
        super().__init__(module, reporter)
        self._known: dict[tuple[object, ...], Fact] = {}
        self._active: set[tuple[object, ...]] = set()

    def read(self) -> None:
        """Reads everything; does nothing when no name in the module has to do with the ball."""
        if not self.module.hyperbolic:
            return
        quiet, self.reporter = self.reporter, Reporter()
        for owner in self.module.classes.values():
            for method in owner.methods.values():
                self.function(method, Frame({}, owner, loss=method.name in owner.loss))
        self.reporter, self._known = quiet, {}
        self.block(self.module.tree.body, Frame(self.module.constants))

    def function(self, function: Function, frame: Frame, given: Environment | None = None) -> Fact:
        """Reads a function with what its parameters' names say, or with the facts of a call.

        Args:
            function: the definition.
            frame: where it is defined or called.
            given: facts about some parameters.
        """
        environment = dict(frame.environment) | parameter_facts(function, self.module.vocabulary)
        for name in curvature_parameters(function, frozenset()):
            environment[name] = replace(environment.get(name, NOTHING), kind=Kind.CURVATURE)
        for name in point_parameters(function, self.module.foreign):
            if environment[name].kind is Kind.UNKNOWN:
                environment[name] = Fact(Kind.BALL, text=name)
        for name, fact in (given or {}).items():
            if fact.kind in CARRIED or fact.parts or fact.number is not None:
                environment[name] = replace(fact, text=name, guards=frozenset())
        decorators = " ".join(ast.unparse(d) for d in function.decorator_list)
        inner = Frame(
            environment,
            frame.owner,
            exempt=frame.exempt or exempt_name(function.name) or function.name in self.module.vocabulary.exempt,
            loss=frame.loss or loss_name(function.name),
            detached=frame.detached or "no_grad" in decorators or "inference_mode" in decorators,
            depth=frame.depth + 1,
            nested=dict(frame.nested),
            divisors=divisor_names(function),
        )
        self.block(function.body, inner)
        return meet(inner.returned)

    def follow(self, function: Function, call: Call, frame: Frame, *, bound: bool) -> Fact:
        """Reads a function of the module with the facts of a call."""
        a = function.args
        names = [p.arg for p in (*a.posonlyargs, *a.args)]
        static = any(dotted(d) == "staticmethod" for d in function.decorator_list)
        given = dict(zip(names[1:] if bound and not static else names, call.arguments, strict=False)) | call.keywords
        if exempt_name(function.name):
            given = {n: replace(f, origins=frozenset()) for n, f in given.items()}
        for fact in given.values():
            self.reporter.use(frame, fact)
        owner = frame.owner if bound else None
        told = tuple(sorted((n, f.kind.name, f.number, len(f.parts)) for n, f in given.items() if f.kind in CARRIED))
        key = (id(function), told, frame.loss, frame.detached, frame.exempt)
        if key in self._known:
            return self._known[key]
        if key in self._active or frame.depth >= DEPTH:
            return NOTHING
        self._active.add(key)
        outer = frame.environment if function.name in frame.nested else self.module.constants
        place = Frame(outer, owner, exempt=frame.exempt, loss=frame.loss, detached=frame.detached, depth=frame.depth)
        place.nested = frame.nested
        self._known[key] = self.function(function, place, given)
        self._active.discard(key)
        return self._known[key]

    def block(self, body: Sequence[ast.stmt], frame: Frame) -> bool:
        """Reads statements in order; True when none behind them can follow."""
        return any(self.statement(statement, frame) for statement in body)

    def statement(self, node: ast.stmt, frame: Frame) -> bool:
        """Reads a statement; True when it leaves the block."""
        match node:
            case ast.Assign(targets, value):
                fact = self._stored(targets[0], value, frame)
                for target in targets:
                    self.store(target, fact, frame)
            case ast.AnnAssign(target, _, value):
                annotated = dotted(node.annotation.value) if isinstance(node.annotation, ast.Subscript) else ""
                fact = self._stored(target, value, frame) if value is not None else NOTHING
                ball = annotated.rpartition(".")[2] == "Ball"
                self.store(target, replace(fact, kind=Kind.BALL) if ball else fact, frame)
            case ast.AugAssign(target, operator, value):
                old, new = self.value(target, frame), self.value(value, frame)
                made = self.binary(value, type(operator).__name__, old, new, frame)
                self.store(target, made, frame)
            case ast.Return(value):
                if value is not None:
                    fact = self.value(value, frame)
                    frame.returned.append(replace(fact, origins=frozenset()))
                    self.reporter.use(frame, fact)
                return True
            case ast.Expr(value):
                self.value(value, frame)
            case ast.Raise() | ast.Continue() | ast.Break():
                return True
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                frame.nested[node.name] = node
                self.function(node, replace(frame, loss=frame.loss and frame.depth > 0))
            case ast.ClassDef():
                self._class(node, frame)
            case _:
                return self._compound(node, frame)
        return False

    def _class(self, node: ast.ClassDef, frame: Frame) -> None:
        owner = self.module.classes.get(node.name) or LocalClass(node.name)
        for item in node.body:
            if isinstance(item, Function):
                reached = item.name in owner.loss
                self.function(item, Frame(dict(frame.environment), owner, loss=reached, nested=dict(frame.nested)))

    def _compound(self, node: ast.stmt, frame: Frame) -> bool:
        match node:
            case ast.If(test, body, orelse):
                return self._branch(test, body, orelse, frame)
            case ast.For(target, iterable, body, orelse) | ast.AsyncFor(target, iterable, body, orelse):
                self.store(target, self._element(self.value(iterable, frame)), frame)
                self._loop(body, frame)
                self.block(orelse, frame)
            case ast.While(test, body, orelse):
                self.value(test, frame)
                self._loop(body, frame)
                self.block(orelse, frame)
            case ast.With(items, body) | ast.AsyncWith(items, body):
                text = " ".join(ast.unparse(i.context_expr) for i in items)
                for item in items:
                    fact = self.value(item.context_expr, frame)
                    if item.optional_vars is not None:
                        self.store(item.optional_vars, fact, frame)
                was, frame.detached = frame.detached, frame.detached or "no_grad" in text or "inference_mode" in text
                left = self.block(body, frame)
                frame.detached = was
                return left
            case ast.Try(body, handlers, orelse, finalbody):
                left = self.block(body, frame) or self.block(orelse, frame)
                for handler in handlers:
                    left &= self.block(handler.body, frame)
                return self.block(finalbody, frame) or left
            case ast.Match(subject, cases):
                self.value(subject, frame)
                for case in cases:
                    self.block(case.body, frame)
            case ast.Assert(test, _):
                self.value(test, frame)
            case _:
                pass
        return False

    def _branch(self, test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt], frame: Frame) -> bool:
        self.value(test, frame)
        text, truth = condition(test)
        before = frame.environment
        was = frame.detached
        frame.environment = without(before, (text, truth))
        frame.detached = was or self.is_constant((text, truth))
        left_yes = self.block(body, frame)
        yes = frame.environment
        frame.environment = without(before, (text, not truth))
        frame.detached = was or self.is_constant((text, not truth))
        left_no = self.block(orelse, frame)
        no, frame.detached = frame.environment, was
        merged = no if left_yes else yes if left_no else join(yes, no, (text, truth))
        before.clear()
        before.update(merged)
        frame.environment = before
        return left_yes and left_no

    @staticmethod
    def is_constant(guard: tuple[str, bool]) -> bool:
        """Whether a condition says that something needs no gradient."""
        return guard[0].endswith(".requires_grad") and not guard[1]

    def sides(self, guard: tuple[str, bool], frame: Frame) -> tuple[Frame, Frame]:
        """The function where a condition holds, and where it does not."""
        text, truth = guard
        return (
            replace(frame, detached=frame.detached or self.is_constant((text, truth))),
            replace(frame, detached=frame.detached or self.is_constant((text, not truth))),
        )

    def _loop(self, body: list[ast.stmt], frame: Frame) -> None:
        before = dict(frame.environment)
        self.block(body, frame)
        if any(before.get(n) != f for n, f in frame.environment.items() if n in before):
            self.block(body, frame)
        merged = join(frame.environment, before, ("", True))
        frame.environment.update({n: replace(f, guards=before.get(n, f).guards) for n, f in merged.items()})

    @staticmethod
    def _element(fact: Fact) -> Fact:
        return meet(fact.parts) if fact.parts else fact

    def _stored(self, target: ast.expr, value: ast.expr, frame: Frame) -> Fact:
        last = dotted(target.value if isinstance(target, ast.Subscript) else target).rpartition(".")[2]
        was = frame.logging
        frame.logging = was or (isinstance(target, ast.Subscript) and bool(LOG_STORE.search(last)))
        fact = self.value(value, frame)
        frame.logging = was
        return fact

    def store(self, target: ast.expr, fact: Fact, frame: Frame) -> None:
        """Keeps a fact under a name, an attribute or the names of a tuple."""
        match target:
            case ast.Tuple(elts) | ast.List(elts):
                exact = len(fact.parts) == len(elts) and not any(isinstance(e, ast.Starred) for e in elts)
                for i, element in enumerate(elts):
                    self.store(element, fact.parts[i] if exact else self._element(fact), frame)
            case ast.Starred(value):
                self.store(value, fact, frame)
            case ast.Name(name):
                frame.environment[name] = self._named(name, fact)
            case ast.Attribute(value, name):
                self.reporter.use(frame, fact)
                kept = self._named(name, replace(fact, origins=frozenset()))
                frame.environment[dotted(target)] = kept
                if frame.owner is not None and dotted(value) == "self" and kept.kind is not Kind.UNKNOWN:
                    frame.owner.attributes[name] = meet((frame.owner.attributes.get(name, NOTHING), kept))
            case ast.Subscript(value, index):
                self.value(value, frame)
                self._shown(index, fact, frame)
                name = dotted(value)
                if name and fact.kind is Kind.BALL:
                    frame.environment[name] = meet((frame.environment.get(name, NOTHING), fact))
            case _:
                pass

    def _named(self, name: str, fact: Fact) -> Fact:
        if fact.kind is Kind.BALL and words(name) & {"grad", "grads", "gradient", "gradients", "momentum"}:
            return NOTHING
        fact = replace(fact, text=name) if fact.kind in (Kind.BALL, Kind.DIRECTION) else fact
        if fact.kind is not Kind.UNKNOWN or fact.number is not None or fact.parts or fact.text == "None":
            return fact
        kind = self.module.vocabulary.kind(name) or name_kind(name)
        return (
            Fact(kind, fact.origins, text=name)
            if kind in (Kind.BALL, Kind.TANGENT, Kind.CURVATURE, Kind.EDGE)
            else fact
        )

    def value(self, node: ast.expr, frame: Frame) -> Fact:
        """Reads an expression."""
        match node:
            case ast.Name(name):
                return self._name(name, frame)
            case ast.Constant(value):
                number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
                return Fact(number=None if number is None else float(number), text="None" if value is None else "")
            case ast.Attribute():
                return self._attribute(node, frame)
            case ast.Call():
                return self.call(node, frame)
            case ast.BinOp(left, operator, right):
                a, b = self.value(left, frame), self.value(right, frame)
                return self.binary(node, type(operator).__name__, a, b, frame)
            case ast.Compare(left, _, comparators):
                self._compare(node, [self.value(e, frame) for e in (left, *comparators)], frame)
                return NOTHING
            case ast.Subscript():
                return self._subscript(node, frame)
            case ast.UnaryOp(operator, operand):
                fact = self.value(operand, frame)
                if fact.number is not None and isinstance(operator, ast.USub):
                    return replace(fact, number=-fact.number)
                return NOTHING if isinstance(operator, ast.Not) else fact
            case ast.Tuple(elts) | ast.List(elts) | ast.Set(elts):
                return Fact(parts=tuple(self.value(e, frame) for e in elts))
            case _:
                return self._other(node, frame)

    def _other(self, node: ast.expr, frame: Frame) -> Fact:
        match node:
            case ast.IfExp(test, body, orelse):
                self.value(test, frame)
                guard = condition(test)
                yes, no = self.sides(guard, frame)
                return either(self.value(body, yes), self.value(orelse, no), guard)
            case ast.BoolOp(_, values):
                return meet([self.value(v, frame) for v in values])
            case ast.NamedExpr(target, value):
                fact = self.value(value, frame)
                self.store(target, fact, frame)
                return fact
            case ast.Starred(value) | ast.Await(value) | ast.YieldFrom(value):
                return self.value(value, frame)
            case ast.Yield(value):
                if value is not None:
                    self.reporter.use(frame, self.value(value, frame))
            case ast.Dict(keys, values):
                shown = replace(frame, logging=True)
                for key, value in zip(keys, values, strict=True):
                    self._shown(key, self.value(value, shown), frame)
            case ast.JoinedStr(values):
                shown = replace(frame, logging=True)
                label = ast.Constant("".join(str(v.value) for v in values if isinstance(v, ast.Constant)))
                for value in values:
                    if isinstance(value, ast.FormattedValue):
                        self._shown(label, self.value(value.value, shown), frame)
            case ast.ListComp(elt, generators) | ast.SetComp(elt, generators) | ast.GeneratorExp(elt, generators):
                return self.value(elt, self._generated(generators, frame))
            case ast.DictComp(_, value, generators):
                inner = self._generated(generators, frame)
                self.reporter.use(inner, self.value(value, inner))
            case ast.Lambda(_, body):
                names = {p.arg: Fact(name_kind(p.arg), text=p.arg) for p in node.args.args}
                inner = replace(frame, environment=frame.environment | names)
                self.reporter.use(inner, self.value(body, inner))
            case _:
                pass
        return NOTHING

    def _shown(self, label: ast.expr | None, fact: Fact, frame: Frame) -> None:
        """Uses a value that is shown or kept under a label."""
        if not (isinstance(label, ast.Constant) and isinstance(label.value, str) and says_norm(label.value)):
            self.reporter.use(frame, fact)

    def _generated(self, generators: list[ast.comprehension], frame: Frame) -> Frame:
        inner = replace(frame, environment=dict(frame.environment))
        for g in generators:
            self.store(g.target, self._element(self.value(g.iter, inner)), inner)
            for test in g.ifs:
                self.value(test, inner)
        return inner

    def _name(self, name: str, frame: Frame) -> Fact:
        fact = frame.environment.get(name)
        if fact is None:
            fact = Fact(self.module.vocabulary.kind(name) or name_kind(name), text=name)
            if name in self.module.functions or name in frame.nested or name in self.module.foreign:
                return NOTHING
        if fact.kind is Kind.UNKNOWN and fact.number is None and not fact.parts and not fact.origins:
            kind = Kind.WEIGHTS if WEIGHT_NAME.match(name) else Kind.MATRIX if MATRIX_NAME.match(name) else fact.kind
            return replace(fact, kind=kind, text=fact.text if fact.text == "None" else name)
        return fact

    def _attribute(self, node: ast.Attribute, frame: Frame) -> Fact:
        text, name = dotted(node), node.attr
        if text in frame.environment:
            return frame.environment[text]
        on = self.value(node.value, frame)
        if name in ops.INERT:
            return NOTHING
        if name in ops.SHADOWS and on.kind not in (Kind.UNKNOWN, Kind.LINEAR, Kind.MANIFOLD):
            if name == "data" and on.kind is Kind.CURVATURE and frame.loss and not frame.detached and not frame.logging:
                self.find("R8", node, "`.data` cuts the curvature from the gradient", frame)
            return on
        mine, owner = dotted(node.value) == "self", frame.owner
        if mine and owner is not None:
            if owner.attributes.get(name, NOTHING).kind is not Kind.UNKNOWN:
                return owner.attributes[name]
            if name in owner.built and self.linear_constructor(owner.built[name]) is not None:
                return Fact(Kind.LINEAR) if self.linear_constructor(owner.built[name]) else NOTHING
            if name in ("c", "k") and name in owner.curvatures:
                return Fact(Kind.CURVATURE)
            built = call_parts(owner.built[name])[0] if name in owner.built else ""
            if built[:1].isupper() and "Parameter" not in built:
                return Fact(Kind.OTHER_SPACE) if OTHER_SPACES.search(built) else NOTHING
        if name in ("c", "k") and (on.kind is Kind.MANIFOLD or SPACES.search(dotted(node.value).rpartition(".")[2])):
            return Fact(Kind.CURVATURE)
        kind = self.module.vocabulary.kind(name) or name_kind(name)
        if kind is Kind.UNKNOWN and (MATRIX_NAME.match(name) or WEIGHT_NAME.match(name)):
            kind = Kind.MATRIX if MATRIX_NAME.match(name) else Kind.WEIGHTS
        return Fact(kind, text=text)

    def _subscript(self, node: ast.Subscript, frame: Frame) -> Fact:
        on, index = self.value(node.value, frame), node.slice
        if isinstance(index, ast.Constant) and isinstance(index.value, str):
            kind = self.module.vocabulary.kind(index.value) or name_kind(index.value)
            return Fact(kind, text=ast.unparse(node))
        self.value(index, frame)
        if on.parts and isinstance(index, ast.Constant) and isinstance(index.value, int):
            return on.parts[index.value] if -len(on.parts) <= index.value < len(on.parts) else NOTHING
        if isinstance(index, ast.Constant) and isinstance(index.value, int) and on.kind is Kind.BALL:
            return NOTHING
        last = index.elts[-1] if isinstance(index, ast.Tuple) and len(index.elts) > 1 else None
        coordinate = isinstance(last, ast.Constant) and isinstance(last.value, int)
        if coordinate and on.kind in (Kind.BALL, Kind.GAP, Kind.DIRECTION):
            return NOTHING
        fact = self._element(on)
        return replace(fact, text=ast.unparse(node)) if fact.kind in (Kind.BALL, Kind.DIRECTION) else fact

    def _compare(self, node: ast.Compare, facts: list[Fact], frame: Frame) -> None:
        for a, b in pairwise(facts):
            if mixed(a, b):
                self.find("R6", node, "a geodesic length compared with a Euclidean one", frame)
                continue
            clamps = {n.id for n in (node.left, *node.comparators) if isinstance(n, ast.Name)} & frame.divisors
            for one, other in ((a, b), (b, a)):
                near_edge = other.number is not None and (0.9 <= abs(other.number) <= 1.1 or abs(other.number) < 1e-3)
                limits = any(
                    limit_name(n.id if isinstance(n, ast.Name) else n.attr)
                    for side in (node.left, *node.comparators)
                    for n in ast.walk(side)
                    if isinstance(n, ast.Name | ast.Attribute)
                )
                edge = other.kind in (Kind.EDGE, Kind.CURVATURE) or near_edge or limits
                if not edge and not clamps and not isinstance(node.ops[0], ast.Is | ast.IsNot):
                    self.reporter.use(frame, one)


def read_module(module: ModuleFacts) -> list[Origin]:
    """Findings of the geometry rules in a module, in order of their place.

    Args:
        module: what it defines.
    """
    reporter = Reporter()
    SourceReader(module, reporter).read()
    return sorted(reporter.found.values(), key=lambda o: (o.spot.line, o.spot.column, o.rule))
