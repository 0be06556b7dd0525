"""Where a document answers a question it also asks: functions with docstrings, sections with headings, openings.

Every choice (which template, where to cut) depends on the text alone, so mining the same document again gives the same
pairs in the same order.
"""

from __future__ import annotations

import ast
import hashlib
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal[
    "write_function", "explain_function", "describe_module", "write_section", "continue_text", "continue_code"
]

_TEMPLATES: Final[dict[tuple[Kind, str], tuple[str, ...]]] = {
    ("write_function", "en"): (
        "Complete this Python function:\n\n{signature}",
        "Write the body of this Python function.\n\n{signature}",
        "Implement the following function:\n\n{signature}",
    ),
    ("write_function", "zh"): (
        "补全下面的 Python 函数：\n\n{signature}",
        "请写出这个 Python 函数的函数体。\n\n{signature}",
        "实现下面的函数：\n\n{signature}",
    ),
    ("explain_function", "en"): (
        "What does this Python function do?\n\n{code}",
        "Explain this function in a few words.\n\n{code}",
        "Write a docstring for this function:\n\n{code}",
    ),
    ("explain_function", "zh"): (
        "下面的 Python 函数有什么作用？\n\n{code}",
        "请简要说明这个函数。\n\n{code}",
        "为这个函数写一段文档字符串：\n\n{code}",
    ),
    ("describe_module", "en"): ("What is the Python module {name} for?", "Describe the module {name}."),
    ("describe_module", "zh"): ("Python 模块 {name} 是做什么的？", "介绍一下模块 {name}。"),
    ("write_section", "en"): (
        "Write the section “{heading}” of “{title}”.",
        "What does “{title}” say about “{heading}”?",
        "Tell me about “{heading}” ({title}).",
    ),
    ("write_section", "zh"): (
        "请写出《{title}》中“{heading}”一节。",
        "《{title}》里关于“{heading}”是怎么说的？",
        "介绍一下“{heading}”（{title}）。",
    ),
    ("continue_text", "en"): (
        "Continue this text:\n\n{opening}",
        "How does this text go on?\n\n{opening}",
        "Write what comes next.\n\n{opening}",
    ),
    ("continue_text", "zh"): (
        "续写下面的文字：\n\n{opening}",
        "接着写下去：\n\n{opening}",
        "下文是什么？\n\n{opening}",
    ),
    ("continue_code", "en"): (
        "Continue this {language} code:\n\n{opening}",
        "What comes next in this code?\n\n{opening}",
    ),
    ("continue_code", "zh"): ("续写这段 {language} 代码：\n\n{opening}", "这段代码接下来是什么？\n\n{opening}"),
}
_HAN: Final = re.compile("[\u4e00-\u9fff]")
_FENCE: Final = re.compile(r"^(```|~~~)")
_ATX: Final = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t#]*$")
_UNDERLINE: Final = re.compile(r"^([=\-~^\"'`#*+:.])\1{2,}[ \t]*$")
_SENTENCE_END: Final = re.compile(r"[。！？!?](?:[”’」』）)]*)|\.(?:[\"')]*)(?=\s)|\n")
_PARAGRAPH: Final = re.compile(r"\n[ \t]*\n+")
_LEAST_OPENING: Final = 12  # characters; less says nothing to go on from


@dataclass(frozen=True)
class Pair:
    """One instruction and its answer; `language` is that of the instruction."""

    prompt: str
    answer: str
    kind: Kind
    language: str


def pairs_of(row: dict[str, Any], max_answer_bytes: int) -> Iterator[Pair]:
    """All pairs of a document (a row with path, language, format and text), in the order of the text."""
    text: str = row["text"]
    if row["format"] == "code":
        yield from _python(row["path"], text) if row["language"] == "python" else _code(row["language"], text)
        return
    sections = list(sections_of(text, row["format"]))
    title = next((heading for heading, _ in sections if heading), "") or _stem(row["path"])
    if any(heading for heading, _ in sections):
        for heading, body in sections:
            answer = shorten(body, max_answer_bytes)
            if heading and answer:
                yield _pair("write_section", heading + answer, answer, heading=heading, title=title)
    else:
        yield from _prose(text, max_answer_bytes)


def _pair(kind: Kind, voice: str, answer: str, **values: str) -> Pair:
    """Fill a template chosen by the values, in Chinese when `voice` is."""
    language = "zh" if len(_HAN.findall(voice)) > 0.1 * len(voice) else "en"
    templates = _TEMPLATES[kind, language]
    pick = hashlib.sha256("\0".join(values.values()).encode()).digest()[0] % len(templates)
    return Pair(templates[pick].format(**values), answer, kind, language)


def _stem(path: str) -> str:
    return path.rpartition("/")[2].split("#")[0].split(".")[0]


