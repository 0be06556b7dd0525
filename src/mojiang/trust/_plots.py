"""The card's pictures: curves of training, and what the training data is made of. PNG, for light and for dark pages."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import font_manager
from matplotlib.figure import Figure

# Fonts that hold Chinese, by platform; the first that is installed stands in for what DejaVu Sans lacks.
CHINESE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "PingFang SC",
    "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Arial Unicode MS",
)  # fmt: skip
THEMES = {
    "light": {"paper": "#ffffff", "ink": "#1c2127", "soft": "#5c6773", "line": "#e3e7ec"},
    "dark": {"paper": "#14181d", "ink": "#e4e8ec", "soft": "#98a3af", "line": "#2c333b"},
}
COLOURS = ("#1b9aa0", "#d98e04", "#7b61c9", "#c8553d", "#4f8f3a", "#5b7ea8")

Line = tuple[Sequence[float], Sequence[float]]


@cache
def _fonts() -> tuple[str, ...]:
    """DejaVu Sans, which matplotlib brings, and one installed Chinese font."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return ("DejaVu Sans", *[name for name in CHINESE_FONTS if name in installed][:1])


@cache
def _glyphs() -> frozenset[int]:
    codes: set[int] = set()
    for name in _fonts():
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


@contextmanager
def _theme(name: str) -> Iterator[dict[str, str]]:
    colours = THEMES[name]
    settings: Any = {
        "font.family": list(_fonts()), "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
        "figure.facecolor": colours["paper"], "axes.facecolor": colours["paper"], "axes.edgecolor": colours["line"],
        "axes.labelcolor": colours["soft"], "text.color": colours["ink"], "xtick.color": colours["soft"],
        "ytick.color": colours["soft"], "axes.grid": True, "grid.color": colours["line"], "axes.axisbelow": True,
        "legend.frameon": False, "axes.unicode_minus": False,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield colours


def _both(draw: Callable[[dict[str, str]], Figure]) -> tuple[bytes, bytes]:
    """The picture for light and for dark pages."""
    pictures = []
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    for name in ("light", "dark"):
        with _theme(name) as colours:
            figure, buffer = draw(colours), io.BytesIO()
            # A fixed metadata block: the same numbers give the same bytes.
            figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
            pictures.append(buffer.getvalue())
    return pictures[0], pictures[1]


def curves(panels: Mapping[str, Mapping[str, Line]], x_label: str) -> tuple[bytes, bytes]:
    """One panel per y label, each with named lines of (x, y); panels stand side by side."""

    def draw(colours: dict[str, str]) -> Figure:
        figure = Figure(figsize=(9.2, 3.2), layout="constrained")
        axes_row = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (y_label, lines) in zip(axes_row, panels.items(), strict=True):
            for (name, (x, y)), colour in zip(lines.items(), _cycle(), strict=False):
                marker = "o" if len(x) <= 30 else None
                axes.plot(x, y, label=displayable(name), color=colour, linewidth=1.8, marker=marker, markersize=3.5)
            axes.set_xlabel(displayable(x_label))
            axes.set_title(displayable(y_label), loc="left", fontsize=10.5, fontweight="bold")
            axes.margins(x=0.02)
            if len(lines) > 1:
                axes.legend(labelcolor=colours["ink"])
        return figure

    return _both(draw)


def bars(values: Mapping[str, float], unit: str, max_bars: int = 10) -> tuple[bytes, bytes]:
    """Horizontal bars, largest first, with their value and share; what is beyond `max_bars` is summed as "other"."""
    ordered = sorted(values.items(), key=lambda item: -item[1])
    shown = ordered[:max_bars]
    if rest := sum(value for _, value in ordered[max_bars:]):
        shown.append(("other", rest))
    total = sum(values.values()) or 1.0

    def draw(colours: dict[str, str]) -> Figure:
        figure = Figure(figsize=(9.2, 0.75 + 0.36 * len(shown)), layout="constrained")
        axes = figure.subplots()
        heights = range(len(shown))
        axes.barh(heights, [value for _, value in shown], color=COLOURS[0], height=0.66)
        axes.set_yticks(heights, [displayable(name) for name, _ in shown], color=colours["ink"])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        for height, (_, value) in zip(heights, shown, strict=True):
            text = displayable(f"{value:,.3g} {unit} · {value / total:.1%}")
            axes.annotate(text, (value, height), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_xlim(0, shown[0][1] * 1.25 or 1.0)
        axes.set_xlabel(displayable(unit))
        return figure

    return _both(draw)


def _cycle() -> Iterator[str]:
    while True:
        yield from COLOURS
