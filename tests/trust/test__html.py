"""The page, read back by a real HTML parser: self-contained, escaped, complete."""

import base64
import re

from selectolax.lexbor import LexborHTMLParser

from mojiang.trust._document import Bullets, Code, Document, Figure, Grid, Paragraph, Picture, Section
from mojiang.trust._html import to_html

NASTY = "<script>alert('x')</script> & \"quoted\" 墨匠"
PAGE = to_html(
    Document(
        title=NASTY,
        summary="summary",
        figures=[Figure("Bits", "1.5"), Figure("Size", "2", NASTY)],
        sections=[
            Section("How to use it", [Paragraph(NASTY, lead="Lead."), Bullets([NASTY])]),
            Section("Data", [Grid(["n", "v"], [[NASTY, 1.5]], NASTY), Picture("p", NASTY, b"light", b"dark")]),
            Section("Samples", [Code("out </code>", prompt="<i>in", title=NASTY)]),
        ],
    )
)
TREE = LexborHTMLParser(PAGE)


def test_nothing_is_run_and_nothing_is_fetched() -> None:
    assert TREE.css("script, link, iframe, object") == []
    for node in TREE.css("[src], [srcset]"):
        assert (node.attributes.get("src") or node.attributes.get("srcset") or "").startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import|https?:", PAGE)


def test_every_text_is_there_as_written() -> None:
    assert TREE.css_first("h1").text() == NASTY
    assert TREE.css_first("td").text() == NASTY
    assert TREE.css_first("caption").text() == NASTY
    assert TREE.css_first("li").text() == NASTY
    assert TREE.css_first("pre").text() == "<i>inout </code>"
    assert TREE.css_first("img").attributes["alt"] == NASTY
    assert len(TREE.css(".figures > div")) == 2


def test_links_lead_to_sections() -> None:
    targets = [a.attributes["href"] for a in TREE.css("nav a")]
    assert targets == ["#how-to-use-it", "#data", "#samples"]
    assert all(TREE.css_first(f"section{target}") for target in targets)


def test_pictures_come_for_light_and_dark() -> None:
    dark = TREE.css_first("picture source")
    assert "dark" in (dark.attributes["media"] or "")
    assert base64.b64decode((dark.attributes["srcset"] or "").partition(",")[2]) == b"dark"
    assert "prefers-color-scheme: dark" in TREE.css_first("style").text()
