"""Normalisation against Python's own unicodedata, and what it must leave alone."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.core.artifact import Artifact
from mojiang.core.errors import Unavailable
from mojiang.data._accounting import Changes
from mojiang.data.normalize import Normalize, Settings, converter, normalize_text


def normalize(text: str, is_code: bool = False, **settings: Any) -> tuple[str, Changes]:
    changes: Changes = Changes()
    return normalize_text(text, Settings(**settings), changes, is_code), changes


@given(st.text(), st.sampled_from(["NFC", "NFKC"]))
def test_forms_are_unicodedata_s(text: str, form: str) -> None:
    assert normalize(text, form=form, newlines=False)[0] == unicodedata.normalize(form, text)  # type: ignore[arg-type]


@given(st.text(alphabet="a\r\n", max_size=50))
def test_newlines_are_those_of_universal_newlines(text: str) -> None:
    assert normalize(text)[0] == text.replace("\r\n", "\n").replace("\r", "\n")


def test_counts_say_what_was_done() -> None:
    _, changes = normalize("ＡＢ１\u3000e\u0301\r\nx\r", half_width=True)
    assert changes == {
        "line ends changed": 2,
        "full-width characters made half-width": 4,
        "documents brought to NFC": 1,
    }


def test_half_width_keeps_chinese_punctuation() -> None:
    assert normalize("ＡＢＣ１２３，你好！（ｏｋ）", half_width=True)[0] == "ABC123，你好！（ok）"


@pytest.mark.parametrize("text", ["s = 'e\u0301 ＡＢ'\n", "x = '\u2028'\n"])
def test_code_keeps_its_literals(text: str) -> None:
    assert normalize(text, is_code=True, half_width=True)[0] == text
    assert normalize(text.replace("\n", "\r\n"), is_code=True)[0] == text


def test_recipe_keeps_every_document(corpus: Callable[..., Artifact], make: Callable[..., Artifact]) -> None:
    made = make(Normalize(data=corpus({"a.txt": "one\r\ntwo\r\n", "b.txt": "three"}).ref))
    assert (made.metrics["documents_kept"], made.metrics["bytes_removed"]) == (2, 2)


@pytest.mark.parametrize(
    ("script", "text", "wanted"),
    [
        ("t2s", "漢字轉換，皇后與頭髮發現乾坤", "汉字转换，皇后与头发发现乾坤"),
        ("s2t", "头发发现，皇后在后面，干燥的乾坤", "頭髮發現，皇后在後面，乾燥的乾坤"),
        ("tw2sp", "滑鼠與軟體", "鼠标与软件"),
        ("s2twp", "鼠标与软件", "滑鼠與軟體"),
    ],
)
def test_scripts_are_converted_by_words_not_by_characters(script: str, text: str, wanted: str) -> None:
    assert normalize(text, script=script)[0] == wanted
    assert normalize_text(text, Settings(script=script), Changes(), is_code=False, chinese=False) == text  # type: ignore[arg-type]


def test_a_missing_opencc_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    converter.cache_clear()
    monkeypatch.setitem(sys.modules, "opencc", None)
    with pytest.raises(Unavailable, match="opencc") as caught:
        normalize("漢", script="t2s")
    assert "mojiang[chinese]" in caught.value.hint


def test_spaces() -> None:
    text = "a\u00a0b\u2009c  d\n    indented  code\n\n\n\nend  \n| x  | y |\n"
    assert normalize(text, spaces="plain")[0] == text.replace("\u00a0", " ").replace("\u2009", " ")
    assert normalize(text, spaces="single")[0] == "a b c d\n    indented  code\n\nend  \n| x | y |\n"


def test_marks_are_chinese_only_between_chinese() -> None:
    text = "你好,世界!版本:3,即1.5. 结束.\n见a,b, 中文: English; https://a.org/?q=好"
    assert normalize(text, chinese_marks=True)[0] == (
        "你好，世界！版本:3,即1.5. 结束。\n见a,b, 中文: English; https://a.org/?q=好"
    )


def test_nothing_is_done_to_good_text_by_default() -> None:
    text = "In 2023, 1,234 people; March 5, 2023 — 漢字 “Quoted” <b>3.5万</b>\u00a0A  b\n"
    assert normalize(text) == (text, {})


@given(st.text(alphabet="aé漢字 \u00a0\n12,年月日/Ａ", max_size=40))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalize(text, form="NFKC", half_width=True, spaces="single", dates="iso", chinese_marks=True)[0]
    assert normalize(once, form="NFKC", half_width=True, spaces="single", dates="iso", chinese_marks=True)[0] == once
