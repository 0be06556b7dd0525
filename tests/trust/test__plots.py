"""Pictures are PNG, the same for the same numbers, and no label can break them."""

import io
import warnings

import pytest
from PIL import Image

from mojiang.core import fonts
from mojiang.trust import _plots

LABELS = ["python", "墨匠 · 中文文本", "$x_1$ and %", "", "a" * 300, "emoji 🦉 and \u0000", "two\nlines"]


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> None:
    warnings.simplefilter("error")  # matplotlib only warns about a glyph it cannot draw


@pytest.mark.parametrize("chinese_font", [True, False])
def test_any_label_can_be_drawn_with_or_without_a_chinese_font(
    chinese_font: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not chinese_font:
        monkeypatch.setattr(fonts, "CHINESE_FONTS", ())
    fonts.forget_fonts()
    try:
        light, dark = _plots.bars({label: float(i + 1) for i, label in enumerate(LABELS)}, "MB")
        lines = {label: ([0.0, 1.0, 2.0], [3.0, 2.0, 1.0]) for label in LABELS}
        curve, _ = _plots.curves({"损失 loss": lines, "bits": {"x": ([0.0, 1.0], [1.0, 2.0])}}, "步 step")
    finally:
        fonts.forget_fonts()
    for png in (light, dark, curve):
        image = Image.open(io.BytesIO(png))
        assert image.format == "PNG"
        assert image.width == 1472
    assert Image.open(io.BytesIO(light)).getpixel((2, 2)) != Image.open(io.BytesIO(dark)).getpixel((2, 2))


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert _plots.bars({"a": 1.0, "b": 2.0}, "MB") == _plots.bars({"a": 1.0, "b": 2.0}, "MB")


def test_a_line_going_down_is_drawn_going_down() -> None:
    png, _ = _plots.curves({"y": {"x": ([float(i) for i in range(100)], [100.0 - i for i in range(100)])}}, "s")
    image = Image.open(io.BytesIO(png)).convert("RGB")
    colour = tuple(int(_plots.COLOURS[0][i : i + 2], 16) for i in (1, 3, 5))
    points = [(x, y) for x in range(image.width) for y in range(0, image.height, 3) if image.getpixel((x, y)) == colour]
    left, right = min(points), max(points)
    assert left[1] < right[1]  # pixels count from the top
