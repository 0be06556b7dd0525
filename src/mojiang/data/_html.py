"""From an HTML page to its main text as light Markdown: headings, lists, code and tables stay, boilerplate goes.

What is boilerplate is told by what the page says of itself (`<nav>`, `role`, names of classes), and, where it says
nothing, by how much of a block is links. On documentation whose text is known from its source this is nearer to the
text than trafilatura's answer and many times as fast; bench/extraction.py measures it.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urljoin

_BLOCKS: Final = frozenset((
    "p", "div", "section", "article", "main", "ul", "ol", "table", "blockquote", "dl", "dt", "dd", "figure",
    "figcaption", "form", "fieldset", "address", "header", "footer", "details", "summary", "hr", "body", "html",
    "caption", "thead", "tbody", "tfoot", "aside", "nav", "center", "h1", "h2", "h3", "h4", "h5", "h6",
))  # fmt: skip
_NEVER: Final = (
    "script", "style", "noscript", "template", "svg", "iframe", "button", "select", "head", "rt", "rp", "object",
    "textarea", "dialog",
)  # fmt: skip
_FURNITURE: Final = frozenset(("nav", "footer", "aside", "menu"))
_ROLES: Final = frozenset(("navigation", "banner", "contentinfo", "search", "complementary", "menu", "menubar"))
_WORDS: Final = frozenset((
    "nav", "navbar", "navigation", "navheader", "navfooter", "menu", "sidebar", "sphinxsidebar", "footer", "breadcrumb",
    "breadcrumbs", "cookie", "cookies", "consent", "share", "sharing", "social", "related", "comments", "advert",
    "advertisement", "ads", "promo", "newsletter", "subscribe", "pagination", "pager", "popup", "modal", "skiplink",
    "skip-link", "toolbar", "masthead", "topbar", "sitemap", "tagcloud", "linenos", "lineno", "headerlink",
    "editsection", "mw-editsection", "noprint", "copyright", "siderbar", "tooltip",
))  # fmt: skip
_MAIN: Final = ("main", "[role=main]", "article", "#content", "#main-content", "#mw-content-text", "#main")
_LEAST_MAIN: Final = 0.3  # of the page's text that a part has to hold to be taken for the main one
_LINK_DENSITY: Final = 0.6
_MANY_LINKS, _ALL_LINKS, _SOMETHING = 8, 0.9, 60  # links, share of the text in them, characters before them
_MOST_REMOVED: Final = 0.5  # of the page: a block larger than that is not boilerplate, whatever its name
_WIDE_CELL: Final = 400  # characters: a table with longer cells lays out a page
_LANGUAGE: Final = re.compile(r"(?:language|lang|highlight|brush:?)[-\s]([a-z0-9+#]+)")
_SPACES: Final = re.compile(r"\s+")
_BETWEEN: Final = re.compile(r"[\s_]+")
_TAG: Final = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
# Tags whose end may be left out or that have none; they do not nest by themselves.
_SHALLOW: Final = frozenset((
    "p", "li", "td", "th", "tr", "dt", "dd", "option", "thead", "tbody", "tfoot", "colgroup", "rt", "rp", "br", "hr",
    "img", "input", "meta", "link", "area", "base", "col", "embed", "param", "source", "track", "wbr", "html", "body",
    "head", "path", "rect", "circle", "line", "use",
))  # fmt: skip
# HTML5 parsers look through all open elements at each tag: time goes with the square of the depth. Browsers stop at
# 512 levels.
_DEEPEST: Final = 1500
_COMMONS: Final = re.compile(r"creativecommons\.org/(?:licenses/([a-z-]+)/(\d\.\d)|publicdomain/zero/(\d\.\d))")


@dataclass
class Page:
    """What an HTML page says."""

    text: str
    removed: int = 0
    """Characters of boilerplate that were left out."""
    licence: str | None = None
    """Creative Commons licence that the page links as its own."""
    flat: bool = False
    """Elements were nested so deeply that only the tags were taken out."""


def html_to_text(source: str, whole: bool = False) -> str:
    """The main text of a page; all of it with `whole`.

    >>> html_to_text("<nav>Home</nav><h1>猫</h1><p>A <b>cat</b><br>sleeps.</p><pre>x = 1\\n  y</pre>")
    '# 猫\\n\\nA cat\\nsleeps.\\n\\n```\\nx = 1\\n  y\\n```\\n'
    """
    return html_page(source, whole).text


def html_page(source: str, whole: bool = False) -> Page:
    """As `html_to_text`, with what was left out and the licence the page names."""
    from selectolax.lexbor import LexborHTMLParser

    if _depth(source) > _DEEPEST:
        return Page(_without_tags(source), flat=True)
    tree = LexborHTMLParser(source)
    title = tree.css_first("title")
    name = " ".join(title.text().split()) if title is not None else ""
    licence = _licence(tree)
    for tag in _NEVER:
        for node in tree.css(tag):
            node.decompose()
    if tree.body is None:
        return Page("", 0, licence)
    everything = _visible(tree.body)
    root, chosen = (tree.body, False) if whole else _main(tree, everything)
    walker = _Walker(whole, chosen, everything)
    walker.walk(root)
    text = _tidy("".join(walker.out))
    if not whole and len(text) < 0.1 * everything and everything < 2000:
        # A short page that is all links and labels: there is no main text to tell from the rest.
        return html_page(source, whole=True)
    if name and not re.search(r"^# ", text, re.MULTILINE):
        text = f"# {name}\n\n{text}"
    text = text.strip()
    return Page(text + "\n" if text else "", max(0, everything - _visible(root)) + walker.removed, licence)


def _depth(source: str) -> int:
    """About how deep elements nest, never less than a parser would make of it."""
    if source.count("<") < _DEEPEST:
        return 0
    deepest = depth = 0
    for found in _TAG.finditer(source):
        if found[2].lower() not in _SHALLOW:
            depth = max(0, depth - 1) if found[1] else depth + 1
            deepest = max(deepest, depth)
    return deepest


def _without_tags(source: str) -> str:
    """All text of a page, each block on its line, in time linear in the page whatever is in it."""
    out: list[str] = []
    open_ended: set[str] = set()  # marks that do not come any more; looking again each time would be quadratic
    at = 0
    while (start := source.find("<", at)) >= 0:
        out.append(html.unescape(source[at:start]))
        found = _TAG.match(source, start)
        name = found[2].lower() if found else ""
        if source.startswith("<!--", start):
            mark = "-->"
        elif name in ("script", "style") and found and not found[1]:
            mark = f"</{name}"
        else:
            mark = ">"
        end = -1 if mark in open_ended else source.find(mark, start)
        if end < 0 and mark != ">":  # not closed: it is read as if it were a tag like any other
            open_ended.add(mark)
            mark = ">"
            end = source.find(mark, start)
        if name in _BLOCKS or name in ("br", "li", "tr"):
            out.append("\n")
        at = len(source) if end < 0 else end + (1 if mark.startswith("</") else len(mark))
        if mark.startswith("</"):
            at = (source.find(">", at) + 1) or len(source)
    out.append(html.unescape(source[at:]))
    text = _tidy("".join(out))
    return text + "\n" if text else ""


def _visible(node: Any) -> int:
    return len("".join(node.text().split()))


def _licence(tree: Any) -> str | None:
    for node in tree.css("link[rel~=license], a[rel~=license]"):
        found = _COMMONS.search(node.attributes.get("href") or "")
        if found:
            return f"CC-{found[1].upper()}-{found[2]}" if found[1] else f"CC0-{found[3]}"
    return None


def _main(tree: Any, everything: int) -> tuple[Any, bool]:
    """The element that holds the main text and True, or the body and False."""
    for selector in _MAIN:
        found = tree.css(selector)
        if len(found) == 1 and _visible(found[0]) >= _LEAST_MAIN * everything:
            return found[0], True
    return tree.body, False


@dataclass
class _Open:
    """An element whose end has not been met."""

    node: Any
    tag: str
    start: int
    text: int
    links: int
    anchors: int
    furniture: bool
    after: str = ""


@lru_cache(4096)
def _names_furniture(classes: str, id: str) -> bool:
    return not _WORDS.isdisjoint(_BETWEEN.split(f"{classes} {id}".lower()))


@dataclass
class _Walker:
    """Depth-first with an explicit stack: real pages nest deeper than Python's recursion limit.

    What an element wrote is taken back at its end, when it is known how long it is and how much of it is links.
    """

    whole: bool
    chosen: bool
    everything: int
    out: list[str] = field(default_factory=list)
    removed: int = 0
    text: int = 0
    links: int = 0
    in_links: int = 0
    anchors: int = 0
    tables: list[list[list[str]]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def walk(self, root: Any) -> None:
        stack: list[Any] = [root]
        while stack:
            node = stack.pop()
            if isinstance(node, _Open):
                self._close(node)
                continue
            tag = node.tag
            if tag == "-text":
                self._say(_SPACES.sub(" ", node.text_content or ""))
            elif tag == "br":
                self.out.append("\n")
            elif tag == "pre":
                self._code(node)
            elif not tag.startswith(("-", "!")):
                stack.append(self._opened(node, tag))
                stack.extend(_children(node))

    def _say(self, text: str) -> None:
        self.out.append(text)
        size = len(text) - text.count(" ")
        self.text += size
        self.links += size if self.in_links else 0

    def _code(self, node: Any) -> None:
        text = node.text().strip("\n")
        if not text.strip():
            return
        around = [node.attributes.get("class"), *(n.attributes.get("class") for n in _above(node, 2))]
        inner = node.css_first("code")
        around.append(inner.attributes.get("class") if inner is not None else None)
        language = next((m[1] for name in around if name and (m := _LANGUAGE.search(name))), "")
        language = "" if language in ("default", "none", "text", "notranslate") else language
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`{3,}", text)), default=0))
        self.out.append(f"\n\n{fence}{language}\n{text}\n{fence}\n\n")
        self.text += len(text)

    def _opened(self, node: Any, tag: str) -> _Open:
        furniture = not self.whole and self._is_furniture(node, tag)
        here = _Open(node, tag, len(self.out), self.text, self.links, self.anchors, furniture)
        if tag == "a":
            self.in_links += 1
            self.anchors += 1
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("ol", "ul"):
            self.numbers.append(0 if tag == "ol" else -1)
        before, here.after = self._edges(tag)
        self.out.append(before)
        return here

    def _edges(self, tag: str) -> tuple[str, str]:
        if len(tag) == 2 and tag[0] == "h" and tag[1] in "123456":
            return "\n\n" + "#" * int(tag[1]) + " ", "\n\n"
        if tag == "li":
            if self.numbers and self.numbers[-1] >= 0:
                self.numbers[-1] += 1
                return f"\n{self.numbers[-1]}. ", ""
            return "\n- ", ""
        if tag in ("td", "th"):
            return " ", " "
        return ("\n\n", "\n\n") if tag in _BLOCKS else ("", "")

    def _is_furniture(self, node: Any, tag: str) -> bool:
        if tag in _FURNITURE or (tag == "header" and not self.chosen):
            return True
        attributes = node.attributes
        if attributes.get("role") in _ROLES or attributes.get("aria-hidden") == "true" or "hidden" in attributes:
            return True
        return _names_furniture(attributes.get("class") or "", attributes.get("id") or "")

    def _close(self, here: _Open) -> None:
        tag = here.tag
        self.out.append(here.after)
        if tag == "a":
            self.in_links -= 1
        elif tag in ("ol", "ul"):
            self.numbers.pop()
        elif tag in ("td", "th") and self.tables and self.tables[-1]:
            self.tables[-1][-1].append("".join(self.out[here.start :]).strip())
        text, links = self.text - here.text, self.links - here.links
        if self._goes(here, text, links):
            del self.out[here.start :]
            self.removed += text
            self.text, self.links = here.text, here.links
            if tag == "table":
                self.tables.pop()
        elif tag == "table":
            rows = self.tables.pop()
            if _holds_data(rows):
                del self.out[here.start :]
                self.out.append(f"\n\n{markdown_table([[_tidy(cell) for cell in row] for row in rows])}\n\n")

    def _goes(self, here: _Open, text: int, links: int) -> bool:
        """Whether what this element wrote is boilerplate."""
        if self.whole or here.tag in ("body", "html", "main", "article"):
            return False
        if here.furniture and text < _MOST_REMOVED * self.everything:
            return True
        lists = here.tag in ("ul", "ol", "div", "table", "dl")
        if self.chosen and lists and self.anchors - here.anchors >= _MANY_LINKS and links >= _ALL_LINKS * text:
            return here.text >= _SOMETHING  # a table of contents; of a page that is nothing else it is the text
        if self.chosen or here.tag not in ("ul", "ol", "div", "table", "dl", "p", "section", "center", "form"):
            return False
        return text > 0 and links >= _LINK_DENSITY * text and text < _MOST_REMOVED * self.everything


def _children(node: Any) -> list[Any]:
    return list(node.iter(include_text=True))[::-1]


def _above(node: Any, levels: int) -> list[Any]:
    found = []
    for _ in range(levels):
        node = node.parent
        if node is None or node.attributes is None:
            break
        found.append(node)
    return found


def _holds_data(rows: list[list[str]]) -> bool:
    """Whether a table is one, and not there to put a page in columns."""
    rows = [row for row in rows if any(row)]
    if len(rows) < 2 or Counter(map(len, rows)).most_common(1)[0][0] < 2:
        return False
    return not any("```" in cell or "\n| " in cell or len(cell) > _WIDE_CELL for row in rows for cell in row)


def markdown_table(rows: list[list[str]]) -> str:
    """Rows of cells as a Markdown table; the first row is the header.

    >>> print(markdown_table([["名", "n"], ["a|b", "1\\n2"]]))
    | 名 | n |
    | --- | --- |
    | a\\|b | 1 2 |
    """
    rows = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows if any(row)]
    if not rows:
        return ""
    width = max(map(len, rows))
    lines = [f"| {' | '.join(row + [''] * (width - len(row)))} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


def _tidy(text: str) -> str:
    """One space between words, one blank line between blocks; code as it is."""
    parts = re.split(r"(^(`{3,})[^\n`]*\n.*?\n\2$)", text, flags=re.DOTALL | re.MULTILINE)
    out = []
    for i in range(0, len(parts), 3):  # prose, code, its fence
        prose = re.sub(r"[ \t\u00a0]+", " ", parts[i])
        out.append(re.sub(r"\n{3,}", "\n\n", re.sub(r" *\n *", "\n", prose)))
        if i + 1 < len(parts):
            out.append(parts[i + 1])
    return re.sub(r"(?m)^(?:-|\d+\.) *\n+(?=\S)", lambda m: m[0].strip() + " ", "".join(out)).strip()


def links_of(source: str, base: str) -> list[str]:
    """The addresses a page links to, absolute, in order, each once; not those it asks not to follow.

    >>> links_of('<a href="/b">b</a><a href="/c" rel="nofollow">c</a>', "http://a/x")
    ['http://a/b']
    """
    from selectolax.lexbor import LexborHTMLParser

    if _depth(source) > _DEEPEST:
        found = re.findall(r"<a\s[^>]{0,500}?href\s*=\s*[\"']?([^\"'\s>]{1,2000})", source, re.IGNORECASE)
        return list(dict.fromkeys(absolute for href in found if (absolute := _absolute(base, html.unescape(href)))))
    tree = LexborHTMLParser(source)
    told = tree.css_first("base[href]")
    base = _absolute(base, told.attributes.get("href") or "") or base if told is not None else base
    links: dict[str, None] = {}
    for node in tree.css("a[href], area[href]"):
        if "nofollow" not in (node.attributes.get("rel") or "").lower():
            links[_absolute(base, node.attributes.get("href") or "")] = None
    links.pop("", None)
    return list(links)


def _absolute(base: str, href: str) -> str:
    try:
        found = urljoin(base, href.strip())
    except ValueError:
        return ""
    return found.partition("#")[0] if found.startswith(("http://", "https://")) else ""
