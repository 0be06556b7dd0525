"""Labels are what the fonts at hand can draw, and Chinese is drawn by the first of ours that is installed."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from matplotlib import font_manager

from mojiang.core import fonts


@pytest.fixture(autouse=True)
def _looked_at_anew() -> Iterator[None]:
    fonts.forget_fonts()
    yield
    fonts.forget_fonts()


def test_labels_are_one_short_line() -> None:
    assert fonts.displayable("two\n lines") == "two lines"
    assert len(fonts.displayable("a" * 300)) == 40
    assert fonts.displayable("🦉") == "?"


def test_without_a_chinese_font_its_characters_are_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "CHINESE_FONTS", ())
    assert fonts.font_family() == ("DejaVu Sans",)
    assert fonts.displayable("river 河流") == "river ??"


def test_one_chinese_font_is_taken_the_first_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [SimpleNamespace(name=name) for name in ("SimHei", "Comic", "WenQuanYi Zen Hei")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", there)
    assert fonts.font_family() == ("DejaVu Sans", "WenQuanYi Zen Hei")
