"""Cells, columns and Markdown, read back by an independent Markdown parser."""

import math

from markdown_it import MarkdownIt

from mojiang.trust._document import (
    Bullets,
    Code,
    Document,
    Figure,
    Grid,
    Paragraph,
    Picture,
    Section,
    is_numeric,
    show,
    show_column,
    to_markdown,
)

NASTY = "a | b <script>alert(1)</script> *x* _y_ [z](w) <|endoftext|> `c` 墨匠"
DOCUMENT = Document(
    title="chat@1",
    summary=NASTY,
    figures=[Figure("Bits", "1.5", "95 %: 1.4 to 1.6")],
    sections=[
        Section("First part", [Paragraph(NASTY, lead="Lead."), Bullets(["one", NASTY])]),
        Section(
            "Second",
            [
                Grid(["name", "value"], [[NASTY, 1.5], ["b", None]], "Caption"),
                Picture("plot", "A | plot", b"light", b"dark"),
                Code("```\nfenced </pre>\n```", prompt="<b>prompt", title="x_y", language="python"),
            ],
        ),
    ],
)


def _text(html: str) -> str:
    import html as library

    return library.unescape(html)


def test_markdown_shows_every_text_as_it_is() -> None:
    page = MarkdownIt("gfm-like", {"html": True, "linkify": False}).disable("linkify").render(to_markdown(DOCUMENT))
    assert "<script>" not in page
    assert _text(page).count("*x* _y_ [z](w) <|endoftext|>") == 4
    assert page.count("<table>") == 2
    assert "<td>b</td>" in page
    assert '<img src="plot.png" alt="A | plot"' in page
    assert "<strong>Lead.</strong>" in page
    assert "```\nfenced </pre>\n```" in _text(page)
    assert page.count("<pre>") == 2


def test_cells() -> None:
    assert [show(c) for c in (0.5, 3.0, 12345.678, 0.00001234, math.inf, 7, "x", None)] == [
        "0.5", "3", "12,346", "1.2e-05", "inf", "7", "x", "",
    ]  # fmt: skip


def test_columns_align_their_decimals() -> None:
    grid = Grid(["a", "b", "c"], [[2.01, "x", 1], [2.1394, "y", 20000], [10.0, None, None]])
    assert show_column(grid, 0) == ["2.01", "2.14", "10.00"]
    assert show_column(grid, 2) == ["1", "20,000", ""]
    assert [is_numeric(grid, i) for i in range(3)] == [True, False, True]
    # Numbers too far apart to share a number of decimals keep four digits each.
    mixed = Grid(["v"], [[0.9876], [4.1e-06]])
    assert show_column(mixed, 0) == ["0.9876", "4.1e-06"]
