"""Held-out Python functions as completion tasks: the file up to a signature (and docstring), then the body."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

_INDENT = re.compile(r"[ \t]*")


@dataclass(frozen=True)
class FunctionTask:
    """A function whose body is to be written.

    `context` is the file up to the first line of the body, `header` the function's own part of it, `body` what its
    author wrote, `rest` the whole file after `context`, and `indent` the width of the `def` line's indentation.
    """

    name: str
    context: str
    header: str
    body: str
    rest: str
    indent: int


def parse(source: str) -> ast.Module | None:
    """The syntax tree, or None for a text that is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in the text is no concern of ours
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def function_tasks(source: str, max_body_lines: int = 40) -> Iterator[FunctionTask]:
    """Functions and methods of a file whose body is 1 to `max_body_lines` lines beyond the docstring.

    >>> [(t.name, t.body) for t in function_tasks("def f(x):\\n    return x\\n")]
    [('f', '    return x\\n')]
    """
    tree = parse(source)
    if tree is None:
        return
    lines = source.splitlines(keepends=True)
    if len(lines) != source.count("\n") + (not source.endswith("\n")):
        return  # a form feed or the like breaks lines here but not for Python: its line numbers would not be ours
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
        end = node.end_lineno or 0
        before = node.body[0].end_lineno if body is not node.body else None
        start = before or _signature_end(lines, node)
        if not body or start == 0 or not 0 < end - start <= max_body_lines or body[0].lineno <= start:
            continue
        indent = len(_INDENT.match(lines[node.lineno - 1]).group())  # type: ignore[union-attr]
        yield FunctionTask(
            name=node.name,
            context="".join(lines[:start]),
            header="".join(lines[node.lineno - 1 : start]),
            body="".join(lines[start:end]),
            rest="".join(lines[start:]),
            indent=indent,
        )


def _signature_end(lines: list[str], node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Number of the line that ends the signature with a colon; 0 when the body begins on it."""
    line = node.body[0].lineno - 1
    while line >= node.lineno and (not lines[line - 1].strip() or lines[line - 1].lstrip().startswith("#")):
        line -= 1
    return line if line >= node.lineno else 0


def cut_body(text: str, indent: int, *, complete: bool) -> str:
    """The part of a completion that belongs to a function whose `def` is indented by `indent`.

    It ends before the first line that is indented no deeper than the `def`. A text that was cut by a length limit
    (`complete` false) and has not reached such a line loses its last, unfinished line.

    >>> cut_body("    return 1\\n\\ndef g():\\n", indent=0, complete=True)
    '    return 1\\n\\n'
    """
    kept: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.strip() and len(_INDENT.match(line).group()) <= indent:  # type: ignore[union-attr]
            return "".join(kept)
        kept.append(line)
    if kept and not complete and not kept[-1].endswith("\n"):
        kept.pop()
    return "".join(kept)


def accepted(task: FunctionTask, body: str) -> bool:
    """Whether header and body together parse as one function that does something beyond its docstring."""
    dedented = "".join(
        line[task.indent :] if _INDENT.match(line).end() >= task.indent else line  # type: ignore[union-attr]
        for line in (task.header + body).splitlines(keepends=True)
    )
    tree = parse(dedented)
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    function = tree.body[0]
    return len(function.body) > (ast.get_docstring(function, clean=False) is not None)
