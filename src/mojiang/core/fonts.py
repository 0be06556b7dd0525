"""Letters in pictures: the fonts that there are, one with Chinese among them, and labels that they can draw."""

from __future__ import annotations

import re
from functools import cache

# Fonts that hold Chinese, by platform; the first that is installed stands in for what DejaVu Sans lacks.
CHINESE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Droid Sans Fallback",
    "Arial Unicode MS",
)  # fmt: skip

_CHINESE_FILE = re.compile(r"cjk|han|wqy|pingfang|hiragino|yahei|msyh|simhei|droid|unicode", re.IGNORECASE)


@cache
def font_family() -> tuple[str, ...]:
    """DejaVu Sans, which matplotlib brings, and one installed Chinese font, for matplotlib's `family`."""
    from matplotlib import font_manager

    known = font_manager.fontManager
    if not {entry.name for entry in known.ttflist}.intersection(CHINESE_FONTS):
        # matplotlib keeps the list it made on its first day; a font that was installed since is not on it.
        listed = {entry.fname for entry in known.ttflist}
        for path in filter(_CHINESE_FILE.search, set(font_manager.findSystemFonts()) - listed):
            known.addfont(path)
    installed = {entry.name for entry in known.ttflist}
    return ("DejaVu Sans", *[name for name in CHINESE_FONTS if name in installed][:1])


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib import font_manager

    codes: set[int] = set()
    for name in font_family():
        path = font_manager.findfont(name, fallback_to_default=False)
        codes.update(font_manager.get_font(path).get_charmap())
    return frozenset(codes)


def displayable(text: str, max_chars: int = 40) -> str:
    """A label matplotlib can draw: one line, not too long, `?` for what no font here has, and no mathematics.

    >>> displayable("costs $5\\n")
    'costs \\\\$5'
    """
    line = " ".join(text.split())
    line = line if len(line) <= max_chars else line[: max_chars - 1] + "…"
    return "".join(c if ord(c) in _glyphs() else "?" for c in line).replace("$", r"\$")


def forget_fonts() -> None:
    """Look again at which fonts there are."""
    font_family.cache_clear()
    _glyphs.cache_clear()
