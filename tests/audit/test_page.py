"""Pages: hostile texts are shown, nothing is fetched, numbers keep their digits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markup import numbers, outside, read_page

from holonomy.audit.page import Markup, Page, badge, escaped, folded, grid, notice, preformatted, table

BAD = "<script>alert('&')</script><img src=x onerror=alert(1)>\"</pre></title></style>"


def test_hostile_texts_are_shown_not_run() -> None:
    page = Page(BAD, BAD).section(
        BAD,
        BAD,
        table([BAD], [[BAD]], caption=BAD),
        preformatted(BAD),
        folded(BAD, BAD, badge(BAD, "bad")),
        grid(BAD),
        notice(BAD),
    )
    tree = read_page(page.render())
    assert outside(tree) == []
    assert not [n for n in tree.walk() if n.tag in {"script", "img"}]
    for tag in ("title", "h1", "h2", "th", "caption", "pre", "summary", "p", "a"):
        assert tree.all(tag)[0].text() == BAD, tag


@given(st.text(st.characters(codec=None), max_size=40))
def test_any_text_comes_back(text: str) -> None:
    shown = escaped(text).encode("utf-8").decode("utf-8")
    tree = read_page(f"<pre>{shown}</pre>")
    plain = text.replace("\r\n", "\n")
    expected = "".join(
        chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\t\n" else "\u2421" if c == "\x7f" else c for c in plain
    )
    expected = "".join("?" if 0xD800 <= ord(c) <= 0xDFFF else c for c in expected)
    assert tree.all("pre")[0].text() == expected


def test_markup_joined_with_a_text_is_a_text() -> None:
    page = Page("t").section("s", notice("fine") + "<b>")
    assert "<b>" not in page.render()
    assert isinstance(table(["a"], []), Markup)


def test_tables_keep_digits_and_name_what_is_no_number() -> None:
    values = [0.1 + 0.2, 1e-17, 123_456_789.123, 3, math.nan, -math.inf]
    tree = read_page(table(["name", "value"], [[str(n), v] for n, v in enumerate(values)]))
    found = [row[1] for row in numbers(tree)]
    assert [repr(v) for v in found] == [repr(float(v)) for v in values]
    assert [c.text() for c in tree.all("td")] == ["0.3", "1e-17", "1.23457e+08", "3", "not a number", "-infinite"]
    assert all("n" in c.attrs["class"] for c in tree.all("td"))
    mixed = read_page(table(["a", "b", "c"], [[None, True, "x"], [1, 2, 3]]))
    assert [c.text() for c in mixed.all("tr")[1].children] == ["\u2013", "True", "x"]


def test_sections_are_linked_and_the_page_is_deterministic() -> None:
    def page() -> str:
        return Page("t").section("One & two", "a").section("One & two", "b").section("\u00e4", "c").render()

    tree = read_page(page())
    ids = [n.attrs["id"] for n in tree.all("h2")]
    assert len(set(ids)) == 3
    assert [n.attrs["href"] for n in tree.all("a")] == [f"#{i}" for i in ids]
    assert page() == page()


@pytest.mark.parametrize("needed", ["prefers-color-scheme:dark", "width=device-width", "default-src 'none'"])
def test_the_page_says_how_it_is_shown(needed: str) -> None:
    assert needed in Page("t").render()
