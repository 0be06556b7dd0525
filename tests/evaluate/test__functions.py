"""Completion tasks cut from source, and how completions are cut and judged."""

import ast
import inspect
import textwrap

import pytest

from mojiang.evaluate._functions import FunctionTask, accepted, cut_body, function_tasks

SOURCE = '''
import os

class Box:
    def area(self, scale=1):
        """Area, scaled."""
        width = self.width
        return width * self.height * scale

    def empty(self): return True

    def nothing(self):
        """Only words."""

async def fetch(url,
                timeout=3):
    # ask once
    if url:
        return await get(url)

    return None

LAST = os.sep
'''


def _tasks() -> dict[str, FunctionTask]:
    return {task.name: task for task in function_tasks(SOURCE)}


def test_bodies_begin_after_signature_and_docstring() -> None:
    tasks = _tasks()
    assert set(tasks) == {"area", "fetch"}  # the others have no body on lines of its own
    area, fetch = tasks["area"], tasks["fetch"]
    assert area.context.endswith('"""Area, scaled."""\n')
    assert area.body.startswith("        width = self.width\n")
    assert area.indent == 4
    assert fetch.header.endswith("timeout=3):\n")
    assert "# ask once" in fetch.body


def test_context_body_and_rest_are_the_file() -> None:
    for task in function_tasks(SOURCE):
        assert task.context + task.rest == SOURCE
        assert task.rest.startswith(task.body)


@pytest.mark.parametrize("module", [ast, inspect, textwrap])
def test_the_authors_bodies_are_found_again_by_indentation_and_accepted(module: object) -> None:
    tasks = list(function_tasks(inspect.getsource(module)))  # type: ignore[arg-type]
    assert len(tasks) > 5
    for task in tasks:
        body = cut_body(task.rest, task.indent, complete=True)
        beyond = body.removeprefix(task.body)  # a closing comment may follow the last statement
        assert body.startswith(task.body)
        assert all(not line.strip() or line.lstrip().startswith("#") for line in beyond.splitlines())
        assert accepted(task, body)


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ("        return 1\n", True),
        ("        if scale:\n            return 2\n", True),
        ("", False),  # the docstring alone does nothing
        ("\n\n", False),
        ("        return (1\n", False),
        ("        return 1\n      oops\n", False),
        ("    def other(self):\n        pass\n", False),
    ],
)
def test_what_counts_as_a_body(body: str, verdict: bool) -> None:
    task = _tasks()["area"]
    assert accepted(task, cut_body(body, task.indent, complete=True)) is verdict


def test_a_text_cut_by_length_loses_its_unfinished_line() -> None:
    text = "    a = 1\n    b = fo"
    assert cut_body(text, 0, complete=False) == "    a = 1\n"
    assert cut_body(text, 0, complete=True) == text
    assert cut_body("    a = 1\nx", 0, complete=False) == "    a = 1\n"


def test_what_is_not_python_has_no_tasks() -> None:
    assert list(function_tasks("def f(:\n")) == []
    assert list(function_tasks("只有文字。\n")) == []
    assert list(function_tasks("x = 1\x00")) == []
