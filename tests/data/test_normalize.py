"""Normalisation against Python's own unicodedata, and what it must leave alone."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.core.artifact import Artifact
from mojiang.data.normalize import Normalize, Settings, normalize_text


def normalize(text: str, is_code: bool = False, **settings: Any) -> tuple[str, Counter[str]]:
    changes: Counter[str] = Counter()
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
