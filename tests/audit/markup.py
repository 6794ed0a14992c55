"""Reading pages back without the code that wrote them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "link", "img", "input", "hr"}
LOADS = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background", "style"}


@dataclass
class Node:
    tag: str
    attrs: dict[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.walk()

    def all(self, tag: str, kind: str = "") -> list[Node]:
        """Nodes of a tag, in order, that have a class."""
        return [n for n in self.walk() if n.tag == tag and (not kind or kind in n.attrs.get("class", "").split())]

    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text() for c in self.children)


class Reader(HTMLParser):
    """A tree of a page; a tag that is not closed where it should be is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = [Node("document")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {k: v or "" for k, v in attrs})
        self.stack[-1].children.append(node)
        if tag not in VOID:
            self.stack.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack[-1].children.append(Node(tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack[-1].tag == tag, f"</{tag}> closes <{self.stack[-1].tag}>"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        self.stack[-1].children.append(data)


def read_page(text: str) -> Node:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert len(reader.stack) == 1, f"<{reader.stack[-1].tag}> is never closed"
    return reader.stack[0]


def outside(page: Node) -> list[str]:
    """Everything by which a page would fetch or run something."""
    found = [f"<{n.tag}>" for n in page.walk() if n.tag in {"script", "iframe", "object", "embed", "img", "base"}]
    for node in page.walk():
        for name, value in node.attrs.items():
            if name.startswith("on") or (name in LOADS and not re.fullmatch(r"#[\w-]+", value)):
                found.append(f"{node.tag} {name}={value}")
            if "url(" in value or "http:" in value or "https:" in value or "javascript:" in value:
                found.append(f"{node.tag} {name}={value}")
    for style in page.all("style"):
        found += re.findall(r"@import|url\(|https?:|expression\(", style.text())
    return found


def numbers(table: Node) -> list[list[float | str]]:
    """Rows of a table: whole numbers where there are such, else texts."""
    rows = []
    for row in table.all("tr")[1:]:
        cells: list[float | str] = []
        for cell in (c for c in row.children if isinstance(c, Node)):
            data = cell.all("data")
            cells.append(float(data[0].attrs["value"]) if data else cell.text())
        rows.append(cells)
    return rows


def figure(page: Node, title: str) -> Node:
    (found,) = [f for f in page.all("figure") if f.all("h3")[0].text() == title]
    return found


def points(path: str) -> list[tuple[float, float]]:
    """Ends of the strokes of a path of M and L."""
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]


def value_of(label: str) -> float:
    factor = {"k": 1e3, "M": 1e6, "G": 1e9}.get(label[-1], 1.0)
    return float(label.rstrip("kMG")) * factor


def rulers(
    svg: Node, *, log_x: bool = False, log_y: bool = False
) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Places to values, from the labels of the ticks alone."""
    labels = [n for n in svg.all("text") if "x" in n.attrs and re.fullmatch(r"-?[\d.e+-]+[kMG]?", n.text())]
    side = [n for n in labels if n.attrs["text-anchor"] == "end" and float(n.attrs["x"]) < 58]
    below = [n for n in labels if n not in side]
    marks = [float(n.attrs["d"][1:].split()[0]) for n in svg.all("path", "axis") if n.attrs["d"].endswith("v4")]
    across = list(zip(marks, (value_of(n.text()) for n in below), strict=True))
    up = [(float(n.attrs["y"]) - 3.5, value_of(n.text())) for n in side]

    def ruler(pairs: list[tuple[float, float]], log: bool) -> Callable[[float], float]:
        (p0, v0), (p1, v1) = pairs[0], pairs[-1]
        if log:
            v0, v1 = math.log10(v0), math.log10(v1)

        def value(place: float) -> float:
            found = v0 + (place - p0) / (p1 - p0) * (v1 - v0)
            return 10**found if log else found

        return value

    return ruler(across, log_x), ruler(up, log_y)
