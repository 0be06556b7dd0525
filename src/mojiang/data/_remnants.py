"""What HTML leaves in texts that were extracted badly: tags, comments, scripts, entities. Code shown in them stays."""

from __future__ import annotations

import html
import re
from html.entities import html5
from typing import Final

from mojiang.data._accounting import Changes
from mojiang.data._spans import code_spans, rewrite

_BLOCKS: Final = (
    "address|article|aside|blockquote|body|br|caption|center|dd|details|dialog|div|dl|dt|fieldset|figcaption|figure|"
    "footer|form|frameset|h[1-6]|head|header|hr|html|li|main|nav|noframes|ol|optgroup|option|p|pre|section|summary|"
    "table|tbody|tfoot|thead|title|tr|ul"
)
_CELLS: Final = "td|th"
_INLINE: Final = (
    "a|abbr|acronym|area|audio|b|base|basefont|bdi|bdo|big|button|canvas|cite|code|col|colgroup|data|datalist|del|dfn|"
    "em|embed|font|frame|i|iframe|img|input|ins|kbd|label|legend|link|map|mark|meta|meter|nobr|noscript|object|output|"
    "param|picture|progress|q|rp|rt|ruby|s|samp|select|small|source|span|strike|strong|sub|sup|svg|template|textarea|"
    "time|track|tt|u|var|video|wbr"
)
_HIDDEN: Final = re.compile(
    # What is opened again before it is closed was never closed: so the time stays linear.
    r"<!--(?:(?!<!--).)*?-->|<!\[CDATA\[|\]\]>|<!doctype\b[^<>]*>"
    r"|<(?P<name>script|style)\b[^<>]*>(?:(?!<(?P=name)).)*?</(?P=name)\s*>",
    re.IGNORECASE | re.DOTALL,
)
_ATTRIBUTES: Final = r"""(?P<attributes>(?:\s+[\w:@.-]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>=`]+))?)*)\s*/?"""
_TAG: Final = re.compile(
    rf"<(?P<close>/?)(?:(?P<block>{_BLOCKS})|(?P<cell>{_CELLS})|(?P<inline>{_INLINE})){_ATTRIBUTES}>", re.IGNORECASE
)
_ENTITY: Final = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def strip_html(text: str, changes: Changes) -> str:
    """Text without HTML's remnants; `vector<int>`, `a < b`, `<you@home.org>` and what is shown as code stay.

    >>> strip_html("<p>Fish&nbsp;&amp; <b>chips</b><br>vector<int> a<b;", Changes())
    '\\nFish\\xa0& chips\\nvector<int> a<b;'
    """
    if "<" in text:
        text = rewrite(text, _HIDDEN, lambda match: "", "HTML comments and scripts removed", changes, code_spans)
        closed = {match["inline"].lower() for match in _TAG.finditer(text) if match["close"] and match["inline"]}
        text = rewrite(text, _TAG, lambda m: _instead(m, closed), "HTML tags removed", changes, code_spans)
    if "&" in text:
        text = rewrite(text, _ENTITY, _character, "HTML entities decoded", changes, code_spans)
    return text


def _instead(match: re.Match[str], closed: set[str]) -> str | None:
    if match["block"]:
        return "\n"
    if match["cell"]:
        return "\t" if match["close"] else ""
    name = match["inline"].lower()
    # A letter in angle brackets is as often a type or a placeholder: it is a tag when it is closed or has attributes.
    return "" if len(name) > 1 or name in closed or match["attributes"] else None


def _character(match: re.Match[str]) -> str | None:
    if match[0][1] != "#" and match[0][1:] not in html5:
        return None
    return html.unescape(match[0])
