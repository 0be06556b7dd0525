"""Mined pairs against what they were mined from: a function put together again is the function."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.data._pairs import Pair, pairs_of, sections_of, shorten


def mined(
    text: str, format: str = "markdown", language: str = "en", path: str = "doc.md", limit: int = 1600
) -> list[Pair]:
    return list(pairs_of({"path": path, "language": language, "format": format, "text": text}, limit))


def code(text: str) -> list[Pair]:
    return mined(text, "code", "python", "pkg/mod.py")


@pytest.mark.parametrize("module", [ast, inspect, textwrap])
def test_signature_and_body_together_are_the_original_function(module: Any) -> None:
    source = inspect.getsource(module)

    def dump(node: Any) -> str:
        """The function, its docstring as `help()` shows it: moving code to the left moves that too."""
        if doc := ast.get_docstring(node):
            node.body[0] = ast.Expr(ast.Constant(doc))
        return ast.dump(node)

    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    originals = {dump(node) for node in reversed([*ast.walk(ast.parse(source))]) if isinstance(node, functions)}
    pairs = [pair for pair in code(source) if pair.kind == "write_function"]
    assert len(pairs) > 5
    for pair in pairs:
        signature = pair.prompt.split("\n\n", 1)[1] if "\n\n" in pair.prompt else pair.prompt
        (function,) = ast.parse(f"{signature}\n{pair.answer}\n").body
        for inner in reversed([*ast.walk(function)]):
            if isinstance(inner, functions):
                assert dump(inner) in originals


def test_explanations_do_not_give_the_docstring_away() -> None:
    pairs = code('def f(x):\n    """Add one to x.\n\n    More.\n    """\n    y = x + 1\n    return y\n')
    explain = next(pair for pair in pairs if pair.kind == "explain_function")
    assert explain.answer == "Add one to x."
    assert "Add one" not in explain.prompt
    assert "y = x + 1\n    return y" in explain.prompt


def test_chinese_docstrings_ask_in_chinese() -> None:
    pairs = code('"""工具模块。"""\n\n\ndef f(x):\n    """把 x 加一并返回结果。"""\n    return x + 1\n')
    assert {(pair.kind, pair.language) for pair in pairs} == {
        ("describe_module", "zh"), ("write_function", "zh"), ("explain_function", "zh"),
    }  # fmt: skip
    assert "pkg.mod" in pairs[0].prompt


@pytest.mark.parametrize(
    "text",
    [
        'def f(): """doc"""; return 1\n',
        'def f():\n    """only a docstring"""\n',
        'def f():\n    """doc"""; return 1\n',
        "def f():\n    return 1\n",
    ],
)
def test_functions_with_no_place_to_cut_are_left_alone(text: str) -> None:
    assert not [pair for pair in code(text) if pair.kind == "write_function"]


def test_decorators_and_methods_are_dedented() -> None:
    text = 'class A:\n    @property\n    def p(self):\n        """Doc of p."""\n        # why\n        return 1\n'
    pair = next(pair for pair in code(text) if pair.kind == "write_function")
    assert pair.prompt.endswith('@property\ndef p(self):\n    """Doc of p."""')
    assert pair.answer == "    # why\n    return 1"


def test_code_that_does_not_parse_is_continued() -> None:
    pairs = code("print 'python 2'\nx = 1\n\nprint x\ny = 2\n")
    assert [(pair.kind, pair.answer) for pair in pairs] == [("continue_code", "print x\ny = 2")]


MARKDOWN = """# Guide

Intro text.

## Install

Run this:

```sh
# not a heading
pip install x
```

Usage
-----

| a | b |
|---|---|

Call it.
"""


def test_sections_of_markdown() -> None:
    found = dict(sections_of(MARKDOWN, "markdown"))
    assert list(found) == ["", "Guide", "Install", "Usage"]
    assert "# not a heading" in found["Install"]
    assert found["Usage"].startswith("| a | b |")


def test_sections_of_restructured_text() -> None:
    text = "=====\nTitle\n=====\n\nIntro.\n\nPart 一\n======\n\nText.\n\nSub\n~~~\n\nMore.\n\n- item\n- item\n"
    assert [heading for heading, _ in sections_of(text, "rst")] == ["", "Title", "Part 一", "Sub"]


def test_headings_become_questions_in_the_language_of_the_text() -> None:
    english = [pair for pair in mined(MARKDOWN) if "Install" in pair.prompt]
    assert english[0].kind == "write_section"
    assert "Guide" in english[0].prompt
    chinese = mined("# 指南\n\n介绍文字。\n\n## 安装\n\n先下载软件包，然后运行安装程序。\n")
    assert {pair.language for pair in chinese} == {"zh"}
    assert chinese[-1].answer == "先下载软件包，然后运行安装程序。"


def test_prose_without_headings_is_continued_without_gaps() -> None:
    text = "\n\n".join(f"第{i}段的开头是这样写的。后面的文字接着讲述第{i}件事情，直到这一段结束。" for i in range(30))
    pairs = mined(text, "txt", "zh", "a.txt", limit=400)
    assert len(pairs) > 5
    assert {(pair.kind, pair.language) for pair in pairs} == {("continue_text", "zh")}
    for pair in pairs:
        opening = pair.prompt.split("\n\n", 1)[1]
        assert opening.endswith("。")
        assert opening + pair.answer in text or f"{opening}\n\n{pair.answer}" in text
        assert len(pair.answer.encode()) <= 400


@given(st.text(alphabet="ab。. \n`你", max_size=300), st.integers(5, 60))
def test_shortened_text_is_a_prefix_within_the_limit(text: str, limit: int) -> None:
    kept = shorten(text, limit)
    assert len(kept.encode()) <= limit
    assert text.strip("\n").startswith(kept)
    assert len(text.encode()) > limit or kept == text.strip("\n").rstrip()


@given(st.text(alphabet="#ab \n=-.。`你", max_size=200), st.sampled_from(["markdown", "rst", "txt", "html"]))
def test_no_text_makes_mining_fail_or_change(text: str, format: str) -> None:
    assert mined(text, format) == mined(text, format)
