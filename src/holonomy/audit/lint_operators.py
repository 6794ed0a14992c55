"""What operators make of facts about points, lengths and curvatures."""

from __future__ import annotations

import ast
from dataclasses import replace

from holonomy.audit.lint_calls import SCALED, CallReader, mixed
from holonomy.audit.lint_flow import Frame
from holonomy.audit.lint_names import NOTHING, Fact, Kind


class OperatorReader(CallReader):
    """Reads operators.

    Args:
        module: what the module defines.
        reporter: where findings go.
    """

    def binary(self, node: ast.expr, operator: str, a: Fact, b: Fact, frame: Frame) -> Fact:
        """What an operator makes of two facts."""
        if operator == "MatMult":
            return self.product(node, [a, b], frame)
        if operator == "Sub" and mixed(a, b):
            self.find("R6", node, "the difference of a geodesic and a Euclidean length", frame)
            return NOTHING
        if operator == "Pow":
            return self._power(a, b)
        if Kind.CONFORMAL in (a.kind, b.kind):
            other = b if a.kind is Kind.CONFORMAL else a
            return other if other.kind in (Kind.SQUARE, Kind.EUCLIDEAN) and other.origins else Fact(Kind.CONFORMAL)
        if Kind.SQUARE in (a.kind, b.kind) and operator in ("Add", "Sub"):
            return self._conformal(operator, a, b)
        if operator in ("Add", "Sub") and a.kind is Kind.BALL and b.kind is Kind.BALL:
            if operator == "Sub":
                return Fact(Kind.GAP)
            self.find("R3", node, "sum of two ball points in their coordinates", frame)
            return NOTHING
        if operator == "Mult" and a.kind in (Kind.BALL, Kind.GAP) and b.kind is a.kind:
            same = ast.dump(node.left) == ast.dump(node.right) if isinstance(node, ast.BinOp) else a.text == b.text
            if a.kind is Kind.GAP:
                return Fact(Kind.GAP_SQUARES) if same else NOTHING
            return Fact(Kind.SQUARES if same else Kind.PRODUCT)
        if operator == "Div" and b.kind is Kind.EUCLIDEAN and b.origins and a.kind is not Kind.EUCLIDEAN:
            return Fact(Kind.DIRECTION, text=a.text) if a.kind is Kind.BALL else replace(a, number=None)
        if operator == "Div" and b.kind is Kind.CURVATURE and a.kind is Kind.UNKNOWN:
            return Fact(Kind.EDGE)
        made = self._scaled(a, b)
        if a.number is None or b.number is None:
            return made
        return Fact(number=self._number(operator, a.number, b.number))

    @staticmethod
    def _number(operator: str, a: float, b: float) -> float | None:
        if operator == "Div":
            return a / b if b else None
        return {"Add": a + b, "Sub": a - b, "Mult": a * b}.get(operator)

    @staticmethod
    def _power(a: Fact, b: Fact) -> Fact:
        squares = {Kind.BALL: Kind.SQUARES, Kind.GAP: Kind.GAP_SQUARES, Kind.EUCLIDEAN: Kind.SQUARE}
        if b.number == 2:
            return Fact(squares[a.kind], a.origins) if a.kind in squares else replace(a, number=None)
        if b.number == 0.5 and a.kind is Kind.SQUARE:
            return replace(a, kind=Kind.EUCLIDEAN)
        return replace(a, number=None)

    @staticmethod
    def _conformal(operator: str, a: Fact, b: Fact) -> Fact:
        square, other = (a, b) if a.kind is Kind.SQUARE else (b, a)
        of_point = all(o.rule == "R1" for o in square.origins)
        if other.number is not None and abs(other.number) >= 0.5 and of_point:
            return Fact(Kind.CONFORMAL)
        return Fact(Kind.SQUARE, a.origins | b.origins)

    @staticmethod
    def _scaled(a: Fact, b: Fact) -> Fact:
        origins = a.origins | b.origins
        if origins:
            kind = a.kind if a.origins else b.kind
            return Fact(kind, origins)
        order = (Kind.BALL, Kind.GEODESIC, Kind.TANGENT, Kind.GAP, Kind.EUCLIDEAN, Kind.EDGE, Kind.CURVATURE)
        order += (Kind.SQUARES, Kind.GAP_SQUARES, Kind.PRODUCT)
        for kind in order:
            if kind in (a.kind, b.kind):
                one, other = (a, b) if a.kind is kind else (b, a)
                unlike = kind is Kind.BALL and other.number is None and other.kind in (Kind.UNKNOWN, Kind.TANGENT)
                return replace(one, number=None, text=f"{SCALED}{one.text}" if unlike else one.text)
        return NOTHING
