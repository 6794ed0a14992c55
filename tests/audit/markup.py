"""Reading pages back without the code that wrote them."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
