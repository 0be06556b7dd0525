"""A document as data, so that Markdown and HTML say the same: sections of paragraphs, lists, tables, pictures, code."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from mojiang.core.report import Cell


@dataclass(frozen=True)
class Paragraph:
    """Running text, after a bold `lead` of a few words."""

    text: str
    lead: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: list[str]


@dataclass(frozen=True)
class Grid:
    """A table; `caption` says what it holds."""

    columns: list[str]
    rows: list[list[Cell]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A plot as PNG, for light and for dark pages; `name` is its file name without ending."""

    name: str
    caption: str
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Code:
    """Text whose spaces and line breaks matter; a `prompt` that came before it is shown apart."""

    text: str
    prompt: str = ""
    title: str = ""
    language: str = ""


Block = Paragraph | Bullets | Grid | Picture | Code


@dataclass
class Section:
    """A titled run of blocks."""

    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """One of the few numbers at the top: what, how much, and a remark."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Document:
    """A whole page."""

    title: str
    summary: str
    figures: list[Figure]
    sections: list[Section]
    kind: str = "Model card"
    """What stands above the title."""


def show(cell: Cell) -> str:
    """A table cell as text: four significant digits, thousands separated, nothing for None.

    >>> show(0.123456), show(1234567), show(1234567.0), show(None), show(12.0)
    ('0.1235', '1,234,567', '1,234,567', '', '12')
    """
    if cell is None:
        return ""
    if isinstance(cell, float):
        if not math.isfinite(cell):
            return str(cell)
        if cell == int(cell) or abs(cell) >= 10_000:
            return f"{cell:,.0f}"
        # three digits after a leading digit, but no scientific notation for the sizes that occur here
        return f"{cell:.4g}" if abs(cell) >= 1e-4 else f"{cell:.1e}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def show_column(grid: Grid, column: int) -> list[str]:
    """The cells of a column as text; fractions in it all have the same number of decimals, so that they align.

    >>> show_column(Grid(["x"], [[2.0156], [12.5], [None]]), 0)
    ['2.02', '12.50', '']
    """
    cells = [row[column] for row in grid.rows]
    sizes = [abs(cell) for cell in cells if isinstance(cell, float) and math.isfinite(cell)]
    fractions = [size for size in sizes if size != int(size)]
    if not fractions or not 0.01 <= max(sizes) < 10_000 or min(fractions) < 1e-4 * max(sizes):
        return [show(cell) for cell in cells]
    decimals = max(0, 3 - math.floor(math.log10(max(sizes))))
    return [f"{cell:,.{decimals}f}" if isinstance(cell, float) else show(cell) for cell in cells]


def is_numeric(grid: Grid, column: int) -> bool:
    """Whether a column holds numbers only, and so is set flush right."""
    cells = [row[column] for row in grid.rows if column < len(row) and row[column] is not None]
    return bool(cells) and all(isinstance(cell, int | float) for cell in cells)


def to_markdown(document: Document) -> str:
    """The document in GitHub's Markdown; pictures are links to `NAME.png`."""
    parts = [f"# {_inline(document.title)}", _inline(document.summary)]
    if document.figures:
        rows: list[list[Cell]] = [[figure.label, figure.value, figure.remark] for figure in document.figures]
        parts.append(_table(Grid(["", "", ""], rows)))
    for section in document.sections:
        parts.append(f"## {_inline(section.title)}")
        parts += [_markdown_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return (f"**{_inline(block.lead)}** " if block.lead else "") + _inline(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_inline(item)}" for item in block.items)
    if isinstance(block, Grid):
        caption = f"**{_inline(block.caption)}**\n\n" if block.caption else ""
        return caption + _table(block)
    if isinstance(block, Picture):
        return f"![{_inline(block.caption)}]({block.name}.png)"
    title = f"**{_inline(block.title)}**\n\n" if block.title else ""
    prompt = f"Prompt:\n\n{_fenced(block.prompt, block.language)}\n\nContinuation:\n\n" if block.prompt else ""
    return title + prompt + _fenced(block.text, block.language)


def _inline(text: str) -> str:
    """Text that Markdown shows as it is: names such as `<|endoftext|>` and `train_loss` hold special characters."""
    return re.sub(r"([\\*_\[\]<>|])", r"\\\1", text.replace("\r", "").replace("\n", " "))


def _fenced(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _table(grid: Grid) -> str:
    align = ["---:" if is_numeric(grid, i) else "---" for i in range(len(grid.columns))]
    columns = [show_column(grid, i) for i in range(len(grid.columns))]
    lines = [grid.columns, align, *([_inline(cell) for cell in row] for row in zip(*columns, strict=True))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
