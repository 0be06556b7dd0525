"""Main text of HTML: what is kept, what goes, and that no page, however hostile, costs more than its length."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.data import _formats
from mojiang.data._formats import Notes, Options, Piece, Skip, read_file
from mojiang.data._html import _DEEPEST, html_page, html_to_text, links_of, markdown_table

BODY = "".join(f"<p>Paragraph {i} of the article says something of its own.</p>" for i in range(8))
WORDS = " ".join(f"Paragraph {i} of the article says something of its own." for i in range(8))
FURNITURE = """<header><a href="/">Site</a></header><nav><ul><li><a href="/a">Menu entry</a></li></ul></nav>
  <div class="breadcrumbs">Home / Docs</div><div id="sidebar"><h3>Related</h3><a href="/b">Other page</a></div>
  <div class="cookie consent">We use cookies</div>{}<aside>Advert here</aside>
  <footer>Copyright 2020 Somebody</footer>"""


@pytest.mark.parametrize(
    "around", ["<main>{}</main>", "<article>{}</article>", '<div id="content">{}</div>', "<div>{}</div>"]
)
def test_menus_footers_and_bars_go_and_are_counted(around: str) -> None:
    page = html_page(f"<body>{FURNITURE.format(around.format('<h1>Title</h1>' + BODY))}</body>")
    assert " ".join(page.text.split()) == f"# Title {WORDS}"
    assert page.removed > 60
    whole = html_to_text(f"<body>{FURNITURE.format(BODY)}</body>", whole=True)
    assert all(word in whole for word in ("Menu entry", "Advert here", "Copyright 2020"))


def test_lists_of_links_go_and_links_in_sentences_stay() -> None:
    links = "".join(f'<li><a href="/{i}">Some other page {i}</a></li>' for i in range(12))
    sentence = '<p>As <a href="/x">the other page</a> says, this sentence goes on with plain words after its link.</p>'
    text = html_to_text(f"<body><ul>{links}</ul>{BODY}{sentence}<div><ul>{links}</ul></div></body>")
    assert "Some other page" not in text
    assert "As the other page says" in text
    only = html_to_text(f"<body><ul>{links}</ul></body>")
    assert only.count("Some other page") == 12  # of a page that is nothing else it is the text


def test_code_keeps_its_spaces_its_language_and_its_fences() -> None:
    source = """<pre><code class="language-python">def f():\n    return  "```"</code></pre>
      <div class="highlight-c notranslate"><div class="highlight"><pre>int  x;</pre></div></div>"""
    text = html_to_text(f"<main>{BODY}{source}</main>")
    assert '````python\ndef f():\n    return  "```"\n````' in text
    assert "```c\nint  x;\n```" in text


def test_tables_of_data_are_markdown_and_tables_of_layout_are_text() -> None:
    rows = "<tr><th>名</th><th>n</th></tr><tr><td>a|b</td><td>1<br>2</td></tr><tr><td>c</td></tr>"
    text = html_to_text(f"<main>{BODY}<table>{rows}</table></main>")
    assert "| 名 | n |\n| --- | --- |\n| a\\|b | 1 2 |\n| c | |" in text
    layout = f"<table><tr><td>{BODY}</td><td><pre>code  here</pre></td></tr><tr><td>x</td><td>y</td></tr></table>"
    text = html_to_text(f"<body>{layout}</body>")
    assert "| --- |" not in text
    assert "```\ncode  here\n```" in text


def test_numbered_lists_titles_and_ruby() -> None:
    source = (
        "<title>Page - Site</title><main><ol><li>one</li><li>two</li></ol><p><ruby>漢<rt>かん</rt></ruby>字</p></main>"
    )
    assert html_to_text(source) == "# Page - Site\n\n1. one\n2. two\n\n漢字\n"


def test_the_licence_a_page_names() -> None:
    link = '<a rel="license" href="http://creativecommons.org/{}">x</a><p>text</p>'
    assert html_page(link.format("licenses/by-nc-sa/3.0/de/")).licence == "CC-BY-NC-SA-3.0"
    assert html_page(link.format("publicdomain/zero/1.0/")).licence == "CC0-1.0"
    assert html_page('<a href="http://creativecommons.org/licenses/by/4.0/">of a picture</a>').licence is None


@pytest.mark.parametrize(
    "source",
    ["<div>" * 400_000 + "deep", "<b><i><font>" * 100_000 + "deep", "<table><tr><td>" * 50_000 + "deep",
     "<script>" * 200_000 + "deep", "<!--" * 200_000 + ">deep", "<a href=x>" * 50_000 + "deep", "<" * 500_000 + ">deep",
     "&#" * 300_000 + "deep", "<ul><li>" * 40_000 + "deep", "<div " + "a" * 1_000_000 + ">deep"],
    ids=lambda source: source[:8],
)  # fmt: skip
def test_hostile_nesting_ends_and_keeps_the_text(source: str) -> None:
    page = html_page(f"<p>before</p>{source} text")
    assert "before" in page.text
    assert page.flat or len(source) < 3000 * _DEEPEST or "deep" in page.text
    links_of(source, "http://a/")


def test_a_deep_page_is_flat_but_whole() -> None:
    page = html_page(
        "<script>var hidden</script>" + "<div>" * 5000 + "<h1>Title</h1><p>A &amp; B</p>" + "</div>" * 5000
    )
    assert (page.text, page.flat) == ("Title\n\nA & B\n", True)


PARTS = (
    "<p>", "</p>", "<div>", "</div>", "<table>", "<tr>", "<td>", "</td>", "</table>", "<ul>", "<li>", "</ul>", "<br>",
    "<a href=x>", "</a>", "<pre>", "</pre>", "text", "中文", "<nav>", "</nav>", "<main>", "<h1>", "&nbsp;", "\x00",
    "<!--", "-->",
)  # fmt: skip


@given(st.lists(st.sampled_from(PARTS), max_size=60))
def test_any_soup_gives_text(parts: list[str]) -> None:
    text = html_to_text("".join(parts))
    assert text == "" or text.endswith("\n")
    assert html_to_text("".join(parts), whole=True).count("中文") <= parts.count("中文")


def test_a_page_over_the_limit_is_skipped_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_formats, "_HTML_BYTES", 100_000)
    path = tmp_path / "a.html"
    path.write_text("<p>" + "word " * 50_000)
    found = list(read_file(path, "a.html", path.stat().st_size, Options(), Notes()))
    assert [(item.reason, item.bytes) for item in found if isinstance(item, Skip)] == [("html-too-large", 250_003)]


def test_boilerplate_can_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text(f"<body>{FURNITURE.format(BODY)}</body>")
    notes = Notes()
    found = [list(read_file(path, "a.html", 1, Options(whole_pages=keep), notes)) for keep in (False, True)]
    texts = [item.text for items in found for item in items if isinstance(item, Piece)]
    assert ["Menu entry" in text for text in texts] == [False, True]
    assert notes.counts["HTML pages without their boilerplate"] == 1


def test_links() -> None:
    page = """<base href="/docs/"><a href="a">1</a><a href="a#x">2</a><a href="//other/b">3</a><a href="mailto:x">4</a>
      <a href="c" rel="external nofollow">5</a><area href="d"><a href="http://[bad">6</a><a>7</a>"""
    assert links_of(page, "http://h/x/y") == ["http://h/docs/a", "http://other/b", "http://h/docs/d"]


def test_a_table_is_read_back_by_its_own_rules() -> None:
    generator = random.Random(0)
    rows = [
        ["".join(generator.choices(string.ascii_letters + "| ", k=6)).strip() or "x" for _ in range(4)]
        for _ in range(9)
    ]
    lines = markdown_table(rows).split("\n")
    back = [[c.strip().replace("\\|", "|") for c in _cells(line)] for line in (lines[0], *lines[2:])]
    assert back == [[" ".join(cell.split()) for cell in row] for row in rows]


def _cells(line: str) -> list[str]:
    out, at = [""], 1
    while at < len(line) - 1:
        if line[at : at + 2] == "\\|":
            out[-1] += "\\|"
            at += 2
        elif line[at] == "|":
            out.append("")
            at += 1
        else:
            out[-1] += line[at]
            at += 1
    return out
