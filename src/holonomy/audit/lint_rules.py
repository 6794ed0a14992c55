"""What the geometry rules forbid and why: one class a rule, with a bad and a good example in its docstring."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Spot:
    """A place in a source, from one character to another; lines from 1, columns from 0.

    Args:
        line: first line.
        column: first character.
        end_line: last line.
        end_column: behind the last character.
    """

    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True)
class Origin:
    """A measurement that becomes a finding when its result is used for anything but what the rule allows.

    Args:
        rule: identifier of the rule.
        spot: where it was measured.
        message: what is wrong with it.
    """

    rule: str
    spot: Spot
    message: str


class GeometryRule:
    """Base of all rules; the docstring of a rule is its documentation.

    Args:
        id: R1 to R8, or a letter of its own for what is no geometry.
        title: what is wrong, in a few words.
        level: of SARIF.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    level: ClassVar[str] = "warning"

    @classmethod
    def text(cls) -> str:
        """The documentation of the rule."""
        return inspect.cleandoc(cls.__doc__ or "")

    @classmethod
    def example(cls, kind: str) -> str | None:
        """The `Bad` or `Good` example as Python, or None.

        Args:
            kind: Bad or Good.
        """
        found = re.search(rf"^{kind}:\n((?:    .*\n?|\n)+)", cls.text() + "\n", re.MULTILINE)
        return inspect.cleandoc("\n" + found.group(1)) if found else None


class EuclideanRadius(GeometryRule):
    """The Euclidean norm of a point of the ball is not its radius.

    The norm saturates at 1/sqrt(c): all points far from the origin look alike, and correlations, margins and targets
    measured with it are compressed where it matters. Allowed are directions z/|z|, |z|^2 in the conformal factor,
    artanh(sqrt(c)|z|), a comparison with the edge of the ball, and the code of exp, log, dist and project themselves.

    Bad:
        def radial_loss(z_hyp, target):
            return (z_hyp.norm(dim=-1) - target).abs().mean()

    Good:
        def radial_loss(z_hyp, target, c):
            return (poincare.dist0(z_hyp, c) - target).abs().mean()
    """

    id = "R1"
    title = "Euclidean norm of a ball point used as a radius"


class EuclideanDistance(GeometryRule):
    """The Euclidean distance of two points of the ball is not their distance.

    Near the edge two points may be 1e-3 apart in coordinates and 10 along the geodesic. Allowed inside the functions
    that compute the distance, and as the argument of acosh or asinh.

    Bad:
        def neighbours(z_hyp):
            return torch.cdist(z_hyp, z_hyp).argsort(dim=-1)

    Good:
        def neighbours(z_hyp, c):
            return poincare.dist(z_hyp[:, None], z_hyp[None], c).argsort(dim=-1)
    """

    id = "R2"
    title = "Euclidean distance between ball points"


class EuclideanMean(GeometryRule):
    """A sum, mean or line of coordinates of the ball is not a mean or path of points.

    It depends on where the origin lies and is drawn towards it. Average tangent vectors at a common point, or use the
    Karcher or gyro midpoint.

    Bad:
        def centre(z_hyp):
            return z_hyp.mean(dim=0)

    Good:
        def centre(z_hyp, c):
            return poincare.exp0(poincare.log0(z_hyp, c).mean(dim=0), c)
    """

    id = "R3"
    title = "mean, sum or interpolation of ball points in coordinates"


class EuclideanProduct(GeometryRule):
    """The dot product or cosine of two points of the ball is no similarity: it does not depend on their distance.

    Bad:
        def scores(z_hyp, centres_hyp):
            return z_hyp @ centres_hyp.T

    Good:
        def scores(z_hyp, centres_hyp, c):
            return -poincare.dist(z_hyp[:, None], centres_hyp[None], c)
    """

    id = "R4"
    title = "dot product or cosine between ball points"


class LinearOnBall(GeometryRule):
    """A linear layer or MLP applied to coordinates of the ball sees all far points as one.

    Take the logarithm at the origin first, or use a layer made for the ball.

    Bad:
        class Head(nn.Module):
            def __init__(self):
                self.out = nn.Linear(16, 27)

            def forward(self, z_hyp):
                return self.out(z_hyp)

    Good:
        class Head(nn.Module):
            def __init__(self):
                self.out = nn.Linear(16, 27)

            def forward(self, z_hyp, c):
                return self.out(poincare.log0(z_hyp, c))
    """

    id = "R5"
    title = "linear layer applied to ball points without a logarithm"


class MixedLengths(GeometryRule):
    """A geodesic length compared with a Euclidean one: the first grows without bound, the second ends at 1/sqrt(c).

    Bad:
        def outside(z_hyp, c, max_ball_radius):
            return poincare.dist0(z_hyp, c) > max_ball_radius

    Good:
        def outside(z_hyp, c, max_radius):
            return poincare.dist0(z_hyp, c) > max_radius
    """

    id = "R6"
    title = "geodesic length against a Euclidean radius"


class FixedCurvature(GeometryRule):
    """A distance with a literal curvature in a class that has its own measures in another space than the model's.

    Bad:
        class Loss(nn.Module):
            def __init__(self, curvature):
                self.curvature = curvature

            def forward(self, z_hyp):
                return poincare.dist0(z_hyp, c=1.0).mean()

    Good:
        class Loss(nn.Module):
            def __init__(self, curvature):
                self.curvature = curvature

            def forward(self, z_hyp):
                return poincare.dist0(z_hyp, c=self.curvature).mean()
    """

    id = "R7"
    title = "distance with a literal curvature where the class has one"


class CutCurvature(GeometryRule):
    """`.item()`, `float()` or `.detach()` on the curvature in a forward pass or loss: it never gets a gradient.

    Allowed under torch.no_grad and for what is only printed or logged.

    Bad:
        class Head(nn.Module):
            def forward(self, z_hyp):
                return poincare.dist0(z_hyp, self.curvature.item())

    Good:
        class Head(nn.Module):
            def forward(self, z_hyp):
                return poincare.dist0(z_hyp, self.curvature)
    """

    id = "R8"
    title = "curvature cut from the gradient"


class BareSuppression(GeometryRule):
    """A suppression names the rules and a reason: `# geometry-lint: ignore[R3] reason`. Without it does nothing."""

    id = "S1"
    title = "suppression without rules or reason"


class UnusedSuppression(GeometryRule):
    """A suppression on a line where the rule finds nothing; remove it."""

    id = "S2"
    title = "unused suppression"


class Unreadable(GeometryRule):
    """The file is not Python that this interpreter can parse; nothing in it was checked."""

    id = "E1"
    title = "file cannot be parsed"
    level = "error"


RULES: dict[str, type[GeometryRule]] = {
    rule.id: rule
    for rule in (
        EuclideanRadius,
        EuclideanDistance,
        EuclideanMean,
        EuclideanProduct,
        LinearOnBall,
        MixedLengths,
        FixedCurvature,
        CutCurvature,
        BareSuppression,
        UnusedSuppression,
        Unreadable,
    )
}
"""All rules by identifier."""
