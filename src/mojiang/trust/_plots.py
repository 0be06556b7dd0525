"""The card's pictures: curves of training, and what the training data is made of. PNG, for light and for dark pages."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib.figure import Figure

from mojiang.core.fonts import displayable, font_family

THEMES = {
    "light": {"paper": "#ffffff", "ink": "#1c2127", "soft": "#5c6773", "line": "#e3e7ec"},
    "dark": {"paper": "#14181d", "ink": "#e4e8ec", "soft": "#98a3af", "line": "#2c333b"},
}
COLOURS = ("#1b9aa0", "#d98e04", "#7b61c9", "#c8553d", "#4f8f3a", "#5b7ea8")
# More, for many groups in one picture; they tell apart on white and on near-black.
PALETTE = (*COLOURS, "#d0609f", "#8a8f2a", "#9a6b4f", "#6f7f8c", "#3fa66b", "#b07fd8")

Line = tuple[Sequence[float], Sequence[float]]


@contextmanager
def _theme(name: str) -> Iterator[dict[str, str]]:
    colours = THEMES[name]
    settings: Any = {
        "font.family": list(font_family()), "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
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


def lengths(counts: Mapping[str, Mapping[int, int]], marks: Mapping[str, float], unit: str) -> tuple[bytes, bytes]:
    """Documents by length on a logarithmic scale, one layer for each group, with lines at the `marks`."""
    top = max((length for group in counts.values() for length in group), default=1)
    low = min((length for group in counts.values() for length in group if length > 0), default=1)
    edges = np.geomspace(max(1, low) * 0.95, max(2, top) * 1.05, 56)

    def draw(colours: dict[str, str]) -> Figure:
        figure = Figure(figsize=(9.2, 3.4), layout="constrained")
        axes = figure.subplots()
        below = np.zeros(len(edges) - 1)
        for (name, group), colour in zip(counts.items(), PALETTE, strict=False):
            values = np.fromiter(group.keys(), float, len(group))
            height, _ = np.histogram(np.maximum(values, edges[0]), edges, weights=list(group.values()))
            axes.bar(
                edges[:-1], height, np.diff(edges), below, align="edge", color=colour, label=displayable(name),
                edgecolor=colours["paper"], linewidth=0.4,
            )  # fmt: skip
            below += height
        axes.set_xscale("log")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, max(1.0, float(below.max())) * (1.06 + 0.08 * len(marks)))
        for number, (name, value) in enumerate(marks.items()):  # each name a line lower: two marks may be close
            axes.axvline(max(value, edges[0]), color=colours["ink"], linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                displayable(name), (max(value, edges[0]), 1), xycoords=axes.get_xaxis_transform(),
                xytext=(4, -3 - 11 * number),
                textcoords="offset points", va="top", fontsize=8.5, color=colours["ink"],
            )  # fmt: skip
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel(displayable(unit))
        axes.set_ylabel("documents")
        axes.grid(visible=False, axis="x")
        if len(counts) > 1:
            axes.legend(labelcolor=colours["ink"], loc="upper left", bbox_to_anchor=(1, 1))
        return figure

    return _both(draw)


def shares(values: Mapping[str, tuple[float, float, float]], unit: str, max_rows: int = 14) -> tuple[bytes, bytes]:
    """Shares with their intervals, (share, low, high), largest first."""
    shown = sorted(values.items(), key=lambda item: -item[1][0])[:max_rows]

    def draw(colours: dict[str, str]) -> Figure:
        figure = Figure(figsize=(9.2, 0.85 + 0.34 * len(shown)), layout="constrained")
        axes = figure.subplots()
        for height, (_, (share, low, high)) in enumerate(shown):
            axes.barh(height, share, color=COLOURS[0], height=0.6)
            axes.plot([low, high], [height, height], color=colours["ink"], linewidth=1.4, solid_capstyle="butt")
            text = f"{share:.2%}" if low == high else f"{share:.2%} ({low:.2%} to {high:.2%})"
            axes.annotate(text, (high, height), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5)
        axes.set_yticks(range(len(shown)), [displayable(name, 60) for name, _ in shown], color=colours["ink"])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, max(high for _, (_, _, high) in shown) * 1.32 or 1.0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        axes.set_xlabel(displayable(unit))
        return figure

    return _both(draw)


def stacks(
    rows: Sequence[tuple[str, Mapping[str, float]]], first: str, unit: str, max_parts: int = 7
) -> tuple[bytes, bytes]:
    """Horizontal bars, each divided; the part called `first` comes first in each, the others get their colours."""
    names = list(dict.fromkeys(name for _, parts in rows for name in parts if name != first))
    size = {name: sum(parts.get(name, 0) for _, parts in rows) for name in names}
    ranked = sorted(names, key=lambda name: -size[name])
    colour_of = dict(zip(ranked[:max_parts], PALETTE[1:], strict=False))

    def draw(colours: dict[str, str]) -> Figure:
        figure = Figure(figsize=(9.2, 1.0 + 0.42 * len(rows)), layout="constrained")
        axes = figure.subplots()
        drawn: dict[str, Any] = {}
        for height, (_, parts) in enumerate(rows):
            left = 0.0
            for name in [first, *ranked]:
                if value := parts.get(name, 0):
                    colour = COLOURS[0] if name == first else colour_of.get(name, colours["soft"])
                    drawn.setdefault(
                        name if name == first or name in colour_of else "other reasons",
                        axes.barh(
                            height,
                            value,
                            left=left,
                            color=colour,
                            height=0.62,
                            edgecolor=colours["paper"],
                            linewidth=0.6,
                        ),
                    )
                    left += value
            axes.annotate(
                f"{parts.get(first, 0):,.0f} {first}", (left, height), xytext=(6, 0), textcoords="offset points",
                va="center", fontsize=8.5,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [displayable(name) for name, _ in rows], color=colours["ink"])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, max(sum(parts.values()) for _, parts in rows) * 1.16 or 1.0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel(displayable(unit))
        shown = [name for name in (first, *colour_of, "other reasons") if name in drawn]
        figure.legend(
            [drawn[name] for name in shown], [displayable(name) for name in shown], loc="outside lower left",
            ncols=4, fontsize=8.5, labelcolor=colours["ink"],
        )  # fmt: skip
        return figure

    return _both(draw)


def scatter(points: Any, groups: Sequence[int], names: Sequence[str]) -> tuple[bytes, bytes]:
    """Points on a plane, coloured by group and marked in turn; a group's number stands in its middle, names beside."""

    def draw(colours: dict[str, str]) -> Figure:
        figure = Figure(figsize=(9.2, 5.4), layout="constrained")
        axes = figure.subplots()
        chosen = np.asarray(groups)
        for number, name in enumerate(names):
            here = np.asarray(points)[chosen == number]
            colour, marker = PALETTE[number % len(PALETTE)], "os^Dv"[number // len(PALETTE) % 5]
            axes.scatter(
                here[:, 0], here[:, 1], s=13, color=colour, marker=marker, alpha=0.75, linewidths=0,
                label=f"{number + 1}  {displayable(name, 44)}",
            )  # fmt: skip
        for number in range(len(names)):
            here = np.asarray(points)[chosen == number]
            if len(here):
                middle = here[((here - np.median(here, axis=0)) ** 2).sum(axis=1).argmin()]
                axes.annotate(
                    str(number + 1), middle, ha="center", va="center", fontsize=10, fontweight="bold",
                    color=colours["ink"], bbox={"boxstyle": "round,pad=0.25", "facecolor": colours["paper"],
                                                "edgecolor": colours["line"], "alpha": 0.88},
                )  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.legend(
            labelcolor=colours["ink"], loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, markerscale=1.6,
            handletextpad=0.3,
        )  # fmt: skip
        return figure

    return _both(draw)
