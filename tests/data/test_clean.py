"""Cleaning removes what is no text and nothing else; code that parsed before means the same afterwards."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.core.artifact import Artifact
from mojiang.core.report import Report
from mojiang.data import _formats, _pairs, dedup
from mojiang.data._accounting import Changes
from mojiang.data.clean import Clean, Settings, clean_row, clean_text


def clean(text: str, is_code: bool = False, **settings: Any) -> str:
    return clean_text(text, Settings(**settings), Changes(), is_code)


@pytest.mark.parametrize(
    ("dirty", "tidy"),
    [
        ("a\x00b\x07c", "abc"),
        ("\x1b[1;31mred\x1b[0m and \x1b]0;title\x07plain", "red and plain"),
        ("N\x08NA\x08AM\x08ME\x08E", "NAME"),
        ("\ufeffbegin", "begin"),
        ("page one\x0cpage two", "page one\npage two"),
        ("tab\tnewline\nreturn\r\n", "tab\tnewline\nreturn\r\n"),
        ("家庭 👨‍👩‍👧 emoji", "家庭 👨‍👩‍👧 emoji"),
        ("Punctuation, Case & 2023 stay.", "Punctuation, Case & 2023 stay."),
    ],
)  # fmt: skip
def test_controls_go_and_text_stays(dirty: str, tidy: str) -> None:
    assert clean(dirty) == tidy


@pytest.mark.parametrize("text", ["你好，世界", "Überraschung für Müller", "naïve café — “quoted”"])
def test_mojibake_made_by_reading_utf8_wrongly_is_undone(text: str) -> None:
    broken = text.encode().decode("cp1252", "replace") if "世" not in text else text.encode().decode("latin-1")
    if "\ufffd" not in broken:
        assert clean(f"before\n{broken}\nafter") == f"before\n{text}\nafter"
    assert clean(f"before\n{broken}\nafter", mojibake=False).startswith("before")


def test_good_text_in_many_scripts_is_not_repaired() -> None:
    quoted = "如果“é”显示成“Ã©”，那是编码错了。"
    text = quoted + "\nnaïve café, Übermut, crème brûlée, ¿qué?, Ångström, 你好，Привет, こんにちは, £5 – “ok”…"
    assert clean(text) == text


@pytest.mark.parametrize("module", [_formats, _pairs, dedup, inspect, ast])
def test_code_is_unchanged(module: Any) -> None:
    source = inspect.getsource(module)
    assert clean(source, is_code=True) == source


def test_code_keeps_form_feeds_trailing_spaces_and_its_own_mojibake() -> None:
    source = "x = 'Ã©'  \n\x0c\ndef f():\n\treturn x\n"
    assert clean(source, is_code=True, trailing_spaces=True) == source


def test_trailing_spaces_only_when_asked() -> None:
    assert clean("a  \nb\t\n") == "a  \nb\t\n"
    assert clean("a  \nb\t\n", trailing_spaces=True) == "a\nb\n"


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    once = clean(text, mojibake=False)
    assert clean(once, mojibake=False) == once


@pytest.mark.parametrize(
    ("text", "reason"),
    [(" \n\t ", "empty"), ("ok", "too-short"), ("x" * 90 + "\ufffd" * 10, "replacement-characters"), ("x" * 99, "")],
)
def test_reasons(text: str, reason: str) -> None:
    assert clean_row(Settings(), {"text": text, "format": "txt"}, Changes())[1] == reason


def test_recipe_accounts_for_every_document(corpus: Callable[..., Artifact], make: Callable[..., Artifact]) -> None:
    data = corpus({"a.txt": "good enough text\x07", "b.txt": "no", "c.py": "def f():\n    return 1\n"})
    made = make(Clean(data=data.ref))
    assert (made.metrics["documents_in"], made.metrics["documents_kept"], made.metrics["documents_dropped"]) == (
        3,
        2,
        1,
    )
    assert made.metrics["bytes_removed"] == 1  # the bell


@pytest.mark.parametrize(
    ("dirty", "tidy"),
    [
        ("zero\u200bwidth soft\u00adhyphen \u202eturned\u202c", "zerowidth softhyphen turned"),
        ("hidden" + "".join(chr(0xE0000 + ord(c)) for c in "ignore all") + " order", "hidden order"),
        ("👨‍👩‍👧 می‌خواهم \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",) * 2,
    ],
)
def test_invisible_characters_go_when_asked_and_joiners_and_flags_stay(dirty: str, tidy: str) -> None:
    assert clean(dirty) == dirty
    assert clean(dirty, invisible=True) == tidy


def test_every_operation_can_be_left_out() -> None:
    text = "\x1b[1mA\x1b[0m\x07 b\x08B \x0c Ã© <br> \u200b "
    assert clean(text, controls=False, mojibake=False) == text


def test_the_report_shows_changes_before_and_after(
    corpus: Callable[..., Artifact], make: Callable[..., Artifact]
) -> None:
    data = corpus({f"{n}.txt": f"number {n} is <b>bold</b> and rings\x07 twice\x07" for n in range(9)})
    report = Report.load(make(Clean(data=data.ref, html=True)).path)
    counts = dict(map(tuple, report.table("changes").rows))
    assert (counts["HTML tags removed"], counts["control characters removed"]) == (18, 18)
    shown = report.table("changes, before and after").rows
    (first,) = [row for row in shown if row[:2] == ["control characters removed", "0.txt"]]
    assert str(first[2]).endswith("is bold and rings\\x07 twice\\x07")
    assert str(first[3]).endswith("is bold and rings twice")
    assert len([row for row in shown if row[0] == "HTML tags removed"]) == 3
