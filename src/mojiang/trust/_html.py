"""A document as one self-contained HTML file: style and pictures are inside, nothing is fetched, nothing is run."""

from __future__ import annotations

import base64
import re
from html import escape
from pathlib import Path

from mojiang.trust._document import (
    Block,
    Bullets,
    Code,
    Document,
    Figure,
    Grid,
    Paragraph,
    Picture,
    is_numeric,
    show_column,
)

STYLE = Path(__file__).parent / "card.css"


def to_html(document: Document) -> str:
    """The page. All text is escaped: a sample that holds HTML is shown, not obeyed."""
    links = "".join(f'<a href="#{_anchor(s.title)}">{escape(s.title)}</a>' for s in document.sections)
    figures = "".join(_figure(figure) for figure in document.figures)
    sections = "".join(
        f'<section id="{_anchor(s.title)}"><h2>{escape(s.title)}</h2>{"".join(map(_block, s.blocks))}</section>'
        for s in document.sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(document.title)}</title>'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head><body><main>"
        f'<header><p class="kind">{escape(document.kind)}</p><h1>{escape(document.title)}</h1>'
        f'<p class="summary">{escape(document.summary)}</p><div class="figures">{figures}</div>'
        f"<nav>{links}</nav></header>{sections}</main></body></html>\n"
    )


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _figure(figure: Figure) -> str:
    remark = f"<small>{escape(figure.remark)}</small>" if figure.remark else ""
    return f"<div><span>{escape(figure.label)}</span><b>{escape(figure.value)}</b>{remark}</div>"


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        lead = f"<b>{escape(block.lead)}</b> " if block.lead else ""
        return f"<p>{lead}{escape(block.text)}</p>"
    if isinstance(block, Bullets):
        return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Grid):
        return _grid(block)
    if isinstance(block, Picture):
        return _picture(block)
    return _code(block)


def _grid(grid: Grid) -> str:
    numeric = [is_numeric(grid, i) for i in range(len(grid.columns))]
    css = [' class="n"' if flag else "" for flag in numeric]
    head = "".join(f"<th{c}>{escape(name)}</th>" for name, c in zip(grid.columns, css, strict=True))
    columns = [show_column(grid, i) for i in range(len(grid.columns))]
    rows = "".join(
        "<tr>" + "".join(f"<td{c}>{escape(v)}</td>" for v, c in zip(row, css, strict=True)) + "</tr>"
        for row in zip(*columns, strict=True)
    )
    caption = f"<caption>{escape(grid.caption)}</caption>" if grid.caption else ""
    head = f"<thead><tr>{head}</tr></thead>" if any(grid.columns) else ""
    return f'<div class="scroll"><table>{caption}{head}<tbody>{rows}</tbody></table></div>'


def _picture(picture: Picture) -> str:
    light, dark = ("data:image/png;base64," + base64.b64encode(png).decode() for png in (picture.light, picture.dark))
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(picture.caption)}"></picture>'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _code(code: Code) -> str:
    title = f"<h3>{escape(code.title)}</h3>" if code.title else ""
    prompt = f'<span class="prompt">{escape(code.prompt)}</span>' if code.prompt else ""
    return f"{title}<pre><code>{prompt}{escape(code.text.rstrip())}</code></pre>"