def _python(path: str, text: str) -> Iterator[Pair]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the corpus's invalid escapes are not our user's concern
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        yield from _code("python", text)
        return
    if doc := ast.get_docstring(tree):
        first = _PARAGRAPH.split(doc.strip())[0]
        name = re.sub(r"\.pyi?$|(/__init__)?\.py$", "", path.split("#")[0]).removesuffix("/__init__").replace("/", ".")
        yield _pair("describe_module", first, first, name=name)
    lines = text.splitlines(keepends=True)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _function(node, lines)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> Iterator[Pair]:
    doc = ast.get_docstring(node)
    if not doc or len(node.body) < 2:
        return
    start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
    first, docstring_end = node.body[0], node.body[0].end_lineno or node.lineno
    if first.lineno == node.lineno or node.body[1].lineno <= docstring_end:
        return  # all on one line: there is no place to cut
    if node.col_offset and _has_long_string(node):
        return  # shifting it to the left would change what it says
    whole = lines[start : node.end_lineno]
    at = docstring_end - start
    code = textwrap.dedent("".join(whole))
    if len(code.splitlines()) != len(whole):
        return
    pieces = code.splitlines()
    signature, body = "\n".join(pieces[:at]), "\n".join(pieces[at:]).strip("\n")
    yield _pair("write_function", doc, body, signature=signature)
    bare = "\n".join(pieces[: first.lineno - 1 - start] + pieces[at:])
    yield _pair("explain_function", doc, _PARAGRAPH.split(doc.strip())[0], code=bare)


def _has_long_string(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a string other than the docstring spans lines."""
    strings = (
        part
        for statement in node.body[1:]
        for part in ast.walk(statement)
        if isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str | bytes))
    )
    return any(string.end_lineno != string.lineno for string in strings)


def _code(language: str, text: str) -> Iterator[Pair]:
    """Blocks of code separated by blank lines: the first half of each run of blocks → the second."""
    blocks = [block.strip("\n") for block in _PARAGRAPH.split(text) if block.strip()]
    for opening, following in zip(blocks[::2], blocks[1::2], strict=False):
        yield _pair("continue_code", opening + following, following, language=language, opening=opening)


def sections_of(text: str, format: str) -> Iterator[tuple[str, str]]:
    """(heading, body) of each section; the heading of what comes before the first one is "".

    Understands `# ATX` headings and underlined ones (setext, reStructuredText with or without overline), and leaves
    fenced code alone.
    """
    heading, body = "", list[str]()
    underlined = format in ("markdown", "rst", "txt")
    lines = text.split("\n")
    in_fence, at = False, 0
    while at < len(lines):
        line = lines[at]
        in_fence ^= bool(_FENCE.match(line))
        found, taken = "", 1
        if not in_fence:
            if format != "rst" and (match := _ATX.match(line)):
                found = match[2].strip()
            elif underlined:
                found, taken = _underlined(lines, at, format)
        if found:
            yield heading, "\n".join(body).strip("\n")
            heading, body = found, []
        else:
            body.append(line)
            taken = 1
        at += taken
    yield heading, "\n".join(body).strip("\n")


def _underlined(lines: list[str], at: int, format: str) -> tuple[str, int]:
    """A heading with a line of punctuation under it, and how many lines it takes; ("", 1) where there is none."""
    line = lines[at]
    over = at + 2 < len(lines) and _UNDERLINE.match(line) and line.strip() == lines[at + 2].strip()
    if over and lines[at + 1].strip() and format != "markdown":
        return lines[at + 1].strip(), 3
    if at + 1 >= len(lines) or not line.strip() or line[0] in " \t-*>|":
        return "", 1
    under, before = lines[at + 1], lines[at - 1].strip() if at else ""
    if not _UNDERLINE.match(under) or before or (format != "rst" and under[0] not in "=-"):
        return "", 1
    # A full-width character is two columns wide, and editors disagree; half the width is enough to mean it.
    return (line.strip(), 2) if 2 * len(under.strip()) >= len(line.strip()) else ("", 1)


def shorten(text: str, limit: int) -> str:
    """`text` within `limit` UTF-8 bytes, ending where a paragraph or sentence does; "" when none ends in time."""
    text = text.strip("\n").rstrip()
    if len(text.encode()) <= limit:
        return text
    window = text.encode()[:limit].decode("utf-8", "ignore")
    ends = [match.start() for match in _PARAGRAPH.finditer(window)]
    if not ends or ends[-1] < len(window) // 3:
        ends = [match.end() for match in _SENTENCE_END.finditer(window)]
    kept = window[: ends[-1]].rstrip() if ends else ""
    # An answer must not end inside a code block.
    return kept if kept.count("```") % 2 == 0 else kept[: kept.rfind("```")].rstrip()


def _prose(text: str, limit: int) -> Iterator[Pair]:
    """Prose without headings: the opening of each stretch of paragraphs → how it goes on."""
    stretch = ""
    for paragraph in _PARAGRAPH.split(text.strip()):
        if stretch and len((stretch + paragraph).encode()) > limit:
            yield from _continuation(stretch, limit)
            stretch = ""
        stretch = f"{stretch}\n\n{paragraph}" if stretch else paragraph
    yield from _continuation(stretch, limit)


def _continuation(stretch: str, limit: int) -> Iterator[Pair]:
    at = 0
    while at < len(stretch):
        piece = stretch[at:]
        ends = (match.end() for match in _SENTENCE_END.finditer(piece))
        end = next((end for end in ends if len(piece[:end].strip()) >= _LEAST_OPENING), 0)
        if not end:
            return
        following = piece[end:].lstrip("\n")
        answer = shorten(following, limit)
        if not answer:
            return
        yield _pair("continue_text", answer, answer.strip(), opening=piece[:end].strip())
        # One paragraph may be longer than an answer: go on behind what was used.
        at += end + len(piece[end:]) - len(following) + len(answer)
