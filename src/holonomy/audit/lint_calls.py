"""What a call does to facts: maps of the geometry, layers, and operations of array libraries."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from holonomy.audit import lint_ops as ops
from holonomy.audit.lint_flow import Frame, Function, ModuleFacts, Reporter, call_parts, dotted, meet, spot_of
from holonomy.audit.lint_names import (
    CURVATURE_KEYWORDS,
    LIBRARIES,
    LINEAR_CLASSES,
    LINEAR_NAME,
    LOG_CALL,
    NOTHING,
    OTHER_SPACES,
    SPACES,
    Fact,
    Kind,
    distance_name,
    exempt_name,
    map_kind,
    name_kind,
    radius_name,
    says_norm,
    words,
)
from holonomy.audit.lint_rules import Origin

POINTS = (Kind.BALL, Kind.DIRECTION)
LENGTHS = (Kind.EUCLIDEAN, Kind.EDGE)

SCALED = "scaled "
"""Begins the text of a point times something unknown, which may be a weight or another vector."""


@dataclass
class Call:
    """A call with its operands read.

    Args:
        node: the call.
        name: last name of what is called.
        receiver: source of what it is called on, empty when that is no chain of names.
        library: whether it is a function of an array library.
        on: fact about the receiver.
        callee: fact about what is called.
        arguments: facts about positional arguments.
        keywords: facts about keyword arguments.
    """

    node: ast.Call
    name: str
    receiver: str
    library: bool
    on: Fact
    callee: Fact
    arguments: list[Fact]
    keywords: dict[str, Fact]

    @property
    def operands(self) -> list[Fact]:
        """Receiver and arguments, in the order in which a function would take them."""
        is_value = not self.library and isinstance(self.node.func, ast.Attribute)
        return [*([self.on] if is_value else []), *self.arguments, *self.keywords.values()]


def flat(facts: list[Fact]) -> list[Fact]:
    """Facts, with those of tuples and lists one by one."""
    return [inner for fact in facts for inner in (flat(list(fact.parts)) if fact.parts else [fact])]


def mixed(a: Fact, b: Fact) -> bool:
    """Whether one is a geodesic length and the other a Euclidean one."""
    kinds = (a.kind, b.kind)
    return Kind.GEODESIC in kinds and (a.kind in LENGTHS or b.kind in LENGTHS)


class CallReader(ABC):
    """Reads calls.

    Args:
        module: what the module defines.
        reporter: where findings go.
    """

    def __init__(self, module: ModuleFacts, reporter: Reporter) -> None:
        self.module, self.reporter = module, reporter

    @abstractmethod
    def value(self, node: ast.expr, frame: Frame) -> Fact:
        """Reads an expression."""

    @abstractmethod
    def follow(self, function: Function, call: Call, frame: Frame, *, bound: bool) -> Fact:
        """Reads a function of the module with the facts of a call."""

    @abstractmethod
    def binary(self, node: ast.expr, operator: str, a: Fact, b: Fact, frame: Frame) -> Fact:
        """What an operator makes of two facts."""

    def find(self, rule: str, node: ast.AST, message: str, frame: Frame) -> None:
        """Reports a finding at a node."""
        self.reporter.report(frame, Origin(rule, spot_of(node), message))

    def call(self, node: ast.Call, frame: Frame) -> Fact:
        """Reads a call."""
        name, target = call_parts(node)
        receiver = dotted(target)
        root = receiver.partition(".")[0]
        library = root in LIBRARIES and root not in frame.environment
        on = NOTHING if target is None or library else self.value(target, frame)
        callee = NOTHING
        if isinstance(node.func, ast.Name):
            callee = frame.environment.get(name, NOTHING)
        elif not library:
            callee = self.value(node.func, replace(frame, detached=True))
        was, frame.logging = frame.logging, frame.logging or bool(LOG_CALL.match(name))
        plain = [a.value if isinstance(a, ast.Starred) else a for a in node.args]
        arguments = [self.value(a, frame) for a in plain]
        keywords = {k.arg or "**": self.value(k.value, frame) for k in node.keywords}
        frame.logging = was
        c = Call(node, name, receiver, library, on, callee, arguments, keywords)
        for step in (
            self._cut,
            self._distance,
            self._map,
            self._layer,
            self._local,
            self._constructor,
            self._operation,
        ):
            fact = step(c, frame)
            if fact is not None:
                return fact
        unnamed = [fact for key, fact in c.keywords.items() if not says_norm(key)]
        for fact in (*c.operands[: len(c.operands) - len(c.keywords)], *unnamed):
            if not exempt_name(name) and name not in ops.HARMLESS:
                self.reporter.use(frame, fact)
        return NOTHING

    def spatial(self, c: Call, frame: Frame) -> bool | None:
        """Whether a call goes to the ball (True), to another space (False), or to nothing known (None)."""
        if c.on.kind in (Kind.MANIFOLD, Kind.OTHER_SPACE):
            return c.on.kind is Kind.MANIFOLD
        if c.library:
            return False
        if c.receiver in ("self", "cls", "super"):
            owner = frame.owner
            if owner is None:
                return None
            return False if owner.other_space else (True if SPACES.search(owner.name) else None)
        last = c.receiver.rpartition(".")[2]
        if c.receiver.partition(".")[0] in self.module.foreign or OTHER_SPACES.search(last):
            return False
        return True if SPACES.search(last) else None

    def points(self, c: Call, count: int, frame: Frame) -> None:
        """Learns that what went into a distance or logarithm of the ball is a point.

        Args:
            c: the call.
            count: how many of its arguments are points.
            frame: the function it stands in.
        """
        for node, fact in zip(c.node.args[:count], c.arguments, strict=False):
            if isinstance(node, ast.Name) and fact.kind is Kind.UNKNOWN and not fact.parts and fact.number is None:
                frame.environment[node.id] = Fact(Kind.BALL, fact.origins, text=node.id)

    def _cut(self, c: Call, frame: Frame) -> Fact | None:
        subject = c.on if c.name in ("item", "detach", "tolist", "numpy") else NOTHING
        if c.name in ("float", "int") and not c.receiver and c.arguments:
            subject = c.arguments[0]
        if subject.kind is not Kind.CURVATURE:
            return None
        if frame.loss and not frame.detached and not frame.logging:
            self.find("R8", c.node, f"`{c.name}` cuts the curvature from the gradient", frame)
        return NOTHING

    def _distance(self, c: Call, frame: Frame) -> Fact | None:
        if c.library or not (distance_name(c.name) or c.name in self.module.vocabulary.length):
            return None
        spatial = self.spatial(c, frame)
        named = bool(words(c.name) & {"hyp", "hyperbolic", "poincare", "geodesic"}) or radius_name(c.name)
        points = any(f.kind is Kind.BALL for f in flat(c.operands))
        keyword = next((k for k in c.keywords if k in CURVATURE_KEYWORDS), None)
        place = 1 if radius_name(c.name) else 2
        literal = keyword is not None and c.keywords[keyword].number is not None
        if keyword is None and len(c.arguments) > place and (spatial or named or points):
            literal = c.arguments[place].number is not None
        if literal and frame.owner is not None and frame.owner.curved:
            text = f"`{c.name}` with a literal curvature, but `{frame.owner.name}` has its own"
            self.find("R7", c.node, text, frame)
        if spatial is False:
            return NOTHING
        if spatial:
            self.points(c, place, frame)
        given = c.name in self.module.vocabulary.length
        return Fact(Kind.GEODESIC) if spatial or named or points or keyword or given else None

    def _map(self, c: Call, frame: Frame) -> Fact | None:
        spatial = self.spatial(c, frame)
        kind = self.module.vocabulary.kind(c.name)
        if kind is None and spatial is False and c.name != "to_ball":
            return NOTHING if not c.library and map_kind(c.name) is not None else None
        if kind is None:
            kind = map_kind(c.name)
        curved = any(f.kind is Kind.CURVATURE for f in c.arguments[1:]) or any(k in c.keywords for k in ("c", "k"))
        if kind is None and (spatial or (curved and not c.receiver)):
            if c.name in ops.BALL_SAMPLERS:
                kind = Kind.BALL
            elif c.name in ops.TANGENT_MAPS:
                kind = Kind.TANGENT
            elif c.name in ("norm", "inner") and len(c.arguments) > 1:
                kind = Kind.GEODESIC
        if kind is None and name_kind(c.name) in (Kind.BALL, Kind.GEODESIC, Kind.TANGENT, Kind.CURVATURE):
            kind = name_kind(c.name)
        if kind is None:
            return None
        if spatial and c.name in ("log0", "logmap0"):
            self.points(c, 1, frame)
        self._local(c, frame)
        return Fact(kind, text=ast.unparse(c.node) if kind is Kind.BALL else "")

    def _layer(self, c: Call, frame: Frame) -> Fact | None:
        first = flat(c.arguments[:1])
        on_ball = any(f.kind is Kind.BALL for f in first)
        linear = c.callee.kind is Kind.LINEAR
        if not linear and on_ball and c.callee.kind is Kind.UNKNOWN and LINEAR_NAME.match(c.name):
            built = frame.owner is not None and (c.name in frame.owner.built or c.name in frame.owner.methods)
            linear = not built and c.name not in self.module.functions and self.spatial(c, frame) is None
        linear |= c.library and c.name in ("linear", "bilinear")
        if not linear:
            return None
        if on_ball:
            self.find(
                "R5", c.node, f"`{ast.unparse(c.node.func)}` is linear, but its input is a point of the ball", frame
            )
        for fact in c.arguments:
            self.reporter.use(frame, fact)
        return NOTHING

    def _local(self, c: Call, frame: Frame) -> Fact | None:
        if isinstance(c.node.func, ast.Name):
            if len(c.arguments) == 1 and ops.NORM_NAME.fullmatch(c.name):
                return self._norm(c, c.arguments, frame)
            if c.name in frame.nested:
                return self.follow(frame.nested[c.name], c, frame, bound=False)
            if c.name in self.module.functions:
                return self.follow(self.module.functions[c.name], c, frame, bound=False)
            return None
        if c.receiver != "self" or frame.owner is None:
            return None
        if c.name in frame.owner.methods:
            return self.follow(frame.owner.methods[c.name], c, frame, bound=True)
        built = frame.owner.built.get(c.name)
        target = self.module.classes.get(call_parts(built)[0]) if built is not None else None
        if target is not None and "forward" in target.methods:
            return self.follow(target.methods["forward"], c, replace(frame, owner=target), bound=True)
        return None

    def _constructor(self, c: Call, frame: Frame) -> Fact | None:
        if not c.name[:1].isupper():
            return None
        if c.name in ("ManifoldParameter", "ManifoldTensor"):
            manifold = c.keywords.get("manifold", c.arguments[1] if len(c.arguments) > 1 else None)
            return None if manifold is None or manifold.kind is Kind.OTHER_SPACE else Fact(Kind.BALL)
        if c.name == "Parameter":
            return None
        linear = self.linear_constructor(c.node)
        if linear is not None:
            return Fact(Kind.LINEAR) if linear else NOTHING
        if OTHER_SPACES.search(c.name):
            return Fact(Kind.OTHER_SPACE)
        if "Poincare" in c.name or "Ball" in c.name or c.name == "Stereographic":
            return Fact(Kind.MANIFOLD)
        return None

    def linear_constructor(self, node: ast.Call) -> bool | None:
        """Whether a constructor makes a linear layer or a chain that begins with one; None when it makes no layer.

        Args:
            node: call of the constructor.
        """
        name, receiver = call_parts(node)
        if name in ("Sequential", "ModuleList"):
            for part in node.args:
                items = part.elts if isinstance(part, ast.List | ast.Tuple) else [part]
                items = [part.elt] if isinstance(part, ast.ListComp) else items
                for item in items:
                    inner = item.value if isinstance(item, ast.Starred) else item
                    found = self.linear_constructor(inner) if isinstance(inner, ast.Call) else None
                    if found is not None:
                        return found
                    if isinstance(inner, ast.Call) and "log" in words(call_parts(inner)[0]):
                        return False
            return None
        if name not in LINEAR_CLASSES:
            return None
        spatial = any(k.arg in ("manifold", "c", "curvature", "ball", "k") for k in node.keywords)
        spatial |= bool(
            SPACES.search(dotted(receiver)) or "hyp" in words(dotted(receiver)) or name in self.module.classes
        )
        return None if spatial or dotted(receiver) in ("hnn", "geoopt.layers") else True

    def _operation(self, c: Call, frame: Frame) -> Fact | None:
        operands = c.operands
        if isinstance(c.node.func, ast.Attribute) and c.receiver == "self" and c.on == NOTHING:
            return None
        if c.name in ops.ARITHMETIC and len(operands) > 1:
            return self.binary(c.node, ops.ARITHMETIC[c.name], operands[0], operands[1], frame)
        if c.name in ("pow", "square", "float_power") and operands:
            power = operands[1] if len(operands) > 1 else Fact(number=2.0)
            return self.binary(c.node, "Pow", operands[0], power, frame)
        if c.name in ops.MIXES and len(operands) > 1 and any(mixed(operands[0], b) for b in operands[1:]):
            self.find("R6", c.node, f"`{c.name}` of a geodesic and a Euclidean length", frame)
            return replace(operands[0], origins=frozenset()) if c.name.startswith("clamp") else NOTHING
        for step in (self._norm, self._mean, self._product, self._gap, self._elementwise):
            fact = step(c, operands, frame)
            if fact is not None:
                return fact
        if c.name in ops.KEEP | ops.REDUCE | {"float", "int", "max", "min"} and operands:
            if c.name == "where":
                return meet(operands[1:])
            if c.name in ("minimum", "maximum", "clamp", "clamp_max", "clip"):
                return meet(operands[:1]) if c.name.startswith("cl") else meet(operands)
            return meet(operands[0].parts) if operands[0].parts else operands[0]
        return None

    def _norm(self, c: Call, operands: list[Fact], frame: Frame) -> Fact | None:
        if not operands or not (c.name in ops.NORMS or ops.NORM_NAME.fullmatch(c.name)):
            return None
        subject = meet(flat(operands[:1]))
        if subject.kind is Kind.BALL:
            text = f"Euclidean norm of the ball point `{subject.text or 'this'}` used as a radius"
            return Fact(Kind.EUCLIDEAN, frozenset({Origin("R1", spot_of(c.node), text)}))
        if subject.kind is Kind.GAP:
            text = "Euclidean norm of the difference of two ball points"
            return Fact(Kind.EUCLIDEAN, frozenset({Origin("R2", spot_of(c.node), text)}))
        if subject.kind is Kind.TANGENT:
            return Fact(Kind.GEODESIC)
        return NOTHING if subject.kind in (Kind.UNKNOWN, Kind.DIRECTION) else None

    def _mean(self, c: Call, operands: list[Fact], frame: Frame) -> Fact | None:
        if c.name not in ops.MEANS or not operands:
            return None
        kinds = [f.kind for f in flat(operands)]
        first = meet(flat(operands[:1]))
        if c.name in ("add", "add_"):
            return self.binary(c.node, "Add", operands[0], operands[1], frame) if len(operands) > 1 else None
        if first.kind in (Kind.SQUARES, Kind.GAP_SQUARES):
            rule, text = ("R1", "squared Euclidean norm of a ball point used as a radius")
            if first.kind is Kind.GAP_SQUARES:
                rule, text = ("R2", "squared Euclidean distance between ball points")
            return Fact(Kind.SQUARE, frozenset({Origin(rule, spot_of(c.node), text)}))
        if first.kind is Kind.PRODUCT:
            self.find("R4", c.node, "dot product of two ball points", frame)
            return NOTHING
        scattered = c.name.startswith(("scatter", "index_add", "lerp", "segment"))
        if first.text.startswith(SCALED) and self._coordinates(c):
            return NOTHING
        if first.kind is Kind.BALL or (scattered and Kind.BALL in kinds):
            self.find("R3", c.node, f"`{c.name}` of ball points in their coordinates", frame)
            return NOTHING
        return None

    @staticmethod
    def _coordinates(c: Call) -> bool:
        """Whether a sum runs over coordinates, so that a point times something is a product of vectors."""
        given = [k.value for k in c.node.keywords if k.arg in ("dim", "axis")] or c.node.args[-1:]
        return bool(given) and ast.unparse(given[0]) in ("-1", "dim", "axis")

    def _product(self, c: Call, operands: list[Fact], frame: Frame) -> Fact | None:
        if c.name not in ops.PRODUCTS or (self.spatial(c, frame) is True):
            return None
        return self.product(c.node, flat(operands), frame)

    def product(self, node: ast.expr, operands: list[Fact], frame: Frame) -> Fact:
        """What a dot or matrix product makes of its factors.

        Args:
            node: the product.
            operands: its factors.
            frame: the function it stands in.
        """
        points = [f for f in operands if f.kind in POINTS]
        kinds = {f.kind for f in operands}
        if len(points) > 1:
            if points[0].text and points[0].text == points[1].text and self._row_wise(node):
                text = "squared Euclidean norm of a ball point used as a radius"
                return Fact(Kind.SQUARE, frozenset({Origin("R1", spot_of(node), text)}))
            self.find("R4", node, "dot product of two ball points", frame)
        elif Kind.BALL in kinds and Kind.WEIGHTS in kinds:
            self.find("R3", node, "weighted sum of ball points in their coordinates", frame)
        elif Kind.BALL in kinds and (Kind.MATRIX in kinds or Kind.LINEAR in kinds):
            self.find("R5", node, "matrix applied to a ball point", frame)
        for fact in operands:
            self.reporter.use(frame, fact)
        return NOTHING

    @staticmethod
    def _row_wise(node: ast.expr) -> bool:
        if not isinstance(node, ast.Call):
            return False
        name = call_parts(node)[0]
        if name == "einsum" and node.args and isinstance(node.args[0], ast.Constant):
            left, _, right = str(node.args[0].value).partition("->")
            a, _, b = left.replace(" ", "").partition(",")
            return a == b and len(right.strip()) < len(a)
        return name in ("dot", "inner", "vdot")

    def _gap(self, c: Call, operands: list[Fact], frame: Frame) -> Fact | None:
        torch_dist = c.library and c.name == "dist"
        if c.name not in ops.DISTANCES and not torch_dist:
            return None
        points = [f for f in flat(operands[:2]) if f.kind is Kind.BALL]
        if len(points) > 1 or (points and c.name == "pdist"):
            self.find("R2", c.node, f"`{c.name}` of ball points is Euclidean", frame)
        for fact in operands:
            self.reporter.use(frame, fact)
        return NOTHING

    def _elementwise(self, c: Call, operands: list[Fact], frame: Frame) -> Fact | None:
        if not operands:
            return None
        first = operands[0]
        if c.name == "normalize" and first.kind is Kind.BALL:
            return Fact(Kind.DIRECTION, text=first.text)
        if c.name in ops.INVERSES and (first.origins or first.kind in (Kind.EUCLIDEAN, Kind.GEODESIC)):
            return Fact(Kind.GEODESIC)
        if c.name == "softmax":
            return Fact(Kind.WEIGHTS)
        if c.name == "sqrt" and first.kind is Kind.SQUARE:
            return replace(first, kind=Kind.EUCLIDEAN)
        if c.name in ("softplus", "exp", "abs", "neg", "sigmoid", "clamp_min") and first.kind is Kind.CURVATURE:
            return first
        return None
