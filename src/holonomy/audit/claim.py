"""Claims: statements of this package or about a run, each with the program that can refute it."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from holonomy.core.errors import ConfigError
from holonomy.core.picture import Axis, Picture, Series
from holonomy.core.registry import Registry

Relation = Literal["<=", "<", ">=", ">", "=="]
Status = Literal["pass", "fail", "skip", "error"]
HOLDS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
}


@dataclass(frozen=True)
class Figure:
    """A measured number and the bound that it has to keep.

    Attributes:
        name: what was measured.
        value: the number.
        relation: how value and bound have to stand, or an empty text for a number that is shown without a bound.
        bound: the bound.
        unit: of both, in words.
    """

    name: str
    value: float
    relation: Relation | Literal[""] = ""
    bound: float = math.nan
    unit: str = ""

    def __post_init__(self) -> None:
        if self.relation not in ("", *get_args(Relation)):
            raise ConfigError(f"`relation` is {self.relation!r}; wanted one of {', '.join(get_args(Relation))}")

    @property
    def holds(self) -> bool:
        """Whether the bound is kept; a value that is no number keeps none."""
        return not self.relation or HOLDS[self.relation](self.value, self.bound)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        bound = f" (wanted {self.relation} {self.bound:.6g})" if self.relation else ""
        return f"{self.name} {self.value:.6g}{unit}{bound}"


def curve(
    title: str,
    x_label: str,
    y_label: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    words: str = "",
    log_x: bool = False,
    log_y: bool = False,
) -> Picture:
    """Lines over one axis, for the report.

    Args:
        title: what is shown.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
        lines: name of a line -> its points.
        words: what is to be seen.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
    """
    series = [Series(name, [float(x) for x, _ in line], [float(y) for _, y in line]) for name, line in lines.items()]
    return Picture(title, words, Axis(x_label, log_x), Axis(y_label, log_y), series)


@dataclass(frozen=True)
class Evidence:
    """What a check found.

    Attributes:
        figures: the numbers; at least one has a bound.
        curves: what a report draws of them.
        detail: what a reader needs to know besides.
    """

    figures: tuple[Figure, ...]
    curves: tuple[Picture, ...] = ()
    detail: str = ""

    def __post_init__(self) -> None:
        if not any(f.relation for f in self.figures):
            raise ConfigError("`figures` has none with a bound; a check that cannot fail shows nothing")

    @property
    def holds(self) -> bool:
        """Whether every figure keeps its bound."""
        return all(f.holds for f in self.figures)


@dataclass(frozen=True)
class Setting:
    """Where and how a check runs.

    Attributes:
        scratch: empty directory that the check may fill.
        runs: family -> directory of the trained run that the check looks at.
        seed: of everything random.
        full: whether to take the larger setting of the check.
        threads: CPU threads of torch.
        audited: the run that was asked about, empty when the package is.
    """

    scratch: Path
    runs: Mapping[str, Path] = field(default_factory=dict)
    seed: int = 0
    full: bool = False
    threads: int = 1
    audited: str = ""


class DoesNotApply(Exception):
    """A claim says nothing about this run; the message says why."""


Check = Callable[[Setting], Evidence]


@dataclass(frozen=True)
class Claim:
    """A statement and the program that can refute it.

    Attributes:
        id: its name, such as `lior.causality`.
        statement: the statement, one sentence.
        source: where the package says it.
        check: measures; raises DoesNotApply, or an error of its own when what it measures breaks down.
        families: families whose trained run is looked at; none means that the package itself is.
        small: whether the check belongs to an audit that is not `--full`.
        limit_s: wall seconds it may take, five times as many with `--full`.
    """

    id: str
    statement: str
    source: str
    check: Check
    families: tuple[str, ...] = ()
    small: bool = True
    limit_s: float = 120.0


@dataclass(frozen=True)
class Verdict:
    """What came of a claim.

    Attributes:
        id: of the claim.
        statement: of the claim.
        status: pass, fail (a figure breaks its bound), skip (says nothing about this run), or error.
        figures: what was measured.
        curves: what was drawn.
        detail: remarks of the check, or why there are no figures.
        seed: of the check.
        command: repeats it.
        seconds: wall time.
    """

    id: str
    statement: str
    status: Status
    figures: tuple[Figure, ...]
    curves: tuple[Picture, ...]
    detail: str
    seed: int
    command: str
    seconds: float

    @property
    def stands(self) -> bool:
        """Whether the claim was not refuted."""
        return self.status in ("pass", "skip")

    def to_json(self) -> dict[str, Any]:
        """As JSON values; numbers that are none become null."""
        values = asdict(self) | {"figures": [asdict(f) for f in self.figures], "seconds": round(self.seconds, 2)}
        for figure in values["figures"]:
            for key in ("value", "bound"):
                figure[key] = figure[key] if math.isfinite(figure[key]) else None
            if not figure["relation"]:
                del figure["relation"], figure["bound"]
        # The report draws them; whoever reads JSON has the figures.
        del values["curves"]
        return values


CLAIMS: Registry[Claim] = Registry("claim")


def claim(
    id: str,
    *,
    statement: str,
    source: str,
    families: tuple[str, ...] = (),
    small: bool = True,
    limit_s: float = 120.0,
) -> Callable[[Check], Check]:
    """Registers a check as a claim; the arguments are the attributes of `Claim`."""

    def register(check: Check) -> Check:
        CLAIMS.register(id, Claim(id, statement, source, check, families, small, limit_s))
        return check

    return register


def judge(subject: Claim, setting: Setting) -> Verdict:
    """Runs the check of a claim here and now; errors that are no finding pass through.

    Raises:
        HolonomyError: what the check uses breaks down; `runner.audit` makes it a verdict.
    """
    begin = time.perf_counter()
    figures: tuple[Figure, ...] = ()
    curves: tuple[Picture, ...] = ()
    try:
        evidence = subject.check(setting)
    except DoesNotApply as reason:
        status, detail = "skip", str(reason)
    except AssertionError as finding:
        status, detail = "fail", str(finding) or "an assertion of the check does not hold"
    else:
        status, detail = ("pass" if evidence.holds else "fail"), evidence.detail
        figures, curves = evidence.figures, evidence.curves
    seconds = time.perf_counter() - begin
    return verdict(subject, setting, status, seconds=seconds, detail=detail, figures=figures, curves=curves)


def verdict(
    subject: Claim,
    setting: Setting,
    status: Status,
    *,
    seconds: float,
    detail: str,
    figures: tuple[Figure, ...] = (),
    curves: tuple[Picture, ...] = (),
) -> Verdict:
    """The verdict on a claim, with the command that repeats it."""
    of = f" {setting.audited}" if setting.audited else ""
    command = f"holonomy audit{of} --claim {subject.id} --seed {setting.seed}{' --full' if setting.full else ''}"
    return Verdict(subject.id, subject.statement, status, figures, curves, detail, setting.seed, command, seconds)
